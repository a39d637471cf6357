"""A run as a report: what `show --json` prints, `run` summarises and `demo` checks.

A step counts as replayed when it was recorded in an earlier session than the run's last one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from crewai_prod import codec
from crewai_prod.approval import UNKNOWN
from crewai_prod.cli._output import dollars, iso
from crewai_prod.journal import Journal
from crewai_prod.records import (
    ApprovalRecord,
    AttemptRecord,
    GuardRecord,
    RunRecord,
    Spending,
    StepKind,
    StepRecord,
    StepStatus,
    TaskRecord,
    TaskStatus,
    Usage,
    VerdictKind,
)
from crewai_prod.redact import redact


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything the journal holds of one run, read once."""

    run: RunRecord
    tasks: tuple[TaskRecord, ...]
    steps: tuple[StepRecord, ...]
    attempts: tuple[AttemptRecord, ...]
    questions: tuple[ApprovalRecord, ...]
    verdicts: tuple[GuardRecord, ...] = ()
    """What guards have said but `allow`."""
    spent: dict[str, Usage] = field(default_factory=dict)
    """Per step id: the tokens of its outcome and its failed tries together."""
    money: dict[str, Spending] = field(default_factory=dict)
    """The same in money."""

    @classmethod
    def read(cls, journal: Journal, run_id: str) -> Report:
        """Read it.

        Raises:
            RunNotFound: There is no such run.
            JournalError: The journal cannot be read.
        """
        run = journal.run(run_id)
        steps, attempts = journal.steps(run_id), journal.attempts(run_id)
        # A question that `--unknown` settled stays open in the table; its step does not.
        open_ = {step.step_id for step in steps if step.status is StepStatus.STARTED}
        spent: dict[str, Usage] = {}
        money: dict[str, Spending] = {}
        records: tuple[StepRecord | AttemptRecord, ...] = (*steps, *attempts)
        for record in records:
            if record.usage is not None:
                spent[record.step_id] = spent.get(record.step_id, Usage()) + record.usage
            if record.cost is not None:
                money[record.step_id] = money.get(record.step_id, Spending()) + record.cost
        return cls(
            run=run,
            tasks=tuple(journal.tasks(run_id)),
            steps=tuple(steps),
            attempts=tuple(attempts),
            questions=tuple(
                q
                for q in journal.approvals(run_id, status="open")
                if q.kind != UNKNOWN or q.step_id in open_
            ),
            verdicts=tuple(
                v for v in journal.verdicts(run_id) if v.verdict is not VerdictKind.ALLOW
            ),
            spent=spent,
            money=money,
        )

    def replayed(self, step: StepRecord) -> bool:
        """Whether the last session had the step's answer from an earlier one."""
        return step.epoch < self.run.epoch

    def of(self, kind: StepKind) -> list[StepRecord]:
        """The steps of one kind."""
        return [step for step in self.steps if step.kind is kind]

    def usage(self) -> dict[str, Any]:
        """The run's bill, as `show --json` gives it."""
        models, tools = self.of(StepKind.MODEL), self.of(StepKind.TOOL)
        asked = {step.step_id for step in models}
        failed_tries = sum(1 for attempt in self.attempts if attempt.step_id in asked)
        total = sum(self.spent.values(), Usage())
        return {
            "llm_calls": len(models) + failed_tries,
            "tool_calls": len(tools),
            "input_tokens": total.input_tokens,
            "output_tokens": total.output_tokens,
            "total_tokens": total.total_tokens,
            "cost_usd": dollars(self.total_spent().usd),
            "replayed_llm_calls": sum(map(self.replayed, models)),
            "replayed_tool_calls": sum(map(self.replayed, tools)),
        }

    def total_spent(self) -> Spending:
        """What the run cost."""
        return sum(self.money.values(), Spending())

    def task_spent(self, task: TaskRecord) -> Spending:
        """What one execution of a task cost."""
        found = (self.money.get(step.step_id) for step in self.steps_of(task))
        return sum((spent for spent in found if spent is not None), Spending())

    def task_usage(self, task: TaskRecord) -> Usage:
        """What the steps of one execution of a task cost."""
        found = (self.spent.get(step.step_id) for step in self.steps_of(task))
        return sum((usage for usage in found if usage is not None), Usage())

    def steps_of(self, task: TaskRecord) -> list[StepRecord]:
        """The steps of one execution of a task, told from others by their scope."""
        place = f"tasks/{task.position}" + (f"~{task.generation}" if task.generation else "")
        inside = f"{place}/"
        return [s for s in self.steps if s.scope == place or s.scope.startswith(inside)]

    def outside_tasks(self) -> list[StepRecord]:
        """Steps that belong to no task: planning, memory and the like."""
        inside = {id(step) for task in self.tasks for step in self.steps_of(task)}
        return [step for step in self.steps if id(step) not in inside]

    def as_json(self) -> dict[str, Any]:
        """The shape of `show --json`."""
        run = self.run
        return {
            "run_id": run.run_id,
            "status": run.status.value,
            "reason": run.reason,
            "crew": run.crew,
            "inputs": shown(run.inputs),
            "error": shown(run.error),
            "usage": self.usage(),
            "tasks": [self._task(task) for task in self.tasks],
            "steps": [self._step(step) for step in self.steps],
            "verdicts": [self._verdict(verdict) for verdict in self.verdicts],
        }

    def finished(self) -> list[dict[str, Any]]:
        """The tasks whose output stands, in order."""
        done = [task for task in self.tasks if task.status is TaskStatus.DONE]
        return [
            {"task": task.name, "agent": task.agent, "output": output_of(task)} for task in done
        ]

    def _verdict(self, verdict: GuardRecord) -> dict[str, Any]:
        return {
            "guard": verdict.guard,
            "version": verdict.version,
            "place": verdict.place,
            "verdict": verdict.verdict.value,
            "reason": redact(verdict.reason),
            "tool": verdict.tool,
            "scope": verdict.scope,
            "step_id": verdict.step_id,
            "at": iso(verdict.at),
            "duration_ms": verdict.duration_ms,
        }

    def _task(self, task: TaskRecord) -> dict[str, Any]:
        usage = self.task_usage(task)
        return {
            "position": task.position,
            "generation": task.generation,
            "name": task.name,
            "agent": task.agent,
            "status": task.status.value,
            "output": output_of(task),
            "started_at": iso(task.started_at),
            "finished_at": iso(task.finished_at),
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
            "cost_usd": dollars(self.task_spent(task).usd),
            "error": shown(task.error),
        }

    def _step(self, step: StepRecord) -> dict[str, Any]:
        usage = self.spent.get(step.step_id)
        return {
            "step_id": step.step_id,
            "seq": step.seq,
            "scope": step.scope,
            "kind": step.kind.value,
            "name": step.name,
            "agent": step.agent,
            "task": step.task,
            "status": step.status.value,
            "replayed": self.replayed(step),
            "attempts": step.attempts,
            "duration_ms": step.duration_ms,
            "model": step.model,
            "route": shown(step.route),
            "input_tokens": usage.input_tokens if usage else None,
            "output_tokens": usage.output_tokens if usage else None,
            "cost_usd": dollars(self.money.get(step.step_id, Spending()).usd),
        }


def shown(stored: str | None) -> Any:
    """Stored JSON as what it says, without secrets."""
    if stored is None:
        return None
    try:
        return redact(codec.from_tree(orjson.loads(stored)))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):  # not written by us
        return redact(stored)


def output_of(task: TaskRecord) -> str | None:
    """What a task has put out, as text and without secrets."""
    output = shown(task.output)
    raw = output.get("raw", output) if isinstance(output, dict) else output
    return raw if raw is None or isinstance(raw, str) else codec.text_of(raw)


def error_line(stored: str | None) -> str:
    """A stored error on one line, empty if there is none."""
    facts = shown(stored)
    if isinstance(facts, dict):
        return f"{facts.get('type', 'Error')}: {facts.get('message', '')}"
    return "" if facts is None else str(facts)


def tokens(usages: Iterable[Usage | None]) -> int:
    """The tokens of many calls."""
    return sum(usage.total_tokens for usage in usages if usage is not None)
