"""Answers that were paid for and lost: the one thing a crash may cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from crewai_prod.crashtest import Harness
from crewai_prod.crashtest.check import Expectation, tally, violations
from crewai_prod.crashtest.plans import AtBoundary
from crewai_prod.crashtest.trial import Trial, TrialSeen
from tests.crash.conftest import Stage
from tests.crash.subjects import SUBJECTS

_SEQUENTIAL = SUBJECTS["sequential-native"]


@pytest.fixture(scope="module")
def baseline(harness: Harness) -> TrialSeen:
    """The crew when nobody kills it."""
    return harness.baseline(_SEQUENTIAL)


def _killed(stage: Stage, baseline: TrialSeen, point: str, nth: int) -> TrialSeen:
    hits = [n for n, name in enumerate(baseline.sessions[0].points, 1) if name == point]
    trial = Trial(stage.zygote, stage.template, stage.requests, stage.folder / "trial")
    return trial.run(AtBoundary(hits[nth - 1]))


def test_a_lost_answer_is_asked_for_again_and_no_other(stage: Stage, baseline: TrialSeen) -> None:
    """Killed between the server's answer and its commit, exactly that one request is repeated."""
    trial = _killed(stage, baseline, "model.after_call", 3)
    lost = trial.sessions[0].sent[-1]
    expected = Counter(sent.digest for sent in baseline.sent) + Counter([lost.digest])
    assert Counter(sent.digest for sent in trial.sent) == expected
    assert lost.answered
    assert tally(trial, Expectation(baseline=baseline)).lost == 1
    assert trial.result == baseline.result
    paid = sum(sent.tokens for sent in trial.sent)
    assert paid == trial.sessions[-1].after.usage.total_tokens + lost.tokens


def test_a_committed_answer_is_never_asked_for_again(stage: Stage, baseline: TrialSeen) -> None:
    """Killed right after the commit, no request is repeated at all."""
    points = baseline.sessions[0].points
    after = points.index("commit.after:finish_step", points.index("model.after_call"))
    trial = Trial(stage.zygote, stage.template, stage.requests, stage.folder / "trial")
    seen = trial.run(AtBoundary(after + 1))
    assert [sent.digest for sent in seen.sent] == [sent.digest for sent in baseline.sent]
    assert violations(seen, Expectation(baseline=baseline)) == []


def test_a_tool_that_raised_is_not_run_again(harness: Harness, stage: Stage) -> None:
    """A tool that acted and raised, killed before the model was told: it acted once."""
    target = "tests.crash.shapes:acts_and_raises"
    calm = harness.baseline(replace(_SEQUENTIAL, name="burning", target=target))
    points = calm.sessions[0].points
    failed = points.index("commit.after:finish_step", points.index("tool.after_body"))
    template = replace(stage.template, target=target)
    trial = Trial(stage.zygote, template, stage.requests, stage.folder / "trial")
    seen = trial.run(AtBoundary(failed + 1))
    assert violations(seen, Expectation(baseline=calm)) == []
    assert [effect.tool for effect in seen.effects] == ["label", "charge"]


def test_a_finished_run_costs_nothing_more(stage: Stage) -> None:
    """Killed after its last commit, or asked for again, a run is handed back without any call."""
    first = stage.run("first")
    made = len(stage.sent)
    again = stage.run("again")
    assert again["result"] == first["result"]
    assert len(stage.sent) == made
