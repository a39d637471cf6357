"""SIGTERM and SIGINT during a run: it stops once its step is safe; the second one ends at once.

Rule: a thread acts on signals, told by the C handler through a file descriptor; Python's handler
in the main thread does nothing. Reason: that one runs between two instructions of the main thread,
which may just then hold the run's lock, and not before a call it is blocked in returns.
Installed at kickoff, after crewai: its telemetry installs a handler that ends the process with 0.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
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
_OVER = b"\0"


class StopOnSignal:
    """A block during which a signal stops the process's runs, resumable.

    Args:
        told: Called once with the first signal's number, on another thread.
        last_words: Written to stderr if a second one ends the process.
    """

    def __init__(self, told: Callable[[int], None], last_words: str) -> None:
        self._told = told
        self._last_words = f"{last_words}\n".encode()
        self._told_by, self._wakes = socket.socketpair()
        self._wakes.setblocking(False)
        self._before: dict[int, Any] = {}
        self._wakeup = -1
        self._thread = threading.Thread(target=self._serve, name="crewai-prod-signals", daemon=True)
        self.received: int | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._wakeup = signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
            for number in SIGNALS:
                self._before[number] = signal.signal(number, _nothing)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._before:
            signal.set_wakeup_fd(self._wakeup)
        self._wakes.send(_OVER)
        self._thread.join()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._wakes.close()
        self._told_by.close()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:  # `select` takes no descriptor above 1023
            selector.register(self._told_by, selectors.EVENT_READ)
            self._wait(selector)

    def _wait(self, selector: selectors.BaseSelector) -> None:
        while True:
            poll = _POLL_SECONDS if self.received is not None else None
            if selector.select(poll):
                told = self._told_by.recv(64)
                for number in told:
                    self._take(number)
                if _OVER in told:
                    return
            if self.received is not None:  # a run may only now be about to open
                for run in active_runs():
                    run.stop(RunInterrupted(signal=self.received))

    def _take(self, number: int) -> None:
        if number not in SIGNALS:
            return
        if self.received is not None:
            os.write(2, self._last_words)
            os._exit(128 + number)
        self.received = number
        self._told(number)


def _nothing(number: int, frame: FrameType | None) -> None:
    """Keep the default action from ending the process."""


def active_runs() -> list[Run]:
    """The runs this process is advancing."""
    return HEART.runs()


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
