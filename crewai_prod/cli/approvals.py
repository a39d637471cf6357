"""`crewai-prod approvals`, `approve` and `reject`: what runs wait for, and saying it.

They read and write the journal alone: the run goes on when it is resumed, by whoever can.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from typing import Any

import click

from crewai_prod.approval import HUMAN_INPUT, QUESTION, UNKNOWN, is_expired, who_may
from crewai_prod.approving import yes
from crewai_prod.cli._errors import program, resume_command
from crewai_prod.cli._options import journal_command, read_journal
from crewai_prod.cli._output import clock, iso, print_json, print_table, safe, short
from crewai_prod.cli._report import shown
from crewai_prod.errors import UsageError
from crewai_prod.journal import Journal
from crewai_prod.records import ApprovalRecord

_HEAD = ("ID", "RUN", "KIND", "TOOL", "WHAT", "STATUS", "ASKED", "EXPIRES", "WHY")
_OVER = ("completed", "cancelled")


@click.command(short_help="List what runs wait for.")
@click.option("--all", "everything", is_flag=True, help="Those that were answered, too.")
@click.option("--run", "run_id", metavar="RUN", help="Only of this run.")
@click.option("--serve", is_flag=True, help="Have them answered over HTTP until it is stopped.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to serve.")
@click.option("--port", default=8732, show_default=True, help="0 takes any that is free.")
@click.option("--links", is_flag=True, help="Print for each a signed link to the server.")
@click.option(
    "--url", metavar="URL", help="How the server is reached. Default: its host and port here."
)
@journal_command
def approvals(
    everything: bool,
    run_id: str | None,
    serve: bool,
    host: str,
    port: int,
    links: bool,
    url: str | None,
    journal: str | None,
    as_json: bool,
) -> None:
    """List what runs wait for, oldest first.

    With --serve: answer over HTTP, on loopback unless said otherwise. A token is required: that of
    CREWAI_PROD_APPROVALS_TOKEN, else one that is made and printed.
    """
    book = read_journal(journal)
    if serve:
        from crewai_prod.cli._serving import serve_approvals

        serve_approvals(book, host, port, url)
        return
    found = [one for one in book.approvals(run_id) if everything or _is_open(book, one)]
    if links:
        _print_links(book, found, url or f"http://{host}:{port}", as_json=as_json)
    elif as_json:
        print_json([as_row(book, one) for one in found])
    elif not found:
        click.echo("No questions." if everything else "No open questions.")
    else:
        print_table(_HEAD, [_row(book, one) for one in found])
        if any(_is_open(book, one) for one in found):
            where = f"--journal {shlex.quote(safe(book.location))}"
            click.echo(f"\nyes  {program()} approve ID {where}")
            click.echo(f"no   {program()} reject ID --reason TEXT {where}")


@click.command(short_help="Say yes to what a run waits for.")
@click.argument("number", metavar="ID", type=int)
@click.option("--edit", metavar="JSON", help="What it is to be instead; text if it is no JSON.")
@click.option("--note", metavar="TEXT", help="A remark; a flow's feedback; an answer.")
@click.option("--by", metavar="NAME", help="Who answers. Default: the user of this process.")
@click.option(
    "--scope",
    type=click.Choice(["once", "run", "tool"]),
    default="once",
    show_default=True,
    help="For this call; for the tool in this run; for the tool in all runs of the crew.",
)
@click.option("--minutes", type=float, metavar="N", help="How long --scope tool holds.")
@click.option("--rerun", is_flag=True, help="Of an unknown outcome: it did not act, call it.")
@journal_command
def approve(
    number: int,
    edit: str | None,
    note: str | None,
    by: str | None,
    scope: str,
    minutes: float | None,
    rerun: bool,
    journal: str | None,
    as_json: bool,
) -> None:
    """Say yes to a question; the run goes on at that step when it is resumed.

    --edit changes a tool's arguments (an object of those that change), an output, or a budget's
    limits. Of a call of unknown outcome it is the result: it did act.
    """
    from crewai_prod import answering

    book = read_journal(journal)
    question = answering.approve(
        number,
        book,
        edit=answering.NOTHING if edit is None else _value(edit),
        note=note,
        by=by,
        scope=scope,
        minutes=minutes,
        rerun=rerun,
    )
    _say(book, question, as_json=as_json)


@click.command(short_help="Say no to what a run waits for.")
@click.argument("number", metavar="ID", type=int)
@click.option("--reason", required=True, metavar="TEXT", help="What the model is told.")
@click.option("--by", metavar="NAME", help="Who answers. Default: the user of this process.")
@journal_command
def reject(number: int, reason: str, by: str | None, journal: str | None, as_json: bool) -> None:
    """Say no to a question; the run goes on without it when it is resumed."""
    from crewai_prod import answering

    book = read_journal(journal)
    _say(book, answering.reject(number, book, reason=reason, by=by), as_json=as_json)


def _value(said: str) -> Any:
    try:
        return json.loads(said)
    except ValueError:
        return said
    except RecursionError as error:
        raise UsageError("--edit is nested too deep.") from error


def _say(book: Journal, question: ApprovalRecord, *, as_json: bool) -> None:
    command = resume_command(question.run_id, book.location)
    if as_json:
        print_json({**as_row(book, question), "resume": command})
        return
    click.echo(f"Question {question.id}: {safe(question.verdict)}. Continue it with: {command}")


# -- questions for people -------------------------------------------------------------------------


def status_of(book: Journal, question: ApprovalRecord) -> str:
    """Its status as it is now: nothing is written by looking."""
    if question.status != "open":
        return question.status
    if book.run(question.run_id).status.value in _OVER:
        return "closed"
    return "expired" if is_expired(question, time.time()) else "open"


def _is_open(book: Journal, question: ApprovalRecord) -> bool:
    return question.status == "open" and status_of(book, question) == "open"


def as_row(book: Journal, question: ApprovalRecord) -> dict[str, Any]:
    """The shape of `approvals --json`."""
    return {
        "id": question.id,
        "run_id": question.run_id,
        "kind": question.kind,
        "tool": question.tool,
        "arguments": shown(question.arguments),
        "status": status_of(book, question),
        "asked_at": iso(question.asked_at),
        "expires_at": iso(question.expires_at),
        "why": question.why,
        "task": question.task,
        "agent": question.agent,
        "who": who_may(question),
        "on_expiry": question.on_expiry,
        "verdict": question.verdict,
        "answered_by": question.answered_by,
        "answered_at": iso(question.answered_at),
        "remark": shown(json.dumps(question.remark)),
    }


def _row(book: Journal, question: ApprovalRecord) -> tuple[str, ...]:
    expires = question.expires_at
    why = f"{question.why or ''}{f': {question.remark}' if question.remark else ''}"
    return (
        str(question.id),
        question.run_id,
        question.kind,
        question.tool or "",
        short(what(question), 60),
        question.verdict or status_of(book, question),
        clock(question.asked_at),
        clock(expires) if expires is not None else "",
        short(why, 60),
    )


def what(question: ApprovalRecord) -> str:
    """What is asked about, on a line."""
    asked = shown(question.arguments)
    if isinstance(asked, dict) and len(asked) == 1 and question.kind in (HUMAN_INPUT, QUESTION):
        return str(next(iter(asked.values())))
    return json.dumps(asked, ensure_ascii=False, default=str)


def question_lines(question: ApprovalRecord, journal: str, resume: str) -> Iterator[str]:
    """A question of a run, and the commands that answer it."""
    where = f"--journal {shlex.quote(safe(journal))}"
    if question.kind == UNKNOWN:
        yield (
            f"Waits for an answer: did {safe(question.tool)} with {short(what(question), 200)} "
            f"happen? (step {question.step_id})"
        )
        return
    about = f"{question.kind} {question.tool or ''} {what(question)}"
    who = f", for {safe(', '.join(who_may(question)))}" if question.who else ""
    yield f"Waits for an answer to question {question.id}{who}: {short(about, 200)}"
    if question.remark:
        yield f"  {short(question.remark, 200)}"
    yield f"  approve          {program()} approve {yes(question)} {where}"
    yield f"  reject           {program()} reject {question.id} {where} --reason TEXT"
    yield f"  then             {resume}"


def _print_links(book: Journal, found: list[ApprovalRecord], url: str, *, as_json: bool) -> None:
    from crewai_prod.signing import Signer

    signer = Signer.of(book.location)
    rows = [
        {"id": one.id, "for": name, "link": signer.link(url, one, name)}
        for one in found
        for name in (*who_may(one),) or (None,)
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        click.echo("  ".join(safe(row[name]) for name in ("id", "for", "link") if row[name]))
