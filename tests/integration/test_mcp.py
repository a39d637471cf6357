"""MCP tools in a hardened run: one call each, whatever goes wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from crewai import Crew, Task
from crewai.tools.mcp_native_tool import MCPNativeTool
from crewai.tools.mcp_tool_wrapper import MCPToolWrapper

from crewai_prod import Outcome, errors, harden
from crewai_prod._crewai.mcp import calling_once
from crewai_prod.tooling import ToolOptions
from tests.integration.parts import Effects
from tests.integration.shape_trials import Scene
from tests.integration.shapes.outside import call_till, till
from tests.openai_server import Conversation, Rule, Server, answer


@pytest.fixture
def scene(server: Server, tmp_path: Path) -> Scene:
    """A scene with native tool calls."""
    return Scene(server, Effects(tmp_path), "native")


def _crew(scene: Scene, tool: str) -> Crew:
    scene.script(Conversation(Rule(call_till(tool, 7), answer("that is all"))))
    one = scene.agent("Cashier", mcps=[till(scene)])
    return Crew(agents=[one], tasks=[Task(description="Pay", expected_output="o", agent=one)])


def test_a_server_that_dies_in_a_call_is_not_called_again(scene: Scene) -> None:
    """CrewAI would call three times; here the run pauses on the one call, and a person says."""
    options: Any = {
        "journal": scene.folder / "j.db",
        "tools": {"break_down": {"effect": "write"}},
    }
    with pytest.raises(errors.ToolOutcomeUnknown):
        harden(_crew(scene, "break_down"), **options).kickoff(run_id="a")
    assert scene.effects.lines == ["break_down 7"]
    crew = harden(_crew(scene, "break_down"), **options)
    result = crew.kickoff(run_id="a", unknown=Outcome.done("charged 7"))
    assert (result.raw, scene.effects.lines) == ("that is all", ["break_down 7"])
    assert [record.status for record in scene.server.requests] == [200, 200]


def test_a_server_that_refuses_is_called_once_and_the_model_is_told(scene: Scene) -> None:
    """An error that the server reports is an answer: the run goes on from it."""
    result = harden(_crew(scene, "refuse"), journal=scene.folder / "j.db").kickoff(run_id="a")
    assert (result.raw, scene.effects.lines) == ("that is all", ["refuse 7"])
    told = scene.server.requests[-1].body["messages"]
    assert any("no money for 7" in str(message["content"]) for message in told)


def test_a_declared_tool_is_called_with_what_its_server_takes(scene: Scene) -> None:
    """Wrong arguments never reach the server; the model is told, and mends them."""
    crew = _crew(scene, "charge")
    wrong, right = call_till("charge", "seven"), call_till("charge", 7)
    scene.script(Conversation(Rule(wrong, right, answer("that is all"))))
    declared: Any = {"charge": {"effect": "write"}}
    result = harden(crew, journal=scene.folder / "j.db", tools=declared).kickoff(run_id="a")
    assert (result.raw, scene.effects.lines) == ("that is all", ["charge 7"])
    told = [str(message["content"]) for message in scene.server.requests[-1].body["messages"]]
    assert any('amount: expected integer, got "seven".' in text for text in told)


@pytest.mark.parametrize(
    "options", [ToolOptions(effect="read"), ToolOptions(effect="write", idempotent=True)]
)
def test_what_may_be_repeated_keeps_its_retries(options: ToolOptions) -> None:
    """A tool that is declared harmless to repeat is CrewAI's own."""
    tool = MCPNativeTool(object, "read", {}, "server")
    assert calling_once(tool, options) is tool


def test_a_tool_of_an_address_is_called_once() -> None:
    """CrewAI's wrapper for addresses would try three times and call its failure a success."""
    wrapper = MCPToolWrapper({"url": "https://mcp.example"}, "pay", {}, "server")
    tried: list[Any] = []

    async def lose(**arguments: Any) -> str:
        tried.append(arguments)
        raise TimeoutError("connection lost")

    wrapper.__dict__["_execute_tool_with_timeout"] = lose
    with pytest.raises(TimeoutError):
        calling_once(wrapper, ToolOptions())._run(amount=7)
    assert tried == [{"amount": 7}]
