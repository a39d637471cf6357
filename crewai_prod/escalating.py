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
from crewai_prod.required import settles
from crewai_prod.setbacks import work_of
from crewai_prod.steps import Scope, digest, lies_in
from crewai_prod.walk import Ticket

if TYPE_CHECKING:
    from crewai_prod.run import Run


class Escalating:
    """Of one run. Any thread may ask.

    Args:
        run: The run.

    Attributes:
        of_models: Whether a model call may be a reason to ask.
    """

    def __init__(self, run: Run) -> None:
        self.of_models = False
        self._run = run
        self._joined: list[tuple[str, Escalation]] = []
        self._applied: set[int] = set()

    def join(self, rules: Escalation | None, path: str = "") -> None:
        """Ask by these rules from now on.

        Args:
            rules: As `harden` was given them.
            path: The scope of what is kicked off within the run; "": all of it.
        """
        if rules is None:
            return
        self._joined.append((path, rules))
        self.of_models |= (rules.after_failures or rules.at_budget) is not None
        self._run.setbacks.on |= rules.after_failures is not None

    def rules(self, scope: Scope) -> Escalation | None:
        """When a person is asked there: by the rules of the innermost kickoff that has any."""
        if not self._joined:
            return None
        here = [one for one in self._joined if not one[0] or lies_in(scope.path, one[0])]
        return max(here, key=lambda one: len(one[0]))[1] if here else None

    def before_model(self, ticket: Ticket) -> str | None:
        """What people have said that the model has not been told yet; None: nothing.

        Raises:
            ApprovalRequired: A person is to decide first; the run is stopped.
            EscalationRejected: They have said no; the run is stopped.
            CrewProdError: The run was stopped, or the journal could not be read or written.
        """
        rules = self.rules(ticket.scope)
        if rules is None:
            return None
        questions = (self._of_failures(rules, ticket.scope), self._of_budget(rules, ticket))
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
        rules = self.rules(scope)
        if rules is None or not rules.on_loop:
            return False
        facts = {"tool": found.tool, "kind": found.kind, "calls": found.calls}
        question = self._ask(rules, scope, "loop", (found.tool, str(decision)), facts, found.tool)
        return question.verdict == "approved"

    def asked_by_model(self, scope: Scope, step_id: str, tool: str, question: str) -> Decision:
        """What a person answers to an agent's own question.

        Raises:
            ApprovalRequired: Nobody has answered yet; the run is stopped.
        """
        rules = self.rules(scope)
        return self._run.approving.ask(
            scope,
            kind=QUESTION,
            why="model",
            about=step_id,
            step_id=step_id,
            tool=tool,
            arguments=orjson.dumps({"question": question}).decode(),
            approval=None if rules is None else rules.approval,
        )

    # -- rules ------------------------------------------------------------------------------------

    def _of_failures(self, rules: Escalation, scope: Scope) -> ApprovalRecord | None:
        if rules.after_failures is None:
            return None
        work = replace(scope, path=work_of(scope))
        wrong = self._run.setbacks.of(scope)
        tools = [step for step in self._run.recorded(work) if _is_failed(step)]
        level = rules.level(wrong.rejected + wrong.failed_tries + len(tools))
        if not level:
            return None
        facts = {
            "failed_tool_calls": sorted(step.name for step in tools),
            "answers_sent_back": wrong.rejected,
            "failed_tries": wrong.failed_tries,
        }
        return self._decided(self._ask(rules, work, "failures", (str(level),), facts))

    def _of_budget(self, rules: Escalation, ticket: Ticket) -> ApprovalRecord | None:
        if rules.at_budget is None:
            return None
        used = self._run.braking.used(ticket)
        if used is None or not rules.is_low(used.part):
            return None
        about = (used.scope, used.limit, f"{rules.at_budget}")
        return self._decided(self._ask(rules, Scope(), "budget", about, {"used": used.message}))

    # -- inner ------------------------------------------------------------------------------------

    def _ask(
        self,
        rules: Escalation,
        scope: Scope,
        why: str,
        about: tuple[str, ...],
        facts: Mapping[str, Any],
        tool: str | None = None,
    ) -> ApprovalRecord:
        """The question as it was decided."""
        approving = self._run.approving
        asking = Asking(
            scope=scope,
            kind=QUESTION,
            why=why,
            about=digest(why.encode(), *(one.encode() for one in about)),
            tool=tool,
            arguments=orjson.dumps(dict(facts)).decode(),
        )
        question = approving.put(asking, rules.approval)
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
    """Whether it is a setback of the agent's; that a person rejects a call is none."""
    ended = step.kind is StepKind.TOOL and step.status is not StepStatus.STARTED
    return ended and not settles(step)


def _is_answered(step: StepRecord, since: float) -> bool:
    return step.status is StepStatus.DONE and step.started_at >= since
