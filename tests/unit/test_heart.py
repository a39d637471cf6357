"""The heart extends leases when they are due, together, and holds on to nothing that has left."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import Any

from crewai_prod import heart
from crewai_prod.heart import Heart
from crewai_prod.records import Lease, Owner

PATIENCE = 20.0


class Journal:
    """Notes whose leases were extended together."""

    def __init__(self) -> None:
        self.beats: list[list[str]] = []
        self.beaten = threading.Semaphore(0)

    def heartbeat(self, leases: Sequence[Lease], *, lease_seconds: float) -> list[Lease]:
        """Say that none was lost."""
        self.beats.append(sorted(lease.run_id for lease in leases))
        self.beaten.release()
        return []

    def cancelled(self, leases: Sequence[Lease]) -> list[Lease]:
        """Say that nobody asked any to stop."""
        return []


class Run:
    """What a heart needs to know of a run."""

    def __init__(self, journal: Journal, name: str) -> None:
        self.journal = journal
        owner = Owner(id=name, host="h", pid=1, process_started=0.0)
        self.lease = Lease(run=1, run_id=name, epoch=1, owner=owner)


def join(own: Heart, journal: Journal, name: str, seconds: float) -> Any:
    """A run that has joined."""
    run: Any = Run(journal, name)
    own.join(run, seconds)
    return run


def test_fresh_leases_are_not_extended() -> None:
    """Runs that come and go within a third of their lease cost no commit."""
    own, journal = Heart(), Journal()
    for n in range(50):
        own.leave(join(own, journal, f"r{n}", 3600.0).lease)
    due = join(own, journal, "due", 0.05)
    assert journal.beaten.acquire(timeout=PATIENCE)
    own.leave(due.lease)
    assert journal.beats[0] == ["due"]


def test_one_that_is_due_takes_the_others_of_its_journal_along() -> None:
    """One commit serves all runs of a journal; another journal is left alone."""
    own, journal, other = Heart(), Journal(), Journal()
    runs = [join(own, journal, "long", 3600.0), join(own, other, "elsewhere", 3600.0)]
    runs.append(join(own, journal, "short", 0.05))
    for _ in range(2):
        assert journal.beaten.acquire(timeout=PATIENCE)
    for run in runs:
        own.leave(run.lease)
    assert journal.beats[:2] == [["long", "short"]] * 2
    assert other.beats == []


def test_a_sleeping_heart_holds_no_run() -> None:
    """What has left is gone, although the heart has extended it before."""
    own, journal = Heart(), Journal()
    run = join(own, journal, "gone", 0.05)
    assert journal.beaten.acquire(timeout=PATIENCE)
    own.leave(run.lease)
    gone = weakref.ref(run)
    del run
    other = join(own, journal, "other", 0.05)  # its beat comes after the one that knew the first
    assert journal.beaten.acquire(timeout=PATIENCE)
    assert journal.beaten.acquire(timeout=PATIENCE)
    own.leave(other.lease)
    assert gone() is None
    assert heart.HEART.runs() == []
