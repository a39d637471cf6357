"""`crewai-prod usage`: what runs took, in tokens and money, and what is out of the ordinary."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from crewai_prod.alerts import RULES, Alert, outliers
from crewai_prod.cli._errors import FAILED
from crewai_prod.cli._options import journal_command, read_journal
from crewai_prod.cli._output import dollars, iso, money, print_json, print_table, safe, short
from crewai_prod.errors import UsageError
from crewai_prod.journal import GROUPS, Journal
from crewai_prod.records import RunStatus, UsageRow

_UNITS = {"d": 86_400, "w": 604_800}
_TITLES = {"run_id": "RUN", "position": "#"}
_SUMS = ("CALLS", "TOOLS", "IN", "CACHED", "OUT", "COST")


@click.command(short_help="Sum up tokens and money, or find what is out of the ordinary.")
@click.option(
    "--by",
    type=click.Choice(GROUPS),
    multiple=True,
    help="What to sum up by; may be given several times. Default: day.",
)
@click.option("--since", metavar="WHEN", help="From a date (UTC) on, or the last 7d, 2w.")
@click.option("--run", "run_id", metavar="RUN", help="Only this run.")
@click.option("--crew", metavar="NAME", help="Only this crew, flow or agent.")
@click.option(
    "--limit", type=click.IntRange(min=0), default=50, show_default=True, help="0 lists all."
)
@click.option(
    "--check",
    is_flag=True,
    help="Name tasks that took much more than before; exit with 1 if there are any. Looks at the "
    "newest run of each crew, with --since at all runs since then.",
)
@journal_command
def usage(
    by: tuple[str, ...],
    since: str | None,
    run_id: str | None,
    crew: str | None,
    limit: int,
    check: bool,
    journal: str | None,
    as_json: bool,
) -> None:
    """Sum up what runs took, in calls, tokens and money.

    Days are those of UTC, and calls count to the day they were made on.
    """
    book = read_journal(journal)
    begin = None if since is None else _when(since)
    if check:
        if by:
            raise UsageError("--check looks at tasks; leave --by out.")
        _check(book, run_id, crew, begin, as_json=as_json)
        return
    wanted = by or ("day",)
    rows = book.usage(wanted, run_id=run_id, crew=crew, since=begin, limit=limit or None)
    (total,) = book.usage(run_id=run_id, crew=crew, since=begin)
    if as_json:
        shown = [{**row.key, **_as_json(row)} for row in rows]
        print_json(
            {"by": list(wanted), "since": iso(begin), "rows": shown, "total": _as_json(total)}
        )
    elif rows:
        print_table(*_table(rows, total))
    else:
        click.echo("No calls.")


def _as_json(row: UsageRow) -> dict[str, Any]:
    return {
        "llm_calls": row.llm_calls,
        "tool_calls": row.tool_calls,
        "input_tokens": row.usage.input_tokens,
        "output_tokens": row.usage.output_tokens,
        "cache_read_tokens": row.usage.cache_read_tokens,
        "cache_write_tokens": row.usage.cache_write_tokens,
        "reasoning_tokens": row.usage.reasoning_tokens,
        "total_tokens": row.usage.total_tokens,
        "cost_usd": dollars(row.spent.usd),
        "known_cost_usd": dollars(row.spent.known_usd),
        "unpriced_llm_calls": row.spent.unpriced,
    }


def _table(rows: Sequence[UsageRow], total: UsageRow) -> tuple[list[str], list[list[str]]]:
    keys = [key for key in rows[0].key if key != "kind"]
    head = [_TITLES.get(key, key.upper()) for key in keys]
    lines = [[_cell(row.key[key]) for key in keys] + _sums(row) for row in rows]
    last = ["total", *[""] * (len(keys) - 1), *_sums(total)]
    return [*head, *_SUMS], [*lines, last]


def _cell(value: Any) -> str:
    return "-" if value is None else short(str(value), 48)


def _sums(row: UsageRow) -> list[str]:
    counts = (
        row.llm_calls,
        row.tool_calls,
        row.usage.input_tokens,
        row.usage.cache_read_tokens,
        row.usage.output_tokens,
    )
    return [*(f"{count:,}" for count in counts), money(row.spent)]


def _when(said: str) -> float:
    """A time as a person gives it: an age, or a date and time, in UTC unless it says otherwise."""
    age = re.fullmatch(r"(\d{1,5})([dw])", said)
    if age is not None:
        return max(0.0, time.time() - int(age[1]) * _UNITS[age[2]])
    try:
        date = datetime.fromisoformat(said)
    except ValueError:
        raise UsageError(
            f"--since {said}: give a date such as 2026-11-01, or an age such as 7d or 2w."
        ) from None
    return (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp()


# -- out of the ordinary --------------------------------------------------------------------------


def _check(
    book: Journal, run_id: str | None, crew: str | None, since: float | None, *, as_json: bool
) -> None:
    if run_id is not None and book.run(run_id).status is RunStatus.RUNNING:
        raise UsageError(f"Run {run_id!r} is at work: its tasks are compared when it has ended.")
    runs = [run_id] if run_id is not None else book.latest_runs(crew=crew, since=since)
    found = [alert for one in runs for alert in _outliers(book, one)]
    if as_json:
        outlying = [_alert_json(alert) for alert in found]
        print_json({"ok": not found, "checked_runs": len(runs), "outliers": outlying})
    else:
        for alert in found:
            click.echo(safe(alert.message))
        if not found:
            click.echo(f"Nothing out of the ordinary in {len(runs):,} runs.")
    if found:
        raise SystemExit(FAILED)


def _outliers(book: Journal, run_id: str) -> list[Alert]:
    series = book.task_spending(run_id, earlier=RULES.window)
    return [alert for one in series for alert in outliers(one)]


def _alert_json(alert: Alert) -> dict[str, Any]:
    return {
        "run_id": alert.run_id,
        "crew": alert.crew,
        "task": alert.task,
        "position": alert.position,
        "metric": alert.metric,
        "value": float(alert.value),
        "median": float(alert.median),
        "limit": float(alert.limit),
        "runs": alert.runs,
    }
