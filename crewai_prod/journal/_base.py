"""The journal's contract: what a store of runs must promise, whatever database it is.

Rule: a write method returns only when its rows are as durable as the journal was asked to make
them, and either all its rows are there or none. Reason: the caller hands a result to CrewAI, or
lets a tool act, the moment the method returns. Not covered: what happens inside a tool's body.

Every write checks, in its own transaction, that the lease's epoch is still the run's; if not it
raises `StaleOwner` and writes nothing. A database error becomes a `JournalError`, never passes as
itself. All methods may be called from any thread; none may be called on an event loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from crewai_prod.records import (
    Amounts,
    ApprovalRecord,
    AttemptRecord,
    GuardRecord,
    Lease,
    MessageRecord,
    NewRun,
    Opened,
    Owner,
    Place,
    Pot,
    Ruling,
    RunRecord,
    RunStatus,
    RunSummary,
    Settled,
    StepRecord,
    Taken,
    TaskRecord,
    TaskSpending,
    TransitionRecord,
    UsageRow,
)

CANCEL_SECONDS = 0.05
"""How old the answer of `cancelled` may be when a step is begun; whoever cancels waits for it."""

Judge = Callable[[ApprovalRecord, RunStatus], "Ruling | None"]
"""What becomes of a question of a run in this status; None: it stays as it is."""


class JournalWriter(Protocol):
    """What a run needs to be advanced."""

    def open_run(self, new: NewRun, owner: Owner, *, lease_seconds: float) -> Opened:
        """Create the run, or take it over where it stopped.

        Raises:
            RunInUse: A live owner has it (another process, or another kickoff in this one).
            RunMismatch: The run exists with other inputs or another kind.
            JournalError: The database could not be read or written.
        """
        ...

    def heartbeat(self, leases: Sequence[Lease], *, lease_seconds: float) -> list[Lease]:
        """Extend the leases in one transaction; return those that have been lost."""
        ...

    def start_step(
        self, lease: Lease, step: StepRecord, *, attempt: AttemptRecord | None = None
    ) -> None:
        """Record the intent to make a step, before its effect.

        Raises `RunCancelled` in a session that was asked to stop.
        `attempt` is an earlier try of the same step that this one replaces.
        """
        ...

    def finish_step(
        self,
        lease: Lease,
        step: StepRecord,
        *,
        messages: Iterable[MessageRecord] = (),
        attempt: AttemptRecord | None = None,
        settled: Settled | None = None,
        verdicts: Sequence[GuardRecord] = (),
    ) -> None:
        """Record a step's outcome: insert it, or complete the row that `start_step` left.

        `messages` are those of the request that the journal does not hold yet; `attempt` is an
        earlier try of the same step that this outcome replaces; `settled` what it took of budgets
        that runs share; `verdicts` what guards have said meanwhile.
        """
        ...

    def reserve(
        self,
        lease: Lease,
        place: Place,
        pots: Sequence[Pot],
        decide: Callable[[Sequence[Taken]], Amounts | None],
        likely: Callable[[Amounts], Amounts] = lambda most: most,
    ) -> None:
        """Reserve something of budgets, for a step that is about to be made.

        `decide` is told, for each of `pots`, what is spent and what calls under way have reserved
        in all processes, and says how much to reserve, or None: nothing. It is called within the
        transaction, perhaps twice, and must do nothing else. Without pots the call is noted for the
        run's own budgets. A reservation ends when the step is recorded with what it `settled`, or
        when `settle` is called, at the latest with the session. A model call that has no outcome
        then counts for good, as it may have been made: as much as `likely` makes of what was
        reserved. `open_run` hands it on as `cut_off`.
        """
        ...

    def settle(self, lease: Lease, step_id: str, settled: Settled) -> None:
        """Count what a step took of budgets that runs share, without recording it."""
        ...

    def cancel(self, run_id: str) -> None:
        """Ask the session at work on a run to stop before its next step. Needs no lease.

        From now on the intent of no call that acts is recorded in that session: `start_step` raises
        `RunCancelled`. A run that has been cancelled stays so. Returns after `CANCEL_SECONDS`: then
        no step is begun any more, as who begins one has looked (`cancelled`) that lately.

        Raises:
            RunNotFound: There is none of this id.
            RunError: Nobody is at work on it.
        """
        ...

    def add_verdicts(self, lease: Lease, verdicts: Sequence[GuardRecord]) -> None:
        """Record what guards have said, in this order."""
        ...

    def save_task(
        self,
        lease: Lease,
        task: TaskRecord,
        *,
        messages: Iterable[MessageRecord] = (),
        verdicts: Sequence[GuardRecord] = (),
    ) -> None:
        """Insert or replace the row of (position, generation)."""
        ...

    def finish_run(
        self,
        lease: Lease,
        status: RunStatus,
        *,
        reason: str | None = None,
        result: str | None = None,
        error: str | None = None,
    ) -> None:
        """End this session of the run: the legal transition, its row, and the lease given back."""
        ...

    def sum_up(self, lease: Lease) -> None:
        """Sum up anew what the run took: a step of it was recorded after its session's end."""
        ...

    def ask(self, lease: Lease, approval: ApprovalRecord) -> int:
        """Record a question (one open row per run, step, kind, scope and subject); return its id.

        Of the record counts what is known of a question when it is asked.
        """
        ...

    def answer(self, approval_id: int, judge: Judge) -> ApprovalRecord:
        """Have `judge` say what becomes of a question; returns it as it is then.

        Needs no lease: the run is paused. `judge` is told the question and its run's status within
        the transaction, perhaps twice, and must do nothing else; of several that answer at once it
        sees what the one before has said. None changes nothing; what it raises is raised.

        Raises:
            ApprovalNotFound: There is no such question.
        """
        ...

    def claim_notice(self, approval_id: int) -> bool:
        """Whether it is for the caller to tell people of an open question: only the first may."""
        ...


class JournalReader(Protocol):
    """What reports, the command line and tests need. Never imports crewai."""

    def runs(
        self, *, status: RunStatus | None = None, limit: int | None = 50
    ) -> list[RunSummary]: ...

    def run(self, run_id: str) -> RunRecord: ...

    def transitions(self, run_id: str) -> list[TransitionRecord]: ...

    def tasks(self, run_id: str) -> list[TaskRecord]: ...

    def steps(self, run_id: str) -> list[StepRecord]: ...

    def attempts(self, run_id: str) -> list[AttemptRecord]: ...

    def verdicts(self, run_id: str) -> list[GuardRecord]:
        """What guards have said in the run, oldest first."""
        ...

    def conversation(self, run_id: str, digest: str) -> list[dict[str, Any]]:
        """The messages up to and with `digest`, first one first, contents filled in."""
        ...

    def cancelled(self, leases: Sequence[Lease]) -> list[Lease]:
        """Those of the sessions that somebody has asked to stop."""
        ...

    def approvals(
        self, run_id: str | None = None, *, status: str | None = None
    ) -> list[ApprovalRecord]: ...

    def approval(self, approval_id: int) -> ApprovalRecord:
        """One question. Raises `ApprovalNotFound` if it is not there."""
        ...

    def grant(self, lease: Lease, tool: str, now: float) -> ApprovalRecord | None:
        """An approval that covers other calls of a tool, too: in its run, or of its crew."""
        ...

    def usage(
        self,
        by: Sequence[str] = (),
        *,
        run_id: str | None = None,
        crew: str | None = None,
        since: float | None = None,
        limit: int | None = None,
    ) -> list[UsageRow]:
        """What calls took, summed up by `run`, `crew`, `task`, `agent`, `model` or `day` (UTC).

        Args:
            by: One or more of these; none: one row for all.
            run_id: Only this run.
            crew: Only this crew.
            since: Only calls made on the day of this time (UTC) or later.
            limit: At most so many rows. Newest first by day or run, otherwise dearest first.
        """
        ...

    def task_spending(self, run_id: str, *, earlier: int) -> list[list[TaskSpending]]:
        """What each task of a run that has ended took, and what it took in earlier runs.

        Returns:
            For each task a list that begins with this run; then come those of the `earlier`
            completed runs of the same crew before it that had the task, the newest first.
        """
        ...

    def latest_runs(self, *, crew: str | None = None, since: float | None = None) -> list[str]:
        """The newest run of each crew that is not at work, or all that began `since`."""
        ...


class Journal(JournalWriter, JournalReader, Protocol):
    """A store of runs."""

    @property
    def location(self) -> str:
        """Path or URL without credentials, for people."""
        ...

    def close(self) -> None: ...
