"""One line about a batch that is under way, for whoever watches it on a terminal.

Rule: it is on stderr, and only if that is a terminal; what it cannot say is not said, and never
disturbs a run.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from types import TracebackType
from typing import Any, Self


class BatchProgress:
    """A block during which a line tells how many items are done and what they have cost.

    Args:
        name: What is being run.
        total: How many items there are.
        wanted: False to say nothing whatever stderr is.
    """

    def __init__(self, name: str, total: int, *, wanted: bool) -> None:
        self._name, self._total = name, total
        self._line: Any = None
        self._wanted = wanted and bool(total) and _is_terminal(sys.stderr)

    def __enter__(self) -> Self:
        if self._wanted:
            with suppress(OSError):  # a terminal that has gone away
                self._line = _line()
                self._task = self._line.add_task(
                    self._name, total=self._total, failed=0, tokens="0"
                )
                self._line.start()
        return self

    def tell(self, ended: int, failed: int, tokens: int) -> None:
        """Show where the batch stands."""
        if self._line is not None:
            with suppress(OSError):
                self._line.update(
                    self._task, completed=ended, failed=failed, tokens=f"{tokens:,}", refresh=True
                )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._line is not None:
            with suppress(OSError):
                self._line.stop()


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # there is no stderr, or it is closed
        return False


def _line() -> Any:
    """Rich's line. What the crew prints meanwhile is not redirected: nothing global is replaced."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TextColumn("{task.fields[tokens]} tokens"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        redirect_stdout=False,
        redirect_stderr=False,
    )
