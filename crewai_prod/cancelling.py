"""Stopping a run from another thread or process, before its next step.

Rule: it is asked for in the journal, where whoever is at work on the run, in whichever process,
looks before each step. What is under way is recorded as ever, and the run can be resumed. That the
session is over is known, too, from the next heartbeat on, to whoever waits within a step.
"""

from __future__ import annotations

import os
from pathlib import Path

from crewai_prod.errors import RunCancelled
from crewai_prod.heart import HEART
from crewai_prod.journal import Journal
from crewai_prod.journals import shared_journal


def cancel(run_id: str, journal: str | os.PathLike[str] | Journal | None = None) -> None:
    """Ask whoever is at work on a run to stop before its next step.

    The kickoff there raises `RunCancelled`, and the run is `cancelled`. One that was cancelled
    before stays so.

    Args:
        run_id: The run.
        journal: Where it is recorded. Default: as for `harden`.

    Raises:
        RunNotFound: There is none of this id.
        RunError: Nobody is at work on it.
        JournalError: The journal could not be read or written.
    """
    if journal is None or isinstance(journal, (str, os.PathLike)):
        journal = shared_journal(None if journal is None else Path(journal))
    journal.cancel(run_id)
    for run in HEART.runs():
        if run.run_id == run_id and run.journal.location == journal.location:
            run.stop(RunCancelled())
