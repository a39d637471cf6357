"""The benchmark command runs, in a small setting; what it measures is asserted nowhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def bench(*options: str) -> str:
    """What the command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--quick", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_prints_a_table() -> None:
    """Facts of the machine, then a row for each measurement with its target and verdict."""
    facts, _, table = bench("--only", "resume", "--only", "size").partition("\n\n")
    assert "fsync" in facts
    lines = table.splitlines()
    assert lines[0] == "| | measured | beside it | target | |"
    assert len(lines) > 10
    assert {len(line.split(" | ")) for line in lines[2:]} == {5}


def test_survival() -> None:
    """Three runs at a rate, bare and hardened: what is counted is a table, a miss is named."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.survival", "--runs", "3", "--rates", "10"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    survivors, hopeless, _ = done.stdout.split("\n\n", 2)
    rows = [line.split(" | ") for line in survivors.splitlines()[2:]]
    assert [(row[0], row[1]) for row in rows] == [("| 10%", "bare"), ("| 10%", "hardened")]
    assert rows[1][2:5] == ["3 of 3", "0", "0"]
    ended = {tuple(line.split(" | ")[:3]) for line in hopeless.splitlines()[2:]}
    assert {
        ("| quota", "bare", "RateLimitError"),
        ("| quota", "hardened", "ModelRejected"),
    } <= ended


def test_the_ledger_equals_the_servers() -> None:
    """Two processes that share a budget, killed and resumed, one model for all; and bare."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.ledger", "--seeds", "59"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:7]]
    assert [row[0] for row in rows[:2]] == [
        "hardened: the ledger",
        "hardened, returned: `token_usage`",
    ]
    assert (rows[0][1], rows[0][4]) == ("1", "0")
    assert "1 runs under a hard limit" in done.stdout
    assert "passed 0 times" in done.stdout


def test_prints_json() -> None:
    """The same for programs: a verdict wherever there is a target."""
    said = json.loads(bench("--only", "cold", "--json"))
    assert said["machine"]["SQLite"]
    assert len(said["rows"]) == 3
    assert all((row["met"] is None) == (row["target"] is None) for row in said["rows"])
