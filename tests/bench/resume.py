"""Resuming a run of many journaled steps against walking the same steps bare."""

from __future__ import annotations

import contextlib
import gc
import sqlite3
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crewai_prod import Retry, harden
from crewai_prod.errors import ModelError
from crewai_prod.journal import new_owner, open_journal
from crewai_prod.records import NewRun
from tests.bench.table import Row, amount, paired
from tests.bench.workloads import READS, Talk, make_crew

ONCE = Retry(attempts=1)


def measure(folder: Path, *, quick: bool) -> Iterator[Row]:
    """A run that failed at its last model call, all its steps in one unfinished task."""
    turns, rounds = (25, 2) if quick else (500, 7)
    failed = folder / "failed.db"
    with contextlib.suppress(ModelError):
        _hardened(Talk(turns, "native", failing=True), failed).kickoff(run_id="r")
    assert len(open_journal(failed, create=False).steps("r")) == 2 * turns + 1
    opening, resumed, walked, calls = [], [], [], 0
    for number in range(rounds):
        opening.append(_open(_copy(failed, folder / f"open-{number}.db")))
        copy = _copy(failed, folder / f"resume-{number}.db")
        talk = Talk(turns, "native")
        resumed.append(_ms(_hardened(talk, copy), run_id="r"))
        calls = max(calls, talk.calls)
        walked.append(_ms(make_crew(Talk(turns, "native").llm(), turns)))
    yield from _rows(2 * turns, opening, resumed, walked, calls)


def _rows(
    steps: int, opening: list[float], resumed: list[float], walked: list[float], calls: int
) -> Iterator[Row]:
    yield Row(
        what=f"resume of {steps:,} steps: model calls sent (the one that had failed)",
        value=calls,
        unit="",
        limit=1,
    )
    yield Row(what="... journal part", value=statistics.median(opening), unit="ms", limit=150)
    whole, bare = statistics.median(resumed), statistics.median(walked)
    yield Row(
        what="... whole kickoff against walking the same steps bare",
        value=paired(resumed, walked),
        unit="x",
        beside=f"{amount(whole, 'ms')} to {amount(bare, 'ms')}",
        limit=1.3,
    )


def _hardened(talk: Talk, journal: Path) -> Any:
    crew = make_crew(talk.llm(), talk.turns)
    more: dict[str, Any] = {"log": None, "retry": ONCE, "loops": False}  # what it does is a loop
    return harden(crew, journal=journal, durability="process", tools=READS, **more)


def _ms(crew: Any, **arguments: Any) -> float:
    gc.collect()
    begin = time.perf_counter()
    crew.kickoff(**arguments)
    return (time.perf_counter() - begin) * 1000


def _copy(journal: Path, target: Path) -> Path:
    """A copy, with what still is in the log."""
    source, copy = sqlite3.connect(journal), sqlite3.connect(target)
    source.backup(copy)
    source.close()
    copy.close()
    return target


def _open(path: Path) -> float:
    """Milliseconds to open the file and the run in it."""
    journal = open_journal(path, create=False)
    run = journal.run("r")
    journal.close()
    new = NewRun(
        run_id="r",
        kind=run.kind,
        crew=run.crew,
        inputs=run.inputs,
        inputs_digest=run.inputs_digest,
        versions=run.versions,
    )
    gc.collect()
    begin = time.perf_counter()
    journal = open_journal(path, durability="process")
    opened = journal.open_run(new, new_owner(), lease_seconds=60)
    spent = (time.perf_counter() - begin) * 1000
    assert opened.lease is not None
    journal.close()
    return spent
