"""Two processes and one run: one advances it, whoever that is, and nothing happens twice."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from pathlib import Path

import pytest

from crewai_prod.crashtest.evidence import read_journal
from crewai_prod.crashtest.sessions import DONE, EFFECTS, FAILED
from crewai_prod.records import RunStatus
from tests.crash.conftest import PATIENCE, Stage, ended

_SHORT_LEASE = 0.6
_LOOK_EVERY = 0.02


def _wait_until_lease_has_run_out(stage: Stage) -> None:
    pause = threading.Event()
    for _ in range(int(PATIENCE / _LOOK_EVERY)):
        if stage.journal().status is RunStatus.INTERRUPTED:
            return
        pause.wait(_LOOK_EVERY)
    raise AssertionError("the stopped owner's lease did not run out")


@pytest.mark.parametrize(
    ("at", "k"),
    [("model.before_call", 3), ("commit.before:start_step", 2), ("commit.before:finish_step", 3)],
)
def test_a_revived_owner_writes_nothing(stage: Stage, at: str, k: int) -> None:
    """An owner that was stopped, lost its lease and wakes up is refused before its next effect."""
    old, session = stage.stopped("old", at=at, kill_at=k, lease_seconds=_SHORT_LEASE)
    _wait_until_lease_has_run_out(stage)
    new = stage.run("new")
    assert new["status"] == DONE, new
    before = stage.journal()
    old.signal(signal.SIGCONT)
    told = ended(old, session)
    assert (told["status"], told["error"]["type"]) == (FAILED, "StaleOwner"), told
    assert stage.journal() == before
    assert Counter(effect.tool for effect in stage.effects) == Counter(reserve=1, charge=1, mail=1)


def test_a_live_owner_is_left_alone(stage: Stage) -> None:
    """A second process that resumes a run gets `RunInUse`; the first goes on undisturbed."""
    stage.run("killed", kill_at=20)
    first, session = stage.stopped("first", at="commit.after:open_run")
    second = stage.run("second")
    assert (second["status"], second["error"]["type"]) == (FAILED, "RunInUse"), second
    assert stage.journal().epoch == 2
    first.signal(signal.SIGCONT)
    assert ended(first, session)["status"] == DONE
    assert len(stage.effects) == 3


def test_of_two_that_resume_at_once_one_wins(stage: Stage) -> None:
    """Two processes race for a killed run: one ends it, the other is refused or told the result."""
    stage.run("killed", kill_at=20)
    sessions = [stage.session("one"), stage.session("two")]
    children = [stage.zygote.start(session) for session in sessions]
    told = [ended(*pair) for pair in zip(children, sessions, strict=True)]
    done = [one for one in told if one["status"] == DONE]
    refused = [one["error"]["type"] for one in told if one["status"] != DONE]
    assert done
    assert set(refused) <= {"RunInUse"}
    assert all(one["result"] == done[0]["result"] for one in done)
    assert stage.journal().epoch == 2
    assert len(stage.effects) == 3


def test_a_kill_leaves_the_other_run_of_a_journal_alone(stage: Stage, tmp_path: Path) -> None:
    """Of two runs that share a journal one is killed in mid-commit; the other ends as if alone."""
    alone = stage.run("alone", run_id="alone", journal=str(tmp_path / "alone.db"))
    effects = {EFFECTS: str(tmp_path / "other.jsonl")}
    other_env = {**stage.template.env, **effects}
    other, session = stage.stopped("other", run_id="other", kill_at=17, env=other_env)
    points = {"model.after_call": 3, "commit.before:save_task": 2, "commit.after:finish_step": 4}
    for at, k in points.items():
        assert stage.run(f"killed {at}", run_id=at, at=at, kill_at=k) == {}
    other.signal(signal.SIGCONT)
    assert ended(other, session)["result"] == alone["result"]
    for at in points:
        assert stage.run(f"resumed {at}", run_id=at)["status"] == DONE
    recorded = read_journal(Path(stage.template.journal), "other")
    assert (recorded.status, recorded.epoch) == (RunStatus.COMPLETED, 1)


def test_two_runs_in_one_journal_are_killed_together(stage: Stage) -> None:
    """Runs that share a journal and are killed at the same time both end right."""
    calm = stage.run("calm", run_id="calm")
    runs = {f"run {n}": point for n, point in enumerate((9, 23))}
    sessions = [stage.session(f"{r} killed", run_id=r, kill_at=p) for r, p in runs.items()]
    for child, session in [(stage.zygote.start(session), session) for session in sessions]:
        assert ended(child, session) == {}
    sessions = [stage.session(f"{run} resumed", run_id=run) for run in runs]
    for child, session in [(stage.zygote.start(session), session) for session in sessions]:
        told = ended(child, session)
        assert told["result"]["raw"] == calm["result"]["raw"]
        assert told["result"]["token_usage"] == calm["result"]["token_usage"]
