"""One run being advanced: ties the rules, the journal and the log together.

Rule: whatever was paid for or done is in the journal before anyone else sees it, and a refusal is
stored on the run before it is raised, so that no `except` on the way out can lose it. From the
moment a run is stopped, every seam that asks it refuses. Knows nothing of crewai.

All methods may be called from any thread. Those that write (`begin_tool`, `finish`, `fail`, tasks,
`end`) block on the disk: call them from a worker thread when on an event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence

import orjson

from crewai_prod.approving import Approving
from crewai_prod.bodies import in_guard
from crewai_prod.braking import Braking
from crewai_prod.errors import (
    JournalError,
    RunCancelled,
    RunInterrupted,
    RunPaused,
)
from crewai_prod.escalating import Escalating
from crewai_prod.guarding import Guarding
from crewai_prod.heart import HEART
from crewai_prod.journal import Journal, forget_owner
from crewai_prod.logs import RunLog
from crewai_prod.looping import Looping
from crewai_prod.model_steps import ModelSteps
from crewai_prod.outcomes import UnknownPolicy
from crewai_prod.paid import Paid
from crewai_prod.records import (
    Opened,
    RunStatus,
)
from crewai_prod.replay import TaskPlan
from crewai_prod.retry import Retry
from crewai_prod.routing import Routing
from crewai_prod.run_core import is_failed_tool, recorded_usage, usage_by_scope
from crewai_prod.steps import (
    Scope,
)
from crewai_prod.task_records import TaskRecords
from crewai_prod.tool_steps import ToolSteps
from crewai_prod.tooling import ToolOptions
from crewai_prod.walk import Walk


class Run(ModelSteps, ToolSteps, TaskRecords):
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
        super().__init__(journal, tools, retry)
        self.braking = Braking(self, self._write)
        self.routing = Routing(self)
        self.escalating = Escalating(self)
        self.guarding = Guarding(self, self._write, in_guard)
        self.approving = Approving(self, self._write)
        self.looping = Looping(self)
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
        self.degraded = any(is_failed_tool(step) for step in opened.steps)
        self._admission.restore(opened.steps)
        self._messages = set(opened.messages)
        self._paid = Paid(
            recorded_usage(opened.steps, opened.attempts),
            usage_by_scope(opened.steps, opened.attempts),
        )
        self.bill.take_up(opened.steps, opened.attempts)
        self.braking.brakes.take_up(
            opened.steps, opened.attempts, self.braking.guess, opened.cut_off
        )
        self.guarding.take_up(opened.verdicts)
        self._unmetered = sum(step.unmetered for step in opened.steps)

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

    def enter(self, scope: Scope, *, retry: bool) -> None:
        """An agent begins to work in a scope; see `Walk.enter`."""
        with self._lock:
            self._walk.enter(scope.path, retry=retry)
        self.looping.forget(scope.path)

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
            usage=self.usage,
            spent=self.bill.spent,
            unmetered=self._unmetered,
        )
        self.log.close()

    def _reason(self) -> str | None:
        if self._stopped is None:
            return "degraded" if self.degraded else None
        reason = self._stopped.fields.get("reason")
        return str(reason) if reason else type(self._stopped).__name__


def status_of(error: BaseException) -> RunStatus:
    """The status a run is left in by this error."""
    if isinstance(error, RunPaused):
        return RunStatus.PAUSED
    if isinstance(error, RunCancelled):
        return RunStatus.CANCELLED
    if isinstance(error, RunInterrupted) or not isinstance(error, Exception):
        return RunStatus.INTERRUPTED
    return RunStatus.FAILED
