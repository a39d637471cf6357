"""Between a run and the people it asks: a question is a row, and the run waits for its answer.

Rule: the row is committed, then the run is stopped with `ApprovalRequired`, and nothing of what is
asked about has happened by then. Whoever resumes the run, in whichever process and however much
later, gets there again and finds the answer. A question that nobody has answered in time takes its
default, here as well as where it is answered late. Knows nothing of crewai.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from crewai_prod import codec
from crewai_prod.approval import (
    BUDGET,
    QUESTION,
    TOOL,
    UNKNOWN,
    Approval,
    Decision,
    Form,
    covered_by,
    decision_of,
    expiry,
    is_expired,
    merged,
    reason_to_ask,
    who_may,
)
from crewai_prod.concealing import mask
from crewai_prod.errors import ApprovalRejected, ApprovalRequired, ToolInputInvalid
from crewai_prod.records import ApprovalRecord, StepKind
from crewai_prod.redact import redact
from crewai_prod.steps import Scope
from crewai_prod.tooling import ToolOptions
from crewai_prod.walk import Ticket

if TYPE_CHECKING:
    from crewai_prod.run import Run

T = TypeVar("T")
Tell = Callable[["Run", ApprovalRecord], None]
"""Tells people of a question that was committed."""


def _nobody(run: Run, question: ApprovalRecord) -> None:
    """Whoever wants to know looks: `crewai-prod approvals`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What is asked, before it is a row."""

    scope: Scope
    kind: str
    why: str
    about: str
    step_id: str | None = None
    tool: str | None = None
    arguments: str | None = None
    form: str | None = None
    remark: str | None = None

    def is_about(self, row: ApprovalRecord) -> bool:
        """Whether a row is this question."""
        return (row.kind, row.scope, row.about) == (self.kind, self.scope.path, self.about)


class Approving:
    """What a run asks people, and what they have said.

    Args:
        run: The run.
        write: Makes a write to its journal; one that fails stops the run.

    Attributes:
        tell: Tells people of a new question.
        terminal: Whether what CrewAI asks people itself is asked on the terminal, as by CrewAI.
        outputs: Task outputs that need approval, by name of the task.
    """

    def __init__(self, run: Run, write: Callable[[Callable[[], object]], None]) -> None:
        self._run = run
        self._write = write
        self.tell: Tell = _nobody
        self.terminal = False
        self.outputs: Mapping[str, Approval] = {}

    def ask(
        self,
        scope: Scope,
        *,
        kind: str,
        why: str,
        about: str,
        step_id: str | None = None,
        tool: str | None = None,
        arguments: str | None = None,
        approval: Approval | None = None,
    ) -> Decision:
        """What a person has decided.

        Args:
            scope: Where in the run.
            kind: What is asked about: `tool`, `task_output`, `budget`, `guard`, ...
            why: What made it a question.
            about: Digest of what is asked; with run, scope and kind the question's identity.
            step_id: The step it is about, if there is one.
            tool: The tool it is about.
            arguments: JSON of what is asked about. Secrets are taken out of it.
            approval: Who may answer, until when, and what counts otherwise. Default: anybody, for
                ever.

        Raises:
            ApprovalRequired: Nobody has yet. The question is committed and the run stopped.
            CrewProdError: The run was stopped before, or the question could not be committed.
        """
        asking = Asking(
            scope=scope,
            kind=kind,
            why=why,
            about=about,
            step_id=step_id,
            tool=tool,
            arguments=arguments,
        )
        question = self.put(asking, approval or Approval())
        if question.verdict is None:
            raise self._run.stop(required(question, self._run.journal.location))
        return self.apply(question)

    def put(self, asking: Asking, approval: Approval, *, anew: bool = False) -> ApprovalRecord:
        """The row of a question, asked now if it was not before: decided, or open.

        Args:
            asking: The question.
            approval: Who may answer it, and how long.
            anew: Ask again: what was decided cannot be done.

        Raises:
            CrewProdError: The run was stopped, or the row could not be committed.
        """
        self._run.check()
        found = None if anew else self.found(asking)
        if asking.kind == TOOL and not anew and (found is None or found.verdict is None):
            found = self._covered(asking, approval, found)
        if found is None:
            found = self._commit(asking, approval)
        if found.verdict is None:
            self.tell(self._run, found)
        return found

    def found(self, asking: Asking) -> ApprovalRecord | None:
        """The row of a question that was asked before; its default counts if its time is over."""
        rows = [row for row in self._rows() if asking.is_about(row) and row.status != "closed"]
        if not rows:
            return None
        last = rows[-1]
        if is_expired(last, time.time()):
            journal = self._run.journal
            return self._done(lambda: journal.answer(last.id, lambda row, _: expiry(row)))
        return last

    def apply(self, question: ApprovalRecord) -> Decision:
        """The decision of a question that is not open any more, and a line of it in the log."""
        decision = decision_of(question)
        self._run.log.approval_applied(question, edited=decision.edited is not None)
        return decision

    # -- tools ------------------------------------------------------------------------------------

    def changed(
        self,
        ticket: Ticket,
        arguments: dict[str, Any],
        options: ToolOptions,
        form: Form | None = None,
    ) -> dict[str, Any]:
        """The arguments of a call that was begun before, as a person had changed them."""
        if options.approval is None or ticket.kind is not StepKind.TOOL:
            return arguments
        asked = self.found(_of_call(ticket))
        decision = None if asked is None or asked.verdict is None else decision_of(asked)
        if decision is None or not decision.approved or decision.edited is None:
            return arguments
        return self._edit(ticket, arguments, decision.edited, options, form)

    def admit(
        self,
        ticket: Ticket,
        arguments: Mapping[str, Any],
        options: ToolOptions,
        form: Form | None = None,
    ) -> ApprovalRejected | None:
        """Ask about a call of a tool, if that needs approval; why it must not be made, if so.

        What a person has changed of its arguments is noted on the ticket.

        Raises:
            ApprovalRequired: Nobody has answered yet; the run is stopped.
            CrewProdError: The run was stopped, or the question could not be committed.
        """
        approval = options.approval
        if approval is None or ticket.kind is not StepKind.TOOL:
            return None
        if form is not None and not form.fits(dict(arguments)):
            return None  # the tool refuses them itself, and the model is told what is wrong
        asking = _of_call(ticket, form)
        if self.found(asking) is None:  # else it stays a question, whatever has changed since
            tainted = self._run.guarding.tainted(ticket.scope) if approval.after_taint else ()
            used = approval.first_use and self._is_used(ticket.name)
            why = reason_to_ask(approval, arguments, tainted=tainted, used=used)
            if why is None:
                return None
            asking = _of_call(ticket, form, why)
        question = self.put(asking, approval)
        if question.verdict is None:
            raise self._run.stop(required(question, self._run.journal.location))
        decision = decision_of(question)
        if decision.approved and decision.edited is not None:
            remark = self._unfit(ticket, dict(arguments), decision.edited, options, form)
            if remark is not None:
                asking = _of_call(ticket, form, question.why or "declared", remark)
                again = self.put(asking, approval, anew=True)
                raise self._run.stop(required(again, self._run.journal.location))
        self.apply(question)
        return None if decision.approved else rejection(ticket.name, decision)

    def _unfit(
        self,
        ticket: Ticket,
        arguments: dict[str, Any],
        edited: Any,
        options: ToolOptions,
        form: Form | None,
    ) -> str | None:
        """Note changed arguments on the ticket; why the tool would not take them, if so."""
        try:
            self._edit(ticket, arguments, edited, options, form)
        except ToolInputInvalid as error:
            return f"The change that was made cannot be used: {error.message}"
        return None

    def _edit(
        self,
        ticket: Ticket,
        arguments: dict[str, Any],
        edited: Any,
        options: ToolOptions,
        form: Form | None,
    ) -> dict[str, Any]:
        new = merged(arguments, edited)
        new = new if form is None else form.read(new)
        shown = mask(codec.to_tree(new), options.sensitive)
        ticket.edited, ticket.arguments = new, orjson.dumps(shown).decode()
        return new

    def _is_used(self, tool: str) -> bool:
        return any(
            row.kind == TOOL and row.tool == tool and row.verdict == "approved"
            for row in self._rows()
        )

    # -- calls of unknown outcome -----------------------------------------------------------------

    def about_outcome(self, ticket: Ticket) -> ApprovalRecord:
        """The question whether a call has acted; asked once, until it is answered."""
        asking = Asking(
            scope=ticket.scope,
            kind=UNKNOWN,
            why="unknown",
            about=ticket.step_id,
            step_id=ticket.step_id,
            tool=ticket.name,
            arguments=ticket.arguments,
        )
        question = self._commit(asking, Approval(), scoped=False)
        self.tell(self._run, question)
        return question

    # -- inner ------------------------------------------------------------------------------------

    def _rows(self) -> list[ApprovalRecord]:
        run = self._run
        return self._done(lambda: run.journal.approvals(run.run_id))

    def _done(self, work: Callable[[], T]) -> T:
        """What the journal gives; if it fails, the run is stopped."""
        given: list[T] = []
        self._write(lambda: given.append(work()))
        return given[-1]

    def _covered(
        self, asking: Asking, approval: Approval, question: ApprovalRecord | None
    ) -> ApprovalRecord | None:
        """The question, answered by an approval of another call that covers this one if one does.

        It counts only if whoever gave it may answer here.
        """
        run, tool = self._run, asking.tool or ""
        grant = self._done(lambda: run.journal.grant(run.lease, tool, time.time()))
        if grant is None or (approval.who and grant.answered_by not in approval.who):
            return question
        if question is None:
            return grant
        ruling, number = covered_by(grant), question.id
        return self._done(lambda: run.journal.answer(number, lambda row, _: ruling))

    def _commit(self, asking: Asking, approval: Approval, *, scoped: bool = True) -> ApprovalRecord:
        now, run = time.time(), self._run
        scope, seconds = asking.scope, approval.seconds
        row = ApprovalRecord(
            id=0,
            run_id=run.run_id,
            step_id=asking.step_id,
            kind=asking.kind,
            tool=asking.tool,
            arguments=without_secrets(asking.arguments),
            status="open",
            asked_at=now,
            expires_at=None if seconds is None else now + seconds,
            scope=scope.path if scoped else None,
            task=scope.task_name,
            agent=scope.agent,
            why=asking.why,
            about=asking.about,
            who=orjson.dumps(list(approval.who)).decode() if approval.who else None,
            on_expiry=None if seconds is None else approval.on_expiry,
            form=asking.form,
            remark=asking.remark,
        )
        lease, journal = run.lease, run.journal
        committed = self._done(lambda: journal.approval(journal.ask(lease, row)))
        run.log.approval_requested(committed)
        return committed


def _of_call(
    ticket: Ticket, form: Form | None = None, why: str = "declared", remark: str | None = None
) -> Asking:
    return Asking(
        scope=ticket.scope,
        kind=TOOL,
        why=why,
        about=ticket.step_id,
        step_id=ticket.step_id,
        tool=ticket.name,
        arguments=ticket.arguments,
        form=form.schema() if form is not None else None,
        remark=remark,
    )


def without_secrets(arguments: str | None) -> str | None:
    """What a question shows of what it is about."""
    if arguments is None:
        return None
    return orjson.dumps(codec.to_tree(redact(orjson.loads(arguments)))).decode()


def rejection(tool: str, decision: Decision) -> ApprovalRejected:
    """What a model is told of a call that a person has rejected."""
    said = f" They say: {decision.note}" if decision.by is not None else f" {decision.note or ''}"
    return ApprovalRejected(
        f"A call of {tool} was rejected, and nothing was done.{said if decision.note else ''} "
        "Do not make the same call again.".replace("  ", " "),
        tool=tool,
        note=decision.note,
        by=decision.by,
    )


_WORDS: Mapping[str, str] = {
    TOOL: "Tool {tool!r} is to be called, and that needs a person's approval",
    "task_output": "The output of a task needs a person's approval",
    "human_input": "A person's feedback on an answer is asked for",
    "feedback": "A person's feedback on what a flow has made is asked for",
    QUESTION: "A person is asked: {facts}",
    "guard": "Guard {guard!r} wants a person to decide: {reason}",
    "budget": "A limit may be raised by a person",
    UNKNOWN: "Whether {tool!r} has acted is not known",
}


def required(question: ApprovalRecord, journal: str) -> ApprovalRequired:
    """What a run is stopped with that waits for an answer."""
    what = _what(question)
    remark = f" {question.remark}" if question.remark else ""
    return ApprovalRequired(
        f"{what} (question {question.id}).{remark}",
        task=question.task,
        agent=question.agent,
        step_id=question.step_id,
        reason="approval",
        **facts_of(question, journal),
    )


def _what(question: ApprovalRecord) -> str:
    """What is asked, in words."""
    asked = orjson.loads(question.arguments or "{}")
    if question.kind == QUESTION and question.why == "model":
        return f"Agent {question.agent!r} asks a person: {asked.get('question')}"
    if question.kind == QUESTION and question.why in ("failures", "budget", "loop"):
        return f"A person decides whether the run goes on; {question.why}: {question.arguments}"
    return _WORDS.get(question.kind, "A person has to decide").format(
        tool=question.tool,
        why=question.why,
        facts=question.arguments,
        guard=asked.get("guard"),
        reason=asked.get("reason"),
    )


def yes(question: ApprovalRecord) -> str:
    """The arguments of `crewai-prod approve` that answer a question; NUMBER is to be filled in."""
    if question.kind != BUDGET:
        return f"{question.id}"
    limit = orjson.loads(question.arguments or "{}").get("limit")
    return f"{question.id} --edit '{{\"{limit}\": NUMBER}}'"


def facts_of(question: ApprovalRecord, journal: str) -> dict[str, Any]:
    """A question as plain values: what it is about, who may answer, and how."""
    where = f"--journal {shlex.quote(journal)}"
    return {
        "id": question.id,
        "kind": question.kind,
        "why": question.why,
        "tool": question.tool,
        "arguments": question.arguments,
        "who": who_may(question),
        "expires_at": question.expires_at,
        "approve": f"crewai-prod approve {yes(question)} {where}",
        "reject": f"crewai-prod reject {question.id} --reason TEXT {where}",
    }
