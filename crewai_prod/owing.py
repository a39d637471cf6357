"""The end of a task: it does not pass for a success while a tool that had to succeed has not.

The run is stopped there and can be resumed: it goes on at the call that failed, which is made anew,
or has the model answer anew if there was no call. Knows nothing of crewai.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import orjson

from crewai_prod.errors import ToolFailed
from crewai_prod.failures import revive, said_by
from crewai_prod.records import StepRecord
from crewai_prod.required import Unmet, unmet
from crewai_prod.run import Run
from crewai_prod.steps import Scope
from crewai_prod.tooling import ToolOptions


def demand(
    run: Run,
    scope: Scope,
    agent: str | None,
    declared: Mapping[str, ToolOptions],
    available: Collection[str],
) -> None:
    """Refuse to finish a task in which a tool that had to succeed did not.

    Args:
        run: The run.
        scope: Of the task.
        agent: Role of its agent.
        declared: What is declared about the tools that were used in it, by name.
        available: The names of those that the task was given.

    Raises:
        ToolFailed: A tool is missing; the run is stopped.
    """
    missing = unmet(run.recorded(scope), declared, available)
    if not missing:
        return
    if missing[0].step is None:
        run.distrust_last_answer(scope.of_agent(agent) if agent else scope)
    run.have_redone([one.step.step_id for one in missing if one.step is not None])
    raise run.stop(_failure(missing, scope, agent))


def _failure(missing: list[Unmet], scope: Scope, agent: str | None) -> ToolFailed:
    tool, step = missing[0].tool, missing[0].step
    cause = _cause(step)
    why = "was never called" if step is None else "reported a failure"
    if cause is not None:
        why = f"raised {said_by(cause)}"
    failure = ToolFailed(
        f"Tool {tool!r} had to succeed in this task, and {why}.",
        task=scope.task_name,
        agent=(step.agent if step else None) or agent,
        step_id=step.step_id if step else None,
        tools=[one.tool for one in missing],
    )
    failure.__cause__ = cause
    return failure


def _cause(step: StepRecord | None) -> Exception | None:
    """What a recorded call raised."""
    facts = orjson.loads(step.error) if step is not None and step.error is not None else {}
    return revive(facts) if facts else None
