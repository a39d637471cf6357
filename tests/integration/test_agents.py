"""Hardened agents: every kickoff is a run, and what comes back is what a bare agent returns."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.agent.planning_config import PlanningConfig
from pydantic import BaseModel

from crewai_prod import harden, open_journal
from crewai_prod._crewai.takeover import seam_of
from crewai_prod.errors import DefinitionChanged, RunInUse, RunMismatch, RunPaused
from crewai_prod.records import RunStatus
from tests.crews import make_llm
from tests.integration.parts import (
    MODES,
    PATHS,
    Effects,
    Killed,
    Mode,
    fail_once,
    killed,
    killed_before_each_request,
    make_tools,
    nth,
)
from tests.openai_server import Conversation, Reply, Rule, Server, Turn, answer, fault, use
from tests.openai_server import call as native_call

PAYING = Conversation(Rule(use("charge", {"amount": 7}), answer("charged 7"), agent="Cashier"))


class Receipt(BaseModel):
    """What a cashier hands out."""

    amount: int
    to: str


@dataclass
class Cashier:
    """Makes cashiers, bare ones and hardened ones."""

    server: Server
    effects: Effects
    path: str
    journal: Path

    def bare(self, **more: Any) -> Agent:
        """A cashier as CrewAI makes one."""
        llm = make_llm(self.server.url, self.path, max_retries=0)  # type: ignore[arg-type]
        tools = [make_tools(self.effects)[1]]
        given = {"llm": llm, "tools": tools, "max_retry_limit": 0, "cache": False, **more}
        return Agent(role="Cashier", goal="g", backstory="b", **given)

    def hardened(self, agent: Agent | None = None, **more: Any) -> Any:
        """A hardened one."""
        return harden(agent or self.bare(**more), journal=self.journal)


@pytest.fixture
def make(server: Server, effects: Effects, tmp_path: Path) -> Callable[..., Cashier]:
    """Make cashiers on one of the tool paths."""

    def made(path: str = "native", script: Conversation = PAYING) -> Cashier:
        server.app.script = script
        return Cashier(server, effects, path, tmp_path / "j.db")

    return made


def go(agent: Any, mode: Mode, *args: Any, **named: Any) -> Any:
    """Kick an agent off in one of the three ways."""
    if mode == "kickoff":
        return agent.kickoff(*args, **named)

    async def work() -> Any:
        return await getattr(agent, mode)(*args, **named)

    return asyncio.run(work())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_killed_before_every_request(
    server: Server, make: Callable[..., Cashier], effects: Effects, path: str, mode: Mode
) -> None:
    """The output is the bare agent's in every field; nothing is asked or done twice."""
    cashiers = make(path)
    bare = go(cashiers.bare(), mode, "pay seven")
    requests, spent, acted = len(server.requests), server.total_usage, effects.lines
    server.reset()
    effects.path.unlink()
    agent = cashiers.bare()
    hardened = cashiers.hardened(agent)
    for _ in range(2):
        result = killed_before_each_request(lambda: go(hardened, mode, "pay seven", run_id="a"))
        assert type(result) is type(bare)
        assert result.model_dump(exclude={"messages"}) == bare.model_dump(exclude={"messages"})
        assert [m["role"] for m in result.messages] == [m["role"] for m in bare.messages]
        assert [m.get("content") for m in result.messages] == [
            m.get("content") for m in bare.messages
        ]
        assert (effects.lines, len(server.requests)) == (acted, requests)
    assert result.usage_metrics["total_tokens"] == spent.total_tokens
    assert server.total_usage.total_tokens == spent.total_tokens
    assert [seam_of(one) for one in (agent.llm, *(agent.tools or []))] == [None, None]
    run = open_journal(cashiers.journal).run("a")
    assert (run.kind, run.crew, run.status) == ("agent", "Cashier", RunStatus.COMPLETED)


def test_run_id(make: Callable[..., Cashier], server: Server) -> None:
    """A run belongs to one question, one definition, one owner and one kind of run."""
    cashiers = make()
    agent = cashiers.hardened()
    agent.kickoff("pay", run_id="a")
    with pytest.raises(RunMismatch):
        agent.kickoff("pay more", run_id="a")
    with pytest.raises(Killed):
        killed(lambda: agent.kickoff("pay", run_id="b"), 2)
    other = cashiers.hardened(tools=[])
    with pytest.raises(DefinitionChanged) as seen:
        other.kickoff("pay", run_id="b")
    assert seen.value.fields["changed"] == {"Cashier": ("tools",)}
    assert agent.kickoff("pay", run_id="b").raw == "charged 7"
    assert agent.last_run == "b"


def test_a_run_that_is_at_work_is_in_use(make: Callable[..., Cashier], server: Server) -> None:
    """Two threads do not advance one run."""
    cashiers = make()
    at_work, go_on = threading.Event(), threading.Event()

    def wait(output):  # type: ignore[no-untyped-def]  # CrewAI reads the annotations
        at_work.set()
        go_on.wait(30)
        return True, output.raw

    agent = cashiers.hardened(guardrail=wait)
    thread = threading.Thread(target=lambda: agent.kickoff("pay", run_id="a"))
    thread.start()
    assert at_work.wait(30)
    with pytest.raises(RunInUse):
        cashiers.hardened(guardrail=wait).kickoff("pay", run_id="a")
    go_on.set()
    thread.join()
    assert open_journal(cashiers.journal).run("a").status is RunStatus.COMPLETED


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_response_format(
    server: Server, make: Callable[..., Cashier], path: str, mode: Mode
) -> None:
    """The caller's own class comes back, live, resumed and stored."""

    def receipt(turn: Turn) -> Reply:
        plain = Reply('{"amount": 7, "to": "ann"}')
        return plain if turn.native or turn.schema else answer(plain.text or "")(turn)

    cashiers = make(path, Conversation(Rule(use("charge", {"amount": 7}), receipt)))
    bare = go(cashiers.bare(), mode, "pay", response_format=Receipt)
    asked = len(server.requests)
    server.reset()
    agent = cashiers.hardened()
    for _ in range(2):
        result = killed_before_each_request(
            lambda: go(agent, mode, "pay", response_format=Receipt, run_id="a")
        )
        assert type(result.pydantic) is Receipt
        assert (result.pydantic, result.raw) == (bare.pydantic, bare.raw)
    assert len(server.requests) == asked
    assert result.usage_metrics["total_tokens"] == server.total_usage.total_tokens


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", ["kickoff", "akickoff"])
def test_function_guardrail(
    server: Server, make: Callable[..., Cashier], effects: Effects, path: str, mode: Mode
) -> None:
    """A complaint sends the agent to work again; a resume goes through the same complaint."""
    script = Conversation(
        Rule(
            use("charge", {"amount": 7}),
            lambda turn: answer("good" if "harder" in str(turn.body) else "bad")(turn),
        )
    )
    cashiers = make(path, script)

    def check(output):  # type: ignore[no-untyped-def]  # CrewAI reads the annotations
        return (True, output.raw) if output.raw == "good" else (False, "try harder")

    bare = _raw_or_error(lambda: go(cashiers.bare(guardrail=check), mode, "pay"))
    requests = len(server.requests)
    effects.path.unlink()  # a bare agent acts again with each complaint
    server.reset()
    agent = cashiers.hardened(guardrail=check)
    result = _raw_or_error(
        lambda: killed_before_each_request(lambda: go(agent, mode, "pay", run_id="a"))
    )
    assert result == bare
    assert effects.lines == ["charge 7"]
    assert len(server.requests) == requests


def _raw_or_error(work: Callable[[], Any]) -> str:
    """What a kickoff returned; on a loop CrewAI cannot repeat a guardrail's turn."""
    try:
        return str(work().raw)
    except Exception as error:  # noqa: BLE001 - compared with what the bare agent raises
        builtin = (kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
        return next(builtin).__name__


def test_guardrail_in_words(server: Server, make: Callable[..., Cashier]) -> None:
    """The model that judges an answer is the run's: metered, and asked once."""
    script = Conversation(
        Rule(Reply('{"valid": true, "feedback": null}'), agent="Guardrail"),
        *PAYING.rules,
    )
    cashiers = make(script=script)
    agent = cashiers.hardened(guardrail="The amount is seven.")
    result = killed_before_each_request(lambda: agent.kickoff("pay", run_id="a"))
    assert result.raw == "charged 7"
    assert len(server.requests) == 3
    assert result.usage_metrics["total_tokens"] == server.total_usage.total_tokens


def test_guardrail_that_gives_up(server: Server, make: Callable[..., Cashier]) -> None:
    """The user sees the bare error; resuming asks for the last answer anew, and for no other."""
    cashiers = make()
    verdicts: list[bool] = []

    def check(output):  # type: ignore[no-untyped-def]  # CrewAI reads the annotations
        return (True, output.raw) if verdicts else (False, "no")

    agent = cashiers.hardened(guardrail=check, guardrail_max_retries=0)
    with pytest.raises(ValueError, match="guardrail failed"):
        agent.kickoff("pay", run_id="a")
    assert open_journal(cashiers.journal).run("a").status is RunStatus.FAILED
    verdicts.append(True)
    assert agent.kickoff("pay", run_id="a").raw == "charged 7"
    assert len(server.requests) == 3


@pytest.mark.parametrize("path", PATHS)
def test_failed_request(
    server: Server, make: Callable[..., Cashier], effects: Effects, path: str
) -> None:
    """A model error leaves as it was raised; the resumed run asks that one question again."""
    cashiers = make(path)
    fail_once(server, fault("unauthorized"), nth(2))
    agent = cashiers.hardened()
    with pytest.raises(Exception, match="401"):
        agent.kickoff("pay", run_id="a")
    result = agent.kickoff("pay", run_id="a")
    assert (result.raw, effects.lines) == ("charged 7", ["charge 7"])
    assert [record.status for record in server.requests] == [200, 401, 200]


def test_tool_that_was_cut_off(make: Callable[..., Cashier], effects: Effects) -> None:
    """An agent's tool that may have acted pauses the run, as a crew's does."""
    cashiers = make()
    agent = cashiers.hardened()
    with pytest.raises(Killed):
        killed(lambda: agent.kickoff("pay", run_id="a"), 2, "tool.after_body")
    with pytest.raises(RunPaused, match="charge"):
        agent.kickoff("pay", run_id="a")
    assert effects.lines == ["charge 7"]
    from crewai_prod import Outcome

    assert agent.kickoff("pay", run_id="a", unknown=Outcome.done("charged 7")).raw == "charged 7"
    assert effects.lines == ["charge 7"]


def test_kickoff_on_an_event_loop(make: Callable[..., Cashier], server: Server) -> None:
    """As a bare agent's it returns a coroutine there."""
    agent = make().hardened()

    async def work() -> Any:
        begun = agent.kickoff("pay", run_id="a")
        assert asyncio.iscoroutine(begun)
        return await begun

    assert asyncio.run(work()).raw == "charged 7"
    assert asyncio.run(work()).raw == "charged 7"
    assert len(server.requests) == 2


def test_conversation_as_input(make: Callable[..., Cashier], server: Server) -> None:
    """A list of messages is an input like any other."""
    cashiers = make()
    talk = [{"role": "user", "content": "pay seven"}]
    agent = cashiers.hardened()
    assert agent.kickoff(list(talk), run_id="a").raw == "charged 7"
    assert cashiers.hardened().kickoff(list(talk), run_id="a").raw == "charged 7"
    assert len(server.requests) == 2


PLAN = (
    '{"plan": "pay", "ready": true, "steps": [{"step_number": 1, "description": "pay seven", '
    '"tool_to_use": "charge", "depends_on": []}]}'
)

OBSERVED = (
    '{"step_completed_successfully": true, "key_information_learned": "paid", '
    '"remaining_plan_still_valid": true, "goal_already_achieved": true}'
)


def _planning() -> Conversation:
    def decide(turn: Turn) -> Reply:
        names = [tool["function"]["name"] for tool in turn.body.get("tools") or ()]
        if "create_reasoning_plan" in names:
            return native_call("create_reasoning_plan", PLAN)
        if turn.schema is not None:
            return Reply(OBSERVED)
        if not names:
            return Reply("charged 7, as planned")
        return use("charge", {"amount": 7})(turn)

    return Conversation(
        Rule(decide, answer("charged 7, as planned"), when=lambda turn: turn.turns < 2),
        Rule(answer("charged 7, as planned")),
    )


def test_planning(server: Server, make: Callable[..., Cashier], effects: Effects) -> None:
    """The model that plans, named or not, is metered; plan and todos come back as they were."""
    cashiers = make(script=_planning())
    config = PlanningConfig(max_attempts=1)
    bare = cashiers.bare(planning_config=config).kickoff("pay")
    requests, acted = len(server.requests), effects.lines
    server.reset()
    effects.path.unlink()
    agent = cashiers.hardened(planning_config=config)
    for _ in range(2):
        result = killed_before_each_request(lambda: agent.kickoff("pay", run_id="a"))
        assert (result.raw, result.plan, result.todos) == (bare.raw, bare.plan, bare.todos)
        assert (effects.lines, len(server.requests)) == (acted, requests)
    assert result.plan
    assert result.usage_metrics["total_tokens"] == server.total_usage.total_tokens


@pytest.mark.parametrize("outer", ["bare", "hardened"])
def test_hardened_agent_works_in_a_crew(
    server: Server, make: Callable[..., Cashier], effects: Effects, outer: str
) -> None:
    """In a crew it is an agent like others: the crew's run, or none."""
    cashiers = make()
    agent = cashiers.hardened()
    task = Task(description="Pay", expected_output="o", agent=agent)
    crew: Any = Crew(agents=[agent], tasks=[task])
    if outer == "bare":
        assert crew.kickoff().raw == "charged 7"
        assert open_journal(cashiers.journal).runs() == []
        return
    crew = harden(crew, journal=cashiers.journal)
    assert killed_before_each_request(lambda: crew.kickoff(run_id="a")).raw == "charged 7"
    assert (effects.lines, len(server.requests)) == (["charge 7"], 2)
    assert [run.run_id for run in open_journal(cashiers.journal).runs()] == ["a"]


def test_many_kickoffs_side_by_side(make: Callable[..., Cashier], effects: Effects) -> None:
    """One hardened agent serves several runs at once."""
    agent = make().hardened()

    async def all_at_once() -> list[Any]:
        asked = (agent.akickoff(f"pay {n}", run_id=f"r{n}") for n in range(5))
        return list(await asyncio.gather(*asked))

    results = asyncio.run(all_at_once())
    assert [result.raw for result in results] == ["charged 7"] * 5
    assert len({result.usage_metrics["total_tokens"] for result in results}) == 1
    assert effects.lines == ["charge 7"] * 5
