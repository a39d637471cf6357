"""Reading the journal: for reports, the command line and tests.

Rule: reading writes nothing and waits for no writer. Whether a running run's owner still lives is
looked up when asked, so that a dead one shows as `interrupted` before anybody has taken it over.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crewai_prod.errors import ApprovalNotFound, RunNotFound, UsageError
from crewai_prod.journal import _sql
from crewai_prod.journal._crypto import Plain, check_key
from crewai_prod.journal._failures import failures
from crewai_prod.journal._files import Handle, open_reader
from crewai_prod.journal._lease import is_alive
from crewai_prod.journal._rows import (
    Row,
    approval_record,
    attempt_record,
    owner_of,
    run_record,
    step_record,
    task_record,
    transition_record,
    verdict_record,
)
from crewai_prod.records import (
    ApprovalRecord,
    AttemptRecord,
    GuardRecord,
    Lease,
    RunRecord,
    RunStatus,
    RunSummary,
    Spending,
    StepRecord,
    TaskRecord,
    TaskSpending,
    TransitionRecord,
    Usage,
    UsageRow,
)

if TYPE_CHECKING:
    import sqlite3

    from sqlite_utils import Database

_NEWEST = 2**63 - 1
_FIRST_PAGE, _NEXT_PAGE = 50, 1000
_MAYBE_RUNNING = (RunStatus.RUNNING.value, RunStatus.INTERRUPTED.value)


class SqliteReader:
    """The reading half of the SQLite journal.

    Args:
        path: The file, absolute.
        vault: Opens encrypted payloads.
        busy_seconds: How long to wait for a lock.
    """

    def __init__(self, path: Path, vault: Plain, busy_seconds: float) -> None:
        self._path = path
        self._vault = vault
        self._busy_seconds = busy_seconds
        self._closed = False
        self._read_lock = threading.Lock()
        self._read_handle = Handle(path, self._connect_reader)

    @property
    def location(self) -> str:
        """Path of the file."""
        return str(self._path)

    def database(self) -> Database:
        """The file as a `sqlite_utils.Database` that cannot write, for questions of one's own."""
        from sqlite_utils import Database

        with failures(self.location):
            connection = self._connect_reader()
            return Database(connection, recursive_triggers=False, execute_plugins=False)

    def runs(self, *, status: RunStatus | None = None, limit: int | None = 50) -> list[RunSummary]:
        """Runs, newest first."""
        return list(islice(self._summaries(status), limit))

    def run(self, run_id: str) -> RunRecord:
        """One run.

        Raises:
            RunNotFound: There is none of this id.
        """
        rows = self._query(_sql.RUN_BY_ID, (run_id,))
        if not rows:
            raise RunNotFound(run_id=run_id)
        run = run_record(rows[0], self._vault)
        last = self._query(_sql.LAST_STEP_AT, (run.run,))[0][0] or 0.0
        status = _status_now(run.status, is_owned=_is_owned(run))
        return replace(run, status=status, updated_at=max(run.updated_at, last))

    def transitions(self, run_id: str) -> list[TransitionRecord]:
        """Every change of the run's status, oldest first."""
        return self._of_run(_sql.TRANSITIONS, run_id, transition_record)

    def tasks(self, run_id: str) -> list[TaskRecord]:
        """Every execution of every task, superseded ones included, by position."""
        return self._of_run(_sql.TASKS, run_id, lambda r: task_record(r, run_id, self._vault))

    def steps(self, run_id: str) -> list[StepRecord]:
        """Every step, in order of starting."""
        return self._of_run(_sql.STEPS, run_id, lambda r: step_record(r, run_id, self._vault))

    def attempts(self, run_id: str) -> list[AttemptRecord]:
        """Every try that did not become its step's outcome."""
        return self._of_run(_sql.ATTEMPTS, run_id, lambda r: attempt_record(r, run_id, self._vault))

    def verdicts(self, run_id: str) -> list[GuardRecord]:
        """What guards have said, oldest first."""
        return self._of_run(_sql.VERDICTS, run_id, lambda r: verdict_record(r, run_id, self._vault))

    def conversation(self, run_id: str, digest: str) -> list[dict[str, Any]]:
        """The messages up to and with `digest`, first one first, contents filled in."""
        messages = []
        for body, content_step, result in self._query(
            _sql.CONVERSATION, (self._number(run_id), digest)
        ):
            message = json.loads(self._vault.open(body, run_id, "messages.body") or "{}")
            if content_step is not None:
                text = self._vault.open(result, run_id, "steps.result")
                message["content"] = _text_of(text)
            messages.append(message)
        return messages

    def cancelled(self, leases: Sequence[Lease]) -> list[Lease]:
        """See `JournalReader.cancelled`."""
        asked = set(self._query(_sql.SESSIONS_TO_STOP, ()))
        return [lease for lease in leases if (lease.run, lease.epoch) in asked]

    def approvals(
        self, run_id: str | None = None, *, status: str | None = None
    ) -> list[ApprovalRecord]:
        """Questions to people, oldest first."""
        number = None if run_id is None else self._number(run_id)
        rows = self._query(_sql.APPROVALS, (number, status))
        return [approval_record(row, self._vault) for row in rows]

    def approval(self, approval_id: int) -> ApprovalRecord:
        """See `JournalReader.approval`."""
        rows = self._query(_sql.APPROVAL_BY_ID, (min(approval_id, _NEWEST),))
        for *columns, _ in rows:
            return approval_record(columns, self._vault)
        raise ApprovalNotFound(f"No question {approval_id} is in the journal.")

    def grant(self, lease: Lease, tool: str, now: float) -> ApprovalRecord | None:
        """See `JournalReader.grant`."""
        rows = self._query(_sql.GRANT, (lease.run, tool, now))
        return next((approval_record(row, self._vault) for row in rows), None)

    # -- what runs took ---------------------------------------------------------------------------

    def usage(
        self,
        by: Sequence[str] = (),
        *,
        run_id: str | None = None,
        crew: str | None = None,
        since: float | None = None,
        limit: int | None = None,
    ) -> list[UsageRow]:
        """See `JournalReader.usage`."""
        given = {
            "run": None if run_id is None else self._number(run_id),
            "crew": crew,
            "day": None if since is None else datetime.fromtimestamp(since, UTC).date().isoformat(),
        }
        filters = {name: value for name, value in given.items() if value is not None}
        most = -1 if limit is None else limit
        rows = self._query(_sql.usage_page(by, tuple(filters)), (most, *filters.values()))
        return [self._usage_row(_sql.keys_of(by), row) for row in rows]

    def task_spending(self, run_id: str, *, earlier: int) -> list[list[TaskSpending]]:
        """See `JournalReader.task_spending`."""
        rows = self._query(_sql.RUN_BY_ID, (run_id,))
        if not rows:
            raise RunNotFound(run_id=run_id)
        run = run_record(rows[0], self._vault)
        found = self._spendings(run.crew, run.kind, run.run, earlier)
        own = [one for one in found if one.run == run.run]
        return [[one for one in found if _same_task(one, task)] for task in own]

    def latest_runs(self, *, crew: str | None = None, since: float | None = None) -> list[str]:
        """See `JournalReader.latest_runs`."""
        if since is None:
            rows = self._query(_sql.NEWEST_RUNS, (crew,))
        else:
            rows = self._query(_sql.RUNS_SINCE, (since, crew))
        return [run_id for (run_id,) in rows]

    # -- inner ------------------------------------------------------------------------------------

    def _usage_row(self, keys: tuple[str, ...], row: Row) -> UsageRow:
        key = dict(zip(keys, row, strict=False))
        llm_calls, tool_calls, *tokens, cost, priced, unpriced = row[len(keys) :]
        if "run" in key:
            key = {"run_id": self._query(_sql.RUN_NAME, (key.pop("run"),))[0][0], **key}
        if "task" in key:
            which = (key["crew"], key["kind"], key["task"])
            names = [] if key["task"] is None else self._query(_sql.TASK_NAME, which)
            key["name"] = names[0][0] if names else None
        counts: dict[str, Any] = dict(zip(_sql.USAGE, map(_number_of, tokens), strict=False))
        return UsageRow(
            key=key,
            llm_calls=_number_of(llm_calls),
            tool_calls=_number_of(tool_calls),
            usage=Usage(**counts),
            spent=Spending(picousd=cost if priced else None, unpriced=_number_of(unpriced)),
        )

    def _spendings(self, *which: Any) -> list[TaskSpending]:
        names = ("run", "run_id", "crew", "kind", "task", "name", "at", "steps", "tokens")
        return [
            TaskSpending(
                **dict(zip(names, row, strict=False)),
                spent=Spending(picousd=row[-2], unpriced=row[-1]),
            )
            for row in self._query(_sql.TASK_SPENDING, which)
        ]

    def _connect_reader(self) -> sqlite3.Connection:
        if self._closed:
            raise UsageError(f"The journal {self.location} was closed.")
        connection = open_reader(self._path, self._busy_seconds)
        check_key(connection, self._vault, self.location)
        return connection

    def _query(self, query: str, values: tuple[Any, ...]) -> list[Row]:
        with failures(self.location), self._read_lock:
            try:
                return self._read_handle.get().execute(query, values).fetchall()
            except BaseException:
                self._read_handle.suspect = True
                raise

    def _number(self, run_id: str) -> int:
        rows = self._query(_sql.RUN_NUMBER, (run_id,))
        if not rows:
            raise RunNotFound(run_id=run_id)
        return int(rows[0][0])

    def _of_run(self, query: str, run_id: str, record: Callable[[Row], Any]) -> list[Any]:
        return [record(row) for row in self._query(query, (self._number(run_id),))]

    def _summaries(self, status: RunStatus | None) -> Iterator[RunSummary]:
        """Newest first; owners are looked up row by row, so statuses are filtered twice."""
        stored: tuple[str, ...] = () if status is None else (status.value,)
        if status in (RunStatus.RUNNING, RunStatus.INTERRUPTED):
            stored = _MAYBE_RUNNING
        before = _NEWEST
        size = _FIRST_PAGE
        while True:
            rows = self._query(_sql.run_page(len(stored)), (before, *stored, size))
            for row in rows:
                summary = self._summary(row)
                if status is None or summary.status is status:
                    yield summary
            if len(rows) < size:
                return
            before, size = rows[-1][0], _NEXT_PAGE

    def _summary(self, row: Row) -> RunSummary:
        columns = (*_sql.RUN_PLAIN, *_sql.OWNER)
        values = dict(zip(columns, row, strict=False))
        error, llm_calls, tool_calls, tokens, last_at, cost, unpriced = row[len(columns) :]
        owner = owner_of([values[column] for column in _sql.OWNER])
        owned = owner is not None and is_alive(owner, values["lease_expires_at"])
        return RunSummary(
            run_id=values["run_id"],
            status=_status_now(RunStatus(values["status"]), is_owned=owned),
            reason=values["reason"],
            crew=values["crew"],
            created_at=values["created_at"],
            updated_at=max(values["updated_at"], last_at or 0.0),
            llm_calls=llm_calls,
            tool_calls=tool_calls,
            total_tokens=tokens,
            spent=Spending(picousd=cost, unpriced=unpriced),
            error=self._vault.open(error, values["run_id"], "runs.error"),
        )


def _number_of(total: int | None) -> int:
    """A sum over no rows is NULL."""
    return total or 0


def _same_task(one: TaskSpending, other: TaskSpending) -> bool:
    return (one.task, one.name) == (other.task, other.name)


def _is_owned(run: RunRecord) -> bool:
    return run.owner is not None and is_alive(run.owner, run.lease_expires_at)


def _status_now(stored: RunStatus, *, is_owned: bool) -> RunStatus:
    gone = stored is RunStatus.RUNNING and not is_owned
    return RunStatus.INTERRUPTED if gone else stored


def _text_of(result: str | None) -> Any:
    """The text a result holds: a JSON string's value, a recorded object's text, else the JSON."""
    tree = None if result is None else json.loads(result)
    if isinstance(tree, dict) and tree.get("answer") in ("responses", "value"):
        tree = tree["v"]
    if isinstance(tree, dict) and tree.get("$") == "object":
        return tree["v"]["text"]
    return tree if tree is None or isinstance(tree, str) else result
