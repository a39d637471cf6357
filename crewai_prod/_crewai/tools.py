"""The seam in front of a tool: both of CrewAI's tool paths pass through the run.

The native path calls `run`, the text path `_run` through a `CrewStructuredTool`; `Tool.run` (what
`@tool` makes) calls its function directly. All of them meet in `_run` here, and the original
object's own method does the work, so that what a tool keeps on itself stays with the user's object.

A tool that raises is recorded, and its exception goes on to CrewAI, which tells the model, counts
and announces it as ever. On the text path CrewAI then calls the tool again, up to five times for
one decision of the model: those calls get the same exception, and the tool is not run.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import orjson
from crewai.tools.agent_tools.base_agent_tools import BaseAgentTool
from crewai.tools.base_tool import BaseTool
from crewai.tools.memory_tools import RecallMemoryTool, RememberTool

from crewai_prod import codec
from crewai_prod._crewai.llm import outside_calls, scope_of
from crewai_prod._crewai.mcp import calling_once
from crewai_prod._crewai.stop import is_tool_failure, never_a_failure, tool_failure
from crewai_prod._crewai.takeover import Seamed, put, really_a, seam_of, take_over
from crewai_prod._crewai.typed import (
    arguments_of,
    as_declared,
    body_of,
    declared_options,
    doing_within,
    refusals_not_counted,
)
from crewai_prod.errors import CrewProdError, ModelError, ToolInputInvalid
from crewai_prod.failures import ReplayedError, describe, revive
from crewai_prod.records import StepRecord, StepStatus
from crewai_prod.run import Run, in_body
from crewai_prod.steps import Scope
from crewai_prod.threads import in_thread
from crewai_prod.tooling import ToolOptions
from crewai_prod.walk import Ticket

_READING = frozenset(
    {
        ("crewai.tools.memory_tools", "RecallMemoryTool"),
        ("crewai.tools.agent_tools.read_file_tool", "ReadFileTool"),
        ("crewai.tools.agent_tools.add_image_tool", "AddImageTool"),
        ("crewai.tools.cache_tools.cache_tools", "CacheTools"),
        ("crewai.skills.tool", "LoadSkillTool"),
    }
)
"""CrewAI's own tools that only read."""


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
    raised: dict[str, _Raised] = field(default_factory=dict)
    """What a tool of this kickoff has raised last, by scope."""


@dataclass(frozen=True, slots=True)
class _Raised:
    """A tool's exception on its way to the model."""

    step_id: str
    tool: str
    given: tuple[Any, ...]
    error: Exception


_one_for_one: ContextVar[bool] = ContextVar("crewai_prod_one_for_one", default=False)
"""Whether each call is a decision of its own: on the native path, where nothing is tried again."""


worker_failures: ContextVar[list[tuple[str, Exception]] | None] = ContextVar(
    "crewai_prod_worker_failures", default=None
)
"""Agents (by role) to whom work was handed here, and what ended it."""


class DurableTool(Seamed):
    """A tool of a hardened run."""

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The native path: validate, count the usage, then `_run`."""
        with _on_native_path(), refusals_not_counted(self):
            return BaseTool.run(self, *args, **kwargs)  # type: ignore[arg-type]

    async def arun(self, *args: Any, **kwargs: Any) -> Any:
        """The asynchronous twin of `run`."""
        with _on_native_path(), refusals_not_counted(self):
            return await BaseTool.arun(self, *args, **kwargs)  # type: ignore[arg-type]

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        seam: ToolSeam = seam_of(self)
        call = _ToolCall.begin(seam, args, kwargs)
        if call.settled:
            return call.value
        with seam.run.in_flight():
            try:
                with call.body():
                    result = body_of(seam.worker)(*args, **kwargs)
            except Exception as error:
                refused = call.failed(error)
                if refused is None:
                    raise
                return refused
            if not inspect.iscoroutine(result):
                return call.finish(result)
        return call.finish_later(result)

    async def _arun(self, *args: Any, **kwargs: Any) -> Any:
        seam: ToolSeam = seam_of(self)
        call = await in_thread(_ToolCall.begin, seam, args, kwargs)
        if call.settled:
            return call.value
        return await call.finish_later(seam.worker._arun(*args, **kwargs))

    @property
    def tool_type(self) -> str:
        """The original's: CrewAI shows it to models when it plans."""
        kind = type(seam_of(self).original)
        return f"{kind.__module__}.{kind.__qualname__}"

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "current_usage_count":  # users read it on the tool they hold
            put(seam_of(self).original, current_usage_count=value)


@dataclass(slots=True, kw_only=True)
class _ToolCall:
    """One call of a tool, between its beginning and its end."""

    seam: ToolSeam
    given: tuple[Any, ...]
    ticket: Ticket | None = None
    value: Any = None
    settled: bool = False
    workers: list[tuple[str, Exception]] = field(default_factory=list)

    @classmethod
    def begin(cls, seam: ToolSeam, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _ToolCall:
        """Look the call up and commit its intent; settled if there is nothing left to do.

        Raises:
            Exception: What the tool raised when it was called before, for this decision.
        """
        run, call = seam.run, cls(seam=seam, given=(args, kwargs))
        arguments = arguments_of(seam.worker, args, kwargs)
        try:
            scope = scope_of(run, within=seam.within)
            call.check_again(scope)
            ticket = run.begin_tool(scope, seam.original.name, arguments, seam.options)
        except CrewProdError as refusal:
            call.value, call.settled = _refused(refusal), True
            return call
        call.ticket = ticket
        if ticket.recorded is not None:
            call.settled = True
            call.value = call.replay(ticket.recorded)
        return call

    def check_again(self, scope: Scope) -> None:
        """Raise what the same call has raised, if nothing else was called in its scope since."""
        last = self.seam.raised.get(scope.path)
        if last is None or _one_for_one.get():
            return
        same = (last.tool, last.given) == (self.seam.original.name, self.given)
        if same and self.seam.run.last_step(scope) == last.step_id:
            self.seam.run.check()
            raise last.error

    def replay(self, record: StepRecord) -> Any:
        """What it returned; raises what it raised."""
        if record.status is StepStatus.FAILED:
            raise self.raised(_revived(orjson.loads(record.error or "{}")))
        return decode_result(record.result or "null")

    def raised(self, error: Exception) -> Exception:
        """Keep an exception for CrewAI's next try."""
        scope = self.live.scope
        last = _Raised(self.live.step_id, self.seam.original.name, self.given, error)
        self.seam.raised[scope.path] = last
        return error

    @property
    def live(self) -> Ticket:
        assert self.ticket is not None
        return self.ticket

    @contextmanager
    def body(self) -> Iterator[None]:
        """Where the tool's own code runs: no part of the model call around it."""
        token = worker_failures.set(self.workers)
        try:
            with in_body(self.seam.run, self.live), outside_calls():
                yield
        finally:
            worker_failures.reset(token)

    async def finish_later(self, work: Awaitable[Any]) -> Any:
        """Await the body of an asynchronous tool, then end the step on a worker thread."""
        with self.seam.run.in_flight():
            try:
                with self.body():
                    result = await work
            except Exception as error:
                refused = await in_thread(self.failed, error)
                if refused is None:
                    raise
                return refused
            return await in_thread(self.finish, result)

    def finish(self, result: Any) -> Any:
        """Commit the result; only then does CrewAI see it."""
        stored, text = encode_result(result)
        try:
            self._check_workers()
            self.seam.run.finish_tool(self.live, stored, text)
        except CrewProdError as refusal:
            return _refused(refusal)
        return result

    def _check_workers(self) -> None:
        """Stop the run if a coworker's model failed: the model that asked can do nothing about it.

        CrewAI makes an answer of it, and the work that was not done would pass for done. A tool of
        the user's own that kicks agents off has seen their failures, and has decided.

        Raises:
            CrewProdError: It failed; or the run was stopped before.
        """
        if not isinstance(self.seam.original, BaseAgentTool):
            return
        for role, error in self.workers:
            step = self.seam.run.ended_by_model(self.live.inner)
            if step is not None:
                stopped = self.seam.run.stop(
                    ModelError(
                        f"A model call of coworker {role!r} failed: "
                        f"{type(error).__name__}: {codec.text_of(error)}",
                        task=self.live.scope.task_name,
                        agent=role,
                        step_id=step.step_id,
                    )
                )
                raise stopped from error

    def failed(self, error: Exception) -> Any:
        """Commit the failure; an effect nobody can vouch for pauses the run.

        Returns:
            The run's refusal, if it was stopped; None: the exception is to go on to CrewAI.
        """
        run, ticket = self.seam.run, self.live
        if run.refused(error):  # by a crew kicked off in the body: its outcome is open
            return _refused(run.stopped or CrewProdError())
        try:
            acted = not isinstance(error, ToolInputInvalid)
            if acted and self.seam.options.effect == "write" and not self.seam.options.idempotent:
                return _refused(
                    run.leave_unknown(ticket, f"raised {type(error).__name__}: {error}")
                )
            run.fail_tool(ticket, describe(error))
        except CrewProdError as refusal:
            return _refused(refusal)
        self.raised(error)
        return None


class ToolBench:
    """The tools of one run: one taken-over copy per tool, however often CrewAI hands it on."""

    def __init__(
        self,
        run: Run,
        options: Mapping[str, ToolOptions],
        memory: Callable[[Any], Any],
        within: Scope | None = None,
    ) -> None:
        self._run = run
        self._options = options
        self._memory = memory
        self._within = within
        self._taken: dict[int, tuple[BaseTool, BaseTool]] = {}
        self._raised: dict[str, _Raised] = {}

    def take(self, tools: Sequence[Any] | None) -> list[Any] | None:
        """The tools of an agent or task, each behind its seam. Other objects stay as they are."""
        return None if tools is None else [self._one(tool) for tool in tools]

    def _one(self, tool: Any) -> Any:
        if not really_a(BaseTool, tool) or isinstance(tool, DurableTool):
            return tool
        if id(tool) not in self._taken:
            options = options_for(tool, self._options)
            declared = declared_for(tool, self._options) is not None
            typed = as_declared(tool, options, keep=True) if declared else tool
            worker = doing_within(typed, lambda inner: self._worker(inner, options))
            seam = ToolSeam(self._run, tool, worker, options, self._within, self._raised)
            taken = take_over(typed, DurableTool, seam, stands_for=tool)
            put(taken, cache_function=never_a_failure(tool.cache_function))
            self._taken[id(tool)] = (tool, taken)
        return self._taken[id(tool)][1]

    def _worker(self, tool: BaseTool, options: ToolOptions) -> BaseTool:
        """The object whose body is called."""
        if isinstance(tool, (RecallMemoryTool, RememberTool)):
            copied = copy.copy(tool)
            put(copied, memory=self._memory(tool.memory))
            return copied
        return calling_once(tool, options)


def options_for(tool: BaseTool, declared: Mapping[str, ToolOptions]) -> ToolOptions:
    """What is declared about a tool, else what is known of CrewAI's own, else nothing.

    What `harden` was told of it goes over what it says of itself, option by option.
    """
    own, said = declared_options(tool), declared_for(tool, declared)
    if said is not None:
        return said if own is None else said.over(own)
    if own is not None:
        return own
    if isinstance(tool, BaseAgentTool):
        return ToolOptions(effect="nested")
    if isinstance(tool, RememberTool):  # what a run saves is saved once: see `memory`
        return ToolOptions(effect="write", idempotent=True)
    kinds = {(kind.__module__, kind.__qualname__) for kind in type(tool).__mro__}
    return ToolOptions(effect="read") if kinds & _READING else ToolOptions()


def declared_for(tool: BaseTool, declared: Mapping[str, ToolOptions]) -> ToolOptions | None:
    """What `harden` was told of a tool.

    CrewAI puts the server's address or command in front of an MCP tool's name; what it is called on
    its server will do, too.
    """
    for name in (tool.name, getattr(tool, "original_tool_name", None)):
        if name is not None and name in declared:
            return declared[name]
    return None


def encode_result(result: Any) -> tuple[str, str | None]:
    """JSON of what a tool returned, and the text that a message may repeat."""
    if is_tool_failure(result):
        failure = codec.to_tree(result.model_dump(mode="json"))
        return orjson.dumps({"$": "tool_failure", "v": failure}).decode(), None
    return codec.encode(result), result if isinstance(result, str) else None


def decode_result(text: str) -> Any:
    """What a tool returned, as `encode_result` wrote it."""
    tree = orjson.loads(text)
    if isinstance(tree, dict) and tree.get("$") == "tool_failure":
        from crewai.tools.tool_failure import ToolFailure

        return ToolFailure.model_validate(codec.from_tree(tree["v"]))
    value = codec.from_tree(tree)
    return value.data if isinstance(value, codec.Recorded) and value.data is not None else value


def _revived(facts: Mapping[str, Any]) -> Exception:
    """What the tool raised, with the text it had, which is what the model was told.

    An exception of a class that is not known here is of one that has its name and nothing else.
    """
    message = codec.from_tree(facts.get("message", ""))
    error = revive({"module": "", **facts, "message": message})
    if str(error) == message and not isinstance(error, ReplayedError):
        return error
    made: type[Exception] = type(facts.get("type", "Exception"), (Exception,), {})
    return made(message)


@contextmanager
def _on_native_path() -> Iterator[None]:
    token = _one_for_one.set(True)
    try:
        yield
    finally:
        _one_for_one.reset(token)


def _refused(error: CrewProdError) -> Any:
    """What a tool returns once the run has stopped: nothing may be done any more."""
    return tool_failure(f"The run was stopped: {error.message}", code=type(error).__name__)
