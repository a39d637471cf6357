"""What a benchmark found, beside what it should have found, as Markdown or JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement.

    Attributes:
        what: What was measured, for people.
        value: The number, in `unit`.
        beside: What it was measured against, or what it is made of.
        limit: The target; None for a number that is only stated.
        at_least: Whether the target is a floor; else it is a ceiling.
    """

    what: str
    value: float
    unit: str
    beside: str = ""
    limit: float | None = None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the target was met; None without one."""
        if self.limit is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def target(self) -> str:
        """The target as it is printed."""
        if self.limit is None:
            return ""
        return f"{'≥' if self.at_least else '≤'} {amount(self.limit, self.unit)}"

    def as_json(self) -> dict[str, Any]:
        """The row for programs."""
        fields = {name: getattr(self, name) for name in ("what", "value", "unit", "beside")}
        kind = "at_least" if self.at_least else "at_most"
        return {**fields, "target": self.limit and {kind: self.limit}, "met": self.met}


def amount(value: float, unit: str) -> str:
    """A number to three digits with its unit: `0.25 ms`, `1,460 B`, `5.3x`."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    number = f"{value:,.{digits}f}"
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    return number + (unit if unit == "x" else f" {unit}")


def paired(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median ratio of two series measured in turns: a slow moment of the machine hits both."""
    return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))


def markdown(rows: Iterable[Row]) -> str:
    """The rows as a table."""
    lines = ["| | measured | beside it | target | |", "|---|---|---|---|---|"]
    verdicts = {True: "met", False: "**missed**", None: ""}
    for row in rows:
        cells = (row.what, amount(row.value, row.unit), row.beside, row.target, verdicts[row.met])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
