"""Guards judge at seven places, outside of CrewAI's hooks; what they say is recorded and holds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from crewai import Agent, Crew, Task
from crewai.flow.flow import Flow, start

from crewai_prod import Outcome, approve, harden, open_journal, open_run, reject
from crewai_prod.cli import main
from crewai_prod.errors import ApprovalRequired, GuardRejected, GuardUnavailable, UsageError
from crewai_prod.guards import Allow, Escalate, Guard, GuardContext, Modify, Reject, guard
from crewai_prod.guards._types import PLACES
from crewai_prod.records import RunStatus
from tests.crews import make_llm
from tests.integration import shapes
from tests.integration.parts import (
    MODES,
    PATHS,
    REQUESTS,
    SCRIPT,
    Effects,
    Killed,
    Mode,
    Send,
    assert_all_metered,
    go,
    killed,
    make_crew,
    total,
)
from tests.integration.shape_trials import INPUTS, SHAPES, Scene
from tests.openai_server import Conversation, Reply, Rule, Server, Turn, answer

ALL = ["look_up tides", "charge 7", "send ann"]
assert shapes  # they register themselves

TWO: tuple[Mode, ...] = ("kickoff", "akickoff")
"""`kickoff_async` is `kickoff` on a thread."""
BOTH = [("native", "akickoff"), ("text", "kickoff")]
COUNTS = {
    "kickoff_input": 1,
    "model_input": 6,
    "model_output": 6,
    "tool_call": 3,
    "tool_result": 3,
    "task_output": 3,
    "final_output": 1,
}
"""How often each place is passed in a run of the three agents."""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_every_place_is_judged(
    tmp_path: Path, server: Server, effects: Effects, path: str, mode: Mode
) -> None:
    """Each value passes each place once, with what a guard needs to know; each verdict is a row."""
    journal = tmp_path / "runs.db"
    seen: list[tuple[GuardContext, Any]] = []

    @guard(*PLACES)
    def watch(value: Any, context: GuardContext) -> Allow:
        seen.append((context, value))
        return Allow()

    crew = harden(make_crew(server, effects, path), journal=journal, guards=[watch])
    assert go(crew, mode, inputs={"who": "ann"}, run_id="r").raw == "sent to ann"
    assert Counter(context.place for context, _ in seen) == COUNTS
    rows = open_journal(journal).verdicts("r")
    assert Counter(row.place for row in rows) == COUNTS
    assert {(row.guard, row.version, row.verdict) for row in rows} == {("watch", "1", "allow")}
    calls = [(c.tool, c.agent, c.task, value) for c, value in seen if c.place == "tool_call"]
    assert calls[1] == ("charge", "Cashier", "t1", {"amount": 7})
    said = [value for c, value in seen if c.place == "model_output"]
    native = [{"name": "charge", "arguments": {"amount": 7}}]
    assert said[2] == native if path == "native" else "Action: charge" in said[2]
    assert {(c.run_id, c.crew) for c, _ in seen} == {("r", "parts")}
    assert effects.lines == ALL


# -- what is modified ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", TWO)
@pytest.mark.parametrize("path", PATHS)
def test_what_guards_make_of_values(
    tmp_path: Path, server: Server, effects: Effects, path: str, mode: Mode
) -> None:
    """Each place's value is replaced; the journal holds the true one, every caller the same."""
    journal = tmp_path / "runs.db"

    @guard("kickoff_input")
    def rename(inputs: Any, context: GuardContext) -> Modify:
        return Modify({**inputs, "who": "bob"})

    @guard("model_input")
    def mask(messages: Any, context: GuardContext) -> Modify | Allow:
        hidden = [_replaced(message, "tides", "seas") for message in messages]
        return Modify(hidden, "masked") if hidden != messages else Allow()

    @guard("tool_call")
    def double(arguments: Any, context: GuardContext) -> Modify | Allow:
        return Modify({"amount": 14}) if context.tool == "charge" else Allow()

    @guard("tool_result")
    def shout(result: Any, context: GuardContext) -> Modify:
        return Modify(result.upper())

    @guard("task_output")
    def sign(output: Any, context: GuardContext) -> Modify:
        return Modify(f"{output} ({context.agent})")

    @guard("final_output")
    def seal(output: Any, context: GuardContext) -> Modify:
        return Modify(f"<{output}>")

    bare = make_crew(server, effects, path)
    crew = harden(bare, journal=journal, guards=[rename, mask, double, shout, sign, seal])
    result = go(crew, mode, inputs={"who": "ann"}, run_id="r")
    assert result.raw == "<sent to ann (Courier)>"
    assert result.tasks_output[0].raw == "facts about tides (Researcher)"
    assert effects.lines == ["look_up tides", "charge 14", "send ann"]
    sent = [str(seen.body["messages"]) for seen in server.requests]
    assert "for bob" in sent[0]
    assert "FACTS ABOUT TIDES" in sent[1]
    assert not any("facts about tides" in one for one in sent)
    assert "facts about seas" in sent[2], "the context of the next task is masked"
    recorded = {step.name: step.result for step in open_journal(journal).steps("r")}
    assert recorded["look_up"] == '"facts about tides"'
    assert go(crew, mode, inputs={"who": "ann"}, run_id="r").raw == result.raw
    assert len(server.requests) == REQUESTS


def _replaced(message: Any, old: str, new: str) -> Any:
    content = message.get("content")
    return {**message, "content": content.replace(old, new)} if content else message


# -- what is rejected ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", TWO)
@pytest.mark.parametrize("path", PATHS)
def test_a_rejected_call_is_not_made(
    tmp_path: Path, server: Server, effects: Effects, path: str, mode: Mode
) -> None:
    """The model is told why, by the guard's name for it; the tool's body never runs."""
    journal = tmp_path / "runs.db"

    @guard("tool_call")
    def no_money(arguments: Any, context: GuardContext) -> Reject | Allow:
        return Reject("money is not spent here") if context.tool == "charge" else Allow()

    @guard("tool_result")
    def heard(result: Any, context: GuardContext) -> Allow:
        assert context.tool != "charge", "a tool that was not called has said nothing"
        return Allow()

    crew = harden(make_crew(server, effects, path), journal=journal, guards=[no_money, heard])
    if mode == "kickoff":  # the refusal is replayed
        with pytest.raises(Killed):
            killed(lambda: crew.kickoff(inputs={"who": "ann"}, run_id="r"), 4)
    go(crew, mode, inputs={"who": "ann"}, run_id="r")
    assert effects.lines == ["look_up tides", "send ann"]
    assert "charge was not called: money is not spent here" in str(server.requests[3].body)
    steps = {step.name: step for step in open_journal(journal).steps("r")}
    assert (steps["charge"].status, steps["charge"].effect) == ("failed", "refused")


@pytest.mark.parametrize("path", PATHS)
def test_a_rejected_result_is_withheld(
    tmp_path: Path, server: Server, effects: Effects, path: str
) -> None:
    """The tool has acted, and the model is told no more than why it does not hear of it."""

    @guard("tool_result")
    def nothing(result: Any, context: GuardContext) -> Reject:
        return Reject("not for you")

    crew = harden(make_crew(server, effects, path), journal=tmp_path / "j.db", guards=[nothing])
    crew.kickoff(inputs={"who": "ann"}, run_id="r")
    assert "What look_up returned is withheld: not for you" in str(server.requests[1].body)
    assert "facts" not in str(server.requests[1].body)
    assert effects.lines == ALL


def _improves(after: int) -> Conversation:
    """A clerk who says something better once it was told so often that its answer is no good."""

    def clerk(turn: Turn) -> Any:
        told = str(turn.body["messages"]).count("rude words")
        return answer("dear sir" if told >= after else f"you fool {told}")(turn)

    return Conversation(Rule(clerk))


def _clerk(server: Server, path: str = "native", **task: Any) -> Crew:
    llm = make_llm(server.url, path, max_retries=0)  # type: ignore[arg-type]
    agent = Agent(role="Clerk", goal="g", backstory="b", llm=llm, max_retry_limit=0)
    one = Task(name="reply", description="Reply", expected_output="o", agent=agent, **task)
    return Crew(name="desk", agents=[agent], tasks=[one])


def _polite(place: Any, version: str = "1") -> Guard:
    @guard(place, version=version)
    def polite(text: Any, context: GuardContext) -> Reject | Allow:
        return Reject("it has rude words") if "fool" in text else Allow()

    return polite


@pytest.mark.parametrize("place", ["model_output", "task_output"])
@pytest.mark.parametrize(("path", "mode"), BOTH)
def test_a_rejected_answer_goes_back(
    tmp_path: Path, server: Server, path: str, mode: Mode, place: Any
) -> None:
    """Twice with the reason; then the run stops, and each resume asks for one more answer."""
    server.app.script = _improves(2)
    crew = harden(_clerk(server, path), journal=tmp_path / "j.db", guards=[_polite(place)])
    assert go(crew, mode, run_id="a").raw == "dear sir"
    assert len(server.requests) == 3
    said = str(server.requests[2].body["messages"])
    assert "you fool 0" in said
    assert "you fool 1" in said
    server.app.script = _improves(99)
    for asked in (6, 7):
        with pytest.raises(GuardRejected, match="rude words") as caught:
            go(crew, mode, run_id="b")
        assert (caught.value.fields["place"], caught.value.fields["attempts"]) == (place, 3)
        assert (caught.value.run_id, caught.value.agent) == ("b", "Clerk")
        assert len(server.requests) == asked
    server.app.script = _improves(0)
    assert go(crew, mode, run_id="b").raw == "dear sir"
    assert len(server.requests) == 8


@pytest.mark.parametrize(
    ("place", "mode"),
    [("kickoff_input", "akickoff"), ("model_input", "kickoff"), ("final_output", "akickoff")],
)
def test_a_rejected_end_ends_the_run(
    tmp_path: Path, server: Server, effects: Effects, mode: Mode, place: Any
) -> None:
    """With the finished outputs; a new version of the guard judges anew, and the run goes on."""
    journal = tmp_path / "runs.db"

    @guard(place)
    def never(value: Any, context: GuardContext) -> Reject | Allow:
        return Allow() if context.agent == "Researcher" else Reject("no")

    bare = make_crew(server, effects)
    crew = harden(bare, journal=journal, guards=[never])
    asked, finished = {"kickoff_input": (0, 0), "model_input": (2, 1), "final_output": (6, 3)}[
        place
    ]
    for _ in range(2):
        with pytest.raises(GuardRejected, match="no") as caught:
            go(crew, mode, inputs={"who": "ann"}, run_id="r")
        assert (len(server.requests), len(caught.value.outputs)) == (asked, finished)
        assert open_journal(journal).run("r").status is RunStatus.FAILED
    milder = guard(place, name="never", version="2")(lambda value, context: Allow())
    crew = harden(bare, journal=journal, guards=[milder])
    assert go(crew, mode, inputs={"who": "ann"}, run_id="r").raw == "sent to ann"
    assert (len(server.requests), effects.lines) == (REQUESTS, ALL)


# -- what could not be judged ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "path", "asked"),
    [
        ("kickoff_input", "native", 0),
        ("model_input", "text", 2),
        ("model_output", "native", 3),
        ("tool_call", "text", 3),
        ("tool_result", "native", 3),
        ("task_output", "text", 4),
        ("final_output", "native", 6),
    ],
)
def test_a_guard_that_fails_lets_nothing_pass(
    tmp_path: Path, server: Server, effects: Effects, path: str, place: Any, asked: int
) -> None:
    """The run stops before anything comes of the value, and checks again when it is resumed."""
    broken = [True]

    @guard(place)
    def check(value: Any, context: GuardContext) -> Allow:
        if broken and context.agent in (None, "Cashier"):
            raise ConnectionError("no line to the checker")
        return Allow()

    journal = tmp_path / "runs.db"
    crew = harden(make_crew(server, effects, path), journal=journal, guards=[check])
    with pytest.raises(GuardUnavailable, match="no line to the checker") as caught:
        crew.kickoff(inputs={"who": "ann"}, run_id="r")
    assert caught.value.fields["guard"] == "check"
    assert len(server.requests) == asked
    charged = place in ("tool_result", "task_output", "final_output")
    assert ("charge 7" in effects.lines) is charged
    broken.clear()
    assert crew.kickoff(inputs={"who": "ann"}, run_id="r").raw == "sent to ann"
    assert (len(server.requests), effects.lines) == (REQUESTS, ALL)


class Halt(BaseException):
    """What nobody catches: the end of the process, say."""


@pytest.mark.parametrize("mode", TWO)
@pytest.mark.parametrize("failure", [SystemExit(0), asyncio.CancelledError(), Halt()])
def test_a_guard_that_tries_to_end_the_process(
    tmp_path: Path, server: Server, effects: Effects, mode: Mode, failure: BaseException
) -> None:
    """It has not judged either; whatever comes out of it, the run can be resumed at once."""
    broken = ["final_output", "model_output"]

    @guard("model_output", "final_output")
    async def check(value: Any, context: GuardContext) -> Allow:
        if context.place in broken:
            broken.remove(context.place)
            raise failure
        return Allow()

    crew = harden(make_crew(server, effects), journal=tmp_path / "j.db", guards=[check])
    expected = Halt if isinstance(failure, Halt) else GuardUnavailable
    for asked in (1, REQUESTS):
        with pytest.raises(expected) as caught:
            go(crew, mode, inputs={"who": "ann"}, run_id="r")
        assert caught.value is failure or caught.value.__cause__ is failure
        assert len(server.requests) == asked
    assert go(crew, mode, inputs={"who": "ann"}, run_id="r").raw == "sent to ann"
    assert (len(server.requests), effects.lines) == (REQUESTS, ALL)


def test_a_guard_may_fail_open(tmp_path: Path, server: Server, effects: Effects) -> None:
    """Only where it is declared; that the value was not checked is on record."""

    @guard(*PLACES, fail="open")
    def check(value: Any, context: GuardContext) -> Any:
        return None if context.place == "tool_call" else 1 / 0

    journal = tmp_path / "runs.db"
    crew = harden(make_crew(server, effects), journal=journal, guards=[check])
    assert crew.kickoff(inputs={"who": "ann"}, run_id="r").raw == "sent to ann"
    rows = open_journal(journal).verdicts("r")
    assert Counter(row.place for row in rows) == COUNTS
    assert {row.verdict for row in rows} == {"unavailable"}
    assert "NoneType, which is no verdict" in str([row.reason for row in rows])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("later", [False, True])
def test_a_guard_that_hangs_is_left(
    tmp_path: Path, server: Server, effects: Effects, mode: Mode, later: bool
) -> None:
    """What it may say afterwards is nobody's verdict; how it fails is as declared."""
    over, asked = threading.Event(), []

    def hang(value: Any, context: GuardContext) -> Allow:
        asked.append(value)
        over.wait(20)
        return Allow()

    async def hang_later(value: Any, context: GuardContext) -> Allow:
        asked.append(value)
        await asyncio.sleep(20)
        return Allow()

    @guard("tool_call", timeout=30)
    def quick(value: Any, context: GuardContext) -> Allow:
        return Allow()

    check = guard("tool_call", timeout=0.1)(hang_later if later else hang)
    bare, journal = make_crew(server, effects), tmp_path / "runs.db"
    crew = harden(bare, journal=journal, guards=[quick, check])
    with pytest.raises(GuardUnavailable, match=r"did not judge within 0\.1 seconds"):
        go(crew, mode, inputs={"who": "ann"}, run_id="r")
    assert (len(asked), effects.lines) == (1, [])
    crew = harden(bare, journal=journal, guards=[quick, replace(check, fail="open")])
    assert go(crew, mode, inputs={"who": "ann"}, run_id="r").raw == "sent to ann"
    over.set()
    assert (len(server.requests), effects.lines) == (REQUESTS, ALL)


def test_what_cannot_take_the_place_of_a_value(
    tmp_path: Path, server: Server, effects: Effects
) -> None:
    """A guard that puts something of another form there has not judged."""
    wrong = guard("tool_call", name="wrong")(lambda value, context: Modify("not arguments"))
    crew = harden(make_crew(server, effects), journal=tmp_path / "j.db", guards=[wrong])
    with pytest.raises(GuardUnavailable, match="another form"):
        crew.kickoff(inputs={"who": "ann"})
    assert effects.lines == []


def test_a_guard_that_changes_the_value_itself(
    tmp_path: Path, server: Server, effects: Effects
) -> None:
    """What it says counts: a change it hands back holds after a kill, one it allows is none."""
    allows: list[bool] = []

    @guard("model_output")
    def rename(answer: Any, context: GuardContext) -> Allow | Modify:
        if isinstance(answer, list) and answer[0]["name"] == "send":
            answer[0]["arguments"]["to"] = "bob"
        return Allow() if allows else Modify(answer)

    crew = harden(make_crew(server, effects), journal=tmp_path / "j.db", guards=[rename])

    def kickoff() -> Any:
        return crew.kickoff(inputs={"who": "ann"}, run_id="r")

    with pytest.raises(Killed):
        killed(kickoff, REQUESTS)
    assert kickoff().raw == "sent to ann"
    assert effects.lines == [*ALL[:2], "send bob"]
    allows.append(True)
    with pytest.raises(GuardUnavailable, match=r"say Modify\(value\)"):
        crew.kickoff(inputs={"who": "ann"}, run_id="s")
    assert effects.lines.count("send ann") == 0


# -- what a person decides -------------------------------------------------------------------------


def _asks(place: Any, reason: str = "is that right?") -> Guard:
    @guard(place)
    def ask(value: Any, context: GuardContext) -> Allow | Escalate:
        concerned = context.agent in (None, "Cashier") and context.tool in (None, "charge")
        return Escalate(reason) if concerned else Allow()

    return ask


@pytest.mark.parametrize("place", PLACES)
def test_a_person_may_be_asked(
    tmp_path: Path, server: Server, effects: Effects, place: Any
) -> None:
    """The run waits there, as often as it is tried; approved, it goes on, and repeats nothing."""
    journal = tmp_path / "runs.db"
    crew = harden(make_crew(server, effects), journal=journal, guards=[_asks(place)])
    asked: list[int] = []

    def tried() -> Any:
        try:
            return crew.kickoff(inputs={"who": "ann"}, run_id="r")
        except ApprovalRequired as waiting:
            return waiting

    while isinstance(result := tried(), ApprovalRequired):
        assert (result.fields["why"], result.run_id) == ("guard", "r")
        assert tried().fields["id"] == result.fields["id"]
        assert result.fields["id"] not in asked
        asked.append(result.fields["id"])
        approve(asked[-1], journal, by="ann")
    assert result.raw == "sent to ann"
    assert len(asked) == (2 if place in ("model_input", "model_output") else 1)
    assert (len(server.requests), effects.lines) == (REQUESTS, ALL)


@pytest.mark.parametrize("path", PATHS)
def test_what_a_person_says_of_a_call(
    tmp_path: Path, server: Server, effects: Effects, path: str
) -> None:
    """Rejected, the model is told the person's words; changed, that is what is called."""
    journal = tmp_path / "runs.db"
    crew = harden(make_crew(server, effects, path), journal=journal, guards=[_asks("tool_call")])
    for run_id in ("no", "less"):
        with pytest.raises(ApprovalRequired) as waiting:
            crew.kickoff(inputs={"who": "ann"}, run_id=run_id)
        assert "is that right?" in waiting.value.fields["arguments"]
        number = waiting.value.fields["id"]
        if run_id == "no":
            reject(number, journal, reason="not today", by="ann")
        else:
            approve(number, journal, by="ann", edit={"amount": 3})
        crew.kickoff(inputs={"who": "ann"}, run_id=run_id)
    assert any("not called: not today" in str(seen.body) for seen in server.requests)
    assert [line for line in effects.lines if "charge" in line] == ["charge 3"]


@pytest.mark.parametrize("point", ["commit.before:ask", "commit.after:ask"])
def test_killed_around_a_question(
    tmp_path: Path, server: Server, effects: Effects, point: str
) -> None:
    """There is one question, and the call that it is about is made once."""
    journal = tmp_path / "runs.db"
    crew = harden(make_crew(server, effects), journal=journal, guards=[_asks("tool_call")])
    with pytest.raises(Killed):
        killed(lambda: crew.kickoff(inputs={"who": "ann"}, run_id="r"), 1, point)
    with pytest.raises(ApprovalRequired) as waiting:
        crew.kickoff(inputs={"who": "ann"}, run_id="r")
    (question,) = open_journal(journal).approvals("r")
    assert question.id == waiting.value.fields["id"]
    approve(question.id, journal)
    assert crew.kickoff(inputs={"who": "ann"}, run_id="r").raw == "sent to ann"
    assert (len(server.requests), effects.lines) == (REQUESTS, ALL)


# -- asynchronous guards, and guards that ask models ----------------------------------------------


@pytest.mark.parametrize("mode", TWO)
@pytest.mark.parametrize("path", PATHS)
def test_asynchronous_guards(
    tmp_path: Path, server: Server, effects: Effects, path: str, mode: Mode
) -> None:
    """They are awaited in all kickoffs; in `akickoff` on the loop that the caller is on."""
    loops: list[Any] = []

    @guard(*PLACES)
    async def watch(value: Any, context: GuardContext) -> Allow | Reject:
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())
        return Reject("never") if context.tool == "charge" else Allow()

    crew = harden(make_crew(server, effects, path), journal=tmp_path / "j.db", guards=[watch])

    async def on_a_loop() -> Any:
        home = asyncio.get_running_loop()
        result = await getattr(crew, mode)(inputs={"who": "ann"})
        return result, home

    if mode == "kickoff":
        result = crew.kickoff(inputs={"who": "ann"})
    else:
        result, home = asyncio.run(on_a_loop())
        assert home in loops
    assert result.raw == "sent to ann"
    assert effects.lines == ["look_up tides", "send ann"]
    assert len(loops) == sum(COUNTS.values()) - 1


@pytest.mark.parametrize("mode", TWO)
def test_a_guard_may_ask_a_model(
    tmp_path: Path, server: Server, effects: Effects, mode: Mode
) -> None:
    """It is metered and replayed like any other, and no guard judges what a guard asks."""
    journal = tmp_path / "runs.db"
    server.app.script = Conversation(
        Rule(Reply("fine"), when=lambda turn: "Is this fine" in turn.task), *SCRIPT.rules
    )
    model: Any = harden(make_llm(server.url, max_retries=0))

    @guard(*PLACES)
    def ask(value: Any, context: GuardContext) -> Allow | Reject:
        said = model.call(f"Is this fine, at {context.place}: {len(str(value))} characters?")
        return Allow() if said == "fine" else Reject(said)

    crew = harden(make_crew(server, effects), journal=journal, guards=[ask])
    result = go(crew, mode, inputs={"who": "ann"}, run_id="r")
    assert len(server.requests) == REQUESTS + sum(COUNTS.values())
    assert result.token_usage.total_tokens == total(server)
    assert_all_metered(journal, "r")
    asked = [s for s in open_journal(journal).steps("r") if "/:guard.ask~" in s.scope]
    assert len(asked) == sum(COUNTS.values())


# -- resumed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "hit"), [("native", 1), ("text", 2)])
@pytest.mark.parametrize("point", ["commit.before:add_verdicts", "commit.after:add_verdicts"])
def test_killed_around_a_verdict(
    tmp_path: Path, server: Server, effects: Effects, path: str, point: str, hit: int
) -> None:
    """No call is repeated; a guard judges again what is on record of no verdict, and only that."""
    judged: list[str] = []

    @guard("model_output", "tool_result")
    def upper(value: Any, context: GuardContext) -> Modify | Allow:
        judged.append(context.place)
        return Modify(value.upper()) if context.place == "tool_result" else Allow()

    journal = tmp_path / "runs.db"
    crew = harden(make_crew(server, effects, path), journal=journal, guards=[upper])
    with pytest.raises(Killed):
        killed(lambda: crew.kickoff(inputs={"who": "ann"}, run_id="r"), hit, point)
    before = len(judged)
    assert crew.kickoff(inputs={"who": "ann"}, run_id="r").raw == "sent to ann"
    again = 1 if "before" in point else 0
    assert (before, len(judged)) == (1 + 3 * (hit - 1) + 1, 9 + again)
    assert (len(server.requests), effects.lines) == (REQUESTS, ALL)
    rows = open_journal(journal).verdicts("r")
    assert Counter(row.verdict.value for row in rows) == {"allow": 6, "modify": 3}


def test_killed_while_a_call_was_open(tmp_path: Path, server: Server, effects: Effects) -> None:
    """What guards made of the arguments holds for the call that is settled, and when it is made."""
    asked: list[Any] = []

    def reconcile(arguments: Any, key: str) -> Outcome:
        asked.append(arguments)
        return Outcome.not_done()

    changed = guard("tool_call", name="double")(
        lambda value, context: Modify({"amount": 14}) if context.tool == "charge" else Allow()
    )
    tools = {"charge": {"effect": "write", "reconcile": reconcile}}
    crew = harden(
        make_crew(server, effects), journal=tmp_path / "j.db", guards=[changed], tools=tools
    )
    with pytest.raises(Killed):
        killed(
            lambda: crew.kickoff(inputs={"who": "ann"}, run_id="r"), 2, "commit.after:start_step"
        )
    crew.kickoff(inputs={"who": "ann"}, run_id="r")
    assert asked == [{"amount": 14}]
    assert effects.lines == ["look_up tides", "charge 14", "send ann"]


def test_another_version_judges_anew(tmp_path: Path, server: Server, effects: Effects) -> None:
    """Recorded verdicts of this version decide; of another one they do not."""
    judged: list[str] = []

    def watch(version: str) -> Guard:
        @guard("model_output", name="watch", version=version)
        def check(value: Any, context: GuardContext) -> Allow:
            judged.append(version)
            return Allow()

        return check

    journal, bare = tmp_path / "runs.db", make_crew(server, effects)
    for version, hit in (("1", 2), ("1", 1), ("2", 9)):
        crew = harden(bare, journal=journal, guards=[watch(version)])
        with contextlib.suppress(Killed):
            killed(lambda: crew.kickoff(inputs={"who": "ann"}, run_id="r"), hit)  # noqa: B023
    assert len(server.requests) == REQUESTS
    assert Counter(judged) == {"1": 1, "2": 6}


# -- what else is guarded --------------------------------------------------------------------------


def test_flows_agents_and_functions(tmp_path: Path, server: Server, effects: Effects) -> None:
    """Whatever is hardened carries its guards, also within a run that has others."""
    seen: list[tuple[str, str]] = []

    def watch(name: str) -> Guard:
        @guard(*PLACES, name=name)
        def check(value: Any, context: GuardContext) -> Allow:
            seen.append((name, context.place))
            return Allow()

        return check

    options: Any = {"journal": tmp_path / "runs.db"}
    made = harden(lambda: make_crew(server, effects), **options, guards=watch("made"))
    made().kickoff(inputs={"who": "ann"})
    assert Counter(place for _, place in seen) == COUNTS
    seen.clear()
    llm = make_llm(server.url, max_retries=0)
    agent: Any = Agent(
        role="Courier", goal="g", backstory="b", llm=llm, tools=[Send(effects=effects)]
    )
    agent = harden(agent, **options, guards=[watch("agent")])
    agent.kickoff("send it")
    asyncio.run(agent.kickoff_async("send it"))
    once = {"kickoff_input": 1, "model_input": 2, "model_output": 2, "tool_call": 1}
    once |= {"tool_result": 1, "task_output": 1, "final_output": 1}
    assert Counter(place for _, place in seen) == {place: 2 * n for place, n in once.items()}
    seen.clear()

    class Post(Flow[Any]):
        @start()
        def send(self) -> str:
            return str(agent.kickoff("send it").raw) if on_thread else "sent"

    on_thread = False
    flow: Any = harden(Post(), **options, guards=[watch("flow")])
    assert flow.kickoff() == "sent"
    assert Counter(seen) == {("flow", "kickoff_input"): 1, ("flow", "final_output"): 1}
    seen.clear()
    with open_run("block", **options, guards=[watch("block")]):
        agent.kickoff("send it")
    both = Counter({("agent", place): n for place, n in once.items()})
    inner = {p: n for p, n in once.items() if p not in ("kickoff_input", "final_output")}
    assert Counter(seen) == both + Counter({("block", place): n for place, n in inner.items()})


def test_what_a_guardrail_made_of_an_output_is_judged(tmp_path: Path, server: Server) -> None:
    """CrewAI's own guardrails work as they are; what they put in is the output that is judged."""
    server.app.script = Conversation(Rule(answer("dear sir")))
    crew = _clerk(server, guardrail=lambda output: (True, "dear fool"))
    hardened = harden(crew, journal=tmp_path / "j.db", guards=[_polite("task_output")])
    with pytest.raises(GuardRejected, match="rude words"):
        hardened.kickoff()
    crew = _clerk(server, guardrail=lambda output: (True, output))
    hardened = harden(crew, journal=tmp_path / "j.db", guards=[_polite("task_output")])
    assert hardened.kickoff().raw == "dear sir"


@pytest.mark.parametrize("path", PATHS)
def test_taint(tmp_path: Path, server: Server, effects: Effects, path: str) -> None:
    """After an untrusted tool the task counts as tainted, and so do those that read its output.

    Also for a run that was killed since.
    """
    seen: list[tuple[Any, ...]] = []

    @guard("model_output")
    def watch(value: Any, context: GuardContext) -> Allow:
        seen.append((context.agent, context.tainted))
        return Allow()

    crew = harden(
        make_crew(server, effects, path),
        journal=tmp_path / "j.db",
        guards=[watch],
        tools={"look_up": {"untrusted": True}},
    )
    with pytest.raises(Killed):
        killed(lambda: crew.kickoff(inputs={"who": "ann"}, run_id="r"), 2)
    crew.kickoff(inputs={"who": "ann"}, run_id="r")
    tainted = ("look_up",)
    assert seen[:3] == [("Researcher", ()), ("Researcher", tainted), ("Cashier", tainted)]


def _nothing() -> Any:
    """Stands for a function that returns a crew."""


@pytest.mark.parametrize(
    "wrong", ["no guard", [1], lambda value, context: Allow(), [_polite("model_output")] * 2]
)
def test_wrong_guards(wrong: Any) -> None:
    """What is no guard is refused at once; one that is named twice counts once."""
    if isinstance(wrong, list) and isinstance(wrong[0], Guard):
        harden(guards=wrong)(_nothing)
        wrong = [wrong[0], _polite("model_output", version="2")]
    with pytest.raises(UsageError):
        harden(guards=wrong)(_nothing)


@pytest.mark.parametrize("timeout", [0, -1, "1", True, float("inf"), float("nan")])
def test_a_timeout_is_a_number_of_seconds(timeout: Any) -> None:
    """Anything else is refused where the guard is made."""
    with pytest.raises(UsageError, match="timeout is a number of seconds"):
        guard("tool_call", timeout=timeout)(lambda value, context: Allow())


def test_people_see_what_guards_said(tmp_path: Path, server: Server, effects: Effects) -> None:
    """`show` lists what was not simply allowed, without secrets; a view sums up per guard."""
    journal = tmp_path / "runs.db"

    @guard("tool_call", "tool_result")
    def careful(value: Any, context: GuardContext) -> Allow | Reject:
        return Reject("password=hunter2secret") if context.tool == "charge" else Allow()

    crew = harden(make_crew(server, effects), journal=journal, guards=[careful])
    crew.kickoff(inputs={"who": "ann"}, run_id="r")
    shown = CliRunner().invoke(main, ["show", "r", "--journal", str(journal)]).output
    assert "careful" in shown
    assert "reject" in shown
    as_json = CliRunner().invoke(main, ["show", "r", "--json", "--journal", str(journal)]).output
    (verdict,) = json.loads(as_json)["verdicts"]
    assert (verdict["guard"], verdict["place"], verdict["tool"]) == (
        "careful",
        "tool_call",
        "charge",
    )
    log = Path(f"{journal}.log.jsonl").read_text()
    assert '"guard.said":"reject"' in log
    database: Any = open_journal(journal).database()
    rows = list(database["guard_verdicts"].rows)
    assert {(r["guard"], r["place"], r["judged"], r["rejected"]) for r in rows} == {
        ("careful", "tool_call", 3, 1),
        ("careful", "tool_result", 2, 0),
    }
    told = [shown, as_json, log, *(str(seen.body) for seen in server.requests)]
    assert not any("hunter2" in one for one in told)


@pytest.mark.parametrize(
    "name",
    ["planned", "hierarchical", "pydantic_converted", "judged_by_a_model", "crew_memory"],
)
def test_every_model_call_passes(
    tmp_path: Path, server: Server, effects: Effects, name: str
) -> None:
    """Those of planners, managers, converters, judges and memories, too: none is asked past it."""
    shape = SHAPES[name]
    judged: Counter[str] = Counter()

    @guard("model_input", "model_output")
    def watch(value: Any, context: GuardContext) -> Allow:
        judged[context.place] += 1
        return Allow()

    crew = harden(
        shape.make(Scene(server, effects, "native")), journal=tmp_path / "j.db", guards=[watch]
    )
    shape.kickoff(crew, "kickoff", {"inputs": INPUTS})
    assert judged == {"model_input": len(server.requests), "model_output": len(server.requests)}


def test_guards_of_one_name(tmp_path: Path, server: Server, effects: Effects) -> None:
    """A crew within a run that has its own guard of that name: both judge, and are told apart."""
    seen: list[str] = []

    def secrets(crew: str) -> Guard:
        @guard("tool_call", name="secrets")
        def check(value: Any, context: GuardContext) -> Allow:
            seen.append(crew)
            return Allow()

        return check

    journal = tmp_path / "runs.db"
    inner = harden(make_crew(server, effects), journal=journal, guards=[secrets("inner")])
    with open_run("block", journal=journal, guards=[secrets("outer")]):
        inner.kickoff(inputs={"who": "ann"})
    assert Counter(seen) == {"inner": 3, "outer": 3}
    names = Counter(row.guard for row in open_journal(journal).verdicts("block"))
    assert names == {"secrets": 3, "secrets (parts)": 3}
