"""The crew of the batch tests, and a process that runs a batch of it until it is killed."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crewai import Agent, Crew, Task
from crewai.tools import tool

from crewai_prod import harden
from tests.crews import make_llm
from tests.integration.parts import Effects
from tests.openai_server import Conversation, Reply, Rule, Turn, answer, use

REQUESTS = 2
"""Model calls of one item."""


def who(turn: Turn) -> str:
    """For whom the item of this request is."""
    found = re.search(r"Charge (\w+)", turn.task)
    assert found is not None, turn.task
    return found[1]


def script(delay: float = 0.0) -> Conversation:
    """The model charges the item's person, then says so."""

    def ask(turn: Turn) -> Reply:
        return use("charge", {"who": who(turn)}, delay=delay)(turn)

    def say(turn: Turn) -> Reply:
        return answer(f"charged {who(turn)}", delay=delay)(turn)

    return Conversation(Rule(ask, say))


def items(*names: str) -> list[dict[str, str]]:
    """The batch's inputs."""
    return [{"who": name} for name in names]


def make_crew(url: str, effects: Effects, path: str = "native", hook: Any = None) -> Crew:
    """One agent that charges whom it is told; `hook` is called first in the tool's body."""

    @tool
    def charge(who: str) -> str:
        """Charge somebody."""
        if hook is not None:
            hook(who)
        effects.add(f"charge {who}")
        return f"charged {who}"

    llm = make_llm(url, path, max_retries=0)  # type: ignore[arg-type]
    clerk = Agent(role="Clerk", goal="g", backstory="b", llm=llm, tools=[charge], max_retry_limit=0)
    task = Task(description="Charge {who}", expected_output="o", agent=clerk)
    return Crew(name="batch", agents=[clerk], tasks=[task])


def main(url: str, folder: str, names: Sequence[str]) -> None:
    """Run a batch in this process, three items at a time."""
    crew = make_crew(url, Effects(Path(folder)))
    hardened: Any = harden(crew, journal=Path(folder, "runs.db"))
    hardened.kickoff_for_each(inputs=items(*names), run_ids="b", concurrency=3)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
