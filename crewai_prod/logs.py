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

import logging
import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from crewai_prod import fields, logfile
from crewai_prod.alerts import Alert
from crewai_prod.budget import Excess
from crewai_prod.errors import UsageError
from crewai_prod.loops import Finding
from crewai_prod.records import (
    ApprovalRecord,
    AttemptRecord,
    GuardRecord,
    Spending,
    StepKind,
    StepRecord,
    Usage,
    VerdictKind,
)

if TYPE_CHECKING:
    from structlog.typing import BindableLogger, Processor

from crewai_prod.logcore import (
    File,
    LogCore,
    Redactor,
    Stamp,
    State,
    Stderr,
    for_logging,
    for_structlog,
    merged,
    render,
    render_text,
    wrap,
)
from crewai_prod.logfields import (
    LEVELS,
    WORKFLOW,
    level_of,
    of_cost,
    of_outcome,
    of_question,
    of_response,
    of_step,
    of_task,
    of_usage,
    renamed,
    rounded,
    totals,
)

DEFAULT: Final = "journal"
"""Target: a file beside the journal, named as the journal with `.log.jsonl` added."""
STDERR: Final = "stderr"
"""Target: the standard error stream."""
NONE: Final = "none"
"""Target: no log, for those who can only give text, such as an environment variable."""


Target: TypeAlias = "str | os.PathLike[str] | logging.Logger | BindableLogger | None"


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
    state = State(content=content)
    if isinstance(target, str) and target == DEFAULT:
        target = logfile.beside(journal_path) if journal_path is not None else None
    if target is None or (isinstance(target, str) and target == NONE):
        return RunLog(None, state)
    head: list[Processor] = [Redactor(sensitive), Stamp(run_id)]
    sink: Any = target
    if isinstance(target, str) and target == STDERR:
        sink, tail = Stderr(), [merged(), *head, render]
    elif isinstance(target, (str, os.PathLike)):
        state.file = logfile.RotatingFile(Path(target), max_bytes=max_bytes, files=files)
        sink, tail = File(state.file), [merged(), *head, render]
    elif isinstance(target, logging.Logger):
        tail = [merged(), *head, for_logging]
    elif hasattr(target, "bind") and hasattr(target, "info"):
        # An AsyncBoundLogger would write whenever its loop gets to it; the one inside writes now.
        sink, tail = getattr(target, "sync_bl", target), [*head, for_structlog]
    else:
        raise UsageError(f"log={target!r} is no path, 'stderr', logger or None.")
    return RunLog(wrap(sink, tail), state).bind(**renamed(context))


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
    last = render_text if text else render
    return [merged(), Redactor(sensitive), Stamp(None), last]


class RunLog(LogCore):
    """The log of one run; `bind` gives children with further fields. Any thread may use it."""

    __slots__ = ()

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
            **WORKFLOW,
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
            **WORKFLOW,
            fields.STATUS: status,
            fields.REASON: reason,
            fields.DURATION_MS: rounded(duration_ms),
            **self._error(error),
            **totals(usage, spent),
            fields.TOTAL_TOOL_CALLS: tool_calls,
            fields.TOTAL_REPLAYED: replayed_steps,
            fields.TOTAL_KEPT: kept_tasks,
            fields.TOTAL_UNMETERED: unmetered,
            fields.LOG_DROPPED: self.dropped or None,
        }
        level = LEVELS.get(status, "info")
        self.emit(fields.RUN_FINISHED, level, **line)

    # -- tasks ------------------------------------------------------------------------------------

    def task_started(self, *, task: str, position: int, agent: str | None = None) -> None:
        """A task begins to execute."""
        self.emit(fields.TASK_STARTED, **of_task(task, position, agent))

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
            **of_task(task, position, agent),
            fields.STATUS: status,
            fields.DURATION_MS: rounded(duration_ms),
            **self._error(error),
            **self._shown({fields.TASK_OUTPUT: output}),
        }
        level = LEVELS.get(status, "info")
        self.emit(fields.TASK_FINISHED, level, **line)

    def task_kept(self, *, task: str, position: int, agent: str | None = None) -> None:
        """The output of a finished task is handed back; the task is not executed."""
        line = {**of_task(task, position, agent), fields.REPLAYED: True}
        self.emit(fields.TASK_KEPT, **line)

    # -- steps ------------------------------------------------------------------------------------

    def step_finished(self, step: StepRecord, *, task: str | None = None) -> None:
        """A step has its outcome: `llm.call`, `tool.call`, or `step.finished` for other kinds."""
        if step.kind is StepKind.MODEL:
            self.llm_call(step, task=task)
        elif step.kind is StepKind.TOOL:
            self.tool_call(step, task=task)
        else:
            line = {**of_step(step, task), **of_outcome(step), **self._error(step.error)}
            self.emit(fields.STEP_FINISHED, level_of(step), **line)

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
        line = {
            **of_step(step, task),
            **of_outcome(outcome),
            **of_usage(outcome.usage),
            **of_cost(outcome.cost),
            **self._error(outcome.error),
        }
        if attempt is None:
            line.update(of_response(step))
            said = {fields.INPUT_MESSAGES: messages, fields.OUTPUT_MESSAGES: step.result}
            line.update(self._shown(said))
        self._write(fields.LLM_CALL, level_of(outcome), line)

    def tool_call(
        self, step: StepRecord, *, task: str | None = None, call_id: str | None = None
    ) -> None:
        """A tool call was made. Arguments and result are shown with `content` only."""
        line = {
            **of_step(step, task),
            fields.TOOL_CALL_ID: call_id,
            **of_outcome(step),
            **self._error(step.error),
            **self._shown({fields.TOOL_ARGUMENTS: step.arguments, fields.TOOL_RESULT: step.result}),
        }
        self._write(fields.TOOL_CALL, level_of(step), line)

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
        line = {**of_step(step, task), fields.REPLAYED: True, **self._error(step.error)}
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
            **of_step(step, task),
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
            **of_outcome(attempt),
            fields.RETRY_WAIT_MS: rounded(wait_ms),
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
                fields.DURATION_MS: rounded(record.duration_ms),
                fields.SCOPE: record.scope,
                fields.STEP_ID: record.step_id,
                fields.TOOL_NAME: record.tool,
                fields.TASK: task,
                fields.AGENT_NAME: agent,
            },
        )

    def approval_requested(self, asked: ApprovalRecord) -> None:
        """A person is asked; what about is shown with `content` only."""
        line = {**of_question(asked), **self._shown({fields.TOOL_ARGUMENTS: asked.arguments})}
        self.emit(fields.APPROVAL_REQUESTED, "warning", **line)

    def approval_applied(self, asked: ApprovalRecord, *, edited: bool) -> None:
        """The run goes on as a person has decided, or as counts because nobody has."""
        line = {
            **of_question(asked),
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
        self.emit(event, "warning", **{fields.MESSAGE: message}, **renamed(more))
