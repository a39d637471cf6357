"""The process ends at each commit in turn: what was acknowledged is there, the rest is whole."""

from __future__ import annotations

import time
import timeit
from pathlib import Path

import pytest

from crewai_prod import _faults
from crewai_prod.journal import SqliteJournal, open_journal
from crewai_prod.records import RunStatus, StepStatus
from tests.journal.support import child, finished, message, model_step, rows, step, take, task

OPERATIONS = ["open_run", "start_step", "finish_step", "save_task", "ask", "finish_run"]
STORY = """
journal = open_journal(sys.argv[1], durability="process")
lease = take(journal)
print("open_run", flush=True)
journal.start_step(lease, step(1, status=StepStatus.STARTED, result=None))
print("start_step", flush=True)
journal.finish_step(lease, model_step(2), messages=[message()], attempt=attempt())
print("finish_step", flush=True)
journal.save_task(lease, task(), messages=[message("m2", "m1")])
print("save_task", flush=True)
journal.ask(lease, question())
print("ask", flush=True)
journal.finish_run(lease, RunStatus.PAUSED)
print("finish_run", flush=True)
"""
KILLED = 137
COUNTS = """
SELECT (SELECT count(*) FROM runs), (SELECT count(*) FROM steps), (SELECT count(*) FROM messages),
  (SELECT count(*) FROM attempts), (SELECT count(*) FROM tasks), (SELECT count(*) FROM approvals),
  (SELECT count(*) FROM transitions)"""
AFTER = [
    (0, 0, 0, 0, 0, 0, 0),
    (1, 0, 0, 0, 0, 0, 1),
    (1, 1, 0, 0, 0, 0, 1),
    (1, 2, 1, 1, 0, 0, 1),
    (1, 2, 2, 1, 1, 0, 1),
    (1, 2, 2, 1, 1, 1, 1),
    (1, 2, 2, 1, 1, 1, 2),
]
"""What the tables hold after so many operations."""


@pytest.mark.parametrize("boundary", range(1, 13))
def test_every_boundary_is_all_or_nothing(path: Path, boundary: int) -> None:
    """Ended at the n-th boundary: just the operations before it are there, and resuming works."""
    process = child(STORY, str(path), CREWAI_PROD_FAULT=f"n={boundary}")
    out, err = process.communicate(timeout=60)
    assert process.returncode == KILLED, err
    acknowledged = out.split()
    assert acknowledged == OPERATIONS[: (boundary - 1) // 2]
    assert rows(path, COUNTS) == [AFTER[boundary // 2]]
    journal = open_journal(path)
    assert take(journal).epoch == (1 if boundary == 1 else 2)
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    journal.close()


def test_the_points_are_named_in_order(path: Path, tmp_path: Path) -> None:
    """Counting only: each operation has a point before and one after its commit."""
    log = tmp_path / "points"
    finished(child(STORY, str(path), CREWAI_PROD_FAULT=f"log={log}"))
    expected = [f"commit.{moment}:{op}" for op in OPERATIONS for moment in ("before", "after")]
    assert log.read_text().split() == expected


def test_a_point_can_be_named(path: Path) -> None:
    """Ended at the k-th hit of one point."""
    process = child(STORY, str(path), CREWAI_PROD_FAULT="at=commit.after:save_task,k=1")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == KILLED
    assert out.split() == OPERATIONS[:3]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_point_can_raise(journal: SqliteJournal, moment: str) -> None:
    """An injected exception before the commit leaves nothing, after it everything."""
    lease = take(journal)

    def fail() -> None:
        raise _faults.InjectedFault

    _faults.arm(at=f"commit.{moment}:finish_step", k=2, action=fail)
    try:
        journal.finish_step(lease, step(1))
        with pytest.raises(_faults.InjectedFault):
            journal.finish_step(lease, step(2))
        journal.finish_step(lease, step(3))
    finally:
        _faults.disarm()
    assert len(journal.steps("r")) == (2 if moment == "before" else 3)


def test_the_after_point_comes_after_the_commit_of_a_group(path: Path) -> None:
    """Eight threads, the process ended at the 20th acknowledgement: all twenty are stored."""
    program = """
    journal = open_journal(sys.argv[1])
    lease = take(journal)
    def write(first):
        for number in range(first, first + 50):
            journal.finish_step(lease, step(number))
    for index in range(8):
        threading.Thread(target=write, args=(100 * index,)).start()
    """
    process = child(program, str(path), CREWAI_PROD_FAULT="at=commit.after:finish_step,k=20")
    process.communicate(timeout=60)
    assert process.returncode == KILLED
    assert rows(path, "SELECT count(*) FROM steps")[0][0] >= 20


def test_a_point_costs_nothing_unarmed() -> None:
    """Less than 0.2 microseconds, as the median of many blocks says."""
    each = min(timeit.repeat(lambda: _faults.point("x"), number=10_000, repeat=20)) / 10_000
    assert each < 0.2e-6 * 3  # the lambda and a slow machine included


def test_the_instructions_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`do=raise`, `do=sleep:S` and the counters of the environment's form."""
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    try:
        _faults.arm_from("do=sleep:0.5,at=here,k=2")
        for _ in range(3):
            _faults.point("here")
            _faults.point("there")
        assert naps == [0.5]
        _faults.arm_from("do=raise,n=1")
        with pytest.raises(_faults.InjectedFault):
            _faults.point("anything")
        _faults.point("anything")
    finally:
        _faults.disarm()


def test_a_run_killed_at_random_moments_resumes_whole(path: Path) -> None:
    """SIGKILL a writer again and again: every acknowledged step is there for the next one."""
    program = """
    journal = open_journal(sys.argv[1], durability="process")
    opened = journal.open_run(new_run(), new_owner(), lease_seconds=60)
    first = len(opened.steps) + 1
    for number in range(first, 100_000):
        node = f"m{number}"
        record = model_step(number, request=node)
        journal.finish_step(opened.lease, record, messages=[message(node)])
        print(number, flush=True)
    """
    stored = 0
    for epoch in range(1, 6):
        process = child(program, str(path))
        assert process.stdout is not None
        for _ in range(20 * epoch):
            acknowledged = int(process.stdout.readline())
        process.kill()
        process.communicate()
        ((stored, highest, talk),) = rows(
            path,
            "SELECT count(*), max(seq), (SELECT count(*) FROM messages) FROM steps",
        )
        assert stored == highest == talk >= acknowledged
    journal = open_journal(path)
    assert journal.run("r").status is RunStatus.INTERRUPTED
    assert journal.run("r").epoch == 5
    assert {record.status for record in journal.steps("r")} == {StepStatus.DONE}
    lease = take(journal)
    journal.finish_step(lease, model_step(stored + 1), messages=[message()])
    journal.save_task(lease, task())
