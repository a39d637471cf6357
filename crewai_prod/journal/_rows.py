"""Records as rows and rows as records."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from crewai_prod.journal import _sql
from crewai_prod.journal._crypto import Plain
from crewai_prod.records import (
    ApprovalRecord,
    AttemptRecord,
    Cost,
    CostStatus,
    GuardRecord,
    Lease,
    MessageRecord,
    Owner,
    RunRecord,
    RunStatus,
    StepKind,
    StepRecord,
    StepStatus,
    TaskRecord,
    TaskStatus,
    TransitionRecord,
    Usage,
    VerdictKind,
)

Row = Sequence[Any]

_ENUMS = {
    "kind",
    "status",
    "verdict",
}  # sqlite3 looks for an adapter for each value that is not a plain str
_NO_MODEL = (None,) * len(_sql.STEP_MODEL)
_NO_USAGE = (None,) * len(_sql.USAGE)
_NO_COST = (None,) * len(_sql.COST)


def _getter(columns: Sequence[str]) -> attrgetter[tuple[Any, ...]]:
    return attrgetter(*(f"{c}._value_" if c in _ENUMS else c for c in columns))


_step = _getter((*_sql.STEP_IDENTITY, *_sql.STEP_OUTCOME))
_model = attrgetter(*_sql.STEP_MODEL)
_task = _getter(_sql.TASK_PLAIN)
_attempt = _getter(_sql.ATTEMPT_PLAIN)
_usage = attrgetter(*_sql.USAGE)
_verdict = _getter(_sql.VERDICT_PLAIN)
_asked = attrgetter(*_sql.APPROVAL_ASKED)


def put_step(
    lease: Lease, step: StepRecord, vault: Plain, *, intent: bool = False
) -> tuple[str, tuple[Any, ...]]:
    """The statement that stores a step, and its parameters.

    Args:
        lease: The right to write.
        step: The step.
        vault: Seals its payloads.
        intent: Whether it is about to be made: then not if the session is to stop.
    """
    run_id, model, usage = lease.run_id, _model(step), step.usage
    brief = (
        *_step(step),
        vault.seal(step.error, run_id, "steps.error"),
        vault.seal(step.arguments, run_id, "steps.arguments"),
        vault.seal(step.result, run_id, "steps.result"),
    )
    if usage is None and step.cost is None and model == _NO_MODEL:
        statement = _sql.START_STEP if intent else _sql.PUT_BRIEF_STEP
        return statement, (*brief, lease.run, lease.epoch)
    counts = _NO_USAGE if usage is None else _usage(usage)
    return _sql.PUT_STEP, (*brief, *model, *counts, *_cost(step.cost), lease.run, lease.epoch)


def _cost(cost: Cost | None) -> tuple[Any, ...]:
    return _NO_COST if cost is None else (cost.picousd, cost.status._value_, cost.source)


def attempt_values(lease: Lease, attempt: AttemptRecord, vault: Plain) -> tuple[Any, ...]:
    """Parameters of `ADD_ATTEMPT`."""
    return (
        lease.run,
        *_attempt(attempt),
        *(_NO_USAGE if attempt.usage is None else _usage(attempt.usage)),
        *_cost(attempt.cost),
        vault.seal(attempt.error, lease.run_id, "attempts.error"),
    )


def message_values(lease: Lease, message: MessageRecord, vault: Plain) -> tuple[Any, ...]:
    """Parameters of `ADD_MESSAGE`."""
    return (
        lease.run,
        message.digest,
        message.parent,
        message.role,
        message.content_step,
        vault.seal(message.body, lease.run_id, "messages.body"),
    )


def verdict_values(lease: Lease, verdict: GuardRecord, vault: Plain) -> tuple[Any, ...]:
    """Parameters of `ADD_VERDICT`."""
    return (
        *_verdict(verdict),
        vault.seal(verdict.reason, lease.run_id, "verdicts.reason"),
        vault.seal(verdict.value, lease.run_id, "verdicts.value"),
        lease.run,
        lease.epoch,
    )


def task_values(lease: Lease, task: TaskRecord, vault: Plain) -> tuple[Any, ...]:
    """Parameters of `PUT_TASK`."""
    return (
        *_task(task),
        vault.seal(task.parts, lease.run_id, "tasks.parts"),
        vault.seal(task.error, lease.run_id, "tasks.error"),
        vault.seal(task.output, lease.run_id, "tasks.output"),
        lease.run,
        lease.epoch,
    )


def run_record(row: Row, vault: Plain) -> RunRecord:
    """A row of columns `RUN`."""
    values = dict(zip(_sql.RUN, row, strict=True))
    owner = owner_of([values.pop(column) for column in _sql.OWNER])
    values["status"] = RunStatus(values["status"])
    _open(values, _sql.RUN_SEALED, vault, values["run_id"], "runs")
    return RunRecord(owner=owner, **values)


def owner_of(row: Row) -> Owner | None:
    """A row of columns `OWNER`."""
    owner_id, host, pid, started = row
    if owner_id is None:
        return None
    return Owner(id=owner_id, host=host, pid=pid, process_started=started)


def transition_record(row: Row) -> TransitionRecord:
    """A row of `TRANSITIONS`."""
    source, target, reason, epoch, at = row
    return TransitionRecord(
        source=None if source is None else RunStatus(source),
        target=RunStatus(target),
        reason=reason,
        epoch=epoch,
        at=at,
    )


def task_record(row: Row, run_id: str, vault: Plain) -> TaskRecord:
    """A row of columns `TASK`."""
    values = dict(zip(_sql.TASK, row, strict=True))
    values["status"] = TaskStatus(values["status"])
    _open(values, _sql.TASK_SEALED, vault, run_id, "tasks")
    return TaskRecord(**values)


def step_record(row: Row, run_id: str, vault: Plain) -> StepRecord:
    """A row of columns `STEP` and epoch."""
    values = dict(zip((*_sql.STEP, "epoch"), row, strict=True))
    values["kind"] = StepKind(values["kind"])
    values["status"] = StepStatus(values["status"])
    values["usage"], values["cost"] = _usage_of(values), _cost_of(values)
    _open(values, _sql.STEP_SEALED, vault, run_id, "steps")
    return StepRecord(**values)


def attempt_record(row: Row, run_id: str, vault: Plain) -> AttemptRecord:
    """A row of columns `ATTEMPT`."""
    values = dict(zip(_sql.ATTEMPT, row, strict=True))
    values["status"] = StepStatus(values["status"])
    values["usage"], values["cost"] = _usage_of(values), _cost_of(values)
    _open(values, _sql.ATTEMPT_SEALED, vault, run_id, "attempts")
    return AttemptRecord(**values)


def verdict_record(row: Row, run_id: str, vault: Plain) -> GuardRecord:
    """A row of columns `VERDICT` and epoch."""
    values = dict(zip((*_sql.VERDICT, "epoch"), row, strict=True))
    values["verdict"] = VerdictKind(values["verdict"])
    _open(values, _sql.VERDICT_SEALED, vault, run_id, "verdicts")
    return GuardRecord(**values)


def approval_values(
    lease: Lease, approval: ApprovalRecord, vault: Plain
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Parameters of `OPEN_APPROVAL`, and those that `ADD_APPROVAL` takes besides."""
    asked = _asked(approval)
    sealed = (
        vault.seal(getattr(approval, column), lease.run_id, f"approvals.{column}")
        for column in ("arguments", "form", "remark")
    )
    return (lease.run, *asked[:4]), (*asked[4:], *sealed)


def approval_record(row: Row, vault: Plain) -> ApprovalRecord:
    """A row of `APPROVALS`."""
    values = dict(zip((*_sql.APPROVAL, "run_id"), row, strict=True))
    _open(values, _sql.APPROVAL_SEALED, vault, values["run_id"], "approvals")
    return ApprovalRecord(**values)


def _usage_of(values: dict[str, Any]) -> Usage | None:
    counts = {column: values.pop(column) for column in _sql.USAGE}
    return None if counts["calls"] is None else Usage(**counts)


def _cost_of(values: dict[str, Any]) -> Cost | None:
    picousd, status, source = (values.pop(column) for column in _sql.COST)
    if status is None:
        return None
    return Cost(status=CostStatus(status), picousd=picousd, source=source)


def _open(
    values: dict[str, Any], columns: Sequence[str], vault: Plain, run_id: str, table: str
) -> None:
    for column in columns:
        values[column] = vault.open(values[column], run_id, f"{table}.{column}")
