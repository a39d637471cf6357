"""One call of a model as the run sees it: looked up, made, committed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import orjson
from crewai.events.types.llm_events import LLMCallType
from crewai.llms.base_llm import llm_call_context
from pydantic import ValidationError

from crewai_prod._crewai.answers import chunks_of, decode_answer, encode_answer
from crewai_prod._crewai.capping import unread
from crewai_prod._crewai.guarded_model import PLACES, GuardedCall
from crewai_prod._crewai.metering import Meter, calling, model_failures, streams
from crewai_prod._crewai.places import scope_of
from crewai_prod._crewai.stop import StopRun
from crewai_prod._crewai.takeover import seam_of
from crewai_prod._crewai.telling import told
from crewai_prod._crewai.tries import Tries
from crewai_prod._crewai.usage import read_usage
from crewai_prod.bodies import body_point, in_users_code
from crewai_prod.deadlines import acall_within
from crewai_prod.errors import CrewProdError, ModelError
from crewai_prod.failures import billed_usage, describe, revive
from crewai_prod.model_steps import Answer, DirectCall
from crewai_prod.records import StepRecord, StepStatus, Usage
from crewai_prod.run import Run
from crewai_prod.steps import Scope, digest
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

_TOOL_CALL = LLMCallType.TOOL_CALL
_schemas: WeakKeyDictionary[type, Any] = WeakKeyDictionary()

Messages: TypeAlias = list[Mapping[str, Any]]
Work: TypeAlias = Callable[[Any, Messages | None], Any]
"""Asks a model, with other messages than CrewAI gave where there are any."""
AsyncWork: TypeAlias = Callable[[Any, Messages | None], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """One call of a model, as the run sees it.

    Attributes:
        messages: What it is about to be asked.
        sent: The same, where guards had it changed; None: what CrewAI gave is sent.
    """

    llm: Any
    run: Run
    scope: Scope
    model: str
    provider: str | None
    sources: dict[str, Any]
    messages: Messages
    params: dict[str, Any]
    types: tuple[Any, ...]
    sent: Messages | None = None

    @classmethod
    def read(cls, llm: Any, run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelCall:
        """The call as its arguments and the place it is made in describe it."""
        given = given_by_name(args, kwargs)
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

    @property
    def shortened(self) -> bool:
        """Whether CrewAI is to shorten the conversation if it is too long, and to ask again."""
        return bool(getattr(self.sources["from_agent"], "respect_context_window", False))

    def answer(self, work: Work, *, alone: bool = False) -> Any:
        """The recorded answer, or the one that `work` gives, committed, as guards let it pass.

        Args:
            work: Asks a model: this one, or one that stands in for it.
            alone: No other model can stand in for it.
        """
        if self.run.guarding.watches(self.scope, *PLACES):
            return GuardedCall(self).answer(work, alone=alone)
        return self.made(self.begin(), work, alone=alone)

    def made(self, ticket: Ticket, work: Work, *, alone: bool = False) -> Any:
        """The answer to a call that was begun."""
        if ticket.recorded is not None:
            return self.replay(ticket.recorded)
        tries = Tries(self, ticket, alone=alone)
        with self.run.in_flight(), tries:
            tries.prepare()
            try:
                return self._try(tries, work)
            except ModelError as error:
                failure = error
            return tries.again(failure, partial(self._try, tries, work))

    def _try(self, tries: Tries, work: Work) -> Any:
        tries.begin()
        tries.reserve()
        with calling(self.llm, tries.model) as meter, tries.under_way():
            body_point("model.before_call")
            try:
                answer = tries.ask(work)
            except Exception as error:
                failure = tries.failed(error, meter)
                if failure is error:
                    raise
                raise failure from error
        body_point("model.after_call")
        return tries.answered(answer, meter)

    async def aanswer(self, work: AsyncWork) -> Any:
        """`answer` on an event loop; commits on worker threads."""
        if self.run.guarding.watches(self.scope, *PLACES):
            return await GuardedCall(self).aanswer(work)
        return await self.amade(self.begin(), work)

    async def amade(self, ticket: Ticket, work: AsyncWork) -> Any:
        """`made` on an event loop."""
        if ticket.recorded is not None:
            return self.replay(ticket.recorded)
        tries = Tries(self, ticket)
        with self.run.in_flight(), tries:
            await tries.aprepare()
            try:
                return await self._atry(tries, work)
            except ModelError as error:
                failure = error
            return await tries.aagain(failure, partial(self._atry, tries, work))

    async def _atry(self, tries: Tries, work: AsyncWork) -> Any:
        tries.begin()
        await tries.areserve()
        with calling(self.llm, tries.model) as meter, tries.under_way():
            body_point("model.before_call")
            try:
                answer = await acall_within(tries.seconds, lambda: work(tries.model, tries.sent))
            except Exception as error:
                failure = await in_thread(tries.failed, error, meter)
                if failure is error:
                    raise
                raise failure from error
        body_point("model.after_call")
        return await in_thread(tries.answered, answer, meter)

    def begin(self) -> Ticket:
        """Look the call up.

        Raises:
            StopRun: The run was stopped.
            ModelError: The same request has failed for good in this session.
        """
        try:
            return self.run.begin_model(
                self.scope, self.model, self.messages, self.params, self.provider
            )
        except CrewProdError as error:
            if in_users_code() and self.run.stopped is None:
                raise
            raise StopRun(error) from error

    def replay(self, record: StepRecord) -> Any:
        """The recorded answer; raises a failure that the run has survived."""
        if record.status is StepStatus.FAILED:
            raise revive(orjson.loads(record.error or "{}"))
        assert record.result is not None
        answer = decode_answer(record.result, self.types)
        if streams(self.llm):
            self._stream(answer)
        return told(self, answer)

    def _stream(self, answer: Any) -> None:
        """Tell who listens to the stream a recorded answer, each part of it in one chunk."""
        with llm_call_context():
            for text, call in chunks_of(answer):
                about = {} if call is None else {"tool_call": call, "call_type": _TOOL_CALL}
                self.llm._emit_stream_chunk_event(chunk=text, **about, **self.sources)

    def finish(self, ticket: Ticket, answer: Any, meter: Meter, model: str) -> Any:
        """Commit the answer.

        Raises:
            StopRun: It could not be committed.
        """
        result, text = encode_answer(answer)
        try:
            self.run.finish_model(
                ticket,
                Answer(
                    result=result,
                    text=text,
                    usage=self._usage(meter),
                    model=model,
                    response_id=meter.response_id,
                    finish_reason=meter.finish_reason,
                ),
            )
        except CrewProdError as error:
            raise StopRun(error) from error
        return told(self, decode_answer(result, self.types) if isinstance(answer, list) else answer)

    def failed(self, ticket: Ticket, error: Exception, meter: Meter) -> None:
        """Record a try that failed, with what it cost.

        Raises:
            StopRun: It could not be committed.
        """
        failures = model_failures.get()
        if failures is not None and not isinstance(error, ValidationError):
            failures.append(error)
        if not isinstance(error, ValidationError):
            self.run.setbacks.failed(ticket)
        usage = self._usage(meter)
        report = billed_usage(error) if usage is None else None
        if report is not None:
            usage = replace(read_usage(report), calls=0)
        elif usage is None and unread(error) is not None:
            usage = Usage(calls=1)  # paid for, and nobody says how much
        try:
            self.run.fail_model(ticket, error, usage, describe(error))
        except CrewProdError as refusal:
            raise StopRun(refusal) from error

    def bill_late(self, ticket: Ticket, attempt: int, model: Any, usage: Mapping[str, Any]) -> None:
        """Bill a try that was left at its deadline and was answered after all, by `model`."""
        name = str(model.model)
        if self.run.ended:
            self.run.log.llm_unmetered(
                model=name, task=self.scope.task_name, agent=self.scope.agent
            )
            return
        call = DirectCall(
            model=name,
            provider=getattr(model, "provider", None),
            meant=digest(b"late", ticket.step_id.encode(), str(attempt).encode()),
            started_at=ticket.started_at,
            duration_ms=ticket.elapsed_ms,
            usage=read_usage(usage),
        )
        with suppress(CrewProdError):  # the run has stored it and stops at its next step
            self.run.record_direct(self.scope, call)

    def _usage(self, meter: Meter) -> Usage | None:
        """What the call cost. Another model's report of it may be on its way."""
        if not meter.usages and meter.awaited and self.run.await_reports is not None:
            self.run.await_reports()
        return meter.close()


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


def with_messages(
    args: tuple[Any, ...], kwargs: dict[str, Any], messages: Messages | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with other messages; None: as they are."""
    if messages is None:
        return args, kwargs
    if "messages" in kwargs:
        return args, {**kwargs, "messages": messages}
    return (messages, *args[1:]), kwargs


def given_by_name(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name."""
    return {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}


def _schema(kind: Any) -> Any:
    if not isinstance(kind, type):
        return kind
    if kind not in _schemas:
        make = getattr(kind, "model_json_schema", None)
        _schemas[kind] = make() if make is not None else kind.__qualname__
    return _schemas[kind]
