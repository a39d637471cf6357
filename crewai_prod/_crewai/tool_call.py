"""One call of a tool, from the look into the journal to what CrewAI is handed.

A tool that raises is recorded, and its exception goes on to CrewAI, which tells the model, counts
and announces it as ever. On the text path CrewAI then calls the tool again, up to five times for
one decision of the model: those calls get the same exception, and the tool is not run.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import orjson
from crewai.tools.agent_tools.base_agent_tools import BaseAgentTool
from crewai.tools.base_tool import BaseTool
from pydantic_core import to_jsonable_python

from crewai_prod import codec, complaints
from crewai_prod._crewai.ask_human import AskHuman
from crewai_prod._crewai.changing import POSITIONAL, ToolForm
from crewai_prod._crewai.metering import outside_calls
from crewai_prod._crewai.paging import ReadToolResult
from crewai_prod._crewai.places import scope_of
from crewai_prod._crewai.stop import is_tool_failure, tool_failure
from crewai_prod._crewai.tool_results import (
    decode_result,
    encode_result,
    failure_text,
    is_ours,
    refused,
    revived,
    told,
)
from crewai_prod._crewai.typed import MISFIT, Reading, Typed, arguments_of, body_of
from crewai_prod.bodies import in_body
from crewai_prod.concealing import conceal
from crewai_prod.errors import (
    CrewProdError,
    ModelError,
    ToolError,
    ToolInputInvalid,
    ToolRejected,
)
from crewai_prod.failures import describe, said_by
from crewai_prod.guarding import At, Refusal
from crewai_prod.paging import Page, Shown
from crewai_prod.records import StepRecord, StepStatus
from crewai_prod.required import REFUSED
from crewai_prod.run import Run
from crewai_prod.steps import Scope
from crewai_prod.tooling import ToolOptions
from crewai_prod.trying import End, Made, Returned, Stopped, Trying
from crewai_prod.walk import Ticket


@dataclass(slots=True)
class ToolSeam:
    """What a tool needs to know of its run."""

    run: Run
    original: BaseTool
    worker: BaseTool
    """Whose body does the work: the original, or a copy of it that works within the run."""
    options: ToolOptions
    within: Scope | None = None
    """The scope of a kickoff that CrewAI gives no context of its own."""
    raised: dict[str, Raised] = field(default_factory=dict)
    """What a tool of this kickoff has raised last, by scope."""
    say: Callable[[Any], str] | None = None
    """The whole of a result as a model reads it, if the tool's results are cut."""


@dataclass(frozen=True, slots=True)
class Raised:
    """A tool's exception on its way to the model."""

    step_id: str
    tool: str
    given: tuple[Any, ...]
    error: Exception


one_for_one: ContextVar[bool] = ContextVar("crewai_prod_one_for_one", default=False)
"""Whether each call is a decision of its own: on the native path, where nothing is tried again."""


worker_failures: ContextVar[list[tuple[str, Exception]] | None] = ContextVar(
    "crewai_prod_worker_failures", default=None
)
"""Agents (by role) to whom work was handed here, and what ended it."""


@dataclass(slots=True, kw_only=True)
class ToolCall:
    """One call of a tool, between its beginning and its end."""

    seam: ToolSeam
    given: tuple[tuple[Any, ...], dict[str, Any]]
    value: Any = None
    error: Exception | None = None
    settled: bool = False
    workers: list[tuple[str, Exception]] = field(default_factory=list)
    _trying: Trying | None = None
    _changed: Mapping[str, Any] | None = None
    _reading: Reading | None = None

    @classmethod
    def begin(cls, seam: ToolSeam, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ToolCall:
        """Look the call up and commit its intent; settled if there is nothing left to do."""
        run, call = seam.run, cls(seam=seam, given=(args, kwargs))
        arguments, call._reading = arguments_of(seam.worker, args, kwargs)
        try:
            scope = scope_of(run, within=seam.within)
            call.error = call._raised_before(scope)
            if call.error is not None:
                call.settled = True
                return call
            ticket = run.find_tool(scope, seam.original.name, arguments, seam.options)
            arguments, refusal = call._judged(ticket, arguments)
            form = None
            if seam.options.approval is not None:
                form = ToolForm(seam.worker, seam.options.sensitive)
            run.admit_tool(ticket, arguments, seam.options, refusal, form)
        except CrewProdError as refusal:
            call.value, call.settled = refused(refusal), True
            return call
        passed = dict(arguments) if ticket.edited is None else ticket.edited
        call._trying = Trying(run=run, ticket=ticket, options=seam.options, arguments=passed)
        if ticket.recorded is not None:
            call.settled = True
            call._replay(ticket.recorded)
        return call

    @property
    def passed(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the body is called with: as the model gave it, as guards or a person changed it."""
        edited = self._live.ticket.edited
        changed = self._changed if edited is None else edited
        if changed is None:
            return self.given
        named = {name: value for name, value in changed.items() if name != POSITIONAL}
        return tuple(changed.get(POSITIONAL, ())), named

    def body(self) -> Callable[[], Any]:
        """What does the work: a new try each time it is called."""
        worker, passed = self.seam.worker, self.passed
        again = partial(body_of(worker), *passed[0], **passed[1])
        first = self._first(passed)
        if first is None or not isinstance(worker, Typed):
            return again
        return _first_then(partial(worker.begin, first), again)

    def body_later(self) -> Callable[[], Awaitable[Any]]:
        """Its asynchronous twin."""
        worker, passed = self.seam.worker, self.passed
        again = partial(worker._arun, *passed[0], **passed[1])
        first = self._first(passed)
        if first is None or not isinstance(worker, Typed):
            return again
        return _first_then(partial(worker.abegin, first), again)

    def _first(self, passed: object) -> Reading | None:
        """What the first try is made with; None: as any other, guards or a person changed it."""
        return self._reading if passed is self.given else None

    def make(self, body: Callable[[], Any]) -> Any:
        """Call the body until it comes back or its failure is to be told.

        Returns:
            What CrewAI gets; a coroutine that ends with it, if the body returned one.

        Raises:
            Exception: What the tool raised, for CrewAI to tell.
        """
        with self.seam.run.in_flight():
            end = self._live.make(body, self._body)
            if not (isinstance(end, Returned) and inspect.iscoroutine(end.result)):
                self._settle(end)
                return self.end()
        made = [end.result]
        return self.make_later(lambda: made.pop() if made else body())

    async def make_later(self, body: Callable[[], Awaitable[Any]]) -> Any:
        """The same for an asynchronous body; commits are made on worker threads."""
        with self.seam.run.in_flight():
            end = await self._live.make_later(body, self._body)
            await self.seam.run.guarding.in_thread(self._settle, end)
            return self.end()

    def end(self) -> Any:
        """Hand over what the call came to.

        Raises:
            Exception: What the tool raised, for CrewAI to tell.
        """
        if self.error is not None:
            raise self.error
        if self.seam.say is not None and self._trying is not None:
            stored, _ = encode_result(self.value)
            self.seam.run.paging.note(stored, self._live.ticket.step_id)
        return self.value

    def _raised_before(self, scope: Scope) -> Exception | None:
        """What the same call has raised, if nothing else was called in its scope since."""
        last = self.seam.raised.get(scope.path)
        if last is None or one_for_one.get():
            return None
        same = (last.tool, last.given) == (self.seam.original.name, self.given)
        if not same or self.seam.run.last_step(scope) != last.step_id:
            return None
        self.seam.run.check()
        return last.error

    def _judged(
        self, ticket: Ticket, arguments: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], ToolError | None]:
        """The arguments as guards let them pass, and why they do not.

        Raises:
            CrewProdError: The run was stopped.
        """
        guarding = self.seam.run.guarding
        if ticket.recorded is not None or not guarding.watches(ticket.scope, "tool_call"):
            return arguments, None
        given = _plain(arguments)
        try:
            passed = guarding.judge("tool_call", given, self._at(ticket))
        except Refusal as refusal:
            why = complaints.refused_call(ticket.name, refusal.reason)
            return arguments, ToolRejected(why, guard=refusal.guard)
        if passed is given:
            return arguments, None
        self._changed = passed
        return passed, None

    def _at(self, ticket: Ticket) -> At:
        options, record = self.seam.options, ticket.recorded
        return At(
            scope=ticket.scope,
            step_id=ticket.step_id if record is None else record.step_id,
            tool=self.seam.original.name,
            effect=options.effect,
            sensitive=options.sensitive,
            built_in=isinstance(self.seam.original, (AskHuman, ReadToolResult)),
        )

    def _shown_to_model(self, value: Any, stored: str) -> Any:
        """What came back as guards let it pass.

        Args:
            value: As the tool gave it.
            stored: The same as it is recorded, which is what guards are given.
        """
        guarding, ticket = self.seam.run.guarding, self._live.ticket
        if self.seam.options.untrusted:
            guarding.taint(ticket.scope, self.seam.original.name)
        if not guarding.watches(ticket.scope, "tool_result"):
            return value
        failure = failure_text(value)
        if failure is not None:
            given = failure
        else:  # of a page only its place is recorded
            given = str(value) if isinstance(value, Page) else decode_result(stored)
        try:
            passed = guarding.judge("tool_result", given, self._at(ticket))
        except Refusal as refusal:
            return tool_failure(complaints.withheld(ticket.name, refusal.reason))
        except CrewProdError as refusal:
            return refused(refusal)
        if passed is given:
            return value
        return passed if failure is None else tool_failure(codec.text_of(passed))

    def _replay(self, record: StepRecord) -> None:
        """What it returned or raised."""
        if record.status is StepStatus.FAILED:
            made = record.effect != REFUSED
            self._tell(revived(orjson.loads(record.error or "{}")), made=made)
            return
        stored = record.result or "null"
        value = decode_result(stored)
        if isinstance(value, dict) and isinstance(self.seam.original, ReadToolResult):
            args, kwargs = self.given
            value = self.seam.worker._run(*args, **kwargs)
        self.value = self._shown_to_model(value, stored)

    def _tell(self, error: Exception, *, made: bool = True) -> None:
        """Have a failure told: one of ours is returned, any other is raised.

        What is raised is kept: on the text path CrewAI tries again. A text that guards have
        modified or rejected is returned, too.

        Args:
            error: The failure.
            made: Whether the call was made. Of one that was refused the tool has said nothing.
        """
        text = error.message if isinstance(error, CrewProdError) else codec.text_of(error)
        if made and not isinstance(error, ToolInputInvalid):
            failure = tool_failure(text)
            shown = self._shown_to_model(failure, "null")
            if shown is not failure:
                self.value = shown
                return
        typed = isinstance(self.seam.worker, Typed) and isinstance(error, MISFIT)
        if is_ours(error) and not typed:
            self.value = told(error)
            return
        ticket = self._live.ticket
        last = Raised(ticket.step_id, self.seam.original.name, self.given, error)
        self.seam.raised[ticket.scope.path] = last
        self.error = error

    @property
    def _live(self) -> Trying:
        assert self._trying is not None
        return self._trying

    def _body(self) -> _AtWork:
        """Where the tool's own code runs: no part of the model call around it."""
        users = not isinstance(self.seam.original, BaseAgentTool)
        return _AtWork(in_body(self.seam.run, self._live.ticket, users=users), self.workers)

    def _finish(self, result: Any) -> Any:
        """Commit the result; only then does CrewAI see it."""
        result = self._with_change(result)
        stored, text = encode_result(result)
        try:
            self._check_workers()
            self.seam.run.finish_tool(self._live.ticket, stored, text, shown=self._size(result))
        except CrewProdError as refusal:
            return refused(refusal)
        return self._shown_to_model(result, stored)

    def _with_change(self, result: Any) -> Any:
        """The result, and for the model that asked what a person has changed in the call."""
        ticket, tool = self._live.ticket, self.seam.worker
        if ticket.edited is None or tool.result_as_answer or is_tool_failure(result):
            return result
        text = tool.format_output_for_agent(result)
        return f"{text}\n[A person has changed the arguments of this call to {ticket.arguments}]"

    def _size(self, result: Any) -> Shown | None:
        """How much the model reads of a result, where that is not all that is recorded."""
        if isinstance(result, Page):
            return Shown(len(result))
        if self.seam.say is None or is_tool_failure(result):
            return None
        whole, most = len(self.seam.say(result)), self.seam.options.max_output or 0
        return Shown(whole, max(0, whole - most))

    def _settle(self, end: End) -> None:
        """Commit a result, and have the end of the call told."""
        if isinstance(end, Returned):
            self.value = self._finish(end.result)
        elif isinstance(end, Made):
            self.value = self._shown_to_model(end.result, encode_result(end.result)[0])
        elif isinstance(end, Stopped):
            self.value = refused(end.error)
        else:
            self._tell(self._shown(end.error))

    def _shown(self, error: Exception) -> Exception:
        """The exception, or one like it that says nothing of what is not to be shown."""
        hidden, facts = self.seam.options.sensitive, describe(error)
        shown = conceal(facts, self._live.arguments, hidden) if hidden else facts
        return error if shown == facts else revived(shown)

    def _check_workers(self) -> None:
        """Stop the run if a coworker's model failed: the model that asked can do nothing about it.

        CrewAI makes an answer of it, and the work that was not done would pass for done. A tool of
        the user's own that kicks agents off has seen their failures, and has decided.

        Raises:
            CrewProdError: It failed; or the run was stopped before.
        """
        if not isinstance(self.seam.original, BaseAgentTool):
            return
        ticket = self._live.ticket
        for role, error in self.workers:
            step = self.seam.run.ended_by_model(ticket.inner)
            if step is not None:
                stopped = self.seam.run.stop(
                    ModelError(
                        f"A model call of coworker {role!r} failed: {said_by(error)}",
                        task=ticket.scope.task_name,
                        agent=role,
                        step_id=step.step_id,
                    )
                )
                raise stopped from error


class _AtWork:
    """A tool's body, and what hears of the coworkers that are called in it."""

    __slots__ = ("_body", "_outside", "_token", "_workers")

    def __init__(self, body: in_body, workers: list[tuple[str, Exception]]) -> None:
        self._body, self._workers, self._outside = body, workers, outside_calls()

    def __enter__(self) -> None:
        self._body.__enter__()
        self._outside.__enter__()
        self._token = worker_failures.set(self._workers)

    def __exit__(self, *raised: object) -> None:
        worker_failures.reset(self._token)
        self._outside.__exit__(*raised)
        self._body.__exit__(*raised)


def _first_then(first: Callable[[], Any], again: Callable[[], Any]) -> Callable[[], Any]:
    """A function that calls one thing the first time, and then the other."""
    left = [first]
    return lambda: left.pop()() if left else again()


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as a model writes them: JSON values, for what was read from such ones."""
    try:
        plain = to_jsonable_python(dict(arguments), fallback=codec.text_of, bytes_mode="base64")
    except (ValueError, TypeError, RecursionError):
        plain = codec.to_tree(dict(arguments))
    return cast(dict[str, Any], plain)
