"""A harness that cannot fail proves nothing: crews with known faults must be reported."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crewai_prod.crashtest import Harness, Report, Subject
from crewai_prod.crashtest.plans import AtBoundary, Kill, Mode, Plan, SoFar
from crewai_prod.crashtest.trial import TrialSeen
from crewai_prod.errors import UsageError
from tests.crash.subjects import SUBJECTS

_GOOD = SUBJECTS["sequential-native"]


@pytest.fixture(scope="module")
def good(harness: Harness) -> TrialSeen:
    """The sound crew, not killed."""
    return harness.baseline(_GOOD)


def _killed_at(harness: Harness, subject: Subject, point: str, nth: int) -> Plan:
    """Kill it there; uninterrupted, it gets through."""
    points = harness.baseline(subject).sessions[0].points
    return AtBoundary([n for n, name in enumerate(points, 1) if name == point][nth - 1])


def _found(harness: Harness, subject: Subject, good: TrialSeen, plan: Plan) -> set[str]:
    report = Report(shapes=tuple(harness.crash(subject, good, [plan])))
    assert not report.ok
    assert "BROKEN" in report.render()
    return {violation.kind for shape in report.shapes for _, violation in shape.violations}


def _broken(function: str) -> Subject:
    return replace(_GOOD, name=function, target=f"tests.crash.broken:{function}")


class _Never:
    """Kill nobody: the crew does that itself."""

    mode: Mode = "boundary"
    label = "kills itself"

    def next(self, so_far: SoFar) -> Kill | None:
        """See `Plan`."""
        return None


def test_a_crew_that_is_not_hardened(harness: Harness, good: TrialSeen) -> None:
    """A bare crew that dies after a tool has acted pays and acts again, and the harness says so."""
    found = _found(harness, replace(_broken("kills_itself"), bare=True), good, _Never())
    assert {"repeated effect", "repeated request", "ledger"} <= found


def test_the_same_crew_hardened(harness: Harness, good: TrialSeen) -> None:
    """Hardened, the crew that dies after a tool has acted keeps every promise."""
    (report,) = harness.crash(_broken("kills_itself"), good, [_Never()])
    assert report.ok, report.violations
    assert (report.kills, report.pauses) == (1, 1)


def test_a_journal_that_forgets_answers(harness: Harness, good: TrialSeen) -> None:
    """Answers that were acknowledged and not written are found missing from the bill."""
    subject = _broken("sloppy_about_answers")
    plan = _killed_at(harness, subject, "commit.after:save_task", 2)
    found = _found(harness, subject, good, plan)
    assert "ledger" in found


def test_a_journal_that_forgets_intents(harness: Harness, good: TrialSeen) -> None:
    """A tool whose intent was not written acts twice when it is killed after its body."""
    subject = _broken("sloppy_about_intents")
    plan = _killed_at(harness, subject, "tool.after_body", 1)
    found = _found(harness, subject, good, plan)
    assert "repeated effect" in found


def test_a_tool_that_is_not_what_it_says(harness: Harness, good: TrialSeen) -> None:
    """A tool declared idempotent that is not is caught acting twice."""
    subject = _broken("wrongly_declared")
    plan = _killed_at(harness, subject, "tool.after_body", 2)
    found = _found(harness, subject, good, plan)
    assert {"repeated effect", "pause"} <= found


def test_a_resume_that_raises(harness: Harness, good: TrialSeen) -> None:
    """A session that fails where the uninterrupted run did not is an exception, not an end."""
    found = _found(harness, _broken("breaks_in_the_end"), good, AtBoundary(10))
    assert {"exception", "unfinished"} <= found


def test_a_crew_that_fails_anyway(harness: Harness) -> None:
    """A crew that does not get through uninterrupted is refused, with its own traceback."""
    with pytest.raises(UsageError, match="RuntimeError: no"):
        harness.baseline(_broken("breaks_in_the_end"))


def test_a_target_that_is_no_crew(harness: Harness) -> None:
    """What is wrong with the target is said, and nothing is killed."""
    with pytest.raises(UsageError, match="no 'nothing'"):
        harness.baseline(_broken("nothing"))
