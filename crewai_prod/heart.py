"""The heartbeat: one daemon thread per process that extends the leases of all its runs.

Rule: a run whose lease another process has taken is stopped at the next beat at the latest; its
writes are refused by the journal before that. So is a run that somebody has cancelled, and no call
that acts is begun in it. A process that is forked starts a heart of its own.
"""

from __future__ import annotations

import math
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crewai_prod.errors import JournalError, RunCancelled, StaleOwner
from crewai_prod.records import Lease

if TYPE_CHECKING:
    from crewai_prod.journal import Journal
    from crewai_prod.run import Run

LEASE_SECONDS = 15.0
"""How long a silent owner on another host keeps a run; a dead one on this host loses it at once."""

_BEATS_PER_LEASE = 3


@dataclass(slots=True)
class _Beat:
    """A run, how long its lease lasts, and when it is to be extended next."""

    run: Run
    seconds: float
    due: float

    def put_off(self, now: float) -> None:
        self.due = now + self.seconds / _BEATS_PER_LEASE


class Heart:
    """Keeps the leases of the runs that joined alive until they leave."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._beats: dict[tuple[str, int], _Beat] = {}
        self._wake = threading.Event()
        self._sleeps_until = 0.0
        self._pid = 0

    def join(self, run: Run, lease_seconds: float) -> None:
        """Begin to extend a run's lease, which is fresh now."""
        beat = _Beat(run, lease_seconds, 0.0)
        beat.put_off(time.monotonic())
        with self._lock:
            if self._pid != os.getpid():
                self._start()
            self._beats[_key(run.lease)] = beat
            if beat.due < self._sleeps_until:
                self._wake.set()

    def runs(self) -> list[Run]:
        """The runs that this process is advancing now."""
        with self._lock:
            beats = self._beats.values() if self._pid == os.getpid() else ()
            return [beat.run for beat in beats]

    def leave(self, lease: Lease) -> None:
        """Stop extending a lease."""
        with self._lock:
            self._beats.pop(_key(lease), None)

    def _start(self) -> None:
        self._pid = os.getpid()
        self._beats = {}
        self._wake = threading.Event()
        self._sleeps_until = 0.0
        threading.Thread(target=self._live, name="crewai-prod-heart", daemon=True).start()

    def _live(self) -> None:
        while True:
            self._beat()
            self._wake.wait(self._pause())

    def _beat(self) -> None:
        """Extend what is due; in a frame of its own, so that a sleeping heart holds no run."""
        for journal, runs in self._due().items():
            _extend(journal, runs)

    def _due(self) -> dict[Journal, list[tuple[Run, float]]]:
        """Runs by journal, for each journal that one is due of: one commit serves them all."""
        now = time.monotonic()
        with self._lock:
            journals = {beat.run.journal for beat in self._beats.values() if beat.due <= now}
            due: dict[Journal, list[tuple[Run, float]]] = {journal: [] for journal in journals}
            for beat in self._beats.values():
                if beat.run.journal in due:
                    due[beat.run.journal].append((beat.run, beat.seconds))
                    beat.put_off(now)
        return due

    def _pause(self) -> float | None:
        """Seconds until the next run is due; None if there is no run."""
        with self._lock:
            self._wake.clear()
            if not self._beats:
                self._sleeps_until = math.inf
                return None
            self._sleeps_until = min(beat.due for beat in self._beats.values())
            return max(0.0, self._sleeps_until - time.monotonic())


def _key(lease: Lease) -> tuple[str, int]:
    return lease.owner.id, lease.epoch


def _extend(journal: Journal, group: list[tuple[Run, float]]) -> None:
    """Extend a journal's leases; stop the runs that were lost.

    A journal that cannot be written now is tried again at the next beat: the run's own next write
    will stop it, and until then the lease protects it.
    """
    try:
        leases = [run.lease for run, _ in group]
        lost = journal.heartbeat(leases, lease_seconds=max(seconds for _, seconds in group))
        cancelled = {_key(lease) for lease in journal.cancelled(leases)}
    except JournalError:
        return
    gone = {_key(lease) for lease in lost}
    for run, _ in group:
        if _key(run.lease) in cancelled:
            run.stop(RunCancelled())
        if _key(run.lease) in gone:
            HEART.leave(run.lease)
            run.stop(StaleOwner())


HEART = Heart()
"""The process's heart. Its state is leases, never anything of CrewAI's."""
