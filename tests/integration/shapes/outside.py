"""What crews read and call outside: MCP servers, knowledge, files."""

from __future__ import annotations

import base64
import re
import sys
from pathlib import Path
from typing import Any

from crewai import Crew, Task
from crewai.knowledge.knowledge_config import KnowledgeConfig
from crewai.knowledge.source.string_knowledge_source import StringKnowledgeSource
from crewai.mcp import MCPServerStdio
from crewai.utilities.string_utils import sanitize_tool_name
from crewai_files import FileBytes, ImageFile, TextFile

from tests.integration.parts import Mode, go
from tests.integration.shape_trials import Scene, shape
from tests.integration.shapes.memory import EMBEDDER
from tests.openai_script import text_of
from tests.openai_server import ROOT, Conversation, Reply, Rule, Seen, Turn, answer, use


def till(scene: Scene) -> MCPServerStdio:
    """A server that charges cards."""
    environment = {
        "PATH": str(Path(sys.executable).parent),
        "PYTHONPATH": str(ROOT),
        "MCP_EFFECTS": str(scene.effects.path),
    }
    # CrewAI makes the tools' names from command and arguments: the same wherever the tests are.
    return MCPServerStdio(
        command="python",
        args=["-m", "tests.integration.mcp_server"],
        env=environment,
        cache_tools_list=True,
    )


def call_till(tool: str, amount: int | str) -> Any:
    """Have the model call a tool of the server, whatever CrewAI has named it."""

    def say(turn: Turn) -> Any:
        offered = [one["function"]["name"] for one in turn.body.get("tools") or ()]
        offered += re.findall(r"Tool Name: (\S+)", turn.system)
        name = next(one for one in offered if one.endswith(sanitize_tool_name(tool)))
        return use(name, {"amount": amount})(turn)

    return say


@shape(few=True)
def mcp_stdio(scene: Scene) -> Crew:
    """Tools of a real MCP server, a process of its own."""
    scene.script(
        Conversation(
            Rule(call_till("charge", 7), answer("charged seven"), task="Pay"),
        )
    )
    one = scene.agent("Cashier", mcps=[till(scene)])
    task = Task(description="Pay", expected_output="o", agent=one)
    return Crew(agents=[one], tasks=[task])


_ANY = KnowledgeConfig(score_threshold=0.0)
_NO_ASYNC_SEARCH = {
    "akickoff": "under akickoff bare CrewAI finds no knowledge: its client cannot search async"
}
_REWRITE = "The original query is:"


def rewrites(seen: Seen) -> bool:
    """Requests for a search query: when one fails, CrewAI goes on without knowledge."""
    return _REWRITE in text_of(seen.body["messages"][-1])


def _knowing(scene: Scene) -> list[StringKnowledgeSource]:
    known = Rule(
        use("charge", {"amount": 7}),
        answer("charged seven at high tide"),
        when=lambda turn: "at noon" in turn.task,
    )
    scene.script(
        Conversation(Rule(Reply("high tide"), when=lambda turn: _REWRITE in turn.task), known)
    )
    return [StringKnowledgeSource(content="High tide is at noon. Low tide is at six.")]


@shape(few=True, spared=rewrites, cannot=_NO_ASYNC_SEARCH)
def crew_knowledge(scene: Scene) -> Crew:
    """Knowledge of the crew's."""
    sources = _knowing(scene)
    one = scene.agent("Cashier", scene.charge, knowledge_config=_ANY)
    task = Task(description="Pay", expected_output="o", agent=one)
    return Crew(agents=[one], tasks=[task], knowledge_sources=sources, embedder=EMBEDDER)


@shape(few=True, spared=rewrites, cannot=_NO_ASYNC_SEARCH)
def agent_knowledge(scene: Scene) -> Crew:
    """Knowledge of one agent's."""
    sources = _knowing(scene)
    one = scene.agent(
        "Cashier",
        scene.charge,
        knowledge_sources=sources,
        knowledge_config=_ANY,
        embedder=EMBEDDER,
    )
    task = Task(description="Pay", expected_output="o", agent=one)
    return Crew(agents=[one], tasks=[task])


@shape(few=True)
def multimodal_agent(scene: Scene) -> Crew:
    """An agent that looks at a picture with CrewAI's own tool, then charges."""
    picture = {"image_url": "https://pictures.example/receipt.png", "action": "What does it say?"}
    scene.script(
        Conversation(
            Rule(
                use("add_image_to_content", picture),
                use("charge", {"amount": 7}),
                answer("the receipt says seven"),
            )
        )
    )
    model = "gpt-3.5-turbo"  # sees nothing by itself: CrewAI gives it the tool
    llm = scene.llm(model=model if scene.path == "text" else f"openai/{model}")
    one = scene.agent("Cashier", scene.charge, multimodal=True, llm=llm)
    task = Task(description="Pay", expected_output="o", agent=one)
    return Crew(agents=[one], tasks=[task])


_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def _with_files(crew: Any, mode: Mode, given: dict[str, Any]) -> Any:
    picture = ImageFile(source=FileBytes(data=_PIXEL, filename="receipt.png"))
    table = TextFile(source=FileBytes(data=b"tea,7", filename="prices.csv"))
    return go(crew, mode, input_files={"receipt": picture, "prices": table}, **given)


@shape(kickoff=_with_files)
def input_files(scene: Scene) -> Crew:
    """Files given with the inputs: a picture for the model to see, a text for its tool to read."""
    scene.script(
        Conversation(
            Rule(
                use("read_file", {"file_name": "prices"}),
                use("charge", {"amount": 7}),
                answer("the receipt says seven, and so do the prices"),
            )
        )
    )
    one = scene.agent("Cashier", scene.charge)
    task = Task(description="Pay", expected_output="o", agent=one)
    return Crew(agents=[one], tasks=[task])
