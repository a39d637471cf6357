"""Group commit: everyone is served, nobody before its commit, errors reach only their owner."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from crewai_prod.errors import JournalUnavailable, StaleOwner
from crewai_prod.journal import SqliteJournal, forget_owner, open_journal
from crewai_prod.journal._group import GroupCommit
from tests.journal.support import child, finished, message, model_step, rows, step, take


def test_two_processes_with_sixteen_threads_lose_no_row(path: Path) -> None:
    """Every acknowledged step of 2 x 16 threads on one file is there, once, with its message."""
    program = """
    journal = open_journal(sys.argv[1])
    lease = take(journal, sys.argv[2])
    def write(first):
        for number in range(first, first + 25):
            node = f"m{number}"
            journal.finish_step(lease, model_step(number, request=node), messages=[message(node)])
    threads = [threading.Thread(target=write, args=(1000 * index,)) for index in range(16)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    """
    for process in [child(program, str(path), name) for name in ("a", "b")]:
        finished(process)
    assert rows(path, "SELECT run, count(*), count(DISTINCT step_id) FROM steps GROUP BY run") == [
        (1, 400, 400),
        (2, 400, 400),
    ]
    assert rows(path, "SELECT count(*) FROM messages") == [(800,)]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_an_acknowledged_write_is_committed(path: Path) -> None:
    """When its call returns, each of 16 threads finds its row through its own connection."""
    journal = open_journal(path)
    lease = take(journal)
    missing: list[int] = []

    def write(first: int) -> None:
        reader = sqlite3.connect(path)
        for number in range(first, first + 20):
            journal.finish_step(lease, step(number))
            if not reader.execute("SELECT 1 FROM steps WHERE seq = ?", (number,)).fetchone():
                missing.append(number)
        reader.close()

    _in_threads([partial(write, i * 100) for i in range(16)])
    assert missing == []
    assert len(journal.steps("r")) == 320


def test_an_error_reaches_only_its_owner(path: Path) -> None:
    """Stale owners among 16 threads are refused one by one; everyone else's rows are there."""
    journal = open_journal(path)
    good, stale = take(journal, "good"), take(journal, "stale")
    forget_owner(stale.owner)
    take(journal, "stale")
    refused: list[int] = []

    def write(index: int) -> None:
        for number in range(index * 100, index * 100 + 20):
            try:
                journal.finish_step(stale if index % 4 == 0 else good, step(number))
            except StaleOwner:
                refused.append(number)

    _in_threads([partial(write, i) for i in range(16)])
    assert len(refused) == 80
    assert len(journal.steps("good")) == 240
    assert journal.steps("stale") == []


def test_waiting_threads_are_committed_together(path: Path) -> None:
    """Five writes that wait for a sixth end up in one transaction."""
    connection = _database(path)
    group = GroupCommit(lambda: connection)
    begun: list[str] = []
    connection.set_trace_callback(
        lambda sql: begun.append(sql) if sql.startswith("BEGIN") else None
    )
    _behind_a_slow_one(group, [partial(group.run, _insert(i)) for i in range(5)])
    assert len(begun) == 2
    assert rows(path, "SELECT count(*) FROM t") == [(6,)]


def test_a_broken_member_does_not_spoil_the_group(path: Path) -> None:
    """One of five fails: it alone gets its error, nothing of it is stored, four are committed."""
    connection = _database(path)
    group = GroupCommit(lambda: connection)
    errors: list[BaseException] = []

    def broken(inner: sqlite3.Connection) -> None:
        inner.execute("INSERT INTO t VALUES (99)")
        raise ValueError("mine")

    def run_broken() -> None:
        try:
            group.run(broken)
        except ValueError as error:
            errors.append(error)

    calls: list[Callable[[], object]] = [partial(group.run, _insert(i)) for i in range(4)]
    _behind_a_slow_one(group, [*calls[:2], run_broken, *calls[2:]])
    assert [str(error) for error in errors] == ["mine"]
    assert rows(path, "SELECT x FROM t ORDER BY x") == [(-1,), (0,), (1,), (2,), (3,)]


def test_an_interrupted_leader_leaves_nobody_hanging(path: Path) -> None:
    """Ctrl-C in the leading thread, before or after the COMMIT: each write is stored once."""
    for moment in ("before", "after"):
        connection = _Interrupting(_database(path.with_name(moment)), moment)
        group = GroupCommit(lambda c=connection: c)  # type: ignore[misc]
        interrupted: list[bool] = []

        def call(index: int, group: GroupCommit = group, seen: list[bool] = interrupted) -> None:
            try:
                group.run(_insert(index))
            except KeyboardInterrupt:
                seen.append(True)

        connection.armed = True
        _behind_a_slow_one(group, [partial(call, i) for i in range(4)])
        assert interrupted == [True]
        stored = rows(path.with_name(moment), "SELECT x FROM t ORDER BY x")
        assert stored == [(-1,), (0,), (1,), (2,), (3,)]
        group.run(_insert(7))


def test_an_interrupted_waiter_withdraws(path: Path) -> None:
    """Ctrl-C while waiting: the write is not made, and those behind it are served."""
    connection = _database(path)
    group = GroupCommit(lambda: connection)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        group.enter()
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        with pytest.raises(KeyboardInterrupt):
            group.run(_insert(1))
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        with pytest.raises(KeyboardInterrupt):
            group.enter()
    finally:
        signal.signal(signal.SIGUSR1, before)
    other = _Thread(partial(group.run, _insert(2)))
    _until_queued(group, 1)
    group.leave()
    other.join()
    assert rows(path, "SELECT x FROM t") == [(2,)]


def test_a_lock_that_stays_fails_everybody_once(path: Path) -> None:
    """Another program holds the file: 8 threads are refused after one timeout, not eight."""
    journal = open_journal(path, durability="process", busy_seconds=0.5)
    lease = take(journal)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    errors: list[JournalUnavailable] = []

    def write(number: int) -> None:
        try:
            journal.finish_step(lease, step(number))
        except JournalUnavailable as error:
            errors.append(error)

    begin = time.monotonic()
    _in_threads([partial(write, i) for i in range(8)])
    assert time.monotonic() - begin < 2.5
    assert len(errors) == 8
    assert all(str(path) in str(error) and "locked" in str(error) for error in errors)
    assert all(isinstance(error.__cause__, sqlite3.OperationalError) for error in errors)
    holder.execute("ROLLBACK")
    journal.finish_step(lease, step(50))
    assert rows(path, "SELECT seq FROM steps") == [(50,)]


def test_threads_that_fail_together_get_errors_of_their_own(path: Path) -> None:
    """One refusal to begin is everybody's, but as an object of each: their runs differ."""
    refusal = JournalUnavailable("no", path="p")
    refusal.__cause__ = OSError("why")

    def connect() -> sqlite3.Connection:
        raise refusal

    group = GroupCommit(connect)
    errors: list[JournalUnavailable] = []

    def call() -> None:
        try:
            group.run(_insert(1))
        except JournalUnavailable as error:
            errors.append(error)

    group.enter()
    threads = []
    for count in (1, 2, 3):
        threads.append(_Thread(call))
        _until_queued(group, count)
    group.leave()
    for thread in threads:
        thread.join()
    assert len({id(error) for error in errors}) == 3
    assert all(error.fields == {"path": "p"} and error.message == "no" for error in errors)
    assert all(error.__cause__ is refusal.__cause__ for error in errors)


def test_reading_does_not_wait_for_a_writer(journal: SqliteJournal, path: Path) -> None:
    """While another program holds the write lock, everything committed can be read."""
    lease = take(journal)
    journal.finish_step(lease, model_step(1), messages=[message()])
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    assert journal.run("r").run_id == "r"
    assert len(journal.steps("r")) == 1
    assert journal.runs()[0].total_tokens == 15
    holder.close()


class _Interrupting:
    """A connection on which Ctrl-C arrives right before or after the COMMIT of the first group."""

    def __init__(self, connection: sqlite3.Connection, moment: str) -> None:
        self._connection = connection
        self._moment = moment
        self.armed = False
        self._commits = 0

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, sql: str, *values: Any) -> Any:
        if sql != "COMMIT":
            return self._connection.execute(sql, *values)
        self._commits += 1
        due = self.armed and self._commits == 2
        if due and self._moment == "before":
            raise KeyboardInterrupt
        result = self._connection.execute(sql)
        if due:
            raise KeyboardInterrupt
        return result


class _Thread:
    """A thread that waits for its ticket."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def join(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


def _database(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("CREATE TABLE t (x)")
    return connection


def _insert(number: int) -> Callable[[sqlite3.Connection], None]:
    def work(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO t VALUES (?)", (number,))

    return work


def _behind_a_slow_one(group: GroupCommit, calls: list[Callable[[], object]]) -> None:
    """Run the calls in threads, all queued before a first write ends."""
    entered, go = threading.Event(), threading.Event()

    def slow(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO t VALUES (-1)")
        entered.set()
        go.wait(10)

    first = _Thread(lambda: group.run(slow))
    entered.wait(10)
    threads = []
    for count, call in enumerate(calls, 1):
        threads.append(_Thread(call))
        _until_queued(group, count)
    go.set()
    for thread in [first, *threads]:
        thread.join()


def _until_queued(group: GroupCommit, count: int) -> None:
    deadline = time.monotonic() + 10
    while len(group._queue) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def _in_threads(calls: list[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(autouse=True)
def _no_thread_errors() -> Iterator[None]:
    """An exception in a thread fails the test."""
    seen: list[Any] = []
    before = threading.excepthook
    threading.excepthook = seen.append
    yield
    threading.excepthook = before
    assert seen == []
