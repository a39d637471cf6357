"""The seam in front of a model: `LLM.call` and `acall` pass through the run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import orjson
from crewai.events.types.llm_events import LLMCallType
from crewai.llms.base_llm import BaseLLM, llm_call_context
from pydantic import BaseModel, ValidationError

from crewai_prod._crewai.answers import chunks_of, decode_answer, encode_answer
from crewai_prod._crewai.stop import Passing, StopRun
from crewai_prod._crewai.takeover import (
    Seamed,
    behind,
    put,
    put_private,
    really_a,
    seam_of,
    take_over,
)
from crewai_prod._crewai.usage import Reported
from crewai_prod._crewai.usage import read_metrics as read_metrics
from crewai_prod._crewai.usage import read_usage as read_usage
from crewai_prod.errors import CrewProdError, EmptyResponse
from crewai_prod.failures import billed_usage, describe, revive
from crewai_prod.kickoff import place_around
from crewai_prod.records import StepRecord, StepStatus, Usage
from crewai_prod.run import Answer, Run, body_point, current_scope
from crewai_prod.steps import Scope, lies_in
from crewai_prod.threads import in_thread
from crewai_prod.walk import Ticket

_ARGUMENTS = (
    "messages",
    "tools",
    "callbacks",
    "available_functions",
    "from_task",
    "from_agent",
    "response_model",
)
_SAMPLING = (
    "model",
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "seed",
    "n",
    "frequency_penalty",
    "presence_penalty",
    "reasoning_effort",
    "logprobs",
    "top_logprobs",
    "thinking",
    "api",
)
"""What decides a model's answer besides the conversation. Keys, headers and addresses are not here:
parameters are stored."""


@dataclass(frozen=True, slots=True)
class ModelSeam:
    """What a model needs to know of its run.

    Attributes:
        run: The run; None for a model that belongs to whatever run it is called in.
        within: The scope of a kickoff that CrewAI gives no context of its own.
    """

    run: Run | None
    within: Scope | None = None


ANY_RUN = ModelSeam(None)


@dataclass(slots=True)
class Meter:
    """What one live call reported about itself, in the order it was reported.

    Attributes:
        usages: Reports of the model itself.
        inner: Reports of other models that it handed the call on to. They count if it says nothing
            itself: a model that does knows of them.
        awaited: Whether such a report is to be expected.
    """

    usages: list[Mapping[str, Any]] = field(default_factory=list)
    inner: list[Mapping[str, Any]] = field(default_factory=list)
    awaited: bool = False
    finish_reason: str | None = None
    response_id: str | None = None
    _closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def report_inner(self, usage: Mapping[str, Any]) -> bool:
        """Take up the report of another model; False if the call has been recorded without it."""
        with self._lock:
            if not self._closed and usage:
                self.inner.append(usage)
            return not self._closed or bool(self.usages)

    def close(self) -> Usage | None:
        """All reports of the call together; None if nobody reported anything."""
        with self._lock:
            self._closed = True
        reported = self.usages or self.inner
        return sum(map(read_usage, reported), Usage()) if reported else None


_TOOL_CALL = LLMCallType.TOOL_CALL
_meter: ContextVar[Meter | None] = ContextVar("crewai_prod_meter", default=None)
model_failures: ContextVar[list[Exception] | None] = ContextVar(
    "crewai_prod_model_failures", default=None
)
"""Why calls made here had no answer, where somebody wants to know; one in no shape is an answer."""
_live: ContextVar[frozenset[int]] = ContextVar("crewai_prod_live", default=frozenset())
_schemas: WeakKeyDictionary[type, Any] = WeakKeyDictionary()


def current_meter() -> Meter | None:
    """The meter of the model call that this code is part of."""
    return _meter.get()


class MeteredLLM(Seamed):
    """Reports what a provider's code counts to the call that is under way."""

    def _track_token_usage_internal(self, usage_data: dict[str, Any]) -> None:
        meter = _meter.get()
        if meter is not None and usage_data:
            self._report(meter, usage_data)
        super()._track_token_usage_internal(usage_data)  # type: ignore[misc]

    def _extract_openai_token_usage(self, response: Any) -> dict[str, Any]:
        return Reported.of(super()._extract_openai_token_usage(response), response)  # type: ignore[misc]

    def _report(self, meter: Meter, usage: Mapping[str, Any]) -> None:
        meter.usages.append(usage)

    def _emit_call_completed_event(self, *args: Any, **kwargs: Any) -> None:
        meter = _meter.get()
        if meter is not None:
            meter.finish_reason = kwargs.get("finish_reason") or meter.finish_reason
            meter.response_id = kwargs.get("response_id") or meter.response_id
        super()._emit_call_completed_event(*args, **kwargs)  # type: ignore[misc]


class DurableLLM(MeteredLLM):
    """A model of a hardened run: answers from the journal, or calls, commits and answers."""

    @property
    def stop_sequences(self) -> list[str]:
        """Also those that CrewAI has set, for the call under way, on the user's own object."""
        given: list[str] = behind(self).stop_sequences
        own: list[str] = getattr(super(), "stop_sequences", given)
        return own if own is not self.stop else given  # type: ignore[attr-defined]

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """`BaseLLM.call` of the original, at most once per run for one request."""
        run = self._run_of_call()
        if run is None:
            return super().call(*args, **kwargs)  # type: ignore[misc]
        asked = _Call.read(self, run, args, kwargs)
        return asked.answer(lambda: super(DurableLLM, self).call(*args, **kwargs))  # type: ignore[misc]

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """`BaseLLM.acall` of the original; commits on a worker thread."""
        run = self._run_of_call()
        if run is None:
            return await super().acall(*args, **kwargs)  # type: ignore[misc]
        asked = _Call.read(self, run, args, kwargs)
        ticket = asked.begin()
        if ticket.recorded is not None:
            return asked.replay(ticket.recorded)
        with asked.run.in_flight():
            with _calling(self) as meter:
                body_point("model.before_call")
                try:
                    answer = await super().acall(*args, **kwargs)  # type: ignore[misc]
                except Exception as error:
                    await in_thread(asked.failed, ticket, error, meter)
                    raise
            body_point("model.after_call")
            return await in_thread(asked.finish, ticket, answer, meter)

    def _run_of_call(self) -> Run | None:
        """The run this call is a step of; None for a provider's own retry within a call."""
        seam: ModelSeam = seam_of(self)
        return None if id(self) in _live.get() else seam.run


class HardenedLLM(DurableLLM):
    """A model that users call themselves: a step of whatever run it is called in, if any."""

    users_own = True

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """`BaseLLM.call` of the original; within a run at most once for one request."""
        with _refusing_in_person(args, kwargs):
            return super().call(*args, **kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """`BaseLLM.acall` of the original; within a run at most once for one request."""
        with _refusing_in_person(args, kwargs):
            return await super().acall(*args, **kwargs)

    def _run_of_call(self) -> Run | None:
        """The run around; within another model's call, this is part of that call."""
        place = place_around()
        return None if place is None or _meter.get() is not None else place[0]

    def _report(self, meter: Meter, usage: Mapping[str, Any]) -> None:
        if id(self) in _live.get():
            meter.usages.append(usage)
        else:
            meter.report_inner(usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One call of a model, as the run sees it."""

    llm: Any
    run: Run
    scope: Scope
    model: str
    provider: str | None
    sources: dict[str, Any]
    messages: list[Mapping[str, Any]]
    params: dict[str, Any]
    types: tuple[Any, ...]

    @classmethod
    def read(cls, llm: Any, run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call:
        given = _given(args, kwargs)
        messages = given.get("messages") or []
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        response_model = given.get("response_model")
        response_format = llm.__dict__.get("response_format")
        task, agent = given.get("from_task"), given.get("from_agent")
        return cls(
            llm=llm,
            run=run,
            scope=scope_of(run, task, agent, within=seam_of(llm).within),
            model=str(llm.model),
            provider=getattr(llm, "provider", None),
            sources={name: given.get(name) for name in ("from_task", "from_agent")},
            messages=list(messages),
            params=model_params(llm, given.get("tools"), response_model, response_format),
            types=(response_model, response_format),
        )

    def answer(self, work: Callable[[], Any]) -> Any:
        """The recorded answer, or the one that `work` gives, committed."""
        ticket = self.begin()
        if ticket.recorded is not None:
            return self.replay(ticket.recorded)
        with self.run.in_flight():
            with _calling(self.llm) as meter:
                body_point("model.before_call")
                try:
                    answer = work()
                except Exception as error:
                    self.failed(ticket, error, meter)
                    raise
            body_point("model.after_call")
            return self.finish(ticket, answer, meter)

    def begin(self) -> Ticket:
        try:
            return self.run.begin_model(
                self.scope, self.model, self.messages, self.params, self.provider
            )
        except CrewProdError as error:
            raise StopRun(error) from error

    def replay(self, record: StepRecord) -> Any:
        if record.status is StepStatus.FAILED:
            raise revive(orjson.loads(record.error or "{}"))
        assert record.result is not None
        answer = decode_answer(record.result, self.types)
        if _streams(self.llm):
            self._stream(answer)
        return answer

    def _stream(self, answer: Any) -> None:
        """Tell who listens to the stream a recorded answer, each part of it in one chunk."""
        with llm_call_context():
            for text, call in chunks_of(answer):
                about = {} if call is None else {"tool_call": call, "call_type": _TOOL_CALL}
                self.llm._emit_stream_chunk_event(chunk=text, **about, **self.sources)

    def finish(self, ticket: Ticket, answer: Any, meter: Meter) -> Any:
        """Commit the answer. An empty one is a failure: CrewAI raises at it."""
        if answer is None or (isinstance(answer, (str, list)) and not answer):
            self.failed(ticket, EmptyResponse(), meter)
            return answer
        result, text = encode_answer(answer)
        try:
            self.run.finish_model(
                ticket,
                Answer(
                    result=result,
                    text=text,
                    usage=self._usage(meter),
                    model=self.model,
                    response_id=meter.response_id,
                    finish_reason=meter.finish_reason,
                ),
            )
        except CrewProdError as error:
            raise StopRun(error) from error
        return decode_answer(result, self.types) if isinstance(answer, list) else answer

    def failed(self, ticket: Ticket, error: Exception, meter: Meter) -> None:
        """Record a failure of the model; a hook's or our own refusal is none."""
        if isinstance(error, Passing):
            return
        failures = model_failures.get()
        if failures is not None and not isinstance(error, ValidationError):
            failures.append(error)
        usage = self._usage(meter)
        report = billed_usage(error) if usage is None else None
        if report is not None:
            usage = replace(read_usage(report), calls=0)
        try:
            self.run.fail_model(ticket, error, usage, describe(error))
        except CrewProdError as refusal:
            raise StopRun(refusal) from error

    def _usage(self, meter: Meter) -> Usage | None:
        """What the call cost. Another model's report of it may be on its way."""
        if not meter.usages and meter.awaited and self.run.await_reports is not None:
            self.run.await_reports()
        return meter.close()


def _streams(llm: Any) -> bool:
    """Whether the model streams in this call; newer releases can say so for one call alone."""
    effective = getattr(llm, "_effective_stream", None)
    return bool(effective() if effective is not None else getattr(llm, "stream", False))


def answer_beside(
    llm: Any, messages: Any, response_model: type[BaseModel], work: Callable[[], Any]
) -> Any:
    """The answer to a request that is sent for a model through a client that is not its own.

    Args:
        llm: The model, behind its seam; any other is asked as if there were no run.
        messages: What is sent.
        response_model: What the answer is to be an instance of.
        work: Sends it; what it cost is told to `meter_beside`.
    """
    run = llm._run_of_call() if isinstance(llm, DurableLLM) else None
    if run is None:
        return work()
    asked = _Call.read(llm, run, (messages,), {"response_model": response_model})
    return asked.answer(work)


def meter_beside(usage: dict[str, Any]) -> None:
    """Report what a request cost that was sent past the model's own class."""
    meter = _meter.get()
    if meter is not None and usage:
        meter.usages.append(usage)


def take_over_llm(llm: BaseLLM, seam: ModelSeam, mixin: type[DurableLLM] = DurableLLM) -> BaseLLM:
    """The model behind its seam, with one state with the user's: counters, clients, response ids.

    A model that hands its calls on to another one (Azure's does) is copied, because the other one
    must be metered with it.
    """
    fields = {k: v for k, v in llm.__dict__.items() if really_a(BaseLLM, v)}
    private = {k: v for k, v in (llm.__pydantic_private__ or {}).items() if really_a(BaseLLM, v)}
    taken = take_over(llm, mixin, seam, share=not fields and not private)
    put(taken, **{k: take_over(v, MeteredLLM, seam) for k, v in fields.items()})
    put_private(taken, **{k: take_over(v, MeteredLLM, seam) for k, v in private.items()})
    return taken


def harden_llm(llm: BaseLLM) -> BaseLLM:
    """A model that is a step of whatever run it is called in."""
    return llm if isinstance(llm, HardenedLLM) else take_over_llm(llm, ANY_RUN, HardenedLLM)


def in_a_run(llm: Any) -> bool:
    """Whether a model belongs to one run."""
    seam: ModelSeam | None = seam_of(llm)
    return seam is not None and seam.run is not None


def scope_of(
    run: Run, task: Any = None, agent: Any = None, *, within: Scope | None = None
) -> Scope:
    """Where in the run a call is made: by context, else by the task it names, else the run itself.

    A plain thread started by a user's code does not inherit the context.

    Args:
        run: The run.
        task: The task it names.
        agent: The agent it names.
        within: Where it is at least, whatever the context says.
    """
    current = current_scope.get()
    if within is not None and (current is None or not lies_in(current[1].path, within.path)):
        scope = within
    elif current is not None and current[0] is run:
        scope = current[1]
    else:
        seam = seam_of(task)
        scope = seam.scope if seam is not None else Scope()
    role = getattr(agent, "role", None)
    return replace(scope, agent=role) if role and role != scope.agent else scope


@contextmanager
def outside_calls() -> Iterator[None]:
    """A tool's body is no part of the model call around it: its own calls are steps."""
    live, meter = _live.set(frozenset()), _meter.set(None)
    try:
        yield
    finally:
        _live.reset(live)
        _meter.reset(meter)


@contextmanager
def _calling(llm: Any) -> Iterator[Meter]:
    meter = Meter()
    live, metered = _live.set(_live.get() | {id(llm)}), _meter.set(meter)
    try:
        yield meter
    finally:
        _live.reset(live)
        _meter.reset(metered)


def model_params(llm: Any, tools: Any, response_model: Any, response_format: Any) -> dict[str, Any]:
    """What decides a model's answer besides the conversation."""
    values = llm.__dict__
    params = {name: values[name] for name in _SAMPLING if values.get(name) is not None}
    stop = getattr(llm, "stop_sequences", None) or values.get("stop")
    if stop:
        params["stop"] = sorted(set(stop))  # CrewAI hands on a set, ordered anew in each process
    if tools:
        params["tools"] = tools
    for name, value in (("response_model", response_model), ("response_format", response_format)):
        if value is not None:
            params[name] = _schema(value)
    return params


def _given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name."""
    return {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}


@contextmanager
def _refusing_in_person(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
    """A user's own code sees the refusal itself; CrewAI, which names who asks, what leaves it."""
    try:
        yield
    except StopRun as stop:
        given = _given(args, kwargs)
        if given.get("from_task") is None and given.get("from_agent") is None:
            raise stop.error from stop
        raise


def _schema(kind: Any) -> Any:
    if not isinstance(kind, type):
        return kind
    if kind not in _schemas:
        make = getattr(kind, "model_json_schema", None)
        _schemas[kind] = make() if make is not None else kind.__qualname__
    return _schemas[kind]
