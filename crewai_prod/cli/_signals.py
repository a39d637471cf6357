"""SIGTERM and SIGINT during a run: it stops once its step is safe; the second one ends at once.

Rule: the handler itself only hands the signal to a thread; that one stops the runs. Reason: the
handler runs between two instructions of the main thread, which may just then hold the run's lock.
Installed at kickoff, after crewai: its telemetry installs a handler that ends the process with 0.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from crewai_prod.errors import RunInterrupted
from crewai_prod.heart import HEART
from crewai_prod.run import Run

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_POLL_SECONDS = 0.02


class StopOnSignal:
    """A block during which a signal stops the process's runs, resumable.

    Args:
        told: Called once with the first signal's number, on another thread.
        last_words: Written to stderr if a second one ends the process.
    """

    def __init__(self, told: Callable[[int], None], last_words: str) -> None:
        self._told = told
        self._last_words = f"{last_words}\n".encode()
        self._signals: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._over = threading.Event()
        self._before: dict[int, Any] = {}
        self._thread = threading.Thread(target=self._serve, name="crewai-prod-signals", daemon=True)
        self.received: int | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._handle)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._over.set()
        self._signals.put(None)
        self._thread.join()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os.write(2, self._last_words)
            os._exit(128 + number)
        self.received = number
        self._signals.put(number)  # reentrant, unlike any lock

    def _serve(self) -> None:
        number = self._signals.get()
        if number is None:
            return
        self._told(number)
        while not self._over.is_set():  # a run may only now be about to open
            for run in active_runs():
                run.stop(RunInterrupted(signal=number))
            self._over.wait(_POLL_SECONDS)


def active_runs() -> list[Run]:
    """The runs this process is advancing."""
    with HEART._lock:
        return [run for run, _ in HEART._runs.values()]


@contextmanager
def ending_at_once() -> Iterator[None]:
    """A block in which nothing is at stake yet: a signal ends the process with its own status."""

    def end(number: int, frame: FrameType | None) -> None:
        os._exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, end) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            # Importing crewai may have put its own in front; StopOnSignal goes before that.
            if signal.getsignal(number) is end:
                signal.signal(number, handler)
