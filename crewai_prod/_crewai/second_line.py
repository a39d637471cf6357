"""The second line: model calls that a provider makes within a run without passing a seam.

CrewAI reports every call of its providers on its event bus. A call of a model that is behind a seam
is metered there; any other one that happens within a run (`LLM(...).call(...)` in a tool's body) is
recorded here, with the usage its report holds. Nothing is patched: this is a listener like any
user's, registered when the first run is opened.

Events, not hooks: a hook on model calls is seen by CrewAI's executor and not by every provider, is
hidden by hooks of the user's within it, and does not exist in older releases. The price of events
is that they arrive on another thread and later. They arrive in a copy of the caller's context,
which says where in which run the call was made; and whoever needs the count waits for what is on
its way. Two kinds of calls are not seen: those on threads that do not carry the context, and those
of models that emit no events. `harden(model)` is for the latter.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from crewai.events.event_bus import crewai_event_bus, is_replaying
from crewai.events.types.llm_events import (
    LLMCallCompletedEvent,
    LLMCallFailedEvent,
    LLMCallStartedEvent,
    LLMEventBase,
)

from crewai_prod import codec
from crewai_prod._crewai.metering import current_meter
from crewai_prod._crewai.takeover import seam_of
from crewai_prod._crewai.usage import read_usage
from crewai_prod.errors import CrewProdError
from crewai_prod.kickoff import place_around
from crewai_prod.model_steps import DirectCall
from crewai_prod.redact import redact_text
from crewai_prod.run import Run
from crewai_prod.steps import Scope, digest

_PATIENCE = 10.0
"""Seconds to wait for reports: other listeners may block the bus."""


@dataclass(slots=True)
class _Calls:
    """Calls of one run by the id CrewAI gives them: when they began, and which have ended."""

    begun: dict[str, float] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)


_calls: WeakKeyDictionary[Run, _Calls] = WeakKeyDictionary()
_lock = Lock()


def watch(run: Run) -> None:
    """Have model calls within a run that pass no seam recorded in it."""
    run.await_reports = _await_reports
    listen()


def listen() -> None:
    """Listen to CrewAI's bus. Again and again, because `scoped_handlers` may have forgotten it."""
    crewai_event_bus.on(LLMCallStartedEvent)(_started)
    crewai_event_bus.on(LLMCallCompletedEvent)(_completed)
    crewai_event_bus.on(LLMCallFailedEvent)(_failed)


def _await_reports() -> None:
    crewai_event_bus.flush(timeout=_PATIENCE)


def _started(source: Any, event: LLMCallStartedEvent) -> None:
    place = _place(source)
    if place is None:
        return
    run, scope = place
    meter = current_meter()
    if meter is not None:
        meter.awaited = True
        return
    with _lock:
        _of(run).begun[event.call_id] = event.timestamp.timestamp()
    run.note_direct(scope)


def _completed(source: Any, event: LLMCallCompletedEvent) -> None:
    place = _place(source)
    if place is None:
        return
    meter = current_meter()
    if meter is not None and meter.report_inner(event.usage or {}):
        return
    _record(
        place,
        source,
        event,
        usage=read_usage(event.usage) if event.usage else None,
        response_id=getattr(event, "response_id", None),
        finish_reason=getattr(event, "finish_reason", None),
    )


def _failed(source: Any, event: LLMCallFailedEvent) -> None:
    place = _place(source)
    if place is None or current_meter() is not None:  # the call around it fails, or goes on
        return
    with _lock:
        ended = _of(place[0]).ended
        if event.call_id in ended:  # some providers report a failure twice
            return
        ended.add(event.call_id)
    message = codec.to_tree(redact_text(event.error))
    _record(place, source, event, error={"type": "LLMCallFailed", "message": message})


def _place(source: Any) -> tuple[Run, Scope] | None:
    """Where in which run a call was made past the seams; None if it was not."""
    if seam_of(source) is not None or is_replaying():
        return None
    return place_around()


def _of(run: Run) -> _Calls:
    """Its calls; the caller holds the lock."""
    return _calls.setdefault(run, _Calls())


def _record(place: tuple[Run, Scope], source: Any, event: LLMEventBase, **outcome: Any) -> None:
    run, scope = place
    model = str(event.model or getattr(source, "model", "unknown"))
    ended = event.timestamp.timestamp()
    with _lock:
        calls = _of(run)
        calls.ended.add(event.call_id)
        began = calls.begun.pop(event.call_id, ended)
    asked = codec.meaning(getattr(event, "messages", None))
    call = DirectCall(
        model=model,
        provider=getattr(source, "provider", None),
        meant=digest(b"direct", model.encode("utf-8", "replace"), asked),
        started_at=min(began, time.time()),
        duration_ms=max(0.0, ended - began) * 1000,
        **outcome,
    )
    role = getattr(event, "agent_role", None)
    try:
        run.record_direct(replace(scope, agent=role) if role else scope, call)
    except CrewProdError:  # the run has stored it and stops at its next step
        return
