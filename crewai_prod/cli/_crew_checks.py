"""What `doctor MODULE:CREW` looks at: the crew itself, and whether the seams take hold here."""

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
    """The crew's tasks, models and tools, for `--json` and for the checks."""
    agents = [*crew.agents, *([crew.manager_agent] if crew.manager_agent is not None else [])]
    return {
        "name": crew.name,
        "process": getattr(crew.process, "value", str(crew.process)),
        "tasks": [_task(task) for task in crew.tasks],
        "models": sorted({model for owner in (crew, *agents) for model in _models(owner)}),
        "tools": _tools(crew, agents),
    }


def crew_checks(crew: Any, facts: dict[str, Any]) -> Iterator[Check]:
    """Check what is known of a crew before it runs."""
    yield Check("tasks", "ok", ", ".join(f"{t['name']} ({t['agent']})" for t in facts["tasks"]))
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
    late = [a.role for a in crew.agents if getattr(a, "mcps", None) or getattr(a, "apps", None)]
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
    return {
        "name": name,
        "agent": agent.strip() if isinstance(agent, str) else None,
        "human_input": bool(task.human_input),
        "async_execution": bool(task.async_execution),
    }


def _models(owner: Any) -> Iterator[str]:
    for field in ("llm", "function_calling_llm", "manager_llm", "planning_llm", "chat_llm"):
        llm = getattr(owner, field, None)
        if llm is not None:
            yield str(getattr(llm, "model", llm))


def _tools(crew: Any, agents: list[Any]) -> list[dict[str, Any]]:
    from crewai_prod._crewai.takeover import seam_of
    from crewai_prod._crewai.tools import options_for

    declared = seam_of(crew).options.tools
    found = {
        tool.name: options_for(tool, declared).effect
        for owner in (*agents, *crew.tasks)
        for tool in owner.tools or ()
        if hasattr(tool, "name")
    }
    return [
        {"name": name, "effect": effect or "write", "declared": effect is not None}
        for name, effect in sorted(found.items())
    ]
