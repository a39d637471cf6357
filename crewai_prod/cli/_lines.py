"""A line of the log as a line for people."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import click

from crewai_prod import fields
from crewai_prod.cli._output import count, duration, safe, short, styled

_STEPS = {fields.LLM_CALL: "model", fields.TOOL_CALL: "tool", fields.STEP_FINISHED: "step"}
_TITLES = {
    fields.RUN_STARTED: "run started",
    fields.RUN_RESUMED: "run resumed",
    fields.TASK_STARTED: "task started",
    fields.TASK_KEPT: "task kept: finished in an earlier session",
    fields.STEP_DRIFT: "the prompt has changed since; history was followed",
}


def describe(line: Mapping[str, Any]) -> str:
    """One event of a run on one line, harmless to a terminal."""
    event = str(line.get(fields.EVENT))
    if event in _STEPS or event == fields.STEP_REPLAYED:
        text = "  " + _step(event, line)
    elif event == fields.TASK_FINISHED:
        text = f"task {styled(str(line.get(fields.STATUS)))}"
    elif event == fields.RUN_FINISHED:
        text = _run_finished(line)
    else:
        text = _TITLES.get(event, safe(event))
    parts = [_time(line), text, *_about(event, line), _trouble(line)]
    return "  ".join(part for part in parts if part)


def _time(line: Mapping[str, Any]) -> str:
    try:
        moment = datetime.fromisoformat(str(line[fields.TS])).astimezone()
    except (KeyError, ValueError):
        return "--:--:--"
    return click.style(moment.strftime("%H:%M:%S"), dim=True)


def _step(event: str, line: Mapping[str, Any]) -> str:
    name = (
        line.get(fields.TOOL_NAME) or line.get(fields.REQUEST_MODEL) or line.get(fields.STEP_NAME)
    )
    kind = _STEPS.get(event) or ("tool" if line.get(fields.TOOL_NAME) else "model")
    return f"{kind:<5} {short(name, 40):<24}"


def _about(event: str, line: Mapping[str, Any]) -> list[str]:
    """Who, how many tokens and how long."""
    parts = []
    if event in (fields.TASK_STARTED, fields.TASK_FINISHED, fields.TASK_KEPT):
        parts.append(repr(short(line.get(fields.TASK), 60)))
    if line.get(fields.AGENT_NAME) and event != fields.TASK_FINISHED:
        parts.append(short(line[fields.AGENT_NAME], 30))
    if fields.INPUT_TOKENS in line:
        sent, got = line[fields.INPUT_TOKENS], line.get(fields.OUTPUT_TOKENS, 0)
        parts.append(f"{sent:,} + {got:,} tokens")
    milliseconds = line.get(fields.DURATION_MS)
    if isinstance(milliseconds, (int, float)):
        parts.append(duration(milliseconds / 1000))
    if event == fields.STEP_REPLAYED:
        parts.append(click.style("replayed", fg="cyan"))
    return parts


def _run_finished(line: Mapping[str, Any]) -> str:
    reason = f" ({safe(line[fields.REASON])})" if line.get(fields.REASON) else ""
    calls = count(line.get(fields.TOTAL_LLM_CALLS, 0), "model call")
    spent = count(line.get(fields.TOTAL_TOKENS, 0), "token")
    return f"run {styled(str(line.get(fields.STATUS)))}{reason}  {calls}, {spent}"


def _trouble(line: Mapping[str, Any]) -> str:
    kind = line.get(fields.ERROR_TYPE)
    words = [line.get(fields.MESSAGE), kind, line.get(fields.ERROR_MESSAGE)]
    text = short(": ".join(str(word) for word in words if word), 200)
    return click.style(text, fg="red" if kind else "yellow") if text else ""
