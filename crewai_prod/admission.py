"""Which tools may still be called in a run: how often each was, and who is left alone for a while.

Rule: what was called counts, in whichever session; what was refused does not. The count is taken
when a call is admitted, so that of calls made side by side no more than allowed are.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from crewai_prod import breakers
from crewai_prod.errors import ToolError, ToolRejected, ToolUnavailable
from crewai_prod.records import StepKind, StepRecord
from crewai_prod.replay import CACHED
from crewai_prod.required import REFUSED
from crewai_prod.tooling import ToolOptions


@dataclass(slots=True)
class Admission:
    """Of one run. Any thread may ask."""

    _calls: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def restore(self, steps: Iterable[StepRecord]) -> None:
        """Take up what earlier sessions called."""
        self._calls = Counter(step.name for step in steps if _was_called(step))

    def refusal(self, tool: str, options: ToolOptions, *, nested: bool) -> ToolError | None:
        """Why a tool may not be called now; else the call is counted.

        Args:
            tool: Its name.
            options: What is declared about it.
            nested: Whether its work is done by steps of its own, which have breakers themselves.
        """
        most = options.max_calls
        with self._lock:
            if most is not None and self._calls[tool] >= most:
                return ToolRejected(
                    f"{tool} may be called {most} times in this run, and has been. "
                    "Go on without it."
                )
            self._calls[tool] += 1
        seconds = None if nested else breakers.refuses_tool(tool, options)
        if seconds is None:
            return None
        self.take_back(tool)
        return ToolUnavailable(
            f"{tool} has failed again and again and is not called for another {seconds:.0f} "
            "seconds. Nothing was done."
        )

    def take_back(self, tool: str) -> None:
        """A call that was admitted is not made after all."""
        with self._lock:
            self._calls[tool] -= 1


def _was_called(step: StepRecord) -> bool:
    return step.kind is StepKind.TOOL and step.effect not in (REFUSED, CACHED)
