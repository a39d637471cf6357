"""`crewai-prod demo`: see it survive `kill -9`, in half a minute, offline."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import click

from crewai_prod.cli._errors import FAILED, leave, program
from crewai_prod.cli._options import journal_command
from crewai_prod.cli._output import print_json, print_table, safe
from crewai_prod.errors import UsageError

if TYPE_CHECKING:
    from crewai_prod.demo.child import Orders
    from crewai_prod.demo.findings import Findings

_KEY = "OPENAI_API_KEY"


@click.command(short_help="Watch a crew survive kill -9.")
@click.option("--model", metavar="openai/...", help="A real model in place of the scripted one.")
@click.option("--base-url", metavar="URL", help="Its endpoint, OpenAI-compatible.")
@click.option("--api-key-env", metavar="NAME", help=f"Where its key stands. Default: {_KEY}.")
@click.option(
    "--path",
    type=click.Choice(["native", "text"]),
    default="native",
    show_default=True,
    help="How the model calls tools.",
)
@click.option("--folder", metavar="PATH", help="Default: a new one below .crewai_prod/demo/.")
@journal_command
def demo(
    model: str | None,
    base_url: str | None,
    api_key_env: str | None,
    path: str,
    folder: str | None,
    journal: str | None,
    as_json: bool,
) -> None:
    """Kill a crew in mid-task, resume it, and check that nothing was lost or done twice."""
    from crewai_prod.demo.director import perform
    from crewai_prod.demo.findings import examine

    orders = _orders(model, base_url, api_key_env, path, folder, journal)
    findings = examine(perform(orders, _teller(as_json=as_json)))
    if as_json:
        print_json(findings.as_json())
    else:
        _present(findings)
    if not findings.hold:
        leave(FAILED)


def _orders(
    model: str | None,
    base_url: str | None,
    api_key_env: str | None,
    path: str,
    folder: str | None,
    journal: str | None,
) -> Orders:
    from crewai_prod.demo.child import Orders

    if model is None and (base_url or api_key_env):
        raise UsageError(
            "--base-url and --api-key-env belong to a --model, such as openai/gpt-4o-mini."
        )
    if api_key_env and api_key_env not in os.environ:
        raise UsageError(f"The environment variable {api_key_env} is not set.")
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid4().hex[:4]}"
    place = Path(folder or Path(".crewai_prod", "demo", name)).absolute()
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=folder is not None)
    except OSError as error:
        raise UsageError(
            f"The folder {place} cannot be made: {error}. Name one with --folder."
        ) from error
    return Orders(
        folder=str(place),
        journal=str(Path(journal).absolute() if journal else place / "journal.db"),
        run_id=f"demo-{name}",
        hold=False,
        path=path,
        model=model,
        base_url=base_url,
        api_key_env=api_key_env or _KEY,
    )


def _teller(*, as_json: bool) -> Callable[[str], None]:
    if as_json:
        return lambda _: None
    return lambda text: click.echo(click.style("· ", fg="cyan") + safe(text), err=True)


def _present(findings: Findings) -> None:
    from crewai_prod.demo.findings import new, replayed

    story = findings.story
    click.echo()
    _title("What was replayed, what was new")
    head = ("", "TASKS", "MODEL CALLS", "TOOL CALLS", "CHARGES", "TOKENS")
    rows = [("replayed from the journal", replayed(story)), ("new after the kill", new(story))]
    print_table(head, [(name, *(f"{n:,}" for n in part.values())) for name, part in rows])
    usage = story.end.usage()
    click.echo(
        f"The run cost {usage['total_tokens']:,} tokens. {replayed(story)['tokens']:,} of them "
        "were spent before the kill and not paid again."
    )
    click.echo()
    _title("The bank's book")
    print_table(
        ("CHARGE", "CARD", "ITEM", "USD", "BY PROCESS"),
        [
            (str(c["charge"]), c["card"], c["item"], f"{c['amount_usd']:.2f}", str(c["pid"]))
            for c in findings.charges
        ],
    )
    click.echo()
    _title("Checked")
    for claim in findings.claims:
        mark = click.style("ok  ", fg="green") if claim.holds else click.style("FAIL", fg="red")
        click.echo(f"{mark}  {safe(claim.text)}")
    for remark in findings.remarks:
        click.echo(f"note  {safe(remark)}")
    click.echo()
    _title("What the crew returned")
    click.echo(safe(story.output, lines=True))
    click.echo()
    _title("Look for yourself")
    for line in _next(findings):
        click.echo(line)


def _title(text: str) -> None:
    if not sys.stdout.isatty():
        click.echo(f"{text}:")
        return
    from rich.console import Console
    from rich.rule import Rule

    Console().print(Rule(text, align="left", style="cyan"))


def _next(findings: Findings) -> Iterator[str]:
    from crewai_prod.demo.child import LEDGER
    from crewai_prod.demo.findings import log_of

    orders = findings.story.orders
    journal, run_id = shlex.quote(orders.journal), orders.run_id
    yield f"{program()} show {run_id} --journal {journal}"
    yield f"{program()} logs {run_id} --journal {journal}"
    yield f"{program()} resume {run_id} crewai_prod.demo.crew:order_desk --journal {journal}"
    yield f"sqlite3 {journal} 'SELECT * FROM run_summary'"
    yield f"The log: {log_of(findings.story)}"
    yield f"The bank's book: {Path(orders.folder, LEDGER)}"
