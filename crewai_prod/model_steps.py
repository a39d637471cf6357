"""The model calls of a run: begun, answered from the journal, committed, billed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from crewai_prod.errors import (
    CrewProdError,
)
from crewai_prod.records import (
    StepKind,
    StepRecord,
    StepStatus,
    Usage,
)
from crewai_prod.run_core import RunCore
from crewai_prod.steps import (
    NOTHING_SAID,
    Scope,
    read_request,
)
from crewai_prod.walk import Ticket


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model call gave, as far as the journal wants to know.

    Attributes:
        result: JSON, as the codec of answers writes it.
        text: The text a later message may repeat word for word.
    """

    result: str
    text: str | None = None
    usage: Usage | None = None
    model: str | None = None
    response_id: str | None = None
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectCall:
    """A model call that code within a run made past the seams, as it was reported afterwards.

    Attributes:
        meant: Digest of what was asked.
        usage: None if nobody said what it cost.
        error: Facts of its failure.
    """

    model: str
    provider: str | None
    meant: str
    started_at: float
    duration_ms: float
    usage: Usage | None = None
    error: Mapping[str, Any] | None = None
    response_id: str | None = None
    finish_reason: str | None = None


class ModelSteps(RunCore):
    """The part of a run that knows of model calls."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._final: dict[str, CrewProdError] = {}
        self._overflows: Counter[str] = Counter()
        self._unmetered = 0
        self._warned: set[str] = set()

    def begin_model(
        self,
        scope: Scope,
        name: str,
        messages: Sequence[Mapping[str, Any]],
        params: Mapping[str, Any],
        provider: str | None = None,
    ) -> Ticket:
        """Identify a model call and look it up. No disk is touched.

        Raises:
            ModelUnpriced: Nobody knows what the call would cost, and such calls are not made.
            BudgetExceeded: The time of the run is over.
            CrewProdError: The run was stopped, or the same request has failed for good before.
        """
        self.check()
        request = read_request(
            messages,
            params,
            known=self._messages,
            contents=self._contents,
            before=self._talks.get(scope.path, NOTHING_SAID),
        )
        with self._lock:
            self._talks[scope.path] = request.talk
            ticket = self._walk.identify(scope, StepKind.MODEL, name, request.digest)
            ticket.request, ticket.provider = request, provider
            if ticket.step_id in self._final:
                raise self._final[ticket.step_id]
            drifted = self._walk.look_up(ticket, params=request.params if scope.follow else None)
        if self.routing.on:
            self.routing.met(ticket)
        if self.setbacks.on:
            self.setbacks.met(ticket)
        self.looping.decided(scope)
        if ticket.recorded is not None:
            self._note_replay(ticket, drifted=drifted)
        elif self.replay_only is not None:
            raise self.replay_only
        else:
            refusal = None if self.routing.on else self.bill.refusal(ticket)
            if refusal is not None:
                raise self.stop(refusal)
            self.braking.in_time(scope)
        return ticket

    def finish_model(self, ticket: Ticket, answer: Answer) -> None:
        """Commit a model's answer; only then may anyone see it.

        Raises:
            CrewProdError: It could not be committed; the run is stopped.
        """
        assert ticket.request is not None
        step = self._step(
            ticket,
            StepStatus.DONE,
            result=answer.result,
            usage=answer.usage,
            model=answer.model,
            response_id=answer.response_id,
            finish_reason=answer.finish_reason,
        )
        self._commit(ticket, step, ticket.request.messages)
        self._share(answer.text, ticket.step_id)

    def fail_model(
        self, ticket: Ticket, error: BaseException, usage: Usage | None, facts: Mapping[str, Any]
    ) -> None:
        """Commit a model call that failed, with what it cost.

        Raises:
            CrewProdError: It could not be committed; the run is stopped.
        """
        assert ticket.request is not None
        step = self._step(
            ticket,
            StepStatus.FAILED,
            error=orjson.dumps(facts).decode(),
            usage=usage,
            model=ticket.model,
        )
        self._commit(ticket, step, ticket.request.messages)

    def failed_for_good(self, step_id: str, error: CrewProdError) -> None:
        """The same request is not made again in this session, whoever repeats it."""
        with self._lock:
            self._final[step_id] = error

    def overflowed(self, scope: Scope) -> int:
        """A conversation was found too long; how often that was so in its scope."""
        with self._lock:
            self._overflows[scope.path] += 1
            return self._overflows[scope.path]

    def has_overflowed(self, scope: Scope) -> bool:
        """Whether the conversation of this scope was found too long in this session."""
        with self._lock:
            return self._overflows[scope.path] > 0

    def ended_by_model(self, scope: Scope) -> StepRecord | None:
        """The model call that failed last of all that was done within a scope, if one did."""
        with self._lock:
            last = self._walk.history.last_within(scope.path)
        failed = last is not None and last.status is StepStatus.FAILED
        return last if failed and last is not None and last.kind is StepKind.MODEL else None

    # -- past the seams ---------------------------------------------------------------------------

    def note_direct(self, scope: Scope) -> None:
        """Code in this scope has begun to call a model itself: its report will follow."""
        with self._lock:
            self._direct.add(scope.path)

    def record_direct(self, scope: Scope, call: DirectCall) -> None:
        """Record and bill a model call that was made past the seams.

        It cannot be replayed: the body around it is what is replayed. If that is executed again, so
        is the call, and this is another attempt of the same step.

        Raises:
            CrewProdError: It could not be committed; the run is stopped.
        """
        if self.replay_only is not None:  # a finished run takes no more, on its bill neither
            self._note_unmetered(scope, call.model)
            return
        with self._lock:
            ticket = self._walk.identify(scope, StepKind.MODEL, call.model, call.meant)
            self._walk.note(ticket)
        ticket.provider, ticket.started_at = call.provider, call.started_at
        ticket.clock = time.perf_counter() - call.duration_ms / 1000
        step = self._step(
            ticket,
            StepStatus.DONE if call.error is None else StepStatus.FAILED,
            error=None if call.error is None else orjson.dumps(dict(call.error)).decode(),
            usage=call.usage,
            model=call.model,
            response_id=call.response_id,
            finish_reason=call.finish_reason,
        )
        self._commit(ticket, step)
        if step.unmetered:
            self._note_unmetered(scope, call.model)

    @property
    def unmetered(self) -> int:
        """Model calls past the seams, all sessions together, of which nobody said the cost."""
        return self._unmetered

    def _note_unmetered(self, scope: Scope, model: str) -> None:
        with self._lock:
            self._unmetered += 1
            new = model not in self._warned
            self._warned.add(model)
        if new:
            self.log.llm_unmetered(model=model, task=scope.task_name, agent=scope.agent)
