"""The comparisons, on trials made up for the purpose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crewai_prod.crashtest.check import (
    Expectation,
    difference,
    pauses_explained,
    tally,
    violations,
)
from crewai_prod.crashtest.evidence import Effect, Recorded, Sent
from crewai_prod.crashtest.sessions import NOTICE
from crewai_prod.crashtest.trial import SessionSeen, TrialSeen
from crewai_prod.records import StepKind, StepRecord, StepStatus, Usage

_ASKED = (Sent("a", True, 10), Sent("b", True, 20))
_ACTED = Effect("step", "charge", "{}", "charged")


def _recorded(calls: dict[int, int], tokens: int, *opened: str) -> Recorded:
    return Recorded(
        epoch=max(calls, default=0),
        calls=calls,
        usage=Usage(input_tokens=tokens),
        open_steps={step: _open(step) for step in opened},
    )


def _open(step: str) -> StepRecord:
    return StepRecord(
        seq=1,
        step_id=step,
        scope="run",
        kind=StepKind.TOOL,
        name="charge",
        digest="d",
        occurrence=0,
        status=StepStatus.STARTED,
        started_at=0.0,
    )


def _session(**changes: Any) -> SessionSeen:
    whole: dict[str, Any] = {
        "end": "done",
        "points": ("commit.after:finish_run",),
        "before": Recorded(),
        "after": _recorded({1: 2}, 30),
        "sent": _ASKED,
    }
    return SessionSeen(**{**whole, **changes})


def _trial(*sessions: SessionSeen, **changes: Any) -> TrialSeen:
    whole: dict[str, Any] = {
        "label": "trial",
        "sessions": sessions,
        "result": {"raw": "x"},
        "notes": (),
        "effects": (_ACTED,),
        "folder": Path(),
    }
    return TrialSeen(**{**whole, **changes})


BASELINE = _trial(_session())
EXPECTED = Expectation(baseline=BASELINE)

_TOLD = Effect("question 1", NOTICE, '{"kind": "tool"}')


def test_people_are_not_told_twice() -> None:
    """Killed on the way, nobody may be told; of what a kill alone can make a question, they may."""
    expected = Expectation(baseline=_trial(_session(), effects=(_ACTED, _TOLD)))
    kinds = [one.kind for one in violations(_trial(_session()), expected)]
    assert kinds == ["lost effect"]
    killed = _session(end="killed", after=Recorded(), sent=())
    assert violations(_trial(killed, _session()), expected) == []
    twice = _trial(_session(), effects=(_ACTED, _TOLD, _TOLD))
    assert [one.kind for one in violations(twice, expected)] == ["repeated effect"]
    of_a_kill = replace(_TOLD, step="question 2", arguments='{"kind": "unknown_outcome"}')
    assert violations(_trial(_session(), effects=(_ACTED, _TOLD, of_a_kill)), expected) == []


def _with(name: str, value: Any) -> Recorded:
    changes: dict[str, Any] = {name: value}
    return replace(_recorded({1: 2}, 30), **changes)


@pytest.mark.parametrize("name", ["questions", "verdicts", "choices"])
def test_what_was_decided_is_the_same(name: str) -> None:
    """More of it and less of it are noticed."""
    calm = _with(name, {"a": 1, "b": 1})
    other = _with(name, {"a": 2})
    expected = Expectation(baseline=_trial(_session(after=calm)))
    found = violations(_trial(_session(after=other)), expected)
    assert [(one.kind, one.what) for one in found] == [(name, "1 more: a"), (name, "1 less: b")]


_KILLED_AFTER_AN_ANSWER = _session(
    end="killed",
    points=("model.before_call", "model.after_call"),
    at_point=True,
    after=_recorded({1: 1}, 10),
)
_RESUMED = _session(
    before=_recorded({1: 1}, 10), after=_recorded({1: 1, 2: 1}, 30), sent=_ASKED[1:]
)
LOST_ONE = _trial(_KILLED_AFTER_AN_ANSWER, _RESUMED)


def _kinds(trial: TrialSeen, expected: Expectation = EXPECTED) -> set[str]:
    return {violation.kind for violation in violations(trial, expected)}


def test_an_uninterrupted_run_breaks_nothing() -> None:
    """Compared with itself, a run is in order."""
    assert _kinds(BASELINE) == set()


def test_one_lost_answer_is_allowed_and_counted() -> None:
    """A request in flight at the kill may be repeated; its price is paid twice."""
    assert _kinds(LOST_ONE) == set()
    counted = tally(LOST_ONE, EXPECTED)
    assert (counted.lost, counted.unanswered, counted.repeated) == (1, 0, 0)


def test_where_nothing_can_be_lost_nothing_may_be() -> None:
    """Killed at a boundary where no answer was open, a lost answer is one too many."""
    killed = replace(_KILLED_AFTER_AN_ANSWER, points=("commit.after:finish_step",))
    assert _kinds(_trial(killed, _RESUMED)) == {"ledger"}


def test_more_lost_than_in_flight() -> None:
    """A session that lost two answers where one call at a time is made kept no promise."""
    killed = replace(_KILLED_AFTER_AN_ANSWER, after=_recorded({1: 0}, 0))
    resumed = replace(_RESUMED, after=_recorded({2: 2}, 30), sent=_ASKED)
    trial = _trial(killed, resumed)
    assert {"ledger", "repeated request"} <= _kinds(trial)
    assert tally(trial, EXPECTED).repeated == 1


def test_a_recorded_answer_asked_for_again() -> None:
    """A request repeated without a kill to excuse it is reported, even if it was recorded anew."""
    trial = _trial(_session(sent=(*_ASKED, _ASKED[0]), after=_recorded({1: 3}, 40)))
    assert {"repeated request", "ledger"} <= _kinds(trial)


def test_an_unknown_request() -> None:
    """A request that the uninterrupted run did not make means that the run went another way."""
    trial = _trial(_session(sent=(_ASKED[0], Sent("c", True, 20))))
    assert "request" in _kinds(trial)


def test_a_lost_answer_without_a_kill() -> None:
    """A session that ended by itself must have recorded every answer."""
    assert "ledger" in _kinds(_trial(_session(after=_recorded({1: 1}, 30))))


def test_a_bill_that_differs() -> None:
    """The journal's total must be the uninterrupted run's."""
    assert "ledger" in _kinds(_trial(_session(after=_recorded({1: 2}, 31))))


@pytest.mark.parametrize(
    ("effects", "kind"),
    [
        ((_ACTED, _ACTED), "repeated effect"),
        ((_ACTED, replace(_ACTED, step="other")), "repeated effect"),
        ((), "lost effect"),
    ],
)
def test_effects_are_the_same_number(effects: tuple[Effect, ...], kind: str) -> None:
    """An effect may happen neither twice, in one step or in two, nor not at all."""
    assert _kinds(_trial(_session(), effects=effects)) == {kind}


def test_another_output() -> None:
    """The output must be equal; where it first differs is said."""
    (found,) = violations(_trial(_session(), result={"raw": "y"}), EXPECTED)
    assert found.kind == "output"
    assert found.what == "output.raw is 'y', uninterrupted 'x'"


def test_exceptions_count_whether_raised_or_printed() -> None:
    """A failed session, a hung one and a printed traceback are all exceptions."""
    printed = _session(output="oh\nTraceback (most recent call last):\n...")
    assert _kinds(_trial(printed)) == {"exception"}
    for end in ("failed", "hung"):
        assert {"exception", "unfinished"} <= _kinds(_trial(_session(end=end)))


def test_a_pause_needs_an_open_step() -> None:
    """Pausing on a step that was not open, and going on over one that was, are both wrong."""
    opened = _recorded({1: 2}, 30, "step")
    killed = _session(end="killed", points=("tool.after_body",), at_point=True, after=opened)
    paused = _session(
        end="paused", before=opened, after=replace(opened, epoch=2), sent=(), step="step"
    )
    answered = _session(
        before=opened, after=_recorded({1: 2, 3: 0}, 30), sent=(), answered=frozenset({"step"})
    )
    assert _kinds(_trial(killed, paused, answered)) == set()
    assert _kinds(_trial(killed, replace(paused, step="other"), answered)) == {"pause"}
    assert _kinds(_trial(killed, replace(answered, answered=frozenset()))) == {"pause"}


def test_a_pause_only_where_a_tool_call_was_cut() -> None:
    """After one kill a run pauses if, and only if, the kill fell between intent and outcome."""
    opened = _recorded({1: 2}, 30, "step")
    killed = _session(end="killed", points=("tool.before_body",), at_point=True, after=opened)
    paused = _session(end="paused", step="step")
    assert list(pauses_explained(_trial(killed, paused, _session()), EXPECTED)) == []
    assert list(pauses_explained(_trial(killed, _session()), EXPECTED))
    elsewhere = replace(killed, points=("model.after_call",))
    assert list(pauses_explained(_trial(elsewhere, paused, _session()), EXPECTED))


def test_what_cannot_be_compared_is_not() -> None:
    """With a model that never says the same twice, only steps and sessions are held to account."""
    loose = replace(EXPECTED, deterministic=False, concurrency=8)
    other = _trial(_session(sent=(Sent("z", True), Sent("y", True))), result="z", effects=())
    assert _kinds(other, loose) == set()
    assert _kinds(_trial(_session(), effects=(_ACTED, _ACTED)), loose) == {"repeated effect"}


def test_difference_names_the_place() -> None:
    """The first difference is found in nested lists and objects, missing keys included."""
    assert difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}).startswith("output.a[1].b is '3'")
    assert "Ellipsis" in difference({"a": 1}, {})
