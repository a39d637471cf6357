"""Long results of tools: which step holds one, and how it is read in pages.

Rule: a result that is cut for a model stands whole in the journal, as the result of its step. The
mark at the cut names that step, and whoever reads on gets pages of the size of the cut. Of several
steps with the same result the first one met is named. Knows nothing of crewai.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

READ_ON = "read_tool_result"
"""The name of the tool that reads a page."""


@dataclass(frozen=True, slots=True)
class Shown:
    """How long a result is, in characters as a model reads it, and how many of them were cut."""

    size: int
    cut: int | None = None


@dataclass(slots=True)
class Paging:
    """The results of a run that may be cut. Any thread may ask.

    Attributes:
        on: Whether there are any.
    """

    on: bool = False
    _steps: dict[int, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, result: str, step_id: str) -> None:
        """Remember which step a result (JSON) is of."""
        if self.on:
            with self._lock:
                self._steps.setdefault(hash(result), step_id)

    def step_of(self, result: str) -> str | None:
        """Which step it is of."""
        with self._lock:
            return self._steps.get(hash(result))


class Page(str):
    """A page of a result, as a model reads it. It is recorded by where it is found.

    Attributes:
        of: The step.
        number: From 1.
    """

    of: str
    number: int

    @classmethod
    def made(cls, text: str, of: str, number: int) -> Page:
        """A page with its place."""
        page = cls(text)
        page.of, page.number = of, number
        return page

    @property
    def place(self) -> dict[str, Any]:
        """What is recorded of it."""
        return {"result_of": self.of, "page": self.number, "characters": len(self)}


def cut(text: str, most: int | None, step_id: str | None = None) -> str:
    """A result as a model is shown it: so many characters, how many more there are, and where.

    Args:
        text: The whole.
        most: How many characters are shown; None: all.
        step_id: The step that holds it; None if it cannot be read on.
    """
    if most is None or len(text) <= most:
        return text
    mark = f"cut: {most:,} of {len(text):,} characters are shown"
    if step_id is not None:
        mark = (
            f"{mark}, which is page 1 of {pages(text, most):,}; {READ_ON} gives the others: "
            f'result_id "{step_id}", page 2 and so on'
        )
    return f"{text[:most]}\n[{mark}]"


def pages(text: str, size: int) -> int:
    """How many pages there are."""
    return max(1, -(-len(text) // size))


def page(text: str, size: int, number: int, step_id: str) -> Page | str:
    """A page of a text; or what is wrong with the number."""
    count = pages(text, size)
    if not 1 <= number <= count:
        return f"There is no page {number}: result {step_id} has pages 1 to {count}."
    part = text[(number - 1) * size : number * size]
    return Page.made(f"{part}\n[page {number:,} of {count:,}]", step_id, number)
