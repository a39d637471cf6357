"""How long to wait, in all the forms in which providers say it."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crewai_prod.waiting import backoff, retry_after

NOW = 1_790_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": formatdate(NOW + 30, usegmt=True)}, 30.0),
        ({"retry-after": formatdate(NOW - 30, usegmt=True)}, 0.0),
        ({"x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-tokens": "12ms"}, 0.012),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "1m2.5s"}, 62.5),
        (
            {
                "x-ratelimit-remaining-requests": "59",
                "x-ratelimit-reset-requests": "50s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "2s",
            },
            2.0,
        ),
        ({"x-ratelimit-reset": str(NOW + 12)}, 12.0),
        ({"x-ratelimit-reset": "12"}, 12.0),
        ({"anthropic-ratelimit-requests-reset": "2026-09-21T14:13:30Z"}, 10.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "soon", "x-ratelimit-reset-requests": "1s"}, 1.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({}, None),
    ],
)
def test_headers(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, dates, durations and resets are read; what cannot be read is not guessed."""
    assert retry_after(headers, now=NOW) == (
        None if seconds is None else pytest.approx(seconds, abs=1.0 if seconds > 5 else 1e-6)
    )


def test_body() -> None:
    """Google says it in the body."""
    body = {"error": {"details": [{"@type": "x"}, {"retryDelay": "30s"}]}}
    assert retry_after({}, body, now=NOW) == 30.0


@given(
    st.dictionaries(
        st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-reset-requests"]), st.text()
    ),
    st.dictionaries(st.text(), st.recursive(st.text(), st.lists)),
)
def test_anything_is_read_or_ignored(headers: dict[str, str], body: dict[str, object]) -> None:
    """Whatever a server sends: a number of seconds that is not negative, or nothing."""
    said = retry_after(headers, body, now=NOW)
    assert said is None or 0 <= said < float("inf")


@given(st.integers(1, 10_000), st.floats(0.01, 10), st.floats(0.01, 100), st.floats(0, 1))
def test_backoff_stays_within_its_bounds(
    attempt: int, base: float, cap: float, dice: float
) -> None:
    """Full jitter draws from nothing up to the doubled base, and never above the cap."""
    whole = backoff(attempt, base=base, cap=cap, jitter=False)
    drawn = backoff(attempt, base=base, cap=cap, jitter=True, dice=lambda: dice)
    assert 0 <= drawn <= whole <= cap
    assert whole == cap or whole == pytest.approx(base * 2 ** (attempt - 1))
