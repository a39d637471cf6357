"""What is tried again, how often and after how long; and when nobody is asked for a while."""

from __future__ import annotations

from typing import Any

import pytest

from crewai_prod.errors import (
    ModelRejected,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
    UsageError,
)
from crewai_prod.retry import Breaker, Retry


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


def test_by_class_of_error() -> None:
    """Each class has its own number of tries; what is not named is not tried again."""
    retry = Retry(on={RateLimited: 5, ModelTimeout: 2, ValueError: 3}, jitter=False)
    assert [retry.tries(kind()) for kind in (RateLimited, ModelTimeout, ValueError)] == [5, 2, 3]
    assert retry.tries(ModelUnavailable()) == 1
    assert retry.wait(ModelTimeout(), 1, 0.0) == 0.5
    assert retry.wait(ModelTimeout(), 2, 0.0) is None


def test_a_cause_counts_too() -> None:
    """An exception of the user's own may be what ours was made of."""
    error = ModelUnavailable()
    error.__cause__ = KeyError("x")
    assert Retry(on=(KeyError,), attempts=3).tries(error) == 3


def test_what_is_refused_is_not_tried_again() -> None:
    """A key that is wrong stays wrong."""
    assert Retry(attempts=9).wait(ModelRejected(), 1, 0.0) is None


def test_the_providers_word_and_the_bound() -> None:
    """It is waited for as long as the provider asks, unless that is later than the bound."""
    retry = Retry(jitter=False, max_elapsed=10.0)
    assert retry.wait(RateLimited(retry_after=7.0), 1, 0.0) == 7.0
    assert retry.wait(RateLimited(retry_after=7.0), 1, 4.0) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"attempts": 1.5},
        {"base": -1.0},
        {"max_elapsed": float("nan")},
        {"timeout": 0},
        {"open_for": -1.0},
        {"on": ("RateLimited",)},
        {"on": {RateLimited: 0}},
    ],
)
def test_numbers_that_make_no_sense(wrong: dict[str, Any]) -> None:
    """They are refused where they are given."""
    with pytest.raises(UsageError):
        Retry(**wrong)


def test_breaker() -> None:
    """Open after so many in a row, half open after a while, closed by a success."""
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(2):
        breaker.failed(3)
    assert breaker.refuses(30.0) is None
    breaker.failed(3)
    assert breaker.refuses(30.0) == 30.0
    clock.now = 30.0
    assert breaker.refuses(30.0) is None, "one is let through"
    assert breaker.refuses(30.0) == 30.0, "and only one"
    breaker.failed(3)
    assert breaker.refuses(30.0) == 30.0
    clock.now = 60.0
    assert breaker.refuses(30.0) is None
    breaker.succeeded()
    assert breaker.refuses(30.0) is None


def test_one_who_looks_and_never_reports_back_shuts_nobody_out() -> None:
    """A probe that was cancelled is followed by another one."""
    clock = Clock()
    breaker = Breaker(clock)
    breaker.failed(1)
    for clock.now in (30.0, 60.0, 90.0):
        assert breaker.refuses(30.0) is None


def test_a_breaker_that_is_off() -> None:
    """Nought failures in a row: it never opens."""
    breaker = Breaker(Clock())
    for _ in range(100):
        breaker.failed(0)
    assert breaker.refuses(30.0) is None
