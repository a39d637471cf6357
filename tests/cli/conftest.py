"""A command line in this process, and journals to point it at."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from crewai_prod.cli import main
from crewai_prod.journal import SqliteJournal, new_owner, open_journal
from crewai_prod.records import (
    Lease,
    NewRun,
    Owner,
    RunStatus,
    StepKind,
    StepRecord,
    StepStatus,
    TaskRecord,
    TaskStatus,
    Usage,
)

Cli = Callable[..., Result]
LEASE_SECONDS = 60.0


@pytest.fixture
def cli() -> Cli:
    """Run a command and look at what it printed."""
    runner = CliRunner()

    def run(*arguments: object, status: int = 0, **options: Any) -> Result:
        result = runner.invoke(main, [str(one) for one in arguments], **options)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == status, (result.stdout, result.stderr)
        return result

    return run


@dataclass
class Book:
    """A journal that tests fill by hand, as a run would."""

    journal: SqliteJournal
    path: Path

    def start(self, run_id: str, *, inputs: Any = None, crew: str | None = "desk") -> Lease:
        """Start or resume a run."""
        new = NewRun(
            run_id=run_id,
            kind="crew",
            crew=crew,
            inputs=json.dumps(inputs),
            inputs_digest=json.dumps(inputs),
            versions="{}",
        )
        opened = self.journal.open_run(new, new_owner(), lease_seconds=LEASE_SECONDS)
        assert opened.lease is not None
        return opened.lease

    def owner(self, run_id: str) -> Owner:
        """Who advances the run."""
        owner = self.journal.run(run_id).owner
        assert owner is not None
        return owner

    def step(self, lease: Lease, seq: int, kind: StepKind, name: str, **more: Any) -> StepRecord:
        """Record a step."""
        values: dict[str, Any] = {
            "status": StepStatus.DONE,
            "agent": "Clerk",
            "task": 0,
            "scope": "tasks/0/Clerk",
            "duration_ms": 12.5,
            "result": '"ok"',
            "epoch": lease.epoch,
        }
        if kind is StepKind.MODEL:
            values["usage"] = Usage(input_tokens=100, output_tokens=20, calls=1)
        values |= more
        step = StepRecord(
            seq=seq,
            step_id=f"{seq:016x}",
            kind=kind,
            name=name,
            digest=f"d{seq}",
            occurrence=0,
            started_at=1_700_000_000.0 + seq,
            **values,
        )
        if step.status is StepStatus.STARTED:
            self.journal.start_step(lease, step)
        else:
            self.journal.finish_step(lease, step)
        return step

    def task(self, lease: Lease, status: TaskStatus = TaskStatus.DONE, **more: Any) -> None:
        """Record the first task."""
        values: dict[str, Any] = {"position": 0, "name": "find the order", "agent": "Clerk"} | more
        record = TaskRecord(
            fingerprint="f",
            parts="{}",
            status=status,
            started_at=1_700_000_000.0,
            finished_at=None if status is TaskStatus.RUNNING else 1_700_000_002.0,
            **values,
        )
        self.journal.save_task(lease, record)

    def end(self, lease: Lease, status: RunStatus, **more: Any) -> None:
        """End the session."""
        self.journal.finish_run(lease, status, **more)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    """An empty journal at `runs.db`."""
    path = tmp_path / "runs.db"
    journal = open_journal(path, durability="process")
    yield Book(journal, path)
    journal.close()


@pytest.fixture
def resumed(book: Book) -> Book:
    """A journal with one run, `order-1`: failed after two steps, then resumed and completed."""
    first = book.start("order-1", inputs={"order": "A-1001"})
    book.task(first, TaskStatus.RUNNING)
    book.step(first, 1, StepKind.MODEL, "gpt-4o-mini")
    book.step(first, 2, StepKind.TOOL, "look_up", effect="read")
    book.end(first, RunStatus.FAILED, error='{"type": "ModelError", "message": "no answer"}')
    second = book.start("order-1", inputs={"order": "A-1001"})
    book.step(second, 3, StepKind.MODEL, "gpt-4o-mini")
    book.task(second)
    book.end(second, RunStatus.COMPLETED, result='{"complete": true, "output": {}}')
    return book
