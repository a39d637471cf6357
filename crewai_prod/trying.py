"""A call of a tool or step that failed: what is known of it then, and what happens next.

Rule: a call is made again if it may be repeated (it reads, or is idempotent) or if nothing was done
(the tool says so, its declaration does, or `reconcile` found it), and if its `retry` allows it.
Otherwise a failure is told. Of a declared `write` an exception says nothing about the effect, and
of any call that acts, neither does a timeout, for it may still be at work: the run pauses there.

What is decided here is committed before anyone hears of it. Knows nothing of crewai.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from crewai_prod import breakers, codec
from crewai_prod.concealing import conceal
from crewai_prod.deadlines import TimeLimit, acall_within, call_within, seconds_left
from crewai_prod.errors import (
    CrewProdError,
    ToolCrashed,
    ToolInputInvalid,
    ToolRejected,
    ToolTimeout,
    ToolUnavailable,
)
from crewai_prod.failures import describe, of_the_call, said_by
from crewai_prod.provider_errors import classify
from crewai_prod.records import StepKind
from crewai_prod.replay import AGAIN
from crewai_prod.retry import NO_RETRY, PASSING, Retry
from crewai_prod.run import Run
from crewai_prod.steps import idempotency_key
from crewai_prod.threads import in_thread
from crewai_prod.tooling import Outcome, ToolOptions
from crewai_prod.waiting import apause, pause
from crewai_prod.walk import Ticket

Inside = Callable[[], AbstractContextManager[None]]
_NOTHING_DONE = (ToolInputInvalid, ToolRejected, ToolUnavailable)


@dataclass(frozen=True, slots=True)
class Again:
    """The call is to be made again, after a wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Made:
    """Its effect has happened after all, with this result."""

    result: Any


@dataclass(frozen=True, slots=True)
class Told:
    """It failed; the failure is to be told."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Stopped:
    """The run has stopped there; `raised` is what that refusal had become on its way."""

    error: CrewProdError
    raised: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Returned:
    """The body has come back with this, which is not committed yet."""

    result: Any


End = Returned | Made | Told | Stopped


@dataclass(slots=True, kw_only=True)
class Trying:
    """The tries of one call in this session.

    Attributes:
        run: The run.
        ticket: Of the call.
        options: What is declared about the tool.
        arguments: As the tool gets them.
    """

    run: Run
    ticket: Ticket
    options: ToolOptions
    arguments: dict[str, Any]
    tries: int = 1
    began: float = field(default_factory=time.monotonic)

    def make(self, body: Callable[[], Any], inside: Inside) -> End:
        """Call the body, here or on a thread with a deadline, until there is an end to it.

        Args:
            body: A try.
            inside: What holds while the body is at work.
        """
        while True:
            try:
                with inside():
                    result = call_within(seconds_left(self.options.timeout), body)
            except BaseException as error:
                if not self._ends_call(error, on_loop=False):
                    raise
                found = self._failed(error)
            else:
                if not inspect.iscoroutine(result):  # else its end is still to come
                    self._note(None)
                return Returned(result)
            if not isinstance(found, Again):
                return found
            try:
                pause(found.seconds, self.run.check)
                self._again()
            except CrewProdError as refusal:
                return Stopped(refusal)

    async def make_later(self, body: Callable[[], Awaitable[Any]], inside: Inside) -> End:
        """The same for an asynchronous body; commits are made on worker threads."""
        while True:
            try:
                with inside():
                    result = await acall_within(seconds_left(self.options.timeout), body)
            except BaseException as error:
                if not self._ends_call(error, on_loop=True):
                    raise
                found = await in_thread(self._failed, error)
            else:
                self._note(None)
                return Returned(result)
            if not isinstance(found, Again):
                return found
            try:
                await apause(found.seconds, self.run.check)
                await in_thread(self._again)
            except CrewProdError as refusal:
                return Stopped(refusal)

    def _ends_call(self, error: BaseException, *, on_loop: bool) -> bool:
        """Whether an exception ends no more than the call. What a step raises is its caller's."""
        if self.ticket.kind is StepKind.TOOL:
            return of_the_call(error, on_loop=on_loop)
        return isinstance(error, Exception)

    def _failed(self, error: BaseException) -> Again | Made | Told | Stopped:
        """Commit what a try ended with; says what happens next."""
        run = self.run
        if run.refused(error):  # by what was kicked off in the body: its outcome is open
            return Stopped(run.stopped or CrewProdError(), error)
        failure = self._named(error)
        self._note(failure)
        try:
            found = self._decide(failure)
        except CrewProdError as refusal:
            return Stopped(refusal)
        over = run.braking.over_time(self.ticket.scope) if isinstance(error, TimeLimit) else None
        return found if over is None else Stopped(over)

    def _again(self) -> None:
        """Begin the next try.

        Raises:
            CrewProdError: The run was stopped meanwhile, or the intent could not be committed.
        """
        self.run.try_again(self.ticket)
        self.tries += 1

    @property
    def acts(self) -> bool:
        """Whether to make the call twice may be to do something twice."""
        return self.ticket.effect == "write" and not self.options.idempotent

    @property
    def _late(self) -> str:
        """How it was too late: by its own limit, or by that of the agent that called it."""
        left = seconds_left(None)
        if self.options.timeout is None or (left is not None and left <= 0):
            return "had not returned when the time of its agent was over"
        return f"did not return within {self.options.timeout:g} seconds"

    def _named(self, error: BaseException) -> Exception:
        """The failure as it is recorded: what is no `Exception` must not end the process."""
        name = self.ticket.name
        if isinstance(error, TimeLimit):
            return ToolTimeout(f"{name} {self._late}.", seconds=self.options.timeout)
        if isinstance(error, Exception):
            return error
        crashed = ToolCrashed(f"{name} ended with {said_by(error)}")
        crashed.__cause__ = error
        return crashed

    def _note(self, failure: Exception | None) -> None:
        if self.ticket.kind is StepKind.TOOL and self.ticket.effect != "nested":
            breakers.note_tool(self.ticket.name, self.options, failure)

    def _decide(self, failure: Exception) -> Again | Made | Told | Stopped:
        outcome = self._outcome(failure)
        if outcome.kind == "done":
            self.run.finish_tool(self.ticket, codec.encode(outcome.result), None)
            return Made(outcome.result)
        if outcome.kind == "unknown":
            why = f"raised {said_by(failure)}"
            if isinstance(failure, ToolTimeout):
                why = self._late
            refusal = self.run.leave_unknown(self.ticket, self._shown(why))
            refusal.__cause__ = failure
            return Stopped(refusal)
        wait = self._wait(failure) if outcome.kind == "not_done" else None
        facts = self._shown(describe(failure))
        if wait is None:
            self.run.fail_tool(self.ticket, facts)
            return Told(failure)
        self.run.fail_tool(self.ticket, {**facts, AGAIN: True})
        self.run.note_retry(self.ticket, wait)
        return Again(wait)

    def _outcome(self, failure: Exception) -> Outcome:
        """What is known of the effect: `not_done` if it may be tried again, `failed` if not."""
        if not self.acts or isinstance(failure, _NOTHING_DONE) or self._declared_safe(failure):
            return Outcome.not_done()
        found = self._reconciled()
        if found.kind != "unknown":
            return found
        undeclared = self.options.effect is None and self.ticket.kind is StepKind.TOOL
        unknown = not undeclared or isinstance(failure, ToolTimeout)
        return Outcome.unknown() if unknown else Outcome.failed()

    def _declared_safe(self, failure: Exception) -> bool:
        """Whether the tool's own `retry` names this class of failures."""
        retry = self.options.retry
        if retry is None or retry.on is PASSING:
            return False
        return any(isinstance(one, tuple(retry.on)) for one in (failure, failure.__cause__))

    def _reconciled(self) -> Outcome:
        if self.options.reconcile is None:
            return Outcome.unknown()
        key = idempotency_key(self.run.run_id, self.ticket.step_id)
        try:
            return self.options.reconcile(dict(self.arguments), key)
        except Exception as error:  # noqa: BLE001 - who cannot tell does not know
            what = self._shown(said_by(error))
            self.run.log.warning(f"reconcile of {self.ticket.name} failed: {what}")
            return Outcome.unknown()

    def _wait(self, failure: Exception) -> float | None:
        """Seconds until the next try, None if there is none."""
        retry: Retry = self.options.retry or NO_RETRY
        passing = retry.on is PASSING and not isinstance(failure, _NOTHING_DONE)
        judged = (classify(failure) or failure) if passing else failure
        return retry.wait(judged, self.tries, time.monotonic() - self.began)

    def _shown(self, told: Any) -> Any:
        """What is told of the call, without what is not to be shown."""
        hidden = self.options.sensitive
        return conceal(told, self.arguments, hidden) if hidden else told
