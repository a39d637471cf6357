"""Which model the next call goes to. Pure: values in, a choice out.

Rule: the rules are asked in order before a call is made, and the first that holds decides; if none
does it is the agent's own model. A call that is answered from the journal asks no rule: whoever
answered it has answered it. A rule that cannot decide stops the run: no call goes to a model that
nobody chose. A choice is made once for each call: its tries keep to it, and the models that stand
in for one that cannot be had come after it.

Not covered: what CrewAI's converter sends through a client of its own stays with the model that
the client is for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias

import orjson

from crewai_prod.budget import Used
from crewai_prod.errors import RouteFailed, UsageError
from crewai_prod.failures import said_by

_COUNTS = ("step_from", "step_to", "input_tokens_from", "after_failures")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteContext:
    """What is known of a model call before it is made.

    Attributes:
        run_id: The run.
        task: Name of the task, None outside of tasks.
        agent: Role of the agent, None where none is at work.
        model: The model that is asked for: the agent's own.
        provider: Its provider.
        step: The number of this call among the model calls in its scope, from 1: of the agent in
            this task, answered ones included.
        input_tokens: What it sends, as it is estimated.
        budget_used: Which part of the budgets that cover the call is spent or set aside: of the
            tightest limit, so 0.7 is seven tenths. 0 where there is no budget.
        budget: What is known of that limit, None where there is none.
        rejected: Answers that were sent back in this task: in the wrong form, without a tool that
            is required, refused by a guardrail.
        failed_tries: Tries of model calls in this task that failed, of this call too.
    """

    run_id: str
    task: str | None
    agent: str | None
    model: str
    provider: str | None = None
    step: int = 1
    input_tokens: int = 0
    budget_used: float = 0.0
    budget: Used | None = None
    rejected: int = 0
    failed_tries: int = 0

    @property
    def failures(self) -> int:
        """Both together."""
        return self.rejected + self.failed_tries


Chooser: TypeAlias = Callable[[RouteContext], Any]


@dataclass(frozen=True, slots=True)
class Route:
    """A rule that chooses the model of a call. All its conditions must hold; without any it does.

    Attributes:
        model: Who is asked: a name (`"openai/gpt-4o-mini"`), a model object, or None for the
            agent's own, to make an exception from the rules that follow.
        name: What the rule is called in the log and the journal. Default: the model's name.
        budget_used_from: From which part of the budgets that cover the call on, more than 0, at
            most 1: what is spent and set aside of the tightest limit.
        task: Name of the task, or several.
        agent: Role of the agent, or several.
        step_from: From which model call in its scope (an agent in a task) on, counted from 1.
        step_to: Up to which, that one included.
        input_tokens_from: From how many tokens of input on, as they are estimated.
        after_failures: From how many failures in the task on: answers that were sent back (wrong
            form, a required tool not called, a guardrail's no) and tries of model calls that
            failed.
        when: A function that is told the `RouteContext` and says whether the rule holds. One that
            raises stops the run.

    Raises:
        UsageError: A value that makes no sense.
    """

    model: Any
    _: KW_ONLY
    name: str | None = None
    budget_used_from: float | None = None
    task: str | Sequence[str] | None = None
    agent: str | Sequence[str] | None = None
    step_from: int | None = None
    step_to: int | None = None
    input_tokens_from: int | None = None
    after_failures: int | None = None
    when: Callable[[RouteContext], bool] | None = None
    label: str = field(init=False, repr=False)
    """What the rule is called."""

    def __post_init__(self) -> None:
        checked_model(self.model, "Route")
        if self.name is not None and not (isinstance(self.name, str) and self.name):
            raise UsageError(f"Route(name={self.name!r}): a name, or None.")
        object.__setattr__(self, "label", self.name or model_name(self.model) or "own model")
        part = self.budget_used_from
        if part is not None and not (_is_number(part) and 0 < part <= 1):
            raise UsageError(
                f"Route(budget_used_from={part!r}): a part of the budget, more than 0, at most 1."
            )
        for one in ("task", "agent"):
            object.__setattr__(self, one, _names(one, getattr(self, one)))
        for one in _COUNTS:
            value = getattr(self, one)
            if value is not None and (not _is_count(value) or value < 1):
                raise UsageError(f"Route({one}={value!r}): a whole number from 1 on, or None.")
        if self.step_from and self.step_to and self.step_to < self.step_from:
            raise UsageError(
                f"Route(step_from={self.step_from}, step_to={self.step_to}): no step is both."
            )
        if self.when is not None and not callable(self.when):
            raise UsageError(f"Route(when={self.when!r}) is no function.")

    def why(self, context: RouteContext) -> str | None:
        """Why it holds, in words; None: it does not.

        Raises:
            RouteFailed: Its own function could not say.
        """
        reasons = []
        for holds, reason in self._conditions(context):
            if not holds:
                return None
            reasons.append(reason)
        if self.when is not None:
            if not _asked(self.when, context, self.label):
                return None
            reasons.append(f"{_name_of(self.when)} says so")
        return ", ".join(reasons) or "always"

    def _conditions(self, context: RouteContext) -> Iterator[tuple[bool, str]]:
        if self.task is not None:
            yield context.task in self.task, f"task {context.task!r}"
        if self.agent is not None:
            yield context.agent in self.agent, f"agent {context.agent!r}"
        if self.step_from is not None:
            yield context.step >= self.step_from, f"model call {context.step} of its scope"
        if self.step_to is not None:
            yield context.step <= self.step_to, f"model call {context.step} of its scope"
        if self.input_tokens_from is not None:
            tokens = context.input_tokens
            yield tokens >= self.input_tokens_from, f"about {tokens:,} tokens of input"
        if self.after_failures is not None:
            yield context.failures >= self.after_failures, _told(context)
        if self.budget_used_from is not None:
            used = context.budget
            reason = used.message if used is not None else ""
            yield used is not None and used.part >= self.budget_used_from, reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Who is asked, and why.

    Attributes:
        model: As the rule names it; None: the agent's own.
        rule: What the rule is called.
        reason: Why it holds.
    """

    model: Any
    rule: str
    reason: str

    def facts(self, asked: str, instead_of: str) -> str:
        """JSON for the journal.

        Args:
            asked: Name of the model that is asked.
            instead_of: Name of the one that was asked for.
        """
        told = {"rule": self.rule, "reason": self.reason, "model": asked, "instead_of": instead_of}
        return orjson.dumps(told).decode()


@dataclass(frozen=True, slots=True)
class Routes:
    """The rules of one hardened target, in order."""

    rules: tuple[Route | Chooser, ...] = ()

    @classmethod
    def read(cls, said: Any = None) -> Routes:
        """Rules as `harden` takes them.

        Raises:
            UsageError: They are something else.
        """
        if said is None:
            return cls()
        several = tuple(said) if isinstance(said, (list, tuple)) else (said,)
        for one in several:
            if not isinstance(one, Route) and not callable(one):
                raise UsageError(
                    f"route={one!r} is no Route and no function; for example "
                    'Route("openai/gpt-4o-mini", budget_used_from=0.7).'
                )
        return cls(several)

    def __bool__(self) -> bool:
        return bool(self.rules)

    @property
    def of_budget(self) -> bool:
        """Whether it may matter how much of a budget is left."""
        return any(
            not isinstance(one, Route) or one.budget_used_from is not None or one.when is not None
            for one in self.rules
        )

    @property
    def names(self) -> list[str]:
        """The tasks and agents that rules are for."""
        ruled = [one for one in self.rules if isinstance(one, Route)]
        return [name for one in ruled for name in (*(one.task or ()), *(one.agent or ()))]

    @property
    def need_budget(self) -> list[str]:
        """Names of the rules that hold of no call where there is no budget."""
        ruled = [one for one in self.rules if isinstance(one, Route)]
        return [one.label for one in ruled if one.budget_used_from is not None]

    def choose(self, context: RouteContext) -> Choice | None:
        """The choice of the first rule that holds; None: of none.

        Raises:
            RouteFailed: A function of the user's could not say.
        """
        for rule in self.rules:
            if isinstance(rule, Route):
                reason = rule.why(context)
                if reason is not None:
                    return Choice(model=rule.model, rule=rule.label, reason=reason)
                continue
            name = _name_of(rule)
            model = _asked(rule, context, name)
            if model is not None:
                return Choice(model=_chosen(model, name), rule=name, reason=f"{name} says so")
        return None


def model_name(model: Any) -> str | None:
    """What a model is called, as far as that can be said without making it."""
    if model is None or isinstance(model, str):
        return model
    of = model.get("model") if isinstance(model, Mapping) else getattr(model, "model", None)
    return str(of) if of else type(model).__name__


def checked_model(model: Any, of: str) -> None:
    """Refuse what can be no model. What a name stands for is found out when it is first asked.

    Raises:
        UsageError: It can be none.
    """
    wrong = isinstance(model, (bool, int, float, bytes, list, tuple, set)) or model == ""
    if wrong or isinstance(model, (Route, type)):
        raise UsageError(f"{of}({model!r}): a model's name, a model, or None for the agent's own.")


def _chosen(model: Any, name: str) -> Any:
    try:
        checked_model(model, name)
    except UsageError as error:
        raise RouteFailed(
            f"The route {name!r} returned {model!r}, which is no model: nobody was asked.",
            rule=name,
        ) from error
    return model


def _asked(function: Callable[[RouteContext], Any], context: RouteContext, name: str) -> Any:
    try:
        said = function(context)
    except Exception as error:
        raise RouteFailed(
            f"The route {name!r} raised {said_by(error)}. Nobody was asked.",
            rule=name,
        ) from error
    if inspect.iscoroutine(said):
        said.close()
        raise RouteFailed(f"The route {name!r} is asynchronous; nobody was asked.", rule=name)
    return said


def _told(context: RouteContext) -> str:
    back, failed = context.rejected, context.failed_tries
    parts = []
    if back:
        parts.append("1 answer sent back" if back == 1 else f"{back} answers sent back")
    if failed:
        parts.append("1 failed try" if failed == 1 else f"{failed} failed tries")
    return " and ".join(parts)


def _name_of(function: Any) -> str:
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)


def _names(of: str, said: Any) -> tuple[str, ...] | None:
    if said is None:
        return None
    several = tuple(said) if isinstance(said, (list, tuple, set, frozenset)) else (said,)
    if not several or not all(isinstance(one, str) and one for one in several):
        raise UsageError(f"Route({of}={said!r}): a name, or several.")
    return several


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)
