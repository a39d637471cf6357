"""Budgets that runs share, in the journal: what is set aside counts, in every process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from crewai_prod.errors import StaleOwner
from crewai_prod.journal import forget_owner, new_owner, open_journal
from crewai_prod.journal._sqlite import SqliteJournal
from crewai_prod.records import Amounts, CutOff, Place, Pot, RunStatus, Settled, Taken
from tests.journal.support import child, finished, model_step, new_run, rows, take

POT = Pot(label="t")
FIVE = Amounts(output_tokens=5, llm_calls=1)


def at(step_id: str) -> Place:
    """A place of a call in a task."""
    return Place(step_id=step_id, scope="tasks/0", agent="Clerk")


def seen(journal: SqliteJournal, run_id: str = "looks", since: int = 0) -> Taken:
    """What another run finds in the pot."""
    found: list[Taken] = []

    def look(taken: Sequence[Taken]) -> None:
        found[:] = taken

    lease = take(journal, run_id)
    journal.reserve(lease, at("look"), [Pot(label="t", since=since)], look)
    journal.finish_run(lease, RunStatus.PAUSED)
    return found[0]


def test_what_is_set_aside_counts_until_the_call_is_recorded(journal: SqliteJournal) -> None:
    """Then what it took counts, from the hour on in which it was made."""
    lease = take(journal)
    call = model_step(1)
    for _ in range(2):  # the same call again replaces what it had set aside
        journal.reserve(lease, at(call.step_id), [POT, Pot(label="t", since=9)], lambda taken: FIVE)
    assert seen(journal) == Taken(reserved=FIVE)
    took = Amounts(output_tokens=2, llm_calls=1, cost_picousd=7)
    settled = Settled(labels=("t",), hour=100, took=took)
    journal.finish_step(lease, call, settled=settled)
    assert seen(journal) == Taken(spent=took)
    assert seen(journal, since=100) == Taken(spent=took)
    assert seen(journal, since=101) == Taken()
    journal.reserve(lease, at("x"), [POT], lambda taken: None)
    journal.reserve(lease, at("y"), [POT], lambda taken: FIVE)
    journal.settle(lease, "y", Settled(labels=(), hour=0, took=Amounts()))
    assert seen(journal) == Taken(spent=took)


def test_what_a_run_has_set_aside_ends_with_it(path: Path, journal: SqliteJournal) -> None:
    """With its session, its lease, or its owner, if it was set aside for a tool call."""
    tool = Amounts(tool_calls=1)
    lease = take(journal)
    journal.reserve(lease, at("a"), [POT], lambda taken: tool)
    journal.finish_run(lease, RunStatus.FAILED)
    assert seen(journal) == Taken()
    lease = take(journal)
    journal.heartbeat([lease], lease_seconds=0.2)
    journal.reserve(lease, at("a"), [POT], lambda taken: tool)
    assert seen(journal) == Taken(reserved=tool)
    time.sleep(0.3)
    assert seen(journal) == Taken()
    again = take(journal)
    with pytest.raises(StaleOwner):
        journal.reserve(lease, at("b"), [POT], lambda taken: FIVE)
    journal.finish_run(again, RunStatus.COMPLETED)
    assert seen(journal) == Taken()
    assert rows(path, "SELECT * FROM reservations") == []


def test_a_model_call_that_a_kill_has_cut_off_counts(path: Path, journal: SqliteJournal) -> None:
    """As what was set aside for it: at once for other runs, and for its own one ever after."""
    hour = int(time.time() // 3600)
    for session in (1, 2):
        lease = take(journal)
        journal.heartbeat([lease], lease_seconds=0.01)
        journal.reserve(lease, at("a"), [POT], lambda taken: FIVE)
        journal.reserve(lease, at("tool"), [POT], lambda taken: Amounts(tool_calls=1))
        time.sleep(0.02)
        assert seen(journal) == Taken(spent=FIVE + FIVE if session == 2 else FIVE)
        assert seen(journal, since=hour + 2) == Taken()
    owner = new_owner()
    opened = journal.open_run(new_run(), owner, lease_seconds=60)
    forget_owner(owner)
    assert [one.place for one in opened.cut_off] == [at("a")] * 2
    assert [one.epoch for one in opened.cut_off] == [1, 2]
    assert {one.amounts for one in opened.cut_off} == {FIVE}
    assert all(isinstance(one, CutOff) and one.at > 3600 * (hour - 1) for one in opened.cut_off)
    assert seen(journal) == Taken(spent=FIVE + FIVE)
    resumed = opened.lease
    assert resumed is not None
    journal.reserve(resumed, at("a"), [POT], lambda taken: FIVE)
    settled = Settled(labels=(), hour=0, took=Amounts())
    journal.finish_step(resumed, model_step(1, step_id="a"), settled=settled)
    journal.reserve(resumed, at("b"), [POT], lambda taken: FIVE)
    assert seen(journal) == Taken(spent=FIVE + FIVE, reserved=FIVE)
    journal.finish_run(resumed, RunStatus.PAUSED)  # by Ctrl-C in the middle of its call
    assert seen(journal) == Taken(spent=FIVE + FIVE + FIVE)
    assert len(rows(path, "SELECT * FROM calls_under_way")) == 3


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
    place = Place(step_id=call.step_id, scope="tasks/0")
    journal.reserve(lease, place, [Pot(label="t")], decide)
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
