"""The circuit breakers of this process: one per tool, by its name.

A tool whose calls time out or find nobody there, again and again, is not called for a while: the
model is told so at once. What a tool raises about its arguments says nothing of the kind.
"""

from __future__ import annotations

import threading

from crewai_prod.errors import (
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
    ToolCrashed,
    ToolTimeout,
    ToolUnavailable,
)
from crewai_prod.provider_errors import classify
from crewai_prod.retry import Breaker, Retry
from crewai_prod.tooling import ToolOptions

_OF_TOOL = (ToolTimeout, ToolUnavailable, ToolCrashed)
_OF_SERVICE = (ModelTimeout, ModelUnavailable, RateLimited)
_DEFAULT = Retry()
_breakers: dict[str, Breaker] = {}
_lock = threading.Lock()


def breaker_of(tool: str) -> Breaker:
    """The breaker of all tools of this name."""
    with _lock:
        return _breakers.setdefault(tool, Breaker())


def refuses(tool: str, options: ToolOptions) -> float | None:
    """Seconds for which a tool is not called, None if it may be."""
    return breaker_of(tool).refuses(_retry(options).open_for)


def note(tool: str, options: ToolOptions, failure: BaseException | None) -> None:
    """A call has ended: with what it says of the tool, if it failed."""
    telling = isinstance(failure, _OF_TOOL) or (
        failure is not None and isinstance(classify(failure), _OF_SERVICE)
    )
    if telling:
        breaker_of(tool).failed(_retry(options).open_after)
    else:
        breaker_of(tool).succeeded()


def _retry(options: ToolOptions) -> Retry:
    return options.retry or _DEFAULT


def forget() -> None:
    """Close all of them: for tests."""
    with _lock:
        _breakers.clear()
