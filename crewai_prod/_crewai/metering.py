"""What a model call that is under way reports about itself: tokens, ids, why it ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from crewai.llms.base_llm import BaseLLM

from crewai_prod._crewai.capping import with_cap
from crewai_prod._crewai.sdks import hold_retries, let_go, tried_once
from crewai_prod._crewai.takeover import Seamed, put, put_private, really_a, take_over
from crewai_prod._crewai.usage import Reported, read_usage
from crewai_prod.records import Usage


@dataclass(slots=True)
class Meter:
    """What one live call reported about itself, in the order it was reported.

    Attributes:
        usages: Reports of the model itself.
        inner: Reports of other models that it handed the call on to. They count if it says nothing
            itself: a model that does knows of them.
        late: Told of a report that comes after the call was left at its deadline.
        awaited: Whether such a report is to be expected.
    """

    usages: list[Mapping[str, Any]] = field(default_factory=list)
    inner: list[Mapping[str, Any]] = field(default_factory=list)
    late: Callable[[Mapping[str, Any]], None] | None = None
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

    def report(self, usage: Mapping[str, Any]) -> None:
        """Take up a report of the model itself."""
        with self._lock:
            closed = self._closed
            if not closed:
                self.usages.append(usage)
        if closed and self.late is not None:
            self.late(usage)

    def close(self) -> Usage | None:
        """All reports of the call together; None if nobody reported anything."""
        with self._lock:
            self._closed = True
        first, *rest = self.usages or self.inner or (None,)
        return None if first is None else sum(map(read_usage, rest), read_usage(first))


_meter: ContextVar[Meter | None] = ContextVar("crewai_prod_meter", default=None)
model_failures: ContextVar[list[Exception] | None] = ContextVar(
    "crewai_prod_model_failures", default=None
)
"""Why calls made here had no answer, where somebody wants to know; one in no shape is an answer."""
_live: ContextVar[frozenset[int]] = ContextVar("crewai_prod_live", default=frozenset())


def streams(llm: Any) -> bool:
    """Whether the model streams in this call; newer releases can say so for one call alone."""
    effective = getattr(llm, "_effective_stream", None)
    return bool(effective() if effective is not None else getattr(llm, "stream", False))


def is_cut_short(llm: Any, meter: Meter) -> bool:
    """Whether the end of a streamed answer never came, though the connection was closed in order.

    In OpenAI's format that end is a finish reason and the usage; CrewAI takes what there is for the
    answer. A server that leaves one of them out is not taken for one that broke off.
    """
    if meter.finish_reason or meter.usages or not streams(llm):
        return False
    return any(kind.__name__ == "OpenAICompletion" for kind in type(llm).__mro__)


def current_meter() -> Meter | None:
    """The meter of the model call that this code is part of."""
    return _meter.get()


class MeteredLLM(Seamed):
    """Reports what a provider's code counts to the call that is under way.

    While a call is under way the SDK tries once: whether it is tried again is decided here.
    """

    def _get_sync_client(self) -> Any:
        return tried_once(super()._get_sync_client())  # type: ignore[misc]

    def _get_async_client(self) -> Any:
        return tried_once(super()._get_async_client())  # type: ignore[misc]

    def _prepare_completion_params(self, *args: Any, **kwargs: Any) -> Any:
        """With the cap of this call; and for LiteLLM, which hands these on to the SDK it calls."""
        params = super()._prepare_completion_params(*args, **kwargs)  # type: ignore[misc]
        if _meter.get() is not None and getattr(self, "is_litellm", False):
            params |= {"max_retries": 0, "num_retries": 0}
        return with_cap(self, params)

    def _prepare_responses_params(self, *args: Any, **kwargs: Any) -> Any:
        """For OpenAI's other protocol."""
        params = super()._prepare_responses_params(*args, **kwargs)  # type: ignore[misc]
        return with_cap(self, params, responses=True)

    def _track_token_usage_internal(self, usage_data: dict[str, Any]) -> None:
        meter = _meter.get()
        if meter is not None and usage_data:
            self._report(meter, usage_data)
        super()._track_token_usage_internal(usage_data)  # type: ignore[misc]

    def _extract_openai_token_usage(self, response: Any) -> dict[str, Any]:
        return Reported.of(super()._extract_openai_token_usage(response), response)  # type: ignore[misc]

    def _report(self, meter: Meter, usage: Mapping[str, Any]) -> None:
        meter.report(usage)

    def _emit_call_completed_event(self, *args: Any, **kwargs: Any) -> None:
        meter = _meter.get()
        if meter is not None:
            meter.finish_reason = kwargs.get("finish_reason") or meter.finish_reason
            meter.response_id = kwargs.get("response_id") or meter.response_id
        super()._emit_call_completed_event(*args, **kwargs)  # type: ignore[misc]


def take_over_model(llm: BaseLLM, mixin: type[Any], seam: Any, *, share: bool) -> BaseLLM:
    """A model behind its seam, and with it those that it hands its calls on to (Azure's does).

    Args:
        llm: The user's model.
        mixin: What stands in front of its class.
        seam: Its run's end.
        share: Whether both are to have one state. One that hands its calls on is copied.
    """
    fields = {k: v for k, v in llm.__dict__.items() if really_a(BaseLLM, v)}
    private = {k: v for k, v in (llm.__pydantic_private__ or {}).items() if really_a(BaseLLM, v)}
    taken = take_over(llm, mixin, seam, share=share and not fields and not private)
    put(taken, **{k: take_over(v, MeteredLLM, seam) for k, v in fields.items()})
    put_private(taken, **{k: take_over(v, MeteredLLM, seam) for k, v in private.items()})
    return taken


def meter_beside(usage: dict[str, Any]) -> None:
    """Report what a request cost that was sent past the model's own class."""
    meter = _meter.get()
    if meter is not None and usage:
        meter.report(usage)


class outside_calls:
    """A tool's body is no part of the model call around it: its own calls are steps."""

    __slots__ = ("_tokens",)

    def __enter__(self) -> None:
        self._tokens = _live.set(frozenset()), _meter.set(None)

    def __exit__(self, *_: object) -> None:
        live, meter = self._tokens
        _live.reset(live)
        _meter.reset(meter)


class calling:
    """Where models are called: what they count is this call's, and they are no new steps.

    No generator, like other blocks that every step enters: those cost several times as much.

    Args:
        *llms: The models.
    """

    __slots__ = ("_llms", "_tokens")

    def __init__(self, *llms: Any) -> None:
        self._llms = llms

    def __enter__(self) -> Meter:
        meter = Meter()
        live = _live.get().union(map(id, self._llms))
        self._tokens = _live.set(live), _meter.set(meter), hold_retries()
        return meter

    def __exit__(self, *_: object) -> None:
        live, meter, held = self._tokens
        let_go(held)
        _meter.reset(meter)
        _live.reset(live)


def is_live(llm: Any) -> bool:
    """Whether this code is part of a call of this model."""
    return id(llm) in _live.get()
