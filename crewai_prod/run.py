"""One run being advanced: ties the rules, the journal and the log together.

Rule: whatever was paid for or done is in the journal before anyone else sees it, and a refusal is
stored on the run before it is raised, so that no `except` on the way out can lose it. From the
moment a run is stopped, every seam that asks it refuses. Knows nothing of crewai.

All methods may be called from any thread. Those that write (`begin_tool`, `finish`, `fail`, tasks,
`end`) block on the disk: call them from a worker thread when on an event loop.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import orjson

from crewai_prod import _faults, codec, deadlines
from crewai_prod.admission import Admission
from crewai_prod.approval import Form
from crewai_prod.approving import Approving
from crewai_prod.bill import Bill
from crewai_prod.braking import Braking
from crewai_prod.concealing import mask
from crewai_prod.errors import (
    CrewProdError,
    JournalError,
    ReplayOnly,
    RunCancelled,
    RunError,
    RunInterrupted,
    RunPaused,
    ToolError,
    ToolOutcomeUnknown,
)
from crewai_prod.escalating import Escalating
from crewai_prod.failures import describe
from crewai_prod.guarding import Guarding
from crewai_prod.heart import HEART
from crewai_prod.journal import Journal, forget_owner
from crewai_prod.logs import RunLog
from crewai_prod.looping import Looping
from crewai_prod.outcomes import UnknownPolicy, settle
from crewai_prod.paging import Paging, Shown
from crewai_prod.records import (
    AttemptRecord,
    Lease,
    MessageRecord,
    Opened,
    RunStatus,
    StepKind,
    StepRecord,
    StepStatus,
    TaskRecord,
    TaskStatus,
    Usage,
)
from crewai_prod.redact import redact_text
from crewai_prod.replay import AGAIN, CACHED, TaskPlan, decided_again
from crewai_prod.required import DECIDED, REFUSED, reports_failure
from crewai_prod.retry import Retry
from crewai_prod.routing import Routing
from crewai_prod.setbacks import Setbacks
from crewai_prod.steps import (
    NOTHING_SAID,
    Scope,
    Talk,
    digest,
    idempotency_key,
    lies_in,
    read_request,
    task_scope,
)
from crewai_prod.tooling import CurrentStep, ToolOptions
from crewai_prod.walk import Ticket, Walk, attempt_of

_SHORTEST_SHARED = 64
"""Shorter contents are cheaper to repeat than to point at."""

current_scope: ContextVar[tuple[Run, Scope] | None] = ContextVar("crewai_prod_scope", default=None)
step_in_body: ContextVar[CurrentStep | None] = ContextVar("crewai_prod_step", default=None)


users_code: ContextVar[bool] = ContextVar("crewai_prod_users_code", default=False)


def in_users_code() -> bool:
    """Whether what is done here is done for code of the user's within a run, which hears of it."""
    return users_code.get()


def current_step() -> CurrentStep | None:
    """The step in whose body this code runs, or None outside a hardened run's tools."""
    return step_in_body.get()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model call gave, as far as the journal wants to know.

    Attributes:
        result: JSON, as the codec of answers writes it.
        text: The text a later message may repeat word for word.
    """

    result: str
    text: str | None = None
    usage: Usage | None = None
    model: str | None = None
    response_id: str | None = None
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectCall:
    """A model call that code within a run made past the seams, as it was reported afterwards.

    Attributes:
        meant: Digest of what was asked.
        usage: None if nobody said what it cost.
        error: Facts of its failure.
    """

    model: str
    provider: str | None
    meant: str
    started_at: float
    duration_ms: float
    usage: Usage | None = None
    error: Mapping[str, Any] | None = None
    response_id: str | None = None
    finish_reason: str | None = None


class Run:
    """A run of this process: prepared first, then attached to what the journal holds of it.

    The seams of a crew point at their run from the moment they are made; until `attach` it refuses.

    Args:
        journal: Where it is recorded.
        tools: What is declared about tools, by name, for what is kicked off within the run.
        retry: When a model call that failed is made again.
    """

    def __init__(
        self,
        journal: Journal,
        tools: Mapping[str, ToolOptions] | None = None,
        retry: Retry | None = None,
    ) -> None:
        self.journal = journal
        self.tools = tools or {}
        self.retry = retry or Retry()
        self.plans: dict[int, TaskPlan] = {}
        self.unknown: UnknownPolicy = "pause"
        self.degraded = False
        self.ended = False
        self.resumed = False
        self.log: RunLog
        self.replay_only: ReplayOnly | None = None
        self._lease: Lease | None = None
        self._run_id: str | None = None
        self._lock = threading.Lock()
        self._landed = threading.Condition(self._lock)
        self._flying = 0
        self._walk = Walk()
        self._messages: set[str] = set()
        self._contents: dict[str, str] = {}
        self._talks: dict[str, Talk] = {}
        self._started: dict[int, float] = {}
        self._stopped: CrewProdError | None = None
        self._usage = Usage()
        self.bill = Bill()
        self.braking = Braking(self, self._write)
        self.setbacks = Setbacks()
        self.routing = Routing(self)
        self.escalating = Escalating(self)
        self.guarding = Guarding(self, self._write, in_guard)
        self.approving = Approving(self, self._write)
        self.looping = Looping(self)
        self.paging = Paging()
        self._spent: dict[str, Usage] = {}
        self._unusable: set[str] = set()
        self._redo: set[str] = set()
        self._final: dict[str, CrewProdError] = {}
        self._overflows: Counter[str] = Counter()
        self.await_reports: Callable[[], None] | None = None
        self._direct: set[str] = set()
        self._unmetered = 0
        self._admission = Admission()
        self._warned: set[str] = set()
        self.at_end: dict[tuple[str, int], Callable[[], None]] = {}

    def attach(
        self,
        opened: Opened,
        *,
        log: RunLog,
        plans: Sequence[TaskPlan] = (),
        unknown: UnknownPolicy = "pause",
        failed_sessions: Container[int] = (),
    ) -> None:
        """Take up the run where the journal says it stands."""
        self._lease, self._run_id = opened.lease, opened.run.run_id
        self.log, self.unknown, self.resumed = log, unknown, not opened.created
        self.plans = {plan.definition.position: plan for plan in plans}
        self._walk = Walk(opened.steps, failed_sessions, finished=opened.lease is None)
        for task in opened.tasks:
            if task.error is not None and orjson.loads(task.error).get("of_last_answer"):
                self._walk.history.distrust(self.scope_of_task(task.position).path)
        for error in (opened.run.error, *(step.error for step in opened.steps)):
            facts = orjson.loads(error or "{}")
            for path in facts.get("unusable", ()):
                self._walk.history.distrust(path)
            for step_id in facts.get("redo", ()):
                self._walk.history.redo(step_id)
        self.degraded = any(_is_failed_tool(step) for step in opened.steps)
        self._admission.restore(opened.steps)
        self._messages = set(opened.messages)
        self._usage = recorded_usage(opened.steps, opened.attempts)
        self.bill.take_up(opened.steps, opened.attempts)
        self.braking.brakes.take_up(opened.steps, opened.attempts, self.braking.guess)
        self.guarding.take_up(opened.verdicts)
        self._spent = _usage_by_scope(opened.steps, opened.attempts)
        self._unmetered = sum(step.unmetered for step in opened.steps)

    @property
    def lease(self) -> Lease:
        """The right to write.

        Raises:
            RunError: The run has not been opened.
        """
        if self.replay_only is not None:
            raise self.replay_only
        if self._lease is None:
            raise RunError("This crew belongs to a run that was never opened. Call kickoff first.")
        return self._lease

    @property
    def opened(self) -> bool:
        """Whether this process has been given the right to write."""
        return self._lease is not None

    @property
    def run_id(self) -> str:
        """The name the caller gave the run."""
        return self._run_id or self.lease.run_id

    def __deepcopy__(self, memo: dict[int, Any]) -> Run:
        """A run is one thing: whoever copies an object of a crew still advances this run."""
        return self

    # -- stopping ---------------------------------------------------------------------------------

    @property
    def stopped(self) -> CrewProdError | None:
        """The refusal that stopped the run, if there is one."""
        return self._stopped

    def stop(self, error: CrewProdError) -> CrewProdError:
        """Store a refusal; the first one stays. Returns the one that is stored."""
        with self._lock:
            if self._stopped is None:
                if error.run_id is None:
                    error.run_id = self.run_id
                self._stopped = error
            return self._stopped

    def check(self) -> None:
        """Refuse if the run was stopped.

        Raises:
            CrewProdError: The stored refusal.
        """
        if self._stopped is not None:
            raise self._stopped
        if deadlines.left():
            raise RunError(
                "This code belongs to a call that took too long and was left: it begins no step."
            )

    def heed(self) -> None:
        """Refuse before a step if the run was stopped, or somebody has cancelled it by now.

        Looks into the journal, which takes some 10 microseconds.

        Raises:
            CrewProdError: It was; or the journal could not be read.
        """
        self.check()
        self._write(self._refuse_if_cancelled)

    def _refuse_if_cancelled(self) -> None:
        if self.journal.cancelled([self.lease]):
            raise RunCancelled

    def refused(self, error: BaseException) -> bool:
        """Whether an exception is what the stored refusal has become on its way out."""
        seen: set[int] = set()
        current: BaseException | None = error
        while current is not None and id(current) not in seen and self._stopped is not None:
            if self._stopped in (current, getattr(current, "error", None)):
                return True
            seen.add(id(current))
            current = current.__cause__ or current.__context__
        return False

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """What is called here is paid for or done: the run does not end before it is recorded."""
        with self._lock:
            self._flying += 1
        try:
            yield
        finally:
            with self._lock:
                self._flying -= 1
                self._landed.notify_all()

    def land(self, seconds: float) -> bool:
        """Refuse new steps and wait for those in flight; whether all have been recorded."""
        self.stop(RunError("The run has ended: what ran beside the task that ended it stops here."))
        with self._lock:
            return self._landed.wait_for(lambda: self._flying == 0, seconds)

    # -- scopes -----------------------------------------------------------------------------------

    def nest(self, scope: Scope, name: str, meant: str) -> Scope:
        """The scope of a crew, flow or agent that is kicked off within this run.

        Args:
            scope: Where it is kicked off.
            name: Its own name.
            meant: Digest of what it is asked to do, so that kickoffs made at the same time are told
                apart whichever begins first.
        """
        with self._lock:
            occurrence = self._walk.count(scope, name, meant)
        return scope.of_nested(name, meant, occurrence)

    def distrust_last_answer(self, scope: Scope) -> None:
        """A nested task came to nothing: if its last step is a model's answer, that was no use.

        It is kept with the failure of the step around it; resuming asks for the answer anew.
        """
        with self._lock:
            self._unusable.add(scope.path)

    def _with_anew(self, error: str, within: str | None = None) -> str:
        """The facts of a failure with what is to be tried anew after it."""
        with self._lock:
            found = sorted(p for p in self._unusable if within is None or lies_in(p, within))
            redo = sorted(self._redo) if within is None else []
        more = {name: what for name, what in (("unusable", found), ("redo", redo)) if what}
        return orjson.dumps({**orjson.loads(error), **more}).decode() if more else error

    def have_redone(self, steps: Iterable[str]) -> None:
        """Once the run has failed, have these steps made anew when it is resumed."""
        with self._lock:
            self._redo.update(steps)

    def recorded(self, scope: Scope) -> list[StepRecord]:
        """What is recorded of the steps in a scope and all within it."""
        with self._lock:
            return self._walk.history.within(scope.path)

    def enter(self, scope: Scope, *, retry: bool) -> None:
        """An agent begins to work in a scope; see `Walk.enter`."""
        with self._lock:
            self._walk.enter(scope.path, retry=retry)
        self.looping.forget(scope.path)

    def last_step(self, scope: Scope) -> str | None:
        """The model or tool call that was begun last in a scope, by this session."""
        with self._lock:
            return self._walk.last(scope.path)

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

    # -- model calls ------------------------------------------------------------------------------

    def begin_model(
        self,
        scope: Scope,
        name: str,
        messages: Sequence[Mapping[str, Any]],
        params: Mapping[str, Any],
        provider: str | None = None,
    ) -> Ticket:
        """Identify a model call and look it up. No disk is touched.

        Raises:
            ModelUnpriced: Nobody knows what the call would cost, and such calls are not made.
            BudgetExceeded: The time of the run is over.
            CrewProdError: The run was stopped, or the same request has failed for good before.
        """
        self.check()
        request = read_request(
            messages,
            params,
            known=self._messages,
            contents=self._contents,
            before=self._talks.get(scope.path, NOTHING_SAID),
        )
        with self._lock:
            self._talks[scope.path] = request.talk
            ticket = self._walk.identify(scope, StepKind.MODEL, name, request.digest)
            ticket.request, ticket.provider = request, provider
            if ticket.step_id in self._final:
                raise self._final[ticket.step_id]
            drifted = self._walk.look_up(ticket, params=request.params if scope.follow else None)
        if self.routing.on:
            self.routing.met(ticket)
        if self.setbacks.on:
            self.setbacks.met(ticket)
        self.looping.decided(scope)
        if ticket.recorded is not None:
            self._note_replay(ticket, drifted=drifted)
        elif self.replay_only is not None:
            raise self.replay_only
        else:
            refusal = None if self.routing.on else self.bill.refusal(ticket)
            if refusal is not None:
                raise self.stop(refusal)
            self.braking.in_time(scope)
        return ticket

    def finish_model(self, ticket: Ticket, answer: Answer) -> None:
        """Commit a model's answer; only then may anyone see it.

        Raises:
            CrewProdError: It could not be committed; the run is stopped.
        """
        assert ticket.request is not None
        step = self._step(
            ticket,
            StepStatus.DONE,
            result=answer.result,
            usage=answer.usage,
            model=answer.model,
            response_id=answer.response_id,
            finish_reason=answer.finish_reason,
        )
        self._commit(ticket, step, ticket.request.messages)
        self._share(answer.text, ticket.step_id)

    def fail_model(
        self, ticket: Ticket, error: BaseException, usage: Usage | None, facts: Mapping[str, Any]
    ) -> None:
        """Commit a model call that failed, with what it cost.

        Raises:
            CrewProdError: It could not be committed; the run is stopped.
        """
        assert ticket.request is not None
        step = self._step(
            ticket,
            StepStatus.FAILED,
            error=orjson.dumps(facts).decode(),
            usage=usage,
            model=ticket.model,
        )
        self._commit(ticket, step, ticket.request.messages)

    def failed_for_good(self, step_id: str, error: CrewProdError) -> None:
        """The same request is not made again in this session, whoever repeats it."""
        with self._lock:
            self._final[step_id] = error

    def overflowed(self, scope: Scope) -> int:
        """A conversation was found too long; how often that was so in its scope."""
        with self._lock:
            self._overflows[scope.path] += 1
            return self._overflows[scope.path]

    def has_overflowed(self, scope: Scope) -> bool:
        """Whether the conversation of this scope was found too long in this session."""
        with self._lock:
            return self._overflows[scope.path] > 0

    # -- model calls past the seams ---------------------------------------------------------------

    def note_direct(self, scope: Scope) -> None:
        """Code in this scope has begun to call a model itself: its report will follow."""
        with self._lock:
            self._direct.add(scope.path)

    def record_direct(self, scope: Scope, call: DirectCall) -> None:
        """Record and bill a model call that was made past the seams.

        It cannot be replayed: the body around it is what is replayed. If that is executed again, so
        is the call, and this is another attempt of the same step.

        Raises:
            CrewProdError: It could not be committed; the run is stopped.
        """
        if self.replay_only is not None:  # a finished run takes no more, on its bill neither
            self._note_unmetered(scope, call.model)
            return
        with self._lock:
            ticket = self._walk.identify(scope, StepKind.MODEL, call.model, call.meant)
            self._walk.note(ticket)
        ticket.provider, ticket.started_at = call.provider, call.started_at
        ticket.clock = time.perf_counter() - call.duration_ms / 1000
        step = self._step(
            ticket,
            StepStatus.DONE if call.error is None else StepStatus.FAILED,
            error=None if call.error is None else orjson.dumps(dict(call.error)).decode(),
            usage=call.usage,
            model=call.model,
            response_id=call.response_id,
            finish_reason=call.finish_reason,
        )
        self._commit(ticket, step)
        if step.unmetered:
            self._note_unmetered(scope, call.model)

    @property
    def unmetered(self) -> int:
        """Model calls past the seams, all sessions together, of which nobody said the cost."""
        return self._unmetered

    def _note_unmetered(self, scope: Scope, model: str) -> None:
        with self._lock:
            self._unmetered += 1
            new = model not in self._warned
            self._warned.add(model)
        if new:
            self.log.llm_unmetered(model=model, task=scope.task_name, agent=scope.agent)

    def _gather(self, path: str) -> None:
        """Have direct calls within a scope recorded before what they were made for is."""
        with self._lock:
            within = {one for one in self._direct if lies_in(one, path)}
            self._direct -= within
        if within and self.await_reports is not None:
            self.await_reports()

    # -- tool calls -------------------------------------------------------------------------------

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
        meant = digest(kind.value.encode(), name.encode("utf-8", "replace"), said)
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
        tree = codec.to_tree(dict(arguments))
        shown = mask(tree, options.sensitive) if options.sensitive else tree
        ticket.arguments = orjson.dumps(shown).decode()
        record, passed = ticket.record, dict(arguments)
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
        self._gather(ticket.inner.path)
        if ticket.effect == "nested":
            self.check()
        self.degraded |= ticket.kind is StepKind.TOOL and reports_failure(result)
        size = shown or Shown(len(result if text is None else text))
        sizes = {"output_size": size.size, "output_cut": size.cut} if _is_call(ticket) else {}
        self._commit(ticket, self._step(ticket, StepStatus.DONE, result=result, **sizes))
        self._share(text, ticket.step_id)

    def fail_tool(self, ticket: Ticket, facts: Mapping[str, Any]) -> None:
        """Commit that a tool failed; the model is told, the run goes on, degraded.

        Of a failure with `replay.AGAIN` in its facts nobody is told: `try_again` follows.

        Raises:
            CrewProdError: The run was stopped meanwhile, or the failure could not be committed.
        """
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

    def ended_by_model(self, scope: Scope) -> StepRecord | None:
        """The model call that failed last of all that was done within a scope, if one did."""
        with self._lock:
            last = self._walk.history.last_within(scope.path)
        failed = last is not None and last.status is StepStatus.FAILED
        return last if failed and last is not None and last.kind is StepKind.MODEL else None

    def called(self, path: str) -> dict[str, bool]:
        """The tools that were called within a scope so far, by name: whether that is enough."""
        with self._lock:
            return self._walk.history.called(path)

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

    def step_that_said(self, text: str | None) -> str | None:
        """The id of a step whose result is word for word this text, if it is a long one."""
        with self._lock:
            return None if text is None else self._contents.get(text)

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

    # -- tasks ------------------------------------------------------------------------------------

    def scope_of_task(self, position: int) -> Scope:
        """Where the steps of a task are recorded."""
        plan = self.plans[position]
        return task_scope(position, plan.generation, plan.definition.name, follow=plan.follow)

    def begin_task(self, position: int, agent: str | None) -> None:
        """Record that a task has begun.

        Raises:
            CrewProdError: The run was stopped, or it could not be committed.
        """
        self.check()
        record = self._task(position, TaskStatus.RUNNING, agent)
        before = self.plans[position].record
        if before is None or before.status is not TaskStatus.RUNNING:
            self._write(lambda: self.journal.save_task(self.lease, record))
        self.log.task_started(task=record.name, position=position, agent=agent)

    def finish_task(
        self,
        position: int,
        agent: str | None,
        output: str,
        messages: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Commit a task's output (JSON) and the conversation it ended with.

        Raises:
            CrewProdError: The run was stopped meanwhile, or it could not be committed.
        """
        self._gather(self.scope_of_task(position).path)
        self.check()
        talk = read_request(messages, {}, known=self._messages, contents=self._contents)
        fresh = [m for m in talk.messages if m.role != "request"]
        record = replace(
            self._task(position, TaskStatus.DONE, agent), output=output, messages=talk.tip
        )
        said = self.guarding.pending()
        self._write(
            lambda: self.journal.save_task(self.lease, record, messages=fresh, verdicts=said)
        )
        self._remember(fresh)
        with self._lock:
            path = self.scope_of_task(position).path
            self._walk.history.forget(path)
            self._walk.leave(path)
            self._talks = {at: talk for at, talk in self._talks.items() if not lies_in(at, path)}
        self.routing.leave(path)
        self.setbacks.leave(path)
        self.looping.forget(path)
        self.log.task_finished(task=record.name, position=position, agent=agent, status="done")

    def fail_task(
        self, position: int, agent: str | None, error: BaseException, *, of_last_answer: bool
    ) -> None:
        """Record that a task failed. A run that was stopped has nothing more to record.

        Args:
            position: Of the task.
            agent: Role of its agent.
            error: What ended it.
            of_last_answer: The task has no output: if its last step was a model's answer, CrewAI
                could do nothing with it, and resuming asks for it anew.
        """
        if self._stopped is not None:
            return
        facts = {
            "type": type(error).__name__,
            "message": codec.to_tree(redact_text(codec.text_of(error))),
            "of_last_answer": of_last_answer,
        }
        record = replace(
            self._task(position, TaskStatus.FAILED, agent), error=orjson.dumps(facts).decode()
        )
        self._write(lambda: self.journal.save_task(self.lease, record))
        self.log.task_finished(
            task=record.name, position=position, agent=agent, status="failed", error=error
        )

    def keep_task(self, position: int) -> TaskRecord:
        """The record of a task whose stored output is handed back."""
        self.check()
        record = self.plans[position].record
        assert record is not None
        self.log.task_kept(task=record.name, position=position, agent=record.agent)
        return record

    # -- the whole run ----------------------------------------------------------------------------

    @property
    def usage(self) -> Usage:
        """What the run has cost so far, all sessions together."""
        return self._usage

    def usage_within(self, scope: Scope) -> Usage:
        """What was spent in a scope and all within it, all sessions together."""
        with self._lock:
            spent = [usage for path, usage in self._spent.items() if lies_in(path, scope.path)]
        return sum(spent, Usage())

    def end(
        self, status: RunStatus, *, result: str | None = None, error: str | None = None
    ) -> None:
        """End this session of the run and give the lease back.

        Raises:
            JournalError: The end could not be recorded; the lease is let go all the same, so that
                resuming takes the run over at once.
        """
        if self.await_reports is not None:
            self.await_reports()
        self.ended = True
        for give_back in list(self.at_end.values()):  # also if the end cannot be recorded
            give_back()
        HEART.leave(self.lease)
        reason = self._reason() if status is not RunStatus.FAILED else None
        error = error and self._with_anew(error)
        said = self.guarding.pending()
        try:
            if said:
                self.journal.add_verdicts(self.lease, said)
            self.journal.finish_run(self.lease, status, reason=reason, result=result, error=error)
        except JournalError as failure:  # itself: what stopped the run before may be no such error
            forget_owner(self.lease.owner)
            failure.run_id = failure.run_id or self.run_id
            self.stop(failure)
            raise
        self.log.run_finished(
            status=status.value,
            reason=reason,
            error=error,
            usage=self._usage,
            spent=self.bill.spent,
            unmetered=self._unmetered,
        )
        self.log.close()

    def _reason(self) -> str | None:
        if self._stopped is None:
            return "degraded" if self.degraded else None
        reason = self._stopped.fields.get("reason")
        return str(reason) if reason else type(self._stopped).__name__

    # -- inner ------------------------------------------------------------------------------------

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

    def _step(self, ticket: Ticket, status: StepStatus, **outcome: Any) -> StepRecord:
        cost = self.bill.cost(ticket, status, outcome.get("usage"), outcome.get("model"))
        return ticket.step(status, self.lease.epoch, cost=cost, **outcome)

    def _commit(
        self, ticket: Ticket, step: StepRecord, messages: Sequence[MessageRecord] = ()
    ) -> None:
        settled = self.braking.brakes.settled(step, ticket.before)
        said = self.guarding.pending()
        self._write(
            lambda: self.journal.finish_step(
                self.lease,
                step,
                messages=messages,
                attempt=ticket.before,
                settled=settled,
                verdicts=said,
            )
        )
        if self.ended:  # it was in flight for longer than the end of the run waits
            self._write(lambda: self.journal.sum_up(self.lease))
        self._remember(messages)
        with self._lock:
            self._walk.history.add(step)
            if step.usage is not None:
                self._usage += step.usage
                self._spent[step.scope] = self._spent.get(step.scope, Usage()) + step.usage
        if step.kind is StepKind.TOOL:
            self.looping.ended(step)
        self.braking.brakes.enter(step)
        self.bill.enter(step, ticket.scope.task_name, self.log)
        self.log.step_finished(step, task=ticket.scope.task_name)
        self.braking.warn()

    def _write(self, write: Any) -> None:
        """Make a write; one that fails stops the run before its next effect."""
        self.check_owner()
        try:
            write()
        except (JournalError, RunCancelled) as error:
            raise self.stop(error) from error.__cause__

    def check_owner(self) -> None:
        """Refuse to write for a run that another process has taken over."""
        if isinstance(self._stopped, JournalError):
            raise self._stopped

    def _remember(self, messages: Sequence[MessageRecord]) -> None:
        with self._lock:
            self._messages.update(message.digest for message in messages)

    def _share(self, text: str | None, step: str) -> None:
        if text is not None and len(text) >= _SHORTEST_SHARED:
            with self._lock:
                self._contents.setdefault(text, step)

    def _note_replay(self, ticket: Ticket, *, drifted: bool) -> None:
        record = ticket.recorded
        assert record is not None
        if drifted:
            self.log.step_drift(record, asked=ticket.digest, task=ticket.scope.task_name)
        self.log.step_replayed(record, task=ticket.scope.task_name)

    def _task(self, position: int, status: TaskStatus, agent: str | None) -> TaskRecord:
        plan = self.plans[position]
        now = time.time()
        started = plan.record.started_at if plan.record and not plan.generation else now
        return TaskRecord(
            position=position,
            generation=plan.generation,
            name=plan.definition.name,
            agent=agent,
            fingerprint=plan.definition.fingerprint,
            parts=orjson.dumps(dict(plan.definition.parts)).decode(),
            status=status,
            started_at=self._started.setdefault(position, started),
            finished_at=None if status is TaskStatus.RUNNING else now,
        )


def recorded_usage(steps: Iterable[StepRecord], attempts: Iterable[AttemptRecord]) -> Usage:
    """What was paid for according to the journal, failed and billed tries included."""
    recorded = [step.usage for step in steps] + [attempt.usage for attempt in attempts]
    return sum((usage for usage in recorded if usage is not None), Usage())


def _usage_by_scope(
    steps: Sequence[StepRecord], attempts: Iterable[AttemptRecord]
) -> dict[str, Usage]:
    scopes = {step.step_id: step.scope for step in steps}
    spent: dict[str, Usage] = {}
    entries: list[StepRecord | AttemptRecord] = [*steps, *attempts]
    for one in entries:
        if one.usage is not None:
            scope = scopes[one.step_id]
            spent[scope] = spent.get(scope, Usage()) + one.usage
    return spent


def _is_call(ticket: Ticket) -> bool:
    """Whether a model reads what comes of it."""
    return ticket.kind is StepKind.TOOL


def _is_failed_tool(step: StepRecord) -> bool:
    raised = step.status is StepStatus.FAILED and not decided_again(step.error)
    failed = raised or reports_failure(step.result)
    return step.kind is StepKind.TOOL and step.effect != REFUSED and failed


def status_of(error: BaseException) -> RunStatus:
    """The status a run is left in by this error."""
    if isinstance(error, RunPaused):
        return RunStatus.PAUSED
    if isinstance(error, RunCancelled):
        return RunStatus.CANCELLED
    if isinstance(error, RunInterrupted) or not isinstance(error, Exception):
        return RunStatus.INTERRUPTED
    return RunStatus.FAILED


@contextmanager
def in_body(run: Run, ticket: Ticket, *, users: bool = True) -> Iterator[None]:
    """Where a step's own code runs: a scope of its own, and the step it may ask for.

    Args:
        run: The run.
        ticket: Of the step.
        users: Whether the code is the user's, not CrewAI's.
    """
    scope = current_scope.set((run, ticket.inner))
    step = step_in_body.set(run.step_handle(ticket))
    code = users_code.set(users or users_code.get())
    body_point("tool.before_body")
    try:
        yield
    finally:
        users_code.reset(code)
        step_in_body.reset(step)
        current_scope.reset(scope)
        body_point("tool.after_body")


@contextmanager
def in_guard(run: Run, scope: Scope) -> Iterator[None]:
    """Where a guard's own code runs: the user's, in the body of no step."""
    place, step = current_scope.set((run, scope)), step_in_body.set(None)
    code = users_code.set(True)
    try:
        yield
    finally:
        users_code.reset(code)
        step_in_body.reset(step)
        current_scope.reset(place)


def body_point(name: str) -> None:
    """A place where the crash tests end the process."""
    _faults.point(name)
