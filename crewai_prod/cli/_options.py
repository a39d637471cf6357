"""Options that all commands share, and the journal they name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from crewai_prod import logfile
from crewai_prod.cli._errors import guarded
from crewai_prod.errors import UsageError
from crewai_prod.journal import Journal, open_journal

LOG_VARIABLE = "CREWAI_PROD_LOG"
NO_FILE = ("stderr", "none")


def journal_command(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command with `--json` and `--journal`; its errors are printed, not raised."""
    with_json = click.option(
        "--json", "as_json", is_flag=True, help="Print JSON, in a shape that stays as it is."
    )
    with_journal = click.option(
        "--journal",
        metavar="PATH_OR_URL",
        help="The journal. Default: CREWAI_PROD_JOURNAL, else .crewai_prod/journal.db here.",
    )
    return with_json(with_journal(guarded(function)))


def read_journal(location: str | os.PathLike[str] | None) -> Journal:
    """The journal, for reading: nothing is created.

    Raises:
        JournalError: It is not there or cannot be read.
    """
    return open_journal(location, create=False)


def log_path(journal: Journal, given: str | None = None) -> Path:
    """The file the runs of a journal are logged to.

    Args:
        journal: The journal.
        given: What the person named; else CREWAI_PROD_LOG, else the file beside the journal.

    Raises:
        UsageError: The setting says that there is no file.
    """
    said = given or os.environ.get(LOG_VARIABLE)
    if said in NO_FILE:
        raise UsageError(
            f"{LOG_VARIABLE}={said} leaves no log file to read. Name a file with --log."
        )
    return Path(said) if said else logfile.beside(Path(journal.location))
