"""One call of a tool, from the look into the journal to what CrewAI is handed.

A tool that raises is recorded, and its exception goes on to CrewAI, which tells the model, counts
and announces it as ever. On the text path CrewAI then calls the tool again, up to five times for
one decision of the model: those calls get the same exception, and the tool is not run.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import orjson
from crewai.tools.agent_tools.base_agent_tools import BaseAgentTool
from crewai.tools.base_tool import BaseTool

from crewai_prod import codec
from crewai_prod._crewai.changing import POSITIONAL, ToolForm
from crewai_prod._crewai.metering import outside_calls
from crewai_prod._crewai.paging import ReadToolResult
from crewai_prod._crewai.places import scope_of
from crewai_prod._crewai.stop import is_tool_failure
from crewai_prod._crewai.tool_results import (
    decode_result,
    encode_result,
    is_ours,
    refused,
    revived,
    told,
)
from crewai_prod._crewai.typed import MISFIT, Typed, arguments_of
from crewai_prod.concealing import conceal
from crewai_prod.errors import CrewProdError, ModelError
from crewai_prod.failures import describe
from crewai_prod.paging import Page, Shown
from crewai_prod.records import StepRecord, StepStatus
from crewai_prod.run import Run, in_body
from crewai_prod.steps import Scope
from crewai_prod.threads import in_thread
from crewai_prod.tooling import ToolOptions
from crewai_prod.trying import End, Made, Returned, Stopped, Trying


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

    @classmethod
    def begin(cls, seam: ToolSeam, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ToolCall:
        """Look the call up and commit its intent; settled if there is nothing left to do."""
        run, call = seam.run, cls(seam=seam, given=(args, kwargs))
        arguments = arguments_of(seam.worker, args, kwargs)
        try:
            scope = scope_of(run, within=seam.within)
            call.error = call._raised_before(scope)
            if call.error is not None:
                call.settled = True
                return call
            form = None
            if seam.options.approval is not None:
                form = ToolForm(seam.worker, seam.options.sensitive)
            ticket = run.begin_tool(scope, seam.original.name, arguments, seam.options, form=form)
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
        """What the body is called with: as the model gave it, or as a person has changed it."""
        edited = self._live.ticket.edited
        if edited is None:
            return self.given
        named = {name: value for name, value in edited.items() if name != POSITIONAL}
        return tuple(edited.get(POSITIONAL, ())), named

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
            await in_thread(self._settle, end)
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

    def _replay(self, record: StepRecord) -> None:
        """What it returned or raised."""
        if record.status is StepStatus.FAILED:
            self._tell(revived(orjson.loads(record.error or "{}")))
            return
        self.value = decode_result(record.result or "null")
        if isinstance(self.value, dict) and isinstance(self.seam.original, ReadToolResult):
            args, kwargs = self.given
            self.value = self.seam.worker._run(*args, **kwargs)

    def _tell(self, error: Exception) -> None:
        """Have a failure told: one of ours is returned, any other is raised.

        What is raised is kept: on the text path CrewAI tries again.
        """
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

    @contextmanager
    def _body(self) -> Iterator[None]:
        """Where the tool's own code runs: no part of the model call around it."""
        token = worker_failures.set(self.workers)
        try:
            users = not isinstance(self.seam.original, BaseAgentTool)
            with in_body(self.seam.run, self._live.ticket, users=users), outside_calls():
                yield
        finally:
            worker_failures.reset(token)

    def _finish(self, result: Any) -> Any:
        """Commit the result; only then does CrewAI see it."""
        result = self._with_change(result)
        stored, text = encode_result(result)
        try:
            self._check_workers()
            self.seam.run.finish_tool(self._live.ticket, stored, text, shown=self._size(result))
        except CrewProdError as refusal:
            return refused(refusal)
        return result

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
            self.value = end.result
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
                        f"A model call of coworker {role!r} failed: "
                        f"{type(error).__name__}: {codec.text_of(error)}",
                        task=ticket.scope.task_name,
                        agent=role,
                        step_id=step.step_id,
                    )
                )
                raise stopped from error
