"""How long to wait before a call is made again: what the provider says, else backoff with jitter.

All waiting is done by `pause` and `apause`, which tests can switch off (`skipping`); the rest is
pure: values in, seconds out. Sources: RFC 9110 section 10.2.3 (`Retry-After`), OpenAI's
`x-ratelimit-reset-*` durations (`6m0s`), Anthropic's `anthropic-ratelimit-*-reset` times (RFC
3339), Google's `RetryInfo`; full jitter after "Exponential Backoff And Jitter" (AWS, 2015).
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_EPOCH: Final = 1_000_000_000
"""A plain number above this is a time, below it a duration."""

_LOOK: Final = 0.2
"""Seconds between two looks at whether the wait is still wanted."""

_lock = threading.Lock()
_skippers = 0


@contextmanager
def skipping() -> Iterator[None]:
    """Nothing in this process waits before a retry: for tests. Blocks may overlap."""
    _skip(1)
    try:
        yield
    finally:
        _skip(-1)


def pause(seconds: float, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Wait before a call is made again.

    Args:
        seconds: How long.
        meanwhile: Called every now and then; what it raises ends the wait.
    """
    end = time.monotonic() + seconds
    while not _skippers and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _LOOK))
        meanwhile()


async def apause(seconds: float, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Wait without holding up the event loop."""
    end = time.monotonic() + seconds
    await asyncio.sleep(0)
    while not _skippers and (left := end - time.monotonic()) > 0:
        await asyncio.sleep(min(left, _LOOK))
        meanwhile()


def skipped() -> bool:
    """Whether nothing waits now."""
    return _skippers > 0


def _skip(change: int) -> None:
    global _skippers
    with _lock:
        _skippers += change


def retry_after(
    headers: Mapping[str, str], body: Mapping[str, Any] | None = None, now: float | None = None
) -> float | None:
    """Seconds to wait as the provider says, in whichever form it does; None if it does not.

    Args:
        headers: Of the response, names in lower case.
        body: Of the response, for providers that say it there.
        now: Seconds since the epoch. Default: the clock.
    """
    at = time.time() if now is None else now
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return max(0.0, milliseconds / 1000)
    if "retry-after" in headers:
        said = _seconds(headers["retry-after"], at)
        if said is not None:
            return said
    told = [_seconds(text, at) for text in (*_resets(headers), *_retry_info(body or {}))]
    known = [seconds for seconds in told if seconds is not None]
    return max(known) if known else None


def backoff(
    attempt: int, *, base: float, cap: float, jitter: bool, dice: Callable[[], float] | None = None
) -> float:
    """Seconds before try `attempt` + 1: between nothing and `base` doubled with each try.

    Args:
        attempt: The try that failed, from 1.
        base: Of the first wait, in seconds.
        cap: No wait is longer.
        jitter: Whether the wait is drawn between 0 and that (so that clients spread out).
        dice: For tests; gives numbers from 0 to 1.
    """
    longest = min(cap, base * 2.0 ** min(attempt - 1, 62))
    return longest * (dice or random.random)() if jitter else longest


def _resets(headers: Mapping[str, str]) -> Iterator[str]:
    """When a limit that is used up is reset: of those, the remaining count is 0 or not told."""
    for name, value in headers.items():
        if "ratelimit" not in name or "reset" not in name:
            continue
        remaining = headers.get(name.replace("reset", "remaining"))
        if remaining is None or _number(remaining) in (None, 0.0):
            yield value


def _retry_info(body: Mapping[str, Any]) -> Iterator[str]:
    error = body.get("error", body)
    details = error.get("details") if isinstance(error, Mapping) else None
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, Mapping) else None
        if isinstance(delay, str):
            yield delay


def _seconds(text: str, now: float) -> float | None:
    """A duration or a time, as seconds from now; never negative."""
    number = _number(text)
    if number is not None:
        return max(0.0, number - now if number > _EPOCH else number)
    parts = _PART.findall(text)
    if parts and "".join(value + unit for value, unit in parts) == text.strip():
        return sum(float(value) * _UNITS[unit] for value, unit in parts)
    moment = _moment(text)
    return None if moment is None else max(0.0, moment - now)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None


def _moment(text: str) -> float | None:
    """An HTTP date or an RFC 3339 time."""
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            found = read(text.strip())
        except (ValueError, TypeError, IndexError):
            continue
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    return None
