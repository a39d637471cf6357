"""What an observer can tell of a kickoff, to compare a bare one with a hardened one."""

from __future__ import annotations

import contextvars
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from crewai.events.base_events import BaseEvent
from crewai.events.event_bus import crewai_event_bus
from crewai.hooks import (
    register_after_llm_call_hook,
    register_after_tool_call_hook,
    register_before_llm_call_hook,
    register_before_tool_call_hook,
    unregister_after_llm_call_hook,
    unregister_after_tool_call_hook,
    unregister_before_llm_call_hook,
    unregister_before_tool_call_hook,
)
from crewai.utilities.env import get_env_context

from tests.integration.parts import Effects
from tests.openai_server import Server

_NAME = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|0x[0-9a-f]{6,16}")
"""What no two kickoffs share: ids, and where an object lies in memory."""
_SAID = (
    "agent_role",
    "crew_name",
    "error",
    "flow_name",
    "from_cache",
    "inputs",
    "messages",
    "method_name",
    "model",
    "params",
    "response",
    "result",
    "run_attempts",
    "state",
    "task_name",
    "tool_args",
    "tool_name",
)
"""Fields of events that do not differ from one bare kickoff to the next."""

_HOOKS_LOSE_TOOL_CALLS = find_spec("crewai.hooks.dispatch") is None
"""Before that module came, a hook after a model call made a native tool call a final answer."""


@dataclass(slots=True)
class Trace:
    """What was to be seen of one kickoff.

    Attributes:
        outcome: What it returned, or class and text of what it raised, as `repr` shows it.
        events: On CrewAI's bus, in the order in which they were emitted, with their places in the
            tree of events and what they say.
        requests: Bodies that the server saw.
        heard: What callbacks and hooks were called with, in order.
        effects: What the tools did.
    """

    outcome: str = ""
    events: list[Any] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    heard: list[Any] = field(default_factory=list)
    effects: list[str] = field(default_factory=list)


def observe(server: Server, effects: Effects, path: str, work: Callable[[list[Any]], Any]) -> Trace:
    """Observe one piece of work, which gets the list that callbacks append to."""
    server.reset()
    effects.path.unlink(missing_ok=True)
    trace, seen = Trace(), list[tuple[Any, BaseEvent]]()
    with _listening(seen), _hooked(trace.heard, path):
        trace.outcome = contextvars.Context().run(_outcome, work, trace.heard)
        crewai_event_bus.flush()
    names: dict[str, str] = {}
    trace.events = _told(seen, names)
    trace.outcome = _renamed(trace.outcome, names)
    trace.requests = [record.body for record in server.requests]
    trace.effects = effects.lines
    return trace


def _outcome(work: Callable[[list[Any]], Any], heard: list[Any]) -> str:
    get_env_context()  # announced once per process, in whichever kickoff comes first
    try:
        return repr(work(heard))
    except Exception as error:  # noqa: BLE001 - what is raised is part of the behaviour
        return repr((type(error), str(error)))


@contextmanager
def _listening(seen: list[tuple[Any, BaseEvent]]) -> Iterator[None]:
    with crewai_event_bus.scoped_handlers():
        for kind in set(_kinds(BaseEvent)):

            @crewai_event_bus.on(kind)
            def _(source: Any, event: BaseEvent) -> None:
                seen.append((source, event))

        yield


def _kinds(kind: type[BaseEvent]) -> Iterator[type[BaseEvent]]:
    for one in kind.__subclasses__():
        yield one
        yield from _kinds(one)


def _renamed(text: str, names: dict[str, str]) -> str:
    """The text with each name that no two kickoffs share replaced by when it was first met."""
    return _NAME.sub(lambda found: names.setdefault(found[0], f"name {len(names)}"), text)


def _told(seen: list[tuple[Any, BaseEvent]], names: dict[str, str]) -> list[Any]:
    """Events in their order, other events named by their places in it."""
    ordered = sorted(
        [pair for pair in seen if pair[1].type != "default_env"],
        key=lambda pair: (pair[1].emission_sequence or 0, pair[1].timestamp),
    )
    places = {event.event_id: place for place, (_, event) in enumerate(ordered)}
    return [
        (
            event.type,
            type(source).__name__,
            places.get(event.parent_event_id or ""),
            places.get(event.started_event_id or ""),
            places.get(event.triggered_by_event_id or ""),
            {
                name: _renamed(str(getattr(event, name)), names)
                for name in _SAID
                if hasattr(event, name)
            },
        )
        for source, event in ordered
    ]


@contextmanager
def _hooked(heard: list[Any], path: str) -> Iterator[None]:
    def before_llm(context: Any) -> None:
        heard.append(
            ("before model", context.agent.role, context.iterations, len(context.messages))
        )

    def after_llm(context: Any) -> None:
        heard.append(("after model", context.agent.role, str(context.response)))

    def before_tool(context: Any) -> None:
        heard.append(("before tool", context.tool_name, dict(context.tool_input)))

    def after_tool(context: Any) -> None:
        heard.append(("after tool", context.tool_name, context.tool_result))

    register_before_llm_call_hook(before_llm)
    if path == "text" or not _HOOKS_LOSE_TOOL_CALLS:
        register_after_llm_call_hook(after_llm)
    register_before_tool_call_hook(before_tool)
    register_after_tool_call_hook(after_tool)
    try:
        yield
    finally:
        unregister_before_llm_call_hook(before_llm)
        unregister_after_llm_call_hook(after_llm)
        unregister_before_tool_call_hook(before_tool)
        unregister_after_tool_call_hook(after_tool)
