"""`step` and `open_run`: durable runs around plain Python.

Rule: a step's function is called once per run for one request; afterwards its recorded result is
returned. While it runs, everything hardened in it (crews, agents, other steps) is recorded as part
of the run, so that a function that was interrupted is called again and only what had not been done
is done. Knows nothing of crewai.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import orjson

from crewai_prod.bodies import current_scope, in_body, users_code
from crewai_prod.deadlines import ends_within
from crewai_prod.errors import UsageError
from crewai_prod.failures import revive
from crewai_prod.kickoff import Kickoff, attach_finished, place_around, with_cause
from crewai_prod.options import Options
from crewai_prod.records import StepKind, StepRecord, StepStatus
from crewai_prod.run import Run
from crewai_prod.steps import Scope
from crewai_prod.stored import UNFAITHFUL, Kinds, kinds_seen_by, pack, unpack
from crewai_prod.terminating import SIGTERM
from crewai_prod.threads import in_thread
from crewai_prod.tooling import ToolOptions
from crewai_prod.trying import End, Made, Returned, Stopped, Trying
from crewai_prod.walk import Ticket

F = TypeVar("F", bound=Callable[..., Any])


@overload
def step(function: F, /) -> F: ...
@overload
def step(*, name: str | None = None, **declared: Any) -> Callable[[F], F]: ...
def step(function: Any = None, /, *, name: str | None = None, **declared: Any) -> Any:
    """Make a function a step of whatever run it is called in.

    Within a run (an `open_run` block, a hardened flow's method, a tool of a hardened crew) its
    result is recorded and returned from the journal when the run is resumed; an exception that it
    raised and that the run survived is raised again. Outside a run it is called as it is. Use it
    as `@step` or `@step(name=..., effect=...)`, on functions, methods and coroutine functions.

    Args:
        function: What to call. Its arguments identify the call, except `self` or `cls`.
        name: In the journal. Default: the function's qualified name.
        **declared: As for tools. `effect`: `nested` (default: called again if it was interrupted;
            what is hardened in it is not repeated), `read`, or `write` (if it was interrupted or
            raised, the run pauses: nobody can tell whether it acted). `idempotent`, `reconcile`,
            `timeout`, `retry`, `sensitive`.

    Raises:
        UsageError: An option that does not exist.
    """
    if function is None:
        return functools.partial(step, name=name, **declared)
    if not callable(function):
        raise UsageError(f"step() takes a function, not {function!r}.")
    called = name or function.__qualname__
    options = ToolOptions.read(called, {"effect": "nested", **declared})
    if options.approval is not None:
        raise UsageError(f"step {called!r}: approval is for tools; a step's caller can ask first.")
    definition = StepDefinition(called, function, options)
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def stepped_async(*args: Any, **kwargs: Any) -> Any:
            return await definition.acall(args, kwargs)

        return stepped_async

    @functools.wraps(function)
    def stepped(*args: Any, **kwargs: Any) -> Any:
        return definition.call(args, kwargs)

    return stepped


@dataclass(slots=True)
class StepDefinition:
    """A function that is a step."""

    name: str
    function: Callable[..., Any]
    options: ToolOptions
    _kinds: Kinds | None = None

    @property
    def kinds(self) -> Kinds:
        """The classes its results and exceptions may be of."""
        if self._kinds is None:
            self._kinds = kinds_seen_by(self.function)
        return self._kinds

    def call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call it, or return what it returned.

        Raises:
            CrewProdError: The run was stopped, or the step could not be recorded.
        """
        begun = self._begin(args, kwargs)
        if begun is None:
            return self.function(*args, **kwargs)
        if begun.settled:
            return begun.replay()
        body = functools.partial(self.function, *args, **kwargs)
        with begun.run.in_flight():
            return begun.settle(begun.trying.make(body, begun.body))

    async def acall(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """As `call`, for a coroutine function; commits are made on worker threads."""
        begun = await in_thread(self._begin, args, kwargs)
        if begun is None:
            return await self.function(*args, **kwargs)
        if begun.settled:
            return begun.replay()
        body = functools.partial(self.function, *args, **kwargs)
        with begun.run.in_flight():
            end = await begun.trying.make_later(body, begun.body)
            return await in_thread(begun.settle, end)

    def _begin(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> StepCall | None:
        place = place_around()
        if place is None:
            return None
        run, scope = place
        arguments = _named(self.function, args, kwargs)
        ticket = run.begin_tool(scope, self.name, arguments, self.options, StepKind.FUNCTION)
        trying = Trying(run=run, ticket=ticket, options=self.options, arguments=arguments)
        return StepCall(trying, self.kinds)


@dataclass(frozen=True, slots=True)
class StepCall:
    """One call of a step, between its beginning and its end."""

    trying: Trying
    kinds: Kinds

    @property
    def run(self) -> Run:
        """The run it belongs to."""
        return self.trying.run

    @property
    def ticket(self) -> Ticket:
        """Its step."""
        return self.trying.ticket

    @property
    def record(self) -> StepRecord | None:
        """What an earlier session recorded of it."""
        return self.ticket.recorded

    @property
    def settled(self) -> bool:
        """Whether there is nothing to be called."""
        return self.record is not None and self.record.result != UNFAITHFUL

    def replay(self) -> Any:
        """What it returned; raises what it raised."""
        assert self.record is not None
        if self.record.status is StepStatus.FAILED:
            raise revive(orjson.loads(self.record.error or "{}"), self.kinds)
        return unpack(self.record.result or "null", self.kinds)

    def body(self) -> AbstractContextManager[None]:
        """Where its function runs."""
        return in_body(self.run, self.ticket)

    def settle(self, end: End) -> Any:
        """What its caller gets.

        Raises:
            BaseException: What it raised; or what stopped the run there.
        """
        if isinstance(end, Returned):
            return self.finish(end.result)
        if isinstance(end, Made):
            return end.result
        if isinstance(end, Stopped):
            raise end.raised or end.error
        raise end.error

    def finish(self, result: Any) -> Any:
        """Commit the result; only then does anyone see it."""
        if self.record is not None:  # walked again, because its result could not be kept
            return result
        text, faithful = pack(result, self.kinds)
        if not faithful and self.ticket.effect == "nested":
            self.run.note_unfaithful(self.ticket, f"returned a {type(result).__qualname__}")
            text = UNFAITHFUL
        self.run.finish_tool(self.ticket, text, result if isinstance(result, str) else None)
        return result


def _named(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments by name, without the object a method belongs to."""
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    first = next(iter(bound.arguments), None)
    return {n: v for n, v in bound.arguments.items() if n != first or n not in ("self", "cls")}


@dataclass(slots=True)
class OpenRun:
    """A run around the code of a `with` or `async with` block; see `open_run`.

    Attributes:
        run_id: Its name; None until the block begins, if it was left to be made.
        finished: Whether an earlier session brought it to its end.
    """

    options: Options
    name: str
    inputs: Any
    run_id: str | None = None
    finished: bool = False
    _kickoff: Kickoff | None = None
    _token: Any = field(default=None, repr=False)
    _code: Any = field(default=None, repr=False)
    _time: Any = field(default=None, repr=False)

    def __enter__(self) -> Self:
        self._open()
        return self._begin()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()
        self._end(error)

    async def __aenter__(self) -> Self:
        SIGTERM.heed(self.options.settings)
        await in_thread(self._open)
        return self._begin()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()
        if error is None or isinstance(error, (Exception, asyncio.CancelledError)):
            await in_thread(self._end, error)
        else:  # the loop itself is going down: nothing may be awaited any more
            self._end(error)

    def _begin(self) -> Self:
        assert self._kickoff is not None
        self._token = current_scope.set((self._kickoff.run, Scope()))
        self._code = users_code.set(True)
        self._time = ends_within(self._kickoff.run.braking.brakes.seconds_left())
        self._time.__enter__()
        return self

    def _leave(self) -> None:
        self._time.__exit__(None, None, None)
        current_scope.reset(self._token)
        users_code.reset(self._code)

    def _open(self) -> None:
        if self._kickoff is not None:
            raise UsageError("An open_run() block is entered once; call open_run() again.")
        journal = self.options.open_journal()
        run = Run(journal, self.options.tools, self.options.retry)
        self._kickoff = Kickoff(
            run=run, options=self.options, kind="function", name=self.name, run_id=self.run_id
        )
        try:
            opened = self._kickoff.open(self.inputs)
        except BaseException as error:
            if not run.opened:
                raise
            raise with_cause(self._kickoff.fail(error), error)  # noqa: B904 - it sets the cause
        self.run_id = opened.run.run_id
        self.finished = opened.lease is None
        if self.finished:
            attach_finished(run, opened, self.options)

    def _end(self, error: BaseException | None) -> None:
        assert self._kickoff is not None
        run = self._kickoff.run
        if self.finished:
            run.ended = True
            return
        failure = error if error is not None else run.stopped
        if failure is None:
            self._kickoff.complete("{}")
            return
        seen = self._kickoff.fail(failure)
        if seen is not error:
            raise with_cause(seen, failure) from error


def open_run(
    run_id: str | None = None, *, name: str = "run", inputs: Any = None, **options: Any
) -> OpenRun:
    """A run around the code of a `with` or `async with` block.

    Within the block, functions under `step`, kickoffs of hardened crews, agents and flows, and
    their tools and model calls are recorded in this run. Run again with the same id, the block's
    code is executed again and what was recorded is not: a failed or killed run continues, a
    finished one returns what it holds and refuses anything new.

    Args:
        run_id: Name of the run; None: one is made (`run_id` of the block's object).
        name: What it is called in `crewai-prod runs`.
        inputs: What it is about; a run id belongs to one set of inputs.
        **options: As for `harden`: `journal`, `durability`, `unknown`, `log`, `prices`,
            `on_unpriced`, `on_alert`, `budget`, `budgets` (agents only), `route`, `loops`,
            `guards` (of what is done in the block), `escalation`, `notify`, `human`, `settings`.

    Returns:
        A context manager, entered once.

    Raises:
        UsageError: An option that does not exist.
        RunInUse: On entering: another process or thread is advancing the run.
        RunMismatch: On entering: the run was started with other inputs.
        JournalError: On entering or leaving: the journal could not be read or written.
    """
    return OpenRun(Options.read(**options), name, inputs, run_id)
