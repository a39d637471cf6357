"""Task outputs that a person approves before they count.

Rule: a person is asked last, about an answer that has passed all guardrails of its task, and before
its callback, its file and the next task get to see it. What is rejected goes back to the agent with
the reason, as a guardrail's complaint does, and as often as the task allows
(`guardrail_max_retries`); the same words are not put to a person twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson

from crewai_prod import codec
from crewai_prod._crewai.guardrails import checked
from crewai_prod._crewai.stop import refusing
from crewai_prod.approval import TASK_OUTPUT, Approval
from crewai_prod.run import Run
from crewai_prod.steps import Scope, digest


def approve_output(task: Any, run: Run, scope: Scope) -> None:
    """Have a run's copy of a task ask about its outputs, if they need approval."""
    approval = run.approving.outputs.get(scope.task_name or "")
    if approval is None:
        return
    single = [task._guardrail] if task._guardrail is not None else []
    task._guardrails = [*task._guardrails, *single, checked(_asking(run, scope, approval), run)]
    task._guardrail = None


def _asking(run: Run, scope: Scope, approval: Approval) -> Callable[[Any], tuple[bool, Any]]:
    """The last guardrail of such a task."""

    def approve(output: Any) -> tuple[bool, Any]:
        shown = orjson.dumps({"output": codec.to_tree(output.raw)}).decode()
        with refusing():
            decision = run.approving.ask(
                replace(scope, agent=output.agent),
                kind=TASK_OUTPUT,
                why="declared",
                about=digest(shown.encode()),
                arguments=shown,
                approval=approval,
            )
        if not decision.approved:
            return False, decision.note or "A person has rejected this answer."
        return True, output if decision.edited is None else as_text(decision.edited)

    return approve


def as_text(edited: Any) -> str:
    """What a person has put in an answer's place: a text, or JSON for a form."""
    return edited if isinstance(edited, str) else orjson.dumps(edited).decode()
