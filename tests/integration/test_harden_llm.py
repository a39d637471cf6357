"""A hardened model is a step of whatever run it is called in, and outside of any what it was."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.events.event_bus import crewai_event_bus
from crewai.llms.base_llm import BaseLLM
from crewai.tools import tool
from pydantic import BaseModel

from crewai_prod import errors, harden, open_journal, open_run, step
from tests.crews import make_llm
from tests.integration.parts import (
    ASKS,
    MODES,
    PATHS,
    Mode,
    assert_all_metered,
    go,
    make_crew,
    total,
)
from tests.openai_server import Conversation, Reply, Rule, Server, fail_first, fault


class Facts(BaseModel):
    """What a structured call answers."""

    height: int


@pytest.fixture
def llm(server: Server) -> BaseLLM:
    """A hardened model."""
    server.app.script = ASKS
    hardened: BaseLLM = harden(make_llm(server.url, max_retries=0))
    return hardened


def test_outside_of_a_run_it_is_as_before(server: Server, llm: BaseLLM) -> None:
    """It is of its original's class, shares its counters, and nothing is recorded."""
    bare = make_llm(server.url)
    assert isinstance(llm, type(bare))
    assert harden(llm) is llm
    assert llm.call("Aside") == "an aside"
    assert asyncio.run(llm.acall("Aside")) == "an aside"
    assert llm.get_token_usage_summary().total_tokens == total(server)
    assert not Path(".crewai_prod").exists()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_in_a_tools_body_it_is_asked_once(
    server: Server, tmp_path: Path, llm: BaseLLM, path: str, mode: Mode
) -> None:
    """A body that is cut off and run again is answered from the journal, on its bill."""
    cut = [True]

    @tool
    def ask(topic: str) -> str:
        """Ask about a topic."""
        said = str(llm.call(f"Aside about {topic}"))
        if cut:
            cut.clear()
            raise KeyboardInterrupt
        return said

    def crew() -> Any:
        clerk = Agent(
            role="Clerk",
            goal="g",
            backstory="b",
            llm=make_llm(server.url, path),  # type: ignore[arg-type]
            tools=[ask],
        )
        task = Task(description="Ask.", expected_output="o", agent=clerk)
        options = {"ask": {"effect": "read"}}
        one = Crew(name="asking", agents=[clerk], tasks=[task])
        return harden(one, journal=tmp_path / "j.db", tools=options)

    with pytest.raises(KeyboardInterrupt):
        go(crew(), mode, run_id="a")
    result = go(crew(), mode, run_id="a")
    assert (result.raw, len(server.requests)) == ("done", 3)
    assert result.token_usage.total_tokens == total(server)
    assert_all_metered(tmp_path / "j.db", "a")


@pytest.mark.parametrize("way", ["call", "acall"])
def test_in_a_run_around_plain_code(server: Server, tmp_path: Path, llm: BaseLLM, way: str) -> None:
    """In `open_run` and in steps it is replayed, structured answers in the caller's class."""
    server.app.script = Conversation(
        Rule(Reply('{"height": 3}'), when=lambda turn: bool(turn.schema)),
        Rule(Reply("an aside")),
    )

    def asked(messages: str, **given: Any) -> Any:
        if way == "call":
            return llm.call(messages, **given)
        fresh: BaseLLM = harden(make_llm(server.url))  # its client belongs to this loop
        return asyncio.run(fresh.acall(messages, **given))

    @step
    def measure() -> Facts:
        return asked("How high?", response_model=Facts)  # type: ignore[no-any-return]

    def work() -> tuple[Any, Any]:
        with open_run("a", journal=tmp_path / "j.db"):
            said, facts = asked("Aside"), measure()
            if len(server.requests) < 3:
                asked("Aside again")
                raise ValueError("cut off")
            return said, facts

    with pytest.raises(ValueError, match="cut off"):
        work()
    assert work() == ("an aside", Facts(height=3))
    assert len(server.requests) == 3
    assert open_journal(tmp_path / "j.db").runs()[0].total_tokens == total(server)
    assert_all_metered(tmp_path / "j.db", "a")


def test_a_crew_takes_it_as_any_model(server: Server, tmp_path: Path, effects: Any) -> None:
    """Agents that hold a hardened model are seamed as others are; bare they work, too."""
    plain = make_crew(server, effects)
    for agent in plain.agents:
        agent.llm = harden(agent.llm)
    crew = harden(plain, journal=tmp_path / "j.db")
    result = crew.kickoff(inputs={"who": "ann"}, run_id="a")
    assert result.token_usage.total_tokens == total(server)
    steps = open_journal(tmp_path / "j.db").steps("a")
    models = [one.scope for one in steps if one.kind.value == "model"]
    assert models[::2] == ["tasks/0/Researcher", "tasks/1/Cashier", "tasks/2/Courier"]
    assert_all_metered(tmp_path / "j.db", "a")
    assert plain.kickoff(inputs={"who": "ann"}).raw == result.raw


def test_a_bare_crew_in_a_run_is_recorded_through_it(
    server: Server, tmp_path: Path, effects: Any
) -> None:
    """A crew that is not hardened itself is replayed as far as its models are."""
    crew = make_crew(server, effects)
    for agent in crew.agents:
        agent.llm = harden(agent.llm)

    def work() -> int:
        with open_run("a", journal=tmp_path / "j.db"):
            crew.kickoff(inputs={"who": "ann"})
            if not failed:
                failed.append(len(server.requests))
                raise ValueError("cut off")
        return len(server.requests)

    failed: list[int] = []
    with pytest.raises(ValueError, match="cut off"):
        work()
    assert work() == failed[0]
    assert_all_metered(tmp_path / "j.db", "a")


def test_a_failure_is_the_callers_own(server: Server, tmp_path: Path, llm: BaseLLM) -> None:
    """The provider's exception reaches the caller, and the failed call is tried anew on resume."""
    server.app.faults = fail_first(fault("unauthorized"))
    with pytest.raises(Exception, match="401"), open_run("a", journal=tmp_path / "j.db"):
        llm.call("Aside")
    with open_run("a", journal=tmp_path / "j.db"):
        assert llm.call("Aside") == "an aside"


def test_a_stopped_run_refuses_in_person(server: Server, tmp_path: Path, llm: BaseLLM) -> None:
    """Code that calls the model itself sees the refusal, as the class that it is."""
    with open_run("a", journal=tmp_path / "j.db"):
        llm.call("Aside")
    with open_run("a", journal=tmp_path / "j.db"):
        assert llm.call("Aside") == "an aside"
        with pytest.raises(errors.ReplayOnly):
            llm.call("Something new")
    assert len(server.requests) == 1


def test_it_takes_no_options(llm: BaseLLM) -> None:
    """Options belong to runs."""
    with pytest.raises(errors.UsageError, match="journal"):
        harden(llm, journal="j.db")


def test_bare_objects_in_a_run_keep_the_models_they_hold(
    server: Server, tmp_path: Path, effects: Any
) -> None:
    """What a run takes over for a bare crew or agent is given back as the hardened model it was."""
    crew = make_crew(server, effects)
    agents = list(crew.agents)
    held = [harden(agent.llm) for agent in agents]
    for agent, llm in zip(agents, held, strict=True):
        agent.llm = llm
    with open_run("a", journal=tmp_path / "j.db"):
        crew.kickoff(inputs={"who": "ann"})
        single = agents[0].kickoff("Do part 0")
    assert single.raw == "facts about tides"
    crewai_event_bus.flush()  # older releases do not wait for who is told that a kickoff has ended
    assert all(one is agent for one, agent in zip(crew.agents, agents, strict=True))
    assert all(agent.llm is llm for agent, llm in zip(agents, held, strict=True))
    steps = open_journal(tmp_path / "j.db").steps("a")
    places = {step.scope.split("/")[1].partition("~")[0] for step in steps}
    assert places == {"parts", "Researcher"}
    assert_all_metered(tmp_path / "j.db", "a")
