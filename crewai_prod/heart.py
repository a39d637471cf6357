"""The heartbeat: one daemon thread per process that extends the leases of all its runs.

Rule: a run whose lease another process has taken is stopped at the next beat at the latest; its
writes are refused by the journal before that. A process that is forked starts a heart of its own.
"""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from typing import TYPE_CHECKING

from crewai_prod.errors import JournalError, StaleOwner
from crewai_prod.records import Lease

if TYPE_CHECKING:
    from crewai_prod.journal import Journal
    from crewai_prod.run import Run

LEASE_SECONDS = 15.0
"""How long a silent owner on another host keeps a run; a dead one on this host loses it at once."""

_BEATS_PER_LEASE = 3


class Heart:
    """Keeps the leases of the runs that joined alive until they leave."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[tuple[str, int], tuple[Run, float]] = {}
        self._wake = threading.Event()
        self._pid = 0

    def join(self, run: Run, lease_seconds: float) -> None:
        """Begin to extend a run's lease."""
        with self._lock:
            if self._pid != os.getpid():
                self._start()
            self._runs[_key(run.lease)] = (run, lease_seconds)
        self._wake.set()

    def runs(self) -> list[Run]:
        """The runs that this process is advancing now."""
        with self._lock:
            return [run for run, _ in self._runs.values()] if self._pid == os.getpid() else []

    def leave(self, lease: Lease) -> None:
        """Stop extending a lease."""
        with self._lock:
            self._runs.pop(_key(lease), None)

    def _start(self) -> None:
        self._pid = os.getpid()
        self._runs = {}
        self._wake = threading.Event()
        threading.Thread(target=self._beat, name="crewai-prod-heart", daemon=True).start()

    def _beat(self) -> None:
        while True:
            with self._lock:
                runs = list(self._runs.values())
            if not runs:
                self._wake.wait()
                self._wake.clear()
                continue
            for journal, group in _by_journal(runs).items():
                _extend(journal, group)
            self._wake.clear()
            self._wake.wait(min(seconds for _, seconds in runs) / _BEATS_PER_LEASE)


def _key(lease: Lease) -> tuple[str, int]:
    return lease.owner.id, lease.epoch


def _by_journal(runs: list[tuple[Run, float]]) -> dict[Journal, list[tuple[Run, float]]]:
    grouped: dict[Journal, list[tuple[Run, float]]] = defaultdict(list)
    for run, seconds in runs:
        grouped[run.journal].append((run, seconds))
    return grouped


def _extend(journal: Journal, group: list[tuple[Run, float]]) -> None:
    """Extend a journal's leases; stop the runs that were lost.

    A journal that cannot be written now is tried again at the next beat: the run's own next write
    will stop it, and until then the lease protects it.
    """
    try:
        lost = journal.heartbeat(
            [run.lease for run, _ in group], lease_seconds=max(seconds for _, seconds in group)
        )
    except JournalError:
        return
    gone = {_key(lease) for lease in lost}
    for run, _ in group:
        if _key(run.lease) in gone:
            HEART.leave(run.lease)
            run.stop(StaleOwner())


HEART = Heart()
"""The process's heart. Its state is leases, never anything of CrewAI's."""
