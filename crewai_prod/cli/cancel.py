"""`crewai-prod cancel`: stop a run that another process is at work on."""

from __future__ import annotations

import click

from crewai_prod.cli._errors import resume_command
from crewai_prod.cli._options import journal_command, read_journal
from crewai_prod.cli._output import print_json, safe
from crewai_prod.records import RunStatus


@click.command(short_help="Stop a run before its next step.")
@click.argument("run_id", metavar="RUN")
@journal_command
def cancel(run_id: str, journal: str | None, as_json: bool) -> None:
    """Stop a run before its next step, in whichever process it is at work.

    It is asked to: the step under way is finished and recorded, and the run can be resumed.
    """
    book = read_journal(journal)
    book.cancel(run_id)
    done = book.run(run_id).status is RunStatus.CANCELLED
    command = resume_command(run_id, book.location)
    if as_json:
        status = "cancelled" if done else "stopping"
        print_json({"run_id": run_id, "status": status, "resume": command})
        return
    said = "is cancelled" if done else "stops before its next step"
    click.echo(f"{safe(run_id)} {said}. Continue it with: {command}")
