"""Named places where the crash tests end, delay or break the process.

Rule: `point(name)` does nothing unless armed, by `arm` or by the environment variable
`CREWAI_PROD_FAULT`, read once at import. Its value is a comma-separated list such as
`at=commit.after:finish_step,k=3` (end at the third hit of that point), `n=7` (end at the seventh
point whatever its name), `log=FILE` (write the name of each point hit, one a line, before it acts);
`do=raise` or `do=sleep:0.5` in place of ending. Ending is `os._exit(137)`: no handler, no flush.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import NoReturn

VARIABLE = "CREWAI_PROD_FAULT"
_EXIT_STATUS = 137  # what a shell reports for SIGKILL


class InjectedFault(Exception):
    """What `do=raise` raises."""


def _exit() -> NoReturn:
    os._exit(_EXIT_STATUS)


class _Fault:
    def __init__(
        self, action: Callable[[], object], at: str | None, hit: int | None, log: str | None
    ) -> None:
        self._action, self._at, self._hit, self._log = action, at, hit, log
        self._count = 0
        self._lock = threading.Lock()

    def pass_by(self, name: str) -> None:
        with self._lock:
            if self._log is not None:
                with open(self._log, "a", encoding="utf-8") as file:
                    file.write(name + "\n")
            self._count += self._at in (None, name)
            due = self._count == self._hit and self._at in (None, name)
        if due:
            self._action()


_armed: _Fault | None = None


def point(name: str) -> None:
    """Do here what was armed for this point; nothing if nothing was."""
    if _armed is not None:
        _armed.pass_by(name)


def arm(
    *,
    n: int | None = None,
    at: str | None = None,
    k: int = 1,
    log: str | None = None,
    action: Callable[[], object] = _exit,
) -> None:
    """Arm one fault, in place of an earlier one.

    Args:
        n: Act at the n-th point hit, whatever its name.
        at: Act at the k-th hit of the point of this name.
        k: See `at`.
        log: File to which the name of every point hit is appended.
        action: What to do there. Default: end the process.
    """
    global _armed
    _armed = _Fault(action, at, k if at is not None else n, log)


def disarm() -> None:
    """Make every point a no-op again."""
    global _armed
    _armed = None


def arm_from(text: str) -> None:
    """Arm what `CREWAI_PROD_FAULT` says; its form is described above."""
    said = dict(part.split("=", 1) for part in text.split(","))
    n = int(said["n"]) if "n" in said else None
    arm(n=n, at=said.get("at"), k=int(said.get("k", "1")), log=said.get("log"), action=_act(said))


def _act(said: dict[str, str]) -> Callable[[], object]:
    verb, _, argument = said.get("do", "exit").partition(":")
    if verb == "sleep":
        return lambda: time.sleep(float(argument))
    return _raise if verb == "raise" else _exit


def _raise() -> NoReturn:
    raise InjectedFault


if os.environ.get(VARIABLE):
    arm_from(os.environ[VARIABLE])
