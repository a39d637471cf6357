"""Opening a run: creating it, taking it over where it stopped, or handing back a finished one.

Rule: all of it is one transaction, so of two processes that open a run at once one wins and the
other is told who has it. The record handed back still says how the session before ended (reason,
error); the row no longer does.
"""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import replace
from typing import Any

from crewai_prod.errors import RunInUse, RunMismatch
from crewai_prod.journal import _sql
from crewai_prod.journal._crypto import Plain
from crewai_prod.journal._lease import is_alive
from crewai_prod.journal._rows import (
    attempt_record,
    run_record,
    step_record,
    task_record,
    verdict_record,
)
from crewai_prod.journal._sharing import cut_off, end_session
from crewai_prod.journal._states import check_transition
from crewai_prod.records import (
    Lease,
    NewRun,
    Opened,
    Owner,
    RunRecord,
    RunStatus,
    TaskRecord,
    TaskStatus,
)


def open_run(
    connection: sqlite3.Connection, new: NewRun, owner: Owner, lease_seconds: float, vault: Plain
) -> Opened:
    """Do it, inside a transaction; see `JournalWriter.open_run`."""
    now = time.time()
    row = connection.execute(_sql.RUN_BY_ID, (new.run_id,)).fetchone()
    if row is None:
        return _create(connection, new, owner, now, now + lease_seconds, vault)
    run = run_record(row, vault)
    _require_match(run, new)
    if run.status is RunStatus.COMPLETED:
        return Opened(lease=None, run=run, created=False, tasks=_tasks(connection, run, vault))
    if run.status is RunStatus.RUNNING:
        _require_gone(run, now)
        _note(connection, run.run, RunStatus.RUNNING, RunStatus.INTERRUPTED, run.epoch, now)
        run = replace(run, status=RunStatus.INTERRUPTED)
    return _take_over(connection, run, new, owner, now, now + lease_seconds, vault)


def _create(
    connection: sqlite3.Connection,
    new: NewRun,
    owner: Owner,
    now: float,
    expires: float,
    vault: Plain,
) -> Opened:
    inputs = vault.seal(new.inputs, new.run_id, "runs.inputs")
    ownership = (owner.id, owner.host, owner.pid, owner.process_started, expires)
    what = (new.kind, new.crew, now, now, new.inputs_digest, new.versions, inputs)
    number = connection.execute(_sql.ADD_RUN, (new.run_id, *ownership, *what)).lastrowid
    assert number is not None
    _note(connection, number, None, RunStatus.RUNNING, 1, now)
    row = connection.execute(_sql.RUN_BY_ID, (new.run_id,)).fetchone()
    lease = Lease(run=number, run_id=new.run_id, epoch=1, owner=owner)
    return Opened(lease=lease, run=run_record(row, vault), created=True)


def _take_over(
    connection: sqlite3.Connection,
    run: RunRecord,
    new: NewRun,
    owner: Owner,
    now: float,
    expires: float,
    vault: Plain,
) -> Opened:
    check_transition(run.status, RunStatus.RUNNING, run.run_id)
    epoch = run.epoch + 1
    end_session(connection, run.run)
    ownership = (owner.id, owner.host, owner.pid, owner.process_started, expires)
    connection.execute(_sql.TAKE_RUN, (epoch, *ownership, now, new.versions, run.run))
    _note(connection, run.run, run.status, RunStatus.RUNNING, epoch, now)
    row = connection.execute(_sql.RUN_BY_ID, (run.run_id,)).fetchone()

    def rows(query: str) -> list[Any]:
        return connection.execute(query, (run.run,)).fetchall()

    return Opened(
        lease=Lease(run=run.run, run_id=run.run_id, epoch=epoch, owner=owner),
        run=replace(run_record(row, vault), reason=run.reason, error=run.error),
        created=False,
        tasks=_tasks(connection, run, vault),
        steps=tuple(step_record(r, run.run_id, vault) for r in rows(_sql.STEPS_TO_REPLAY)),
        attempts=tuple(attempt_record(r, run.run_id, vault) for r in rows(_sql.ATTEMPTS)),
        messages=frozenset(digest for (digest,) in rows(_sql.MESSAGE_DIGESTS)),
        verdicts=tuple(verdict_record(r, run.run_id, vault) for r in rows(_sql.VERDICTS)),
        cut_off=cut_off(connection, run.run),
    )


def _tasks(connection: sqlite3.Connection, run: RunRecord, vault: Plain) -> tuple[TaskRecord, ...]:
    """The newest generation of each task, unless that one was superseded."""
    rows = connection.execute(_sql.TASKS, (run.run,)).fetchall()
    records = [task_record(row, run.run_id, vault) for row in rows]
    newest = {task.position: task for task in records}
    return tuple(task for task in newest.values() if task.status is not TaskStatus.SUPERSEDED)


def _note(
    connection: sqlite3.Connection,
    run: int,
    source: RunStatus | None,
    target: RunStatus,
    epoch: int,
    now: float,
) -> None:
    start = None if source is None else source.value
    connection.execute(_sql.ADD_TRANSITION, (run, start, target.value, None, epoch, now))


def _require_gone(run: RunRecord, now: float) -> None:
    owner = run.owner
    if owner is None or not is_alive(owner, run.lease_expires_at, now):
        return
    host = owner.host.partition("#")[0]
    raise RunInUse(
        f"Run {run.run_id!r} is being advanced by process {owner.pid} on {host}. "
        "Wait until it ends, or use another run id.",
        owner=owner.id,
        host=host,
        pid=owner.pid,
        lease_expires_at=run.lease_expires_at,
    )


def _require_match(run: RunRecord, new: NewRun) -> None:
    if run.kind == new.kind and run.inputs_digest == new.inputs_digest:
        return
    if run.kind != new.kind:
        what = f"belongs to a {run.kind}, not to a {new.kind}"
    else:
        what = (
            f"was started with other inputs (digest {run.inputs_digest}, now {new.inputs_digest}"
            f"{_differing(run.inputs, new.inputs)})"
        )
    raise RunMismatch(
        f"Run {run.run_id!r} {what}. Give the stored inputs to continue it, "
        "or a new run id to start another.",
        run_id=run.run_id,
        stored=run.inputs_digest,
        given=new.inputs_digest,
        stored_kind=run.kind,
        given_kind=new.kind,
    )


def _differing(stored: str | None, given: str | None) -> str:
    """Which inputs differ, by name: values may be secret and errors end up in logs."""
    try:
        old, new = json.loads(stored or "{}"), json.loads(given or "{}")
    except ValueError:
        return ""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return ""
    names = sorted(k for k in old.keys() | new.keys() if old.get(k, ...) != new.get(k, ...))
    return f"; differing: {', '.join(names)}" if names else ""
