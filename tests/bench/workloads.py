"""Crews and steps with instant models and tools: what remains is framework and journal."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from crewai import Agent, Crew, Task
from crewai.llms.base_llm import BaseLLM
from crewai.tools import BaseTool
from pydantic import PrivateAttr

from crewai_prod._crewai.llm import ModelSeam, take_over_llm
from crewai_prod._crewai.scripted import ScriptedLLM
from crewai_prod._crewai.tools import ToolBench
from crewai_prod.bodies import current_scope
from crewai_prod.journal import Journal
from crewai_prod.logs import open_log
from crewai_prod.records import RunStatus
from crewai_prod.run import Run
from crewai_prod.session import RunRequest, open_session
from crewai_prod.steps import Scope
from crewai_prod.tooling import ToolOptions

ToolPath = Literal["native", "text"]
KILOBYTE = "x" * 1000
READS = {"look_up": {"effect": "read"}}
SCHEMA = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look something up.",
        "parameters": {"type": "object", "properties": {"topic": {"type": "string"}}},
    },
}


class LookUp(BaseTool):
    """Answers with 1 kB at once, and notes when it was asked."""

    name: str = "look_up"
    description: str = "Look something up."
    _asked: list[float] = PrivateAttr(default_factory=list)

    def _run(self, topic: str) -> str:
        self._asked.append(time.perf_counter())
        return f"{topic} ".ljust(1000, "x")

    @property
    def asked(self) -> list[float]:
        """When it was asked."""
        return self._asked


class Talk:
    """A script: so many tool calls, one a turn, then an answer of 1 kB.

    Attributes:
        calls: How often the model was called.
        failing: Whether the last answer is a failure instead: the run ends there, resumable.
    """

    def __init__(self, turns: int, path: ToolPath, *, failing: bool = False) -> None:
        self.turns, self.path, self.failing = turns, path, failing
        self.calls = 0

    def __call__(self, messages: Sequence[Mapping[str, Any]], _: Any) -> Any:
        """Answer as far as the conversation has come."""
        self.calls += 1
        turn = sum(_has_result(message) for message in messages)
        topic = json.dumps({"topic": f"topic {turn}"})
        if turn < self.turns:
            if self.path == "native":
                return [tool_call(f"call_{turn}", topic)]
            return f"Thought: look\nAction: look_up\nAction Input: {topic}"
        if self.failing:
            raise ConnectionError("the model is gone")
        return KILOBYTE if self.path == "native" else f"Thought: done\nFinal Answer: {KILOBYTE}"

    def llm(self) -> ScriptedLLM:
        """A model that says it."""
        return ScriptedLLM(self, native=self.path == "native")


def _has_result(message: Mapping[str, Any]) -> bool:
    said = message.get("content") or ""
    return message["role"] == "tool" or (message["role"] == "assistant" and "Observation:" in said)


def tool_call(name: str, arguments: str) -> dict[str, Any]:
    """A native call of `look_up`."""
    function = {"name": "look_up", "arguments": arguments}
    return {"id": name, "type": "function", "function": function}


def make_crew(llm: BaseLLM, turns: int, tasks: int = 1, **options: Any) -> Crew:
    """A crew of one agent that looks something up so many times in each of its tasks."""
    agent = Agent(
        role="Researcher",
        goal="g",
        backstory="b",
        llm=llm,
        tools=[LookUp()],
        max_iter=3 * turns + 10,
        max_retry_limit=0,
    )
    each = [
        Task(name=f"t{n}", description=f"part {n}", expected_output="o", agent=agent, context=[])
        for n in range(tasks)
    ]
    return Crew(name="bench", agents=[agent], tasks=each, **options)


@contextmanager
def seams(journal: Journal, run_id: str) -> Iterator[tuple[ScriptedLLM, BaseTool]]:
    """A model and a tool behind the seams of an open run, without a crew around them."""

    def log(name: str) -> Any:
        return open_log(run_id=name, journal_path=Path(journal.location))

    run = Run(journal)
    request = RunRequest(run_id=run_id, kind="crew", name="bench", inputs=None, open_log=log)
    open_session(run, request, [])
    bench = ToolBench(run, {"look_up": ToolOptions(effect="read")}, lambda memory: memory)
    tools = bench.take([LookUp()]) or []
    scope = Scope(path="tasks/0/Researcher", task=0, task_name="t0", agent="Researcher")
    token = current_scope.set((run, scope))
    try:
        yield take_over_llm(bare_llm(), ModelSeam(run)), tools[0]  # type: ignore[misc]
    finally:
        current_scope.reset(token)
        run.end(RunStatus.COMPLETED)
        run.log.close()


def bare_llm() -> ScriptedLLM:
    """A model that always answers with the same 1 kB of text."""
    return ScriptedLLM(lambda *_: KILOBYTE, native=True)


def conversation(messages: int, mark: str = "") -> list[dict[str, Any]]:
    """So many messages, tool results of 1 kB among them; `mark` makes the last two new ones."""
    talk = [{"role": "system", "content": "s" * 200}, {"role": "user", "content": "u" * 300}]
    for turn in range((messages - 2) // 2):
        last = 2 * turn + 4 >= messages
        name = f"{mark if last else ''}{turn}"
        talk += [
            {"role": "assistant", "content": None, "tool_calls": [tool_call(name, name)]},  # type: ignore[dict-item]
            {"role": "tool", "tool_call_id": name, "content": name.ljust(1000, "x")},
        ]
    return talk
