"""Kickoffs side by side on the same objects of a user.

Rule: while a run's copy is made of them, nobody changes them, and while they are made to show what
a run left, nobody copies them. Reason: between two fields set one after the other (a description
with this run's inputs in it, and what it was before) another run would copy a state that never was,
and work on this run's inputs. One lock for the process, as different hardened objects may share
agents and tasks; what it guards takes less than a millisecond and never waits.
"""

from __future__ import annotations

import os
import threading
from weakref import WeakSet

_lock = threading.RLock()


def undisturbed() -> threading.RLock:
    """The lock under which users' objects are copied for a run, or made to show one."""
    return _lock


class AtWork:
    """The kickoffs at work on one hardened object.

    Held weakly: of a kickoff that is dropped before it begins (a stream nobody reads, a coroutine
    nobody awaits) nobody ever says that it has ended.
    """

    def __init__(self) -> None:
        self._seams: WeakSet[object] = WeakSet()

    def begin(self, seam: object) -> bool:
        """Take up a kickoff; whether it is alone, so that users' objects may show its progress."""
        with _lock:
            alone = not self._seams
            self._seams.add(seam)
        return alone

    def end(self, seam: object) -> None:
        """Let go of a kickoff, however it ended."""
        with _lock:
            self._seams.discard(seam)


def _forget_lock() -> None:
    """The thread that held the lock does not exist in a forked child."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)
