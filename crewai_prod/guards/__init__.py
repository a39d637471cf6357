"""Guards: functions that judge what goes into a crew, its models and tools, and what comes out.

Those that come with the package are loaded when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crewai_prod.guards._pipeline import all_of
from crewai_prod.guards._types import (
    Allow,
    Escalate,
    Guard,
    GuardContext,
    Modify,
    Place,
    Reject,
    Verdict,
    guard,
)
from crewai_prod.guards.taint import taint

if TYPE_CHECKING:
    from crewai_prod.guards._injection import injection
    from crewai_prod.guards._links import urls
    from crewai_prod.guards._measures import language, length, script
    from crewai_prod.guards._pii import pii, presidio
    from crewai_prod.guards._policy import policy, topic
    from crewai_prod.guards._predicates import (
        at_most,
        hosts,
        inside,
        matches,
        one_of,
        receivers,
        shorter_than,
    )
    from crewai_prod.guards._schema import output_schema
    from crewai_prod.guards._secrets import environment_secrets, secrets
    from crewai_prod.guards._tools import tools

__all__ = [
    "Allow",
    "Escalate",
    "Guard",
    "GuardContext",
    "Modify",
    "Place",
    "Reject",
    "Verdict",
    "all_of",
    "at_most",
    "environment_secrets",
    "guard",
    "hosts",
    "injection",
    "inside",
    "language",
    "length",
    "matches",
    "one_of",
    "output_schema",
    "pii",
    "policy",
    "presidio",
    "receivers",
    "script",
    "secrets",
    "shorter_than",
    "taint",
    "tools",
    "topic",
    "urls",
]

_HOMES = {
    "at_most": "_predicates",
    "environment_secrets": "_secrets",
    "hosts": "_predicates",
    "injection": "_injection",
    "inside": "_predicates",
    "language": "_measures",
    "length": "_measures",
    "matches": "_predicates",
    "one_of": "_predicates",
    "output_schema": "_schema",
    "pii": "_pii",
    "policy": "_policy",
    "presidio": "_pii",
    "receivers": "_predicates",
    "script": "_measures",
    "secrets": "_secrets",
    "shorter_than": "_predicates",
    "tools": "_tools",
    "topic": "_policy",
    "urls": "_links",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'crewai_prod.guards' has no attribute {name!r}")
    value = getattr(import_module(f"crewai_prod.guards.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
