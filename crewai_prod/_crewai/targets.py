"""Crews, flows and agents alike: what the command line and the crash test need to know of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crewai import Agent, Crew
from crewai.flow.flow import Flow

from crewai_prod._crewai.agent_run import HardenedAgent
from crewai_prod._crewai.crew import HardenedCrew
from crewai_prod._crewai.flow import HardenedFlow
from crewai_prod._crewai.takeover import original_of, put
from crewai_prod.errors import UsageError

KINDS = {"crew": Crew, "flow": Flow, "agent": Agent}
_HARDENED = (HardenedCrew, HardenedFlow, HardenedAgent)


def kind_of(target: Any) -> str | None:
    """`crew`, `flow` or `agent`; None for anything else."""
    return next((name for name, kind in KINDS.items() if isinstance(target, kind)), None)


def is_hardened(target: Any) -> bool:
    """Whether its kickoffs are runs."""
    return isinstance(target, _HARDENED)


def name_of(target: Any) -> str | None:
    """What its runs are called."""
    if isinstance(target, Agent):
        return target.role
    if isinstance(target, Flow):
        return target.name or type(original_of(target)).__name__
    name: str | None = target.name
    return name


def asked_of(target: Any, inputs: Mapping[str, Any] | None) -> dict[str, Any]:
    """The arguments of its kickoff; an agent's inputs are `{"messages": ...}`.

    Raises:
        UsageError: It is an agent, and is asked nothing, or given something else.
    """
    if isinstance(target, Agent):
        given = dict(inputs or {})
        if "messages" not in given or set(given) - {"messages", "input_files"}:
            raise UsageError(
                f"An agent takes one input, `messages`: what it is asked; not {sorted(given)}."
            )
        return given
    return {"inputs": None if inputs is None else dict(inputs)}


def without_streaming(target: Any) -> None:
    """Have the kickoff return when the run has ended: there is no one to read the pieces."""
    if not isinstance(target, Agent):
        put(target, stream=False)


def shown_by(target: Any, output: Any) -> Any:
    """What a kickoff left: its output, and for a flow also the state, but for the id of it."""
    if not isinstance(target, Flow):
        return output
    state = target.state if isinstance(target.state, dict) else target.state.model_dump(mode="json")
    return {"output": output, "state": {k: v for k, v in state.items() if k != "id"}}
