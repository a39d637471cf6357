"""What a finished task still owes: tools that had to succeed in it and did not.

Pure: the recorded steps of a task in, what is missing out. Two ask: whoever sends an answer back to
the model before it counts, and the end of the task, which does not let it pass for a success.

Rule: a tool that is declared `required` has to succeed once, and again after it failed. One that is
declared `write` has to be made good if its body ran and failed. A call that was refused before
anything was done (bad arguments, not allowed, not there) leaves nothing to be made good, and what a
person answered for it stands: also that a call is not to be made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import orjson

from crewai_prod.records import StepKind, StepRecord, StepStatus
from crewai_prod.tooling import ToolOptions

REFUSED = "refused"
"""The effect of a step that was not made: the call was not allowed, or could not succeed."""
DECIDED = "decided"
"""In the facts of a failure: a person has said that the model is to be told of it."""
_NOTHING_DONE = frozenset({"ToolInputInvalid", "ToolRejected", "ToolUnavailable"})
_BY_A_PERSON = '"type":"ApprovalRejected"'
_TOOL_FAILURE = '{"$":"tool_failure"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmet:
    """A tool that is missing.

    Attributes:
        tool: Its name.
        step: Its last call, which failed; None: it was never called in earnest.
    """

    tool: str
    step: StepRecord | None = None


def unmet(
    steps: Iterable[StepRecord], declared: Mapping[str, ToolOptions], available: Collection[str]
) -> list[Unmet]:
    """The tools that a task may not be finished without, in the order of their names.

    Args:
        steps: What is recorded within the task, work that was handed on included.
        declared: What is declared about tools, by name; others are not asked for.
        available: The names of the tools that the task itself was given. Of the others nobody can
            be asked to call them.
    """
    last: dict[str, StepRecord] = {}
    for step in sorted(steps, key=lambda step: step.seq):
        options = declared.get(step.name) if step.kind is StepKind.TOOL else None
        if options is not None and (settles(step) or _counts(step, options)):
            last[step.name] = step
    missing = [Unmet(tool=name, step=step) for name, step in last.items() if not settles(step)]
    never = [
        Unmet(tool=name)
        for name, options in declared.items()
        if options.required and name in available and name not in last
    ]
    return sorted(missing + never, key=lambda one: one.tool)


def succeeded(step: StepRecord) -> bool:
    """Whether a call returned, and not with CrewAI's own report of a failure."""
    return step.status is StepStatus.DONE and not reports_failure(step.result)


def settles(step: StepRecord) -> bool:
    """Whether nothing is owed after a call: it succeeded, or a person would not have it made."""
    return succeeded(step) or (step.effect == REFUSED and _BY_A_PERSON in (step.error or ""))


def reports_failure(result: str | None) -> bool:
    """Whether a recorded result is CrewAI's own report of a failure."""
    return result is not None and result.startswith(_TOOL_FAILURE)


def _counts(step: StepRecord, options: ToolOptions) -> bool:
    """Whether a call that did not succeed has to be made good."""
    if options.required:
        return step.effect != REFUSED
    if options.effect != "write" or step.effect == REFUSED or step.status is StepStatus.STARTED:
        return False
    facts = orjson.loads(step.error or "{}")
    return facts.get("type") not in _NOTHING_DONE and not facts.get(DECIDED)
