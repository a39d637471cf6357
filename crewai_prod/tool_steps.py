"""The tool calls of a run, and other bodies that are steps: found, admitted, committed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from crewai_prod import codec
from crewai_prod.admission import Admission
from crewai_prod.approval import Form
from crewai_prod.concealing import mask
from crewai_prod.errors import (
    ToolError,
    ToolOutcomeUnknown,
)
from crewai_prod.failures import describe
from crewai_prod.outcomes import settle
from crewai_prod.paging import Shown
from crewai_prod.records import (
    StepKind,
    StepRecord,
    StepStatus,
)
from crewai_prod.replay import AGAIN, CACHED
from crewai_prod.required import DECIDED, REFUSED, reports_failure
from crewai_prod.run_core import RunCore, is_call
from crewai_prod.steps import (
    Scope,
    digest,
    idempotency_key,
)
from crewai_prod.tooling import CurrentStep, ToolOptions
from crewai_prod.walk import Ticket, attempt_of


class ToolSteps(RunCore):
    """The part of a run that knows of calls that may act on the world."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._admission = Admission()

    def begin_tool(
        self,
        scope: Scope,
        name: str,
        arguments: Mapping[str, Any],
        options: ToolOptions,
        kind: StepKind = StepKind.TOOL,
        form: Form | None = None,
    ) -> Ticket:
        """Identify a call, look it up, and commit the intent of one that acts on the world.

        Args:
            scope: Where it is made.
            name: Of the tool, or of a user's function that is a step.
            arguments: What it is called with.
            options: What is declared about it; without an effect it counts as a write.
            kind: `TOOL`, `FUNCTION` or `HUMAN`.
            form: How its arguments have to be, where a person may change them.

        Raises:
            ApprovalRequired: A person has to agree, and nobody has yet; the run waits for that.
            ToolOutcomeUnknown: It was started in an earlier session, nobody can tell whether it
                acted, and the run now waits for a person.
            LoopDetected: It is one of a loop that the model does not end.
            BudgetExceeded: It would pass a limit, or the time of the run is over.
            CrewProdError: The run was stopped, or the intent could not be committed.
        """
        ticket = self.find_tool(scope, name, arguments, options, kind)
        self.admit_tool(ticket, arguments, options, form=form)
        return ticket

    def find_tool(
        self,
        scope: Scope,
        name: str,
        arguments: Mapping[str, Any],
        options: ToolOptions,
        kind: StepKind = StepKind.TOOL,
    ) -> Ticket:
        """The first half of `begin_tool`: identify a call and look it up. No disk is touched.

        Raises:
            CrewProdError: The run was stopped.
        """
        self.check()
        said = codec.meaning(arguments)
        meant = digest(kind._value_.encode(), name.encode("utf-8", "replace"), said)
        with self._lock:
            effect = options.effect or "write"
            ticket = self._walk.identify(scope, kind, name, meant, acts=effect != "read")
            ticket.effect = effect
            self._walk.look_up(ticket)
        return ticket

    def admit_tool(
        self,
        ticket: Ticket,
        arguments: Mapping[str, Any],
        options: ToolOptions,
        refusal: ToolError | None = None,
        form: Form | None = None,
    ) -> None:
        """The second half: settle what was left open, and commit the intent of what acts.

        Args:
            ticket: As `find_tool` gave it.
            arguments: What it is called with; guards may have modified them.
            options: What is declared about the tool.
            refusal: Why it may not be called; it is recorded and told, unless it was called before.
            form: How its arguments have to be, where a person may change them.

        Raises:
            CrewProdError: See `begin_tool`.
        """
        record, passed = ticket.record, dict(arguments)
        tree = codec.to_tree(passed)
        shown = mask(tree, options.sensitive) if options.sensitive else tree
        ticket.arguments = orjson.dumps(shown).decode()
        if record is not None and ticket.recorded is None:
            passed = self.approving.changed(ticket, passed, options, form)
        if record is not None and record.status is StepStatus.STARTED and ticket.effect == "write":
            self._settle(ticket, record, passed, options)
        if ticket.recorded is not None:
            self._note_replay(ticket, drifted=False)
            if ticket.kind is StepKind.TOOL:
                self.looping.met(ticket, options)
        elif self.replay_only is not None:
            raise self.replay_only
        else:
            self.heed()
            self.braking.in_time(ticket.scope)
            admitted = self._admit(ticket, options, passed, form, refusal)
            if admitted and ticket.effect == "write":
                self._intend(ticket)

    def _admit(
        self,
        ticket: Ticket,
        options: ToolOptions,
        arguments: dict[str, Any],
        form: Form | None,
        refusal: ToolError | None,
    ) -> bool:
        """Whether a call may be made; one that may not is committed as refused, and told."""
        record = ticket.record
        if ticket.kind is not StepKind.TOOL:
            return True
        if record is not None and record.effect != REFUSED and refusal is None:
            self.looping.met(ticket, options)
            return True  # it was admitted before
        facts = self.looping.refusal(ticket, options)
        if facts is None and refusal is not None:
            facts = describe(refusal)
        if facts is None:
            facts = self._refusal(ticket, arguments, options, form)
        if facts is None:
            return True
        ticket.effect = REFUSED
        step = self._step(ticket, StepStatus.FAILED, error=orjson.dumps(facts).decode())
        self._commit(ticket, step)
        ticket.recorded = step
        return False

    def _refusal(
        self, ticket: Ticket, arguments: dict[str, Any], options: ToolOptions, form: Form | None
    ) -> dict[str, Any] | None:
        """Facts of why a call must not be made; else it is counted."""
        nested = ticket.effect == "nested"
        refusal: ToolError | None = self._admission.refusal(ticket.name, options, nested=nested)
        if refusal is None:
            refusal = self.approving.admit(ticket, arguments, options, form)
            if refusal is None:
                self.braking.afford(ticket)
                return None
            self._admission.take_back(ticket.name)
        return describe(refusal)

    def _intend(self, ticket: Ticket) -> None:
        """Commit that a call which acts is about to be made."""
        intent, before = self._step(ticket, StepStatus.STARTED), ticket.before
        self._write(lambda: self.journal.start_step(self.lease, intent, attempt=before))
        ticket.before = None

    def finish_tool(
        self, ticket: Ticket, result: str, text: str | None, *, shown: Shown | None = None
    ) -> None:
        """Commit a tool's result (JSON of `codec`); `text` is what a message may repeat.

        Args:
            ticket: Of the call.
            result: JSON.
            text: The result, if it is a text.
            shown: How long it is for a model, if that is known; else as it is recorded.

        Raises:
            CrewProdError: The run was stopped meanwhile (a nested call may have swallowed why), or
                the result could not be committed.
        """
        if self._direct:
            self._gather(ticket.inner.path)
        if ticket.effect == "nested":
            self.check()
        self.degraded |= ticket.kind is StepKind.TOOL and reports_failure(result)
        size = shown or Shown(len(result if text is None else text))
        sizes = {"output_size": size.size, "output_cut": size.cut} if is_call(ticket) else {}
        self._commit(ticket, self._step(ticket, StepStatus.DONE, result=result, **sizes))
        self._share(text, ticket.step_id)

    def fail_tool(self, ticket: Ticket, facts: Mapping[str, Any]) -> None:
        """Commit that a tool failed; the model is told, the run goes on, degraded.

        Of a failure with `replay.AGAIN` in its facts nobody is told: `try_again` follows.

        Raises:
            CrewProdError: The run was stopped meanwhile, or the failure could not be committed.
        """
        if self._direct:
            self._gather(ticket.inner.path)
        if ticket.effect == "nested":
            self.check()
        if not facts.get(AGAIN):
            self.degraded |= ticket.kind is StepKind.TOOL
        error = self._with_anew(orjson.dumps(facts).decode(), ticket.inner.path)
        self._commit(ticket, self._step(ticket, StepStatus.FAILED, error=error))

    def withdraw(self, ticket: Ticket) -> None:
        """Nothing was recorded of a ticket and nothing will be: it was a question."""
        with self._lock:
            self._walk.withdraw(ticket)

    def try_again(self, ticket: Ticket) -> None:
        """Turn the ticket of a call whose failure was committed into its next try.

        It is the same step, with the same key. The failure stays, as an earlier attempt; of a call
        that acts the intent of the next one is committed. Mark the facts of the failure with
        `replay.AGAIN`, so that a run that is killed meanwhile makes the call again, too.

        Raises:
            CrewProdError: The run was stopped meanwhile, or the intent could not be committed.
        """
        self.check()
        with self._lock:
            self._walk.try_again(ticket)
        self.looping.forget(ticket.inner.path)
        if ticket.effect == "write":
            self._intend(ticket)

    def note_retry(self, ticket: Ticket, wait: float) -> None:
        """Say that a call whose failure was committed is made again after `wait` seconds."""
        with self._lock:
            record = self._walk.history.take(ticket.step_id)
        assert record is not None
        scope = ticket.scope
        self.log.retry(
            attempt_of(record),
            name=ticket.name,
            wait_ms=wait * 1000,
            task=scope.task_name,
            agent=scope.agent,
        )

    # -- one that is known ------------------------------------------------------------------------

    def tool_step(self, step_id: str) -> StepRecord | None:
        """What is recorded of a tool call of this run, in whichever task, or of a cache's answer.

        Raises:
            JournalError: The journal could not be read.
        """
        with self._lock:
            step = self._walk.history.get(step_id)
        if step is None or step.result is None:  # perhaps of a task that is finished
            steps = self.journal.steps(self.run_id)
            step = next((one for one in steps if one.step_id == step_id), None)
        told = step is not None and (step.kind is StepKind.TOOL or step.effect == CACHED)
        return step if told else None

    def leave_unknown(self, ticket: Ticket, why: str) -> ToolOutcomeUnknown:
        """Pause the run on a call of which nobody can say whether it acted.

        Returns:
            The refusal, stored on the run.
        """
        question = self.approving.about_outcome(ticket)
        error = ToolOutcomeUnknown(
            f"Tool {ticket.name!r} was started and {why}: whether it acted is not known.",
            task=ticket.scope.task_name,
            agent=ticket.scope.agent,
            step_id=ticket.step_id,
            reason="unknown outcome",
            id=question.id,
            tool=ticket.name,
            arguments=ticket.arguments,
        )
        self.stop(error)
        return error

    def _settle(
        self, ticket: Ticket, record: StepRecord, arguments: dict[str, Any], options: ToolOptions
    ) -> None:
        """Settle a call that was started and never ended, or pause the run on it."""
        outcome = settle(self.journal, self.run_id, record, arguments, options, self.unknown)
        if outcome.kind == "not_done":
            return
        if outcome.kind == "unknown":
            raise self.leave_unknown(ticket, "the process ended before it reported back")
        if outcome.kind == "failed":
            failure = ToolError("The call failed; its effect did not happen.")
            facts = {**describe(failure), DECIDED: True}
            step = self._step(ticket, StepStatus.FAILED, error=orjson.dumps(facts).decode())
        else:
            step = self._step(ticket, StepStatus.DONE, result=codec.encode(outcome.result))
        self._commit(ticket, step)
        ticket.recorded = step

    def note_unfaithful(self, ticket: Ticket, what: str) -> None:
        """Say that what a step did could not be kept: resuming will call its function again."""
        self.log.warning(
            f"{ticket.name} {what}, which cannot be restored from a journal. If the run "
            "is resumed it is called again; what is hardened in it is not repeated. Use plain "
            "values, dataclasses or pydantic models."
        )

    def step_handle(self, ticket: Ticket) -> CurrentStep:
        """What the tool's body gets to know about its step."""
        return CurrentStep(
            run_id=self.run_id,
            step_id=ticket.step_id,
            attempt=ticket.attempt,
            idempotency_key=idempotency_key(self.run_id, ticket.step_id),
        )
