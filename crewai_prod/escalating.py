"""The rules by which a run asks whether it is to go on, at work.

Rule: a person is asked before the next model call, through a question like any other: its row is
committed, the run pauses, and whoever resumes it comes here again. What they have to say is told to
the model in that call, unless it has been told. Who has no rules pays for none of it. Knows nothing
of crewai.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from crewai_prod.approval import QUESTION, Decision, decision_of
from crewai_prod.approving import Asking, required
from crewai_prod.errors import EscalationRejected
from crewai_prod.escalation import Escalation
from crewai_prod.loops import Finding
from crewai_prod.records import ApprovalRecord, StepKind, StepRecord, StepStatus
from crewai_prod.required import succeeded
from crewai_prod.setbacks import work_of
from crewai_prod.steps import Scope, digest
from crewai_prod.walk import Ticket

if TYPE_CHECKING:
    from crewai_prod.run import Run

_NO = "ApprovalRejected"
"""The failure of a call that a person has rejected: that is no setback of the agent's."""


class Escalating:
    """Of one run. Any thread may ask.

    Args:
        run: The run.

    Attributes:
        rules: When a person is asked; None: never.
    """

    def __init__(self, run: Run) -> None:
        self.rules: Escalation | None = None
        self._run = run
        self._applied: set[int] = set()

    def join(self, rules: Escalation | None) -> None:
        """Ask by these rules from now on."""
        self.rules = rules
        if rules is not None and rules.after_failures is not None:
            self._run.setbacks.on = True

    @property
    def of_models(self) -> bool:
        """Whether a model call may be a reason to ask."""
        rules = self.rules
        return rules is not None and (rules.after_failures or rules.at_budget) is not None

    def before_model(self, ticket: Ticket) -> str | None:
        """What people have said that the model has not been told yet; None: nothing.

        Raises:
            ApprovalRequired: A person is to decide first; the run is stopped.
            EscalationRejected: They have said no; the run is stopped.
            CrewProdError: The run was stopped, or the journal could not be read or written.
        """
        if not self.of_models:
            return None
        questions = (self._of_failures(ticket.scope), self._of_budget(ticket))
        notes = (self._untold(one, ticket.scope) for one in questions if one is not None)
        return "\n".join(note for note in notes if note) or None

    def goes_on(self, found: Finding, scope: Scope, decision: int) -> bool:
        """Whether a call that is one of a loop is made all the same, because a person says so.

        Args:
            found: The loop.
            scope: Where.
            decision: How many replies of its model there were.

        Raises:
            ApprovalRequired: A person is to decide first; the run is stopped.
        """
        if self.rules is None or not self.rules.on_loop:
            return False
        facts = {"tool": found.tool, "kind": found.kind, "calls": found.calls}
        question = self._ask(scope, "loop", (found.tool, str(decision)), facts, found.tool)
        return question.verdict == "approved"

    def asked_by_model(self, scope: Scope, step_id: str, tool: str, question: str) -> Decision:
        """What a person answers to an agent's own question.

        Raises:
            ApprovalRequired: Nobody has answered yet; the run is stopped.
        """
        assert self.rules is not None
        return self._run.approving.ask(
            scope,
            kind=QUESTION,
            why="model",
            about=step_id,
            step_id=step_id,
            tool=tool,
            arguments=orjson.dumps({"question": question}).decode(),
            approval=self.rules.approval,
        )

    # -- rules ------------------------------------------------------------------------------------

    def _of_failures(self, scope: Scope) -> ApprovalRecord | None:
        assert self.rules is not None
        if self.rules.after_failures is None:
            return None
        work = replace(scope, path=work_of(scope))
        wrong = self._run.setbacks.of(scope)
        tools = [step for step in self._run.recorded(work) if _is_failed(step)]
        level = self.rules.level(wrong.rejected + wrong.failed_tries + len(tools))
        if not level:
            return None
        facts = {
            "failed_tool_calls": sorted(step.name for step in tools),
            "answers_sent_back": wrong.rejected,
            "failed_tries": wrong.failed_tries,
        }
        return self._decided(self._ask(work, "failures", (str(level),), facts))

    def _of_budget(self, ticket: Ticket) -> ApprovalRecord | None:
        assert self.rules is not None
        if self.rules.at_budget is None:
            return None
        used = self._run.braking.used(ticket)
        if used is None or not self.rules.is_low(used.part):
            return None
        about = (used.scope, used.limit, f"{self.rules.at_budget}")
        return self._decided(self._ask(Scope(), "budget", about, {"used": used.message}))

    # -- inner ------------------------------------------------------------------------------------

    def _ask(
        self,
        scope: Scope,
        why: str,
        about: tuple[str, ...],
        facts: Mapping[str, Any],
        tool: str | None = None,
    ) -> ApprovalRecord:
        """The question as it was decided."""
        assert self.rules is not None
        approving = self._run.approving
        asking = Asking(
            scope=scope,
            kind=QUESTION,
            why=why,
            about=digest(why.encode(), *(one.encode() for one in about)),
            tool=tool,
            arguments=orjson.dumps(dict(facts)).decode(),
        )
        question = approving.put(asking, self.rules.approval)
        if question.verdict is None:
            raise self._run.stop(required(question, self._run.journal.location))
        if question.id not in self._applied:
            self._applied.add(question.id)
            approving.apply(question)
        return question

    def _decided(self, question: ApprovalRecord) -> ApprovalRecord:
        decision = decision_of(question)
        if decision.approved:
            return question
        said = f" They say: {decision.note}" if decision.note else ""
        raise self._run.stop(
            EscalationRejected(
                f"A person was asked whether the run is to go on ({question.why}, question "
                f"{question.id}), and said no.{said}",
                task=question.task,
                agent=question.agent,
                id=question.id,
                why=question.why,
                note=decision.note,
                by=decision.by,
            )
        )

    def _untold(self, question: ApprovalRecord, scope: Scope) -> str | None:
        note = decision_of(question).note
        if note is None or question.answered_at is None:
            return None
        steps = self._run.recorded(replace(scope, path=work_of(scope)))
        since = question.answered_at
        told = any(step.kind is StepKind.MODEL and _is_answered(step, since) for step in steps)
        return None if told else note


def _is_failed(step: StepRecord) -> bool:
    if step.kind is not StepKind.TOOL or step.status is StepStatus.STARTED or succeeded(step):
        return False
    return bool(orjson.loads(step.error or "{}").get("type") != _NO)


def _is_answered(step: StepRecord, since: float) -> bool:
    return step.status is StepStatus.DONE and step.started_at >= since
