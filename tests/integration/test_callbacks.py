"""A callback that only looks on does not fail the run that it is told about."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent

from crewai_prod import harden, open_journal
from crewai_prod._crewai.stop import Passing
from tests.crews import make_llm
from tests.integration.parts import MODES, PATHS, REQUESTS, Effects, Mode, go, make_crew
from tests.openai_server import Server

PLACES = ("task", "any task", "step of a crew", "step of an agent")
INPUTS = {"who": "ann"}


class Mine(Exception):
    """An error of the user's own."""


def _fail(told: Any) -> None:
    raise Mine("the dashboard is down")


async def _fail_later(told: Any) -> None:
    raise Mine("the dashboard is down")


def _put(crew: Any, place: str, callback: Callable[..., Any]) -> None:
    if place == "task":
        crew.tasks[1].callback = callback
    elif place == "any task":
        crew.task_callback = callback
    elif place == "step of a crew":
        crew.step_callback = callback
    else:
        crew.agents[1].step_callback = callback


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", MODES)
def test_a_failing_callback(
    server: Server, tmp_path: Path, effects: Effects, place: str, path: str, mode: Mode
) -> None:
    """The run goes on to its end with no request more; the log and the journal say what failed."""
    crew = make_crew(server, effects, path)
    _put(crew, place, _fail)
    hardened = harden(crew, journal=tmp_path / "j.db")
    result = go(hardened, mode, inputs=INPUTS, run_id="a")
    assert (result.raw, len(server.requests)) == ("sent to ann", REQUESTS)
    assert effects.lines == ["look_up tides", "charge 7", "send ann"]
    lines = map(json.loads, (tmp_path / "j.db.log.jsonl").read_text().splitlines())
    failed = [line for line in lines if line["event"] == "callback.failed"]
    assert {line["error.type"] for line in failed} == {"Mine"}
    assert {line["callback"] for line in failed} == {place.partition(" of")[0]}
    run = open_journal(tmp_path / "j.db").run("a")
    assert (run.status.value, run.reason) == ("completed", "degraded")


@pytest.mark.parametrize("place", ["task", "any task", "step of a crew"])
def test_a_failing_coroutine(server: Server, tmp_path: Path, effects: Effects, place: str) -> None:
    """So it is with a callback that is awaited."""
    crew = make_crew(server, effects)
    _put(crew, place, _fail_later)
    result = harden(crew, journal=tmp_path / "j.db").kickoff(inputs=INPUTS, run_id="a")
    assert (result.raw, len(server.requests)) == ("sent to ann", REQUESTS)
    assert open_journal(tmp_path / "j.db").run("a").reason == "degraded"


def test_one_callback_for_both_is_called_once(
    server: Server, tmp_path: Path, effects: Effects
) -> None:
    """CrewAI compares a task's callback with the crew's, and calls what is the same once."""
    heard: list[str] = []

    def hear(output: Any) -> None:
        heard.append(output.name)

    crew = make_crew(server, effects)
    crew.task_callback = crew.tasks[1].callback = hear
    harden(crew, journal=tmp_path / "j.db").kickoff(inputs=INPUTS, run_id="a")
    assert heard == ["t0", "t1", "t2"]


def test_the_users_objects_keep_their_callbacks(
    server: Server, tmp_path: Path, effects: Effects
) -> None:
    """What stands in front of a callback in a run is not left on what the user holds."""
    crew = make_crew(server, effects)
    crew.step_callback = crew.task_callback = crew.tasks[0].callback = print
    hardened = harden(crew, journal=tmp_path / "j.db")
    hardened.kickoff(inputs=INPUTS, run_id="a")
    for one in (crew, hardened):
        assert one.step_callback is one.task_callback is one.tasks[0].callback is print
        assert one.agents[0].step_callback is print


@pytest.mark.parametrize("kind", [Passing, KeyboardInterrupt], ids=["aborted", "interrupted"])
def test_who_means_to_end_the_run_can(
    server: Server, tmp_path: Path, effects: Effects, kind: Any
) -> None:
    """What is raised to end a run ends it, also from a callback."""

    def end(output: Any) -> None:
        raise kind("enough")

    crew = make_crew(server, effects)
    crew.tasks[0].callback = end
    with pytest.raises(kind):
        harden(crew, journal=tmp_path / "j.db").kickoff(inputs=INPUTS, run_id="a")
    assert effects.lines == ["look_up tides"]


def test_an_agent_alone(server: Server, tmp_path: Path) -> None:
    """An agent's own step callback is no other when the agent is kicked off by itself."""
    agent = Agent(
        role="Researcher",
        goal="g",
        backstory="b",
        llm=make_llm(server.url),
        tools=make_crew(server, Effects(tmp_path)).agents[0].tools,
        step_callback=_fail,
    )
    hardened = harden(agent, journal=tmp_path / "j.db")
    assert hardened.kickoff("look", run_id="a").raw == "facts about tides"
    assert (agent.step_callback, hardened.step_callback) == (_fail, _fail)
    assert open_journal(tmp_path / "j.db").run("a").reason == "degraded"
