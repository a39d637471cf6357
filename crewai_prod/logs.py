"""What a run says about itself: one JSON object a line, written before the call returns.

Rule: a line is stamped, redacted and written under one lock on the calling thread, so the lines of
a run stand in the order in which things happened, and none leaves unredacted. Prompts, arguments,
results and texts of errors appear only with `content=True`. Usage stands on `llm.call` lines only,
each paid call once: summing it over a log gives the bill.

Writing never fails the run: a line that cannot be written is counted in `RunLog.dropped`, said once
as a warning, and the next line is tried again. What a lost line told is still in the journal.

structlog is used through a logger of our own; neither its configuration nor that of `logging` is
touched. It is imported with the first log opened, as it takes longer to import than all the rest.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterable, Mapping, MutableMapping, Sequence, Set
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import orjson

from crewai_prod import fields, logfile
from crewai_prod.alerts import Alert
from crewai_prod.budget import Excess
from crewai_prod.errors import UsageError
from crewai_prod.loops import Finding
from crewai_prod.records import (
    ApprovalRecord,
    AttemptRecord,
    Cost,
    GuardRecord,
    Spending,
    StepKind,
    StepRecord,
    StepStatus,
    Usage,
    VerdictKind,
)
from crewai_prod.redact import redact_fields, redact_text

if TYPE_CHECKING:
    from structlog.typing import BindableLogger, Processor

DEFAULT: Final = "journal"
"""Target: a file beside the journal, named as the journal with `.log.jsonl` added."""
STDERR: Final = "stderr"
"""Target: the standard error stream."""
NONE: Final = "none"
"""Target: no log, for those who can only give text, such as an environment variable."""

Level = Literal["debug", "info", "warning", "error"]
Target: TypeAlias = "str | os.PathLike[str] | logging.Logger | BindableLogger | None"
_Line: TypeAlias = MutableMapping[str, Any]


def open_log(
    target: Target = DEFAULT,
    *,
    run_id: str,
    journal_path: Path | None = None,
    content: bool = False,
    sensitive: Set[str] = frozenset(),
    max_bytes: int = logfile.MAX_BYTES,
    files: int = logfile.FILES,
    **context: Any,
) -> RunLog:
    """Open the log of one run. Nothing is created before the first line is written.

    Args:
        target: `"journal"` (a file beside `journal_path`; no log without one), `"stderr"`, a path,
            a structlog logger (gets event and fields), a `logging.Logger` (gets the JSON line, the
            fields as `record.crewai_prod`), or None (`"none"`) for no log.
        run_id: Stands on every line.
        journal_path: File of the journal.
        content: Whether prompts, arguments and results are logged too, redacted.
        sensitive: Further keys whose values are never shown.
        max_bytes: Size from which on a file is rotated; 0 means never.
        files: How many files there may be, the one written to included.
        **context: Fields for every line; `workflow="..."` is `gen_ai.workflow.name`.

    Raises:
        UsageError: `target` is none of these.
    """
    state = _State(content=content)
    if isinstance(target, str) and target == DEFAULT:
        target = logfile.beside(journal_path) if journal_path is not None else None
    if target is None or (isinstance(target, str) and target == NONE):
        return RunLog(None, state)
    head: list[Processor] = [_Redactor(sensitive), _Stamp(run_id)]
    sink: Any = target
    if isinstance(target, str) and target == STDERR:
        sink, tail = _Stderr(), [_merged(), *head, _render]
    elif isinstance(target, (str, os.PathLike)):
        state.file = logfile.RotatingFile(Path(target), max_bytes=max_bytes, files=files)
        sink, tail = _File(state.file), [_merged(), *head, _render]
    elif isinstance(target, logging.Logger):
        tail = [_merged(), *head, _for_logging]
    elif hasattr(target, "bind") and hasattr(target, "info"):
        # An AsyncBoundLogger would write whenever its loop gets to it; the one inside writes now.
        sink, tail = getattr(target, "sync_bl", target), [*head, _for_structlog]
    else:
        raise UsageError(f"log={target!r} is no path, 'stderr', logger or None.")
    return RunLog(_wrap(sink, tail), state).bind(**_context(context))


def processors(*, text: bool = False, sensitive: Set[str] = frozenset()) -> list[Processor]:
    """The processors of our lines, for an application that wants its own lines to look alike.

    Nothing is configured by calling this; the application does that:

        structlog.configure(
            processors=crewai_prod.logs.processors(),
            logger_factory=structlog.BytesLoggerFactory(),
        )

    Args:
        text: Render `str` instead of `bytes`, for `PrintLoggerFactory` or `stdlib.LoggerFactory`.
        sensitive: Further keys whose values are never shown.
    """
    last = _render_text if text else _render
    return [_merged(), _Redactor(sensitive), _Stamp(None), last]


class RunLog:
    """The log of one run; `bind` gives children with further fields. Any thread may use it."""

    __slots__ = ("_logger", "_state")

    def __init__(self, logger: Any, state: _State) -> None:
        self._logger = logger
        self._state = state

    @property
    def dropped(self) -> int:
        """How many lines could not be written."""
        return self._state.dropped

    @property
    def content(self) -> bool:
        """Whether prompts, arguments and results are logged."""
        return self._state.content

    @property
    def path(self) -> Path | None:
        """The file that is written to, if it is a file."""
        return self._state.file.path if self._state.file is not None else None

    def bind(self, **new: Any) -> RunLog:
        """A log with further fields on every line, written to the same place."""
        if self._logger is None or not new:
            return self
        new.pop(fields.EVENT, None)
        return RunLog(self._logger.bind(**new), self._state)

    def close(self) -> None:
        """Close the file, if it is one of ours. A later line opens it again."""
        if self._state.file is not None:
            with self._state.locked():
                self._state.file.close()

    def emit(self, event: str, level: Level = "info", /, **more: Any) -> None:
        """Write one line. Never raises; a line that could not be written counts as dropped.

        Fields that are None are left out. `ts`, `level`, `event`, `schema_version` and `run_id` are
        ours: fields so named are ignored.
        """
        if self._logger is None:
            return
        more.pop(fields.EVENT, None)
        with self._state.locked():
            try:
                self._logger.write(level, event, more)
            except Exception as error:  # noqa: BLE001 - a log must not end the run it describes
                self._state.drop(error)

    # -- the run ----------------------------------------------------------------------------------

    def run_started(
        self,
        *,
        crew: str | None = None,
        epoch: int | None = None,
        steps: int | None = None,
        inputs: Any = None,
    ) -> None:
        """A run begins. `inputs` are shown with `content` only."""
        self._session(fields.RUN_STARTED, crew, epoch, steps, inputs)

    def run_resumed(
        self, *, crew: str | None = None, epoch: int | None = None, steps: int | None = None
    ) -> None:
        """A run goes on in a new session, the `epoch`-th, with `steps` steps in the journal."""
        self._session(fields.RUN_RESUMED, crew, epoch, steps)

    def _session(
        self, event: str, crew: str | None, epoch: int | None, steps: int | None, inputs: Any = None
    ) -> None:
        line = {
            **_WORKFLOW,
            fields.WORKFLOW_NAME: crew,
            fields.EPOCH: epoch,
            fields.STEPS: steps,
            **self._shown({fields.RUN_INPUTS: inputs}),
        }
        self.emit(event, **line)

    def run_finished(
        self,
        *,
        status: str,
        reason: str | None = None,
        error: str | BaseException | None = None,
        duration_ms: float | None = None,
        usage: Usage | None = None,
        spent: Spending | None = None,
        tool_calls: int | None = None,
        replayed_steps: int | None = None,
        kept_tasks: int | None = None,
        unmetered: int | None = None,
    ) -> None:
        """A session of the run ends, with what the run took in all its sessions together."""
        line = {
            **_WORKFLOW,
            fields.STATUS: status,
            fields.REASON: reason,
            fields.DURATION_MS: _rounded(duration_ms),
            **self._error(error),
            **_totals(usage, spent),
            fields.TOTAL_TOOL_CALLS: tool_calls,
            fields.TOTAL_REPLAYED: replayed_steps,
            fields.TOTAL_KEPT: kept_tasks,
            fields.TOTAL_UNMETERED: unmetered,
            fields.LOG_DROPPED: self.dropped or None,
        }
        level = _LEVELS.get(status, "info")
        self.emit(fields.RUN_FINISHED, level, **line)

    # -- tasks ------------------------------------------------------------------------------------

    def task_started(self, *, task: str, position: int, agent: str | None = None) -> None:
        """A task begins to execute."""
        self.emit(fields.TASK_STARTED, **_task(task, position, agent))

    def task_finished(
        self,
        *,
        task: str,
        position: int,
        status: str,
        agent: str | None = None,
        duration_ms: float | None = None,
        error: str | BaseException | None = None,
        output: str | None = None,
    ) -> None:
        """A task was executed. `output` is shown with `content` only."""
        line = {
            **_task(task, position, agent),
            fields.STATUS: status,
            fields.DURATION_MS: _rounded(duration_ms),
            **self._error(error),
            **self._shown({fields.TASK_OUTPUT: output}),
        }
        level = _LEVELS.get(status, "info")
        self.emit(fields.TASK_FINISHED, level, **line)

    def task_kept(self, *, task: str, position: int, agent: str | None = None) -> None:
        """The output of a finished task is handed back; the task is not executed."""
        line = {**_task(task, position, agent), fields.REPLAYED: True}
        self.emit(fields.TASK_KEPT, **line)

    # -- steps ------------------------------------------------------------------------------------

    def step_finished(self, step: StepRecord, *, task: str | None = None) -> None:
        """A step has its outcome: `llm.call`, `tool.call`, or `step.finished` for other kinds."""
        if step.kind is StepKind.MODEL:
            self.llm_call(step, task=task)
        elif step.kind is StepKind.TOOL:
            self.tool_call(step, task=task)
        else:
            line = {**_step(step, task), **_outcome(step), **self._error(step.error)}
            self.emit(fields.STEP_FINISHED, _level(step), **line)

    def llm_call(
        self,
        step: StepRecord,
        *,
        task: str | None = None,
        attempt: AttemptRecord | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """A model call was made and, as far as the provider said so, paid for.

        Args:
            step: The call.
            task: Name of its task.
            attempt: An earlier try of the step that has failed, if it is that which is logged.
            messages: What was sent; shown with `content` only, and so is the answer.
        """
        outcome = attempt or step
        line = _step(step, task) | _outcome(outcome) | _usage(outcome.usage) | _cost(outcome.cost)
        line |= self._error(outcome.error)
        if attempt is None:
            answered = {fields.OUTPUT_MESSAGES: step.result}
            line |= _response(step)
            line |= self._shown({fields.INPUT_MESSAGES: messages} | answered)
        self.emit(fields.LLM_CALL, _level(outcome), **line)

    def tool_call(
        self, step: StepRecord, *, task: str | None = None, call_id: str | None = None
    ) -> None:
        """A tool call was made. Arguments and result are shown with `content` only."""
        line = {
            **_step(step, task),
            fields.TOOL_CALL_ID: call_id,
            **_outcome(step),
            **self._error(step.error),
            **self._shown({fields.TOOL_ARGUMENTS: step.arguments, fields.TOOL_RESULT: step.result}),
        }
        self.emit(fields.TOOL_CALL, _level(step), **line)

    def tool_invented(self, *, task: str | None, agent: str | None, characters: int) -> None:
        """A model wrote a tool's result itself: it was cut, and the tool is called."""
        message = (
            "The model made up what a tool returns instead of waiting for it. What it made up was "
            "cut, and the tool is called. Stop words prevent this where the provider has them."
        )
        where = {fields.TASK: task, fields.AGENT_NAME: agent}
        line = {fields.MESSAGE: message, fields.TOOL_INVENTED_CHARS: characters}
        self.emit(fields.TOOL_INVENTED, "warning", **line, **where)

    def answer_rejected(
        self, *, why: str, attempt: int, task: str | None, agent: str | None, message: str
    ) -> None:
        """An answer went back to the model, for the `attempt`-th time, in its conversation.

        Args:
            why: `claim`, `output` or `guard`.
            attempt: Which answer it is, from 1.
            task: Name of the task.
            agent: Who answered.
            message: What is wrong with it, without what it says.
        """
        line = {
            fields.MESSAGE: message,
            fields.REJECTED_WHY: why,
            fields.ATTEMPT: attempt,
            fields.TASK: task,
            fields.AGENT_NAME: agent,
        }
        self.emit(fields.ANSWER_REJECTED, "warning", **line)

    def callback_failed(
        self, *, callback: str, error: BaseException, task: str | None, agent: str | None
    ) -> None:
        """A callback that only observes has raised; the run goes on without it, degraded."""
        line = {
            fields.CALLBACK: callback,
            fields.TASK: task,
            fields.AGENT_NAME: agent,
            **self._error(error),
        }
        self.emit(fields.CALLBACK_FAILED, "warning", **line)

    def step_replayed(self, step: StepRecord, *, task: str | None = None) -> None:
        """A step was answered from the journal: nothing was sent, executed or paid."""
        line = {**_step(step, task), fields.REPLAYED: True, **self._error(step.error)}
        self.emit(fields.STEP_REPLAYED, **line)

    def step_drift(
        self,
        step: StepRecord,
        *,
        asked: str,
        task: str | None = None,
        differs: Sequence[str] = (),
    ) -> None:
        """History answers a model call whose request has drifted.

        Args:
            step: The recorded step that answers.
            asked: Digest of the request that was made now.
            task: Name of its task.
            differs: Names of the parts that differ.
        """
        line = {
            **_step(step, task),
            fields.DRIFT_RECORDED: step.digest,
            fields.DRIFT_ASKED: asked,
            fields.DRIFT_PARTS: list(differs) or None,
        }
        self.emit(fields.STEP_DRIFT, "warning", **line)

    def retry(
        self,
        attempt: AttemptRecord,
        *,
        name: str,
        wait_ms: float | None = None,
        task: str | None = None,
        agent: str | None = None,
    ) -> None:
        """A try has failed and another one follows after `wait_ms`.

        A try that was paid for has its usage on an `llm.call` line: see `llm_call(attempt=...)`.
        """
        line = {
            fields.TASK: task,
            fields.AGENT_NAME: agent,
            fields.STEP_ID: attempt.step_id,
            fields.STEP_NAME: name,
            **_outcome(attempt),
            fields.RETRY_WAIT_MS: _rounded(wait_ms),
            **self._error(attempt.error),
        }
        self.emit(fields.RETRY, "warning", **line)

    def llm_fallback(
        self,
        *,
        before: str,
        model: str,
        error: BaseException,
        step_id: str,
        task: str | None,
        agent: str | None,
    ) -> None:
        """Another model is asked, because the one before could not be had."""
        line = {
            fields.TASK: task,
            fields.AGENT_NAME: agent,
            fields.STEP_ID: step_id,
            fields.FALLBACK_FROM: before,
            fields.REQUEST_MODEL: model,
            **self._error(error),
        }
        self.emit(fields.LLM_FALLBACK, "warning", **line)

    def llm_routed(
        self,
        *,
        before: str,
        model: str,
        rule: str,
        reason: str,
        step_id: str,
        task: str | None,
        agent: str | None,
    ) -> None:
        """A rule has chosen the model that is asked, in place of the one `before`."""
        line = {
            fields.TASK: task,
            fields.AGENT_NAME: agent,
            fields.STEP_ID: step_id,
            fields.ROUTED_FROM: before,
            fields.REQUEST_MODEL: model,
            fields.ROUTE_RULE: rule,
            fields.ROUTE_REASON: reason,
        }
        self.emit(fields.LLM_ROUTED, **line)

    def llm_unmetered(self, *, model: str, task: str | None, agent: str | None) -> None:
        """A model was called past the run, and the call is not on the bill."""
        message = (
            f"{model} was called past the run: the bill lacks the call, or what it cost. Give the "
            "model to harden() and call that: its calls are recorded, replayed and billed."
        )
        where = {fields.REQUEST_MODEL: model, fields.TASK: task, fields.AGENT_NAME: agent}
        self.emit(fields.LLM_UNMETERED, "warning", **{fields.MESSAGE: message}, **where)

    def cost_unpriced(
        self, *, model: str, task: str | None, agent: str | None, why: str | None = None
    ) -> None:
        """A model was called whose price nobody knows."""
        message = (
            f"No price is known for {model}: the bill lacks what its calls cost. Give its rates "
            "with prices={...}, or refuse such models with on_unpriced='fail'."
        ) + (f" {why}" if why else "")
        where = {fields.REQUEST_MODEL: model, fields.TASK: task, fields.AGENT_NAME: agent}
        self.emit(fields.COST_UNPRICED, "warning", **{fields.MESSAGE: message}, **where)

    def usage_alert(self, alert: Alert) -> None:
        """A task took much more than it used to."""
        line = {
            fields.MESSAGE: alert.message,
            fields.TASK: alert.task,
            fields.TASK_POSITION: alert.position,
            fields.ALERT_METRIC: alert.metric,
            fields.ALERT_VALUE: float(alert.value),
            fields.ALERT_MEDIAN: float(alert.median),
            fields.ALERT_LIMIT: float(alert.limit),
            fields.ALERT_RUNS: alert.runs,
        }
        self.emit(fields.USAGE_ALERT, "warning", **line)

    def budget_warning(self, one: Excess) -> None:
        """So much of a limit is spent that a person should know."""
        spent, most = float(one.spent), float(one.most)
        line = {
            fields.MESSAGE: f"{spent:,g} of {most:,g} are spent: {one.limit} of the {one.scope}.",
            fields.BUDGET_LIMIT: one.limit,
            fields.BUDGET_MOST: most,
            fields.BUDGET_SPENT: spent,
            fields.BUDGET_SCOPE: one.scope,
        }
        self.emit(fields.BUDGET_WARNING, "warning", **line)

    def guard_verdict(self, record: GuardRecord, *, task: str | None, agent: str | None) -> None:
        """A guard has judged a value."""
        self.emit(
            fields.GUARD_VERDICT,
            "info" if record.verdict is VerdictKind.ALLOW else "warning",
            **{
                fields.GUARD_NAME: record.guard,
                fields.GUARD_VERSION: record.version,
                fields.GUARD_PLACE: record.place,
                fields.GUARD_SAID: record.verdict.value,
                **self._shown({fields.GUARD_REASON: record.reason}),
                fields.DURATION_MS: _rounded(record.duration_ms),
                fields.SCOPE: record.scope,
                fields.STEP_ID: record.step_id,
                fields.TOOL_NAME: record.tool,
                fields.TASK: task,
                fields.AGENT_NAME: agent,
            },
        )

    def approval_requested(self, asked: ApprovalRecord) -> None:
        """A person is asked; what about is shown with `content` only."""
        line = {**_question(asked), **self._shown({fields.TOOL_ARGUMENTS: asked.arguments})}
        self.emit(fields.APPROVAL_REQUESTED, "warning", **line)

    def approval_applied(self, asked: ApprovalRecord, *, edited: bool) -> None:
        """The run goes on as a person has decided, or as counts because nobody has."""
        line = {
            **_question(asked),
            fields.APPROVAL_STATUS: asked.status,
            fields.APPROVAL_VERDICT: asked.verdict,
            fields.APPROVAL_BY: asked.answered_by,
            fields.APPROVAL_EDITED: edited or None,
        }
        self.emit(fields.APPROVAL_APPLIED, **line)

    def loop_detected(
        self, found: Finding, *, step_id: str | None, task: str | None, agent: str | None
    ) -> None:
        """A call was not made because it is one of a loop."""
        rung = found.rung.name.lower()
        line = {
            fields.MESSAGE: f"A call of {found.tool} is one of a loop ({found.kind}): {rung}.",
            fields.LOOP_KIND: found.kind,
            fields.LOOP_RUNG: rung,
            fields.LOOP_CALLS: found.calls,
            fields.TOOL_NAME: found.tool,
            fields.STEP_ID: step_id,
            fields.TASK: task,
            fields.AGENT_NAME: agent,
        }
        self.emit(fields.LOOP_DETECTED, "warning", **line)

    def warning(self, message: str, *, event: str = fields.WARNING, **more: Any) -> None:
        """Something a person should know, in a sentence without prompts, arguments or results."""
        self.emit(event, "warning", **{fields.MESSAGE: message}, **_context(more))

    def _shown(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Content as fields, JSON text as what it says so that its keys are seen by redaction."""
        if self._logger is None or not self.content:
            return {}
        return {key: _tree(item) for key, item in content.items() if item is not None}

    def _error(self, error: str | BaseException | None) -> dict[str, Any]:
        """Fields of an error: an exception, or JSON of its facts as the journal holds them."""
        if error is None:
            return {}
        kind, message = _facts(error)
        return {
            fields.ERROR_TYPE: kind,
            **({fields.ERROR_MESSAGE: message} if self.content else {}),
        }


# -- from records to fields -----------------------------------------------------------------------

_WORKFLOW: Final = {fields.OPERATION_NAME: fields.OPERATION_WORKFLOW}
_LEVELS: Final[dict[str, Level]] = {
    "failed": "error",
    "paused": "warning",
    "cancelled": "warning",
    "interrupted": "warning",
}
_RENAMED: Final = {"workflow": fields.WORKFLOW_NAME, "agent": fields.AGENT_NAME}


def _context(more: Mapping[str, Any]) -> dict[str, Any]:
    return {_RENAMED.get(key, key): value for key, value in more.items()}


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 3)


def _task(task: str, position: int, agent: str | None) -> dict[str, Any]:
    return {
        fields.OPERATION_NAME: fields.OPERATION_TASK,
        fields.TASK: task,
        fields.TASK_POSITION: position,
        fields.AGENT_NAME: agent,
    }


def _question(asked: ApprovalRecord) -> dict[str, Any]:
    return {
        fields.APPROVAL_ID: asked.id,
        fields.APPROVAL_KIND: asked.kind,
        fields.APPROVAL_WHY: asked.why,
        fields.TOOL_NAME: asked.tool,
        fields.STEP_ID: asked.step_id,
        fields.TASK: asked.task,
        fields.AGENT_NAME: asked.agent,
    }


def _step(step: StepRecord, task: str | None) -> dict[str, Any]:
    """Which step it is and what was asked of whom."""
    line: dict[str, Any] = {
        fields.TASK: task,
        fields.TASK_POSITION: step.task,
        fields.SCOPE: step.scope,
        fields.AGENT_NAME: step.agent,
        fields.STEP_ID: step.step_id,
    }
    if step.kind is StepKind.MODEL:
        line[fields.OPERATION_NAME] = fields.OPERATION_CHAT
        line[fields.PROVIDER_NAME] = fields.provider_name(step.provider) if step.provider else None
        line[fields.REQUEST_MODEL] = step.name
    elif step.kind is StepKind.TOOL:
        line[fields.OPERATION_NAME] = fields.OPERATION_TOOL
        line[fields.TOOL_NAME] = step.name
        line[fields.TOOL_EFFECT] = step.effect
    else:
        line[fields.STEP_KIND] = step.kind.value
        line[fields.STEP_NAME] = step.name
    return line


def _outcome(outcome: StepRecord | AttemptRecord) -> dict[str, Any]:
    return {
        fields.ATTEMPT: outcome.attempts if isinstance(outcome, StepRecord) else outcome.attempt,
        fields.REPLAYED: False,
        fields.DURATION_MS: _rounded(outcome.duration_ms),
    }


def _response(step: StepRecord) -> dict[str, Any]:
    return {
        fields.RESPONSE_MODEL: step.model,
        fields.RESPONSE_ID: step.response_id,
        fields.FINISH_REASONS: [step.finish_reason] if step.finish_reason else None,
    }


def _usage(usage: Usage | None) -> dict[str, Any]:
    if usage is None:
        return {}
    return {
        fields.INPUT_TOKENS: usage.input_tokens,
        fields.OUTPUT_TOKENS: usage.output_tokens,
        fields.CACHE_READ_TOKENS: usage.cache_read_tokens,
        fields.CACHE_WRITE_TOKENS: usage.cache_write_tokens,
        fields.REASONING_TOKENS: usage.reasoning_tokens,
    }


def _cost(cost: Cost | None) -> dict[str, Any]:
    """What a call cost. The amount is a JSON number; the exact one is in the journal."""
    if cost is None:
        return {}
    status = {fields.COST_STATUS: cost.status.value}
    if cost.usd is None:
        return status
    return {
        fields.COST_AMOUNT: float(cost.usd),
        fields.COST_CURRENCY: fields.USD,
        fields.COST_SOURCE: cost.source,
        **status,
    }


def _totals(usage: Usage | None, spent: Spending | None) -> dict[str, Any]:
    money: dict[str, Any] = {}
    if spent is not None:
        known = spent.known_usd
        money[fields.TOTAL_COST] = None if known is None else float(known)
        money[fields.TOTAL_UNPRICED] = spent.unpriced or None
    if usage is None:
        return money
    return {
        **money,
        fields.TOTAL_LLM_CALLS: usage.calls,
        fields.TOTAL_INPUT_TOKENS: usage.input_tokens,
        fields.TOTAL_OUTPUT_TOKENS: usage.output_tokens,
        fields.TOTAL_TOKENS: usage.total_tokens,
    }


def _level(outcome: StepRecord | AttemptRecord) -> Level:
    return "warning" if outcome.status is StepStatus.FAILED else "info"


def _tree(content: Any) -> Any:
    if isinstance(content, str):
        with contextlib.suppress(orjson.JSONDecodeError):
            return orjson.loads(content)
    return content


def _facts(error: str | BaseException) -> tuple[str, Any]:
    """Class and text of an error; an exception's text is made where it may fail."""
    if isinstance(error, BaseException):
        return type(error).__name__, error
    facts = _tree(error)
    if not isinstance(facts, dict):
        return fields.ERROR_OTHER, error
    return str(facts.get("type") or fields.ERROR_OTHER), facts.get("message")


# -- from fields to a line ------------------------------------------------------------------------


def _merged() -> Processor:
    """What the application has bound with `structlog.contextvars` stands on our lines too."""
    from structlog.contextvars import merge_contextvars

    return merge_contextvars


def _wrap(sink: Any, chain: Iterable[Processor]) -> Any:
    import structlog

    return structlog.wrap_logger(
        sink, processors=list(chain), wrapper_class=_wrapper(), context_class=dict
    ).bind()


@functools.cache
def _wrapper() -> type[BindableLogger]:
    """A bound logger of structlog with one method, which takes fields of any name."""
    from structlog import BoundLoggerBase

    class Wrapper(BoundLoggerBase):
        def write(self, level: Level, event: str, more: dict[str, Any]) -> None:
            args, kwargs = self._process_event(level, event, more)
            getattr(self._logger, level)(*args, **kwargs)

    return Wrapper


class _Redactor:
    """Sees all that anyone has put into the line; only `_Stamp` comes after it."""

    __slots__ = ("_sensitive",)

    def __init__(self, sensitive: Set[str]) -> None:
        self._sensitive = frozenset(sensitive)

    def __call__(self, _: Any, __: str, line: _Line) -> _Line:
        return redact_fields(line, sensitive=self._sensitive)


class _Stamp:
    """Puts what every line begins with in front, whatever fields are called."""

    __slots__ = ("_run",)

    def __init__(self, run_id: str | None) -> None:
        self._run = {} if run_id is None else {fields.RUN_ID: redact_text(run_id)}

    def __call__(self, _: Any, method: str, line: _Line) -> _Line:
        head = {
            fields.TS: datetime.now(UTC).isoformat(timespec="microseconds")[:-6] + "Z",
            fields.LEVEL: method,
            fields.EVENT: line[fields.EVENT],
            fields.SCHEMA: fields.SCHEMA_VERSION,
            **self._run,
        }
        return {**head, **line, **head}


def _render(_: Any, __: str, line: _Line) -> bytes:
    """The line as JSON without any control character, also those that JSON itself lets pass."""
    try:
        raw = orjson.dumps(line)
    except TypeError:
        raw = orjson.dumps(_representable(line))
    if not raw.isascii() or b"\x7f" in raw:
        raw = _UNSAFE.sub(lambda match: b"\\u%04x" % ord(match[0].decode()), raw)
    return raw + b"\n"


# DEL, C1 (U+009B begins a terminal's escape sequence), line separators and changes of direction.
_UNSAFE = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xae]|\xe2\x81[\xa6-\xa9]")


def _representable(value: Any) -> Any:
    """Plain values without what JSON writers refuse: lone surrogates and integers over 64 bits."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_representable(key): _representable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_representable(item) for item in value]
    if isinstance(value, int) and value.bit_length() >= _INT_BITS:
        # Python refuses to write out integers of thousands of digits.
        return str(value) if value.bit_length() < _LONG_BITS else f"<{value.bit_length()} bits>"
    return value


_INT_BITS: Final = 63
_LONG_BITS: Final = 1024


def _render_text(logger: Any, method: str, line: _Line) -> str:
    return _render(logger, method, line)[:-1].decode()


def _for_logging(logger: Any, method: str, line: _Line) -> tuple[tuple[str], dict[str, Any]]:
    """Message and `extra` of a `logging` record; its handlers decide what becomes of it."""
    return (_render_text(logger, method, line),), {"extra": {"crewai_prod": line}}


def _for_structlog(_: Any, __: str, line: _Line) -> tuple[tuple[str], _Line]:
    """Event and fields for a logger of the user, whose own processors set the level."""
    event = line.pop(fields.EVENT)
    line.pop(fields.LEVEL)
    return (event,), line


# -- where lines go -------------------------------------------------------------------------------


class _File:
    __slots__ = ("debug", "error", "info", "warning")

    def __init__(self, file: logfile.RotatingFile) -> None:
        self.debug = self.info = self.warning = self.error = file.write


class _Stderr:
    __slots__ = ()

    def info(self, line: bytes) -> None:
        # Looked up each time: applications replace the stream.
        sys.stderr.write(line.decode())
        sys.stderr.flush()

    debug = warning = error = info


class _State:
    """What a log shares with its children."""

    __slots__ = ("_lock", "_pid", "content", "dropped", "file")

    def __init__(self, *, content: bool) -> None:
        self.content = content
        self.dropped = 0
        self.file: logfile.RotatingFile | None = None
        self._lock = threading.RLock()
        self._pid = os.getpid()

    def locked(self) -> threading.RLock:
        """The lock that orders lines. Reentrant, as a signal handler may log, too."""
        if self._pid != os.getpid():  # forked while another thread held it: nobody would let go
            self._lock = threading.RLock()
            self._pid = os.getpid()
        return self._lock

    def drop(self, error: Exception) -> None:
        """Count a lost line, and say so the first time."""
        self.dropped += 1
        if self.dropped > 1:
            return
        with contextlib.suppress(Exception):  # warnings may be errors, stderr may be closed
            warnings.warn(
                "crewai-prod: a log line could not be written and is lost "
                f"({type(error).__name__}: {redact_text(str(error))}). The run goes on; "
                "further losses are counted in RunLog.dropped.",
                RuntimeWarning,
                stacklevel=2,
            )
