"""Budgets that many runs share, and who is to stop: what other processes must know of at once.

Rule: what is reserved counts as spent until it is settled, in the transaction that records the
call, or until its run is not at work any more. Reason: two processes that look at the same moment
must not both find room for their calls. A model call that has no outcome when its session ends,
mostly because that was killed, counts for good as what it has likely taken: nobody knows, and to
count all that was reserved would make one kill the end of many a budget.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from crewai_prod.errors import RunError, RunNotFound
from crewai_prod.journal import _sql
from crewai_prod.journal._crypto import Plain
from crewai_prod.journal._lease import is_alive
from crewai_prod.journal._rows import run_record
from crewai_prod.records import Amounts, CutOff, Lease, Place, Pot, RunStatus, Settled, Taken

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
    place: Place,
    pots: Sequence[Pot],
    decide: Decide,
    likely: Callable[[Amounts], Amounts],
) -> None:
    """Reserve what `decide` says, in each pot once, for a step; see `JournalWriter.reserve`."""
    now = time.time()
    amounts = decide([_taken(connection, lease, place, pot, now) for pot in pots])
    if amounts is None:
        return
    for label in {pot.label for pot in pots}:
        row = (lease.run, place.step_id, label, lease.epoch, *_values(amounts))
        connection.execute(_sql.RESERVE, row)
    if amounts.llm_calls:
        where = (place.step_id, place.scope, place.agent, now)
        row = (lease.run, lease.epoch, *where, *_values(likely(amounts)))
        connection.execute(_sql.NOTE_CALL, row)


def _taken(
    connection: sqlite3.Connection, lease: Lease, place: Place, pot: Pot, now: float
) -> Taken:
    """What is spent of a pot, calls that a kill has cut off included, and what else is reserved."""
    which = {"label": pot.label, "since": pot.since, "now": now}
    others = {**which, "run": lease.run, "step_id": place.step_id}

    def sums(query: str, values: Mapping[str, Any]) -> Amounts:
        return _amounts(connection.execute(query, values).fetchone())

    return Taken(
        spent=sums(_sql.SPENT_OF, which) + sums(_sql.CUT_OFF_OF, which),
        reserved=sums(_sql.RESERVED_OF, others),
    )


def end_session(connection: sqlite3.Connection, run: int) -> None:
    """Nobody has to stop any more; model calls without an outcome may have been made, though."""
    connection.execute(_sql.FORGET_CANCELLATION, (run,))
    connection.execute(_sql.SPEND_CUT_OFF, (run,))
    connection.execute(_sql.FORGET_RESERVED, (run,))


def cut_off(connection: sqlite3.Connection, run: int) -> tuple[CutOff, ...]:
    """The model calls of a run whose outcome no session has recorded."""
    return tuple(
        CutOff(
            place=Place(step_id=step_id, scope=scope, agent=agent),
            epoch=epoch,
            at=at,
            amounts=_amounts(amounts),
        )
        for epoch, step_id, scope, agent, at, *amounts in connection.execute(_sql.CUT_OFF, (run,))
    )


def settle(connection: sqlite3.Connection, lease: Lease, step_id: str, settled: Settled) -> None:
    """Count what a step took, and release what was reserved for it."""
    for statement in _sql.RELEASE:
        which = {"run": lease.run, "epoch": lease.epoch, "step_id": step_id}
        connection.execute(statement, which)
    for label in settled.labels:
        connection.execute(_sql.SPEND, (label, settled.hour, *_values(settled.took)))


def _amounts(row: Sequence[int]) -> Amounts:
    return Amounts(**dict(zip(_sql.AMOUNTS, row, strict=True)))
