"""The tries of one model call: after each, another one, another model, or the end.

Rule: the layers above see an answer or a failure that is final. One that another try cannot help
stops the run, so that nothing CrewAI makes of it (a complaint, a text, an answer without a plan)
passes for a result. Exceptions: a conversation that is too long is CrewAI's to shorten, if the
agent says so (if not, CrewAI would end the process); what is asked beside the conversation (to
remember something) is no part of the result; and in a body of the user's own, a tool's or a
step's, it is the user's code that hears of it and decides.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception

from crewai_prod import breakers, complaints
from crewai_prod._crewai.capping import ask_of, is_cut, output_capped, unread
from crewai_prod._crewai.fallbacks import fallback, stand_in
from crewai_prod._crewai.metering import Meter, is_cut_short
from crewai_prod._crewai.stop import Passing, StopRun, refusing
from crewai_prod._crewai.usage import read_usage
from crewai_prod.bodies import in_users_code
from crewai_prod.brakes import Lower
from crewai_prod.budget import Waits, weigh
from crewai_prod.deadlines import Left, TimeLimit, call_within, seconds_left
from crewai_prod.errors import (
    ContextOverflow,
    CrewProdError,
    DeadlineExceeded,
    EmptyResponse,
    ModelError,
    ModelRejected,
    ModelTimeout,
    ModelUnavailable,
    RouteFailed,
    UsageError,
)
from crewai_prod.provider_errors import classify
from crewai_prod.records import Usage
from crewai_prod.retry import Breaker
from crewai_prod.route import Choice
from crewai_prod.steps import lies_beside
from crewai_prod.threads import in_thread
from crewai_prod.waiting import apause, pause
from crewai_prod.walk import Ticket

if TYPE_CHECKING:
    from crewai_prod._crewai.model_call import Messages, ModelCall

_OVERFLOWS: Final = 5
"""How often one agent's conversation may be found too long until shortening it is given up."""

_ALL: Final = 1_000_000
"""More models than anyone names: so many are passed over where none can stand in."""
_FREE: Final = nullcontext()
_LOOK: Final = 0.02
"""Seconds between two looks at whether other calls have left enough of a budget."""
_reserved: ContextVar[bool] = ContextVar("crewai_prod_reserved", default=False)
"""Whether what is called here is called within a model call that has set something aside."""


def _breaker(model: Any) -> Breaker:
    """The breaker of the provider that a model is asked of."""
    # Only Azure's has an endpoint; what a pydantic object lacks takes it long to say so.
    where = getattr(model, "base_url", None) or vars(model).get("endpoint") or ""
    return breakers.of_provider(str(getattr(model, "provider", "")), str(where))


class Tries:
    """What has been tried for one model call, and what comes next.

    Args:
        call: The call.
        ticket: Its step, not recorded yet.
        alone: No other model can stand in.

    Attributes:
        model: Who is asked now.
        sent: The messages, where these are not those that the call was made with.
        cap: Tokens that this try may be answered with; None: as the model is set.
    """

    def __init__(self, call: ModelCall, ticket: Ticket, *, alone: bool = False) -> None:
        self.model: Any = call.llm
        self.sent: Messages | None = call.sent
        self._call = call
        self._ticket = ticket
        self._run = call.run
        self._retry = call.run.retry
        self._alone = alone
        self._others = 0
        self._of_model = 0
        self._made = 0
        self._tried = False
        self._began = time.monotonic()
        self._wait = 0.0
        self._weight: int | None = None
        self._passed_over = _ALL if alone else 0
        self._left: Left | None = None
        self.cap: int | None = None
        self._breaker: Breaker

    @property
    def seconds(self) -> float | None:
        """How long the next try may take."""
        return seconds_left(self._retry.timeout)

    def choose(self) -> None:
        """Ask the model that the run's rules choose for this call.

        Raises:
            RouteFailed: A rule could not say; so nobody is asked.
            UsageError: The model cannot be made of what it is given as.
            StopRun: What a rule has to know could not be looked up.
        """
        if self._alone or not self._run.routing.on:
            return
        try:
            choice = self._run.routing.choose(self._ticket, self._weighed())
        except RouteFailed:
            raise
        except CrewProdError as refusal:
            raise StopRun(refusal) from refusal
        if choice is not None:
            self._go_to(choice, "Route")

    def prepare(self) -> None:
        """What comes before a call is made: people are asked who are to be, and a model is chosen.

        Raises:
            StopRun: The run waits for a person, or they have said no.
            RouteFailed: See `choose`; so does `UsageError`.
        """
        if self._run.escalating.of_models and not lies_beside(self._ticket.scope.path):
            with refusing():
                note = self._run.escalating.before_model(self._ticket)
            if note is not None:
                told = {"role": "user", "content": complaints.told_by_person(note)}
                self.sent = [*(self.sent or self._call.messages), told]
        self.choose()

    async def aprepare(self) -> None:
        """The same on an event loop, done on a worker thread."""
        if self._run.escalating.of_models or self._run.routing.on:
            await in_thread(self.prepare)

    def _go_to(self, choice: Choice, of: str) -> None:
        """Ask another model, and say why."""
        before, own, ticket = self._name(), str(self._call.llm.model), self._ticket
        self.model = stand_in(self._run, choice.model, self._call.llm, of)
        ticket.route = choice.facts(self._name(), own)
        self._run.log.llm_routed(
            before=before,
            model=self._name(),
            rule=choice.rule,
            reason=choice.reason,
            step_id=ticket.step_id,
            task=ticket.scope.task_name,
            agent=ticket.scope.agent,
        )

    def again(self, failure: ModelError, make: Callable[[], Any]) -> Any:
        """What follows a try that has failed: further ones; raises what the last one raised."""
        failed = [failure]

        def next_try() -> Any:
            if failed:
                raise failed.pop()
            return make()

        return Retrying(
            retry=retry_if_exception(self._goes_on),
            wait=self._seconds_to_wait,
            sleep=lambda seconds: pause(seconds, self._still_wanted),
            reraise=True,
        )(next_try)

    async def aagain(self, failure: ModelError, make: Callable[[], Awaitable[Any]]) -> Any:
        """The same on an event loop."""
        failed = [failure]

        async def next_try() -> Any:
            if failed:
                raise failed.pop()
            return await make()

        return await AsyncRetrying(
            retry=retry_if_exception(self._goes_on),
            wait=self._seconds_to_wait,
            sleep=lambda seconds: apause(seconds, self._still_wanted),
            reraise=True,
        )(next_try)

    def begin(self) -> None:
        """Begin a try.

        Raises:
            ModelUnavailable: Its provider has failed too often to be asked now.
            DeadlineExceeded: There is no time left for it.
        """
        self._still_in_time()
        self._of_model += 1
        self._tried = False
        self._look_at_breaker()
        if self._made:
            with refusing():
                self._run.try_again(self._ticket)
        self._made += 1
        self._tried = True
        self._put_on_ticket()

    def _look_at_breaker(self) -> None:
        self._breaker = _breaker(self.model)
        refused = self._breaker.refuses(self._retry.open_for)
        if refused is not None:
            raise ModelUnavailable(
                f"{self._name()} has failed {self._retry.open_after} times in a row and is left "
                f"alone for {refused:.0f} s.",
                retry_after=refused,
            )

    def _put_on_ticket(self) -> None:
        """Note who is asked.

        Raises:
            StopRun: Nobody knows what that one costs, and such models are not called.
        """
        run, ticket, routed = self._run, self._ticket, self._run.routing.on
        ticket.model = self._name()
        ticket.provider = getattr(self.model, "provider", None)
        if not routed and self.model is self._call.llm:
            return  # it was looked at before
        refusal = run.bill.refusal(ticket)
        if refusal is not None:
            raise StopRun(run.stop(refusal))
        if routed and not run.braking.brakes.on:  # its estimates learn from what is counted
            run.braking.brakes.estimate(ticket.step_id, ticket.model, self._weighed())

    def reserve(self) -> None:
        """Set aside what the try may take of the run's budgets; wait for other calls if need be.

        Raises:
            StopRun: It would pass a limit, or the run was stopped meanwhile.
            DeadlineExceeded: There is no time left for it.
        """
        while self._run.braking.brakes.on and not self.granted():
            time.sleep(_LOOK)
            self._still_in_time()

    async def areserve(self) -> None:
        """The same on an event loop; the journal is asked on a worker thread."""
        while self._run.braking.brakes.on and not await in_thread(self.granted):
            await asyncio.sleep(_LOOK)
            self._still_in_time()

    def granted(self) -> bool:
        """Whether what the try may take could be set aside; a cheaper model is gone down to.

        Raises:
            ModelUnavailable: That one's provider has failed too often to be asked now.
        """
        weight, patient = self._weighed(), not _reserved.get()
        while True:
            ask = replace(ask_of(self.model, weight), passed_over=self._passed_over)
            with refusing():
                found = self._run.braking.reserve(self._ticket, ask, weight, patient=patient)
            if not isinstance(found, Lower):
                break
            self._go_down(found)
        if isinstance(found, Waits):
            return False
        self.cap = found.output if found.capped else None
        return True

    def _weighed(self) -> int:
        if self._weight is None:
            self._weight = weigh(self._call.messages, self._call.params)
        return self._weight

    def _go_down(self, found: Lower) -> None:
        """Ask the next cheaper model of a budget, of which too little is left for this one."""
        model = found.account.budget.route_to[self._passed_over]
        choice = Choice(model=model, rule="route_to", reason=found.excess.rest)
        self._go_to(choice, "Budget(route_to)")
        self._passed_over, self._of_model = self._passed_over + 1, 1
        self._tried = False
        self._look_at_breaker()
        self._tried = True
        self._put_on_ticket()

    def ask(self, work: Callable[[Any, Messages | None], Any]) -> Any:
        """Ask the model; if nobody waits for it any more, what it may take is kept until then.

        On an event loop a call that is left is cancelled: it is not answered.

        Raises:
            TimeLimit: It did not answer in time.
        """
        model, sent, seconds = self.model, self.sent, self.seconds
        if seconds is None:
            return work(model, sent)
        left = self._left = Left(self._run.braking.release)

        def ask() -> Any:
            try:
                return work(model, sent)
            finally:
                left.over()

        return call_within(seconds, ask)

    def under_way(self) -> AbstractContextManager[None]:
        """Where the model is asked: capped, and what is called in here waits for no other call."""
        return self._capped() if self._run.braking.brakes.on else _FREE

    @contextmanager
    def _capped(self) -> Iterator[None]:
        token = _reserved.set(True)
        try:
            with output_capped(self.cap):
                yield
        finally:
            _reserved.reset(token)

    def _still_in_time(self) -> None:
        self._still_wanted()
        left = seconds_left(None)
        if left is not None and left <= 0:
            raise DeadlineExceeded

    def answered(self, answer: Any, meter: Meter) -> Any:
        """Commit an answer.

        Raises:
            EmptyResponse: It says nothing.
            ModelUnavailable: It is the beginning of one.
        """
        self._note(None)
        self._refuse_cut(meter)
        unfit: ModelError | None = None
        if answer is None or (isinstance(answer, (str, list)) and not answer):
            unfit = EmptyResponse()
        elif is_cut_short(self.model, meter):
            unfit = ModelUnavailable(f"The stream of {self._name()} ended before its answer did.")
        if unfit is not None:
            self._call.failed(self._ticket, unfit, meter)
            raise unfit
        return self._call.finish(self._ticket, answer, meter, str(self.model.model))

    def _refuse_cut(self, meter: Meter) -> None:
        """Stop at an answer that the rest of a budget has cut: it is no answer, but paid for.

        Raises:
            StopRun: It is. Resumed with a higher limit, the run asks again.
        """
        if self.cap is None:
            return
        said = sum(map(read_usage, meter.usages), Usage()).output_tokens
        if not is_cut(meter.finish_reason, said, self.cap):
            return
        unfit = ModelRejected(f"The answer was cut at {self.cap} tokens: so many were left.")
        self._call.failed(self._ticket, unfit, meter)
        with refusing():
            raise self._run.braking.cut(self._ticket.scope)

    def failed(self, error: Exception, meter: Meter) -> Exception:
        """Record a try that failed; returns what it means. A hook's refusal is none."""
        if isinstance(error, Passing):
            with refusing():
                self._run.braking.release(self._ticket.step_id)
            return error
        failure = self._meaning(error)
        if isinstance(error, TimeLimit):
            meter.late = partial(self._call.bill_late, self._ticket, self._made, self.model)
            if self._left is not None:
                with refusing():
                    self._left.leave(partial(self._run.braking.keep, self._ticket, self._made))
        self._note(failure)
        if failure is not error:
            failure.__cause__ = failure.__cause__ or error
        self._call.failed(self._ticket, failure, meter)
        if self.cap is not None and unread(error) == "length":
            with refusing():
                raise self._run.braking.cut(self._ticket.scope)
        return failure

    def _note(self, failure: Exception | None) -> None:
        breakers.note_provider(self._breaker, failure, self._retry.open_after)

    def _meaning(self, error: Exception) -> Exception:
        if not isinstance(error, TimeLimit):
            return classify(error) or error
        left = seconds_left(None)
        if left is not None and left <= 0:
            return DeadlineExceeded()
        return ModelTimeout(f"{self._name()} did not answer within {self._retry.timeout} s.")

    def __enter__(self) -> None:
        """Around all tries."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """What the last one raised becomes what the layers above are to see."""
        try:
            if isinstance(error, (ModelError, DeadlineExceeded, UsageError, RouteFailed)):
                raise self._final(error) from error.__cause__
        finally:
            self._run.braking.brakes.release(self._ticket.step_id)

    def _final(self, error: CrewProdError) -> Exception:
        scope = self._ticket.scope
        over = self._run.braking.over_time(scope) if isinstance(error, DeadlineExceeded) else None
        if over is not None:
            return StopRun(over)
        error.task, error.agent, error.step_id = scope.task_name, scope.agent, self._ticket.step_id
        error.run_id = self._run.run_id
        error.fields |= {"attempts": self._made, "model": str(self.model.model)}
        given = error.__cause__
        if isinstance(error, ContextOverflow) and self._call.shortened:
            if self._run.overflowed(scope) <= _OVERFLOWS and isinstance(given, Exception):
                return given
        elif lies_beside(scope.path) and isinstance(given, Exception):
            self._run.degraded = True
            return given
        self._run.failed_for_good(self._ticket.step_id, error)
        return error if in_users_code() else StopRun(self._run.stop(error))

    def _goes_on(self, error: BaseException) -> bool:
        """Whether there is another try, and after how long."""
        if not isinstance(error, ModelError):
            return False
        elapsed = time.monotonic() - self._began
        wait = self._retry.wait(error, self._of_model, elapsed)
        if wait is None:
            if not self._next_model(error):
                return False
            wait = 0.0
        self._wait = wait
        if self._tried:
            self._run.note_retry(self._ticket, wait)
        return True

    def _next_model(self, error: ModelError) -> bool:
        other = None if self._alone else fallback(self._run, self._others, self._call.llm)
        if other is None:
            return False
        before = self._name()
        self.model, self._others, self._of_model = other, self._others + 1, 0
        self._run.log.llm_fallback(
            before=before,
            model=self._name(),
            error=error,
            step_id=self._ticket.step_id,
            task=self._ticket.scope.task_name,
            agent=self._ticket.scope.agent,
        )
        return True

    def _seconds_to_wait(self, state: RetryCallState) -> float:
        left = seconds_left(self._wait)
        return max(0.0, left if left is not None else self._wait)

    def _still_wanted(self) -> None:
        """Nobody waits in a run that was stopped or cancelled."""
        with refusing():
            self._run.heed()

    def _name(self) -> str:
        return str(self.model.model)
