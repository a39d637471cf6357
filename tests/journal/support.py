"""Records to write, a plain connection to read them back with, and child processes."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crewai_prod.journal import SqliteJournal, new_owner
from crewai_prod.records import (
    ApprovalRecord,
    AttemptRecord,
    GuardRecord,
    Lease,
    MessageRecord,
    NewRun,
    StepKind,
    StepRecord,
    StepStatus,
    TaskRecord,
    TaskStatus,
    Usage,
    VerdictKind,
)

LEASE_SECONDS = 600.0


def new_run(run_id: str = "r", **changes: Any) -> NewRun:
    """A run of a crew with one input."""
    values: dict[str, Any] = {
        "run_id": run_id,
        "kind": "crew",
        "crew": "writers",
        "inputs": '{"topic":"tides"}',
        "inputs_digest": "d1",
        "versions": "{}",
    }
    return NewRun(**(values | changes))


def step(number: int = 1, **changes: Any) -> StepRecord:
    """A finished tool call."""
    values: dict[str, Any] = {
        "seq": number,
        "step_id": f"{number:016x}",
        "scope": "tasks/0/Writer",
        "kind": StepKind.TOOL,
        "name": "search",
        "digest": f"{number:020x}",
        "occurrence": 0,
        "agent": "Writer",
        "task": 0,
        "status": StepStatus.DONE,
        "arguments": '{"q":"tides"}',
        "result": '"found"',
        "started_at": 1000.0 + number,
        "duration_ms": 5.0,
        "epoch": 1,
    }
    return StepRecord(**(values | changes))


def model_step(number: int = 1, **changes: Any) -> StepRecord:
    """A finished model call of 10 + 5 tokens."""
    values: dict[str, Any] = {
        "kind": StepKind.MODEL,
        "name": "gpt",
        "arguments": None,
        "result": '"said"',
        "request": "m1",
        "params": "p1",
        "usage": Usage(input_tokens=10, output_tokens=5, calls=1),
        "model": "gpt-1",
        "provider": "openai",
        "route": '{"rule":"thrift"}',
        "response_id": "resp-1",
        "finish_reason": "stop",
    }
    return step(number, **(values | changes))


def message(digest: str = "m1", parent: str | None = None, **changes: Any) -> MessageRecord:
    """A user's message."""
    values: dict[str, Any] = {"role": "user", "body": '{"role":"user","content":"hello"}'}
    return MessageRecord(digest=digest, parent=parent, **(values | changes))


def task(position: int = 0, **changes: Any) -> TaskRecord:
    """A finished task."""
    values: dict[str, Any] = {
        "position": position,
        "name": f"task {position}",
        "agent": "Writer",
        "fingerprint": "f",
        "parts": '{"description":"x"}',
        "status": TaskStatus.DONE,
        "output": '{"raw":"done"}',
        "started_at": 1.0,
        "finished_at": 2.0,
    }
    return TaskRecord(**(values | changes))


def attempt(step_id: str = f"{1:016x}", **changes: Any) -> AttemptRecord:
    """A failed, billed try."""
    values: dict[str, Any] = {
        "attempt": 1,
        "status": StepStatus.FAILED,
        "error": '{"type":"E"}',
        "route": '{"rule":"thrift"}',
        "usage": Usage(input_tokens=7, output_tokens=1, calls=1),
        "started_at": 3.0,
        "duration_ms": 4.0,
        "epoch": 1,
    }
    return AttemptRecord(step_id=step_id, **(values | changes))


def question(**changes: Any) -> ApprovalRecord:
    """Whether a tool acted."""
    values: dict[str, Any] = {
        "id": 0,
        "run_id": "r",
        "step_id": f"{1:016x}",
        "kind": "unknown_outcome",
        "tool": "charge",
        "arguments": '{"amount":1}',
        "status": "open",
        "asked_at": 5.0,
    }
    return ApprovalRecord(**(values | changes))


def verdict(**changes: Any) -> GuardRecord:
    """What a guard has said of a tool call."""
    values: dict[str, Any] = {
        "scope": "tasks/0/Cashier",
        "step_id": f"{1:016x}",
        "place": "tool_call",
        "tool": "charge",
        "guard": "amounts",
        "version": "1",
        "verdict": VerdictKind.MODIFY,
        "judged": "d1",
        "reason": "too much",
        "value": '{"value":{"amount":1}}',
        "at": 5.0,
        "duration_ms": 0.5,
        "epoch": 1,
    }
    return GuardRecord(**(values | changes))


def take(journal: SqliteJournal, run_id: str = "r", **changes: Any) -> Lease:
    """Open a run as a new owner of this process."""
    run = new_run(run_id, **changes)
    lease = journal.open_run(run, new_owner(), lease_seconds=LEASE_SECONDS).lease
    assert lease is not None
    return lease


def rows(path: str | Path, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """What another program sees in the file."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query, values).fetchall()
    finally:
        connection.close()


def dump(path: str | Path) -> list[str]:
    """Every row of the file, as text."""
    connection = sqlite3.connect(path)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


def child(program: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start a Python process that runs `program`; what it prints and reads are pipes."""
    env: Mapping[str, str] = {
        **os.environ,
        **environment,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(program), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )


def finished(process: subprocess.Popen[str]) -> str:
    """What a child printed, once it has ended well."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.strip()


PRELUDE = """
import os, sys, threading, time
from crewai_prod.errors import *
from crewai_prod.journal import new_owner, open_journal
from crewai_prod.records import *
from tests.journal.support import *
"""
