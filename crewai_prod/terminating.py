"""SIGTERM while runs of this process are at work: they stop after their current step, then it ends.

Rule: only where nobody else has a say, that is where the signal's action is the default one or that
of CrewAI's telemetry, which ends the process in mid-step with status 0. The process then ends by
the signal, as it would have without us; a second one ends it at once. Python's handler runs between
two instructions of the main thread, which may just then hold a lock: so it takes none, and wakes a
thread that stops the runs. Kickoffs made on other threads are stopped, too, as soon as there was
one on the main thread: no other may set a handler.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any, Final

from crewai_prod.errors import RunInterrupted
from crewai_prod.run import Run
from crewai_prod.settings import Settings

_POLL_SECONDS: Final = 0.02
_MOST_SECONDS_RECORDING: Final = 5.0
"""How long a run that has ended may take to say so."""


class Terminating:
    """What a process does about SIGTERM."""

    def __init__(self) -> None:
        self._runs: set[Run] = set()
        self._lock = threading.Lock()
        self._pid = 0
        self._asked = False
        self._before: Any = signal.SIG_DFL
        self._wakes = -1

    def heed(self, settings: Settings) -> None:
        """Have SIGTERM stop runs first, if this is the main thread and nobody else cares.

        To be called where a kickoff is made, on its caller's thread.
        """
        if not (settings.sigterm and _on_main()):
            return
        before = signal.getsignal(signal.SIGTERM)
        if before is not signal.SIG_DFL and not _is_telemetry(before):
            return
        if self._pid != os.getpid():
            self._start()
        self._before = before
        signal.signal(signal.SIGTERM, self._take)

    def enter(self, run: Run) -> None:
        """A run is at work."""
        with self._lock:
            self._runs.add(run)

    def leave(self, run: Run) -> None:
        """It is recorded how it ended. After the last one the handler is what it was.

        If the process was asked to end, it ends then.
        """
        with self._lock:
            known = run in self._runs
            self._runs.discard(run)
            idle = known and not self._runs
        if idle and self._asked:
            os.kill(os.getpid(), signal.SIGTERM)
        elif idle and _on_main() and signal.getsignal(signal.SIGTERM) == self._take:
            signal.signal(signal.SIGTERM, self._before)

    def _start(self) -> None:
        """A process that was forked begins anew, too: it has neither the thread nor the runs."""
        self._pid, self._asked = os.getpid(), False
        self._runs, self._lock = set(), threading.Lock()
        told, self._wakes = os.pipe()
        os.set_blocking(self._wakes, False)
        name = "crewai-prod-sigterm"
        threading.Thread(target=self._serve, args=(told,), name=name, daemon=True).start()

    def _take(self, number: int, frame: FrameType | None) -> None:
        forked = self._pid != os.getpid()  # what wakes would be the parent's thread
        if self._asked or forked:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._asked = True
        os.write(self._wakes, b".")

    def _serve(self, told: int) -> None:
        os.read(told, 1)
        quiet = 0.0
        while quiet < _MOST_SECONDS_RECORDING:
            with self._lock:
                runs = list(self._runs)
            if not runs:
                break
            for run in runs:  # one may only now be about to open
                run.stop(RunInterrupted(signal=int(signal.SIGTERM)))
            quiet = quiet + _POLL_SECONDS if all(run.ended for run in runs) else 0.0
            time.sleep(_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)


def _on_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def _is_telemetry(handler: Any) -> bool:
    return str(getattr(handler, "__module__", "")).startswith("crewai.")


SIGTERM: Final = Terminating()
"""The process's own."""
