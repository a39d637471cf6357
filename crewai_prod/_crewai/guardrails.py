"""The seam in front of guardrails that ask a model: what could not be checked is not bad.

CrewAI takes a failure of the check for a complaint and has the whole task done again, up to four
times. Here a model that cannot be had leaves the task as it is: a run that is resumed asks that
one again. An answer of the model that is no verdict stays the complaint that CrewAI makes of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from crewai.llms.base_llm import BaseLLM
from crewai.tasks.llm_guardrail import LLMGuardrail

from crewai_prod._crewai.metering import model_failures
from crewai_prod._crewai.takeover import really_a

_classes: dict[type, type] = {}


class _Unchecked:
    """In front of an `LLMGuardrail`'s own class."""

    _failure: Exception | None = None

    def _validate_output(self, task_output: Any) -> Any:
        failures: list[Exception] = []
        token = model_failures.set(failures)
        try:
            return super()._validate_output(task_output)  # type: ignore[misc]
        except Exception as error:
            if any(error is failure for failure in failures):
                self._failure = error
            raise
        finally:
            model_failures.reset(token)

    def __call__(self, task_output: Any) -> tuple[bool, Any]:
        checking = copy.copy(self)  # one guardrail may check several outputs at once
        checking._failure = None
        verdict: tuple[bool, Any] = super(_Unchecked, checking).__call__(task_output)  # type: ignore[misc]
        if checking._failure is not None:
            raise checking._failure
        return verdict


def take_over_guardrail(guardrail: Any, take_llm: Callable[[Any], Any]) -> Any:
    """A guardrail that asks a model asks the run's; any other stays as it is."""
    llm = getattr(guardrail, "llm", None)
    if not really_a(BaseLLM, llm):
        return guardrail
    taken = copy.copy(guardrail)
    taken.llm = take_llm(llm)
    if isinstance(taken, LLMGuardrail):
        taken.__class__ = _unchecked(type(guardrail))
    return taken


def _unchecked(kind: type) -> type:
    """The class with the seam in front; events name a guardrail by its class."""
    if kind not in _classes:
        namespace = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
        _classes[kind] = type(kind.__name__, (_Unchecked, kind), namespace)
    return _classes[kind]
