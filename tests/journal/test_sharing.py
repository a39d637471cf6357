"""Budgets that runs share, in the journal: what is set aside counts, in every process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from crewai_prod.errors import StaleOwner
from crewai_prod.journal import open_journal
from crewai_prod.journal._sqlite import SqliteJournal
from crewai_prod.records import Amounts, Pot, RunStatus, Settled, Taken
from tests.journal.support import child, finished, model_step, rows, take

POT = Pot(label="t")
FIVE = Amounts(output_tokens=5, llm_calls=1)


def seen(journal: SqliteJournal, run_id: str = "looks", since: int = 0) -> Taken:
    """What another run finds in the pot."""
    found: list[Taken] = []

    def look(taken: Sequence[Taken]) -> None:
        found[:] = taken

    lease = take(journal, run_id)
    journal.reserve(lease, "look", [Pot(label="t", since=since)], look)
    journal.finish_run(lease, RunStatus.PAUSED)
    return found[0]


def test_what_is_set_aside_counts_until_the_call_is_recorded(journal: SqliteJournal) -> None:
    """Then what it took counts, from the hour on in which it was made."""
    lease = take(journal)
    call = model_step(1)
    for _ in range(2):  # the same call again replaces what it had set aside
        journal.reserve(lease, call.step_id, [POT, Pot(label="t", since=9)], lambda taken: FIVE)
    assert seen(journal) == Taken(reserved=FIVE)
    took = Amounts(output_tokens=2, llm_calls=1, cost_picousd=7)
    settled = Settled(labels=("t",), hour=100, took=took)
    journal.finish_step(lease, call, settled=settled)
    assert seen(journal) == Taken(spent=took)
    assert seen(journal, since=100) == Taken(spent=took)
    assert seen(journal, since=101) == Taken()
    journal.reserve(lease, "x", [POT], lambda taken: None)
    journal.reserve(lease, "y", [POT], lambda taken: FIVE)
    journal.settle(lease, "y", Settled(labels=(), hour=0, took=Amounts()))
    assert seen(journal) == Taken(spent=took)


def test_what_a_run_has_set_aside_ends_with_it(path: Path, journal: SqliteJournal) -> None:
    """With its session, its lease, or its owner: a dead process holds nothing for long."""
    lease = take(journal)
    journal.reserve(lease, "a", [POT], lambda taken: FIVE)
    journal.finish_run(lease, RunStatus.FAILED)
    assert seen(journal) == Taken()
    lease = take(journal)
    journal.heartbeat([lease], lease_seconds=0.2)
    journal.reserve(lease, "a", [POT], lambda taken: FIVE)
    assert seen(journal) == Taken(reserved=FIVE)
    time.sleep(0.3)
    assert seen(journal) == Taken()
    again = take(journal)
    journal.heartbeat([again], lease_seconds=60)
    assert seen(journal) == Taken()  # the session before it has left the row
    with pytest.raises(StaleOwner):
        journal.reserve(lease, "b", [POT], lambda taken: FIVE)
    assert len(rows(path, "SELECT * FROM reservations")) == 1
    journal.finish_run(again, RunStatus.COMPLETED)
    assert rows(path, "SELECT * FROM reservations") == []


PROCESSES, LIMIT = 4, 200
SPENDS = """
journal = open_journal(sys.argv[1], durability="process")
limit = int(sys.argv[2])
lease = journal.open_run(new_run("p" + str(os.getpid())), new_owner(), lease_seconds=60).lease
made = 0
for number in range(1, 1000):
    granted = []
    def decide(taken):
        granted.clear()
        (one,) = taken
        fits = (one.spent + one.reserved).output_tokens + 5 <= limit
        granted.append(fits)
        return Amounts(output_tokens=5, llm_calls=1) if fits else None
    call = model_step(number)
    journal.reserve(lease, call.step_id, [Pot(label="t")], decide)
    if not granted[0]:
        break
    took = Amounts(output_tokens=1 + number % 5, llm_calls=1)
    journal.finish_step(lease, call, settled=Settled(labels=("t",), hour=1, took=took))
    made += took.output_tokens
print(made)
"""


def test_processes_cannot_overspend_together(path: Path) -> None:
    """Four spend from one pot as fast as they can: it is never overdrawn, and nearly emptied."""
    open_journal(path).close()
    started = [child(SPENDS, str(path), str(LIMIT)) for _ in range(PROCESSES)]
    made = sum(int(finished(one)) for one in started)
    ((spent,),) = rows(path, "SELECT sum(output_tokens) FROM shared_usage")
    assert made == spent
    assert LIMIT - 5 * PROCESSES < spent <= LIMIT
