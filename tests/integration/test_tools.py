"""Tools of a hardened crew act once, whatever they raise and wherever the process ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.events import event_context
from crewai.tools import BaseTool, tool

from crewai_prod import Outcome, current_step, harden, open_journal
from crewai_prod.errors import RunPaused, ToolOutcomeUnknown
from crewai_prod.records import RunStatus, StepStatus
from tests.crews import make_llm
from tests.integration.parts import MODES, PATHS, Effects, Killed, Mode, fail_once, go, nth
from tests.openai_server import Conversation, Rule, Server, answer, calls, fault, use


def pay_crew(server: Server, path: str, *tools: BaseTool) -> Crew:
    """One agent that pays 5 and says so."""
    server.app.script = Conversation(Rule(use("pay", {"amount": 5}), answer("paid 5")))
    llm = make_llm(server.url, path, max_retries=0)  # type: ignore[arg-type]
    one = Agent(role="A", goal="g", backstory="b", llm=llm, tools=list(tools))
    return Crew(agents=[one], tasks=[Task(description="d", expected_output="o", agent=one)])


def make_pay(effects: Effects, then: Callable[[], Any] = lambda: None) -> BaseTool:
    """A tool that acts and then does `then`."""

    @tool
    def pay(amount: int) -> str:
        """Pay."""
        effects.add(f"pay {amount}")
        then()
        return f"paid {amount}"

    return pay


def raising(error: BaseException) -> Callable[[], Any]:
    """A function that raises."""

    def raise_it() -> None:
        raise error

    return raise_it


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_raising_tool_runs_once_for_one_decision(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode
) -> None:
    """An undeclared tool that raises after its effect is told to the model, once."""
    pay = make_pay(effects, raising(ValueError("no answer")))
    crew = harden(pay_crew(server, path, pay), journal=tmp_path / "j.db")
    assert go(crew, mode, run_id="a").raw == "paid 5"
    assert effects.lines == ["pay 5"]
    (step,) = [s for s in open_journal(tmp_path / "j.db").steps("a") if s.name == "pay"]
    assert (step.status, step.effect) == (StepStatus.FAILED, "write")
    assert "no answer" in str(server.requests[-1].body)
    assert open_journal(tmp_path / "j.db").run("a").reason == "degraded"


class Closed(Exception):
    """An error of the user's own, of a class that nobody can find by its name."""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("error", [Closed("no answer"), KeyError("no answer")], ids=["own", "key"])
def test_resumed_run_tells_the_model_the_same_of_a_failure(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode, error: Exception
) -> None:
    """A tool that raised before the run was stopped is not run again; the model reads the same."""
    crew = harden(
        pay_crew(server, path, make_pay(effects, raising(error))), journal=tmp_path / "j.db"
    )
    crew.agents[0].max_retry_limit = 0
    fail_once(server, fault("unauthorized"), nth(2))
    with pytest.raises(Exception, match="401"):
        go(crew, mode, run_id="a")
    assert go(crew, mode, run_id="a").raw == "paid 5"
    _, refused, answered = server.requests
    assert "no answer" in str(refused.body)
    assert (answered.body, effects.lines) == (refused.body, ["pay 5"])


@pytest.mark.parametrize("path", PATHS)
def test_same_call_decided_twice_is_two_calls(
    server: Server, effects: Effects, tmp_path: Path, path: str
) -> None:
    """What CrewAI tries again is one call; what the model asks for again is another."""
    crew = pay_crew(server, path, make_pay(effects, raising(ValueError("no answer"))))
    pay = use("pay", {"amount": 5})
    server.app.script = Conversation(Rule(pay, pay, answer("gave up")))
    result = harden(crew, journal=tmp_path / "j.db").kickoff(run_id="a")
    assert (result.raw, effects.lines) == ("gave up", ["pay 5", "pay 5"])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_declared_write_that_raises_pauses(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode
) -> None:
    """An exception does not say that nothing happened: a declared write pauses the run."""
    pay = make_pay(effects, raising(TimeoutError("no answer")))
    crew = harden(
        pay_crew(server, path, pay), journal=tmp_path / "j.db", tools={"pay": {"effect": "write"}}
    )
    with pytest.raises(ToolOutcomeUnknown, match="whether it acted is not known") as caught:
        go(crew, mode, run_id="a")
    assert (caught.value.run_id, caught.value.agent) == ("a", "A")
    assert open_journal(tmp_path / "j.db").run("a").status is RunStatus.PAUSED
    with pytest.raises(RunPaused):
        go(crew, mode, run_id="a")
    assert effects.lines == ["pay 5"]
    assert len(server.requests) == 1
    result = go(crew, mode, run_id="a", unknown=Outcome.done("paid 5"))
    assert (result.raw, effects.lines) == ("paid 5", ["pay 5"])


@pytest.mark.parametrize("mode", ["kickoff", "akickoff"])
@pytest.mark.parametrize("path", PATHS)
def test_runs_that_are_stopped_leave_no_event_begun(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode
) -> None:
    """CrewAI allows a thread 100 of them: a worker is to live longer than that."""
    pay = make_pay(effects, raising(Killed()))
    crew = harden(pay_crew(server, path, pay), journal=tmp_path / "j.db")

    async def twice() -> Any:
        for expected in (Killed, RunPaused):
            with pytest.raises(expected):
                await crew.akickoff(run_id="a")
        return event_context._event_id_stack.get()

    if mode == "akickoff":
        assert asyncio.run(twice()) == ()
        return
    for expected in (Killed, RunPaused):
        with pytest.raises(expected):
            crew.kickoff(run_id="a")
    assert event_context._event_id_stack.get() == ()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_killed_in_the_body(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode
) -> None:
    """A tool that was started and never ended is put to a person, who can say three things."""
    for number, (said, lines, told) in enumerate(
        [
            (Outcome.done("paid 5"), ["pay 5"], "paid 5"),
            ("rerun", ["pay 5", "pay 5"], "paid 5"),
            ("fail", ["pay 5"], "its effect did not happen"),
        ]
    ):
        mine, run_id = Effects(tmp_path), f"r{number}"
        mine.path.unlink(missing_ok=True)
        server.reset()
        killed = harden(
            pay_crew(server, path, make_pay(mine, raising(Killed()))), journal=tmp_path / "j.db"
        )
        with pytest.raises(Killed):
            go(killed, mode, run_id=run_id)
        assert open_journal(tmp_path / "j.db").run(run_id).status is RunStatus.INTERRUPTED
        crew = harden(pay_crew(server, path, make_pay(mine)), journal=tmp_path / "j.db")
        with pytest.raises(ToolOutcomeUnknown):
            go(crew, mode, run_id=run_id)
        assert go(crew, mode, run_id=run_id, unknown=said).raw == "paid 5"
        assert mine.lines == lines
        assert len(server.requests) == 2
        assert told in str(server.requests[-1].body)


@pytest.mark.parametrize("path", PATHS)
def test_reconcile_is_asked_first(
    server: Server, effects: Effects, tmp_path: Path, path: str
) -> None:
    """A tool that can look for itself settles an open outcome without a person."""
    asked: list[tuple[dict[str, Any], str]] = []
    keys: list[str] = []

    def look() -> None:
        step = current_step()
        assert step is not None
        keys.append(step.idempotency_key)
        raise Killed

    def reconcile(arguments: dict[str, Any], key: str) -> Outcome:
        asked.append((arguments, key))
        return Outcome.done("paid 5")

    said = {"pay": {"effect": "write", "reconcile": reconcile}}
    with pytest.raises(Killed):
        harden(pay_crew(server, path, make_pay(effects, look)), journal=tmp_path / "j.db").kickoff(
            run_id="a"
        )
    crew = harden(pay_crew(server, path, make_pay(effects)), journal=tmp_path / "j.db", tools=said)
    assert crew.kickoff(run_id="a").raw == "paid 5"
    assert effects.lines == ["pay 5"]
    assert asked == [({"amount": 5}, keys[0])]


@pytest.mark.parametrize("path", PATHS)
def test_idempotent_tool_runs_again_with_its_key(
    server: Server, effects: Effects, tmp_path: Path, path: str
) -> None:
    """An idempotent tool settles an open outcome by running again with the same key."""
    keys: list[tuple[str, int]] = []

    def look() -> None:
        step = current_step()
        assert step is not None
        keys.append((step.idempotency_key, step.attempt))
        if len(keys) == 1:
            raise Killed

    crew = harden(
        pay_crew(server, path, make_pay(effects, look)),
        journal=tmp_path / "j.db",
        tools={"pay": {"effect": "write", "idempotent": True}},
    )
    with pytest.raises(Killed):
        crew.kickoff(run_id="a")
    assert crew.kickoff(run_id="a").raw == "paid 5"
    assert keys[0][0] == keys[1][0]
    assert [attempt for _, attempt in keys] == [1, 2]


@pytest.mark.parametrize("path", PATHS)
def test_reading_tool_is_simply_repeated(
    server: Server, effects: Effects, tmp_path: Path, path: str
) -> None:
    """A declared read needs no intent and no person."""
    crew = pay_crew(server, path, make_pay(effects, raising(Killed())))
    said = {"pay": {"effect": "read"}}
    with pytest.raises(Killed):
        harden(crew, journal=tmp_path / "j.db", tools=said).kickoff(run_id="a")
    crew = pay_crew(server, path, make_pay(effects))
    assert harden(crew, journal=tmp_path / "j.db", tools=said).kickoff(run_id="a").raw == "paid 5"


@pytest.mark.parametrize("mode", MODES)
def test_parallel_native_calls(
    server: Server, effects: Effects, tmp_path: Path, mode: Mode
) -> None:
    """Eight calls in one reply are eight steps; equal ones count as two decisions."""
    amounts = [1, 2, 3, 4, 5, 6, 7, 7]
    pay = make_pay(effects)
    crew = pay_crew(server, "native", pay)
    server.app.script = Conversation(
        Rule(calls([("pay", {"amount": n}) for n in amounts]), answer("all paid"))
    )
    result = go(harden(crew, journal=tmp_path / "j.db"), mode, run_id="a")
    assert result.raw == "all paid"
    assert sorted(effects.lines) == [f"pay {n}" for n in amounts]
    steps = [s for s in open_journal(tmp_path / "j.db").steps("a") if s.name == "pay"]
    assert len({step.step_id for step in steps}) == 8
    assert sorted(step.occurrence for step in steps) == [0] * 7 + [1]


class Keeping(BaseTool):
    """A tool that keeps state on itself."""

    name: str = "pay"
    description: str = "Pay."
    done: int = 0
    max_usage_count: int | None = 3

    def _run(self, amount: int) -> str:
        self.done += amount
        return f"paid {amount}"

    async def _arun(self, amount: int) -> str:
        await asyncio.sleep(0)
        return self._run(amount)


@pytest.mark.parametrize("path", PATHS)
def test_what_a_tool_keeps_stays_with_the_users_object(
    server: Server, tmp_path: Path, path: str
) -> None:
    """State and usage counts are read on the tool the user made."""
    mine = Keeping()
    harden(pay_crew(server, path, mine), journal=tmp_path / "j.db").kickoff()
    assert mine.done == 5
    assert mine.current_usage_count >= 1
    assert type(mine) is Keeping


@pytest.mark.parametrize("path", PATHS)
def test_result_of_any_class_is_told_alike_when_replayed(
    server: Server, effects: Effects, tmp_path: Path, path: str
) -> None:
    """What the model was shown of a tool's result is what a resumed run shows it."""

    class Receipt:
        def __str__(self) -> str:
            return "receipt five"

    @tool
    def pay(amount: int) -> Any:
        """Pay."""
        effects.add("pay")
        return Receipt()

    from tests.integration.parts import fail_once, nth
    from tests.openai_server import fault

    crew = pay_crew(server, path, pay)
    fail_once(server, fault("unauthorized"), nth(2))
    crew.agents[0].max_retry_limit = 0
    with pytest.raises(Exception, match=r"401|auth"):
        harden(crew, journal=tmp_path / "j.db").kickoff(run_id="a")
    first = server.requests[-1].body
    harden(crew, journal=tmp_path / "j.db").kickoff(run_id="a")
    assert "receipt five" in str(first)
    assert server.requests[-1].body == first
    assert effects.lines == ["pay"]


def test_an_answer_about_one_try_says_nothing_about_the_next(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """A person who said "run it" once is asked again when the process dies in the second try."""
    killed = raising(Killed())
    for _ in range(2):
        crew = harden(
            pay_crew(server, "native", make_pay(effects, killed)), journal=tmp_path / "j.db"
        )
        with pytest.raises((Killed, ToolOutcomeUnknown)):
            crew.kickoff(run_id="a")
    with pytest.raises(Killed):
        crew.kickoff(run_id="a", unknown="rerun")
    with pytest.raises(ToolOutcomeUnknown):
        crew.kickoff(run_id="a")
    assert effects.lines == ["pay 5", "pay 5"]
    assert crew.kickoff(run_id="a", unknown=Outcome.done("paid 5")).raw == "paid 5"
    assert [a.status for a in open_journal(tmp_path / "j.db").approvals("a")] == ["answered"] * 2
