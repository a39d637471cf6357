"""What a line of the log says of a record: its fields, by the names in `fields`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

from crewai_prod import fields
from crewai_prod.records import (
    PICO,
    ApprovalRecord,
    AttemptRecord,
    Cost,
    Spending,
    StepKind,
    StepRecord,
    StepStatus,
    Usage,
)

if TYPE_CHECKING:
    pass

Level = Literal["debug", "info", "warning", "error"]


WORKFLOW: Final = {fields.OPERATION_NAME: fields.OPERATION_WORKFLOW}
LEVELS: Final[dict[str, Level]] = {
    "failed": "error",
    "paused": "warning",
    "cancelled": "warning",
    "interrupted": "warning",
}
_RENAMED: Final = {"workflow": fields.WORKFLOW_NAME, "agent": fields.AGENT_NAME}


def renamed(more: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by the names they have in a line."""
    return {_RENAMED.get(key, key): value for key, value in more.items()}


def rounded(milliseconds: float | None) -> float | None:
    """To the microsecond."""
    return None if milliseconds is None else round(milliseconds, 3)


def of_task(task: str, position: int, agent: str | None) -> dict[str, Any]:
    """Of a task."""
    return {
        fields.OPERATION_NAME: fields.OPERATION_TASK,
        fields.TASK: task,
        fields.TASK_POSITION: position,
        fields.AGENT_NAME: agent,
    }


def of_question(asked: ApprovalRecord) -> dict[str, Any]:
    """Of a question to a person."""
    return {
        fields.APPROVAL_ID: asked.id,
        fields.APPROVAL_KIND: asked.kind,
        fields.APPROVAL_WHY: asked.why,
        fields.TOOL_NAME: asked.tool,
        fields.STEP_ID: asked.step_id,
        fields.TASK: asked.task,
        fields.AGENT_NAME: asked.agent,
    }


def of_step(step: StepRecord, task: str | None) -> dict[str, Any]:
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


def of_outcome(outcome: StepRecord | AttemptRecord) -> dict[str, Any]:
    """How a try ended, and how long it took."""
    return {
        fields.ATTEMPT: outcome.attempts if isinstance(outcome, StepRecord) else outcome.attempt,
        fields.REPLAYED: False,
        fields.DURATION_MS: rounded(outcome.duration_ms),
    }


def of_response(step: StepRecord) -> dict[str, Any]:
    """What a provider said of its answer."""
    return {
        fields.RESPONSE_MODEL: step.model,
        fields.RESPONSE_ID: step.response_id,
        fields.FINISH_REASONS: [step.finish_reason] if step.finish_reason else None,
    }


def of_usage(usage: Usage | None) -> dict[str, Any]:
    """Tokens."""
    if usage is None:
        return {}
    return {
        fields.INPUT_TOKENS: usage.input_tokens,
        fields.OUTPUT_TOKENS: usage.output_tokens,
        fields.CACHE_READ_TOKENS: usage.cache_read_tokens,
        fields.CACHE_WRITE_TOKENS: usage.cache_write_tokens,
        fields.REASONING_TOKENS: usage.reasoning_tokens,
    }


def of_cost(cost: Cost | None) -> dict[str, Any]:
    """What a call cost. The amount is a JSON number; the exact one is in the journal."""
    if cost is None:
        return {}
    status = {fields.COST_STATUS: cost.status._value_}
    if cost.picousd is None:
        return status
    return {
        fields.COST_AMOUNT: cost.picousd / PICO,
        fields.COST_CURRENCY: fields.USD,
        fields.COST_SOURCE: cost.source,
        **status,
    }


def totals(usage: Usage | None, spent: Spending | None) -> dict[str, Any]:
    """What a run took."""
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


def level_of(outcome: StepRecord | AttemptRecord) -> Level:
    """How loud a step is told."""
    return "warning" if outcome.status is StepStatus.FAILED else "info"


def tree(content: Any) -> Any:
    """Content as what it says, where it is JSON."""
    if isinstance(content, str):
        with contextlib.suppress(orjson.JSONDecodeError):
            return orjson.loads(content)
    return content


def facts(error: str | BaseException) -> tuple[str, Any]:
    """Class and text of an error; an exception's text is made where it may fail."""
    if isinstance(error, BaseException):
        return type(error).__name__, error
    facts = tree(error)
    if not isinstance(facts, dict):
        return fields.ERROR_OTHER, error
    return str(facts.get("type") or fields.ERROR_OTHER), facts.get("message")
