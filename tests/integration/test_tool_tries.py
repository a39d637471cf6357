"""What a failed try of a tool leads to: another try, a word to the model, or a person."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import orjson
import pytest
from crewai import Crew
from crewai.tools import BaseTool, tool
from pydantic import AfterValidator

import crewai_prod
from crewai_prod import Outcome, Retry, current_step, harden, open_journal, open_run
from crewai_prod._crewai.tools import ToolBench
from crewai_prod.bodies import current_scope
from crewai_prod.errors import (
    RunError,
    ToolFailed,
    ToolOutcomeUnknown,
    ToolTimeout,
    ToolUnavailable,
)
from crewai_prod.records import StepRecord, StepStatus
from crewai_prod.testing import no_waiting
from tests.integration.parts import MODES, PATHS, Effects, Killed, Mode, go
from tests.integration.test_tools import make_pay, pay_crew, raising
from tests.openai_server import Conversation, Rule, Server, answer, use

READ = {"effect": "read"}
WRITE = {"effect": "write"}
AGAIN = {"effect": "write", "idempotent": True}
THRICE = Retry(attempts=3)


class Bank:
    """The body of a tool: fails as told, try by try, and keeps what it was called with."""

    def __init__(self, effects: Effects, *failures: BaseException | Callable[[], Any]) -> None:
        self.effects = effects
        self.failures = list(failures)
        self.tries: list[tuple[str, int]] = []

    def pay(self, amount: int) -> str:
        """Act, then fail or return."""
        step = current_step()
        assert step is not None
        self.tries.append((step.idempotency_key, step.attempt))
        self.effects.add(f"pay {amount}")
        failure = self.failures.pop(0) if self.failures else None
        if isinstance(failure, BaseException):
            raise failure
        if failure is not None:
            failure()
        return f"paid {amount}"

    def tool(self, kind: str = "sync") -> BaseTool:
        """As a tool of either kind."""
        if kind == "async":

            @tool
            async def pay(amount: int) -> str:
                """Pay."""
                await asyncio.sleep(0)
                return self.pay(amount)

            return pay

        @tool("pay")
        def pay_sync(amount: int) -> str:
            """Pay."""
            return self.pay(amount)

        return pay_sync


def steps(folder: Path, name: str = "pay") -> list[StepRecord]:
    """The recorded calls of a tool in run `a`."""
    return [s for s in open_journal(folder / "j.db").steps("a") if s.name == name]


def said_to_model(server: Server) -> str:
    """All that was said in the last request."""
    return "\n".join(str(m.get("content")) for m in server.requests[-1].body["messages"])


def hardened(server: Server, folder: Path, path: str, tool: BaseTool, said: Any) -> Any:
    """The paying crew with what is declared about its tool."""
    return harden(pay_crew(server, path, tool), journal=folder / "j.db", tools={"pay": said})


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_arguments_are_read_once_and_anew_for_each_further_try(tmp_path: Path, kind: str) -> None:
    """What a failed try has done to its arguments is not what the next one is called with."""
    read, got = [], []

    def noted(value: list[str]) -> list[str]:
        read.append(value)
        return value

    def send(to: Annotated[list[str], AfterValidator(noted)]) -> str:
        """Send."""
        got.append(list(to))
        to.clear()
        if len(got) == 1:
            raise ConnectionError("reset")
        return "sent"

    async def send_later(to: Annotated[list[str], AfterValidator(noted)]) -> str:
        """Send."""
        return send(to)

    body = send if kind == "sync" else send_later
    made = crewai_prod.tool("send", effect="read", retry=Retry(attempts=2))(body)
    with no_waiting(), open_run("a", journal=tmp_path / "j.db"):
        around = current_scope.get()
        assert around is not None
        taken = (ToolBench(around[0], {}, lambda memory: memory).take([made]) or [])[0]
        result = taken.run(to=["ann"]) if kind == "sync" else asyncio.run(taken.arun(to=["ann"]))
    assert result == "sent"
    assert got == [["ann"], ["ann"]]
    assert len(read) == 2


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_each_try_is_an_attempt_of_the_same_step(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode, kind: str
) -> None:
    """With the same key and its own number; the model hears of the last one only."""
    bank = Bank(effects, ConnectionError("reset"), ConnectionError("reset"))
    crew = hardened(server, tmp_path, path, bank.tool(kind), {**AGAIN, "retry": THRICE})
    assert go(crew, mode, run_id="a").raw == "paid 5"
    (step,) = steps(tmp_path)
    assert (step.status, step.attempts) == (StepStatus.DONE, 3)
    tried = open_journal(tmp_path / "j.db").attempts("a")
    assert [(one.step_id, one.attempt, one.status) for one in tried] == [
        (step.step_id, 1, StepStatus.FAILED),
        (step.step_id, 2, StepStatus.FAILED),
    ]
    assert len({key for key, _ in bank.tries}) == 1
    assert [attempt for _, attempt in bank.tries] == [1, 2, 3]
    assert "reset" not in str(server.requests[-1].body)
    run = open_journal(tmp_path / "j.db").run("a")
    assert (run.status.value, run.reason) == ("completed", None)


def test_each_retry_is_a_line_in_the_log(server: Server, effects: Effects, tmp_path: Path) -> None:
    """With the try that failed, and the wait."""
    bank = Bank(effects, ConnectionError("reset"))
    crew = harden(
        pay_crew(server, "native", bank.tool()),
        journal=tmp_path / "j.db",
        tools={"pay": {**READ, "retry": THRICE}},
        log=tmp_path / "log.jsonl",
    )
    crew.kickoff(run_id="a")
    lines = [orjson.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if line["event"] == "retry"]
    assert (line["attempt"], line["step_id"]) == (1, steps(tmp_path)[0].step_id)
    assert line["error.type"] == "ConnectionError"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_what_is_told_after_the_last_try_is_what_the_tool_raised(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode
) -> None:
    """As from a tool that is called once."""
    bank = Bank(effects, *[ConnectionError(f"reset {n}") for n in range(9)])
    crew = hardened(server, tmp_path, path, bank.tool(), {**READ, "retry": THRICE})
    assert go(crew, mode, run_id="a").raw == "paid 5"
    assert effects.lines == ["pay 5"] * 3
    told = str(server.requests[-1].body)
    assert "reset 2" in told
    assert "reset 0" not in told
    assert open_journal(tmp_path / "j.db").run("a").reason == "degraded"


@pytest.mark.parametrize(
    ("declared", "failure", "tries"),
    [
        (READ, ConnectionError("reset"), 3),
        (READ, ValueError("wrong"), 1),
        (AGAIN, TimeoutError("late"), 3),
        (WRITE, ToolUnavailable("at lunch"), 3),
        ({}, ToolUnavailable("at lunch"), 3),
        ({}, ConnectionError("reset"), 1),
        ({**READ, "retry": Retry(attempts=3, on=(ValueError,))}, ValueError("wrong"), 3),
        ({**WRITE, "retry": Retry(attempts=3, on=(ValueError,))}, ValueError("nothing done"), 3),
        ({**READ, "retry": None}, ConnectionError("reset"), 1),
    ],
)
def test_how_often_it_is_tried(
    server: Server,
    effects: Effects,
    tmp_path: Path,
    declared: dict[str, Any],
    failure: Exception,
    tries: int,
) -> None:
    """By class, and only where that does nothing twice; then the model is told."""
    bank = Bank(effects, *[failure] * 9)
    crew = hardened(server, tmp_path, "native", bank.tool(), {"retry": THRICE, **declared})
    owed = declared.get("effect") == "write" and not isinstance(failure, ToolUnavailable)
    with pytest.raises(ToolFailed) if owed else nullcontext():
        crew.kickoff(run_id="a")
    assert len(bank.tries) == tries
    assert str(failure) in str(server.requests[-1].body)
    assert steps(tmp_path)[0].status is StepStatus.FAILED


@pytest.mark.parametrize("path", PATHS)
def test_failure_of_our_own_kind_is_told_in_a_sentence(
    server: Server, effects: Effects, tmp_path: Path, path: str
) -> None:
    """No class, no trace; and once on either path."""
    bank = Bank(effects, ToolUnavailable("The bank is closed."))
    crew = hardened(server, tmp_path, path, bank.tool(), WRITE)
    assert crew.kickoff(run_id="a").raw == "paid 5"
    told = said_to_model(server)
    assert "The bank is closed." in told
    assert "Traceback" not in told
    assert effects.lines == ["pay 5"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_write_whose_effect_is_not_known_is_not_tried_again(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode
) -> None:
    """A retry alone is no permission to do something twice: a person is asked, without secrets."""
    key = "sk-" + "Zx81kQpL0aWm"
    bank = Bank(effects, ConnectionError(f"reset, with {key}"))
    crew = hardened(server, tmp_path, path, bank.tool(), {**WRITE, "retry": THRICE})
    with pytest.raises(ToolOutcomeUnknown) as caught:
        go(crew, mode, run_id="a")
    assert type(caught.value.__cause__) is ConnectionError
    assert (effects.lines, len(server.requests)) == (["pay 5"], 1)
    assert key not in f"{caught.value} {open_journal(tmp_path / 'j.db').run('a').error}"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("found", "retry", "lines", "told"),
    [
        (Outcome.done("paid 5"), None, 1, "paid 5"),
        (Outcome.not_done(), THRICE, 2, "paid 5"),
        (Outcome.not_done(), None, 1, "reset"),
    ],
)
def test_reconcile_is_asked_before_anyone_else(
    server: Server,
    effects: Effects,
    tmp_path: Path,
    path: str,
    found: Outcome,
    retry: Retry | None,
    lines: int,
    told: str,
) -> None:
    """It was done: that is the result. It was not: it is tried again, or the model is told."""
    asked: list[tuple[dict[str, Any], str]] = []

    def reconcile(arguments: dict[str, Any], key: str) -> Outcome:
        asked.append((arguments, key))
        return found

    bank = Bank(effects, ConnectionError("reset"))
    retry = Retry(attempts=3, on=(ConnectionError,)) if retry else None
    said = {**WRITE, "reconcile": reconcile, "retry": THRICE if retry else None}
    crew = hardened(server, tmp_path, path, bank.tool(), said)
    with pytest.raises(ToolFailed) if told == "reset" else nullcontext():
        crew.kickoff(run_id="a")
    assert len(effects.lines) == lines
    assert asked == [({"amount": 5}, bank.tries[0][0])]
    assert told in str(server.requests[-1].body)


def test_reconcile_that_fails_does_not_know(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """It cannot make an open outcome a settled one."""
    bank = Bank(effects, ConnectionError("reset"))
    said = {**WRITE, "reconcile": lambda arguments, key: 1 / 0}
    with pytest.raises(ToolOutcomeUnknown):
        hardened(server, tmp_path, "native", bank.tool(), said).kickoff(run_id="a")


@pytest.mark.parametrize("path", PATHS)
def test_killed_between_two_tries(
    server: Server, effects: Effects, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure was not told to the model, so the resumed run makes the next try."""
    bank = Bank(effects, ToolUnavailable("at lunch"))
    crew = hardened(server, tmp_path, path, bank.tool(), {**WRITE, "retry": THRICE})
    with monkeypatch.context() as patch:
        patch.setattr("crewai_prod.trying.pause", lambda *_: raising(Killed())())
        with pytest.raises(Killed):
            crew.kickoff(run_id="a")
    assert steps(tmp_path)[0].status is StepStatus.FAILED
    assert crew.kickoff(run_id="a").raw == "paid 5"
    assert [attempt for _, attempt in bank.tries] == [1, 2]
    assert "at lunch" not in str(server.requests[-1].body)
    assert open_journal(tmp_path / "j.db").run("a").reason is None


# -- deadlines ------------------------------------------------------------------------------------


class Slow:
    """A tool that hangs until it is let go, and may act late."""

    def __init__(self, effects: Effects, hangs: int = 1) -> None:
        self.effects = effects
        self.hangs = hangs
        self.go_on = threading.Event()
        self.ended = threading.Event()

    def tool(self, kind: str) -> BaseTool:
        """Of either kind; an asynchronous one that will not be cancelled."""
        slow = self

        @tool("pay")
        def pay(amount: int) -> str:
            """Pay."""
            slow.effects.add(f"begun {amount}")
            if slow.hang():
                slow.go_on.wait(20)
                slow.effects.add(f"late {amount}")
                slow.ended.set()
            return f"paid {amount}"

        @tool("pay")
        async def pay_async(amount: int) -> str:
            """Pay."""
            slow.effects.add(f"begun {amount}")
            if slow.hang():
                try:
                    await asyncio.sleep(20)
                finally:
                    slow.ended.set()
            return f"paid {amount}"

        return pay_async if kind == "async" else pay

    def hang(self) -> bool:
        """Whether this call is one that hangs."""
        self.hangs -= 1
        return self.hangs >= 0


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_a_call_past_its_deadline_is_left_and_the_model_told(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode, kind: str
) -> None:
    """At the deadline, not when it comes back; what it then does is nobody's result."""
    slow = Slow(effects)
    crew = hardened(server, tmp_path, path, slow.tool(kind), {**READ, "timeout": 0.2})
    began = time.monotonic()
    assert go(crew, mode, run_id="a").raw == "paid 5"
    assert time.monotonic() - began < 10
    assert "did not return within 0.2 seconds" in str(server.requests[-1].body)
    slow.go_on.set()
    assert slow.ended.wait(10)
    (step,) = steps(tmp_path)
    assert (step.status, orjson.loads(step.error or "")["type"]) == (
        StepStatus.FAILED,
        "ToolTimeout",
    )


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_a_reading_tool_that_hung_is_tried_again(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode, kind: str
) -> None:
    """The next try is another call, whatever the first one is doing."""
    slow = Slow(effects)
    said = {**READ, "timeout": 0.2, "retry": THRICE}
    crew = hardened(server, tmp_path, path, slow.tool(kind), said)
    assert go(crew, mode, run_id="a").raw == "paid 5"
    assert effects.lines.count("begun 5") == 2
    assert "did not return" not in str(server.requests[-1].body)
    slow.go_on.set()
    assert slow.ended.wait(10)
    assert (steps(tmp_path)[0].status, steps(tmp_path)[0].attempts) == (StepStatus.DONE, 2)


@pytest.mark.parametrize("declared", [WRITE, {}], ids=["write", "undeclared"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_a_tool_that_acts_and_hung_is_a_question(
    server: Server,
    effects: Effects,
    tmp_path: Path,
    path: str,
    mode: Mode,
    declared: dict[str, Any],
) -> None:
    """It may act yet: the run pauses, and what a person says of it is what counts."""
    slow = Slow(effects)
    said = {**declared, "timeout": 0.2, "retry": THRICE}
    crew = hardened(server, tmp_path, path, slow.tool("sync"), said)
    with pytest.raises(ToolOutcomeUnknown, match="did not return within") as caught:
        go(crew, mode, run_id="a")
    assert isinstance(caught.value.__cause__, ToolTimeout)
    assert (caught.value.run_id, caught.value.agent) == ("a", "A")
    slow.go_on.set()
    assert slow.ended.wait(10)
    assert go(crew, mode, run_id="a", unknown=Outcome.done("paid 5")).raw == "paid 5"
    assert effects.lines == ["begun 5", "late 5"]
    assert steps(tmp_path)[0].status is StepStatus.DONE


def test_what_was_left_makes_no_further_step(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """A body that goes on behind its deadline cannot write into the run any more."""
    from crewai_prod import step

    go_on, seen = threading.Event(), []
    ended = threading.Event()

    @step(effect="read")
    def look(place: str) -> str:
        effects.add(f"looked {place}")
        return place

    @tool
    def pay(amount: int) -> str:
        """Pay."""
        look("before")
        go_on.wait(20)
        try:
            look("after")
        except RunError as error:
            seen.append(error)
        ended.set()
        return "paid"

    crew = hardened(server, tmp_path, "native", pay, {**READ, "timeout": 0.2})
    assert crew.kickoff(run_id="a").raw == "paid 5"
    go_on.set()
    assert ended.wait(10)
    assert effects.lines == ["looked before"]
    assert "took too long" in str(seen[0])
    assert len(open_journal(tmp_path / "j.db").steps("a")) == 4


# -- what may not be called -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_a_tool_may_be_called_so_often_and_no_more(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode
) -> None:
    """The model is told; that is no failure of the tool, and nothing pauses."""
    crew = pay_crew(server, path, make_pay(effects))
    pays = [use("pay", {"amount": n}) for n in (1, 2, 3)]
    server.app.script = Conversation(Rule(*pays, answer("done")))
    crew = harden(crew, journal=tmp_path / "j.db", tools={"pay": {**WRITE, "max_calls": 2}})
    assert go(crew, mode, run_id="a").raw == "done"
    assert effects.lines == ["pay 1", "pay 2"]
    assert "may be called 2 times" in str(server.requests[-1].body)
    assert open_journal(tmp_path / "j.db").run("a").reason is None


def test_the_count_of_calls_survives_a_kill(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """What was called before counts, and what was refused stays refused."""
    left = [Killed()]
    pay = make_pay(effects, lambda: raising(left.pop())() if len(effects.lines) == 2 else None)
    crew = pay_crew(server, "native", pay)
    pays = [use("pay", {"amount": n}) for n in (1, 2, 3)]
    server.app.script = Conversation(Rule(*pays, answer("done")))
    said = {"pay": {**AGAIN, "max_calls": 2}}
    crew = harden(crew, journal=tmp_path / "j.db", tools=said)
    with pytest.raises(Killed):
        crew.kickoff(run_id="a")
    assert crew.kickoff(run_id="a").raw == "done"
    assert effects.lines == ["pay 1", "pay 2", "pay 2"]


@pytest.mark.waits
@pytest.mark.parametrize("path", PATHS)
def test_a_tool_that_keeps_failing_is_left_alone_for_a_while(
    server: Server, effects: Effects, tmp_path: Path, path: str
) -> None:
    """The model is told at once, without a call; other runs of the process hear of it, too."""
    bank = Bank(effects, *[ToolUnavailable("at lunch")] * 99)
    many = Retry(attempts=10, base=0, open_after=10)
    crew = hardened(server, tmp_path, path, bank.tool(), {**READ, "retry": many})
    crew.kickoff(run_id="a")
    assert len(bank.tries) == 10
    crew.kickoff(run_id="b")
    assert len(bank.tries) == 10
    assert "is not called for another" in str(server.requests[-1].body)
    (step,) = [s for s in open_journal(tmp_path / "j.db").steps("b") if s.name == "pay"]
    assert (step.status, step.effect) == (StepStatus.FAILED, "refused")


@pytest.mark.waits
def test_what_a_tool_says_of_its_arguments_opens_no_breaker(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """It works: it was asked for something that it cannot do."""
    bank = Bank(effects, *[ValueError("no such account")] * 11)
    said = {**READ, "retry": Retry(attempts=11, base=0, open_after=10, on=(ValueError,))}
    hardened(server, tmp_path, "native", bank.tool(), said).kickoff(run_id="a")
    crew = hardened(server, tmp_path, "native", bank.tool(), READ)
    assert crew.kickoff(run_id="b").raw == "paid 5"
    assert len(bank.tries) == 12


# -- what is shown --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_a_long_result_is_cut_for_the_model_and_kept_in_the_journal(
    server: Server, tmp_path: Path, path: str, mode: Mode
) -> None:
    """With a mark that says how much there is; a resumed run shows it alike."""

    @tool
    def pay(amount: int) -> str:
        """Pay."""
        return "x" * 5000

    crew = hardened(server, tmp_path, path, pay, {**READ, "max_output": 100})
    assert go(crew, mode, run_id="a").raw == "paid 5"
    told = said_to_model(server)
    assert "x" * 100 in told
    assert "x" * 101 not in told
    assert "100 of 5,000 characters are shown" in told
    assert orjson.loads(steps(tmp_path)[0].result or "") == "x" * 5000


@pytest.mark.parametrize("path", PATHS)
def test_sensitive_arguments_are_shown_nowhere(
    server: Server, effects: Effects, tmp_path: Path, path: str
) -> None:
    """Not in the journal's arguments, its errors, its questions and the log; the tool has them."""
    asked: list[dict[str, Any]] = []

    @tool
    def pay(card: str, amount: int) -> str:
        """Pay."""
        effects.add(card)
        raise ConnectionError(f"no answer about {card}")

    def reconcile(arguments: dict[str, Any], key: str) -> Outcome:
        asked.append(arguments)
        return Outcome.unknown()

    crew = pay_crew(server, path, pay)
    server.app.script = Conversation(
        Rule(use("pay", {"card": "4000-1234", "amount": 5}), answer("paid 5"))
    )
    said = {"pay": {**WRITE, "sensitive": "card", "reconcile": reconcile}}
    log = tmp_path / "log.jsonl"
    crew = harden(crew, journal=tmp_path / "j.db", tools=said, log=log)
    with pytest.raises(ToolOutcomeUnknown) as caught:
        crew.kickoff(run_id="a")
    journal = open_journal(tmp_path / "j.db")
    (approval,) = journal.approvals("a")
    (step,) = steps(tmp_path)
    shown = [str(caught.value), str(caught.value.fields), approval.arguments, step.arguments]
    shown += [step.error, journal.run("a").error, log.read_text()]
    assert all("4000-1234" not in str(text) for text in shown)
    assert orjson.loads(step.arguments or "") == {"card": "[redacted]", "amount": 5}
    assert asked == [{"card": "4000-1234", "amount": 5}]
    assert effects.lines == ["4000-1234"]
    result = crew.kickoff(run_id="a", unknown=Outcome.done("paid 5"))
    assert (result.raw, effects.lines) == ("paid 5", ["4000-1234"])


@pytest.mark.parametrize("path", PATHS)
def test_failure_that_names_a_sensitive_argument_is_told_without_it(
    server: Server, tmp_path: Path, path: str
) -> None:
    """And a resumed run tells the model the same."""

    @tool
    def pay(card: str) -> str:
        """Pay."""
        raise ValueError(f"no card {card}")

    crew = pay_crew(server, path, pay)
    server.app.script = Conversation(Rule(use("pay", {"card": "4000-1234"}), answer("paid 5")))
    said = {"pay": {**READ, "sensitive": ["card"]}}
    crew = harden(crew, journal=tmp_path / "j.db", tools=said)
    assert crew.kickoff(run_id="a").raw == "paid 5"
    told = said_to_model(server)
    assert "no card [redacted]" in told
    assert "4000-1234" not in (steps(tmp_path)[0].error or "")


def test_a_cached_result_shows_no_sensitive_argument(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """CrewAI hands out what an earlier call had got, by the text of its arguments."""

    @tool
    def pay(card: str) -> str:
        """Pay."""
        effects.add("asked")
        return "fine"

    plain = pay_crew(server, "native", pay)
    crew = Crew(agents=plain.agents, tasks=plain.tasks, cache=True)
    server.app.script = Conversation(Rule(use("pay", {"card": "4000-1234"}), answer("paid 5")))
    crew = harden(crew, journal=tmp_path / "j.db", tools={"pay": {**READ, "sensitive": "card"}})
    for run_id in ("a", "b"):
        crew.kickoff(run_id=run_id)
    (hit,) = [s for s in open_journal(tmp_path / "j.db").steps("b") if s.effect == "cached"]
    assert "4000-1234" not in (hit.arguments or "")
    assert effects.lines == ["asked"]
