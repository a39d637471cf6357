"""The seam in front of a model: `LLM.call` and `acall` pass through the run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import orjson
from crewai.llms.base_llm import BaseLLM
from crewai.types.usage_metrics import UsageMetrics

from crewai_prod._crewai.answers import decode_answer, encode_answer
from crewai_prod._crewai.stop import Passing, StopRun
from crewai_prod._crewai.takeover import (
    Seamed,
    original_of,
    put,
    put_private,
    really_a,
    seam_of,
    take_over,
)
from crewai_prod.errors import CrewProdError, EmptyResponse
from crewai_prod.failures import billed_usage, describe, revive
from crewai_prod.records import StepRecord, StepStatus, Usage
from crewai_prod.run import Answer, Run, body_point, current_scope
from crewai_prod.steps import Scope, lies_in
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
        run: The run.
        within: The scope of a kickoff that CrewAI gives no context of its own.
    """

    run: Run
    within: Scope | None = None


@dataclass(slots=True)
class Meter:
    """What one live call reported about itself, in the order it was reported."""

    usages: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    response_id: str | None = None

    def usage(self) -> Usage | None:
        """All reports of the call together; None if the model reported nothing."""
        if not self.usages:
            return None
        first, *others = map(read_usage, self.usages)
        return sum(others, first)


_meter: ContextVar[Meter | None] = ContextVar("crewai_prod_meter", default=None)
_live: ContextVar[frozenset[int]] = ContextVar("crewai_prod_live", default=frozenset())
_schemas: WeakKeyDictionary[type, Any] = WeakKeyDictionary()


def read_usage(report: Mapping[str, Any]) -> Usage:
    """A provider's usage report in the journal's terms."""
    metrics = UsageMetrics.from_provider_dict(dict(report))
    if metrics is None:
        return Usage()
    return Usage(
        input_tokens=metrics.prompt_tokens,
        output_tokens=metrics.completion_tokens,
        cache_read_tokens=metrics.cached_prompt_tokens,
        cache_write_tokens=metrics.cache_creation_tokens,
        reasoning_tokens=metrics.reasoning_tokens,
        calls=metrics.successful_requests,
    )


def read_metrics(usage: Usage) -> UsageMetrics:
    """The journal's usage in CrewAI's terms."""
    return UsageMetrics(
        total_tokens=usage.total_tokens,
        prompt_tokens=usage.input_tokens,
        completion_tokens=usage.output_tokens,
        cached_prompt_tokens=usage.cache_read_tokens,
        cache_creation_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        successful_requests=usage.calls,
    )


class MeteredLLM(Seamed):
    """Reports what a provider's code counts to the call that is under way."""

    def _track_token_usage_internal(self, usage_data: dict[str, Any]) -> None:
        meter = _meter.get()
        if meter is not None and usage_data:
            meter.usages.append(usage_data)
        super()._track_token_usage_internal(usage_data)  # type: ignore[misc]

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
        given: list[str] = original_of(self).stop_sequences
        own: list[str] = getattr(super(), "stop_sequences", given)
        return own if own is not self.stop else given  # type: ignore[attr-defined]

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """`BaseLLM.call` of the original, at most once per run for one request."""
        if id(self) in _live.get():  # the provider's own retry or fallback within one call
            return super().call(*args, **kwargs)  # type: ignore[misc]
        asked = _Call.read(self, args, kwargs)
        ticket = asked.begin()
        if ticket.recorded is not None:
            return asked.replay(ticket.recorded)
        with asked.run.in_flight():
            with _calling(self) as meter:
                body_point("model.before_call")
                try:
                    answer = super().call(*args, **kwargs)  # type: ignore[misc]
                except Exception as error:
                    asked.failed(ticket, error, meter)
                    raise
            body_point("model.after_call")
            return asked.finish(ticket, answer, meter)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """`BaseLLM.acall` of the original; commits on a worker thread."""
        if id(self) in _live.get():
            return await super().acall(*args, **kwargs)  # type: ignore[misc]
        asked = _Call.read(self, args, kwargs)
        ticket = asked.begin()
        if ticket.recorded is not None:
            return asked.replay(ticket.recorded)
        with asked.run.in_flight():
            with _calling(self) as meter:
                body_point("model.before_call")
                try:
                    answer = await super().acall(*args, **kwargs)  # type: ignore[misc]
                except Exception as error:
                    await asyncio.to_thread(asked.failed, ticket, error, meter)
                    raise
            body_point("model.after_call")
            return await asyncio.to_thread(asked.finish, ticket, answer, meter)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One call of a model, as the run sees it."""

    run: Run
    scope: Scope
    model: str
    provider: str | None
    messages: list[Mapping[str, Any]]
    params: dict[str, Any]
    types: tuple[Any, ...]

    @classmethod
    def read(cls, llm: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call:
        given = {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}
        messages = given.get("messages") or []
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        response_model = given.get("response_model")
        response_format = llm.__dict__.get("response_format")
        seam: ModelSeam = seam_of(llm)
        task, agent = given.get("from_task"), given.get("from_agent")
        return cls(
            run=seam.run,
            scope=scope_of(seam.run, task, agent, within=seam.within),
            model=str(llm.model),
            provider=getattr(llm, "provider", None),
            messages=list(messages),
            params=model_params(llm, given.get("tools"), response_model, response_format),
            types=(response_model, response_format),
        )

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
        return decode_answer(record.result, self.types)

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
                    usage=meter.usage(),
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
        usage = meter.usage()
        report = billed_usage(error) if usage is None else None
        if report is not None:
            usage = replace(read_usage(report), calls=0)
        try:
            self.run.fail_model(ticket, error, usage, describe(error))
        except CrewProdError as refusal:
            raise StopRun(refusal) from error


def take_over_llm(llm: BaseLLM, seam: ModelSeam) -> BaseLLM:
    """The model for one run, with one state with the user's: counters, clients, response ids.

    A model that hands its calls on to another one (Azure's does) is copied, because the other one
    must be metered with it.
    """
    fields = {k: v for k, v in llm.__dict__.items() if really_a(BaseLLM, v)}
    private = {k: v for k, v in (llm.__pydantic_private__ or {}).items() if really_a(BaseLLM, v)}
    taken = take_over(llm, DurableLLM, seam, share=not fields and not private)
    put(taken, **{k: take_over(v, MeteredLLM, seam) for k, v in fields.items()})
    put_private(taken, **{k: take_over(v, MeteredLLM, seam) for k, v in private.items()})
    return taken


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
        params["stop"] = list(stop)
    if tools:
        params["tools"] = tools
    for name, value in (("response_model", response_model), ("response_format", response_format)):
        if value is not None:
            params[name] = _schema(value)
    return params


def _schema(kind: Any) -> Any:
    if not isinstance(kind, type):
        return kind
    if kind not in _schemas:
        make = getattr(kind, "model_json_schema", None)
        _schemas[kind] = make() if make is not None else kind.__qualname__
    return _schemas[kind]
