"""Group commit: the writes of many threads in one transaction, each acknowledged after its COMMIT.

Rule: `run(work)` returns when, and only when, what `work` wrote is committed; it raises when
nothing of it was. Reason: a commit waits for the disk, and the disk serves one as slowly as
sixteen. A caller that meets nobody commits for itself at once. One that finds another committing
queues up; whoever commits next takes the whole queue along. No thread of its own, nothing deferred.

If a group fails, each of its members is run again alone, so that an error reaches only its owner;
`work` must therefore do nothing but write to the connection it is given. Not covered: a caller that
is interrupted (Ctrl-C) while another thread commits for it does not learn whether it was committed.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from copy import copy
from typing import Any, TypeVar

from crewai_prod.errors import JournalUnavailable

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


_PENDING = object()


class _Ticket:
    """A place in the queue. Without `work` it asks for the connection to itself."""

    __slots__ = ("done", "error", "leads", "value", "wake", "work")

    def __init__(self, work: Work[Any] | None) -> None:
        self.work = work
        self.value: Any = _PENDING
        self.error: BaseException | None = None
        self.leads = self.done = False
        self.wake = threading.Lock()
        self.wake.acquire()

    def outcome(self) -> Any:
        if self.error is not None:
            raise self.error
        if self.value is _PENDING:
            raise JournalUnavailable("The thread that was to commit this write was interrupted.")
        return self.value


class GroupCommit:
    """Runs writes on one connection, in groups where threads meet.

    Args:
        connect: Gives the connection; called by whoever writes, never by two threads at once.
        patient: Whether commits are slow enough to wait for company. Then a group that is smaller
            than the one just before it waits for the rest, at most as long as that one took.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], *, patient: bool = False) -> None:
        self._connect = connect
        self._patient = patient
        self.reset()

    def reset(self) -> None:
        """Forget waiters and locks: for a forked child, whose other threads do not exist."""
        self._mutex = threading.Lock()
        self._queue: deque[_Ticket] = deque()
        self._busy = False
        self._missing = 0  # how many more the leader waits for
        self._complete = threading.Lock()
        self._complete.acquire()
        self._last_size, self._last_seconds, self._last_end = 1, 0.0, 0.0

    def run(self, work: Work[T], *, atomic: bool = False) -> T:
        """Commit what `work` writes.

        Args:
            work: Writes to the connection; leaves beginning and ending to the group.
            atomic: It is one statement, which is a transaction by itself when nobody else waits.
        """
        ticket: _Ticket | None = None
        leads = False
        try:
            with self._mutex:
                if self._busy:
                    ticket = _Ticket(work)
                    self._queue.append(ticket)
                    if self._missing:
                        self._missing -= 1
                        if not self._missing:
                            self._complete.release()
                else:
                    self._busy = leads = True
            if ticket is None and self._last_size == 1:
                connection = self._connect()
                return work(connection) if atomic else alone(connection, work)
            if ticket is None:
                ticket = _Ticket(work)
                self._lead(ticket)
                return ticket.outcome()  # type: ignore[no-any-return]
            ticket.wake.acquire()
            if ticket.leads:
                self._lead(ticket)
            return ticket.outcome()  # type: ignore[no-any-return]
        finally:
            if leads or (ticket is not None and self._must_leave(ticket)):
                self.leave()

    def enter(self) -> None:
        """Wait until nothing is being written, and keep it so until `leave`."""
        ticket = _Ticket(None)
        try:
            with self._mutex:
                if not self._busy:
                    self._busy = True
                    return
                self._queue.append(ticket)
            ticket.wake.acquire()
        except BaseException:
            if self._must_leave(ticket):
                self.leave()
            raise

    def leave(self) -> None:
        """Let the first in the queue lead, if there is one."""
        with self._mutex:
            if self._queue:
                head = self._queue.popleft()
                head.leads = True
                head.wake.release()
            else:
                self._busy = False

    def _must_leave(self, ticket: _Ticket) -> bool:
        """Whether the ticket's holder leads; one that was interrupted while it waited withdraws."""
        if not ticket.done:
            with self._mutex:
                if ticket in self._queue:
                    self._queue.remove(ticket)
        return ticket.leads

    def _lead(self, mine: _Ticket) -> None:
        group = [mine]
        self._wait_for_company()
        begin = time.perf_counter()
        try:
            with self._mutex:
                while self._queue and self._queue[0].work is not None:
                    group.append(self._queue.popleft())
            self._commit(group)
        finally:
            self._last_end = time.perf_counter()
            self._last_size, self._last_seconds = len(group), self._last_end - begin
            for ticket in group:
                ticket.done = True
                if ticket is not mine:
                    ticket.wake.release()

    def _wait_for_company(self) -> None:
        """Those acknowledged together come back together: one sync can serve them all again."""
        limit = self._last_seconds
        if not self._patient or time.perf_counter() - self._last_end > limit:
            return
        with self._mutex:
            self._missing = max(0, self._last_size - 1 - len(self._queue))
            if not self._missing:
                return
        try:
            self._complete.acquire(timeout=limit)
        finally:
            with self._mutex:
                self._missing = 0
                self._complete.acquire(blocking=False)

    def _commit(self, group: list[_Ticket]) -> None:
        """Commit the group; a failure to begin is everybody's, any other its owner's."""
        begun = False
        values: list[Any] = []
        try:
            connection = self._connect()
            connection.execute("BEGIN IMMEDIATE")
            begun = True
            values = [ticket.work(connection) for ticket in group if ticket.work is not None]
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - carried to the threads whose it is
            if begun:
                self._settle(group)
            else:
                for ticket in group:
                    ticket.error = _twin(error)
        except BaseException:  # Ctrl-C hits the leader alone; it may come right after the COMMIT
            if not begun or connection.in_transaction:
                self._settle(group)
            else:
                _deliver(group, values)
            raise
        else:
            _deliver(group, values)

    def _settle(self, group: list[_Ticket]) -> None:
        """Undo the group, then run each member by itself."""
        for ticket in group:
            assert ticket.work is not None
            try:
                connection = self._connect()
                roll_back(connection)
                ticket.value = alone(connection, ticket.work)
            except BaseException as error:  # noqa: BLE001 - carried to the thread whose it is
                ticket.error = error


def _twin(error: Exception) -> Exception:
    """An equal error for each thread: they go on to note different runs in it."""
    twin = copy(error)
    twin.__cause__ = error.__cause__
    return twin


def _deliver(group: list[_Ticket], values: list[Any]) -> None:
    for ticket, value in zip(group, values, strict=True):
        ticket.value = value


def alone(connection: sqlite3.Connection, work: Work[T]) -> T:
    """Run a write in a transaction of its own."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        value = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise
    return value


def roll_back(connection: sqlite3.Connection) -> None:
    """End the transaction, unless the failure (a full disk may) has ended it already."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")
