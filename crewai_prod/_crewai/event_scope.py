"""CrewAI's stack of events that have begun and not ended, left as it was found.

CrewAI ends what it began when an `Exception` passes, not when a run's stop or an interrupt does.
What stays on the stack counts against its limit of 100, for as long as the thread or task lives.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from crewai.events import event_context

_stack: ContextVar[Any] | None = getattr(event_context, "_event_id_stack", None)


@contextmanager
def events_ended() -> Iterator[None]:
    """If the block raises, end what CrewAI began in it and did not end."""
    if _stack is None:
        yield
        return
    before = _stack.get()
    try:
        yield
    except BaseException:
        _stack.set(before)
        raise
