"""What the parts of a run share: who may write, what stopped it, and how a step is committed.

Rule: whatever was paid for or done is in the journal before anyone else sees it, and a refusal is
stored on the run before it is raised, so that no `except` on the way out can lose it. From the
moment a run is stopped, every seam that asks it refuses. Knows nothing of crewai.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

import orjson

from crewai_prod import deadlines
from crewai_prod.approving import Approving
from crewai_prod.bill import Bill
from crewai_prod.braking import Braking
from crewai_prod.errors import (
    CrewProdError,
    JournalError,
    ReplayOnly,
    RunCancelled,
    RunError,
)
from crewai_prod.escalating import Escalating
from crewai_prod.guarding import Guarding
from crewai_prod.journal import CANCEL_SECONDS, Journal
from crewai_prod.logs import RunLog
from crewai_prod.looping import Looping
from crewai_prod.outcomes import UnknownPolicy
from crewai_prod.paging import Paging
from crewai_prod.paid import Paid
from crewai_prod.records import (
    AttemptRecord,
    Lease,
    MessageRecord,
    StepKind,
    StepRecord,
    StepStatus,
    Usage,
)
from crewai_prod.replay import TaskPlan, decided_again
from crewai_prod.required import REFUSED, reports_failure
from crewai_prod.retry import Retry
from crewai_prod.routing import Routing
from crewai_prod.setbacks import Setbacks
from crewai_prod.steps import (
    Scope,
    Talk,
    lies_in,
    task_scope,
)
from crewai_prod.tooling import ToolOptions
from crewai_prod.walk import Ticket, Walk

_SHORTEST_SHARED = 64
"""Shorter contents are cheaper to repeat than to point at."""


class _Flight:
    """How many calls are under way; each of them in a block of its own, on whichever thread."""

    __slots__ = ("_landed", "_lock", "_many", "_waits")

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._landed = threading.Condition(lock)
        self._many = 0
        self._waits = False

    def __enter__(self) -> None:
        with self._lock:
            self._many += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._many -= 1
            if self._waits and not self._many:
                self._landed.notify_all()

    def land(self, seconds: float) -> bool:
        """Wait until none is under way; whether that is so."""
        with self._lock:
            self._waits = True
            return self._landed.wait_for(lambda: self._many == 0, seconds)


class RunCore:
    """The state of a run of this process; see `Run`."""

    braking: Braking
    routing: Routing
    escalating: Escalating
    guarding: Guarding
    approving: Approving
    looping: Looping

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
        self.bill = Bill()
        self.setbacks = Setbacks()
        self.paging = Paging()
        self.await_reports: Callable[[], None] | None = None
        self._lease: Lease | None = None
        self._run_id: str | None = None
        self._lock = threading.Lock()
        self._flight = _Flight(self._lock)
        self._walk = Walk()
        self._messages: set[str] = set()
        self._contents: dict[str, str] = {}
        self._talks: dict[str, Talk] = {}
        self._stopped: CrewProdError | None = None
        self._looked = -math.inf
        self._paid = Paid()
        self._unusable: set[str] = set()
        self._redo: set[str] = set()
        self._direct: set[str] = set()

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

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
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

        Looks into the journal, unless it has just done so: whoever cancels waits for that long.

        Raises:
            CrewProdError: It was; or the journal could not be read.
        """
        self.check()
        now = time.monotonic()
        if now - self._looked >= CANCEL_SECONDS:
            self._write(self._refuse_if_cancelled)
            self._looked = now

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

    def in_flight(self) -> AbstractContextManager[None]:
        """What is called here is paid for or done: the run does not end before it is recorded."""
        return self._flight

    def land(self, seconds: float) -> bool:
        """Refuse new steps and wait for those in flight; whether all have been recorded."""
        self.stop(RunError("The run has ended: what ran beside the task that ended it stops here."))
        return self._flight.land(seconds)

    # -- what is recorded -------------------------------------------------------------------------

    def recorded(self, scope: Scope) -> list[StepRecord]:
        """What is recorded of the steps in a scope and all within it."""
        with self._lock:
            return self._walk.history.within(scope.path)

    def last_step(self, scope: Scope) -> str | None:
        """The model or tool call that was begun last in a scope, by this session."""
        with self._lock:
            return self._walk.last(scope.path)

    def called(self, path: str) -> dict[str, bool]:
        """The tools that were called within a scope so far, by name: whether that is enough."""
        with self._lock:
            return self._walk.history.called(path)

    def step_that_said(self, text: str | None) -> str | None:
        """The id of a step whose result is word for word this text, if it is a long one."""
        with self._lock:
            return None if text is None else self._contents.get(text)

    @property
    def usage(self) -> Usage:
        """What the run has cost so far, all sessions together."""
        with self._lock:
            return self._paid.total

    def usage_within(self, scope: Scope) -> Usage:
        """What was spent in a scope and all within it, all sessions together."""
        with self._lock:
            return self._paid.within(scope.path)

    def scope_of_task(self, position: int) -> Scope:
        """Where the steps of a task are recorded."""
        plan = self.plans[position]
        return task_scope(position, plan.generation, plan.definition.name, follow=plan.follow)

    # -- what is to be made anew ------------------------------------------------------------------

    def distrust_last_answer(self, scope: Scope) -> None:
        """A nested task came to nothing: if its last step is a model's answer, that was no use.

        It is kept with the failure of the step around it; resuming asks for the answer anew.
        """
        with self._lock:
            self._unusable.add(scope.path)

    def have_redone(self, steps: Iterable[str]) -> None:
        """Once the run has failed, have these steps made anew when it is resumed."""
        with self._lock:
            self._redo.update(steps)

    def _with_anew(self, error: str, within: str | None = None) -> str:
        """The facts of a failure with what is to be tried anew after it."""
        with self._lock:
            found = sorted(p for p in self._unusable if within is None or lies_in(p, within))
            redo = sorted(self._redo) if within is None else []
        more = {name: what for name, what in (("unusable", found), ("redo", redo)) if what}
        return orjson.dumps({**orjson.loads(error), **more}).decode() if more else error

    # -- writing ----------------------------------------------------------------------------------

    def _step(self, ticket: Ticket, status: StepStatus, **outcome: Any) -> StepRecord:
        cost = self.bill.cost(ticket, status, outcome.get("usage"), outcome.get("model"))
        return ticket.step(status, self.lease.epoch, cost=cost, **outcome)

    def _commit(
        self, ticket: Ticket, step: StepRecord, messages: Sequence[MessageRecord] = ()
    ) -> None:
        brakes, lease = self.braking.brakes, self.lease
        self._write(
            self.journal.finish_step,
            lease,
            step,
            messages=messages,
            attempt=ticket.before,
            settled=brakes.settled(step, ticket.before),
            verdicts=self.guarding.pending(),
        )
        if self.ended:  # it was in flight for longer than the end of the run waits
            self._write(self.journal.sum_up, lease)
        with self._lock:
            self._messages.update([message.digest for message in messages])
            self._walk.history.add(step)
            if step.usage is not None:
                self._paid.note(step.scope, step.usage)
        if step.kind is StepKind.TOOL:
            self.looping.ended(step)
        brakes.enter(step)
        self.bill.enter(step, ticket.scope.task_name, self.log)
        self.log.step_finished(step, task=ticket.scope.task_name)
        self.braking.warn()

    def _write(self, write: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Make a write; one that fails stops the run before its next effect."""
        self.check_owner()
        try:
            write(*args, **kwargs)
        except (JournalError, RunCancelled) as error:
            raise self.stop(error) from error.__cause__

    def check_owner(self) -> None:
        """Refuse to write for a run that another process has taken over."""
        if isinstance(self._stopped, JournalError):
            raise self._stopped

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

    def _gather(self, path: str) -> None:
        """Have direct calls within a scope recorded before what they were made for is."""
        with self._lock:
            within = {one for one in self._direct if lies_in(one, path)}
            self._direct -= within
        if within and self.await_reports is not None:
            self.await_reports()


def recorded_usage(steps: Iterable[StepRecord], attempts: Iterable[AttemptRecord]) -> Usage:
    """What was paid for according to the journal, failed and billed tries included."""
    recorded = [step.usage for step in steps] + [attempt.usage for attempt in attempts]
    return sum((usage for usage in recorded if usage is not None), Usage())


def usage_by_scope(
    steps: Sequence[StepRecord], attempts: Iterable[AttemptRecord]
) -> dict[str, Usage]:
    """The same by scope."""
    scopes = {step.step_id: step.scope for step in steps}
    spent: dict[str, Usage] = {}
    entries: list[StepRecord | AttemptRecord] = [*steps, *attempts]
    for one in entries:
        if one.usage is not None:
            scope = scopes[one.step_id]
            spent[scope] = spent.get(scope, Usage()) + one.usage
    return spent


def is_call(ticket: Ticket) -> bool:
    """Whether a model reads what comes of it."""
    return ticket.kind is StepKind.TOOL


def is_failed_tool(step: StepRecord) -> bool:
    """Whether it is a tool call that was made and failed."""
    raised = step.status is StepStatus.FAILED and not decided_again(step.error)
    failed = raised or reports_failure(step.result)
    return step.kind is StepKind.TOOL and step.effect != REFUSED and failed
