"""Live progress: the run's log, followed while the run is being made, told on stderr."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import click

from crewai_prod import fields
from crewai_prod.cli._lines import describe
from crewai_prod.logfile import read_log

_LAST_LINES_SECONDS = 1.0
_FIRST_LINE_SECONDS = 0.2
_POLL_SECONDS = 0.05


class Progress:
    """A block during which each new line of a run's log is told as it is written.

    Args:
        path: The log; None if there is no file to follow.
        run_id: The run.
    """

    def __init__(self, path: Path | None, run_id: str) -> None:
        self._path = path
        self._run_id = run_id
        self._began = datetime.now(UTC).isoformat()
        self._told = False
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        if self._path is None:
            self._ended.set()
        else:
            threading.Thread(target=self._follow, args=(self._path,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        # The log is complete when kickoff returns; reading it may be a moment behind. A run that
        # was finished before, or refused, has written nothing.
        if not self._ended.wait(_FIRST_LINE_SECONDS) and self._told:
            self._ended.wait(_LAST_LINES_SECONDS)

    def _follow(self, path: Path) -> None:
        for line in read_log(path, self._run_id, follow=True, poll=_POLL_SECONDS):
            if line[fields.TS] < self._began:
                continue
            self._told = True
            click.echo(describe(line), err=True)
            if line[fields.EVENT] == fields.RUN_FINISHED:
                self._ended.set()
                return
