"""Connections and the end of processes: none survives a fork, none is left open at exit.

Rule: before a fork every journal's connections are closed, and nothing is being written while the
process forks; parent and child open their own when they next need them. Reason: SQLite's locks
belong to the process while its memory of them is inherited, so a child that used or closed an
inherited connection, or opened the same file beside it, could write into a log that another process
resets.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from typing import Protocol


class Pausable(Protocol):
    """What a journal lets happen to its connections."""

    def pause(self) -> None:
        """Close them and keep every thread from opening another."""
        ...

    def resume(self) -> None:
        """Let the threads go on."""
        ...

    def start_over(self) -> None:
        """Forget that there were threads."""
        ...


_watched: weakref.WeakSet[Pausable] = weakref.WeakSet()
_paused: list[Pausable] = []
_lock = threading.Lock()


def watch(journal: Pausable) -> None:
    """Have the journal's connections closed before forks and at exit."""
    _watched.add(journal)


def _before_fork() -> None:
    _lock.acquire()
    for journal in list(_watched):
        journal.pause()
        _paused.append(journal)


def _after_fork_in_parent() -> None:
    while _paused:
        _paused.pop().resume()
    _lock.release()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    while _paused:
        _paused.pop().start_over()


@atexit.register
def _at_exit() -> None:
    """Leave one whole file: closing the last connection empties the log beside it into it."""
    for journal in list(_watched):
        journal.pause()
        journal.resume()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
