"""Task outputs that a person approves before they count.

Rule: a person is asked last, about an answer that has passed all guardrails of its task, and before
its callback, its file and the next task get to see it. What is rejected goes back to the agent with
the reason, as a guardrail's complaint does, and as often as the task allows
(`guardrail_max_retries`); the same words are not put to a person twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import orjson

from crewai_prod import codec
from crewai_prod._crewai.answers import as_text
from crewai_prod._crewai.asking import is_unheard
from crewai_prod._crewai.guardrails import checked
from crewai_prod._crewai.stop import refusing
from crewai_prod._crewai.takeover import put_private
from crewai_prod.approval import HUMAN_INPUT, TASK_OUTPUT, Approval
from crewai_prod.run import Run
from crewai_prod.steps import Scope, digest


def approve_output(task: Any, agent: Any, run: Run, scope: Scope) -> None:
    """Have a run's copy of a task ask about its outputs, if they need approval."""
    approval, kind = run.approving.outputs.get(scope.task_name or ""), TASK_OUTPUT
    if approval is None and task.human_input and is_unheard(agent, run):
        approval, kind = Approval(), HUMAN_INPUT
    if approval is None:
        return
    single = [task._guardrail] if task._guardrail is not None else []
    asking = _Asking(run, scope, kind, approval)
    put_private(
        task,
        _guardrails=[*task._guardrails, *single, checked(asking.judge, run)],
        _guardrail=None,
    )


@dataclass(frozen=True, slots=True)
class _Asking:
    """The last guardrail of such a task."""

    run: Run
    scope: Scope
    kind: str
    approval: Approval

    def judge(self, output: Any) -> tuple[bool, Any]:
        """What a person has decided, as a guardrail says it.

        Raises:
            StopRun: Nobody has yet, and the run waits.
        """
        shown = orjson.dumps({_SHOWN[self.kind]: codec.to_tree(output.raw)}).decode()
        with refusing():
            decision = self.run.approving.ask(
                replace(self.scope, agent=output.agent),
                kind=self.kind,
                why="declared",
                about=digest(shown.encode()),
                arguments=shown,
                approval=self.approval,
            )
        if not decision.approved:
            return False, decision.note or "A person has rejected this answer."
        return True, output if decision.edited is None else as_text(decision.edited)


_SHOWN = {TASK_OUTPUT: "output", HUMAN_INPUT: "answer"}
