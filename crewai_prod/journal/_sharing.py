"""Budgets that many runs share, and who is to stop: what other processes must know of at once.

Rule: what is reserved counts as spent until it is settled, in the transaction that records the
call, or until its run is not at work any more. Reason: two processes that look at the same moment
must not both find room for their calls.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from operator import attrgetter

from crewai_prod.errors import RunError, RunNotFound
from crewai_prod.journal import _sql
from crewai_prod.journal._crypto import Plain
from crewai_prod.journal._lease import is_alive
from crewai_prod.journal._rows import run_record
from crewai_prod.records import Amounts, Lease, Pot, RunStatus, Settled, Taken

Decide = Callable[[Sequence[Taken]], "Amounts | None"]
_values = attrgetter(*_sql.AMOUNTS)


def ask_to_stop(connection: sqlite3.Connection, run_id: str, vault: Plain) -> None:
    """Note that the session at work on a run is to stop; see `JournalWriter.cancel`."""
    row = connection.execute(_sql.RUN_BY_ID, (run_id,)).fetchone()
    if row is None:
        raise RunNotFound(run_id=run_id)
    run = run_record(row, vault)
    if run.status is RunStatus.CANCELLED:
        return
    owned = run.owner is not None and is_alive(run.owner, run.lease_expires_at)
    if run.status is not RunStatus.RUNNING or not owned:
        status = RunStatus.INTERRUPTED if run.status is RunStatus.RUNNING else run.status
        raise RunError(
            f"Nobody is at work on run {run_id!r}, which is {status}: there is nothing to cancel.",
            status=status.value,
        )
    connection.execute(_sql.ASK_TO_STOP, (run.run, run.epoch, time.time()))


def is_to_stop(connection: sqlite3.Connection, lease: Lease) -> bool:
    """Whether somebody has asked this session to stop."""
    row = connection.execute(_sql.CANCELLED, (lease.run, lease.epoch)).fetchone()
    return row is not None


def reserve(
    connection: sqlite3.Connection,
    lease: Lease,
    step_id: str,
    pots: Sequence[Pot],
    decide: Decide,
) -> None:
    """Reserve what `decide` says, in each pot once, for a step; see `JournalWriter.reserve`."""
    now = time.time()
    taken = []
    for pot in pots:
        spent = connection.execute(_sql.SPENT_OF, (pot.label, pot.since)).fetchone()
        others = (pot.label, now, lease.run, step_id)
        reserved = connection.execute(_sql.RESERVED_OF, others).fetchone()
        taken.append(Taken(spent=_amounts(spent), reserved=_amounts(reserved)))
    amounts = decide(taken)
    if amounts is None:
        return
    for label in {pot.label for pot in pots}:
        row = (lease.run, step_id, label, lease.epoch, *_values(amounts))
        connection.execute(_sql.RESERVE, row)


def settle(connection: sqlite3.Connection, lease: Lease, step_id: str, settled: Settled) -> None:
    """Count what a step took, and release what was reserved for it."""
    connection.execute(_sql.RELEASE, (lease.run, step_id))
    for label in settled.labels:
        connection.execute(_sql.SPEND, (label, settled.hour, *_values(settled.took)))


def forget_session(connection: sqlite3.Connection, lease: Lease) -> None:
    """A session ends: nobody has to stop, and nothing is reserved."""
    for statement in _sql.FORGET_SESSION:
        connection.execute(statement, (lease.run,))


def _amounts(row: Sequence[int]) -> Amounts:
    return Amounts(**dict(zip(_sql.AMOUNTS, row, strict=True)))
