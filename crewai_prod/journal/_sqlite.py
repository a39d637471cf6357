"""The journal in one SQLite file: what `_base.Journal` promises, for many threads and processes.

Rule: a write returns when it is committed as durably as was asked; a failed one leaves nothing
behind and the journal usable as soon as the cause is gone. One connection writes, in groups where
threads meet; another reads. Before a fork both are closed, because SQLite's locks do not survive
one; parent and child open their own when they next need them.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from crewai_prod._faults import point
from crewai_prod.errors import (
    ApprovalNotFound,
    JournalError,
    RunCancelled,
    RunError,
    StaleOwner,
    UsageError,
)
from crewai_prod.journal import _sharing, _sql
from crewai_prod.journal._base import CANCEL_SECONDS, Judge
from crewai_prod.journal._crypto import Cipher, Plain, check_key, store_check
from crewai_prod.journal._failures import BINDING_ERRORS, failures, translated
from crewai_prod.journal._files import Durability, Handle, create_file, open_writer
from crewai_prod.journal._forks import watch
from crewai_prod.journal._group import GroupCommit, Work, alone
from crewai_prod.journal._lease import adopt, forget_owner
from crewai_prod.journal._opening import open_run
from crewai_prod.journal._read import SqliteReader
from crewai_prod.journal._rows import (
    approval_record,
    approval_values,
    attempt_values,
    message_values,
    put_step,
    task_values,
    verdict_values,
)
from crewai_prod.journal._states import check_transition
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
    RunStatus,
    Settled,
    StepRecord,
    TaskRecord,
)

T = TypeVar("T")
_FINAL = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})


class _Points(NamedTuple):
    before: str
    after: str


def _points(operation: str) -> _Points:
    return _Points(f"commit.before:{operation}", f"commit.after:{operation}")


_OPEN_RUN = _points("open_run")
_START_STEP = _points("start_step")
_FINISH_STEP = _points("finish_step")
_SAVE_TASK = _points("save_task")
_ADD_VERDICTS = _points("add_verdicts")
_FINISH_RUN = _points("finish_run")
_ASK = _points("ask")
_ANSWER = _points("answer")
_CLAIM_NOTICE = _points("claim_notice")


class SqliteJournal(SqliteReader):
    """A journal in one SQLite file. Make it with `open_journal`.

    Args:
        path: The file, absolute.
        durability: `power` syncs every commit, `process` leaves that to the operating system.
        vault: Seals and opens payloads.
        busy_seconds: How long to wait for another process's lock.
    """

    def __init__(
        self, path: Path, durability: Durability, vault: Plain, busy_seconds: float
    ) -> None:
        super().__init__(path, vault, busy_seconds)
        self._durability = durability
        self._write_handle = Handle(path, self._connect_writer)
        self._group = GroupCommit(self._write_handle.get, patient=durability == "power")
        watch(self)

    def prepare(self, *, create: bool) -> None:
        """Open the file now, so that what is wrong with it shows now.

        Raises:
            JournalError: It cannot be opened or created, is no journal, or of a newer schema.
            UsageError: It is encrypted with another key.
        """
        if not create:
            self._query("SELECT 1", ())
            return
        create_file(self._path)
        self._group.enter()
        try:
            with failures(self.location):
                self._write_handle.get()
        finally:
            self._group.leave()

    def open_run(self, new: NewRun, owner: Owner, *, lease_seconds: float) -> Opened:
        """See `JournalWriter.open_run`."""
        adopted = adopt(owner)
        opened = None
        try:
            opened = self._write(
                _OPEN_RUN, lambda c: open_run(c, new, owner, lease_seconds, self._vault)
            )
        finally:
            if adopted and (opened is None or opened.lease is None):
                forget_owner(owner)
        return opened

    def heartbeat(self, leases: Sequence[Lease], *, lease_seconds: float) -> list[Lease]:
        """See `JournalWriter.heartbeat`."""

        def work(connection: sqlite3.Connection) -> list[Lease]:
            expires = time.time() + lease_seconds
            lost = []
            for lease in leases:
                values = (expires, lease.run, lease.epoch, lease.owner.id)
                if connection.execute(_sql.EXTEND_LEASE, values).rowcount != 1:
                    lost.append(lease)
            return lost

        return self._write(None, work)

    def start_step(
        self, lease: Lease, step: StepRecord, *, attempt: AttemptRecord | None = None
    ) -> None:
        """See `JournalWriter.start_step`."""
        statement, values = put_step(lease, step, self._vault, intent=True)
        tried = None if attempt is None else attempt_values(lease, attempt, self._vault)

        def work(connection: sqlite3.Connection) -> None:
            if connection.execute(statement, values).rowcount != 1:
                _refuse(connection, lease, step.step_id)
            if tried is not None:
                connection.execute(_sql.ADD_ATTEMPT, tried)

        self._write(_START_STEP, work, atomic=tried is None)

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
        """See `JournalWriter.finish_step`."""
        vault = self._vault
        statement, values = put_step(lease, step, vault)
        fresh = [message_values(lease, message, vault) for message in messages]
        tried = None if attempt is None else attempt_values(lease, attempt, vault)
        said = [verdict_values(lease, one, vault) for one in verdicts]

        def work(connection: sqlite3.Connection) -> None:
            if connection.execute(statement, values).rowcount != 1:
                _refuse(connection, lease, step.step_id)
            for message in fresh:
                connection.execute(_sql.ADD_MESSAGE, message)
            for verdict in said:
                connection.execute(_sql.ADD_VERDICT, verdict)
            if tried is not None:
                connection.execute(_sql.ADD_ATTEMPT, tried)
            if settled is not None:
                _sharing.settle(connection, lease, step.step_id, settled)

        atomic = not fresh and not said and tried is None and settled is None
        self._write(_FINISH_STEP, work, atomic=atomic)

    def add_verdicts(self, lease: Lease, verdicts: Sequence[GuardRecord]) -> None:
        """See `JournalWriter.add_verdicts`."""
        said = [verdict_values(lease, one, self._vault) for one in verdicts]

        def work(connection: sqlite3.Connection) -> None:
            for verdict in said:
                if connection.execute(_sql.ADD_VERDICT, verdict).rowcount != 1:
                    _refuse(connection, lease)

        self._write(_ADD_VERDICTS, work)

    def save_task(
        self,
        lease: Lease,
        task: TaskRecord,
        *,
        messages: Iterable[MessageRecord] = (),
        verdicts: Sequence[GuardRecord] = (),
    ) -> None:
        """See `JournalWriter.save_task`."""
        values = task_values(lease, task, self._vault)
        fresh = [message_values(lease, message, self._vault) for message in messages]
        said = [verdict_values(lease, one, self._vault) for one in verdicts]

        def work(connection: sqlite3.Connection) -> None:
            if connection.execute(_sql.PUT_TASK, values).rowcount != 1:
                _refuse(connection, lease)
            for message in fresh:
                connection.execute(_sql.ADD_MESSAGE, message)
            for verdict in said:
                connection.execute(_sql.ADD_VERDICT, verdict)

        self._write(_SAVE_TASK, work)

    def finish_run(
        self,
        lease: Lease,
        status: RunStatus,
        *,
        reason: str | None = None,
        result: str | None = None,
        error: str | None = None,
    ) -> None:
        """See `JournalWriter.finish_run`. The owner counts as gone even if this fails."""
        outcome = (
            self._vault.seal(result, lease.run_id, "runs.result"),
            self._vault.seal(error, lease.run_id, "runs.error"),
        )

        def work(connection: sqlite3.Connection) -> None:
            source = RunStatus(_fence(connection, lease))
            check_transition(source, status, lease.run_id)
            now = time.time()
            finished_at = now if status in _FINAL else None
            connection.execute(
                _sql.END_RUN, (status.value, reason, *outcome, now, finished_at, lease.run)
            )
            connection.execute(
                _sql.ADD_TRANSITION,
                (lease.run, source.value, status.value, reason, lease.epoch, now),
            )
            _sharing.end_session(connection, lease.run)
            if status is RunStatus.COMPLETED:
                connection.execute(_sql.CLOSE_APPROVALS, (now, lease.run))
            _sum_up(connection, lease)

        try:
            self._write(_FINISH_RUN, work)
        finally:
            forget_owner(lease.owner)

    def sum_up(self, lease: Lease) -> None:
        """See `JournalWriter.sum_up`."""

        def work(connection: sqlite3.Connection) -> None:
            _fence(connection, lease)
            _sum_up(connection, lease)

        self._write(None, work)

    def reserve(
        self,
        lease: Lease,
        place: Place,
        pots: Sequence[Pot],
        decide: _sharing.Decide,
        likely: Callable[[Amounts], Amounts] = lambda most: most,
    ) -> None:
        """See `JournalWriter.reserve`."""

        def work(connection: sqlite3.Connection) -> None:
            _fence(connection, lease)
            _sharing.reserve(connection, lease, place, pots, decide, likely)

        self._write(None, work)

    def settle(self, lease: Lease, step_id: str, settled: Settled) -> None:
        """See `JournalWriter.settle`."""

        def work(connection: sqlite3.Connection) -> None:
            _fence(connection, lease)
            _sharing.settle(connection, lease, step_id, settled)

        self._write(None, work)

    def cancel(self, run_id: str) -> None:
        """See `JournalWriter.cancel`."""
        self._write(None, lambda c: _sharing.ask_to_stop(c, run_id, self._vault))
        time.sleep(CANCEL_SECONDS)

    def ask(self, lease: Lease, approval: ApprovalRecord) -> int:
        """See `JournalWriter.ask`."""
        identity, rest = approval_values(lease, approval, self._vault)

        def work(connection: sqlite3.Connection) -> int:
            _fence(connection, lease)
            row = connection.execute(_sql.OPEN_APPROVAL, identity).fetchone()
            if row is not None:
                return int(row[0])
            run, *asked = identity
            number = connection.execute(_sql.ADD_APPROVAL, (run, *asked, *rest)).lastrowid
            assert number is not None
            return number

        return self._write(_ASK, work)

    def answer(self, approval_id: int, judge: Judge) -> ApprovalRecord:
        """See `JournalWriter.answer`."""

        def work(connection: sqlite3.Connection) -> ApprovalRecord:
            row = connection.execute(_sql.APPROVAL_BY_ID, (approval_id,)).fetchone()
            if row is None:
                raise ApprovalNotFound(f"No question {approval_id} is in the journal.")
            *columns, status = row
            question = approval_record(columns, self._vault)
            ruling = judge(question, RunStatus(status))
            if ruling is None or question.status != "open":
                return question
            now = time.time()
            sealed = self._vault.seal(ruling.answer, question.run_id, "approvals.answer")
            said = (ruling.by, ruling.holds, ruling.holds_until, now, approval_id)
            connection.execute(_sql.ANSWER_APPROVAL, (ruling.status, ruling.verdict, sealed, *said))
            return replace(
                question,
                status=ruling.status,
                verdict=ruling.verdict,
                answer=ruling.answer,
                answered_by=ruling.by,
                holds=ruling.holds,
                holds_until=ruling.holds_until,
                answered_at=now,
            )

        return self._write(_ANSWER, work)

    def claim_notice(self, approval_id: int) -> bool:
        """See `JournalWriter.claim_notice`."""

        def work(connection: sqlite3.Connection) -> bool:
            return connection.execute(_sql.CLAIM_NOTICE, (time.time(), approval_id)).rowcount == 1

        return self._write(_CLAIM_NOTICE, work)

    def close(self) -> None:
        """Close the file. What was committed stays; nothing can be asked or written any more."""
        self._closed = True
        self.release()

    def release(self) -> None:
        """Close the connections until they are needed again."""
        self.pause()
        self.resume()

    def pause(self) -> None:
        """Close both connections and keep every thread from opening another until `resume`."""
        self._group.enter()
        self._read_lock.acquire()
        self._read_handle.drop()
        self._write_handle.drop()

    def resume(self) -> None:
        """Let the threads go on that `pause` kept waiting."""
        self._read_lock.release()
        self._group.leave()

    def start_over(self) -> None:
        """In place of `resume` in a forked child: the threads that wait do not exist here."""
        self._read_lock = threading.Lock()
        self._group.reset()

    # -- inner ------------------------------------------------------------------------------------

    def _connect_writer(self) -> sqlite3.Connection:
        if self._closed:
            raise UsageError(f"The journal {self.location} was closed.")
        connection = open_writer(self._path, self._durability, self._busy_seconds)
        try:
            if not check_key(connection, self._vault, self.location) and isinstance(
                self._vault, Cipher
            ):
                alone(connection, lambda c: store_check(c, self._vault, self.location))
        except BaseException:
            connection.close()
            raise
        return connection

    def _write(self, points: _Points | None, work: Work[T], *, atomic: bool = False) -> T:
        if points is not None:
            point(points.before)
        try:
            value = self._group.run(work, atomic=atomic)
        except (sqlite3.Error, *BINDING_ERRORS) as error:
            failure = translated(error, self.location)
            self._write_handle.suspect = isinstance(failure, JournalError)
            raise failure from error
        if points is not None:
            point(points.after)
        return value


def _sum_up(connection: sqlite3.Connection, lease: Lease) -> None:
    for statement in _sql.SUM_UP_USAGE:
        connection.execute(statement, (lease.run,))


def _fence(connection: sqlite3.Connection, lease: Lease) -> str:
    """The run's status, if the lease still holds.

    Raises:
        StaleOwner: It does not.
    """
    row = connection.execute(_sql.RUN_STATE, (lease.run,)).fetchone()
    if row is None or row[0] != lease.epoch:
        raise StaleOwner(run_id=lease.run_id, epoch=lease.epoch, current=row and row[0])
    return str(row[1])


def _refuse(connection: sqlite3.Connection, lease: Lease, step_id: str | None = None) -> None:
    """Say why a fenced write changed no row."""
    _fence(connection, lease)
    if _sharing.is_to_stop(connection, lease):
        raise RunCancelled(run_id=lease.run_id)
    raise RunError("The step has an outcome already.", run_id=lease.run_id, step_id=step_id)
