"""When a task is out of the ordinary: rules over a history of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crewai_prod.alerts import RULES, Rules, baseline, due, outliers
from crewai_prod.records import Spending, TaskSpending, shown_dollars

HOUR = 3600.0
AMOUNTS = st.integers(0, 10**12)
HISTORIES = st.lists(AMOUNTS, min_size=RULES.least, max_size=RULES.window)


def took(tokens: int, at: float = 0.0, **changes: object) -> TaskSpending:
    """What a task took in one run; money and steps as always unless said."""
    values: dict[str, object] = {
        "run": 1,
        "run_id": f"run-{at:.0f}",
        "crew": "desk",
        "kind": "crew",
        "task": 0,
        "name": "find",
        "at": at,
        "steps": 3,
        "tokens": tokens,
        "spent": Spending(picousd=7),
    }
    return TaskSpending(**(values | changes))  # type: ignore[arg-type]


def newest_first(amounts: Sequence[int], apart: float = 2 * HOUR) -> list[TaskSpending]:
    """A series of runs, the first amount that of the newest."""
    last = len(amounts) - 1
    return [took(amount, at=(last - n) * apart) for n, amount in enumerate(amounts)]


def metrics(series: list[TaskSpending], rules: Rules = RULES) -> list[str]:
    """In what the newest is an outlier."""
    return [alert.metric for alert in outliers(series, rules)]


# -- outliers -------------------------------------------------------------------------------------


def test_an_outlier_says_what_it_is() -> None:
    """The task, what it took, what it took before, and the limit between the two."""
    series = newest_first([500, *[100] * 8])
    (alert,) = outliers(series)
    assert (alert.crew, alert.task, alert.position, alert.metric) == ("desk", "find", 0, "tokens")
    assert [alert.value, alert.median, alert.limit, alert.runs] == [500, 100, 150, 8]
    assert alert.run_id == series[0].run_id
    assert "task 'find': 500 tokens, where 8 runs before took 100 tokens" in alert.message


def test_each_metric_is_looked_at() -> None:
    """Money, tokens and steps, each by itself."""
    usual = [took(100, at=-n, spent=Spending(picousd=10**12)) for n in range(1, 10)]
    assert metrics([took(100, spent=Spending(picousd=2 * 10**12)), *usual]) == ["cost_usd"]
    assert metrics([took(100, spent=Spending(picousd=10**12), steps=9), *usual]) == ["steps"]
    assert metrics([took(900, spent=Spending(picousd=10**13), steps=9), *usual]) == [
        "cost_usd",
        "tokens",
        "steps",
    ]
    (alert,) = outliers([took(100, spent=Spending(picousd=25 * 10**11)), *usual])
    assert [alert.value, alert.median, alert.limit] == [Decimal("2.5"), 1, Decimal("1.5")]
    assert "$2.5000" in alert.message


@given(st.lists(AMOUNTS, max_size=RULES.least - 1), AMOUNTS)
def test_a_short_history_has_no_opinion(history: list[int], value: int) -> None:
    """Fewer than eight runs say nothing about what is usual."""
    assert outliers(newest_first([value, *history])) == []


@given(AMOUNTS, st.integers(RULES.least, RULES.window))
def test_what_is_always_so_is_usual(value: int, runs: int) -> None:
    """A history without any spread gives no alarm at the same value."""
    assert outliers(newest_first([value, *[value] * runs])) == []


@given(HISTORIES)
def test_most_of_a_history_is_usual(history: list[int]) -> None:
    """The limit is not below the median: at least half of the past would have passed."""
    middle, limit = baseline(history)
    assert limit >= middle * RULES.factor >= 0
    assert sum(value <= limit for value in history) * 2 >= len(history)


@given(HISTORIES, AMOUNTS, AMOUNTS)
def test_more_is_never_less_of_an_outlier(history: list[int], value: int, more: int) -> None:
    """If a value is out of the ordinary, so is any above it."""
    if outliers(newest_first([value, *history])):
        assert metrics(newest_first([value + more, *history])) == ["tokens"]


@given(HISTORIES, AMOUNTS, st.integers(1, 1000))
def test_the_unit_does_not_matter(history: list[int], value: int, factor: int) -> None:
    """Tokens or thousands of them, dollars or cents: the verdict is the same."""
    scaled = newest_first([value * factor, *[one * factor for one in history]])
    assert metrics(scaled) == metrics(newest_first([value, *history]))


@given(HISTORIES, AMOUNTS, st.randoms())
def test_the_order_of_the_past_does_not_matter(
    history: list[int], value: int, random: object
) -> None:
    """A baseline is a set of runs."""
    shuffled = list(history)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert metrics(newest_first([value, *shuffled])) == metrics(newest_first([value, *history]))


@given(st.lists(st.integers(90, 110), min_size=9, max_size=20), st.integers(10**6, 10**12))
def test_outliers_in_the_past_do_not_move_the_baseline(usual: list[int], huge: int) -> None:
    """With a minority of absurd runs in its history, an absurd run still is one."""
    past = [*usual, *[huge] * (len(usual) // 2 - 1)][-RULES.window :]
    assert metrics(newest_first([10**6, *past])) == ["tokens"]


def test_only_the_window_counts() -> None:
    """What was usual long ago is not."""
    assert metrics(newest_first([500, *[100] * 20, *[500] * 40])) == ["tokens"]
    assert metrics(newest_first([500, *[500] * 20, *[100] * 40])) == []


def test_unknown_costs_are_not_compared() -> None:
    """Neither is a run of which not every call is priced judged, nor is it part of a baseline."""
    unknown, dear = Spending(picousd=10**15, unpriced=1), Spending(picousd=10**15)
    usual = [took(100, at=-n) for n in range(1, 9)]
    assert metrics([took(100, spent=unknown), *usual]) == []
    assert metrics([took(100, spent=dear), *usual]) == ["cost_usd"]
    assert metrics([took(100, spent=dear), *usual[:-1], took(100, spent=unknown)]) == []
    assert metrics([took(100, spent=Spending()), *usual]) == []


def test_what_was_free_is_out_of_the_ordinary_when_it_costs() -> None:
    """A median of nothing is a baseline, too."""
    free = [took(100, at=-n, spent=Spending(picousd=0)) for n in range(1, 9)]
    assert metrics([took(100, spent=Spending(picousd=1)), *free]) == ["cost_usd"]


@pytest.mark.parametrize("series", [[], [took(5)]])
def test_nothing_to_compare(series: list[TaskSpending]) -> None:
    """No runs, or one."""
    assert outliers(series) == due(series) == []


def test_outside_of_tasks() -> None:
    """What happened outside of a crew's tasks is told as that."""
    planning = [took(100, at=-n, task=None, name=None) for n in range(1, 9)]
    (alert,) = outliers([took(900, task=None, name=None), *planning])
    assert alert.position is None
    assert "outside its tasks" in alert.message


# -- what is news ---------------------------------------------------------------------------------


def test_the_same_is_not_told_twice_in_an_hour() -> None:
    """After an alert there is quiet for an hour; then the next outlier is told."""
    usual = [took(100, at=-n * HOUR) for n in range(1, 20)]
    first = took(900, at=0.0)
    assert [alert.metric for alert in due([first, *usual])] == ["tokens"]
    assert due([took(900, at=HOUR - 1), first, *usual]) == []
    assert len(due([took(900, at=HOUR), first, *usual])) == 1
    quiet = took(900, at=HOUR - 1)
    assert len(due([took(900, at=HOUR + 1), quiet, first, *usual])) == 1
    other = took(100, at=HOUR - 1, steps=50)
    assert [alert.metric for alert in due([other, first, *usual])] == ["steps"]


@given(st.lists(st.sampled_from([100, 110, 900, 5000]), min_size=12, max_size=40), st.data())
def test_never_two_alerts_in_a_quiet_time(amounts: list[int], data: st.DataObject) -> None:
    """Whatever comes when: alerts are an hour apart, and each outlier after quiet is told."""
    gaps = data.draw(st.lists(st.integers(1, 5000), min_size=len(amounts), max_size=len(amounts)))
    at, series, told = 0.0, [], []  # type: ignore[var-annotated]
    rules = Rules(window=8)
    for amount, gap in zip(amounts, gaps, strict=True):
        at += gap
        series.insert(0, took(amount, at=at))
        if due(series, rules):
            told.append(at)
        elif outliers(series, rules):
            assert told
            assert at - told[-1] < rules.quiet_seconds
    assert all(later - one >= rules.quiet_seconds for one, later in pairwise(told))


def test_a_limit_is_exact() -> None:
    """Half more than the median is not more than half more."""
    assert baseline([100] * 8) == (Fraction(100), Fraction(150))
    assert metrics(newest_first([150, *[100] * 8])) == []
    assert metrics(newest_first([151, *[100] * 8])) == ["tokens"]


@pytest.mark.parametrize(
    ("usd", "shown"),
    [
        ("0", "$0.0000"),
        ("1234.5", "$1,234.5000"),
        ("0.0042", "$0.0042"),
        ("0.00002312", "$0.000023"),
    ],
)
def test_a_small_amount_does_not_look_like_none(usd: str, shown: str) -> None:
    """A call of a small model costs less than the fourth place."""
    assert shown_dollars(Decimal(usd)) == shown
