"""What is kicked off within a run without being hardened belongs to the run all the same.

A tool, a step or a flow's method may kick off a bare crew or agent. CrewAI announces each on its
event bus and waits for whoever listens before it goes on. The listeners here take over the objects
of a kickoff that is announced within a run, and give them back when it ends; outside of runs they
do nothing. Not covered: direct calls of a model in a user's own code (see `second_line`).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from crewai.events.event_bus import crewai_event_bus
from crewai.events.types.agent_events import (
    LiteAgentExecutionCompletedEvent,
    LiteAgentExecutionErrorEvent,
)
from crewai.events.types.crew_events import (
    CrewKickoffCompletedEvent,
    CrewKickoffFailedEvent,
    CrewKickoffStartedEvent,
)
from crewai.events.types.flow_events import FlowStartedEvent
from crewai.utilities.agent_utils import parse_tools
from crewai.utilities.llm_utils import create_llm
from crewai.utilities.planning_handler import CrewPlanner

from crewai_prod import codec
from crewai_prod._crewai.build import CREW_LLMS, Workshop
from crewai_prod._crewai.crew_run import nested_scope
from crewai_prod._crewai.llm import in_a_run
from crewai_prod._crewai.side_by_side import undisturbed
from crewai_prod._crewai.takeover import original_of, put, put_private, seam_of
from crewai_prod.kickoff import place_around
from crewai_prod.run import Run
from crewai_prod.steps import Scope, digest

_PARTS = ("agents", "tasks", "manager_agent", "memory", *CREW_LLMS)
_BEFORE = "crewai_prod_before"
_lock = threading.Lock()


def listen() -> None:
    """Begin to listen, or go on: whoever listens twice hears once.

    Said again at every kickoff, because `crewai_event_bus.scoped_handlers()`, which tests use,
    leaves nobody listening within its block.
    """
    crewai_event_bus.on(CrewKickoffStartedEvent)(_crew_begins)
    crewai_event_bus.on(CrewKickoffCompletedEvent)(_crew_ends)
    crewai_event_bus.on(CrewKickoffFailedEvent)(_crew_ends)
    crewai_event_bus.on(FlowStartedEvent)(_agent_begins)
    crewai_event_bus.on(LiteAgentExecutionCompletedEvent)(_agent_ends)
    crewai_event_bus.on(LiteAgentExecutionErrorEvent)(_agent_ends)


def _crew_begins(crew: Any, event: Any) -> None:
    place = place_around()
    if place is None or seam_of(crew) is not None:
        return
    run, around = place
    with undisturbed():
        before = {name: _originals(crew.__dict__.get(name)) for name in _PARTS}
        cache = original_of(crew._cache_handler)
        _put_back(crew, before, cache)
        scope = nested_scope(run, around, crew, event.inputs)
        _make_models(crew)
        Workshop(run, run.tools, scope).fill(crew, list(crew.tasks))
        crew.__dict__[_BEFORE] = (before, cache, crew.agents)


def _crew_ends(crew: Any, event: Any) -> None:
    """Give back, unless the crew has been kicked off again meanwhile: events come late."""
    with undisturbed():
        before, cache, agents = crew.__dict__.get(_BEFORE, (None, None, None))
        if before is not None and crew.agents is agents:
            del crew.__dict__[_BEFORE]
            _put_back(crew, before, cache)


def _put_back(crew: Any, parts: Mapping[str, Any], cache: Any) -> None:
    put(crew, **parts)
    private = crew.__pydantic_private__ or {}
    memory = original_of(private.get("_memory"))
    put_private(crew, _memory=memory, _cache_handler=cache)


def _make_models(crew: Any) -> None:
    """The models that CrewAI would make from names in the course of the kickoff."""
    if crew.manager_llm is not None:
        put(crew, manager_llm=create_llm(crew.manager_llm))
    if crew.planning:
        planner = CrewPlanner(tasks=crew.tasks, planning_agent_llm=crew.planning_llm)
        put(crew, planning_llm=create_llm(planner.planning_agent_llm))


def _originals(value: Any) -> Any:
    return [original_of(one) for one in value] if isinstance(value, list) else original_of(value)


def _agent_begins(executor: Any, event: Any) -> None:
    """The executor of `Agent.kickoff` is a flow that has not done anything yet."""
    place = place_around()
    if place is None or not isinstance(executor, EXECUTOR) or in_a_run(executor.llm):
        return
    run, around = place
    scope = _agent_scope(run, around, executor)
    workshop = Workshop(run, run.tools, scope, within=scope)
    llm = workshop.llm(executor.llm)
    tools = workshop.bench.take(executor.original_tools) or []
    put(executor, llm=llm, original_tools=tools, tools=parse_tools(tools))
    put(executor, function_calling_llm=workshop.llm(executor.function_calling_llm))
    agent = executor.agent
    if agent is not None and not in_a_run(agent.llm):
        agent.__dict__[_BEFORE] = (agent.llm, run, scope)
        put(agent, llm=workshop.llm(agent.llm))


def _agent_scope(run: Run, around: Scope, executor: Any) -> Scope:
    role = getattr(executor.agent, "role", None) or "agent"
    asked = getattr(executor, "_kickoff_input", "")
    return run.nest(around, role, digest(codec.meaning([role, asked]))).of_agent(role)


def _agent_ends(agent: Any, event: Any) -> None:
    llm, run, scope = agent.__dict__.pop(_BEFORE, (None, None, None))
    if llm is not None:
        put(agent, llm=llm)
        if isinstance(event, LiteAgentExecutionErrorEvent):
            run.distrust_last_answer(scope)


def _executor_class() -> type:
    """Where this release of CrewAI keeps it."""
    for module in ("crewai.agents.agent_executor", "crewai.experimental.agent_executor"):
        try:
            found: type = import_module(module).AgentExecutor
        except ImportError:
            continue
        return found
    return type(None)


EXECUTOR: Any = _executor_class()
