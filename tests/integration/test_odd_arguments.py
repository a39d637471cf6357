"""Native tool calls whose arguments are JSON, but no object: bare CrewAI ends the run at them."""

from __future__ import annotations

from pathlib import Path

import pytest
from crewai import Agent, Crew, Task
from crewai.tools import tool

from crewai_prod import harden
from tests.crews import make_llm
from tests.integration.parts import MODES, Mode, go
from tests.openai_server import Conversation, Rule, Server, answer, use


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("odd", ["[1]", "5", '"x"', "null", "true"])
def test_the_model_is_told_and_mends_it(
    server: Server, tmp_path: Path, mode: Mode, odd: str
) -> None:
    """The tool is not called with it; the next call is in order, and so is the answer."""
    called: list[str] = []

    @tool
    def look_up(topic: str) -> str:
        """Look something up."""
        called.append(topic)
        return f"facts about {topic}"

    server.app.script = Conversation(
        Rule(use("look_up", odd), use("look_up", {"topic": "tides"}), answer("done"))
    )
    agent = Agent(role="Clerk", goal="g", backstory="b", llm=make_llm(server.url), tools=[look_up])
    crew = Crew(agents=[agent], tasks=[Task(description="d", expected_output="o", agent=agent)])
    hardened = harden(crew, journal=tmp_path / "runs.db", log=None)
    assert go(hardened, mode, run_id="a").raw == "done"
    assert called == ["tides"]
    assert len(server.requests) == 3
