"""What is kicked off within a run without being hardened belongs to the run all the same.

A tool, a step or a flow's method may kick off a bare crew or agent. CrewAI announces each on its
event bus and waits for whoever listens before it goes on. The listeners here take over the objects
of a kickoff that is announced within a run, and give them back when it ends; outside of runs they
do nothing. Not covered: direct calls of a model in a user's own code (see `second_line`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any
from weakref import ref

from crewai.agents.tools_handler import ToolsHandler
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
from crewai_prod._crewai.repeating import RunToolsHandler, uncounted
from crewai_prod._crewai.side_by_side import undisturbed
from crewai_prod._crewai.takeover import original_of, put, put_private, seam_of
from crewai_prod._crewai.usage import read_metrics
from crewai_prod.kickoff import place_around
from crewai_prod.run import Run
from crewai_prod.steps import Scope, digest, lies_in

_PARTS = ("agents", "tasks", "manager_agent", "memory", *CREW_LLMS)
_PRIVATE_PARTS = ("_memory", "_cache_handler")
_AGENT_LLMS = ("llm", "function_calling_llm")
_PLACE = "crewai_prod_place"
_AT_WORK = "crewai_prod_at_work"
_LENT = "crewai_prod_lent"
_COUNT = "calculate_usage_metrics"
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


@dataclass(frozen=True, slots=True)
class _Lent:
    """What a run has taken over of a user's object, until its kickoff ends.

    A kickoff that is killed announces no end. A crew is given back when it is kicked off again, not
    when the run ends: what is still at work on it must not go on as if there were no run. An agent
    is given back then, because an executor begins with whatever model it finds on its agent.
    """

    run: Run
    before: dict[str, Any]
    private: dict[str, Any] = field(default_factory=dict)
    publish: Callable[[], None] | None = None
    """Leave what was cached in the kickoff to the next, as CrewAI does."""


def _crew_begins(crew: Any, event: Any) -> None:
    place = place_around()
    if seam_of(crew) is not None:
        return
    with undisturbed():
        _give_back(crew, only_if_ended=place is None)
        crew.__dict__.pop(_COUNT, None)
        if place is None:
            return
        run, around = place
        scope = nested_scope(run, around, crew, event.inputs)
        workshop = Workshop(run, run.tools, scope)
        private = crew.__pydantic_private__ or {}
        lent = _Lent(
            run,
            {name: crew.__dict__.get(name) for name in _PARTS},
            {name: private.get(name) for name in _PRIVATE_PARTS},
            workshop.caches.publish,
        )
        _make_models(crew)
        workshop.fill(crew, list(crew.tasks))
        crew.__dict__[_LENT] = lent
        _count_truly(crew, run, scope)


def _count_truly(crew: Any, run: Run, scope: Scope) -> None:
    """Let the crew say what this kickoff costs, all sessions together, as long as the run lasts.

    CrewAI adds up what its models count, which knows nothing of what was paid for before a kill.
    """
    held = ref(crew)

    def count() -> Any:
        usage = read_metrics(run.usage_within(scope))
        put(held(), usage_metrics=usage)
        return usage

    def forget() -> None:
        still = held()
        if still is not None and still.__dict__.get(_COUNT) is count:
            del still.__dict__[_COUNT]

    crew.__dict__[_COUNT] = count
    run.at_end[_COUNT, id(crew)] = forget


def _crew_ends(crew: Any, event: Any) -> None:
    with undisturbed():
        _give_back(crew)


def _give_back(thing: Any, *, only_if_ended: bool = False) -> None:
    lent: _Lent | None = thing.__dict__.get(_LENT)
    if lent is not None and (lent.run.ended or not only_if_ended):
        lent.run.at_end.pop((_LENT, id(thing)), None)
        for name in (_LENT, _AT_WORK):
            thing.__dict__.pop(name, None)
        if lent.publish is not None:
            lent.publish()
        put(thing, **lent.before)
        put_private(thing, **lent.private)


def _make_models(crew: Any) -> None:
    """The models that CrewAI would make from names in the course of the kickoff."""
    if crew.manager_llm is not None:
        put(crew, manager_llm=create_llm(crew.manager_llm))
    if crew.planning:
        planner = CrewPlanner(tasks=crew.tasks, planning_agent_llm=crew.planning_llm)
        put(crew, planning_llm=create_llm(planner.planning_agent_llm))


def _agent_begins(executor: Any, event: Any) -> None:
    """The executor of `Agent.kickoff` is a flow that has not done anything yet.

    A guardrail's complaint has it begin again: it is taken over already. So is the model of an
    agent that CrewAI makes to work on a task of the run's, such as its planner.
    """
    if not isinstance(executor, EXECUTOR):
        return
    agent, place = executor.agent, place_around()
    if place is None or agent is None or seam_of(agent) is not None:
        return
    run, around = place
    taken = seam_of(executor.llm)
    planner = executor.task is not None and taken is not None and taken.run is run
    if planner:
        return
    known, scope = executor.__dict__.get(_PLACE, (None, None))
    if known is not run:
        scope = _agent_scope(run, around, executor)
        _take_over_executor(executor, run, scope)
    run.enter(scope, retry=False)


def _take_over_executor(executor: Any, run: Run, scope: Scope) -> None:
    workshop = Workshop(run, run.tools, scope, within=scope)
    tools = workshop.bench.equip(executor.original_tools) or []
    put(executor, original_tools=tools, tools=parse_tools(tools))
    handler = executor.tools_handler
    if isinstance(handler, ToolsHandler):  # a killed kickoff of this agent has left its last call
        put(executor, tools_handler=RunToolsHandler.of(handler.cache, workshop.bench.polls))
    uncounted(executor, None, tools)
    for name in _AGENT_LLMS:
        put(executor, **{name: workshop.llm(original_of(getattr(executor, name)))})
    executor.__dict__[_PLACE] = (run, scope)
    with undisturbed():
        _take_over_models(executor.agent, workshop, run, scope)


def _take_over_models(agent: Any, workshop: Workshop, run: Run, scope: Scope) -> None:
    """What the agent asks itself: to plan, to read its answer, to judge it."""
    lent: _Lent | None = agent.__dict__.get(_LENT)
    names = (*_AGENT_LLMS, "planning_config")
    before = lent.before if lent else {name: getattr(agent, name, None) for name in names}
    agent.__dict__.setdefault(_AT_WORK, []).append((run, scope))
    agent.__dict__[_LENT] = _Lent(run, before)
    put(agent, **{name: workshop.llm(before[name]) for name in _AGENT_LLMS})
    put(agent, planning_config=workshop.config(before["planning_config"]))
    run.at_end[_LENT, id(agent)] = partial(_give_back, agent)


def _agent_scope(run: Run, around: Scope, executor: Any) -> Scope:
    role = getattr(executor.agent, "role", None) or "agent"
    asked = getattr(executor, "_kickoff_input", "")
    return run.nest(around, role, digest(codec.meaning([role, asked]))).of_agent(role)


def _agent_ends(agent: Any, event: Any) -> None:
    """One kickoff has ended; the agent may be at work in others beside it."""
    with _lock:
        at_work = agent.__dict__.get(_AT_WORK)
        if not at_work:
            return
        run, scope = _which(at_work)
        if not at_work:
            _give_back(agent)
    if isinstance(event, LiteAgentExecutionErrorEvent) and run.stopped is None:
        run.distrust_last_answer(scope)


def _which(at_work: list[tuple[Run, Scope]]) -> tuple[Run, Scope]:
    """The kickoff that was made here: of one agent there may be several at once."""
    place = place_around()
    here = [one for one in at_work if place and lies_in(one[1].path, place[1].path)]
    found = here[0] if here else at_work[0]
    at_work.remove(found)
    return found


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
