"""The tasks of a run: begun, finished, failed, kept."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from crewai_prod import codec
from crewai_prod.records import (
    TaskRecord,
    TaskStatus,
)
from crewai_prod.redact import redact_text
from crewai_prod.run_core import RunCore
from crewai_prod.steps import (
    lies_in,
    read_request,
)


class TaskRecords(RunCore):
    """The part of a run that knows of tasks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._started: dict[int, float] = {}

    def begin_task(self, position: int, agent: str | None) -> None:
        """Record that a task has begun.

        Raises:
            CrewProdError: The run was stopped, or it could not be committed.
        """
        self.check()
        record = self._task(position, TaskStatus.RUNNING, agent)
        before = self.plans[position].record
        if before is None or before.status is not TaskStatus.RUNNING:
            self._write(lambda: self.journal.save_task(self.lease, record))
        self.log.task_started(task=record.name, position=position, agent=agent)

    def finish_task(
        self,
        position: int,
        agent: str | None,
        output: str,
        messages: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Commit a task's output (JSON) and the conversation it ended with.

        Raises:
            CrewProdError: The run was stopped meanwhile, or it could not be committed.
        """
        self._gather(self.scope_of_task(position).path)
        self.check()
        talk = read_request(messages, {}, known=self._messages, contents=self._contents)
        fresh = [m for m in talk.messages if m.role != "request"]
        record = replace(
            self._task(position, TaskStatus.DONE, agent), output=output, messages=talk.tip
        )
        said = self.guarding.pending()
        self._write(
            lambda: self.journal.save_task(self.lease, record, messages=fresh, verdicts=said)
        )
        with self._lock:
            self._messages.update([message.digest for message in fresh])
        with self._lock:
            path = self.scope_of_task(position).path
            self._walk.history.forget(path)
            self._walk.leave(path)
            self._talks = {at: talk for at, talk in self._talks.items() if not lies_in(at, path)}
        self.routing.leave(path)
        self.setbacks.leave(path)
        self.looping.forget(path)
        self.log.task_finished(task=record.name, position=position, agent=agent, status="done")

    def fail_task(
        self, position: int, agent: str | None, error: BaseException, *, of_last_answer: bool
    ) -> None:
        """Record that a task failed. A run that was stopped has nothing more to record.

        Args:
            position: Of the task.
            agent: Role of its agent.
            error: What ended it.
            of_last_answer: The task has no output: if its last step was a model's answer, CrewAI
                could do nothing with it, and resuming asks for it anew.
        """
        if self._stopped is not None:
            return
        facts = {
            "type": type(error).__name__,
            "message": codec.to_tree(redact_text(codec.text_of(error))),
            "of_last_answer": of_last_answer,
        }
        record = replace(
            self._task(position, TaskStatus.FAILED, agent), error=orjson.dumps(facts).decode()
        )
        self._write(lambda: self.journal.save_task(self.lease, record))
        self.log.task_finished(
            task=record.name, position=position, agent=agent, status="failed", error=error
        )

    def keep_task(self, position: int) -> TaskRecord:
        """The record of a task whose stored output is handed back."""
        self.check()
        record = self.plans[position].record
        assert record is not None
        self.log.task_kept(task=record.name, position=position, agent=record.agent)
        return record

    def _task(self, position: int, status: TaskStatus, agent: str | None) -> TaskRecord:
        plan = self.plans[position]
        now = time.time()
        started = plan.record.started_at if plan.record and not plan.generation else now
        return TaskRecord(
            position=position,
            generation=plan.generation,
            name=plan.definition.name,
            agent=agent,
            fingerprint=plan.definition.fingerprint,
            parts=orjson.dumps(dict(plan.definition.parts)).decode(),
            status=status,
            started_at=self._started.setdefault(position, started),
            finished_at=None if status is TaskStatus.RUNNING else now,
        )
