"""A three-agent crew with effects, its script, and the three kickoffs: what the tests share."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from crewai import Agent, Crew, Task
from crewai.tools import BaseTool, tool

from crewai_prod import _faults, open_journal
from tests.crews import make_llm
from tests.openai_server import Conversation, Reply, Rule, Server, answer, use

Mode = Literal["kickoff", "kickoff_async", "akickoff"]
MODES: tuple[Mode, ...] = ("kickoff", "kickoff_async", "akickoff")
PATHS = ("native", "text")

SCRIPT = Conversation(
    Rule(use("look_up", {"topic": "tides"}), answer("facts about tides"), agent="Researcher"),
    Rule(use("charge", {"amount": 7}), answer("charged 7"), agent="Cashier"),
    Rule(use("send", {"to": "ann"}), answer("sent to ann"), agent="Courier"),
)
REQUESTS = 6
"""Model calls of one uninterrupted run."""

ASKS = Conversation(
    Rule(Reply("an aside"), when=lambda turn: "Aside" in turn.task),
    Rule(use("ask", {"topic": "tides"}), answer("done"), agent="Clerk"),
)
"""A clerk whose tool asks the model something itself: an aside."""


class Effects:
    """A file outside the process's memory in which tools leave a line when they act."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "effects.txt"

    def add(self, line: str) -> None:
        """Act."""
        with self.path.open("a") as file:
            file.write(line + "\n")

    @property
    def lines(self) -> list[str]:
        """What was done so far."""
        return self.path.read_text().splitlines() if self.path.exists() else []


class Send(BaseTool):
    """A tool as a `BaseTool` subclass."""

    name: str = "send"
    description: str = "Send the receipt."
    effects: Any = None

    def _run(self, to: str) -> str:
        self.effects.add(f"send {to}")
        return f"sent to {to}"


def make_tools(effects: Effects) -> list[BaseTool]:
    """A plain function tool, an asynchronous one and a subclass."""

    @tool
    def look_up(topic: str) -> str:
        """Look something up."""
        effects.add(f"look_up {topic}")
        return f"facts about {topic}"

    @tool
    async def charge(amount: int) -> str:
        """Charge a card."""
        await asyncio.sleep(0)
        effects.add(f"charge {amount}")
        return f"charged {amount}"

    return [look_up, charge, Send(effects=effects)]


def make_crew(server: Server, effects: Effects, path: str = "native", **llm: Any) -> Crew:
    """A crew whose three agents share one model, as most do."""
    shared = make_llm(server.url, path, max_retries=0, **llm)  # type: ignore[arg-type]
    names = ("Researcher", "Cashier", "Courier")
    agents = [
        Agent(role=name, goal="g", backstory="b", llm=shared, tools=[one], max_retry_limit=0)
        for name, one in zip(names, make_tools(effects), strict=True)
    ]
    tasks = [
        Task(name=f"t{n}", description=f"Do part {n} for {{who}}", expected_output="o", agent=agent)
        for n, agent in enumerate(agents)
    ]
    return Crew(name="parts", agents=agents, tasks=tasks)


def go(crew: Any, mode: Mode = "kickoff", **arguments: Any) -> Any:
    """Kick a crew off in one of the three ways."""
    if mode == "kickoff":
        return crew.kickoff(**arguments)
    return asyncio.run(getattr(crew, mode)(**arguments))


def total(server: Server) -> int:
    """Tokens the server has sent in all."""
    return server.total_usage.total_tokens


def steps_of(journal: Path, run_id: str) -> list[tuple[str, str, str]]:
    """(kind, name, status) of a run's steps."""
    steps = open_journal(journal).steps(run_id)
    return [(step.kind.value, step.name, step.status.value) for step in steps]


def fail_once(server: Server, fault: Any, when: Callable[[Any], bool]) -> None:
    """Let the first request that fits fail, once and for all processes of the test."""
    failed: list[bool] = []

    def schedule(seen: Any) -> Any:
        if not failed and when(seen):
            failed.append(True)
            return fault
        return None

    server.app.faults = schedule


def nth(number: int) -> Callable[[Any], bool]:
    """True of the `number`-th request alone, counted from 1."""
    counted = itertools.count(1)
    return lambda _: next(counted) == number


def assert_all_metered(journal: Path, run_id: str, *, direct: int = 0) -> None:
    """Assert that no model call passed the seams of a run but `direct` ones that its code made."""
    past = [step for step in open_journal(journal).steps(run_id) if step.direct]
    assert len(past) == direct, f"model calls passed the seams: {past}"
    assert [step for step in past if step.unmetered] == [], "calls of unknown cost"


class Killed(BaseException):
    """The end of a process, as far as this can be had within one: nothing catches it."""


def killed(kickoff: Callable[[], Any], hit: int, point: str = "model.before_call") -> Any:
    """Kick off, killed at the `hit`-th time that a fault point is passed; the result if it is not.

    In a context of its own: CrewAI keeps its open events in one, and the dead close none.
    """

    def kill() -> None:
        raise Killed

    _faults.arm(at=point, k=hit, action=kill)
    try:
        return contextvars.copy_context().run(kickoff)
    finally:
        _faults.disarm()


def killed_before_each_request(kickoff: Callable[[], Any], most: int = 40) -> Any:
    """Kick off again and again, killed before every request but the one it may make; the result."""
    for session in range(most):
        with contextlib.suppress(Killed):
            return killed(kickoff, 2 if session else 1)
    raise AssertionError(f"not done after {most} sessions")
