"""A tool's result that a model made up never passes for one: the tool is really called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from crewai import Agent, Crew, Task

from crewai_prod import harden, open_journal
from tests.crews import make_llm
from tests.integration.parts import (
    MODES,
    Effects,
    Mode,
    go,
    killed_before_each_request,
    make_tools,
    total,
)
from tests.openai_server import Conversation, Reply, Rule, Server, final

INVENTED = (
    'Thought: I pay\nAction: charge\nAction Input: {"amount": 7}\n'
    "**Observation:** charged 7, receipt 4711\nThought: done\nFinal Answer: paid, receipt 4711"
)
"""CrewAI has the provider stop at a plain `Observation:`, where it can; at no other spelling."""
SCRIPT = Conversation(Rule(Reply(INVENTED), final("charged 7"), agent="Cashier"))


def _agent(server: Server, effects: Effects, **llm: object) -> Agent:
    tools = [one for one in make_tools(effects) if one.name == "charge"]
    llm_of = make_llm(server.url, "text", **llm)  # type: ignore[arg-type]
    return Agent(role="Cashier", goal="g", backstory="b", llm=llm_of, tools=tools)


def _crew(server: Server, effects: Effects, **llm: object) -> Crew:
    agent = _agent(server, effects, **llm)
    return Crew(agents=[agent], tasks=[Task(description="d", expected_output="o", agent=agent)])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("mode", MODES)
def test_the_tool_is_called(server: Server, tmp_path: Path, mode: Mode, stream: bool) -> None:
    """The invention is cut, the tool acts, and the model answers what it was told by the tool."""
    server.app.script, effects = SCRIPT, Effects(tmp_path)
    crew = harden(_crew(server, effects, stream=stream), journal=tmp_path / "j.db")
    result = go(crew, mode, run_id="a")
    assert (result.raw, effects.lines) == ("charged 7", ["charge 7"])
    assert [step.kind.value for step in open_journal(tmp_path / "j.db").steps("a")] == [
        "model",
        "tool",
        "model",
    ]
    assert "4711" not in str(server.requests[-1])


def test_what_was_said_is_recorded_and_logged(server: Server, tmp_path: Path) -> None:
    """The journal keeps the whole reply; a line in the log says that it was cut."""
    server.app.script, effects = SCRIPT, Effects(tmp_path)
    harden(_crew(server, effects), journal=tmp_path / "j.db").kickoff(run_id="a")
    first = open_journal(tmp_path / "j.db").steps("a")[0]
    assert json.loads(first.result or "") == INVENTED
    lines = (tmp_path / "j.db.log.jsonl").read_text().splitlines()
    (cut,) = [line for line in map(json.loads, lines) if line["event"] == "tool.invented"]
    assert cut["gen_ai.agent.name"] == "Cashier"
    assert cut["tool.invented_chars"] == len(INVENTED) - INVENTED.index("\n**Observation")


def test_killed_before_each_request(server: Server, tmp_path: Path) -> None:
    """A recorded reply is cut as the live one was: nothing is asked or done twice."""
    server.app.script, effects = SCRIPT, Effects(tmp_path)
    crew = harden(_crew(server, effects), journal=tmp_path / "j.db")
    result = killed_before_each_request(lambda: crew.kickoff(run_id="a"))
    assert (result.raw, effects.lines) == ("charged 7", ["charge 7"])
    assert (len(server.requests), result.token_usage.total_tokens) == (2, total(server))


@pytest.mark.parametrize("mode", MODES)
def test_an_agent_alone(server: Server, tmp_path: Path, mode: Mode) -> None:
    """The same holds for an agent that is kicked off by itself."""
    server.app.script, effects = SCRIPT, Effects(tmp_path)
    agent = harden(_agent(server, effects), journal=tmp_path / "j.db")
    result = go(agent, mode, messages="pay", run_id="a")
    assert (result.raw, effects.lines) == ("charged 7", ["charge 7"])


def test_native_answers_are_left_alone(server: Server, tmp_path: Path) -> None:
    """With native tools a text names none: an answer that tells of such a talk is an answer."""
    server.app.script, effects = Conversation(Rule(Reply(INVENTED))), Effects(tmp_path)
    crew = _crew(server, effects)
    crew.agents[0].llm = make_llm(server.url)
    result = harden(crew, journal=tmp_path / "j.db").kickoff(run_id="a")
    assert (result.raw, effects.lines) == (INVENTED, [])
