"""Guards: functions that judge what goes into a crew, its models and tools, and what comes out."""

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
    "guard",
]
