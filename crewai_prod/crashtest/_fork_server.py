"""The process that has crewai imported and forks a child for every session.

Rule: nothing is built and nothing is emitted here. CrewAI's event bus starts its threads with the
first event, and a thread does not survive a fork; a library that starts one while it is imported
makes this refuse to serve. Speaks JSON lines: sessions and signals in, `forked`, `kickoff`,
`stopped` and `ended` out. When its input ends, however that came, it kills its children and ends.

    python -m crewai_prod.crashtest._fork_server MODULE ...
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import selectors
import signal
import sys
import threading
import traceback
from concurrent.futures import thread as pools
from importlib import import_module
from typing import Any, NoReturn

from crewai_prod.crashtest.sessions import FAILED, Session, run_session

_PR_SET_PDEATHSIG = 1
_CHUNK = 65536
_NEEDED = ("crewai_prod._crewai.harden", "crewai_prod.cli._target", "structlog", "sqlite_utils")


class ForkServer:
    """Forks a child per session and tells what becomes of it.

    Args:
        requests: File descriptor that sessions and signals are read from.
        events: File descriptor that events are written to.
    """

    def __init__(self, requests: int, events: int) -> None:
        self._requests = requests
        self._events = events
        self._children: dict[int, int] = {}
        self._wake, self._woken = os.pipe()
        os.set_blocking(self._woken, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._woken)

    def serve(self) -> None:
        """Serve until the input ends."""
        pending = b""
        self._tell(event="ready", threads=threading.active_count())
        with selectors.DefaultSelector() as selector:
            selector.register(self._requests, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    data = os.read(key.fd, _CHUNK)
                    if key.fd == self._wake:
                        self._reap()
                    elif not data:
                        return self._end_all()
                    else:
                        *lines, pending = (pending + data).split(b"\n")
                        for line in lines:
                            self._handle(json.loads(line))

    def _handle(self, said: dict[str, Any]) -> None:
        number = said["id"]
        if said["do"] == "start":
            self._start(number, Session(**said["session"]))
            return
        pid = next((pid for pid, child in self._children.items() if child == number), None)
        if pid is not None:  # not reaped yet, so the pid is still the child's
            os.kill(pid, said["signal"])

    def _start(self, number: int, session: Session) -> None:
        parent = os.getpid()
        pid = os.fork()
        if not pid:
            self._be_child(number, session, parent)
        with contextlib.suppress(OSError):  # whichever of the two comes first
            os.setpgid(pid, pid)
        self._children[pid] = number
        self._tell(id=number, event="forked", pid=pid)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            if not pid:
                return
            if os.WIFSTOPPED(status):
                self._tell(id=self._children[pid], event="stopped")
                continue
            number = self._children.pop(pid)
            _kill_group(pid)
            self._tell(id=number, event="ended", status=os.waitstatus_to_exitcode(status))

    def _end_all(self) -> None:
        for pid in self._children:
            _kill_group(pid)

    def _tell(self, **event: Any) -> None:
        os.write(self._events, json.dumps(event).encode() + b"\n")

    def _be_child(self, number: int, session: Session, parent: int) -> NoReturn:
        status = FAILED
        try:
            os.setpgid(0, 0)
            _die_with_parent(parent)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for fd in (self._requests, self._wake, self._woken):
                os.close(fd)
            _print_to(session)
            status = run_session(session, lambda event: self._tell(id=number, event=event))
            _join_threads()
        except BaseException:  # noqa: BLE001 - a child must never return into the server's loop
            traceback.print_exc()
        finally:
            os._exit(status)


def _join_threads() -> None:
    """Let the threads that a leaving interpreter waits for finish their work."""
    pools._python_exit()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()


def _kill_group(leader: int) -> None:
    """End what a child has left running."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _die_with_parent(parent: int) -> None:
    """Have Linux kill this process when the server is killed; elsewhere the server must do it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(FAILED)


def _print_to(session: Session) -> None:
    output = os.open(session.output_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)


def _take_over_pipes() -> tuple[int, int]:
    """Move the protocol away from where a crew reads and prints."""
    requests, events = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return requests, events


def main() -> None:
    """Import what children will need, then serve."""
    requests, events = _take_over_pipes()
    for module in sys.argv[1:]:
        import_module(module)
    if threading.active_count() == 1:  # else it will be refused, and need not import the rest
        _load()
    ForkServer(requests, events).serve()


def _load() -> None:
    for module in _NEEDED:
        import_module(module)
    import_module("crewai_prod._crewai.rehearsal").warm_up()
    gc.collect()
    gc.freeze()  # or the children's collector would touch, and so copy, every page


if __name__ == "__main__":
    main()
