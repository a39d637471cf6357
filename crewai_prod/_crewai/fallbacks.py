"""The models that stand in for one that cannot be had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from crewai.llms import base_llm
from crewai.llms.base_llm import BaseLLM
from crewai.utilities.llm_utils import create_llm

from crewai_prod._crewai.metering import MeteredLLM
from crewai_prod._crewai.takeover import original_of, put, take_over
from crewai_prod.errors import UsageError
from crewai_prod.run import Run

_made: WeakKeyDictionary[Run, dict[int, Any]] = WeakKeyDictionary()


def fallback(run: Run, number: int) -> Any:
    """The n-th model to go to in a run, or None.

    Its calls are metered as part of the call it stands in for.

    Raises:
        UsageError: It cannot be made of what it is given as.
    """
    named = run.retry.fallback
    if number >= len(named):
        return None
    made = _made.setdefault(run, {})
    if number not in made:
        made[number] = _make(named[number])
    return made[number]


def _make(named: Any) -> Any:
    try:
        llm = create_llm(original_of(named))
    except Exception as error:
        raise UsageError(f"Retry(fallback=...): {named!r} cannot be made: {error}") from error
    if not isinstance(llm, BaseLLM):
        raise UsageError(f"Retry(fallback=...): {named!r} is no model.")
    return take_over(llm, MeteredLLM, None)


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
