"""A task cannot end as a success while a tool that had to succeed in it has not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.tools import BaseTool, tool

from crewai_prod import harden, open_journal
from crewai_prod.errors import ToolFailed
from crewai_prod.records import RunStatus
from tests.crews import make_llm
from tests.integration.parts import MODES, PATHS, Effects, Mode, go
from tests.integration.test_tools import make_pay, pay_crew
from tests.openai_server import Conversation, Rule, Server, answer, use

PAY = use("pay", {"amount": 5})


def failing(times: int, effects: Effects) -> BaseTool:
    """A tool that acts and then raises, so many times."""
    left = [times]

    def fail() -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise ValueError("the bank is closed")

    return make_pay(effects, fail)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "declared",
    [{"required": True}, {"effect": "write", "idempotent": True}],
    ids=["required", "write"],
)
def test_failure_that_was_not_made_good_stops_the_run_at_the_end_of_its_task(
    server: Server,
    effects: Effects,
    tmp_path: Path,
    path: str,
    mode: Mode,
    declared: dict[str, Any],
) -> None:
    """The model says that all is well; resumed, the call is tried anew and the model asked anew."""
    crew = pay_crew(server, path, failing(1, effects))
    server.app.script = Conversation(Rule(PAY, answer("all is well")))
    hardened = harden(crew, journal=tmp_path / "j.db", tools={"pay": declared})
    with pytest.raises(ToolFailed, match="the bank is closed") as caught:
        go(hardened, mode, run_id="a")
    error = caught.value
    (step,) = [s for s in open_journal(tmp_path / "j.db").steps("a") if s.name == "pay"]
    assert (error.run_id, error.agent, error.step_id) == ("a", "A", step.step_id)
    assert error.task is not None
    assert type(error.__cause__) is ValueError
    assert open_journal(tmp_path / "j.db").run("a").status is RunStatus.FAILED
    assert go(hardened, mode, run_id="a").raw == "all is well"
    assert effects.lines == ["pay 5", "pay 5"]
    (step,) = [s for s in open_journal(tmp_path / "j.db").steps("a") if s.name == "pay"]
    assert (step.status.value, step.attempts) == ("done", 2)
    assert "paid 5" in str(server.requests[-1].body)
    assert "the bank is closed" not in str(server.requests[-1].body)
    asked = 5 if "required" in declared else 3  # an answer without it is sent back twice
    assert len(server.requests) == asked
    assert go(hardened, mode, run_id="a").raw == "all is well"
    assert len(server.requests) == asked


@pytest.mark.parametrize("path", PATHS)
def test_a_tool_that_fails_again_stops_the_run_again(
    server: Server, effects: Effects, tmp_path: Path, path: str
) -> None:
    """What the model said to the same failure is not paid for twice."""
    crew = pay_crew(server, path, failing(2, effects))
    server.app.script = Conversation(Rule(PAY, answer("all is well")))
    hardened = harden(crew, journal=tmp_path / "j.db", tools={"pay": {"required": True}})
    for _ in range(2):
        with pytest.raises(ToolFailed):
            hardened.kickoff(run_id="a")
    assert len(server.requests) == 4
    assert hardened.kickoff(run_id="a").raw == "all is well"
    assert (len(server.requests), effects.lines) == (5, ["pay 5"] * 3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_failure_that_the_model_made_good_is_none(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode
) -> None:
    """A later call of the same tool that succeeds is what was asked for."""
    crew = pay_crew(server, path, failing(1, effects))
    server.app.script = Conversation(Rule(PAY, PAY, answer("paid at last")))
    hardened = harden(crew, journal=tmp_path / "j.db", tools={"pay": {"required": True}})
    assert go(hardened, mode, run_id="a").raw == "paid at last"
    assert effects.lines == ["pay 5", "pay 5"]
    assert open_journal(tmp_path / "j.db").run("a").status is RunStatus.COMPLETED


def _crew(server: Server, tool_of: Callable[[str], list[BaseTool]]) -> Crew:
    llm = make_llm(server.url, "native", max_retries=0)
    agents = [
        Agent(role=role, goal="g", backstory="b", llm=llm, tools=tool_of(role))
        for role in ("Cashier", "Clerk")
    ]
    tasks = [
        Task(name=one.role, description=f"Part of {one.role}", expected_output="o", agent=one)
        for one in agents
    ]
    return Crew(agents=agents, tasks=tasks)


def test_a_task_without_the_tool_does_not_need_it(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """Only where the model could have called it; what was finished before is handed over."""
    pay = make_pay(effects)
    crew = _crew(server, lambda role: [pay] if role == "Cashier" else [])
    server.app.script = Conversation(
        Rule(PAY, answer("paid 5"), agent="Cashier"), Rule(answer("filed"), agent="Clerk")
    )
    hardened = harden(crew, journal=tmp_path / "j.db", tools={"pay": {"required": True}})
    assert hardened.kickoff(run_id="a").raw == "filed"


def test_what_was_finished_before_comes_with_the_error(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """The first task's output is kept; the second is taken up at the call that failed."""
    pay = failing(1, effects)
    crew = _crew(server, lambda role: [pay] if role == "Clerk" else [])
    server.app.script = Conversation(
        Rule(answer("counted"), agent="Cashier"), Rule(PAY, answer("filed"), agent="Clerk")
    )
    hardened = harden(crew, journal=tmp_path / "j.db", tools={"pay": {"required": True}})
    with pytest.raises(ToolFailed) as caught:
        hardened.kickoff(run_id="a")
    assert [output.raw for output in caught.value.outputs][:1] == ["counted"]
    assert caught.value.task == "Clerk"
    assert hardened.kickoff(run_id="a").raw == "filed"
    assert len(server.requests) == 6  # two of them to send its answer back


def test_coworker_that_failed_fails_the_task_that_handed_the_work_on(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """Resumed, the work is handed on again as it was, and done from the call that failed."""
    pay = failing(1, effects)
    llm = make_llm(server.url, "native", max_retries=0)
    clerk = Agent(role="Clerk", goal="g", backstory="b", llm=llm, allow_delegation=True)
    cashier = Agent(role="Cashier", goal="g", backstory="b", llm=llm, tools=[pay])
    task = Task(name="t", description="d", expected_output="o", agent=clerk)
    crew = Crew(agents=[clerk, cashier], tasks=[task])
    hand_on = use(
        "delegate_work_to_coworker", {"task": "Pay 5", "context": "c", "coworker": "Cashier"}
    )
    server.app.script = Conversation(
        Rule(PAY, answer("all is well"), agent="Cashier"),
        Rule(hand_on, answer("done"), agent="Clerk"),
    )
    hardened = harden(crew, journal=tmp_path / "j.db", tools={"pay": {"required": True}})
    with pytest.raises(ToolFailed) as caught:
        hardened.kickoff(run_id="a")
    assert (caught.value.agent, caught.value.task) == ("Cashier", "t")
    assert hardened.kickoff(run_id="a").raw == "done"
    assert effects.lines == ["pay 5", "pay 5"]
    # The coworker's answer was sent back twice; then it was given to another result; what it then
    # said, was the same.
    assert len(server.requests) == 7


@pytest.mark.parametrize("path", PATHS)
def test_an_undeclared_tool_that_failed_degrades_the_run(
    server: Server, effects: Effects, tmp_path: Path, path: str
) -> None:
    """Nothing says that it had to succeed: it is recorded, and the run says so."""
    hardened = harden(pay_crew(server, path, failing(1, effects)), journal=tmp_path / "j.db")
    assert hardened.kickoff(run_id="a").raw == "paid 5"
    assert open_journal(tmp_path / "j.db").run("a").reason == "degraded"


@pytest.mark.parametrize("path", PATHS)
def test_a_failure_that_a_tool_reports_counts_like_one_that_it_raises(
    server: Server, effects: Effects, tmp_path: Path, path: str
) -> None:
    """CrewAI's own way to say that a call did not succeed."""
    pytest.importorskip(
        "crewai.tools.tool_failure", reason="this release has no ToolFailure to return"
    )
    from crewai.tools.tool_failure import ToolFailure

    @tool
    def pay(amount: int) -> Any:
        """Pay."""
        effects.add(f"pay {amount}")
        return ToolFailure(message="the bank is closed")

    hardened = harden(
        pay_crew(server, path, pay), journal=tmp_path / "j.db", tools={"pay": {"required": True}}
    )
    with pytest.raises(ToolFailed, match="reported a failure"):
        hardened.kickoff(run_id="a")
    assert effects.lines == ["pay 5"]


def test_hardened_agent_owes_its_tools_too(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """An agent that is kicked off by itself has one task: what it was asked."""
    llm = make_llm(server.url, "native", max_retries=0)
    agent = Agent(role="A", goal="g", backstory="b", llm=llm, tools=[failing(1, effects)])
    server.app.script = Conversation(Rule(PAY, answer("all is well")))
    hardened: Any = harden(agent, journal=tmp_path / "j.db", tools={"pay": {"required": True}})
    with pytest.raises(ToolFailed):
        hardened.kickoff("pay 5", run_id="a")
    assert hardened.kickoff("pay 5", run_id="a").raw == "all is well"
    assert effects.lines == ["pay 5", "pay 5"]
