"""The seam in front of guardrails: what could not be checked is not bad, and bad is said as such.

CrewAI takes a failure of a check that asks a model for a complaint and has the whole task done
again, up to four times; an exception of a user's function ends the task, and its last answer is as
good as lost. Here a check that could not be made stops the run where it is (`GuardUnavailable`): a
run that is resumed repeats no model call, it checks again. An answer of a judging model that is no
verdict stays the complaint that CrewAI makes of it.

A guardrail that says no to every try ends its task as it does in CrewAI, as `GuardRejected`.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from crewai.llms.base_llm import BaseLLM
from crewai.tasks.hallucination_guardrail import HallucinationGuardrail
from crewai.tasks.llm_guardrail import LLMGuardrail
from crewai.utilities.guardrail import GuardrailResult

from crewai_prod._crewai.metering import model_failures
from crewai_prod._crewai.places import scope_of
from crewai_prod._crewai.stop import Passing, StopRun
from crewai_prod._crewai.takeover import really_a, seam_of
from crewai_prod.codec import text_of
from crewai_prod.errors import CrewProdError, GuardRejected, GuardUnavailable
from crewai_prod.failures import said_by
from crewai_prod.run import Run

_classes: dict[type, type] = {}
_verdicts: ContextVar[list[bool] | None] = ContextVar("crewai_prod_verdicts", default=None)
"""What the guardrail that is at work here has said so far, answer by answer."""


class _Unchecked:
    """In front of an `LLMGuardrail`'s own class."""

    _failure: Exception | None = None
    llm: Any

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
        run = seam_of(checking.llm).run
        verdict: tuple[bool, Any] = super(_Unchecked, checking).__call__(task_output)  # type: ignore[misc]
        if checking._failure is not None:
            raise _unavailable(run, checking._failure) from checking._failure
        _note(run, verdict[0])
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


def in_words(description: str, llm: Any, take_llm: Callable[[Any], Any]) -> Any:
    """The guardrail that CrewAI makes of a text, for an agent that is kicked off by itself."""
    if not really_a(BaseLLM, llm):
        return description
    return take_over_guardrail(LLMGuardrail(description, llm), take_llm)


def checked(guardrail: Any, run: Run) -> Any:
    """A user's function whose exceptions, and what is no verdict, stop the run.

    It looks like the function to whoever asks for its name and source, as CrewAI's events do. What
    is no function, and CrewAI's own guardrails, stay as they are.
    """
    if not callable(guardrail) or isinstance(guardrail, (LLMGuardrail, HallucinationGuardrail)):
        return guardrail

    @functools.wraps(guardrail)
    def check(output: Any) -> Any:
        try:
            verdict = guardrail(output)
            passed = GuardrailResult.from_tuple(verdict).success
        except Passing:
            raise
        except Exception as error:
            if run.refused(error) and run.stopped is not None:
                raise StopRun(run.stopped) from error
            raise _unavailable(run, error) from error
        _note(run, passed)
        return verdict

    return check


@contextmanager
def judging(task: str | None, agent: Any, most: int) -> Iterator[None]:
    """Where a guardrail judges an answer, and the ones that follow its complaints.

    Args:
        task: Name of the task.
        agent: Who answers.
        most: How many complaints it may have.

    Raises:
        GuardRejected: In place of what CrewAI raises when it has had one more.
    """
    verdicts: list[bool] = []
    token = _verdicts.set(verdicts)
    try:
        yield
    except (Passing, CrewProdError):
        raise
    except Exception as error:
        if len(verdicts) > most and not verdicts[-1]:
            raise GuardRejected(
                text_of(error),
                task=task,
                agent=getattr(agent, "role", None),
                attempts=len(verdicts),
            ) from error
        raise
    finally:
        _verdicts.reset(token)


def _note(run: Run, passed: bool) -> None:
    if not passed:
        run.setbacks.rejected(scope_of(run))
    verdicts = _verdicts.get()
    if verdicts is not None:
        verdicts.append(passed)


def _unavailable(run: Run, error: Exception) -> StopRun:
    """What stops the run because of a check that could not be made."""
    scope = scope_of(run)
    refusal = GuardUnavailable(
        f"The guardrail could not check the answer: {said_by(error)}",
        task=scope.task_name,
        agent=scope.agent,
    )
    refusal.__cause__ = error
    return StopRun(run.stop(refusal))


def _unchecked(kind: type) -> type:
    """The class with the seam in front; events name a guardrail by its class."""
    if kind not in _classes:
        namespace = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
        _classes[kind] = type(kind.__name__, (_Unchecked, kind), namespace)
    return _classes[kind]
