"""The seam in front of an agent: what it does is recorded as its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from crewai.utilities.agent_utils import parse_tools

from crewai_prod._crewai.takeover import Seamed, put, seam_of
from crewai_prod._crewai.tools import ToolBench
from crewai_prod.run import Run, current_scope
from crewai_prod.steps import Scope, path_part


@dataclass(frozen=True, slots=True)
class AgentSeam:
    """What an agent needs to know of its run."""

    run: Run
    bench: ToolBench


class RunAgent(Seamed):
    """An agent of a hardened run."""

    def execute_task(self, task: Any, context: Any = None, tools: Any = None) -> Any:
        """The original's, within the agent's scope."""
        with _at_work(self):
            return super().execute_task(task, context, tools)  # type: ignore[misc]

    async def aexecute_task(self, task: Any, context: Any = None, tools: Any = None) -> Any:
        """The original's, within the agent's scope."""
        with _at_work(self):
            return await super().aexecute_task(task, context, tools)  # type: ignore[misc]

    def _execute_and_build_output(self, *args: Any, **kwargs: Any) -> Any:
        """For `Agent.kickoff`; a guardrail's complaint leads here again."""
        begin_again(seam_of(self).run)
        return super()._execute_and_build_output(*args, **kwargs)  # type: ignore[misc]

    async def _execute_and_build_output_async(self, *args: Any, **kwargs: Any) -> Any:
        """The asynchronous twin."""
        begin_again(seam_of(self).run)
        return await super()._execute_and_build_output_async(*args, **kwargs)  # type: ignore[misc]

    def _prepare_kickoff(self, *args: Any, **kwargs: Any) -> Any:
        """For `Agent.kickoff`: also the tools CrewAI adds there are taken over."""
        executor, inputs, info, parsed = super()._prepare_kickoff(*args, **kwargs)  # type: ignore[misc]
        seam: AgentSeam = seam_of(self)
        tools = seam.bench.take(executor.original_tools) or []
        if any(one is not other for one, other in zip(tools, executor.original_tools, strict=True)):
            parsed = parse_tools(tools)
            put(executor, original_tools=tools, tools=parsed)
        return executor, inputs, info, parsed


def begin_again(run: Run) -> None:
    """The agent of this scope is sent to work, perhaps not for the first time."""
    current = current_scope.get()
    if current is not None and current[0] is run:
        run.enter(current[1], retry=False)


@contextmanager
def in_scope(run: Run, scope: Scope) -> Iterator[None]:
    """Make the steps of this block belong to `scope`."""
    token = current_scope.set((run, scope))
    try:
        yield
    finally:
        current_scope.reset(token)


@contextmanager
def _at_work(agent: Any) -> Iterator[None]:
    """The agent's scope. After an error CrewAI calls an agent within itself: it stays there."""
    run = seam_of(agent).run
    current = current_scope.get()
    scope = current[1] if current is not None and current[0] is run else Scope()
    retry = scope.agent == agent.role and scope.path.endswith("/" + path_part(agent.role))
    inner = scope if retry else scope.of_agent(agent.role)
    run.enter(inner, retry=retry)
    with in_scope(run, inner):
        yield
