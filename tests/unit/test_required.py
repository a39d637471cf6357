"""What a task may not be finished without."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from crewai_prod.records import StepKind, StepRecord, StepStatus
from crewai_prod.required import REFUSED, unmet
from crewai_prod.tooling import ToolOptions

_REQUIRED = {"pay": ToolOptions(required=True)}
_WRITE = {"pay": ToolOptions(effect="write", idempotent=True)}
_UNDECLARED = {"pay": ToolOptions()}


def call(seq: int, outcome: str = "done", *, effect: str = "write", **facts: Any) -> StepRecord:
    """A call of `pay`."""
    done = outcome in ("done", "reported")
    result = '{"$":"tool_failure","v":{}}' if outcome == "reported" else '"paid"'
    return StepRecord(
        seq=seq,
        step_id=f"{seq:016x}",
        scope="tasks/0/A",
        kind=StepKind.TOOL,
        name="pay",
        digest=f"{seq:020x}",
        occurrence=0,
        status=StepStatus.DONE if done else StepStatus.FAILED,
        effect=effect,
        attempts=1,
        result=result if done else None,
        error=None if done else orjson.dumps({"type": outcome, **facts}).decode(),
        started_at=0.0,
        epoch=1,
    )


@pytest.mark.parametrize(
    ("declared", "steps", "missing"),
    [
        (_REQUIRED, [], [None]),
        (_REQUIRED, [call(1)], []),
        (_REQUIRED, [call(1, "ValueError")], [1]),
        (_REQUIRED, [call(1, "ToolUnavailable")], [1]),
        (_REQUIRED, [call(1, "ToolRejected", effect=REFUSED)], [None]),
        (_REQUIRED, [call(1), call(2, "ToolRejected", effect=REFUSED)], []),
        (_REQUIRED, [call(1, "ApprovalRejected", effect=REFUSED)], []),
        (_REQUIRED, [call(1, "ValueError"), call(2, "ApprovalRejected", effect=REFUSED)], []),
        (_REQUIRED, [call(1, "ApprovalRejected", effect=REFUSED), call(2, "ValueError")], [2]),
        (_REQUIRED, [call(1, "reported")], [1]),
        (_REQUIRED, [call(2), call(1, "ValueError")], []),
        (_REQUIRED, [call(1), call(2, "ValueError")], [2]),
        (_WRITE, [], []),
        (_WRITE, [call(1, "ValueError")], [1]),
        (_WRITE, [call(1, "reported")], [1]),
        (_WRITE, [call(1, "ValueError"), call(2)], []),
        (_WRITE, [call(1, "ToolUnavailable")], []),
        (_WRITE, [call(1, "ToolInputInvalid")], []),
        (_WRITE, [call(1, "ToolUnavailable", effect=REFUSED)], []),
        (_WRITE, [call(1, "ToolError", effect="write", decided=True)], []),
        (_UNDECLARED, [call(1, "ValueError")], []),
        ({}, [call(1, "ValueError")], []),
    ],
)
def test_what_is_missing(
    declared: dict[str, ToolOptions], steps: list[StepRecord], missing: list[int | None]
) -> None:
    """Required tools have to succeed; writes that ran and failed have to be made good."""
    found = unmet(steps, declared, {"pay"})
    assert [one.step.seq if one.step else None for one in found] == missing


def test_a_tool_that_the_task_does_not_have_is_asked_for_only_after_it_failed() -> None:
    """Nobody can be asked to call it; a coworker who had it and failed has not made it good."""
    assert unmet([], _REQUIRED, set()) == []
    assert [one.tool for one in unmet([call(1, "ValueError")], _REQUIRED, set())] == ["pay"]
