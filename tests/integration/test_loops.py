"""An agent that calls tools in a loop: told, then without the tool, then the run is stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from crewai import Agent, Crew, Task
from crewai.agent.planning_config import PlanningConfig
from crewai.tools import BaseTool, tool

from crewai_prod import Loops, harden, open_journal
from crewai_prod import tool as typed_tool
from crewai_prod.errors import LoopDetected
from crewai_prod.records import RunStatus
from tests.crews import make_llm
from tests.integration.parts import (
    MODES,
    PATHS,
    Effects,
    Killed,
    Mode,
    go,
    killed,
    killed_before_each_request,
)
from tests.openai_server import Conversation, Reply, Rule, Server, Turn, answer, call, calls, use


def make_tools(effects: Effects) -> list[BaseTool]:
    """Two tools that read."""

    @tool
    def look(topic: str) -> str:
        """Look something up."""
        effects.add(f"look {topic}")
        return "nothing found"

    @tool
    def check(name: str) -> str:
        """Check how far something is."""
        effects.add(f"check {name}")
        return "pending"

    return [look, check]


def make_crew(server: Server, path: str, tools: list[BaseTool], *, cache: bool = True) -> Crew:
    """A clerk with some tools, whose results are cached or not."""
    llm = make_llm(server.url, path, max_retries=0)  # type: ignore[arg-type]
    clerk = Agent(role="Clerk", goal="g", backstory="b", llm=llm, tools=tools, cache=cache)
    task = Task(name="t", description="Find out.", expected_output="o", agent=clerk)
    return Crew(name="clerks", agents=[clerk], tasks=[task], cache=cache)


def says(*uses: Any) -> Conversation:
    """A model that answers these, the last one again and again."""
    return Conversation(Rule(*uses))


SAME = says(use("look", {"topic": "tides"}))
IN_TURN = says(*[use("look", {"topic": "tides"}), use("check", {"name": "x"})] * 12)
ALWAYS_ANOTHER = says(*[use("look", {"topic": f"topic {n}"}) for n in range(99)])
READS = {name: {"effect": "read"} for name in ("look", "check")}


def said_last(server: Server) -> str:
    """All that was said in the last request."""
    return "\n".join(str(m.get("content")) for m in server.requests[-1].body["messages"])


def found(log: Path) -> list[tuple[str, str, str]]:
    """(kind, rung, tool) of the loops in a log."""
    lines = map(orjson.loads, log.read_text().splitlines())
    return [
        (one["loop.kind"], one["loop.rung"], one["gen_ai.tool.name"])
        for one in lines
        if one["event"] == "loop.detected"
    ]


LADDER = ["told", "withheld", "stopped"]


@pytest.mark.parametrize(
    ("path", "mode", "cache"),
    [*[(path, mode, True) for path in PATHS for mode in MODES], ("native", "kickoff", False)],
)
def test_the_same_call_again_and_again(tmp_path: Path, path: str, mode: Mode, cache: bool) -> None:
    """Four are answered, by the tool, a cache or CrewAI; then the ladder; resuming is free."""
    effects, log = Effects(tmp_path), tmp_path / "log"
    with Server(SAME) as server:
        bare = make_crew(server, path, make_tools(effects), cache=cache)
        crew = harden(bare, journal=tmp_path / "j.db", log=log, tools=READS, durability="process")
        with pytest.raises(LoopDetected) as caught:
            go(crew, mode, run_id="r")
        assert server.total_usage.requests == 7
        with pytest.raises(LoopDetected):
            go(crew, mode, run_id="r")
        assert server.total_usage.requests == 7
        told = said_last(server)
    assert "has been called with these arguments 4 times" in told
    assert "not available for the rest of this task" in told
    assert caught.value.fields == {"kind": "exact", "tool": "look", "calls": 4}
    assert (caught.value.task, caught.value.agent) == ("t", "Clerk")
    assert [rung for _, rung, _ in found(log)[:3]] == LADDER
    assert len(effects.lines) == (1 if cache else 4)
    assert open_journal(tmp_path / "j.db").run("r").status is RunStatus.FAILED


@pytest.mark.parametrize(
    ("path", "kind", "script", "calls"),
    [
        ("native", "ping_pong", IN_TURN, 4 + 3),
        ("text", "ping_pong", IN_TURN, 4 + 3),
        ("native", "varied", ALWAYS_ANOTHER, 3 + 1 + 3 + 2),
    ],
)
def test_other_loops(tmp_path: Path, path: str, kind: str, script: Any, calls: int) -> None:
    """Two calls in turn; other arguments that all come to the same, or of one tool alone."""
    log = tmp_path / "log"
    only = Loops(**{"exact": None, "ping_pong": None, "no_progress": None, "varied": None, kind: 3})
    only = replace(only, ping_pong=2) if kind == "ping_pong" else only
    with Server(script) as server:
        bare = make_crew(server, path, make_tools(Effects(tmp_path)))
        crew = harden(bare, journal=tmp_path / "j.db", log=log, tools=READS, loops=only)
        with pytest.raises(LoopDetected):
            crew.kickoff(run_id="r")
        assert server.total_usage.requests == calls
    assert {one[0] for one in found(log)} == {kind}
    assert [rung for _, rung, _ in found(log)] == LADDER


@pytest.mark.parametrize("path", PATHS)
def test_a_model_that_listens_goes_on(tmp_path: Path, path: str) -> None:
    """Told once, it does something else: the run is done, and neither failed nor degraded."""
    look, check = use("look", {"topic": "tides"}), use("check", {"name": "x"})
    effects = Effects(tmp_path)
    with Server(says(*[look] * 5, check, answer("done"))) as server:
        crew = harden(make_crew(server, path, make_tools(effects)), journal=tmp_path / "j.db")
        assert crew.kickoff(run_id="r").raw == "done"
    assert effects.lines == ["look tides", "check x"]
    run = open_journal(tmp_path / "j.db").run("r")
    assert (run.status, run.reason) == (RunStatus.COMPLETED, None)


@pytest.mark.parametrize(
    ("path", "script", "rules", "requests", "acted"),
    [
        ("native", SAME, Loops(exact=2), 5, ["look tides"]),
        ("text", SAME, Loops(exact=2), 5, ["look tides"]),
        (
            "native",
            ALWAYS_ANOTHER,
            Loops(no_progress=3),
            9,
            [f"look topic {n}" for n in (0, 1, 2, 4, 5, 6)],
        ),
    ],
)
def test_a_kill_forgets_no_call_and_counts_none_twice(
    tmp_path: Path, path: str, script: Any, rules: Loops, requests: int, acted: list[str]
) -> None:
    """Killed before every request: the same calls, the same rungs, at the same places."""
    log, effects = tmp_path / "log", Effects(tmp_path)
    with Server(script) as server:
        bare = make_crew(server, path, make_tools(effects))
        crew = harden(
            bare,
            journal=tmp_path / "j.db",
            loops=rules,
            tools=READS,
            log=log,
            durability="process",
        )
        with pytest.raises(LoopDetected):
            killed_before_each_request(lambda: crew.kickoff(run_id="r"))
        assert server.total_usage.requests == requests
    assert effects.lines == acted
    assert list(dict.fromkeys(rung for _, rung, _ in found(log))) == LADDER


def test_other_rules_go_on_with_a_stopped_run(tmp_path: Path) -> None:
    """What was refused stays so; the call at which the run was stopped is made."""
    effects = Effects(tmp_path)
    look = use("look", {"topic": "tides"})
    with Server(says(*[look] * 4, answer("done"))) as server:
        bare = make_crew(server, "native", make_tools(effects), cache=False)
        tools = {**READS, "look": {"effect": "read", "loop_after": 1}}
        with pytest.raises(LoopDetected):
            harden(bare, journal=tmp_path / "j.db", tools=tools).kickoff(run_id="r")
        assert (effects.lines, server.total_usage.requests) == (["look tides"], 4)
        crew = harden(bare, journal=tmp_path / "j.db", tools=tools, loops=False)
        assert crew.kickoff(run_id="r").raw == "done"
        assert server.total_usage.requests == 5
    assert effects.lines == ["look tides"] * 2


def test_calls_of_one_reply_are_one_decision(tmp_path: Path) -> None:
    """Many at once are no loop, and of those that are refused together the model is told once."""
    log = tmp_path / "log"
    many = calls([("look", {"topic": f"topic {n}"}) for n in range(8)])
    script = Conversation(Rule(many, many, answer("done")))
    with Server(script) as server:
        bare = make_crew(server, "native", make_tools(Effects(tmp_path)), cache=False)
        tools = {name: {"effect": "read", "loop_after": 1} for name in READS}
        crew = harden(bare, journal=tmp_path / "j.db", log=log, tools=tools)
        assert crew.kickoff(run_id="r").raw == "done"
    assert {rung for _, rung, _ in found(log)} == {"told"}
    assert len(found(log)) == 8


# -- tools that are polled ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "mode", "declared"),
    [
        *(("native", mode, "tool") for mode in MODES),
        *(("text", mode, "harden") for mode in MODES),
    ],
)
def test_a_tool_that_is_polled_is_called_each_time(
    tmp_path: Path, path: str, mode: Mode, declared: str
) -> None:
    """Neither CrewAI's cache nor its counts nor ours keep it from it, nor does a kill."""
    effects = Effects(tmp_path)
    looks = [use("check", {"name": "x"})] * 8
    check: BaseTool = make_tools(effects)[1]
    if declared == "tool":
        check, said = typed_tool(check, effect="read", polling=True), {}
    else:
        said = {"check": {"effect": "read", "polling": True}}
    with Server(says(*looks, answer("done"))) as server:
        bare = make_crew(server, path, [check])
        crew = harden(bare, journal=tmp_path / "j.db", tools=said, durability="process")
        with pytest.raises(Killed):
            killed(lambda: go(crew, mode, run_id="r"), 6)
        assert go(crew, mode, run_id="r").raw == "done"
        assert server.total_usage.requests == 9
    assert effects.lines == ["check x"] * 8


def test_what_is_not_polled_is_still_answered_by_crewai(tmp_path: Path) -> None:
    """On the text path, where it answers a call that is made twice in a row itself."""
    effects = Effects(tmp_path)
    look = use("look", {"topic": "tides"})
    with Server(says(look, look, answer("done"))) as server:
        bare = make_crew(server, "text", make_tools(effects))
        crew = harden(bare, journal=tmp_path / "j.db", tools={"check": {"polling": True}})
        assert crew.kickoff(run_id="r").raw == "done"
        assert "I tried reusing the same input" in said_last(server)
    assert effects.lines == ["look tides"]


_PLAN = {
    "plan": "check, then say so",
    "steps": [
        {"step_number": 1, "description": "Check it", "tool_to_use": "check", "depends_on": []},
    ],
    "ready": True,
}
_OBSERVED = {
    "step_completed_successfully": True,
    "key_information_learned": "pending",
    "remaining_plan_still_valid": True,
    "needs_full_replan": False,
}


def _planning(turn: Turn) -> bool:
    """Whether a plan is asked for."""
    return "create_reasoning_plan" in str(turn.body.get("tools"))


def test_a_tool_is_polled_within_a_step_of_a_plan(tmp_path: Path) -> None:
    """Where CrewAI counts equal calls anew for each step."""
    effects = Effects(tmp_path)
    script = Conversation(
        Rule(call("create_reasoning_plan", _PLAN), when=_planning),
        Rule(Reply(orjson.dumps(_OBSERVED).decode()), when=lambda turn: bool(turn.schema)),
        Rule(*[use("check", {"name": "x"})] * 7, answer("pending"), task="## Current Step"),
        Rule(answer("done")),
    )
    with Server(script) as server:
        bare = make_crew(server, "native", make_tools(effects))
        bare.agents[0].planning_config = PlanningConfig(max_attempts=1)
        polled = {"check": {"effect": "read", "polling": True}}
        crew = harden(bare, journal=tmp_path / "j.db", tools=polled)
        crew.kickoff(run_id="r")
    assert effects.lines == ["check x"] * 7
