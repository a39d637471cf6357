"""Hardened, a crew, an agent and a flow look to their user as they do bare.

Each is run twice on the wire-level server, and everything that an observer can tell is compared:
result or exception, events, requests, callbacks and hooks.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from crewai import LLM, Agent, Crew, Task
from crewai.flow.flow import Flow, and_, listen, router, start
from crewai.flow.persistence.sqlite import SQLiteFlowPersistence
from crewai.tools import tool
from crewai.types.usage_metrics import UsageMetrics
from crewai_files import FileBytes, ImageFile
from pydantic import BaseModel

from crewai_prod import harden, open_journal
from crewai_prod._crewai.hardening import kickoffs_hardened
from tests.crews import make_llm
from tests.integration.parts import (
    MODES,
    PATHS,
    SCRIPT,
    Effects,
    Mode,
    fail_once,
    go,
    make_crew,
    make_tools,
    nth,
)
from tests.integration.same import Trace, observe
from tests.openai_server import Conversation, Reply, Rule, Server, answer, fault, use

READING = {name: {"effect": "read"} for name in ("look_up", "charge", "send")}
"""So that they may act again where CrewAI asks again, as they do in a bare crew."""

PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""A PNG of one dot."""

Make = Callable[[Server, Effects, str, list[Any]], Any]
Work = Callable[[Any], Any]


def both(server: Server, tmp_path: Path, path: str, make: Make, work: Work) -> tuple[Trace, Trace]:
    """What is to be seen of a bare and of a hardened one."""
    effects = Effects(tmp_path)

    def bare(heard: list[Any]) -> Any:
        return work(make(server, effects, path, heard))

    def hardened(heard: list[Any]) -> Any:
        target = make(server, effects, path, heard)
        return work(harden(target, journal=tmp_path / "j.db", tools=READING))

    return observe(server, effects, path, bare), observe(server, effects, path, hardened)


def assert_same(bare: Trace, hardened: Trace) -> None:
    """Nothing differs."""
    assert hardened.outcome == bare.outcome
    assert hardened.requests == bare.requests
    assert hardened.heard == bare.heard
    assert hardened.effects == bare.effects
    assert [event[0] for event in hardened.events] == [event[0] for event in bare.events]
    for theirs, ours in zip(bare.events, hardened.events, strict=True):
        assert ours == theirs


def output_of(result: Any) -> Any:
    """A kickoff's output without the counts, which are wrong in a bare crew."""
    return result.model_dump(exclude={"token_usage", "usage_metrics"})


def crew(server: Server, effects: Effects, path: str, heard: list[Any]) -> Crew:
    """Three agents, every callback there is, and a guardrail that sends one answer back."""
    server.app.script = SCRIPT
    made = make_crew(server, effects, path)

    def note(what: str) -> Callable[[Any], Any]:
        def noted(value: Any) -> Any:
            heard.append((what, type(value).__name__, str(getattr(value, "raw", value))))
            return value

        return noted

    def check(output):  # type: ignore[no-untyped-def]  # CrewAI reads the annotations
        heard.append(("guardrail", output.raw))
        again = sum(one[0] == "guardrail" for one in heard) == 1
        return (False, "once more") if again else (True, output.raw)

    made.tasks[1] = Task(
        name="t1",
        description="Do part 1 for {who}",
        expected_output="o",
        agent=made.agents[1],
        guardrail=check,
        callback=note("task"),
    )
    made.before_kickoff_callbacks.append(note("before kickoff"))
    made.after_kickoff_callbacks.append(note("after kickoff"))
    made.task_callback = note("any task")
    made.step_callback = note("step")
    return made


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_crew(server: Server, tmp_path: Path, path: str, mode: Mode) -> None:
    """A crew with all its callbacks and hooks, and a guardrail that complains."""
    traces = both(
        server, tmp_path, path, crew, lambda one: output_of(go(one, mode, inputs={"who": "ann"}))
    )
    assert len(traces[0].requests) > 6
    assert len(traces[0].heard) > 20
    assert_same(*traces)


class Report(BaseModel):
    """What the agent is asked for."""

    total: int


def agent(server: Server, effects: Effects, path: str, heard: list[Any]) -> Agent:
    """An agent with a tool, a guardrail and a step callback."""
    report = Rule(Reply('{"total": 7}'), when=lambda turn: "Cashier" not in turn.system)
    server.app.script = Conversation(report, Rule(use("charge", {"amount": 7}), answer("7")))

    def check(output):  # type: ignore[no-untyped-def]  # CrewAI reads the annotations
        heard.append(("guardrail", output.raw))
        return True, output.raw

    return Agent(
        role="Cashier",
        goal="g",
        backstory="b",
        llm=make_llm(server.url, path, max_retries=0),  # type: ignore[arg-type]
        tools=[make_tools(effects)[1]],
        guardrail=check,
        step_callback=lambda step: heard.append(("step", type(step).__name__)),
    )


@pytest.mark.parametrize("mode", ["kickoff", "akickoff"])
@pytest.mark.parametrize("path", PATHS)
def test_agent(server: Server, tmp_path: Path, path: str, mode: Mode) -> None:
    """A single agent that is asked for a structured answer."""
    asked = {"messages": "Charge it", "response_format": Report}
    traces = both(server, tmp_path, path, agent, lambda one: output_of(go(one, mode, **asked)))
    assert traces[0].effects == ["charge 7"]
    assert_same(*traces)


class Sum(BaseModel):
    """State of the flow."""

    done: list[str] = []


def flow(server: Server, effects: Effects, path: str, heard: list[Any]) -> Any:
    """A flow that routes, joins and fans out, with a crew in one method and an agent in another."""

    class Work(Flow[Sum]):
        @start()
        def begin(self) -> str:
            self.state.done.append("begin")
            return str(make_crew(server, effects, path).kickoff(inputs={"who": "bob"}).raw)

        @router(begin)
        def choose(self, said: str) -> str:
            heard.append(("chosen", said))
            return "go on"

        @listen("go on")
        async def pay(self) -> str:
            self.state.done.append("pay")
            result = await agent(server, effects, path, heard).kickoff_async("Charge it")
            server.app.script = SCRIPT
            return str(result.raw)

        @listen(and_(begin, pay))
        def join(self) -> str:
            return " and ".join(self.state.done)

    server.app.script = SCRIPT
    return Work()


@pytest.mark.parametrize("mode", ["kickoff", "akickoff"])
@pytest.mark.parametrize("path", PATHS)
def test_flow(server: Server, tmp_path: Path, path: str, mode: Mode) -> None:
    """A flow whose methods kick off a bare crew and a bare agent."""
    traces = both(server, tmp_path, path, flow, lambda one: (go(one, mode), one.state.done))
    assert traces[0].outcome == repr(("begin and pay", ["begin", "pay"]))
    assert_same(*traces)


class Mine(Exception):
    """An error of the user's own."""


PLACES = ("before kickoff", "after kickoff")


@pytest.mark.parametrize("place", PLACES)
def test_error_of_the_users_own(server: Server, tmp_path: Path, place: str) -> None:
    """Class and text of what such a callback raises reach the caller, and nothing else happens."""

    def make(server: Server, effects: Effects, path: str, heard: list[Any]) -> Crew:
        made = crew(server, effects, path, heard)

        def fail(output: Any) -> Any:
            raise Mine(f"in {place}")

        targets: dict[str, Any] = {
            "before kickoff": made.before_kickoff_callbacks,
            "after kickoff": made.after_kickoff_callbacks,
        }
        targets[place].append(fail)
        return made

    traces = both(server, tmp_path, "native", make, lambda one: go(one, inputs={"who": "ann"}))
    assert traces[0].outcome == repr((Mine, f"in {place}"))
    assert_same(*traces)


@pytest.mark.parametrize("mode", ["kickoff", "akickoff"])
def test_error_in_a_flow(server: Server, tmp_path: Path, mode: Mode) -> None:
    """What a flow's method raises is raised by its kickoff."""

    def make(server: Server, effects: Effects, path: str, heard: list[Any]) -> Any:
        class Failing(Flow[Sum]):
            @start()
            def begin(self) -> str:
                return "begun"

            @listen(begin)
            async def fail(self, said: str) -> str:
                raise Mine(said)

        return Failing()

    traces = both(server, tmp_path, "native", make, lambda one: go(one, mode))
    assert traces[0].outcome == repr((Mine, "begun"))
    assert_same(*traces)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_tool_that_raises(server: Server, tmp_path: Path, path: str, mode: Mode) -> None:
    """The model is told the same, and the same events say so; only the tool runs once."""

    def make(server: Server, effects: Effects, path: str, heard: list[Any]) -> Crew:
        made = crew(server, effects, path, heard)

        @tool
        def look_up(topic: str) -> str:
            """Look something up."""
            effects.add(f"look_up {topic}")
            raise Mine("the library is closed")

        made.tasks[0] = Task(
            name="t0", description="d", expected_output="o", agent=made.agents[0], tools=[look_up]
        )
        return made

    def work(one: Any) -> Any:
        result = output_of(go(one, mode, inputs={"who": "ann"}))
        return result, one.tasks[0].tools_errors

    bare, hardened = both(server, tmp_path, path, make, work)
    assert "the library is closed" in str(bare.requests[1])
    tries = 1 if path == "native" else 6
    assert bare.effects.count("look_up tides") == tries
    assert hardened.effects.count("look_up tides") == 1
    hardened.effects = bare.effects
    assert_same(bare, hardened)


@pytest.mark.parametrize("path", PATHS)
def test_model_call_that_fails(server: Server, tmp_path: Path, path: str) -> None:
    """A failed model call is raised typed, its cause what CrewAI raises; it was asked as often."""

    def make(server: Server, effects: Effects, path: str, heard: list[Any]) -> Crew:
        made = crew(server, effects, path, heard)
        for one in made.agents:
            one.max_retry_limit = 0
        fail_once(server, fault("unauthorized"), nth(3))
        return made

    traces = both(server, tmp_path, path, make, lambda one: go(one, inputs={"who": "ann"}))
    bare, hardened = traces
    assert "openai.AuthenticationError" in bare.outcome
    assert "ModelRejected: AuthenticationError" in hardened.outcome
    assert (hardened.requests, hardened.effects) == (bare.requests, bare.effects)


class Looked(Flow[Sum]):
    """A flow that others look at while it is at work, and that kicks itself off once."""

    def look(self) -> list[str]:
        """What the one who holds the flow sees of its state; set by the test."""
        return []

    @start()
    def begin(self) -> str:
        """Do the first part."""
        self.state.done.append("begin")
        return str(self.look())

    @listen(begin)
    def repeat(self, said: str) -> str:
        """Do it all again, once."""
        self.state.done.append("repeat")
        if len(self.state.done) == 2:
            self.kickoff()
        return f"{said} {self.look()}"


@pytest.mark.parametrize("mode", ["kickoff", "akickoff"])
def test_flow_that_is_looked_at_and_kicks_itself_off(
    server: Server, tmp_path: Path, mode: Mode
) -> None:
    """State is to be seen on the user's object at once; a kickoff within is part of the run."""

    def make(server: Server, effects: Effects, path: str, heard: list[Any]) -> Any:
        held = Looked()
        setattr(Looked, "look", lambda _: list(held.state.done))  # noqa: B010 - for mypy
        return held

    traces = both(
        server, tmp_path, "native", make, lambda one: (go(one, mode), list(one.state.done))
    )
    seen = ["begin", "repeat", "begin", "repeat"]
    assert traces[0].outcome == repr((f"['begin'] {seen}", seen))
    assert_same(*traces)
    assert len(open_journal(tmp_path / "j.db").runs()) == 1


def test_flow_that_fails_is_kicked_off_again(server: Server, tmp_path: Path) -> None:
    """CrewAI goes on with a flow of the same id from what it has completed; so do we."""

    def make(server: Server, effects: Effects, path: str, heard: list[Any]) -> Any:
        class Halting(Flow[Sum]):
            @start()
            def begin(self) -> str:
                heard.append("begin")
                return "begun"

            @listen(begin)
            def go_on(self) -> str:
                heard.append("go on")
                if heard.count("go on") == 1:
                    raise Mine("the first time")
                return "done"

        return Halting(persistence=SQLiteFlowPersistence(str(tmp_path / f"{len(heard)}.db")))

    def work(one: Any) -> Any:
        with pytest.raises(Mine):
            one.kickoff(inputs={"id": "the-flow"})
        return one.kickoff(inputs={"id": "the-flow"})

    traces = both(server, tmp_path, "native", make, work)
    assert [one for one in traces[0].heard if isinstance(one, str)] == ["begin", "go on", "go on"]
    assert_same(*traces)


@pytest.mark.parametrize("inputs", [None, {"id": "the-flow"}], ids=["fresh", "by id"])
def test_failed_run_of_a_flow_resumes_on_the_same_object(
    tmp_path: Path, inputs: dict[str, Any] | None
) -> None:
    """What the failed session left on the object does not count: the journal says what was done."""
    heard: list[str] = []

    class Halting(Flow[dict[str, Any]]):
        @start()
        def begin(self) -> str:
            heard.append("begin")
            self.state["parts"] = 1
            return "begun"

        @listen(begin)
        def go_on(self, said: str) -> list[str]:
            heard.append("go on")
            left = sorted(self.state)
            self.state["half"] = True
            if heard.count("go on") == 1:
                raise Mine(said)
            return left

    made = Halting(persistence=SQLiteFlowPersistence(str(tmp_path / "flow.db")))
    hardened = harden(made, journal=tmp_path / "j.db")
    with pytest.raises(Mine, match="begun"):
        hardened.kickoff(inputs=inputs, run_id="a")
    assert made.state["half"] is True
    assert hardened.kickoff(inputs=inputs, run_id="a") == ["id", "parts"]
    assert heard == ["begin", "go on", "go on"]
    assert hardened.kickoff(inputs=inputs, run_id="a") == ["id", "parts"]


def test_agent_that_is_shown_a_picture(server: Server, tmp_path: Path) -> None:
    """Bytes that are no text pass through the journal; a finished run gives them back."""
    files = {"photo": ImageFile(source=FileBytes(data=PICTURE, filename="photo.png"))}

    def make(server: Server, effects: Effects, path: str, heard: list[Any]) -> Agent:
        server.app.script = Conversation(Rule(answer("a dot")))
        llm = make_llm(server.url, "native", max_retries=0)
        return Agent(role="A", goal="g", backstory="b", llm=llm)

    traces = both(
        server,
        tmp_path,
        "native",
        make,
        lambda one: output_of(one.kickoff("Look", input_files=files)),
    )
    assert_same(*traces)
    hardened = harden(make(server, Effects(tmp_path), "native", []), journal=tmp_path / "j.db")
    first = hardened.kickoff("Look", input_files=files, run_id="a")
    again = hardened.kickoff("Look", input_files=files, run_id="a")
    assert (again.raw, again.messages) == (first.raw, first.messages)


def test_agent_with_a_mock_for_a_model(tmp_path: Path) -> None:
    """A mock that only says that it is a model answers as it does in a bare agent."""
    mock = Mock(spec=LLM, stop=[])
    mock.call.return_value = "Final Answer: mocked"
    mock.supports_function_calling.return_value = False
    mock.supports_stop_words.return_value = True
    mock.get_token_usage_summary.return_value = UsageMetrics()
    one = Agent(role="A", goal="g", backstory="b", llm=mock)
    assert harden(one, journal=tmp_path / "j.db").kickoff("Say").raw == one.kickoff("Say").raw
    assert mock.call.call_count == 2


def test_session_of_hardened_kickoffs(server: Server, tmp_path: Path) -> None:
    """`--harden-crews` makes a run of each outermost kickoff, and of nothing within or after it."""
    journal, effects = tmp_path / "j.db", Effects(tmp_path)
    before = [vars(kind)["kickoff"] for kind in (Crew, Agent)]
    with kickoffs_hardened(journal):
        go(crew(server, effects, "native", []), inputs={"who": "ann"})
        go(agent(server, effects, "native", []), "akickoff", messages="Charge it")
        assert go(flow(server, effects, "native", []), "kickoff_async") == "begin and pay"
    go(crew(server, effects, "native", []), inputs={"who": "ann"})
    assert [vars(kind)["kickoff"] for kind in (Crew, Agent)] == before
    opened = open_journal(journal)
    runs = {opened.run(one.run_id).kind: one.run_id for one in opened.runs()}
    assert sorted(runs) == ["agent", "crew", "flow"]
    assert len(opened.runs()) == 3
    called = {step.name for step in opened.steps(runs["flow"])}
    assert {"begin", "pay", "look_up", "charge"} <= called
