"""Who owns a run, and whether that owner still lives.

Rule: on the same host an owner lives as long as its process does (one pid, one start time, not a
zombie) and, within this very process, as long as its kickoff has not ended; on any other host, and
for a process that was stopped and no longer beats, its lease decides. Reason: taking over a dead
owner must not wait, taking over a live one must not happen. Should it happen all the same (a long
SIGSTOP, a clock that jumps), the epoch in every write keeps the old owner out.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import uuid
from functools import cache
from pathlib import Path

from crewai_prod.records import Owner

_live: set[str] = set()
_live_lock = threading.Lock()


def new_owner() -> Owner:
    """A new owner in this process, for one kickoff."""
    pid = os.getpid()
    return Owner(
        id=uuid.uuid4().hex, host=this_host(), pid=pid, process_started=_start_time(pid) or 0.0
    )


def adopt(owner: Owner) -> bool:
    """Count the owner as alive in this process; False if it already was."""
    with _live_lock:
        if owner.id in _live:
            return False
        _live.add(owner.id)
        return True


def forget_owner(owner: Owner) -> None:
    """Count the owner as gone: its kickoff has ended, whether or not it gave the lease back."""
    with _live_lock:
        _live.discard(owner.id)


def is_alive(owner: Owner, lease_expires_at: float | None, now: float | None = None) -> bool:
    """Whether the owner may still be advancing its run."""
    if lease_expires_at is None or lease_expires_at <= (time.time() if now is None else now):
        return False
    if owner.host != this_host():
        return True
    if owner.pid == os.getpid():
        mine = _start_time(owner.pid)
        same = not mine or not owner.process_started or mine == owner.process_started
        return same and owner.id in _live
    return _process_lives(owner.pid, owner.process_started)


@cache
def this_host() -> str:
    """The host's name, and what tells its boots and containers from each other."""
    boot = _read("/proc/sys/kernel/random/boot_id")[:8]
    try:
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        namespace = ""
    return f"{socket.gethostname()}#{boot}-{namespace}"


def _process_lives(pid: int, started: float) -> bool:
    if sys.platform == "win32":  # there os.kill(pid, 0) ends the process: let the lease decide
        return True
    stat = _stat(pid)
    if stat is not None:
        state, began = stat
        return state not in "ZX" and (not started or began == started)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _start_time(pid: int) -> float | None:
    stat = _stat(pid)
    return stat[1] if stat is not None else None


def _stat(pid: int) -> tuple[str, float] | None:
    """State and start time (clock ticks since boot) of a process; None where /proc cannot say."""
    text = _read(f"/proc/{pid}/stat")
    fields = text.rpartition(")")[2].split()  # the command's name before it may hold anything
    return (fields[0], float(fields[19])) if fields else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _forget_all() -> None:
    global _live_lock
    _live_lock = threading.Lock()
    _live.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
