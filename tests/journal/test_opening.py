"""Opening, ending and resuming runs; who may write to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from crewai_prod.errors import RunError, RunInUse, RunMismatch, StaleOwner
from crewai_prod.journal import SqliteJournal, check_transition, forget_owner, new_owner
from crewai_prod.records import LEGAL, Lease, RunStatus, TaskStatus
from tests.journal.support import (
    LEASE_SECONDS,
    attempt,
    dump,
    message,
    model_step,
    new_run,
    question,
    rows,
    step,
    take,
    task,
    verdict,
)

ENDS = sorted(set(RunStatus) - {RunStatus.RUNNING})
RESUMABLE = [status for status in ENDS if status is not RunStatus.COMPLETED]


def test_a_new_run_is_created(journal: SqliteJournal, path: Path) -> None:
    """An unknown id starts a run in its first epoch, running, with its transition."""
    owner = new_owner()
    opened = journal.open_run(new_run(), owner, lease_seconds=10)
    assert opened.created
    assert opened.lease == Lease(run=1, run_id="r", epoch=1, owner=owner)
    assert opened.run == journal.run("r")
    assert (opened.tasks, opened.steps, opened.attempts) == ((), (), ())
    assert rows(path, "SELECT status, epoch, owner_pid FROM runs") == [("running", 1, owner.pid)]
    assert [(t.source, t.target) for t in journal.transitions("r")] == [(None, RunStatus.RUNNING)]


def test_a_completed_run_is_handed_back(journal: SqliteJournal) -> None:
    """A finished run gives its result and tasks, no lease, and is not touched."""
    lease = take(journal)
    journal.save_task(lease, task())
    journal.finish_run(lease, RunStatus.COMPLETED, result='"all"')
    before = journal.run("r")
    owner = new_owner()
    opened = journal.open_run(new_run(), owner, lease_seconds=10)
    assert opened.lease is None
    assert opened.run == before == journal.run("r")
    assert opened.run.result == '"all"'
    assert opened.tasks == (task(),)
    assert opened.run.finished_at is not None


@pytest.mark.parametrize("status", RESUMABLE)
def test_a_stopped_run_is_resumed(journal: SqliteJournal, status: RunStatus) -> None:
    """Everything recorded comes back, the epoch goes up, and why it stopped is still told."""
    lease = take(journal)
    journal.finish_step(lease, model_step(1), messages=[message()], attempt=attempt())
    journal.finish_run(lease, status, reason="why", error="{}")
    opened = journal.open_run(new_run(), new_owner(), lease_seconds=10)
    assert opened.lease is not None
    assert opened.lease.epoch == 2
    assert not opened.created
    assert opened.run.status is RunStatus.RUNNING
    assert (opened.run.reason, opened.run.error) == ("why", "{}")
    assert (journal.run("r").reason, journal.run("r").error) == (None, None)
    assert opened.steps == (model_step(1),)
    assert opened.attempts == (attempt(),)
    assert opened.messages == {"m1"}
    assert [t.target for t in journal.transitions("r")] == [
        RunStatus.RUNNING,
        status,
        RunStatus.RUNNING,
    ]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"inputs_digest": "d2", "inputs": '{"topic":"x"}'}, ["d1", "d2", "topic", "new run id"]),
        ({"kind": "flow"}, ["crew", "flow", "new run id"]),
        ({"inputs_digest": "d2", "inputs": None}, ["d1", "d2"]),
    ],
)
def test_another_run_of_that_id_is_refused(
    journal: SqliteJournal, changes: dict[str, str], told: list[str]
) -> None:
    """Other inputs or another kind than the stored run's: both are named, nothing is written."""
    journal.finish_run(take(journal), RunStatus.COMPLETED)
    before = dump(journal.location)
    with pytest.raises(RunMismatch) as caught:
        journal.open_run(new_run(**changes), new_owner(), lease_seconds=10)
    for word in told:
        assert word in str(caught.value)
    assert "tides" not in str(caught.value)
    assert dump(journal.location) == before


def test_a_live_owner_keeps_its_run(journal: SqliteJournal) -> None:
    """A second kickoff in this process is told who has the run, and the first goes on."""
    lease = take(journal)
    with pytest.raises(RunInUse) as caught:
        journal.open_run(new_run(), new_owner(), lease_seconds=10)
    fields = caught.value.fields
    assert fields["owner"] == lease.owner.id
    assert fields["pid"] == lease.owner.pid
    assert lease.owner.host.startswith(fields["host"] + "#")
    assert fields["lease_expires_at"] == journal.run("r").lease_expires_at
    with pytest.raises(RunInUse):
        journal.open_run(new_run(), lease.owner, lease_seconds=10)
    journal.finish_step(lease, step())


def test_a_kickoff_that_ended_without_a_word_is_taken_over(journal: SqliteJournal) -> None:
    """An owner this process has forgotten is dead: reading says so, opening takes the run over."""
    lease = take(journal)
    forget_owner(lease.owner)
    assert journal.run("r").status is RunStatus.INTERRUPTED
    assert journal.runs()[0].status is RunStatus.INTERRUPTED
    assert rows(journal.location, "SELECT status FROM runs") == [("running",)]
    second = take(journal)
    assert second.epoch == 2
    assert [(t.source, t.target, t.epoch) for t in journal.transitions("r")][1:] == [
        (RunStatus.RUNNING, RunStatus.INTERRUPTED, 1),
        (RunStatus.INTERRUPTED, RunStatus.RUNNING, 2),
    ]


def test_an_opening_that_fails_leaves_no_owner_behind(journal: SqliteJournal) -> None:
    """An owner that got no lease may try again and does not count as alive."""
    owner = new_owner()
    journal.finish_run(take(journal), RunStatus.COMPLETED)
    with pytest.raises(RunMismatch):
        journal.open_run(new_run(inputs_digest="d2"), owner, lease_seconds=10)
    assert journal.open_run(new_run(), owner, lease_seconds=10).lease is None
    lease = journal.open_run(new_run("s"), owner, lease_seconds=10).lease
    assert lease is not None
    forget_owner(owner)
    assert journal.run("s").status is RunStatus.INTERRUPTED


Write = Callable[[SqliteJournal, Lease], object]
WRITES: dict[str, Write] = {
    "start_step": lambda j, lease: j.start_step(lease, step(9)),
    "finish_step": lambda j, lease: j.finish_step(lease, step(9)),
    "finish_step of a started one": lambda j, lease: j.finish_step(lease, step(1, attempts=2)),
    "finish_step with messages": lambda j, lease: j.finish_step(
        lease, model_step(9), messages=[message("m9")], attempt=attempt()
    ),
    "save_task": lambda j, lease: j.save_task(lease, task(), messages=[message("m9")]),
    "save_task with verdicts": lambda j, lease: j.save_task(lease, task(), verdicts=[verdict()]),
    "add_verdicts": lambda j, lease: j.add_verdicts(lease, [verdict()]),
    "finish_run": lambda j, lease: j.finish_run(lease, RunStatus.COMPLETED),
    "ask": lambda j, lease: j.ask(lease, question()),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_stale_owner_cannot_write(journal: SqliteJournal, name: str) -> None:
    """After a takeover every write of the old owner is refused and leaves the file as it was."""
    old = take(journal)
    journal.start_step(old, step(1))
    forget_owner(old.owner)
    new = take(journal)
    before = dump(journal.location)
    with pytest.raises(StaleOwner) as caught:
        WRITES[name](journal, old)
    assert caught.value.run_id == "r"
    assert dump(journal.location) == before
    journal.finish_step(new, step(2))


@pytest.mark.parametrize("name", WRITES)
def test_nobody_writes_to_a_run_that_does_not_exist(journal: SqliteJournal, name: str) -> None:
    """A lease of another file, or of a run that was deleted, is stale."""
    lease = Lease(run=77, run_id="r", epoch=1, owner=new_owner())
    with pytest.raises(StaleOwner):
        WRITES[name](journal, lease)


def test_a_heartbeat_extends_what_is_held_and_names_what_is_lost(journal: SqliteJournal) -> None:
    """One beat: held leases last longer, lost and returned ones are reported, nothing else."""
    held, lost, returned = take(journal, "a"), take(journal, "b"), take(journal, "c")
    forget_owner(lost.owner)
    take(journal, "b")
    journal.finish_run(returned, RunStatus.FAILED)
    before = journal.run("a")
    assert journal.heartbeat([held, lost, returned], lease_seconds=9999) == [lost, returned]
    after = journal.run("a")
    assert after.lease_expires_at is not None
    assert before.lease_expires_at is not None
    assert after.lease_expires_at > before.lease_expires_at + LEASE_SECONDS
    assert replace(after, lease_expires_at=before.lease_expires_at) == before
    assert journal.heartbeat([], lease_seconds=1) == []


@pytest.mark.parametrize(("source", "target"), list(product(RunStatus, RunStatus)))
def test_the_table_of_transitions_holds(source: RunStatus, target: RunStatus) -> None:
    """What `LEGAL` allows passes; anything else raises and names both."""
    if target in LEGAL[source]:
        check_transition(source, target)
        return
    with pytest.raises(RunError, match=f"{source}.*{target}"):
        check_transition(source, target, "r")


def test_the_journal_refuses_illegal_transitions(journal: SqliteJournal) -> None:
    """A run ends once per session, and never by becoming `running`."""
    lease = take(journal)
    with pytest.raises(RunError, match="cannot become running"):
        journal.finish_run(lease, RunStatus.RUNNING)
    journal.finish_run(lease, RunStatus.COMPLETED)
    before = dump(journal.location)
    with pytest.raises(RunError, match="completed cannot become failed"):
        journal.finish_run(lease, RunStatus.FAILED)
    assert dump(journal.location) == before


def test_finished_tasks_keep_their_steps_without_payloads(journal: SqliteJournal) -> None:
    """For replay: usage of every step, payloads of unfinished tasks' steps only."""
    lease = take(journal)
    for position in (0, 1, None):
        number = 10 if position is None else position
        journal.finish_step(lease, model_step(number, task=position, arguments="{}"))
    journal.save_task(lease, task(0))
    journal.save_task(lease, task(1, status=TaskStatus.FAILED))
    journal.finish_run(lease, RunStatus.FAILED)
    opened = journal.open_run(new_run(), new_owner(), lease_seconds=9)
    by_task = {record.task: record for record in opened.steps}
    assert (by_task[0].result, by_task[0].arguments) == (None, None)
    assert by_task[0].usage == by_task[1].usage
    assert (by_task[1].result, by_task[None].result) == ('"said"', '"said"')


def test_the_newest_generation_of_a_task_counts(journal: SqliteJournal) -> None:
    """Of a task executed again only the new row is handed out, and none if that was superseded."""
    lease = take(journal)
    journal.finish_step(lease, step(1, task=0))
    journal.save_task(lease, task(0))
    journal.save_task(lease, task(0, generation=1, status=TaskStatus.RUNNING))
    journal.save_task(lease, task(1, status=TaskStatus.SUPERSEDED))
    journal.finish_run(lease, RunStatus.FAILED)
    opened = journal.open_run(new_run(), new_owner(), lease_seconds=9)
    assert [(t.position, t.generation) for t in opened.tasks] == [(0, 1)]
    assert opened.steps[0].result == '"found"'
    assert len(journal.tasks("r")) == 3
