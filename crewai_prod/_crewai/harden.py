"""`harden`: the one thing users add to a crew, flow or agent they already have."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, overload

from crewai import Agent, Crew
from crewai.flow.flow import Flow
from crewai.llms.base_llm import BaseLLM

from crewai_prod._crewai.adoption import listen
from crewai_prod._crewai.agent_run import harden_agent
from crewai_prod._crewai.crew import harden_crew
from crewai_prod._crewai.flow import harden_flow, harden_flow_class
from crewai_prod._crewai.llm import harden_llm
from crewai_prod.errors import UsageError
from crewai_prod.options import Options
from crewai_prod.prices import load

load()  # before an application begins its threads
_MARKS = (
    "is_task",
    "is_agent",
    "is_before_kickoff",
    "is_after_kickoff",
    "is_kickoff",
    "is_crew",
    "is_before_llm_call_hook",
    "is_after_llm_call_hook",
    "is_before_tool_call_hook",
    "is_after_tool_call_hook",
    "_interception_point",
)
"""What CrewBase looks for on the methods in a class's own namespace."""
_MISSING: Any = object()


@overload
def harden(target: Any, /, **options: Any) -> Any: ...
@overload
def harden(**options: Any) -> Callable[[Any], Any]: ...
def harden(target: Any = _MISSING, /, **options: Any) -> Any:
    """Make every kickoff of a crew, flow or agent a durable run.

    Use it as a call, `crew = harden(my_crew, journal="runs.db")`, or as a decorator, `@harden` or
    `@harden(journal="runs.db")`, on a function that returns a crew, on a class of flows, on a
    `@CrewBase` class or on its `@crew` method.

    A crew, flow or agent that is kicked off while a run is at work, without a `run_id` of its own,
    belongs to that run, hardened or not.

    A model that your own code calls, in the body of a tool, a step or a flow's method, is hardened
    too, without options: `model = harden(LLM("openai/gpt-4o-mini"))`. Within a run its calls are
    recorded, replayed and billed as those of the crew's agents are; outside of any it is as before.

    Args:
        target: A `Crew`, a function or method that returns one, a `@CrewBase` class, a `Flow`, a
            class of flows, an `Agent`, or a model.
        **options: `journal`: path or `Journal`, default `CREWAI_PROD_JOURNAL`, else
            `.crewai_prod/journal.db` below the working directory. `durability`: `power` (default)
            or `process`. `tools`: `{tool name: {"effect": "read" | "write" | "nested", ...}}`, with
            the options of `ToolOptions`. `retry`: a `Retry`, for model calls. `on_change`: `stop`
            (default), `rerun` or `keep`. `unknown`: `pause` (default), `rerun`, `fail` or an
            `Outcome`. `log`: a path, `stderr`, a logger or None; default a file beside the
            journal. `prices`: `{model:
            {"input": 0.15, "output": 0.60}}` in US dollars per million tokens, or a function
            `(provider, model, usage, at) -> Decimal | None`; asked before the public lists.
            `on_unpriced`: `warn` (default), `fail` or a price, for models in neither.
            `on_alert`: called with an `Alert` when a run has ended in which a task took much more
            than it used to. `budget`: a `Budget` of each run, or a list of them (a run's and a
            month's). `budgets`: `{task name or agent role: Budget}`, for parts of it (of a flow:
            agent roles): what is kicked off or delegated in a task counts as the task's, what an
            agent does itself as the agent's. Limits do not belong to what a run is: it may be
            resumed with others. `route`: a `Route`, several in order, or a function of the
            `RouteContext` that returns a model or None: they choose the model of each call.
            `loops`: a `Loops`, which says when calls are taken for a loop, or False.
            `guards`: guards (see `crewai_prod.guards`), which judge what goes into the target, its
            models and tools, and what comes out. They do not belong to what a run is, either.
            `approvals`: `{task name: True | Approval}`, for outputs that a
            person approves before they count (tools: their option `approval`). `notify`: called
            with a dict, or an http(s) address that is sent JSON, when the run waits for a person.
            `human`: where CrewAI's own questions (`human_input`, `@human_feedback`, `Flow.ask`) are
            asked: `pause` (default: as approvals are; the run waits) or `terminal`.
            `settings`: a `Settings`.

    Returns:
        What it was given, hardened: still a `Crew`, `Flow`, `Agent` or model, a function that
        returns a crew, or a class. A function's crew is built anew, through the function, for each
        run.

    Raises:
        UsageError: A target or an option value that does not exist.
    """
    if target is _MISSING:
        return functools.partial(harden, **options)
    checked = Options.read(**options)
    listen()
    if isinstance(target, BaseLLM):
        return _harden_model(target, options)
    if isinstance(target, (Agent, Flow, Crew)):
        return harden_object(target, checked)
    if isinstance(target, type) and issubclass(target, Flow):
        return harden_flow_class(target, checked)
    if isinstance(target, type):
        return _harden_class(target, checked)
    if callable(target):
        return _harden_function(target, checked)
    raise UsageError(
        "harden() takes a Crew, a function that returns one, a @CrewBase class or its @crew "
        f"method, a Flow, a class of flows, an Agent or a model, not {type(target).__name__}."
    )


def _harden_model(model: BaseLLM, options: dict[str, Any]) -> BaseLLM:
    if options:
        raise UsageError(
            f"A model takes no options ({', '.join(sorted(options))}): its calls belong to the run "
            "it is called in."
        )
    return harden_llm(model)


def harden_object(target: Any, options: Options) -> Any:
    """A crew, an agent or a flow, hardened."""
    if isinstance(target, Agent):
        return harden_agent(target, options)
    if isinstance(target, Flow):
        return harden_flow(target, options)
    return harden_crew(target, options)


def _harden_function(function: Callable[..., Any], options: Options) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):
        raise UsageError(f"{function!r} is asynchronous; await it and harden the crew it returns.")

    @functools.wraps(function)
    def hardened(*args: Any, **kwargs: Any) -> Any:
        crew = _checked(function(*args, **kwargs), function)
        if args and getattr(type(args[0]), "is_crew_class", False):
            return _once_per_instance(args[0], crew, options)
        return harden_crew(crew, options, lambda: _checked(function(*args, **kwargs), function))

    return hardened


def _harden_class(target: type, options: Options) -> type:
    """A subclass whose `crew` method gives hardened crews; the class itself stays as it is.

    CrewBase looks for the marked methods in the class's own namespace, and for the YAML files
    beside the module it names: both are carried over.
    """
    method = getattr(target, "crew", None)
    if not getattr(target, "is_crew_class", False) or method is None:
        raise UsageError(f"{target!r} is not a @CrewBase class with a `crew` method.")
    marked = {
        name: value
        for name, value in vars(target).items()
        if any(hasattr(value, mark) for mark in _MARKS)
    }
    names = ("__module__", "__qualname__", "__doc__")
    namespace = {name: getattr(target, name) for name in names}
    hardened = {"crew": _harden_function(method, options)}
    return type(target)(target.__name__, (target,), {**marked, **namespace, **hardened})


def _once_per_instance(instance: Any, crew: Crew, options: Options) -> Crew:
    """CrewBase gives one crew per instance; so do we. Agents and tasks are copied for each run."""
    made = instance.__dict__.setdefault("_crewai_prod_crews", {})
    if id(crew) not in made:
        made[id(crew)] = (crew, harden_crew(crew, options))
    hardened: Crew = made[id(crew)][1]
    return hardened


def _checked(crew: Any, function: Callable[..., Any]) -> Crew:
    if not isinstance(crew, Crew):
        name = getattr(function, "__qualname__", repr(function))
        raise UsageError(f"{name} returned a {type(crew).__name__}, not a Crew.")
    return crew
