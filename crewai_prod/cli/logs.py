"""`crewai-prod logs RUN`: what a run said, or is saying, about itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from crewai_prod import fields
from crewai_prod.cli._lines import describe
from crewai_prod.cli._options import journal_command, log_path, read_journal
from crewai_prod.journal import Journal
from crewai_prod.logfile import read_log
from crewai_prod.records import RunStatus


@click.command(short_help="Print or follow the log of a run.")
@click.argument("run_id", metavar="RUN")
@click.option("-f", "--follow", is_flag=True, help="Wait for more, until the run's session ends.")
@click.option(
    "--log", metavar="PATH", help="The log. Default: CREWAI_PROD_LOG, else beside the journal."
)
@journal_command
def logs(run_id: str, follow: bool, log: str | None, journal: str | None, as_json: bool) -> None:
    """Print a run's log; with --json the lines as they are, one JSON object a line."""
    book = read_journal(journal)
    book.run(run_id)
    path = log_path(book, log)
    printed = False
    for line in _lines(book, path, run_id, follow=follow):
        click.echo(json.dumps(line) if as_json else describe(line))
        printed = True
    if not printed and not as_json:
        click.echo(f"{path} holds no line of this run.", err=True)


def _lines(book: Journal, path: Path, run_id: str, *, follow: bool) -> Iterator[dict[str, Any]]:
    """The run's lines; when following, up to the end of its last session."""
    for line in read_log(path, run_id, follow=follow):
        yield line
        if follow and line[fields.EVENT] == fields.RUN_FINISHED and _is_last(book, run_id, line):
            return


def _is_last(book: Journal, run_id: str, line: Mapping[str, Any]) -> bool:
    """Whether a line of a session's end tells of the latest change the journal knows."""
    if book.run(run_id).status is RunStatus.RUNNING:
        return False
    return datetime.fromisoformat(line[fields.TS]).timestamp() >= book.transitions(run_id)[-1].at
