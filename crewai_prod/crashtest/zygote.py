"""The harness's end of the fork server: start sessions, signal them, learn how they ended."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from crewai_prod.crashtest.sessions import Session
from crewai_prod.errors import CrewProdError, UsageError

_START_SECONDS = 120.0
_END_SECONDS = 10.0
_LOST = "The crash test's fork server ended unexpectedly."


class Child:
    """One session's process."""

    def __init__(self, zygote: Zygote, number: int) -> None:
        self._zygote = zygote
        self._number = number
        self.pid = 0
        self._ended: dict[str, Any] | None = None
        self.events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def wait_for(self, *names: str, seconds: float) -> dict[str, Any]:
        """The next of these events; `ended` is always one of them, and the last.

        Raises:
            TimeoutError: It did not come in time.
            CrewProdError: The fork server has ended.
        """
        wanted = {*names, "ended"}
        while self._ended is None:
            try:
                event = self.events.get(timeout=seconds)
            except queue.Empty:
                raise TimeoutError(f"no {' or '.join(sorted(wanted))} in {seconds} s") from None
            if event["event"] == "lost":
                raise CrewProdError(_LOST)
            if event["event"] == "ended":
                self._ended = event
            if event["event"] in wanted:
                return event
        return self._ended

    def signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        self._zygote.send(do="signal", id=self._number, signal=number)

    def kill(self) -> None:
        """Kill -9."""
        self.signal(signal.SIGKILL)


class Zygote:
    """A process with crewai imported, from which sessions are forked in milliseconds.

    Args:
        modules: What to import besides; nothing that starts threads or builds crews.
        cwd: Its working directory, where a crew's module is looked for; None: this process's.
    """

    def __init__(self, modules: Sequence[str] = (), cwd: Path | None = None) -> None:
        self._command = [
            sys.executable,
            "-m",
            "crewai_prod.crashtest._fork_server",
            *modules,
        ]
        self._cwd = cwd
        self._children: dict[int, Child] = {}
        self._count = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        if not hasattr(os, "fork"):
            raise UsageError("A crash test forks processes, which this operating system cannot.")
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=self._cwd,
        )
        ready: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=(ready,), daemon=True)
        self._reader.start()
        event = ready.get(timeout=_START_SECONDS)
        if event["event"] == "lost" or event["threads"] > 1:
            complaint = self._end()
            why = "a module it imports starts threads." if "threads" in event else complaint
            raise UsageError(f"The crash test's fork server cannot serve: {why}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> str:
        """End the server, which kills its children first; returns what it complained about."""
        with contextlib.suppress(BrokenPipeError):
            _pipe(self._process.stdin).close()
        try:
            self._process.wait(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        _pipe(self._process.stdout).close()
        with self._errors as file:
            file.seek(0)
            return file.read().decode(errors="replace")[-2000:]

    @property
    def pid(self) -> int:
        """The fork server's process id."""
        return self._process.pid

    def start(self, session: Session) -> Child:
        """Fork a child for the session; its folder is made if it is missing."""
        Path(session.folder).mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._count += 1
            number = self._count
            child = self._children[number] = Child(self, number)
        self.send(do="start", id=number, session=session.to_json())
        return child

    def send(self, **message: Any) -> None:
        """Write one message to the server."""
        with self._lock:
            pipe = _pipe(self._process.stdin)
            try:
                pipe.write(json.dumps(message).encode() + b"\n")
                pipe.flush()
            except BrokenPipeError as error:
                raise CrewProdError(_LOST) from error

    def _read(self, ready: queue.SimpleQueue[dict[str, Any]]) -> None:
        for line in _pipe(self._process.stdout):
            event = json.loads(line)
            if event["event"] == "ready":
                ready.put(event)
                continue
            child = self._children[event["id"]]
            if event["event"] == "forked":
                child.pid = event["pid"]
            if event["event"] == "ended":
                with self._lock:
                    del self._children[event["id"]]
            child.events.put(event)
        ready.put({"event": "lost"})
        for child in list(self._children.values()):
            child.events.put({"event": "lost"})


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
