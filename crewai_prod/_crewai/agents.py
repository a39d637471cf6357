"""The seam in front of an agent: what it does is recorded as its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from crewai_prod._crewai.takeover import Seamed, seam_of
from crewai_prod.run import Run, current_scope
from crewai_prod.steps import Scope, path_part


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
    run: Run = seam_of(agent)
    current = current_scope.get()
    scope = current[1] if current is not None and current[0] is run else Scope()
    retry = scope.agent == agent.role and scope.path.endswith("/" + path_part(agent.role))
    inner = scope if retry else scope.of_agent(agent.role)
    run.enter(inner, retry=retry)
    with in_scope(run, inner):
        yield
