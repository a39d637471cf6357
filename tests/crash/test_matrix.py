"""A slice of the matrix; all of it is `python -m tests.crash.matrix --all`."""

from __future__ import annotations

import pytest

from crewai_prod.crashtest import Harness, Report
from crewai_prod.crashtest.plans import (
    AtBoundary,
    AtRandom,
    CancelAtRandom,
    EverySession,
    Plan,
    spread,
)
from tests.crash.subjects import GOVERNED, SUBJECTS

_BOUNDARIES = 4
_RANDOM = 1
_SLOW = {"remembering": 2}
"""Boundaries of shapes whose processes take seconds to start; there are no random kills of them."""
_EVERY_SESSION = {"parallel-calls"}
"""The shape whose every session is killed here too: it takes half a minute."""


@pytest.mark.parametrize("name", SUBJECTS)
def test_killed_anywhere(harness: Harness, name: str) -> None:
    """A killed crew ends as if it had not been, pays for nothing twice and acts once."""
    subject = SUBJECTS[name]
    baseline = harness.baseline(subject)
    plans: list[Plan] = [EverySession()] if name in _EVERY_SESSION else []
    boundaries = _SLOW.get(name, _BOUNDARIES)
    plans += [AtBoundary(number) for number in spread(len(baseline.points), boundaries)]
    if name not in _SLOW:
        plans += [AtRandom(f"slice.{n}", baseline.seconds) for n in range(_RANDOM)]
    report = Report(shapes=tuple(harness.crash(subject, baseline, plans)))
    assert report.ok, report.render()
    assert sum(shape.kills for shape in report.shapes) >= boundaries


def test_limits_guards_and_people_survive(harness: Harness) -> None:
    """Whoever answers is killed when they have, or the run is cancelled: all is decided once."""
    subject = GOVERNED["careful"]
    baseline = harness.baseline(subject)
    answered = baseline.points.index("commit.after:answer") + 1
    plans: list[Plan] = [AtBoundary(answered), CancelAtRandom("slice", baseline.seconds)]
    report = Report(shapes=tuple(harness.crash(subject, baseline, plans)))
    assert report.ok, report.render()


def test_shapes_are_large_enough(harness: Harness) -> None:
    """Every shape of the issue is here, and has boundaries enough to be killed at forty of them."""
    assert len(SUBJECTS) >= 6
    subject = SUBJECTS["sequential-native"]
    assert len(harness.baseline(subject).sessions[0].points) >= 40
