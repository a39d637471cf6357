"""The circuit breakers of this process: one per tool, by its name, and one per provider.

A tool or provider whose calls time out or find nobody there, again and again, is not called for a
while: whoever asks is told so at once. What a tool raises about its arguments, or a provider says
of a request, tells nothing of the kind.
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
_OF_PROVIDER = (ModelTimeout, ModelUnavailable)
_DEFAULT = Retry()
_breakers: dict[tuple[str, ...], Breaker] = {}
_lock = threading.Lock()


def of_tool(name: str) -> Breaker:
    """The breaker of all tools of this name."""
    return _of("tool", name)


def of_provider(provider: str, address: str) -> Breaker:
    """The breaker of a provider at one address."""
    return _of("provider", provider, address)


def refuses_tool(name: str, options: ToolOptions) -> float | None:
    """Seconds for which a tool is not called, None if it may be."""
    known = _breakers.get(("tool", name))  # of one that never failed there is none
    return None if known is None else known.refuses(_retry(options).open_for)


def note_tool(name: str, options: ToolOptions, failure: BaseException | None) -> None:
    """A tool's call has ended: with what it says of the tool, if it failed."""
    if failure is None and ("tool", name) not in _breakers:
        return
    telling = isinstance(failure, _OF_TOOL) or (
        failure is not None and isinstance(classify(failure), _OF_SERVICE)
    )
    _note(of_tool(name), telling, _retry(options).open_after)


def note_provider(breaker: Breaker, failure: BaseException | None, open_after: int) -> None:
    """A model's call has ended: with what it says of the provider, if it failed."""
    _note(breaker, isinstance(failure, _OF_PROVIDER), open_after)


def _retry(options: ToolOptions) -> Retry:
    return options.retry or _DEFAULT


def forget() -> None:
    """Close all of them: for tests."""
    with _lock:
        _breakers.clear()


def _of(*key: str) -> Breaker:
    known = _breakers.get(key)
    if known is not None:
        return known
    with _lock:
        return _breakers.setdefault(key, Breaker())


def _note(breaker: Breaker, telling: bool, open_after: int) -> None:
    if telling:
        breaker.failed(open_after)
    else:
        breaker.succeeded()
