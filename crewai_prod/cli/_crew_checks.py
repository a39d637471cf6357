"""What `doctor MODULE:CREW` looks at: the crew, flow or agent, and whether the seams take hold."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from crewai_prod.cli._checks import Check

_NO_HOLD = (
    "On this release of crewai that seam does not hold: what a crew does there is not resumed or "
    "not billed as it should be. Use a release that passes, and report this one."
)


def describe_crew(crew: Any) -> dict[str, Any]:
    """The target's tasks, models and tools, for `--json` and for the checks.

    A flow's tasks are its methods; what these make (crews, agents) is not known before they run.
    """
    from crewai_prod._crewai.targets import kind_of, name_of

    kind = kind_of(crew)
    process = getattr(crew, "process", None)
    return {
        "name": name_of(crew),
        "process": getattr(process, "value", str(process)) if kind == "crew" else kind,
        "tasks": list(_tasks(crew, kind)),
        "models": sorted({model for owner in (crew, *_agents(crew)) for model in _models(owner)}),
        "tools": _tools(crew),
    }


def _tasks(target: Any, kind: str | None) -> Iterator[dict[str, Any]]:
    if kind == "crew":
        yield from map(_task, target.tasks)
    elif kind == "agent":
        yield _described("messages", target.role)
    else:
        for name, method in target._definition.methods.items():
            yield _described(name, None, human_input=method.human_feedback is not None)


def _agents(target: Any) -> list[Any]:
    """The agents that are known before it runs."""
    manager = getattr(target, "manager_agent", None)
    agents = getattr(target, "agents", None) or [target]
    return [*agents, manager] if manager is not None else list(agents)


def crew_checks(crew: Any, facts: dict[str, Any]) -> Iterator[Check]:
    """Check what is known of a crew before it runs."""
    listed = (f"{t['name']} ({t['agent']})" if t["agent"] else t["name"] for t in facts["tasks"])
    yield Check("tasks", "ok", ", ".join(listed))
    yield Check("models", "ok", ", ".join(facts["models"]) or "none named")
    yield _effects(facts["tools"])
    asking = [task["name"] for task in facts["tasks"] if task["human_input"]]
    if asking and not (sys.stdin is not None and sys.stdin.isatty()):
        yield Check(
            "human input",
            "fail",
            f"{', '.join(asking)} asks a person, and standard input is no terminal",
            "Run it where a person can type, or set human_input=False on these tasks.",
        )
    late = [a.role for a in _agents(crew) if getattr(a, "mcps", None) or getattr(a, "apps", None)]
    if late:
        yield Check(
            "tools of servers",
            "warn",
            f"{', '.join(late)} gets tools from servers when the run begins",
            "Declare their effects by name, too: harden(..., tools={...}).",
        )


def seam_checks() -> Iterator[Check]:
    """Prove on the installed crewai, seam by seam, that what passes it is recorded."""
    from crewai_prod._crewai.probes import run_probes

    for name, wrong in run_probes():
        if wrong:
            yield Check(f"seam, {name}", "fail", "; ".join(wrong), _NO_HOLD)
        else:
            yield Check(f"seam, {name}", "ok", "holds")


def _effects(tools: list[dict[str, Any]]) -> Check:
    undeclared = [tool["name"] for tool in tools if not tool["declared"]]
    if not undeclared:
        listed = ", ".join(f"{tool['name']} ({tool['effect']})" for tool in tools)
        return Check("tools", "ok", listed or "none")
    example = ", ".join(f'"{name}": {{"effect": "read"}}' for name in undeclared)
    return Check(
        "tools",
        "warn",
        f"no declared effect, so treated as write: {', '.join(undeclared)}",
        f'Say which only read: harden(..., tools={{{example}}}), "write" for those that act.',
    )


def _task(task: Any) -> dict[str, Any]:
    name = task.name or " ".join(task.description.split())[:60]
    agent = getattr(task.agent, "role", None)
    return _described(
        name,
        agent.strip() if isinstance(agent, str) else None,
        human_input=bool(task.human_input),
        async_execution=bool(task.async_execution),
    )


def _described(
    name: str, agent: str | None, *, human_input: bool = False, async_execution: bool = False
) -> dict[str, Any]:
    return {
        "name": name,
        "agent": agent,
        "human_input": human_input,
        "async_execution": async_execution,
    }


def _models(owner: Any) -> Iterator[str]:
    for field in ("llm", "function_calling_llm", "manager_llm", "planning_llm", "chat_llm"):
        llm = getattr(owner, field, None)
        if llm is not None:
            yield str(getattr(llm, "model", llm))


def _tools(crew: Any) -> list[dict[str, Any]]:
    from crewai_prod._crewai.native_tools import options_for
    from crewai_prod._crewai.takeover import seam_of

    declared = seam_of(crew).options.tools
    found = {
        tool.name: options_for(tool, declared).effect
        for owner in (*_agents(crew), *(getattr(crew, "tasks", None) or ()))
        for tool in getattr(owner, "tools", None) or ()
        if hasattr(tool, "name")
    }
    return [
        {"name": name, "effect": effect or "write", "declared": effect is not None}
        for name, effect in sorted(found.items())
    ]
