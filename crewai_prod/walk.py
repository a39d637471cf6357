"""A session's walk through a run: which step is asked for, and what is recorded of it.

Pure: values in, decisions out. Not thread-safe: the run that owns a walk holds a lock.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import Any

from crewai_prod.records import AttemptRecord, StepKind, StepRecord, StepStatus
from crewai_prod.replay import History, decided_again
from crewai_prod.steps import Request, Scope, lies_in, step_id


@dataclass(slots=True, kw_only=True)
class Ticket:
    """A step between its beginning and its end.

    `recorded` is the answer of an earlier session; if it is set there is nothing to do. `before` is
    an earlier try that this one replaces, and `record` what the journal held of the step. `model`
    is who is asked, where that is another model than `name`; `provider` is that one's. `route` is
    JSON of why that one was chosen, if a rule did. `edited` are a tool's arguments as a person has
    changed them.
    """

    scope: Scope
    kind: StepKind
    name: str
    digest: str
    occurrence: int
    step_id: str
    recorded: StepRecord | None = None
    record: StepRecord | None = None
    before: AttemptRecord | None = None
    seq: int = 0
    attempt: int = 1
    request: Request | None = None
    arguments: str | None = None
    edited: dict[str, Any] | None = None
    effect: str | None = None
    model: str | None = None
    provider: str | None = None
    route: str | None = None
    started_at: float = field(default_factory=time.time)
    clock: float = field(default_factory=time.perf_counter)

    @property
    def inner(self) -> Scope:
        """The scope of what happens in the step's body."""
        return self.scope.inside(self.name, self.step_id)

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since the step began."""
        return round((time.perf_counter() - self.clock) * 1000, 3)

    def step(self, status: StepStatus, epoch: int, **outcome: Any) -> StepRecord:
        """The step as it is to be recorded."""
        request = self.request
        return StepRecord(
            seq=self.seq,
            step_id=self.step_id,
            scope=self.scope.path,
            kind=self.kind,
            name=self.name,
            digest=self.digest,
            occurrence=self.occurrence,
            agent=self.scope.agent,
            task=self.scope.task,
            status=status,
            effect=self.effect,
            attempts=self.attempt,
            arguments=self.arguments,
            request=request.tip if request else None,
            params=request.params if request else None,
            provider=self.provider,
            route=self.route,
            started_at=self.started_at,
            duration_ms=None if status is StepStatus.STARTED else self.elapsed_ms,
            epoch=epoch,
            **outcome,
        )


def attempt_of(record: StepRecord) -> AttemptRecord:
    """A try that another one follows, as it is kept."""
    return AttemptRecord(
        step_id=record.step_id,
        attempt=record.attempts,
        status=record.status,
        error=record.error,
        usage=record.usage,
        cost=record.cost,
        model=record.model or record.name if record.kind is StepKind.MODEL else None,
        provider=record.provider,
        route=record.route,
        started_at=record.started_at,
        duration_ms=record.duration_ms,
        epoch=record.epoch,
    )


class Walk:
    """The recorded steps of a run and how often each request has been met in this session.

    Args:
        steps: What earlier sessions recorded.
        failed_sessions: Epochs of the sessions that ended because something failed.
        finished: Whether the run was brought to its end: it has survived all its failures.
    """

    def __init__(
        self,
        steps: Iterable[StepRecord] = (),
        failed_sessions: Container[int] = (),
        *,
        finished: bool = False,
    ) -> None:
        recorded = tuple(steps)
        self.history = History(recorded)
        self._failed_sessions = failed_sessions
        self._finished = finished
        self._seq = max((step.seq for step in recorded), default=0)
        self._occurrences: dict[tuple[str, str, str], int] = {}
        self._acting: set[tuple[str, str, str]] = set()
        self._entries: Counter[str] = Counter()
        self._complained: set[str] = set()
        self._last: dict[str, str] = {}

    def enter(self, path: str, *, retry: bool) -> None:
        """An agent begins to work in a scope, perhaps not for the first time.

        CrewAI executes a task again after an error (`retry`), and again with a guardrail's
        complaint. After an error the same requests are answered as before, up to the one that
        failed. After a complaint the model decides anew; what it already did to the world with the
        same arguments is not done again, what failed may be.
        """
        self._entries[path] += 1
        if retry:
            self.history.rewind(path)
        elif self._entries[path] > 1:
            self._complained.add(path)
        else:
            return
        for key in [key for key in self._occurrences if lies_in(key[0], path)]:
            if retry or key in self._acting:
                del self._occurrences[key]

    def identify(
        self, scope: Scope, kind: StepKind, name: str, meant: str, *, acts: bool = False
    ) -> Ticket:
        """The ticket of the next request of this meaning in this scope.

        Args:
            scope: Where it is made.
            kind: What is asked.
            name: Of the model or tool.
            meant: Digest of the request's meaning.
            acts: Whether it may have an effect on the world.
        """
        key = (scope.path, kind._value_, meant)
        occurrence = self._occurrences.get(key, 0)
        if acts:
            self._acting.add(key)
            while self._complained and self._may_retry(scope, step_id(*key, occurrence)):
                occurrence += 1
        self._occurrences[key] = occurrence + 1
        ticket = Ticket(
            scope=scope,
            kind=kind,
            name=name,
            digest=meant,
            occurrence=occurrence,
            step_id=step_id(*key, occurrence),
        )
        if kind in (StepKind.MODEL, StepKind.TOOL):
            self._last[scope.path] = ticket.step_id
        return ticket

    def last(self, path: str) -> str | None:
        """The model or tool call that was begun last in a scope."""
        return self._last.get(path)

    def leave(self, path: str) -> None:
        """A scope is done with, and all within it."""
        self._last = {at: step for at, step in self._last.items() if not lies_in(at, path)}

    def withdraw(self, ticket: Ticket) -> None:
        """Take back a ticket that came to nothing; it has been counted as an occurrence."""
        if ticket.seq == self._seq:
            self._seq -= 1

    def count(self, scope: Scope, name: str, meant: str) -> int:
        """How often a nested kickoff of this name and meaning was begun in this scope before."""
        key = (scope.path, f"kickoff {name}", meant)
        occurrence = self._occurrences.get(key, 0)
        self._occurrences[key] = occurrence + 1
        return occurrence

    def look_up(self, ticket: Ticket, *, params: str | None = None) -> bool:
        """Fill in what is recorded of a ticket: a replay, a new try, or a first one.

        Args:
            ticket: Of a step that was just identified.
            params: Digest of a model call's parameters, if it may follow the history of its scope.

        Returns:
            Whether it did follow the history, because its prompt drifted.
        """
        record = self.history.take(ticket.step_id)
        drifted = record is None and params is not None
        if record is None and params is not None:
            record = self.history.follow(ticket.scope.path, params)
        ticket.record = record
        if record is None:
            self._seq += 1
            ticket.seq = self._seq
            return False
        self._settle(ticket, record)
        return drifted

    def note(self, ticket: Ticket) -> None:
        """Fill in what is recorded of a ticket whose step has been made, whatever that is.

        A step that cannot be replayed was made again with the body around it: another attempt.
        """
        record = self.history.take(ticket.step_id)
        if record is None:
            self._seq += 1
            ticket.seq = self._seq
        else:
            self._try_again(ticket, record)

    def try_again(self, ticket: Ticket) -> None:
        """Turn the ticket of a call that has just failed into its next try.

        What its body had done through steps of its own is there: the next try begins it anew.
        """
        record = self.history.take(ticket.step_id)
        if record is not None:
            self._try_again(ticket, record)
        ticket.started_at, ticket.clock = time.time(), time.perf_counter()
        self.enter(ticket.inner.path, retry=True)

    def _settle(self, ticket: Ticket, record: StepRecord) -> None:
        """A recorded outcome is replayed; what stopped the run, or never ended, is tried anew."""
        stands = record.status is StepStatus.DONE or self._survived(record)
        if stands and not self.history.to_redo(record.step_id):
            ticket.recorded = record
        else:
            self._try_again(ticket, record)

    def _try_again(self, ticket: Ticket, record: StepRecord) -> None:
        ticket.step_id, ticket.seq = record.step_id, record.seq
        ticket.digest, ticket.occurrence = record.digest, record.occurrence
        ticket.attempt = record.attempts + 1
        ticket.before = attempt_of(record)

    def _survived(self, record: StepRecord) -> bool:
        """Whether a failure is one that the crew saw and went on from, or would have.

        A tool that failed may have acted, and a model's answer of the wrong form was paid for. If
        the process was killed before the model was told, neither is tried again: only a run that
        ended by this failure is resumed to try it anew.
        """
        if record.status is not StepStatus.FAILED or decided_again(record.error):
            return False
        if record.epoch in self._failed_sessions and _too_long(record):
            return False  # asking again costs nothing, and another model may stand there now
        told = record.kind is StepKind.TOOL or has_wrong_form(record)
        cut_off = told and record.epoch not in self._failed_sessions
        return self._finished or cut_off or self.history.went_on(record)

    def _may_retry(self, scope: Scope, step: str) -> bool:
        """Whether a failed call is passed over because the model has been sent to work again."""
        sent = any(lies_in(scope.path, path) for path in self._complained)
        return sent and self.history.failed(step)


def _too_long(record: StepRecord) -> bool:
    """Whether a model has refused to read a conversation because of its length."""
    return record.kind is StepKind.MODEL and '"ContextOverflow"' in (record.error or "")


def has_wrong_form(record: StepRecord) -> bool:
    """Whether a model call failed because its answer could not be read as what was asked for."""
    return '"type":"ValidationError"' in (record.error or "")
