"""What a new process pays: importing, and listing the runs of a large journal."""

from __future__ import annotations

import os
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from crewai_prod.journal import open_journal
from tests.bench.table import Row

KILOBYTE = "x" * 1000


def measure(folder: Path, *, quick: bool) -> Iterator[Row]:
    """All rows of this section."""
    rounds = 2 if quick else 9
    yield _listing(folder, 1000 if quick else 100_000, rounds)
    yield from _imports(rounds)


def _listing(folder: Path, runs: int, rounds: int) -> Row:
    path = folder / "many.db"
    open_journal(path, durability="process").close()
    fill(path, runs)
    command = ["-m", "crewai_prod", "runs", "--journal", str(path)]
    seconds = [_run(*command) for _ in range(rounds)]
    return Row(
        what=f"`crewai-prod runs` on {runs:,} runs, process start included",
        value=statistics.median(seconds),
        unit="s",
        limit=0.5,
    )


def _imports(rounds: int) -> Iterator[Row]:
    """Importing, above an empty interpreter."""
    empty = statistics.median(_run("-c", "pass") for _ in range(rounds))
    full = statistics.median(_run("-c", "import crewai_prod") for _ in range(rounds))
    yield Row(
        what="`import crewai_prod`",
        value=full - empty,
        unit="s",
        beside=f"an empty interpreter {empty:.3f} s",
        limit=0.15,
    )
    program = "import sys, crewai_prod; sys.exit('crewai' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], check=False, env=_environment())
    yield Row(what="... loads crewai (0: no, 1: yes)", value=loaded.returncode, unit="", limit=0)


def _run(*arguments: str) -> float:
    """Seconds of a new interpreter."""
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=_environment()
    )
    return time.perf_counter() - begin


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}


def fill(path: Path, runs: int) -> None:
    """Many runs of five steps, written in one transaction past the journal."""
    connection = sqlite3.connect(path)
    connection.executemany(
        "INSERT INTO runs (run_id, epoch, status, kind, created_at, updated_at, inputs_digest, "
        "versions, inputs, result) VALUES (?, 1, 'completed', 'crew', ?, ?, 'd', '{}', '{}', ?)",
        ((f"run-{n}", n, n, KILOBYTE) for n in range(runs)),
    )
    connection.executemany(
        "INSERT INTO steps (run, epoch, seq, step_id, scope, kind, name, digest, occurrence, "
        "status, attempts, started_at, result, input_tokens, output_tokens, calls) "
        "VALUES (?, 1, ?, ?, 's', 'model', 'm', 'd', 0, 'done', 1, 1.0, ?, 10, 10, 1)",
        ((1 + n // 5, n % 5, f"{n:016x}", "x" * 200) for n in range(runs * 5)),
    )
    connection.commit()
    connection.close()
