"""`crewai-prod show RUN`: one run, its tasks and steps, what it cost, and how to go on."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click

from crewai_prod.approval import UNKNOWN
from crewai_prod.cli._errors import resume_command
from crewai_prod.cli._options import journal_command, read_journal
from crewai_prod.cli._output import (
    clock,
    count,
    duration,
    money,
    print_json,
    print_table,
    safe,
    short,
    styled,
)
from crewai_prod.cli._report import Report, error_line, shown
from crewai_prod.cli.approvals import question_lines
from crewai_prod.records import GuardRecord, RunStatus, Spending, StepRecord, TaskRecord

_GUARDS = ("GUARD", "AT", "SAID", "ABOUT", "WHY")
_HEAD = ("TASK / STEP", "AGENT", "STATUS", "IN", "OUT", "COST", "TIME", "NOTES")


@click.command(short_help="Show one run, its steps and its bill.")
@click.argument("run_id", metavar="RUN")
@journal_command
def show(run_id: str, journal: str | None, as_json: bool) -> None:
    """Show one run: tasks, steps, tokens, durations, its error, and how to continue it."""
    book = read_journal(journal)
    report = Report.read(book, run_id)
    if as_json:
        print_json(report.as_json())
        return
    for name, text in _facts(report):
        click.echo(f"{name:<9}{text}")
    if report.steps or report.tasks:
        click.echo()
        print_table(_HEAD, list(_rows(report)))
    if report.verdicts:
        click.echo()
        print_table(_GUARDS, [_verdict_row(verdict) for verdict in report.verdicts])
    for line in how_to_go_on(report, book.location):
        click.echo(line)


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    run = report.run
    reason = f" ({safe(run.reason)})" if run.reason else ""
    yield "run", f"{safe(run.run_id)}  {styled(run.status.value)}{reason}"
    if run.crew:
        yield "crew", safe(run.crew)
    yield "started", f"{clock(run.created_at)}, {count(run.epoch, 'session')} so far"
    yield "changed", clock(run.updated_at)
    yield "usage", usage_line(report)
    inputs = shown(run.inputs)
    if inputs:
        yield "inputs", short(json.dumps(inputs, ensure_ascii=False, default=str), 400)
    if run.error:
        yield "error", safe(error_line(run.error))


def usage_line(report: Report) -> str:
    """The run's bill in a line."""
    usage = report.usage()
    calls = count(usage["llm_calls"], "model call")
    tools = count(usage["tool_calls"], "tool call")
    replayed = usage["replayed_llm_calls"], usage["replayed_tool_calls"]
    spent = f"{count(usage['total_tokens'], 'token')} " + (
        f"({usage['input_tokens']:,} in, {usage['output_tokens']:,} out)"
    )
    cost = money(report.total_spent())
    spent += f", {cost}" if cost else ""
    if not any(replayed):
        return f"{calls}, {tools}, {spent}"
    return f"{calls} ({replayed[0]:,} replayed), {tools} ({replayed[1]:,} replayed), {spent}"


def _rows(report: Report) -> Iterator[tuple[str, ...]]:
    for task in report.tasks:
        yield _task_row(report, task)
        for step in report.steps_of(task):
            yield _step_row(report, step)
    outside = report.outside_tasks()
    if outside:
        yield ("outside tasks", *[""] * 7)
        for step in outside:
            yield _step_row(report, step)


def _task_row(report: Report, task: TaskRecord) -> tuple[str, ...]:
    usage = report.task_usage(task)
    took = task.finished_at - task.started_at if task.finished_at is not None else None
    return (
        f"{task.position + 1}. {short(task.name, 48)}",
        short(task.agent or "", 24),
        task.status.value,
        f"{usage.input_tokens:,}",
        f"{usage.output_tokens:,}",
        money(report.task_spent(task)),
        duration(took),
        short(error_line(task.error), 60),
    )


def _step_row(report: Report, step: StepRecord) -> tuple[str, ...]:
    usage = report.spent.get(step.step_id)
    notes = [
        "replayed" if report.replayed(step) else "",
        step.effect or "",
        f"attempt {step.attempts}" if step.attempts > 1 else "",
        _routed(step),
        short(error_line(step.error), 60),
    ]
    return (
        f"└ {step.kind.value} {short(step.name, 40)}",
        short(step.agent or "", 24),
        step.status.value,
        f"{usage.input_tokens:,}" if usage else "",
        f"{usage.output_tokens:,}" if usage else "",
        money(report.money.get(step.step_id, Spending())),
        duration(step.duration_ms / 1000 if step.duration_ms is not None else None),
        ", ".join(note for note in notes if note),
    )


def _routed(step: StepRecord) -> str:
    """Who was asked in place of whom, and by which rule."""
    chosen = shown(step.route)
    if not isinstance(chosen, dict):
        return ""
    return short(f"{chosen.get('model')} by route {chosen.get('rule')}: {chosen.get('reason')}", 60)


def _verdict_row(verdict: GuardRecord) -> tuple[str, ...]:
    return (
        short(f"{verdict.guard} {verdict.version}", 40),
        verdict.place,
        verdict.verdict.value,
        short(verdict.tool or verdict.scope, 40),
        short(verdict.reason or "", 80),
    )


def how_to_go_on(report: Report, journal: str, target: str | None = None) -> Iterator[str]:
    """What a person can do with the run now, commands spelt out.

    Args:
        report: The run.
        journal: Where its journal lies.
        target: MODULE:CREW, if a person has named it in this process.
    """
    run = report.run
    if run.status is RunStatus.COMPLETED:
        return
    yield ""
    if run.status is RunStatus.RUNNING:
        if run.owner is not None:
            host = safe(run.owner.host.partition("#")[0])
            yield f"Process {run.owner.pid} on {host} is advancing it."
        return
    command = resume_command(run.run_id, journal, target)
    unknown = [one for one in report.questions if one.kind == UNKNOWN]
    # A run that was cancelled takes no answers before it has been resumed.
    questions = unknown if run.status is RunStatus.CANCELLED else report.questions
    for question in questions:
        yield from question_lines(question, journal, command)
    if unknown:
        said = {"it happened": "RESULT", "it did not": "rerun", "tell the model": "fail"}
        for what, word in said.items():
            answer = resume_command(run.run_id, journal, target, f"--unknown {word}")
            yield f"  {what:<17}{answer}"
    if not questions:
        yield f"Continue it with: {command}"
