"""What the journal costs against what SQLite itself costs, side by side in one process.

Two floors, both one prepared INSERT into a bare table without index or constraint, same pragmas, in
a file of its own in the same folder: `row` stores the same values in the same columns, `text`
stores as many bytes in one column. Journal and floors take turns in short blocks, because disks
change their mind about how long a sync takes; numbers are medians over all blocks.
"""

from __future__ import annotations

import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple
from enum import StrEnum
from functools import partial
from itertools import count
from pathlib import Path

from crewai_prod.journal import Durability, SqliteJournal, new_owner, open_journal
from crewai_prod.records import (
    Lease,
    MessageRecord,
    NewRun,
    StepKind,
    StepRecord,
    StepStatus,
    Usage,
)
from tests.bench.table import Row, amount

KILOBYTE = "x" * 1000
BLOCK = 25
SYNCHRONOUS = {"power": "FULL", "process": "NORMAL"}


def measure(folder: Path, *, quick: bool) -> Iterator[Row]:
    """All rows of this section."""
    durabilities: tuple[Durability, ...] = ("power", "process")
    for durability in durabilities:
        for shape in ("tool", "model", "write tool"):
            yield compare(folder, durability, shape, steps=50 if quick else 2000)
    yield concurrency(folder, rounds=1 if quick else 7)


def new_run(run_id: str) -> NewRun:
    """A run with small inputs."""
    return NewRun(
        run_id=run_id, kind="crew", crew="bench", inputs="{}", inputs_digest="d", versions="{}"
    )


def open_lease(journal: SqliteJournal, run_id: str) -> Lease:
    """The lease of a run made for the occasion."""
    lease = journal.open_run(new_run(run_id), new_owner(), lease_seconds=600).lease
    assert lease is not None
    return lease


def tool_step(number: int, status: StepStatus = StepStatus.DONE) -> StepRecord:
    """A tool call with a result of 1 kB."""
    return StepRecord(
        seq=number,
        step_id=f"{number * 2654435761 % 2**64:016x}",
        scope="tasks/0/Researcher",
        kind=StepKind.TOOL,
        name="search",
        digest=f"{number:020x}",
        occurrence=0,
        agent="Researcher",
        task=0,
        status=status,
        effect="write",
        arguments='{"query": "tides of the north sea"}',
        result=KILOBYTE if status is StepStatus.DONE else None,
        started_at=time.time(),
        duration_ms=12.5,
    )


def model_step(number: int) -> tuple[StepRecord, list[MessageRecord]]:
    """A model call with one new message of 1 kB and an answer of 1 kB."""
    step = StepRecord(
        seq=number,
        step_id=f"{number * 2654435761 % 2**64:016x}",
        scope="tasks/0/Researcher",
        kind=StepKind.MODEL,
        name="gpt-4o-mini",
        digest=f"{number:020x}",
        occurrence=0,
        agent="Researcher",
        task=0,
        status=StepStatus.DONE,
        request=f"{number:020x}",
        params="f" * 20,
        result=KILOBYTE,
        usage=Usage(input_tokens=1200, output_tokens=300, calls=1),
        model="gpt-4o-mini-2024-07-18",
        provider="openai",
        response_id="chatcmpl-123456789",
        finish_reason="stop",
        started_at=time.time(),
        duration_ms=812.5,
    )
    message = MessageRecord(
        digest=f"{number:020x}", parent=f"{number - 1:020x}", role="user", body=KILOBYTE
    )
    return step, [message]


def bare(path: Path, durability: Durability) -> sqlite3.Connection:
    """The floor's connection."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS[durability]}")
    connection.execute("CREATE TABLE bare (id INTEGER PRIMARY KEY, body TEXT)")
    return connection


def timed(work: Callable[[], object]) -> float:
    """Microseconds."""
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1e6


def compare(folder: Path, durability: Durability, shape: str, steps: int) -> Row:
    """Median commit of a step of this shape against the floors."""
    journal = open_journal(folder / f"{shape}-{durability}.db", durability=durability)
    lease = open_lease(journal, "r")
    floor = bare(folder / f"{shape}-{durability}-bare.db", durability)
    texts, values = stored(shape)
    columns = ", ".join(f"c{index}" for index in range(len(values)))
    floor.execute(f"CREATE TABLE wide (id INTEGER PRIMARY KEY, {columns})")
    row = f"INSERT INTO wide ({columns}) VALUES ({', '.join('?' * len(values))})"
    text = "INSERT INTO bare (body) VALUES (?)"
    numbers = count(1)
    ours: list[float] = []
    by_row: list[float] = []
    by_text: list[float] = []
    for _ in range(steps // BLOCK):
        by_text += [timed(partial(floor.execute, text, (texts,))) for _ in range(BLOCK)]
        by_row += [timed(partial(floor.execute, row, values)) for _ in range(BLOCK)]
        ours += [timed(write) for write in writes(journal, lease, shape, numbers)]
    journal.close()
    floor.close()
    mine, wide, narrow = map(statistics.median, (ours, by_row, by_text))
    limit = {"power": 1.25, "process": 2.0}[durability] * (2 if shape == "write tool" else 1)
    return Row(
        what=f"journal commit of a {shape} step against a bare `INSERT`, "
        f"`{durability}` ({SYNCHRONOUS[durability]})",
        value=mine / wide,
        unit="x",
        beside=f"{amount(mine, 'µs')} to {amount(wide, 'µs')} "
        f"({amount(narrow, 'µs')} into one column)",
        limit=limit,
    )


def stored(shape: str) -> tuple[str, tuple[object, ...]]:
    """The bytes of one step (and its message) as one text, and as the values of one wide row."""
    step, messages = model_step(1)
    record = step if shape == "model" else tool_step(1)
    values = [getattr(record, name) for name in StepRecord._fields if name != "usage"]
    values += [*astuple(record.usage)] if record.usage else []
    for message in messages if shape == "model" else []:
        values += [message.digest, message.parent, message.role, message.body]
    plain = tuple(value.value if isinstance(value, StrEnum) else value for value in values)
    return "".join(str(value) for value in plain if value is not None), plain


def writes(
    journal: SqliteJournal, lease: Lease, shape: str, numbers: Iterator[int]
) -> Iterator[Callable[[], object]]:
    """One block of journal writes; the records are made before the clock starts."""

    def act(first: StepRecord, last: StepRecord) -> None:
        journal.start_step(lease, first)
        journal.finish_step(lease, last)

    for _ in range(BLOCK):
        number = next(numbers)
        if shape == "model":
            step, messages = model_step(number)
            yield partial(journal.finish_step, lease, step, messages=messages)
        elif shape == "tool":
            yield partial(journal.finish_step, lease, tool_step(number))
        else:
            yield partial(act, tool_step(number, StepStatus.STARTED), tool_step(number))


def rate(journal: SqliteJournal, lease: Lease, threads: int, each: int, first: int) -> float:
    """Commits per second of so many threads."""
    gate = threading.Barrier(threads + 1)

    def work(begin: int) -> None:
        gate.wait()
        for number in range(begin, begin + each):
            journal.finish_step(lease, tool_step(number))

    pool = [threading.Thread(target=work, args=(first + index * each,)) for index in range(threads)]
    for thread in pool:
        thread.start()
    gate.wait()
    begin = time.perf_counter()
    for thread in pool:
        thread.join()
    return threads * each / (time.perf_counter() - begin)


def concurrency(folder: Path, threads: int = 16, rounds: int = 7) -> Row:
    """One thread against sixteen on one file, FULL, taking turns."""
    journal = open_journal(folder / "threads.db")
    lease = open_lease(journal, "r")
    numbers = count(1)
    one: list[float] = []
    many: list[float] = []
    for _ in range(rounds):
        one.append(rate(journal, lease, 1, 200, next(numbers) * 100_000))
        many.append(rate(journal, lease, threads, 150, next(numbers) * 100_000))
    written = len(journal.steps("r"))
    assert written == rounds * (200 + threads * 150)
    journal.close()
    single, multi = statistics.median(one), statistics.median(many)
    return Row(
        what=f"{threads} threads against one on one file, `power` (FULL)",
        value=statistics.median(m / s for m, s in zip(many, one, strict=True)),
        unit="x",
        beside=f"{multi:,.0f} to {single:,.0f} commits a second",
        limit=8,
        at_least=True,
    )


def file_bytes(path: Path) -> int:
    """Size of the database, what still is in the log included."""
    connection = sqlite3.connect(path)
    pages: int = connection.execute("PRAGMA page_count").fetchone()[0]
    size: int = connection.execute("PRAGMA page_size").fetchone()[0]
    connection.close()
    return pages * size
