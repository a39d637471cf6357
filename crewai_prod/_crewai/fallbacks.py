"""The models that are asked in place of another one: a rule says so, or that cannot be had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from crewai.llms import base_llm
from crewai.llms.base_llm import BaseLLM
from crewai.utilities.llm_utils import create_llm

from crewai_prod._crewai.metering import MeteredLLM, streams, take_over_model
from crewai_prod._crewai.takeover import original_of, put
from crewai_prod.errors import UsageError
from crewai_prod.route import model_name
from crewai_prod.run import Run

_PARTS = "raw_tool_call_parts"
"""What CrewAI keeps of Gemini's own form in a message; no other provider takes it."""


def fallback(run: Run, number: int, for_whom: Any) -> Any:
    """The n-th model to go to in a run, or None.

    Raises:
        UsageError: It cannot be made of what it is given as.
    """
    named = run.retry.fallback
    if number >= len(named):
        return None
    return stand_in(run, named[number], for_whom, "Retry(fallback=...)")


def stand_in(run: Run, named: Any, for_whom: Any, of: str) -> Any:
    """The model to ask in place of another one; that one itself, if it is what is named.

    Its calls are metered as part of the call it stands in for. It is asked for answers in the form
    that the other one is set to give, and streams if that one does.

    Args:
        run: The run.
        named: A name, a model, its settings; or None for the other one.
        for_whom: The other one.
        of: Where it is named, for people.

    Raises:
        UsageError: It cannot be made of what it is given as.
    """
    if named is None or original_of(named) is original_of(for_whom):
        return for_whom
    made = run.routing.models
    key = (named if isinstance(named, str) else id(named), id(for_whom))
    if key not in made:
        made.setdefault(key, (_make(named, for_whom, of), named, for_whom))  # whose ids these are
    llm = made[key][0]
    if streams(for_whom) and "stream" in llm.__dict__:
        put(llm, stream=True)
    return llm


def _make(named: Any, for_whom: Any, of: str) -> Any:
    try:
        llm = create_llm(original_of(named))
    except Exception as error:
        raise UsageError(f"{of}: {model_name(named)!r} cannot be made: {error}") from error
    if not isinstance(llm, BaseLLM):
        raise UsageError(f"{of}: {model_name(named)!r} is no model.")
    taken = take_over_model(llm, MeteredLLM, None, share=False)
    form = for_whom.__dict__.get("response_format")
    if form is not None and taken.__dict__.get("response_format", form) is None:
        put(taken, response_format=form)
    return taken


@contextmanager
def standing_in(model: Any, for_whom: Any) -> Iterator[None]:
    """Let a model stop where the one it stands in for would."""
    stop = list(for_whom.stop_sequences)
    override = getattr(base_llm, "call_stop_override", None)
    if override is None:  # older releases: CrewAI itself sets them on the model
        put(model, stop=stop)
        yield
        return
    with override(model, stop):
        yield


def read_by(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, in a conversation in which other models have answered before."""
    if any(kind.__name__ == "GeminiCompletion" for kind in type(model).__mro__):
        return args, kwargs
    if args:
        return (_without_parts(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "messages": _without_parts(kwargs.get("messages"))}


def _without_parts(messages: Any) -> Any:
    if not isinstance(messages, list):
        return messages
    if not any(isinstance(one, Mapping) and _PARTS in one for one in messages):
        return messages
    return [{key: value for key, value in one.items() if key != _PARTS} for one in messages]
