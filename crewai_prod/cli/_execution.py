"""One kickoff from the command line: with progress, signals, and a report at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import click

from crewai_prod.cli._errors import (
    DONE,
    describe_error,
    error_facts,
    exit_status,
    leave,
    print_error,
    resume_command,
    way_out,
)
from crewai_prod.cli._output import print_json, safe, short
from crewai_prod.cli._report import Report
from crewai_prod.cli.show import how_to_go_on, usage_line
from crewai_prod.errors import CrewProdError, RunCancelled, RunInterrupted, RunPaused
from crewai_prod.journal import Journal
from crewai_prod.records import LEGAL, RunStatus


@dataclass(frozen=True, slots=True)
class Execution:
    """One kickoff from the command line."""

    crew: Any
    target: str
    run_id: str
    ask: dict[str, Any]
    stdout: TextIO
    as_json: bool
    trace: bool

    def go(self) -> None:
        """Kick off, report, and end the command with the status that fits."""
        from crewai_prod._crewai.targets import name_of
        from crewai_prod.cli._progress import Progress
        from crewai_prod.cli._signals import StopOnSignal

        journal = _journal_of(self.crew)
        log = options_of(self.crew).open_log(journal, self.run_id, name_of(self.crew)).path
        if not self.as_json:
            click.echo(f"run {safe(self.run_id)}  journal {safe(journal.location)}", err=True)
        output, error = None, None
        command = resume_command(self.run_id, journal.location, self.target)
        with (
            StopOnSignal(self._told, f"Continue it with: {command}"),
            Progress(None if self.as_json else log, self.run_id),
        ):
            try:
                output = self.crew.kickoff(**self.ask)
            except (Exception, SystemExit) as failure:  # noqa: BLE001 - whatever the crew's code raises
                error = failure
        self._report(journal, log, output, error)
        leave(DONE if error is None else exit_status(error))

    def _told(self, number: int) -> None:
        if not self.as_json:
            click.echo(
                f"{signal.Signals(number).name}: stopping once the current step is safe; "
                "send it again to end at once.",
                err=True,
            )

    def _report(
        self, journal: Journal, log: Path | None, output: Any, error: BaseException | None
    ) -> None:
        try:
            report = Report.read(journal, self.run_id)
        except CrewProdError:  # the run never came into being, or the journal is out of reach
            assert error is not None
            print_error(error, as_json=self.as_json)
            return
        if self.as_json:
            self._print_json(report, journal, log, output, error)
            return
        if error is None:
            click.echo(safe(output, lines=True), file=self.stdout)
            click.echo(usage_line(report), err=True)
            return
        self._explain(report, journal, error)

    def _explain(self, report: Report, journal: Journal, error: BaseException) -> None:
        if self.trace and not isinstance(error, CrewProdError):
            traceback.print_exception(error)
        click.echo(f"{_label(error)} {describe_error(error)}", err=True)
        hint = way_out(error)
        if hint and not report.questions:
            click.echo(safe(hint), err=True)
        for one in report.finished():
            click.echo(f"Finished: {safe(one['task'])}: {short(one['output'], 200)}", err=True)
        for line in how_to_go_on(report, journal.location, self.target):
            click.echo(line, err=True)

    def _print_json(
        self,
        report: Report,
        journal: Journal,
        log: Path | None,
        output: Any,
        error: BaseException | None,
    ) -> None:
        status = report.run.status
        command = resume_command(self.run_id, journal.location, self.target)
        result = {
            "run_id": self.run_id,
            "status": status.value,
            "reason": report.run.reason,
            "output": str(output) if error is None else None,
            "usage": report.usage(),
            "error": None if error is None else error_facts(error),
            "finished": report.finished(),
            "resume": command if RunStatus.RUNNING in LEGAL[status] else None,
            "journal": journal.location,
            "log": None if log is None else str(log),
        }
        print_json(result, file=self.stdout)


def _label(error: BaseException) -> str:
    if isinstance(error, RunPaused):
        return click.style("Paused:", fg="yellow")
    if isinstance(error, (RunCancelled, RunInterrupted)):
        return click.style("Stopped:", fg="yellow")
    return click.style("Error:", fg="red")


def load(target: str, journal: str | None) -> Any:
    """The crew a person named, hardened. Call it, like `go`, within `results_only`.

    Raises:
        UsageError: There is none, or its own code failed.
    """
    from crewai_prod.cli._signals import ending_at_once
    from crewai_prod.cli._target import load_crew

    with ending_at_once():
        crew = load_crew(target, journal=journal)
        from crewai_prod._crewai.targets import without_streaming
    without_streaming(crew)
    return crew


def options_of(crew: Any) -> Any:
    """The options a crew was hardened with."""
    from crewai_prod._crewai.takeover import seam_of

    return seam_of(crew).options


def _journal_of(crew: Any) -> Journal:
    journal: Journal = options_of(crew).open_journal()
    return journal


@contextlib.contextmanager
def results_only() -> Iterator[TextIO]:
    """A block in which whatever is printed goes to stderr; yields the way to the real stdout."""
    real = sys.stdout
    real.flush()
    kept = os.dup(1) if _is_descriptor(real, 1) else None
    with contextlib.ExitStack() as stack:
        if kept is not None:  # what C code and child processes print, too
            real = stack.enter_context(open(kept, "w", encoding=real.encoding, errors=real.errors))
            os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            try:
                yield real
            finally:
                real.flush()
                if kept is not None:
                    sys.stderr.flush()
                    os.dup2(kept, 1)


def _is_descriptor(stream: TextIO, number: int) -> bool:
    try:
        return stream.fileno() == number
    except (OSError, ValueError):
        return False
