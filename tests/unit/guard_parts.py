"""What the tests of the shipped guards share."""

from __future__ import annotations

from typing import Any

from crewai_prod.guards import GuardContext, Place


def at(place: Place, **where: Any) -> GuardContext:
    """The context of a value at this place of run `r`."""
    return GuardContext(place=place, **{"run_id": "r", **where})
