"""How one seam is probed: a tiny crew runs on a scripted model, and what it did is counted twice.

Rule: what the model and the tools saw, below the seams, must be what the journal holds, to the call
and to the token; no call may have passed the seams; and the finished run, asked for again, must be
handed back without a call. A probe also names where its seam leaves steps: a crew that never came
to that seam proves nothing about it. It needs no network.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from crewai import Agent, Crew, Task
from crewai.events.types.llm_events import LLMCallType
from crewai.llms.base_llm import llm_call_context
from crewai.tools import BaseTool, tool

from crewai_prod._crewai.harden import harden
from crewai_prod._crewai.scripted import Script, ScriptedLLM, usage_of
from crewai_prod.journal import open_journal
from crewai_prod.records import StepKind, StepRecord, StepStatus, TaskStatus

Mode = Literal["kickoff", "kickoff_async", "akickoff"]
_RUN = "probe"
ANSWER = "done"
TOPIC = "tides"


class ProbeLLM(ScriptedLLM):
    """A scripted model that reports its calls on CrewAI's bus, as the providers do."""

    def call(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        """The script's answer, announced before and after."""
        before = self.get_token_usage_summary()
        with llm_call_context():
            self._emit_call_started_event(messages=messages)
            answer = super().call(messages, *args, **kwargs)
            after = self.get_token_usage_summary()
            asked = after.prompt_tokens - before.prompt_tokens
            answered = after.completion_tokens - before.completion_tokens
            self._emit_call_completed_event(
                response=str(answer),
                call_type=LLMCallType.LLM_CALL,
                messages=messages,
                usage={
                    "prompt_tokens": asked,
                    "completion_tokens": answered,
                    "total_tokens": asked + answered,
                },
            )
        return answer

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """The same on a worker thread; not through `self.call`, which may be behind a seam."""
        return await asyncio.to_thread(ProbeLLM.call, self, *args, **kwargs)


@dataclass(slots=True)
class Stage:
    """Where a probe builds what it runs; counts what is asked and done below the seams.

    Attributes:
        native: Whether its models call tools natively.
        spent: Tokens of each model call.
        acted: The tool bodies that ran.
    """

    native: bool = True
    spent: list[int] = field(default_factory=list)
    acted: list[str] = field(default_factory=list)

    def llm(self, script: Script | str = ANSWER) -> ProbeLLM:
        """A model that says this."""

        def counted(messages: Any, tools: Any) -> Any:
            said = say(script, messages, tools) if isinstance(script, str) else None
            said = said if said is not None else script(messages, tools)  # type: ignore[operator]
            self.spent.append(usage_of(messages, said)["total_tokens"])
            return said

        return ProbeLLM(counted, native=self.native)  # type: ignore[call-arg]

    def agent(self, script: Script | str = ANSWER, *tools: BaseTool, **options: Any) -> Agent:
        """An agent with a model of its own."""
        given = {"role": "Clerk", "goal": "g", "backstory": "b", "llm": self.llm(script)}
        return Agent(**{**given, "tools": list(tools), "max_retry_limit": 0, **options})

    def crew(self, *agents: Agent, task: Mapping[str, Any] | None = None, **options: Any) -> Crew:
        """A crew with one task, done by its first agent."""
        given = {"name": "t", "description": "Probe.", "expected_output": "o", "agent": agents[0]}
        one = Task(**{**given, **(task or {})})
        return Crew(**{"name": "probe", "agents": list(agents), "tasks": [one], **options})

    def look(self, body: Callable[[str], str] = str) -> BaseTool:
        """A tool called `look`."""

        @tool
        def look(topic: str) -> str:
            """Look at a topic."""
            self.acted.append("look")
            return body(topic)

        return look


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One seam, and what proves that it takes hold.

    Attributes:
        name: Of the seam, for people.
        make: Builds what is hardened and kicked off.
        mode: How it is kicked off.
        native: On which tool path.
        within: A part of a scope in which the seam must have left a step.
        kind: What kind of step.
        models: How many model calls it makes at least.
        direct: Model calls that it makes past the seams.
        inputs: What it is kicked off with.
    """

    name: str
    make: Callable[[Stage], Any]
    mode: Mode = "kickoff"
    native: bool = True
    within: str = "tasks/0/Clerk"
    kind: StepKind = StepKind.MODEL
    models: int = 1
    direct: int = 0
    inputs: Any = None

    def run(self) -> list[str]:
        """What is wrong; nothing if the seam takes hold."""
        stage = Stage(native=self.native)
        with tempfile.TemporaryDirectory(prefix="crewai-prod-doctor-") as folder:
            path = Path(folder, "journal.db")
            target = self.make(stage)
            hardened = harden(target, journal=path, durability="process", log=None)
            first = self._kick_off(hardened)
            calls, acted = len(stage.spent), len(stage.acted)
            again = self._kick_off(hardened)
            journal = open_journal(path, create=False)
            try:
                steps, tasks = journal.steps(_RUN), journal.tasks(_RUN)
            finally:
                journal.close()
        return [
            *self._counted(steps, calls, acted, sum(stage.spent[:calls])),
            *_differences(
                {
                    "model calls after asking again": (calls, len(stage.spent)),
                    "tool calls after asking again": (acted, len(stage.acted)),
                    "output of the finished run asked for again": (str(first), str(again)),
                    "finished tasks": (
                        len(getattr(target, "tasks", tasks)),
                        sum(task.status is TaskStatus.DONE for task in tasks),
                    ),
                }
            ),
        ]

    def _counted(
        self, steps: Sequence[StepRecord], calls: int, acted: int, spent: int
    ) -> Iterator[str]:
        done = [step for step in steps if step.status is StepStatus.DONE]
        models = [step for step in done if step.kind is StepKind.MODEL and not step.direct]
        tools = [s for s in done if s.kind is StepKind.TOOL and s.effect != "nested"]
        yield from _differences(
            {
                "model calls the journal holds": (calls - self.direct, len(models)),
                "model calls past the seams": (self.direct, sum(step.direct for step in done)),
                "calls of unknown cost": (0, sum(step.unmetered for step in done)),
                "tool calls the journal holds": (acted, len(tools)),
                "tokens on the bill": (spent, sum(s.usage.total_tokens for s in done if s.usage)),
            }
        )
        if calls < self.models:
            yield f"{calls} model calls were made, not {self.models}: this crewai goes another way"
        if not any(self.within in s.scope and s.kind is self.kind for s in done):
            yield f"no {self.kind.value} step in {self.within!r}"

    def _kick_off(self, target: Any) -> Any:
        given: dict[str, Any] = {"run_id": _RUN}
        args = [] if self.inputs is None else [self.inputs]
        if self.mode == "kickoff":
            result = target.kickoff(*args, **given)
        else:
            result = asyncio.run(getattr(target, self.mode)(*args, **given))
        if hasattr(result, "get_full_text"):  # what a streaming crew returns: read it to its end
            for _ in result:
                pass
            result = result.result
        return getattr(result, "raw", result)


def say(text: str, messages: Any, tools: Any) -> str:
    """A final answer on either tool path."""
    in_text = not tools and "Final Answer" in " ".join(str(m.get("content")) for m in messages)
    return f"Thought: I know it.\nFinal Answer: {text}" if in_text else text


def use(name: str, arguments: str) -> Script:
    """Call a tool, then answer; its result ends the conversation."""

    def script(messages: Any, tools: Any) -> Any:
        said = [m for m in messages if m.get("role") == "assistant"]
        if said:
            return say(ANSWER, messages, tools)
        if not tools:
            return f"Thought: I need it.\nAction: {name}\nAction Input: {arguments}"
        function = {"name": name, "arguments": arguments}
        return [{"id": "call_1", "type": "function", "function": function}]

    return script


LOOK = use("look", f'{{"topic": "{TOPIC}"}}')


def _differences(expected: Mapping[str, tuple[Any, Any]]) -> Iterator[str]:
    for what, (wanted, got) in expected.items():
        if got != wanted:
            yield f"{what}: {got!r} in place of {wanted!r}"
