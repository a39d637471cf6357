"""Group commit: the writes of many threads in one transaction, each acknowledged after its COMMIT.

Rule: `run(work)` returns when, and only when, what `work` wrote is committed; it raises when nothing
of it was. Reason: a commit waits for the disk, and the disk serves one as slowly as sixteen. A caller
that meets nobody commits for itself at once. One that finds another committing queues up; whoever
commits next takes the whole queue along. No thread of its own, nothing deferred.

If a group fails, each of its members is run again alone, so that an error reaches only its owner;
`work` must therefore do nothing but write to the connection it is given. Not covered: a caller that is
interrupted (Ctrl-C) while another thread commits for it does not learn whether it was committed.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


class _Ticket:
    """A place in the queue. Without `work` it asks for the connection to itself."""

    __slots__ = ("done", "error", "leads", "value", "wake", "work")

    def __init__(self, work: Work[Any] | None) -> None:
        self.work = work
        self.value: Any = None
        self.error: BaseException | None = None
        self.leads = self.done = False
        self.wake = threading.Lock()
        self.wake.acquire()

    def outcome(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class GroupCommit:
    """Runs writes on one connection, in groups where threads meet.

    Args:
        connect: Gives the connection; called by whoever writes, never by two threads at once.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self.reset()

    def reset(self) -> None:
        """Forget waiters and locks: for a forked child, whose other threads do not exist."""
        self._mutex = threading.Lock()
        self._queue: deque[_Ticket] = deque()
        self._busy = False

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
                else:
                    self._busy = leads = True
            if ticket is None:
                connection = self._connect()
                return work(connection) if atomic else alone(connection, work)
            ticket.wake.acquire()
            if ticket.leads:
                self._lead(ticket)
            return ticket.outcome()  # type: ignore[no-any-return]
        finally:
            if leads or (ticket is not None and self._must_leave(ticket)):
                self.leave()

    def enter(self) -> None:
        """Wait until nothing is being written, and keep it so until `leave`."""
        with self._mutex:
            if not self._busy:
                self._busy = True
                return
            ticket = _Ticket(None)
            self._queue.append(ticket)
        ticket.wake.acquire()

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
        with self._mutex:
            while self._queue and self._queue[0].work is not None:
                group.append(self._queue.popleft())
        try:
            self._commit(group)
        finally:
            for ticket in group:
                ticket.done = True
                if ticket is not mine:
                    ticket.wake.release()

    def _commit(self, group: list[_Ticket]) -> None:
        """Commit the group; a failure to begin is everybody's, any other its owner's."""
        try:
            connection = self._connect()
            connection.execute("BEGIN IMMEDIATE")
        except BaseException as error:
            for ticket in group:
                ticket.error = error
            return
        try:
            for ticket in group:
                assert ticket.work is not None
                ticket.value = ticket.work(connection)
            connection.execute("COMMIT")
        except BaseException as error:
            roll_back(connection)
            for ticket in group:
                _settle(connection, ticket)
            if not isinstance(error, Exception):
                raise


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


def _settle(connection: sqlite3.Connection, ticket: _Ticket) -> None:
    assert ticket.work is not None
    try:
        ticket.value = alone(connection, ticket.work)
    except BaseException as error:  # carried to the thread whose write it is
        ticket.error = error
