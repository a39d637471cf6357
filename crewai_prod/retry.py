"""When a call that failed is made again, and when its provider is left alone for a while.

Pure: failures in, decisions out. A failure is retried by its class, not by its text: what a second
try cannot change is not tried. Whoever resumes a run makes the call that was not answered anew,
with all its tries: why it failed then says little about now. Budgets count the earlier ones, too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from crewai_prod.errors import (
    CrewProdError,
    EmptyResponse,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
    ToolTimeout,
    ToolUnavailable,
    UsageError,
)
from crewai_prod.waiting import backoff, skipped

PASSING: Final = (
    RateLimited,
    ModelTimeout,
    ModelUnavailable,
    EmptyResponse,
    ToolTimeout,
    ToolUnavailable,
)
"""The failures that pass by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often, how long and after which failures a call is made again.

    Attributes:
        attempts: Tries in all, the first included. 1: no retries.
        max_elapsed: Seconds after the first try began in which another one may begin. A wait that
            would end later is not begun: the failure is reported now.
        base: Seconds of the first wait; each further one is twice as long.
        cap: No wait is longer, unless the provider asks for more.
        jitter: Draw each wait between nothing and its length, so that clients spread out.
        on: Classes of errors that are retried, the exceptions of SDKs and of your own among them;
            or a mapping from class to the number of its tries in all.
        timeout: Seconds one try may take; it is abandoned then, and reported. Default: none but the
            SDK's own (600 seconds between two bytes for OpenAI's). A call with a timeout is made on
            a thread of its own.
        open_after: Failures in a row, of all calls of this process to one provider or of one tool,
            after which it is left alone. 0: it never is.
        open_for: Seconds for which it is; then one call is let through to see.
        fallback: Models to go to, in order, when the tries are used up, or at once when the failure
            is one that trying again does not change. Names (`"openai/gpt-4o-mini"`) or objects.

    Raises:
        UsageError: A number that makes no sense.
    """

    attempts: int = 4
    max_elapsed: float = 120.0
    base: float = 0.5
    cap: float = 20.0
    jitter: bool = True
    on: Sequence[type[Exception]] | Mapping[type[Exception], int] = PASSING
    timeout: float | None = None
    open_after: int = 20
    open_for: float = 30.0
    fallback: Sequence[Any] = ()

    def __post_init__(self) -> None:
        fallback = self.fallback
        several = isinstance(fallback, (list, tuple))
        object.__setattr__(self, "fallback", tuple(fallback) if several else (fallback,))
        object.__setattr__(self, "on", _kinds(self.on))
        for name in ("max_elapsed", "base", "cap", "open_after", "open_for"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"Retry({name}={getattr(self, name)!r}): it must not be negative.")
        for tries in (self.attempts, *(self.on.values() if isinstance(self.on, Mapping) else ())):
            if not isinstance(tries, int) or tries < 1:
                raise UsageError(f"Retry({tries!r} tries): the first one counts, so 1 or more.")
        if self.timeout is not None and not self.timeout > 0:
            raise UsageError(f"Retry(timeout={self.timeout!r}): more than 0 seconds, or None.")

    def tries(self, error: BaseException) -> int:
        """How many tries there are in all for a call that failed like this; 1: it is not retried.

        Of several classes that fit, the one named first counts.
        """
        given = self.on if isinstance(self.on, Mapping) else dict.fromkeys(self.on, self.attempts)
        causes = (error, error.__cause__)
        fitting = (n for kind, n in given.items() if any(isinstance(one, kind) for one in causes))
        return next(fitting, 1)

    def wait(self, error: BaseException, attempt: int, elapsed: float) -> float | None:
        """Seconds until the next try, or None if there is none.

        Args:
            error: What the try ended with.
            attempt: Which try it was, from 1.
            elapsed: Seconds since the first one began.
        """
        if attempt >= self.tries(error):
            return None
        asked = error.fields.get("retry_after") if isinstance(error, CrewProdError) else None
        drawn = backoff(attempt, base=self.base, cap=self.cap, jitter=self.jitter)
        wait = drawn if asked is None else max(float(asked), drawn)
        return wait if elapsed + wait <= self.max_elapsed else None


def _kinds(on: Any) -> tuple[type[Exception], ...] | Mapping[type[Exception], int]:
    given = on if isinstance(on, Mapping) else on if isinstance(on, (list, tuple)) else (on,)
    for kind in given:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise UsageError(f"Retry(on=...): {kind!r} is no class of exceptions.")
    return dict(given) if isinstance(given, Mapping) else tuple(given)


NO_RETRY: Final = Retry(attempts=1)


@dataclass(slots=True)
class Breaker:
    """Stops calling what keeps failing, and looks again after a while.

    Closed at first. After so many failures in a row it is open: calls are refused at once. After a
    while it is half open: one call is let through; if that succeeds it is closed, else open again.
    Any thread may use it. Where waiting is skipped it refuses nothing.

    Attributes:
        clock: For tests.
    """

    clock: Callable[[], float] = time.monotonic
    _failed: int = 0
    _opened: float | None = None
    _probing: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def refuses(self, open_for: float) -> float | None:
        """Seconds for which a call is refused, or None if it may be made.

        Args:
            open_for: Seconds for which it stays open.
        """
        if self._opened is None:
            return None
        with self._lock:
            if self._opened is None or skipped():
                return None
            left = self._opened + open_for - self.clock()
            if left > 0:
                return left
            # Whoever is let through may never report back: the next one is, after as long again.
            self._opened, self._probing = self.clock(), True
            return None

    def succeeded(self) -> None:
        """A call was answered, if only to say that it is wrong."""
        if not self._failed and self._opened is None:
            return
        with self._lock:
            self._failed, self._opened, self._probing = 0, None, False

    def failed(self, open_after: int) -> None:
        """A call failed in a way that says something about whom it was made to.

        Args:
            open_after: Failures in a row until it opens; 0: it never does.
        """
        with self._lock:
            self._failed += 1
            if self._probing or 0 < open_after <= self._failed:
                self._opened, self._probing = self.clock(), False
