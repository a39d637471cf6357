"""Owners in real processes: dead, stopped, replaced, racing, forked."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from crewai_prod.errors import RunInUse
from crewai_prod.journal import SqliteJournal, _lease, new_owner
from crewai_prod.records import RunStatus
from tests.journal.support import child, finished, new_run, rows, step, take

OWNER = """
journal = open_journal(sys.argv[1])
owner = new_owner()
lease = journal.open_run(new_run(), owner, lease_seconds=float(sys.argv[2])).lease
journal.finish_step(lease, step(1))
print(owner.pid, flush=True)
sys.stdin.readline()
try:
    journal.finish_step(lease, step(2))
except StaleOwner as error:
    print("refused", error.run_id)
print([lost.run_id for lost in journal.heartbeat([lease], lease_seconds=60)])
"""


@contextmanager
def another_owner(path: Path, lease_seconds: float = 600) -> Iterator[subprocess.Popen[str]]:
    """Another process that has opened the run and written a step."""
    process = child(OWNER, str(path), str(lease_seconds))
    assert process.stdout is not None
    try:
        assert process.stdout.readline().strip() == str(process.pid)
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_live_process_is_not_disturbed_and_a_killed_one_is_replaced_at_once(
    journal: SqliteJournal, path: Path
) -> None:
    """RunInUse while the owner lives; after SIGKILL, reaped or not, the run is taken over."""
    with another_owner(path) as process:
        with pytest.raises(RunInUse) as caught:
            take(journal)
        assert caught.value.fields["pid"] == process.pid
        assert journal.run("r").status is RunStatus.RUNNING
        process.send_signal(signal.SIGKILL)
        _until(lambda: _state(process.pid) == "Z")
        assert journal.run("r").status is RunStatus.INTERRUPTED
        process.wait()
        assert journal.run("r").status is RunStatus.INTERRUPTED
        opened = journal.open_run(new_run(), new_owner(), lease_seconds=60)
    assert opened.lease is not None
    assert opened.lease.epoch == 2
    assert opened.steps == (step(1),)


def test_a_stopped_process_loses_its_run_and_cannot_write_when_it_wakes(
    journal: SqliteJournal, path: Path
) -> None:
    """SIGSTOP until the lease has run out, takeover, SIGCONT: write and lease are refused."""
    with another_owner(path, lease_seconds=1.0) as process:
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(RunInUse):
            take(journal)
        _until(lambda: journal.run("r").status is RunStatus.INTERRUPTED)
        lease = take(journal)
        process.send_signal(signal.SIGCONT)
        out, _ = process.communicate("go\n", timeout=30)
    assert out.splitlines() == ["refused r", "['r']"]
    assert [record.step_id for record in journal.steps("r")] == [step(1).step_id]
    journal.finish_step(lease, step(2))


def test_of_many_processes_that_open_a_run_one_wins(path: Path) -> None:
    """Six processes at once, on a file that does not exist yet: one lease, five RunInUse."""
    program = """
    gate = float(sys.argv[2])
    time.sleep(max(0, gate - time.time()))
    journal = open_journal(sys.argv[1])
    try:
        lease = journal.open_run(new_run(), new_owner(), lease_seconds=60).lease
        print("won", lease.epoch, flush=True)
    except RunInUse:
        print("in use", flush=True)
    sys.stdin.readline()
    """
    gate = str(time.time() + 1.0)
    processes = [child(program, str(path), gate) for _ in range(6)]
    said = [process.stdout.readline().strip() for process in processes if process.stdout]
    for process in processes:
        process.communicate("\n", timeout=30)
    assert sorted(said) == ["in use"] * 5 + ["won 1"]
    assert rows(path, "SELECT count(*) FROM transitions") == [(1,)]


def test_an_owner_on_another_host_is_trusted_until_its_lease_ends(journal: SqliteJournal) -> None:
    """What this host cannot look up, the lease decides."""
    far = replace(new_owner(), host="elsewhere#1-2")
    lease = journal.open_run(new_run(), far, lease_seconds=0.3).lease
    assert lease is not None
    with pytest.raises(RunInUse, match="elsewhere"):
        take(journal)
    _until(lambda: journal.run("r").status is RunStatus.INTERRUPTED)
    assert take(journal).epoch == 2


def test_a_reused_pid_is_not_the_owner(journal: SqliteJournal) -> None:
    """A living process with the owner's pid but another start time does not keep the run."""
    for run_id, pid in (("mine", os.getpid()), ("parent", os.getppid())):
        other = replace(new_owner(), pid=pid, process_started=1.0)
        assert journal.open_run(new_run(run_id), other, lease_seconds=600).lease is not None
        assert take(journal, run_id).epoch == 2


def test_without_a_start_time_the_pid_decides(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where /proc cannot be read: a living pid owns, a dead one does not."""
    monkeypatch.setattr(_lease, "_stat", lambda pid: None)
    dead = subprocess.Popen(["true"])
    dead.wait()
    assert new_owner().process_started == 0.0
    for run_id, pid, alive in (("a", os.getppid(), True), ("b", dead.pid, False)):
        owner = replace(new_owner(), pid=pid)
        journal.open_run(new_run(run_id), owner, lease_seconds=600)
        expected = RunStatus.RUNNING if alive else RunStatus.INTERRUPTED
        assert journal.run(run_id).status is expected


def test_the_host_is_told_from_its_earlier_boots_and_its_containers() -> None:
    """Same name is not enough: boot and process namespace belong to the host's identity."""
    name, _, rest = _lease.this_host().partition("#")
    assert name == socket.gethostname()
    boot = Path("/proc/sys/kernel/random/boot_id")
    if boot.exists():
        assert rest.startswith(boot.read_text()[:8])
        assert rest.endswith(str(os.stat("/proc/self/ns/pid").st_ino))


def test_a_forked_child_starts_over(journal: SqliteJournal, path: Path) -> None:
    """A child writes through the inherited journal, and cannot have the parent's run."""
    program = """
    journal = open_journal(sys.argv[1], durability="process")
    lease = journal.open_run(new_run("parent"), new_owner(), lease_seconds=60).lease
    stop = threading.Event()
    def write():
        number = 0
        while not stop.is_set():
            number += 1
            journal.finish_step(lease, step(number))
        print("steps", number, flush=True)
    threads = [threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    pids = []
    for index in range(10):
        pid = os.fork()
        if pid == 0:
            assert journal.run("parent").status is RunStatus.RUNNING
            try:
                journal.open_run(new_run("parent"), new_owner(), lease_seconds=60)
            except RunInUse:
                mine = journal.open_run(new_run(f"c{index}"), new_owner(), lease_seconds=60).lease
                for number in range(50):
                    journal.finish_step(mine, step(number))
                journal.finish_run(mine, RunStatus.COMPLETED)
                os._exit(0)
            os._exit(1)
        pids.append(pid)
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    stop.set()
    threads[0].join()
    assert statuses == [0] * 10, statuses
    """
    written = int(finished(child(program, str(path))).split()[1])
    assert len(journal.steps("parent")) == written
    for index in range(10):
        assert journal.run(f"c{index}").status is RunStatus.COMPLETED
        assert len(journal.steps(f"c{index}")) == 50
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_fork_in_mid_commit_waits_for_it(journal: SqliteJournal, path: Path) -> None:
    """Forks while four threads commit: no deadlock, no lost acknowledged step."""
    program = """
    journal = open_journal(sys.argv[1], durability="process")
    lease = journal.open_run(new_run("r"), new_owner(), lease_seconds=60).lease
    def write(first):
        for number in range(first, first + 40):
            journal.finish_step(lease, step(number))
    pool = [threading.Thread(target=write, args=(first,)) for first in range(0, 160, 40)]
    for thread in pool:
        thread.start()
    forks = 0
    while any(thread.is_alive() for thread in pool):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if journal.run("r").run == lease.run else 1)
        assert os.waitpid(pid, 0)[1] == 0
        forks += 1
    print(forks)
    """
    assert int(finished(child(program, str(path)))) > 0
    assert len(journal.steps("r")) == 160


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
