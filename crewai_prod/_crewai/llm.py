"""The seam in front of a model: `LLM.call` and `acall` pass through the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from crewai.llms.base_llm import BaseLLM
from pydantic import BaseModel

from crewai_prod._crewai.fallbacks import read_by, standing_in
from crewai_prod._crewai.metering import (
    Meter,
    MeteredLLM,
    current_meter,
    is_live,
    take_over_model,
)
from crewai_prod._crewai.model_call import Messages, ModelCall, given_by_name, with_messages
from crewai_prod._crewai.stop import StopRun
from crewai_prod._crewai.takeover import behind, seam_of
from crewai_prod.kickoff import place_around
from crewai_prod.run import Run
from crewai_prod.steps import Scope


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


class DurableLLM(MeteredLLM):
    """A model of a hardened run: answers from the journal, or calls, commits and answers."""

    @property
    def stop_sequences(self) -> list[str]:
        """Also those that CrewAI has set, for the call under way, on the user's own object."""
        given: list[str] = behind(self).stop_sequences
        own: list[str] = getattr(super(), "stop_sequences", given)
        return own if own is not self.stop else given  # type: ignore[attr-defined]

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """`BaseLLM.call` of the original, or of one that stands in for it; once for one request."""
        run = self._run_of_call()
        if run is None:
            return super().call(*args, **kwargs)  # type: ignore[misc]

        def ask(model: Any, sent: Messages | None) -> Any:
            said, named = with_messages(args, kwargs, sent)
            if run.routing.on:
                said, named = read_by(model, said, named)
            if model is self:
                return super(DurableLLM, self).call(*said, **named)  # type: ignore[misc]
            with standing_in(model, self):
                return model.call(*said, **named)

        return ModelCall.read(self, run, args, kwargs).answer(ask)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """`BaseLLM.acall` of the original; commits on worker threads."""
        run = self._run_of_call()
        if run is None:
            return await super().acall(*args, **kwargs)  # type: ignore[misc]

        async def ask(model: Any, sent: Messages | None) -> Any:
            said, named = with_messages(args, kwargs, sent)
            if run.routing.on:
                said, named = read_by(model, said, named)
            if model is self:
                return await super(DurableLLM, self).acall(*said, **named)  # type: ignore[misc]
            with standing_in(model, self):
                return await model.acall(*said, **named)

        return await ModelCall.read(self, run, args, kwargs).aanswer(ask)

    def _run_of_call(self) -> Run | None:
        """The run this call is a step of; None for a provider's own retry within a call."""
        seam: ModelSeam = seam_of(self)
        return None if is_live(self) else seam.run


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
        return None if place is None or current_meter() is not None else place[0]

    def _report(self, meter: Meter, usage: Mapping[str, Any]) -> None:
        if is_live(self):
            meter.report(usage)
        else:
            meter.report_inner(usage)


def answer_beside(
    llm: Any,
    messages: Any,
    response_model: type[BaseModel],
    work: Callable[[Messages | None], Any],
) -> Any:
    """The answer to a request that is sent for a model through a client that is not its own.

    Args:
        llm: The model, behind its seam; any other is asked as if there were no run.
        messages: What is sent.
        response_model: What the answer is to be an instance of.
        work: Sends it, or other messages in its place; what it cost is told to `meter_beside`.
    """
    run = llm._run_of_call() if isinstance(llm, DurableLLM) else None
    if run is None:
        return work(None)
    asked = ModelCall.read(llm, run, (messages,), {"response_model": response_model})
    return asked.answer(lambda model, sent: work(sent), alone=True)


def take_over_llm(llm: BaseLLM, seam: ModelSeam, mixin: type[DurableLLM] = DurableLLM) -> BaseLLM:
    """The model behind its seam; its state is the user's: counters, clients, response ids."""
    return take_over_model(llm, mixin, seam, share=True)


def harden_llm(llm: BaseLLM) -> BaseLLM:
    """A model that is a step of whatever run it is called in."""
    return llm if isinstance(llm, HardenedLLM) else take_over_llm(llm, ANY_RUN, HardenedLLM)


def in_a_run(llm: Any) -> bool:
    """Whether a model belongs to one run."""
    seam: ModelSeam | None = seam_of(llm)
    return seam is not None and seam.run is not None


@contextmanager
def _refusing_in_person(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
    """A user's own code sees the refusal itself; CrewAI, which names who asks, what leaves it."""
    try:
        yield
    except StopRun as stop:
        given = given_by_name(args, kwargs)
        if given.get("from_task") is None and given.get("from_agent") is None:
            raise stop.error from stop
        raise
