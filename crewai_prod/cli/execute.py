"""`crewai-prod run` and `resume`: make a run, or the rest of one.

Rule: stdout carries the crew's output, or with `--json` one object, and nothing else; progress, what
CrewAI prints and what the crew's own code prints go to stderr.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
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
from crewai_prod.cli._options import journal_command, read_journal
from crewai_prod.cli._output import print_json, safe
from crewai_prod.cli._report import Report
from crewai_prod.cli.show import how_to_go_on, usage_line
from crewai_prod.errors import CrewProdError, RunInterrupted, RunPaused, UsageError
from crewai_prod.journal import Journal
from crewai_prod.records import LEGAL, RunStatus

_INPUT = "key=value"


@click.command()
@click.argument("target", metavar="MODULE:CREW")
@click.option("-i", "--input", "pairs", multiple=True, metavar=_INPUT, help="An input, as text.")
@click.option("--inputs-file", type=click.File(), help="Inputs as a JSON object; - is stdin.")
@click.option("--run-id", help="Name of the run. One that exists is continued.")
@click.option("--traceback", "trace", is_flag=True, help="Show where the crew's code failed.")
@journal_command
def run(
    target: str,
    pairs: Sequence[str],
    inputs_file: TextIO | None,
    run_id: str | None,
    trace: bool,
    journal: str | None,
    as_json: bool,
) -> None:
    """Run a crew durably. MODULE is imported from the working directory."""
    inputs = _inputs(pairs, inputs_file)
    with _only_results_on_stdout() as stdout:
        crew = _load(target, journal)
        name = run_id or _new_run_id(crew)
        ask = {"inputs": inputs or None, "run_id": name}
        _Execution(crew, target, name, ask, stdout, as_json, trace).go()


@click.command()
@click.argument("run_id", metavar="RUN")
@click.argument("target", metavar="MODULE:CREW")
@click.option(
    "--on-change",
    type=click.Choice(["stop", "rerun", "keep"]),
    help="What to do with tasks whose definition has changed.",
)
@click.option(
    "--unknown",
    multiple=True,
    metavar="rerun|fail|RESULT",
    help="What became of a tool call that a crash cut off; STEP=... for one of several.",
)
@click.option("--traceback", "trace", is_flag=True, help="Show where the crew's code failed.")
@journal_command
def resume(
    run_id: str,
    target: str,
    on_change: str | None,
    unknown: Sequence[str],
    trace: bool,
    journal: str | None,
    as_json: bool,
) -> None:
    """Continue a run, with the inputs it was started with."""
    from crewai_prod.cli._unknown import read_unknown

    settled = read_unknown(unknown)
    if journal is not None:  # says what is wrong before crewai has been waited for
        read_journal(journal).run(run_id)
    with _only_results_on_stdout() as stdout:
        crew = _load(target, journal)
        ask = {
            "inputs": _stored_inputs(crew, run_id),
            "run_id": run_id,
            "on_change": on_change,
            "unknown": settled,
        }
        _Execution(crew, target, run_id, ask, stdout, as_json, trace).go()


@dataclass(frozen=True, slots=True)
class _Execution:
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
        from crewai_prod.cli._progress import Progress
        from crewai_prod.cli._signals import StopOnSignal

        journal = _journal_of(self.crew)
        log = _options_of(self.crew).open_log(journal, self.run_id, self.crew.name).path
        if not self.as_json:
            click.echo(f"run {safe(self.run_id)}  journal {safe(journal.location)}", err=True)
        output, error = None, None
        with (
            StopOnSignal(self._told),
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
            "resume": command if RunStatus.RUNNING in LEGAL[status] else None,
            "journal": journal.location,
            "log": None if log is None else str(log),
        }
        print_json(result, file=self.stdout)


def _label(error: BaseException) -> str:
    if isinstance(error, RunPaused):
        return click.style("Paused:", fg="yellow")
    if isinstance(error, RunInterrupted):
        return click.style("Stopped:", fg="yellow")
    return click.style("Error:", fg="red")


def _load(target: str, journal: str | None) -> Any:
    from crewai_prod.cli._signals import ending_at_once
    from crewai_prod.cli._target import load_crew

    with ending_at_once():
        crew = load_crew(target, journal=journal)
    crew.stream = False  # here is no one to read the pieces: kickoff returns when the run has ended
    return crew


def _new_run_id(crew: Any) -> str:
    from crewai_prod.session import new_run_id

    return new_run_id(crew.name)


def _options_of(crew: Any) -> Any:
    from crewai_prod._crewai.takeover import seam_of

    return seam_of(crew).options


def _journal_of(crew: Any) -> Journal:
    journal: Journal = _options_of(crew).open_journal()
    return journal


def _stored_inputs(crew: Any, run_id: str) -> Any:
    """What the run was started with, from a journal that must be there already."""
    from crewai_prod import codec

    journal = _options_of(crew).journal
    if journal is None or isinstance(journal, (str, os.PathLike)):
        journal = read_journal(journal)
    stored = journal.run(run_id).inputs
    return None if stored is None else codec.decode(stored)


def _inputs(pairs: Sequence[str], file: TextIO | None) -> dict[str, Any]:
    """The inputs of `-i` and `--inputs-file` together; `-i` wins.

    Raises:
        UsageError: One of them is not of the form asked for.
    """
    inputs: Any = {}
    if file is not None:
        try:
            inputs = json.load(file)
        except ValueError as error:
            raise UsageError(f"{file.name} is not JSON: {error}.") from error
        if not isinstance(inputs, dict):
            raise UsageError(f"{file.name} must hold a JSON object, one member for each input.")
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"-i {pair!r} is not of the form {_INPUT}.")
        inputs[key] = value
    return dict(inputs)


@contextlib.contextmanager
def _only_results_on_stdout() -> Iterator[TextIO]:
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
