"""Budgets as pure rules: whatever calls are made in whatever order, no limit is passed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crewai_prod.budget import (
    LEAST_OUTPUT,
    USUAL,
    Ask,
    Budget,
    Budgets,
    Estimator,
    Fits,
    Passes,
    Waits,
    excess,
    judge,
    output_room,
    passed,
    raised,
    seconds_at_work,
    warned,
    weigh,
)
from crewai_prod.errors import UsageError
from crewai_prod.records import Amounts, Pot, RunStatus, Taken, TransitionRecord
from tests.journal.support import step

COUNTS = st.integers(0, 3_000)
OF_OUTPUT = ("max_usd", "max_tokens", "max_output_tokens")


@st.composite
def budgets(draw: st.DrawFn) -> Budget:
    """One to all limits, any of them small enough to be reached."""
    names = draw(st.sets(st.sampled_from([*OF_OUTPUT, "max_input_tokens", "max_llm_calls"])))
    limits: dict[str, Any] = {name: draw(st.integers(0, 20_000)) for name in names or OF_OUTPUT}
    if "max_usd" in limits:
        limits["max_usd"] = Decimal(limits["max_usd"]) / 10**9
    return Budget(**limits)


@st.composite
def asks(draw: st.DrawFn) -> Ask:
    """Calls with prices per token of input and output."""
    given_in, per_in, per_out = draw(COUNTS), draw(st.integers(0, 900)), draw(st.integers(0, 900))
    return Ask(
        input_tokens=given_in,
        most=draw(st.integers(1, 5_000)),
        price=lambda output: given_in * per_in + output * per_out,
        can_lower=draw(st.booleans()),
    )


@st.composite
def amounts(draw: st.DrawFn) -> Amounts:
    """What may have been taken."""
    return Amounts(
        cost_picousd=draw(COUNTS) * 1000,
        input_tokens=draw(COUNTS),
        output_tokens=draw(COUNTS),
        llm_calls=draw(st.integers(0, 9)),
    )


@given(budgets(), amounts(), asks())
def test_the_room_for_output_is_all_there_is(budget: Budget, taken: Amounts, ask: Ask) -> None:
    """With so many tokens every limit holds; with one more, one does not."""
    room = output_room(budget, taken, ask)
    if room >= 0:
        assert passed(budget, taken, ask.amounts(room)) is None
    if room < ask.most:
        assert passed(budget, taken, ask.amounts(room + 1)) is not None


@given(budgets(), amounts(), amounts(), asks(), st.booleans())
def test_what_fits_fits_beside_all_that_is_reserved(
    budget: Budget, spent: Amounts, reserved: Amounts, ask: Ask, patient: bool
) -> None:
    """Nobody is let through who would pass a limit; nobody waits without hope, or for no one."""
    verdict = judge(budget, Taken(spent=spent, reserved=reserved), ask, patient=patient)
    if isinstance(verdict, Fits):
        assert passed(budget, spent + reserved, ask.amounts(verdict.output)) is None
        assert verdict.capped or verdict.output == ask.most
        assert ask.can_lower or not verdict.capped
    elif isinstance(verdict, Waits):
        assert patient
        assert reserved != Amounts()
        assert isinstance(judge(budget, Taken(spent=spent), ask), Fits)
    else:
        assert verdict.limit in budget.limits


@given(budgets(), st.lists(st.tuples(asks(), st.floats(0, 1), st.integers(0, 4)), max_size=30))
def test_no_order_of_calls_passes_a_limit(
    budget: Budget, calls: list[tuple[Ask, float, int]]
) -> None:
    """Calls begin and end in any order; each takes at most what was set aside for it."""
    spent = Amounts()
    under_way: list[tuple[Amounts, Amounts]] = []
    for ask, part, ends in calls:
        reserved = sum((one for one, _ in under_way), Amounts())
        verdict = judge(budget, Taken(spent=spent, reserved=reserved), ask)
        if isinstance(verdict, Fits):
            took = replace(ask, input_tokens=int(ask.input_tokens * part)).amounts(
                int(verdict.output * part)
            )
            under_way.append((ask.amounts(verdict.output), took))
        for _ in range(min(ends, len(under_way))):
            spent += under_way.pop(0)[1]
        for name, most in budget.limits.items():
            assert excess(budget, name, spent, "run").left >= 0
            only = Budget(**{name: getattr(budget, name)})
            assert passed(only, Amounts(), spent) is None, (name, most)


def test_an_unknown_model_is_capped_to_what_every_model_takes() -> None:
    """Near a limit; far from it, it is asked as it is. One that cannot be capped takes the rest."""
    ask = Ask(input_tokens=10, most=131_072, known=False)
    far, near = Budget(max_tokens=200_000), Budget(max_tokens=50_000)
    assert judge(far, Taken(), ask) == Fits(131_072)
    assert judge(near, Taken(), ask) == Fits(USUAL, capped=True)
    assert judge(Budget(max_tokens=500), Taken(), ask) == Fits(490, capped=True)
    assert judge(Budget(max_tokens=20), Taken(), ask) == Passes("max_tokens")
    own = Ask(input_tokens=10, most=USUAL, can_lower=False, known=False)
    assert judge(Budget(max_tokens=500), Taken(), own) == Fits(490)
    assert judge(Budget(max_tokens=10), Taken(), own) == Passes("max_tokens")
    held = replace(own, known=True)
    assert judge(Budget(max_tokens=500), Taken(), held) == Passes("max_tokens")
    assert LEAST_OUTPUT == 16


@given(st.text(max_size=400), st.integers(0, 5))
def test_a_request_weighs_a_third_of_its_bytes_and_more(text: str, copies: int) -> None:
    """More messages weigh more; an image weighs the same whatever its size."""
    message = {"role": "user", "content": text}
    weight = weigh([message] * copies, {})
    assert weight * 3 >= len(text.encode("utf-8", "replace")) * copies
    assert weigh([message] * (copies + 1), {}) > weight
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    assert weigh([message], {"tools": tools}) >= weigh([message], {}) + len(orjson.dumps(tools)) / 3
    for size in (10, 100_000):
        image = {"type": "image_url", "image_url": {"url": "data:" + "x" * size}}
        assert 2_000 < weigh([{"role": "user", "content": [image]}], {}) < 2_100


@given(st.lists(st.tuples(st.integers(1, 9_999), st.integers(1, 9_999)), min_size=1, max_size=40))
def test_an_estimate_learns_from_what_was_counted(seen: list[tuple[int, int]]) -> None:
    """A request like one of the last twenty is never taken for less than that was."""
    estimator = Estimator()
    assert estimator.corrected(300) == 300
    for weight, counted in seen:
        estimator.learn(weight, counted)
        assert estimator.corrected(weight) >= counted
    for weight, counted in seen[-20:]:
        assert estimator.corrected(weight) >= counted
    if len(seen) < 3:
        assert estimator.corrected(300) >= 300


def test_windows_begin_with_the_clock_and_the_calendar() -> None:
    """In UTC; a label without a window is for all time."""
    now = datetime(2026, 11, 25, 18, 20, 3, tzinfo=UTC).timestamp()
    first = {
        "hour": datetime(2026, 11, 25, 18, tzinfo=UTC),
        "day": datetime(2026, 11, 25, tzinfo=UTC),
        "month": datetime(2026, 11, 1, tzinfo=UTC),
    }
    for window, began in first.items():
        budget = Budget(max_usd=1, window=window)  # type: ignore[arg-type]
        since = int(began.timestamp() // 3600)
        assert budget.pot("crew/x", now) == Pot(label="crew/x", since=since)
    assert Budget(max_usd=1, label="t").pot("crew/x", now) == Pot(label="t", since=0)


def test_time_at_work_leaves_out_what_lay_between() -> None:
    """Pauses do not count, and of a killed session what came after its last step does not."""

    def change(source: RunStatus | None, target: RunStatus, epoch: int, at: float) -> Any:
        return TransitionRecord(source=source, target=target, reason=None, epoch=epoch, at=at)

    running, failed = RunStatus.RUNNING, RunStatus.FAILED
    changes = [
        change(None, running, 1, 100.0),
        change(running, failed, 1, 110.0),
        change(failed, running, 2, 500.0),
        change(running, RunStatus.INTERRUPTED, 2, 900.0),
        change(RunStatus.INTERRUPTED, running, 3, 900.0),
    ]
    steps = [step(1, started_at=505.0, duration_ms=2000.0, epoch=2)]
    assert seconds_at_work(changes, steps, 3) == 10.0 + 7.0
    assert seconds_at_work(changes, [], 3) == 10.0
    assert seconds_at_work(changes[:1], [], 1) == 0.0


def test_what_is_said_of_a_limit_is_exact() -> None:
    """Money in dollars, to the last digit; what is left is never negative."""
    budget = Budget(max_usd=0.1, max_llm_calls=2)
    spent = Amounts(cost_picousd=30_000_000_000, llm_calls=5)
    found = excess(budget, "max_usd", spent, "run")
    assert (found.most, found.spent, found.left) == (
        Decimal("0.1"),
        Decimal("0.03"),
        Decimal("0.07"),
    )
    assert "max_usd is 0.1, 0.03 are spent" in found.message
    assert excess(budget, "max_llm_calls", spent, "run").left == 0
    assert warned(budget, spent) == {"max_llm_calls"}


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"max_usd": -1},
        {"max_usd": "a dollar"},
        {"max_usd": float("nan")},
        {"max_tokens": 1.5},
        {"max_llm_calls": True},
        {"max_seconds": 0},
        {"max_usd": 1, "warn_at": 0},
        {"max_usd": 1, "on_limit": "explode"},
        {"max_usd": 1, "window": "week"},
        {"max_usd": 1, "label": ""},
        {"max_seconds": 5, "window": "day"},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    """With the name of the value."""
    with pytest.raises(UsageError, match="Budget"):
        Budget(**wrong)


def test_a_function_at_the_limit_answers_with_a_decision() -> None:
    """A higher budget stays on the same window and label; anything else is refused."""
    budget = Budget(max_usd=1, window="day", label="t")
    assert raised(budget, "stop") == "stop"
    higher = raised(budget, Budget(max_usd=2))
    assert higher == Budget(max_usd=2, window="day", label="t")
    with pytest.raises(UsageError, match="on_limit returned"):
        raised(budget, None)
    several = Budgets.read([budget, Budget(max_seconds=3)], {"x": budget})
    assert (several.seconds, bool(several), bool(Budgets())) == (3, True, False)
