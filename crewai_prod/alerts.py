"""When a task took much more than it used to.

Rule: a run's task is compared with the same task of the completed runs of the same crew before it,
in money, tokens and steps. It is an outlier where it took more than the baseline's median by half
of that and by `deviations` standard deviations, which the median absolute deviation (MAD) stands
for. Reason: median and MAD are not moved by the outliers themselves, and a history without any
spread does not make the first token more an alarm. Only more is one; less is no problem.

Blind spots: a slow drift moves its own baseline, and a task is known by its crew's name, its
position and its name: give crews names. A run of which the cost is not known of every call is left
out of the comparison of costs. Pure: values in, decisions out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from statistics import median

from crewai_prod.records import TaskSpending, dollars, shown_dollars

METRICS = ("cost_usd", "tokens", "steps")
_SIGMA = Fraction(14826, 10_000)
"""Of a normal distribution the standard deviation is so many MADs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What counts as much more.

    Attributes:
        least: Runs that a baseline must have; with fewer there is no opinion.
        window: The most recent runs that it is made of.
        deviations: Standard deviations above the median.
        factor: Times the median.
        quiet_seconds: After an alert, the same task and metric give none for so long.
    """

    least: int = 8
    window: int = 20
    deviations: Fraction = Fraction(7, 2)
    factor: Fraction = Fraction(3, 2)
    quiet_seconds: float = 3600.0


RULES = Rules()


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A task that took much more than it used to.

    Attributes:
        run_id: The run.
        crew: Its crew.
        kind: `crew`, `flow`, `agent` or `function`.
        task: Name of the task; None for what happened outside of tasks.
        position: Of the task in the crew.
        metric: `cost_usd`, `tokens` or `steps`.
        value: What it took in this run.
        median: What it took before, half of the runs less.
        limit: From where on that is an outlier.
        runs: How many runs it is compared with.
    """

    run_id: str
    crew: str | None
    kind: str
    task: str | None
    position: int | None
    metric: str
    value: Decimal
    median: Decimal
    limit: Decimal
    runs: int

    @property
    def message(self) -> str:
        """A sentence for people."""
        task = "outside its tasks" if self.position is None else f"task {self.task!r}"
        return (
            f"Run {self.run_id!r} of {self.crew!r}, {task}: {_amount(self.metric, self.value)}, "
            f"where {self.runs} runs before took {_amount(self.metric, self.median)} in the median "
            f"(limit {_amount(self.metric, self.limit)})."
        )


def outliers(series: Sequence[TaskSpending], rules: Rules = RULES) -> list[Alert]:
    """In what the first of a series took much more than those after it.

    Args:
        series: One task, newest run first.
        rules: What counts as much.
    """
    found = (_judge(series, metric, rules) for metric in METRICS)
    return [alert for alert in found if alert is not None]


def due(series: Sequence[TaskSpending], rules: Rules = RULES) -> list[Alert]:
    """The outliers that are news: the same was not one shortly before.

    Args:
        series: One task, newest run first; to know what was said shortly before, twice as long as
            the window.
        rules: What counts as much, and as shortly.
    """
    return [alert for alert in outliers(series, rules) if not _said(series, alert.metric, rules)]


def _said(series: Sequence[TaskSpending], metric: str, rules: Rules) -> bool:
    """Whether an alert was given in the quiet time before the first of a series.

    What is quiet itself starts no new quiet time: a task that stays dear is told again and again,
    once in each. So it has to be gone through from the oldest on.
    """
    last: float | None = None
    for number in range(len(series) - 1, 0, -1):
        at = series[number].at
        if last is not None and at - last < rules.quiet_seconds:
            continue
        if _judge(series[number:], metric, rules) is not None:
            last = at
    return last is not None and series[0].at - last < rules.quiet_seconds


def _judge(series: Sequence[TaskSpending], metric: str, rules: Rules) -> Alert | None:
    values = [_value(one, metric) for one in series[: rules.window + 1]]
    value, history = values[0] if values else None, [v for v in values[1:] if v is not None]
    if value is None or len(history) < rules.least:
        return None
    middle, limit = baseline(history, rules)
    if value <= limit:
        return None
    first = series[0]
    return Alert(
        run_id=first.run_id,
        crew=first.crew,
        kind=first.kind,
        task=first.name,
        position=first.task,
        metric=metric,
        value=_shown(metric, Fraction(value)),
        median=_shown(metric, middle),
        limit=_shown(metric, limit),
        runs=len(history),
    )


def baseline(history: Sequence[int], rules: Rules = RULES) -> tuple[Fraction, Fraction]:
    """The median of what a task took, and the limit above which more is an outlier."""
    middle = median(map(Fraction, history))
    spread = median(abs(value - middle) for value in history) * _SIGMA
    return middle, max(middle * rules.factor, middle + spread * rules.deviations)


def _value(one: TaskSpending, metric: str) -> int | None:
    if metric == "cost_usd":
        return None if one.spent.unpriced else one.spent.picousd
    return one.tokens if metric == "tokens" else one.steps


def _shown(metric: str, value: Fraction) -> Decimal:
    if metric == "cost_usd":
        return dollars(round(value)) or Decimal(0)
    return Decimal(value.numerator) / value.denominator


def _amount(metric: str, value: Decimal) -> str:
    return shown_dollars(value) if metric == "cost_usd" else f"{value:,.0f} {metric}"
