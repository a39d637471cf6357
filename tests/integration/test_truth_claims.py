"""An answer that tells of work no tool has done is sent back, and never counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Process, Task

from crewai_prod import harden, open_journal
from crewai_prod.errors import ToolFailed, UnverifiedToolClaim
from tests.crews import make_llm
from tests.integration.parts import (
    MODES,
    PATHS,
    Effects,
    Mode,
    assert_all_metered,
    go,
    killed_before_each_request,
    make_tools,
    total,
)
from tests.openai_server import Conversation, Rule, Server, Turn, answer, use

TOOLS = {"charge": {"effect": "write", "idempotent": True, "required": True}}
REASON = "no successful call is on record"


def _agent(server: Server, effects: Effects, path: str, role: str = "Cashier") -> Agent:
    tools = [one for one in make_tools(effects) if one.name == "charge"]
    llm = make_llm(server.url, path, max_retries=0)  # type: ignore[arg-type]
    return Agent(role=role, goal="g", backstory="b", llm=llm, tools=tools)


def _crew(server: Server, effects: Effects, path: str) -> Crew:
    agent = _agent(server, effects, path)
    task = Task(name="pay", description="d", expected_output="o", agent=agent)
    return Crew(agents=[agent], tasks=[task])


def _complaints(turn: Turn) -> int:
    """How often the model was told that no call is on record."""
    return json.dumps(turn.body["messages"]).count(REASON)


def _lies(times: int) -> Conversation:
    """A cashier that claims so many times to have charged, then does it."""
    charge = use("charge", {"amount": 7})

    def cashier(turn: Turn) -> Any:
        if turn.results:
            return answer("charged 7")(turn)
        claimed = f"charged 7, receipt {_complaints(turn)}"
        return charge(turn) if _complaints(turn) >= times else answer(claimed)(turn)

    return Conversation(Rule(cashier))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", MODES)
def test_a_claim_is_sent_back(
    server: Server, tmp_path: Path, effects: Effects, path: str, mode: Mode
) -> None:
    """The model is told in its conversation, the tool is called, and the answer is a true one."""
    server.app.script = _lies(2)
    crew = harden(_crew(server, effects, path), journal=tmp_path / "j.db", tools=TOOLS)
    result = go(crew, mode, run_id="a")
    assert (result.raw, effects.lines) == ("charged 7", ["charge 7"])
    assert len(server.requests) == 4
    said = json.dumps(server.requests[2].body["messages"])
    assert ("receipt 0" in said, "receipt 1" in said) == (True, True), "its own answers are told"
    assert_all_metered(tmp_path / "j.db", "a")
    lines = map(json.loads, (tmp_path / "j.db.log.jsonl").read_text().splitlines())
    rejected = [one for one in lines if one["event"] == "answer.rejected"]
    assert [(one["rejected.why"], one["attempt"]) for one in rejected] == [
        ("claim", 1),
        ("claim", 2),
    ]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", MODES)
def test_who_never_takes_it_back(
    server: Server, tmp_path: Path, effects: Effects, path: str, mode: Mode
) -> None:
    """The run stops; each resume asks for one more answer, until the tool is called."""
    server.app.script = _lies(99)
    crew = harden(_crew(server, effects, path), journal=tmp_path / "j.db", tools=TOOLS)
    for asked in (3, 4):
        with pytest.raises(UnverifiedToolClaim, match="charge") as failed:
            go(crew, mode, run_id="a")
        assert len(server.requests) == asked
        assert (failed.value.fields["tools"], failed.value.fields["attempts"]) == (["charge"], 3)
        assert (failed.value.task, failed.value.agent) == ("pay", "Cashier")
    server.app.script = _lies(2)
    assert go(crew, mode, run_id="a").raw == "charged 7"
    assert (len(server.requests), effects.lines) == (6, ["charge 7"])


@pytest.mark.parametrize("path", PATHS)
def test_killed_before_each_request(
    server: Server, tmp_path: Path, effects: Effects, path: str
) -> None:
    """A run that is killed in between is told the same again, and pays for nothing twice."""
    server.app.script = _lies(1)
    crew = harden(_crew(server, effects, path), journal=tmp_path / "j.db", tools=TOOLS)
    result = killed_before_each_request(lambda: crew.kickoff(run_id="a"))
    assert (result.raw, effects.lines, len(server.requests)) == ("charged 7", ["charge 7"], 3)
    assert result.token_usage.total_tokens == total(server)


def test_a_tool_that_failed_is_no_call(server: Server, tmp_path: Path, effects: Effects) -> None:
    """A call that came to nothing does not make the claim true."""
    crew = _crew(server, effects, "native")

    def fail(amount: int) -> str:
        raise ConnectionError("no line")

    [charging] = crew.agents[0].tools or []
    charging.func = fail
    charge = use("charge", {"amount": 7})
    server.app.script = Conversation(Rule(charge, answer("charged 7")))
    options = {"charge": {"effect": "read", "required": True}}
    hardened = harden(crew, journal=tmp_path / "j.db", tools=options)
    with pytest.raises(ToolFailed, match="had to succeed"):
        hardened.kickoff(run_id="a")
    assert open_journal(tmp_path / "j.db").run("a").status.value != "completed"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", MODES)
def test_an_agent_alone(
    server: Server, tmp_path: Path, effects: Effects, path: str, mode: Mode
) -> None:
    """So it is for an agent that is kicked off by itself."""
    server.app.script = _lies(1)
    agent = harden(_agent(server, effects, path), journal=tmp_path / "j.db", tools=TOOLS)
    result = go(agent, mode, messages="pay", run_id="a")
    assert (result.raw, effects.lines, len(server.requests)) == ("charged 7", ["charge 7"], 3)


def _hierarchy(server: Server, effects: Effects, path: str) -> Crew:
    llm = make_llm(server.url, path, max_retries=0)  # type: ignore[arg-type]
    return Crew(
        agents=[_agent(server, effects, path)],
        tasks=[Task(name="pay", description="Collect", expected_output="o")],
        process=Process.hierarchical,
        manager_llm=llm,
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", MODES)
def test_a_manager_that_asks_nobody(
    server: Server, tmp_path: Path, effects: Effects, path: str, mode: Mode
) -> None:
    """The tools are its coworker's: it may not answer before somebody has called them."""
    delegate = use(
        "delegate_work_to_coworker", {"task": "Pay 7", "context": "c", "coworker": "Cashier"}
    )

    def manager(turn: Turn) -> Any:
        if turn.results:
            return answer("all paid")(turn)
        told = "nobody has done this work" in json.dumps(turn.body["messages"])
        return delegate(turn) if told else answer("paid, believe me")(turn)

    server.app.script = Conversation(Rule(manager, task="Collect"), *_lies(1).rules)
    crew = harden(_hierarchy(server, effects, path), journal=tmp_path / "j.db", tools=TOOLS)
    result = go(crew, mode, run_id="a")
    assert (result.raw, effects.lines) == ("all paid", ["charge 7"])
    assert len(server.requests) == 6, "two of the manager's claims and one of the worker's"


def test_a_tool_that_is_not_required(server: Server, tmp_path: Path, effects: Effects) -> None:
    """Where nothing is required nothing is sent back: the answer is the model's own affair."""
    server.app.script = _lies(99)
    crew = harden(_crew(server, effects, "native"), journal=tmp_path / "j.db")
    assert crew.kickoff(run_id="a").raw == "charged 7, receipt 0"
    assert len(server.requests) == 1
