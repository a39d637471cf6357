"""What has gone wrong in each task of a run so far: answers sent back, and tries that failed.

Rule: it is counted as a session goes, from what is made and from what is answered by the journal
alike, so that a resumed run counts what it would have counted if it had never stopped. Any thread
may ask. Who has no use for it pays for none of it. Knows nothing of crewai.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from crewai_prod.records import StepStatus
from crewai_prod.steps import Scope, lies_in, task_around
from crewai_prod.walk import Ticket, has_wrong_form


@dataclass(frozen=True, slots=True)
class Count:
    """Of one task.

    Attributes:
        rejected: Answers that were not good enough: wrong form, a required tool not called, a
            guard's or guardrail's no.
        failed_tries: Tries of model calls that failed.
    """

    rejected: int = 0
    failed_tries: int = 0


class Setbacks:
    """Of one run.

    Attributes:
        on: Whether anybody asks for them.
    """

    def __init__(self) -> None:
        self.on = False
        self._last: dict[str, str] = {}
        self._rejected: dict[str, set[str]] = {}
        self._tries: dict[str, dict[str, int]] = {}
        self._lock = threading.Lock()

    def met(self, ticket: Ticket) -> None:
        """A model call is begun, or answered from the journal."""
        record, work = ticket.recorded, work_of(ticket.scope)
        failed = ticket.attempt - 1
        if record is not None:
            lost = record.status is StepStatus.FAILED and not has_wrong_form(record)
            failed = record.attempts if lost else record.attempts - 1
        with self._lock:
            self._last[work] = ticket.step_id
            if failed:
                self._tries.setdefault(work, {})[ticket.step_id] = failed

    def failed(self, ticket: Ticket) -> None:
        """A try of a model call has failed. An answer in the wrong form is sent back: see there."""
        if self.on:
            with self._lock:
                self._tries.setdefault(work_of(ticket.scope), {})[ticket.step_id] = ticket.attempt

    def rejected(self, scope: Scope) -> None:
        """The answer given last in a task was not good enough."""
        if self.on:
            work = work_of(scope)
            with self._lock:
                if work in self._last:
                    self._rejected.setdefault(work, set()).add(self._last[work])

    def leave(self, path: str) -> None:
        """A task is finished: what was counted of it is not asked for any more."""
        with self._lock:
            kept: tuple[dict[str, Any], ...] = (self._last, self._rejected, self._tries)
            for one in kept:
                for at in [at for at in one if lies_in(at, path)]:
                    del one[at]

    def of(self, scope: Scope) -> Count:
        """What has gone wrong in the task around so far."""
        work = work_of(scope)
        with self._lock:
            rejected, tries = self._rejected.get(work, ()), self._tries.get(work, {})
            return Count(len(rejected), sum(tries.values()))


def work_of(scope: Scope) -> str:
    """Path of the task that something is done for, or of the kickoff that is no crew's."""
    return task_around(scope.path) or scope.path
