"""Durable, metered runs for the CrewAI crews you already have.

Importing this package imports neither crewai nor anything heavy: names are resolved when used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crewai_prod import errors
    from crewai_prod._crewai.harden import harden
    from crewai_prod._crewai.tool import tool
    from crewai_prod.answering import approve, reject
    from crewai_prod.approval import Approval
    from crewai_prod.bodies import current_step
    from crewai_prod.budget import Budget
    from crewai_prod.cancelling import cancel
    from crewai_prod.escalation import Escalation
    from crewai_prod.journal import Journal, open_journal
    from crewai_prod.loops import Loops
    from crewai_prod.retry import Retry
    from crewai_prod.route import Route, RouteContext
    from crewai_prod.settings import Settings
    from crewai_prod.stepping import open_run, step
    from crewai_prod.tooling import CurrentStep, Outcome

__all__ = [
    "Approval",
    "Budget",
    "CurrentStep",
    "Escalation",
    "Journal",
    "Loops",
    "Outcome",
    "Retry",
    "Route",
    "RouteContext",
    "Settings",
    "approve",
    "cancel",
    "current_step",
    "errors",
    "harden",
    "open_journal",
    "open_run",
    "reject",
    "step",
    "tool",
]

_HOMES = {
    "Approval": "crewai_prod.approval",
    "Budget": "crewai_prod.budget",
    "CurrentStep": "crewai_prod.tooling",
    "Escalation": "crewai_prod.escalation",
    "Journal": "crewai_prod.journal",
    "Loops": "crewai_prod.loops",
    "Outcome": "crewai_prod.tooling",
    "Retry": "crewai_prod.retry",
    "Route": "crewai_prod.route",
    "RouteContext": "crewai_prod.route",
    "Settings": "crewai_prod.settings",
    "approve": "crewai_prod.answering",
    "cancel": "crewai_prod.cancelling",
    "current_step": "crewai_prod.bodies",
    "harden": "crewai_prod._crewai.harden",
    "open_journal": "crewai_prod.journal",
    "open_run": "crewai_prod.stepping",
    "reject": "crewai_prod.answering",
    "step": "crewai_prod.stepping",
    "tool": "crewai_prod._crewai.tool",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("crewai_prod.errors")
    if name == "__version__":
        return import_module("importlib.metadata").version("crewai-prod")
    if name not in _HOMES:
        raise AttributeError(f"module 'crewai_prod' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
