"""`crewai-prod runs`: the runs of a journal, newest first."""

from __future__ import annotations

from typing import Any

import click

from crewai_prod.cli._options import journal_command, read_journal
from crewai_prod.cli._output import clock, dollars, iso, money, print_json, print_table, short
from crewai_prod.cli._report import error_line, shown
from crewai_prod.records import RunStatus, RunSummary

_HEAD = ("RUN", "STATUS", "CREW", "STARTED", "CALLS", "TOOLS", "TOKENS", "COST", "WHY")


@click.command(short_help="List the runs of a journal.")
@click.option("--status", type=click.Choice([s.value for s in RunStatus]), help="Only these.")
@click.option(
    "--limit", type=click.IntRange(min=0), default=50, show_default=True, help="0 lists all."
)
@journal_command
def runs(status: str | None, limit: int, journal: str | None, as_json: bool) -> None:
    """List the runs of a journal, newest first."""
    wanted = RunStatus(status) if status else None
    found = read_journal(journal).runs(status=wanted, limit=limit or None)
    if as_json:
        print_json([_as_json(run) for run in found])
    elif found:
        print_table(_HEAD, [_row(run) for run in found])
    else:
        click.echo("No such runs." if wanted else "No runs yet.")


def _as_json(run: RunSummary) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "status": run.status.value,
        "reason": run.reason,
        "crew": run.crew,
        "created_at": iso(run.created_at),
        "updated_at": iso(run.updated_at),
        "llm_calls": run.llm_calls,
        "tool_calls": run.tool_calls,
        "total_tokens": run.total_tokens,
        "cost_usd": dollars(run.cost_usd),
        "error": shown(run.error),
    }


def _row(run: RunSummary) -> tuple[str, ...]:
    return (
        run.run_id,
        run.status.value,
        short(run.crew or "", 24),
        clock(run.created_at),
        f"{run.llm_calls:,}",
        f"{run.tool_calls:,}",
        f"{run.total_tokens:,}",
        money(run.spent),
        short(error_line(run.error) or run.reason or "", 60),
    )
