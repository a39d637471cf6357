"""What a run may take, and whether the next call still fits into it. Pure: values in, verdicts out.

Rule: before a call is made, the most that it may take is set aside: its input as it is estimated,
and as many tokens of output as it may be answered with. What has been spent, what other calls
under way have set aside, and this, together stay within every limit; else the call's output is
capped to what is left, or it waits for the others, or it is not made. Reason: a limit that is
looked at after a call has been passed by then. A call that was left at its deadline is under way
until its connection ends: it may be answered, and billed.

The estimate of input is the request's bytes (UTF-8) divided by three, and some tokens for each
message and tool: more than any of the usual tokenizers makes of prose or code. It is corrected by
what the model's provider has counted: by the highest ratio seen lately and a tenth more, and from
the third call on to less, too. A call that was answered without a report of what it took counts as
its input was estimated, and its answer likewise; on the bill nobody knows what it cost. Not
covered: images and files, which are taken for 2,000 tokens each; and requests that a provider's
client makes within one call besides the first.

A call that was under way when its process was killed may have been made, and nobody knows what it
took. It counts as one call, its input as it was estimated, and its output as the longest answer of
the run so far (256 tokens at least), or what was set aside for it if that is less: all of what was
set aside would make one kill the end of many a budget. So calls are never more than their limit,
and tokens and money pass theirs by no more than what such answers were longer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, TypeAlias

import orjson

from crewai_prod.approval import Approval
from crewai_prod.errors import UsageError
from crewai_prod.records import (
    PICO,
    Amounts,
    Pot,
    RunStatus,
    StepRecord,
    Taken,
    TransitionRecord,
    dollars,
)

_NOTHING = Amounts()
Window = Literal["hour", "day", "month"]
Decision: TypeAlias = "Literal['stop', 'pause'] | Budget"

_MEASURES: Mapping[str, Callable[[Amounts], int]] = {
    "max_usd": lambda one: one.cost_picousd,
    "max_tokens": lambda one: one.tokens,
    "max_input_tokens": lambda one: one.input_tokens,
    "max_output_tokens": lambda one: one.output_tokens,
    "max_llm_calls": lambda one: one.llm_calls,
    "max_tool_calls": lambda one: one.tool_calls,
}
"""What each limit is a limit of."""
_OF_OUTPUT = ("max_usd", "max_tokens", "max_output_tokens")
_OF_CALLS = (*_OF_OUTPUT, "max_input_tokens", "max_llm_calls")
_WINDOWS = ("hour", "day", "month")

PER_CALL, SECONDS = "per_call_input_tokens", "max_seconds"

LEAST_OUTPUT = 16
"""Tokens. A call that could be answered with less is not made."""
LONGEST = 131_072
"""Tokens that no model answers more of at once, where nothing is known about it."""
USUAL = 4_096
"""Tokens that every model can be asked to answer with; some refuse a higher cap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """A limit that the next call would pass: what an `on_limit` function is told.

    Attributes:
        limit: Its name, such as `max_usd`.
        most: Its value. Money is in US dollars, exact.
        spent: How much of it is spent.
        left: How much is left of it. It does not suffice.
        scope: What the budget is on: `run`, `task 'x'`, `agent 'x'` or `label 'x'`, with a window.
        budget: The budget.
        cut_off: How much of what is spent is what calls have likely taken that were under way when
            a session of the run ended; the bill does not know of them.
    """

    limit: str
    most: Decimal | int | float
    spent: Decimal | int | float
    left: Decimal | int | float
    scope: str
    budget: Budget
    cut_off: Decimal | int | float = 0

    @property
    def message(self) -> str:
        """In a sentence."""
        most, spent = _shown(self.most), _shown(self.spent)
        if self.limit == PER_CALL:
            return (
                f"The next model call of the {self.scope} would send about {spent} tokens; "
                f"{self.limit} is {most}. It was not made. With a higher limit the run goes on."
            )
        if self.limit == SECONDS:
            return (
                f"The time of the {self.scope} is over: {self.limit} is {most}, {spent} are spent. "
                "With a higher limit the run goes on."
            )
        killed = f" ({_shown(self.cut_off)} by calls that a kill cut off)" if self.cut_off else ""
        return (
            f"The next call would pass the budget of the {self.scope}: {self.limit} is {most}, "
            f"{spent} are spent{killed}. It was not made. With a higher limit the run goes on."
        )

    @property
    def rest(self) -> str:
        """What is left, in words."""
        left, most = _shown(self.left), _shown(self.most)
        return f"{left} of {most} are left: {self.limit} of the {self.scope}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a run, a task or an agent may take; or all runs together, in a window of time.

    Attributes:
        max_usd: US dollars for model calls. A model whose price nobody knows is not called then.
        max_tokens: Input and output together. Cached tokens count, replayed calls do not.
        max_input_tokens: Of all model calls together.
        max_output_tokens: The same of output.
        max_llm_calls: Model calls, tries that failed included.
        max_tool_calls: Tool calls.
        max_seconds: Wall clock of the run, all its sessions together. Only for a run.
        per_call_input_tokens: What one model call may be sent at most, as it is estimated.
        warn_at: From which part of a limit on a line `budget.warning` is logged, once.
        on_limit: What happens before the call that would pass a limit. `stop`: the run fails with
            `BudgetExceeded`. `pause`, or an `Approval`: it is paused, with the same error, and a
            person is asked for a higher limit. Both can be resumed, with a higher limit. `route`:
            the models in `route_to` are gone down to, and the run stops if the call fits none of
            them. Or a function that is told the `Excess`, and returns `stop`, `pause`, or a higher
            `Budget` to go on with (not of time: what is at work knows by then when to end).
        route_to: Cheaper models, the cheapest last: names or objects. A model for whose answer too
            little of `max_usd` is left (for a whole one, or for 4,096 tokens) is not asked, but the
            next one is. With any other `on_limit` than `route`, that is done after them.
        window: `hour`, `day` or `month` (UTC): the limits are for what all runs take in it.
        label: Of whom, such as a tenant: all runs whose budget has this label count together.
            Without one, those of the same crew (flow, agent) do. With a label and no window it is
            for all time. Runs count that are recorded in the same journal.

    Raises:
        UsageError: A value that makes no sense.
    """

    max_usd: Decimal | float | str | None = None
    max_tokens: int | None = None
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    max_llm_calls: int | None = None
    max_tool_calls: int | None = None
    max_seconds: float | None = None
    per_call_input_tokens: int | None = None
    warn_at: float = 0.8
    on_limit: str | Approval | Callable[[Excess], Decision] = "stop"
    route_to: Sequence[Any] = field(default=(), compare=False)
    window: Window | None = None
    label: str | None = None
    limits: Mapping[str, int] = field(init=False, repr=False, compare=False)
    """The limits that are set, money in trillionths of a US dollar."""

    def __post_init__(self) -> None:
        limits = {
            name: value
            for name in _MEASURES
            if (value := self._checked(name, getattr(self, name))) is not None
        }
        object.__setattr__(self, "limits", limits)
        self._checked("per_call_input_tokens", self.per_call_input_tokens)
        seconds = self.max_seconds
        if seconds is not None and not (_is_number(seconds) and seconds > 0):
            raise UsageError(f"Budget(max_seconds={seconds!r}): more than 0 seconds, or None.")
        if not (_is_number(self.warn_at) and 0 < self.warn_at <= 1):
            raise UsageError(f"Budget(warn_at={self.warn_at!r}): a part, more than 0, at most 1.")
        if isinstance(self.on_limit, Approval):
            self._check_approval(self.on_limit)
        elif self.on_limit not in ("stop", "pause", "route") and not callable(self.on_limit):
            raise UsageError(
                f"Budget(on_limit={self.on_limit!r}): there are 'stop', 'pause', 'route', an "
                "Approval and a "
                "function."
            )
        self._check_models()
        if self.window is not None and self.window not in _WINDOWS:
            raise UsageError(f"Budget(window={self.window!r}): there are hour, day and month.")
        if self.label is not None and not (isinstance(self.label, str) and self.label):
            raise UsageError(f"Budget(label={self.label!r}): a name, or None.")
        if self.shared and seconds is not None:
            raise UsageError("Budget(max_seconds=...) is for one run: it takes no window or label.")
        if not limits and seconds is None and self.per_call_input_tokens is None:
            raise UsageError("A Budget without any limit: give it max_usd, max_tokens, ...")

    @property
    def shared(self) -> bool:
        """Whether what other runs take counts, too."""
        return self.window is not None or self.label is not None

    def pot(self, otherwise: str, now: float) -> Pot:
        """What a shared budget counts.

        Args:
            otherwise: The label of a budget without one.
            now: The time; windows begin with the clock and the calendar, in UTC.
        """
        return Pot(label=self.label or otherwise, since=_first_hour(self.window, now))

    def _check_models(self) -> None:
        given = self.route_to
        several = tuple(given) if isinstance(given, (list, tuple)) else (given,)
        object.__setattr__(self, "route_to", several)
        for one in several:
            if not one or isinstance(one, (bool, int, float, bytes, set)):
                raise UsageError(f"Budget(route_to={given!r}): {one!r} is no model.")
        if several and self.max_usd is None:
            raise UsageError(
                f"Budget(route_to={given!r}): a cheaper model saves money, so it takes max_usd. "
                "Other limits can choose a model by harden(route=Route(..., budget_used_from=0.7))."
            )
        if self.on_limit == "route" and not several:
            raise UsageError("Budget(on_limit='route'): to whom? Give it route_to=[...].")

    def _check_approval(self, approval: Approval) -> None:
        """Only a person can say what a higher limit is."""
        of_tools = approval.above or approval.first_use or approval.after_taint
        if of_tools or approval.on_expiry == "approved":
            raise UsageError(
                f"Budget(on_limit={approval!r}): of an Approval, `who` and `expires` are for "
                "budgets; nobody's answer raises no limit."
            )

    def _checked(self, name: str, value: Any) -> int | None:
        if value is None:
            return None
        if name == "max_usd":
            return _picousd(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise UsageError(f"Budget({name}={value!r}): a whole number, not negative, or None.")
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a model call may take.

    Attributes:
        input_tokens: As estimated.
        most: Tokens it may be answered with.
        price: What so many tokens of output cost, the input included, in trillionths of a US
            dollar, at most; never less for more of them.
        can_lower: Whether the call's output can be capped.
        known: Whether `most` is what the model or its provider hold it to. If not, a cap must not
            be higher than `USUAL`; and if it cannot be capped, nothing is known for certain.
        passed_over: How many dearer models were not asked for lack of money.
    """

    input_tokens: int
    most: int
    price: Callable[[int], int] = lambda output: 0
    can_lower: bool = True
    known: bool = True
    passed_over: int = 0

    def amounts(self, output: int) -> Amounts:
        """What it may take if it is answered with so many tokens."""
        return Amounts(
            cost_picousd=self.price(output),
            input_tokens=self.input_tokens,
            output_tokens=output,
            llm_calls=1,
        )


@dataclass(frozen=True, slots=True)
class Fits:
    """The call may be made.

    Attributes:
        output: Tokens of output that are set aside.
        capped: Whether it must be capped to that.
    """

    output: int
    capped: bool = False


@dataclass(frozen=True, slots=True)
class Waits:
    """It may be once calls under way have ended."""


@dataclass(frozen=True, slots=True)
class Passes:
    """It would pass this limit."""

    limit: str


Verdict = Fits | Waits | Passes


def judge(budget: Budget, taken: Taken, ask: Ask, *, patient: bool = True) -> Verdict:
    """Whether a model call fits into a budget.

    Args:
        budget: The budget.
        taken: Of what it counts.
        ask: What the call may take.
        patient: Whether it can wait for others; if not, what they have set aside is spent.
    """
    reserved = taken.spent + taken.reserved
    room = output_room(budget, reserved, ask)
    if room >= ask.most:
        return Fits(ask.most)
    ever = output_room(budget, taken.spent, ask)
    least = _least(ask)
    if ever < least:
        return Passes(first_passed(budget, taken.spent, ask.amounts(max(least, 0))))
    if patient and taken.reserved != Amounts():
        return Waits()
    if room < least:
        return Passes(first_passed(budget, reserved, ask.amounts(max(least, 0))))
    if not ask.can_lower:
        return Fits(room)
    return Fits(room if ask.known else min(room, USUAL), capped=True)


def goes_down(budget: Budget, spent: Amounts, ask: Ask) -> bool:
    """Whether a cheaper model is to be asked, because too little is left for this one's answer.

    It is not asked for the last bit of the money, which would cut its answer short.
    """
    if ask.passed_over >= len(budget.route_to):
        return False
    enough = ask.price(min(ask.most, USUAL))
    return spent.cost_picousd + enough > budget.limits["max_usd"]


def _least(ask: Ask) -> int:
    """The least output that a call is made for."""
    if not ask.can_lower:
        return ask.most if ask.known else min(1, ask.most)
    return min(LEAST_OUTPUT, ask.most)


def output_room(budget: Budget, taken: Amounts, ask: Ask) -> int:
    """The most tokens of output, up to `ask.most`, with which all limits hold; -1: none does."""
    if passed(budget, taken, ask.amounts(0)) is not None:
        return -1
    low, high = 0, ask.most
    if passed(budget, taken, ask.amounts(high)) is None:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if passed(budget, taken, ask.amounts(middle)) is None:
            low = middle
        else:
            high = middle
    return low


def passed(budget: Budget, taken: Amounts, more: Amounts) -> str | None:
    """The first limit that would be passed, None if there is none."""
    for name, most in budget.limits.items():
        measure = _MEASURES[name]
        if measure(more) and measure(taken) + measure(more) > most:
            return name
    return None


def first_passed(budget: Budget, taken: Amounts, more: Amounts) -> str:
    """The limit that stands in the way."""
    return passed(budget, taken, more) or next(iter(budget.limits))


def warned(budget: Budget, spent: Amounts) -> set[str]:
    """The limits of which so much is spent that a person should know."""
    return {
        name
        for name, most in budget.limits.items()
        if _MEASURES[name](spent) >= most * budget.warn_at and _MEASURES[name](spent) > 0
    }


def counts_calls(budget: Budget) -> bool:
    """Whether it matters how many model calls are made, or what they take."""
    return any(name in budget.limits for name in _OF_CALLS)


def limits_output(budget: Budget) -> bool:
    """Whether it matters how long an answer is."""
    return any(name in budget.limits for name in _OF_OUTPUT)


def tightest_limit(budget: Budget, spent: Amounts) -> str:
    """The limit on output of which the least part is left."""
    names = [name for name in _OF_OUTPUT if name in budget.limits]
    return min(names, key=lambda name: _part_left(budget, name, spent))


def least_part_left(budget: Budget, spent: Amounts) -> float:
    """How much of it that is, from 0 to 1."""
    return _part_left(budget, tightest_limit(budget, spent), spent)


def _part_left(budget: Budget, name: str, spent: Amounts) -> float:
    most = budget.limits[name]
    return max(0, most - _MEASURES[name](spent)) / most if most else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """The limit of which the greatest part is spent or set aside.

    Attributes:
        part: How much of it that is; 1 is all.
        limit: Its name, such as `max_usd`.
        scope: On what the budget is.
    """

    part: float
    limit: str
    scope: str

    @property
    def message(self) -> str:
        """In words."""
        return f"{self.part:.0%} of {self.limit} of the {self.scope} are used"


def used(budget: Budget, taken: Taken, scope: str) -> Used | None:
    """How much of a budget is spent or set aside; None if it has no limit to count up to."""
    gone = taken.spent + taken.reserved
    parts = {
        name: _MEASURES[name](gone) / most if most else 1.0 for name, most in budget.limits.items()
    }
    if not parts:
        return None
    limit = max(parts, key=lambda name: parts[name])
    return Used(part=parts[limit], limit=limit, scope=scope)


def used_time(budget: Budget, seconds: float) -> Used | None:
    """The same of its time, for a run that was at work for so long."""
    most = budget.max_seconds
    return None if most is None else Used(part=seconds / most, limit=SECONDS, scope="run")


def excess(
    budget: Budget, limit: str, spent: Amounts, scope: str, cut_off: Amounts = _NOTHING
) -> Excess:
    """A limit that would be passed, in a person's terms."""
    measure = _MEASURES[limit]
    most, used = budget.limits[limit], measure(spent)
    values: list[Any] = [most, used, max(0, most - used), measure(cut_off)]
    if limit == "max_usd":
        values = [dollars(value) for value in values]
    return replace(_excess(budget, limit, values[:3], scope), cut_off=values[3])


def excess_of_call(budget: Budget, tokens: int, scope: str) -> Excess | None:
    """Why a call with so many tokens of input is too large by itself, if it is."""
    most = budget.per_call_input_tokens
    if most is None or tokens <= most:
        return None
    return _excess(budget, PER_CALL, [most, tokens, most], scope)


def excess_of_time(budget: Budget, seconds: float) -> Excess | None:
    """Why a run that was at work for so long may not begin anything more, if it may not."""
    found = time_spent(budget, seconds)
    return found if found is not None and seconds >= found.most else None


def time_spent(budget: Budget, seconds: float) -> Excess | None:
    """What is left of the time of a run that was at work for so long, if it has a limit."""
    most = budget.max_seconds
    if most is None:
        return None
    spent, left = round(seconds, 3), max(0.0, round(most - seconds, 3))
    return _excess(budget, SECONDS, [most, spent, left], "run")


def _excess(budget: Budget, limit: str, values: Sequence[Any], scope: str) -> Excess:
    most, spent, left = values
    return Excess(limit=limit, most=most, spent=spent, left=left, scope=scope, budget=budget)


def seconds_at_work(
    transitions: Sequence[TransitionRecord], steps: Sequence[StepRecord], epoch: int
) -> float:
    """How long the sessions of a run before this one lasted, all together.

    One that was killed lasted to the end of the last step that it recorded.
    """
    total = 0.0
    began: float | None = None
    for change in transitions:
        if change.epoch >= epoch:
            break
        if change.target is RunStatus.RUNNING:
            began = change.at
        elif began is not None:
            end = change.at
            if change.target is RunStatus.INTERRUPTED:
                ends = [_end_of(step) for step in steps if step.epoch == change.epoch]
                end = min(end, max(ends, default=began))
            total += max(0.0, end - began)
            began = None
    return total


def _end_of(step: StepRecord) -> float:
    return step.started_at + (step.duration_ms or 0.0) / 1000


def completed(took: Amounts, guess: Amounts) -> Amounts:
    """What a call took, and about as much as it took where nobody said."""
    return replace(
        took,
        cost_picousd=max(took.cost_picousd, guess.cost_picousd),
        input_tokens=took.input_tokens or guess.input_tokens,
        output_tokens=took.output_tokens or guess.output_tokens,
    )


# -- what a request is estimated to be ------------------------------------------------------------

_BYTES_PER_TOKEN = 3
_PER_ITEM = 8
"""Tokens around each message and tool."""
_PER_REQUEST = 16
_ATTACHMENT = 2_000
_ATTACHED = frozenset({"image_url", "image", "input_image", "input_file", "file", "input_audio"})
_FROM_CALL = 3
_LATELY = 20
_MARGIN = 1.1


def weigh(messages: Sequence[Mapping[str, Any]], params: Mapping[str, Any]) -> int:
    """Tokens of a request, at most, by its length. No tokenizer is asked.

    Args:
        messages: The conversation.
        params: What else is sent; of it tools and schemas count.
    """
    schemas = [params[name] for name in ("response_model", "response_format") if name in params]
    tools = params.get("tools") or ()
    items = [*map(_tokens_of_message, messages), *map(_tokens_of, (*tools, *schemas))]
    return _PER_REQUEST + sum(items) + _PER_ITEM * len(items)


def weigh_answer(result: str | None) -> int:
    """Tokens of an answer as it is recorded, in the same way."""
    return _tokens_of(result or "")


def _tokens_of_message(message: Mapping[str, Any]) -> int:
    content, files = message.get("content"), message.get("files")
    attached = _ATTACHMENT * (len(files) if isinstance(files, Sized) else bool(files))
    rest = {key: value for key, value in message.items() if key not in ("content", "files")}
    if not isinstance(content, list):
        return attached + _tokens_of(content) + _tokens_of(rest)
    parts = [
        _ATTACHMENT
        if isinstance(part, Mapping) and part.get("type") in _ATTACHED
        else _tokens_of(part)
        for part in content
    ]
    return attached + sum(parts) + _tokens_of(rest)


def _tokens_of(value: Any) -> int:
    if isinstance(value, str):
        size = len(value.encode("utf-8", "replace"))
    else:
        size = len(orjson.dumps(value, default=repr, option=orjson.OPT_NON_STR_KEYS))
    return -(-size // _BYTES_PER_TOKEN)


@dataclass(slots=True)
class Estimator:
    """Corrects what requests to one model are estimated to be by what they were."""

    _ratios: deque[float] = field(default_factory=lambda: deque(maxlen=_LATELY))

    def corrected(self, weight: int) -> int:
        """The tokens that a request of this weight is taken for."""
        if not self._ratios:
            return weight
        seen = max(self._ratios) * _MARGIN
        factor = seen if len(self._ratios) >= _FROM_CALL else max(seen, 1.0)
        return max(1, int(weight * factor) + 1)

    def learn(self, weight: int, counted: int) -> None:
        """A request of this weight was counted by its provider."""
        if weight > 0 and counted > 0:
            self._ratios.append(counted / weight)


# -- values ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """The budgets of one hardened target.

    Attributes:
        whole: On each of its runs, or on the windows and labels they belong to.
        parts: On its tasks and agents, by name and role.
    """

    whole: tuple[Budget, ...] = ()
    parts: Mapping[str, tuple[Budget, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, budget: Any = None, budgets: Any = None) -> Budgets:
        """Budgets as `harden` takes them.

        Raises:
            UsageError: They are something else, or a part is limited in time.
        """
        if budgets is not None and not isinstance(budgets, Mapping):
            raise UsageError(
                f"budgets={budgets!r} is no mapping of task names or agent roles to a Budget."
            )
        parts = {
            str(name): _several(one, f"budgets[{name!r}]") for name, one in (budgets or {}).items()
        }
        for name, several in parts.items():
            if any(one.max_seconds is not None for one in several):
                raise UsageError(
                    f"budgets[{name!r}]: max_seconds is for a run. An agent's time is its "
                    "max_execution_time."
                )
        return cls(whole=() if budget is None else _several(budget, "budget"), parts=parts)

    def __bool__(self) -> bool:
        return bool(self.whole or self.parts)

    @property
    def seconds(self) -> float | None:
        """The least time that a run is given."""
        given = [one.max_seconds for one in self.whole if one.max_seconds is not None]
        return min(given, default=None)


def raised(budget: Budget, given: Any) -> Decision:
    """What an `on_limit` function has decided.

    Raises:
        UsageError: It is no decision.
    """
    if given in ("stop", "pause"):
        return given  # type: ignore[no-any-return]
    if isinstance(given, Budget):
        lower = given.route_to or (budget.route_to if given.max_usd is not None else ())
        return replace(given, window=budget.window, label=budget.label, route_to=lower)
    raise UsageError(f"on_limit returned {given!r}, not 'stop', 'pause' or a Budget.")


def with_limits(budget: Budget, limits: Mapping[str, Any]) -> Budget:
    """A budget with the limits that a person has raised; none is lowered by it."""
    higher = {
        name: value
        for name, value in limits.items()
        if (now := getattr(budget, name)) is not None and _decimal(value) > _decimal(now)
    }
    return replace(budget, **higher)


def _decimal(value: Any) -> Decimal:
    return Decimal(str(value))


def _several(said: Any, of: str) -> tuple[Budget, ...]:
    several = tuple(said) if isinstance(said, (list, tuple)) else (said,)
    for one in several:
        if not isinstance(one, Budget):
            raise UsageError(f"{of}={one!r} is no Budget; for example Budget(max_usd=2).")
    return several


def _shown(value: Decimal | float) -> str:
    text = f"{value:,f}" if isinstance(value, Decimal) else f"{value:,}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _first_hour(window: Window | None, now: float) -> int:
    if window is None:
        return 0
    moment = datetime.fromtimestamp(now, UTC).replace(minute=0, second=0, microsecond=0)
    if window != "hour":
        moment = moment.replace(hour=0)
    if window == "month":
        moment = moment.replace(day=1)
    return hour_of(moment.timestamp())


def hour_of(at: float) -> int:
    """Full hours since 1970 (UTC)."""
    return int(at // 3600)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def _picousd(usd: Any) -> int:
    try:
        if isinstance(usd, bool) or not isinstance(usd, (int, float, str, Decimal)):
            raise InvalidOperation
        value = Decimal(repr(usd) if isinstance(usd, float) else usd)
        if not (value.is_finite() and 0 <= value <= 9_000_000):
            raise InvalidOperation
    except InvalidOperation:
        raise UsageError(
            f"Budget(max_usd={usd!r}): US dollars, not negative, at most nine million."
        ) from None
    return int(value * PICO)
