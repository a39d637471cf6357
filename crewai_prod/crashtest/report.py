"""What came of a crash test, for people and programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from crewai_prod.crashtest.check import Violation

_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeReport:
    """All trials of one crew in one mode.

    Attributes:
        name: The crew, or the shape of crew.
        mode: `boundary`, `every session` or `random`.
        boundaries: Boundaries of the uninterrupted run.
        trials: Runs that were killed and brought to their end.
        kills: Processes killed.
        resumes: Sessions after the first.
        pauses: How often a run asked what became of a tool call that a kill cut in two.
        lost_answers: Model answers received, not committed, and therefore asked for again.
        cut_requests: Model requests that were under way at a kill.
        repeated_requests: Model requests made again beyond those in flight at the kills.
        repeated_effects: Effects that happened more often than in the uninterrupted run.
        output_equal: Whether all outputs were the uninterrupted run's; None: not comparable.
        exceptions: Sessions that ended in, or printed, an exception.
        seconds: How long its sessions took, one after the other.
        violations: Every promise that was broken, by trial.
    """

    name: str
    mode: str
    boundaries: int
    trials: int
    kills: int
    resumes: int
    pauses: int
    lost_answers: int
    cut_requests: int
    repeated_requests: int
    repeated_effects: int
    output_equal: bool | None
    exceptions: int
    seconds: float
    violations: tuple[tuple[str, Violation], ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every promise was kept."""
        return not self.violations


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A whole crash test. `notes` say what was left out of it."""

    shapes: tuple[ShapeReport, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every promise was kept in every trial."""
        return all(shape.ok for shape in self.shapes)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        shapes = [{**asdict(shape), "violations": _told(shape)} for shape in self.shapes]
        return {"ok": self.ok, "shapes": shapes, "notes": list(self.notes)}

    def render(self) -> str:
        """The report as plain text: a table, the violations, a verdict."""
        lines = [*_table(self.shapes), ""]
        for shape in self.shapes:
            lines += [f"{shape.name}, {trial}: {v.kind}: {v.what}" for trial, v in _some(shape)]
            if len(shape.violations) > _SHOWN:
                lines.append(f"{shape.name}: {len(shape.violations) - _SHOWN} more violations")
        lines += [f"Note: {note}" for note in self.notes]
        broken = sum(len(shape.violations) for shape in self.shapes)
        kills = sum(shape.kills for shape in self.shapes)
        verdict = "no promise broken" if self.ok else f"{broken} promises BROKEN"
        return "\n".join([*lines, f"{kills} kills, {verdict}."])


_COLUMNS = (
    ("trials", "trials"),
    ("kills", "kills"),
    ("resumes", "resumes"),
    ("pauses", "pauses"),
    ("lost_answers", "answers lost"),
    ("cut_requests", "cut off"),
    ("repeated_requests", "repeated requests"),
    ("repeated_effects", "repeated effects"),
    ("exceptions", "exceptions"),
)


def _table(shapes: Sequence[ShapeReport]) -> list[str]:
    heads = ["crew", "mode", "boundaries", *(head for _, head in _COLUMNS), "output", "s"]
    rows = [heads, *(_row(shape) for shape in shapes)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(heads))]
    return [
        "  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)).rstrip() for r in rows
    ]


def _row(shape: ShapeReport) -> list[str]:
    output = {True: "equal", False: "DIFFERS", None: "-"}[shape.output_equal]
    counts = [str(getattr(shape, name)) for name, _ in _COLUMNS]
    return [
        shape.name,
        shape.mode,
        str(shape.boundaries),
        *counts,
        output,
        f"{shape.seconds:.0f}",
    ]


def _some(shape: ShapeReport) -> tuple[tuple[str, Violation], ...]:
    return shape.violations[:_SHOWN]


def _told(shape: ShapeReport) -> list[dict[str, str]]:
    return [{"trial": trial, "kind": v.kind, "what": v.what} for trial, v in shape.violations]


def count(violations: Sequence[tuple[str, Violation]], kind: str) -> int:
    """How many violations are of this kind."""
    return Counter(violation.kind for _, violation in violations)[kind]
