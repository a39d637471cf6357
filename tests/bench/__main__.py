"""The benchmarks: `python -m tests.bench [--quick] [--full] [--json] [--only PART] [--folder DIR]`.

Everything is measured in one process, on one disk, what is compared taking turns in short rounds;
numbers are medians. A missed target is printed as missed. LangGraph and DBOS come with
`uv sync --group bench`; without them their rows are left out, and that is said.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tests.bench.table import Row, amount, markdown

SECTIONS = ("framework", "journal", "peers", "size", "resume", "concurrency", "survival", "cold")
_PACKAGES = ("crewai", "langgraph", "langgraph-checkpoint-sqlite", "dbos")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small: to see that it works")
    parser.add_argument("--full", action="store_true", help="10,000 steps, 2,000 runs and so on")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="repeatable")
    parser.add_argument("--folder", type=Path, help="a folder on the disk to measure")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        _be_quiet(folder)
        facts = _machine(folder)
        rows = []
        with contextlib.redirect_stdout(sys.stderr):  # crewai prints what its handlers raise
            for section in asked.only or SECTIONS:
                place = folder / section
                place.mkdir()
                for row in _section(section, place, quick=asked.quick, full=asked.full):
                    print(f"  {row.what}: {amount(row.value, row.unit)}", flush=True)
                    rows.append(row)
        facts["load after"] = _load()
        facts["not measured"] = _not_measured(asked.only or SECTIONS)
    if asked.json:
        print(json.dumps({"machine": facts, "rows": [row.as_json() for row in rows]}, indent=2))
    else:
        print("; ".join(f"{name} {value}" for name, value in facts.items() if value) + ".\n")
        print(markdown(rows))


def _be_quiet(folder: Path) -> None:
    """A HOME of its own, no telemetry, no console: set before crewai is imported."""
    os.environ.update(
        HOME=str(folder),
        CREWAI_STORAGE_DIR=str(folder / "storage"),
        CREWAI_DISABLE_TELEMETRY="true",
        CREWAI_TRACING_ENABLED="false",
        OTEL_SDK_DISABLED="true",
    )
    logging.getLogger("crewai").setLevel(logging.ERROR)


def _section(name: str, folder: Path, *, quick: bool, full: bool) -> Iterator[Row]:
    """Each section is imported when it is its turn: some import crewai, some must not need to."""
    if name == "framework":
        from tests.bench import framework

        return framework.measure(folder, quick=quick)
    if name == "journal":
        from tests.bench import journal_floor

        return journal_floor.measure(folder, quick=quick)
    if name == "peers":
        from tests.bench import peers

        return peers.measure(folder, quick=quick)
    if name == "size":
        from tests.bench import size

        return size.measure(folder, quick=quick, full=full)
    if name == "resume":
        from tests.bench import resume

        return resume.measure(folder, quick=quick)
    if name == "concurrency":
        from tests.bench import concurrency

        return concurrency.measure(folder, quick=quick, full=full)
    if name == "survival":
        from tests.bench import survival

        return survival.measure(folder, quick=quick, full=full)
    from tests.bench import cold

    return cold.measure(folder, quick=quick)


def _not_measured(sections: Any) -> str:
    if "peers" not in sections:
        return ""
    from tests.bench.peers import missing

    return ", ".join(f"{name} (not installed)" for name in missing())


def _machine(folder: Path) -> dict[str, str]:
    """What the numbers depend on."""
    return {
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        **{package: found for package in _PACKAGES if (found := _version(package))},
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "fsync": amount(fsync_ms(folder), "ms"),
        "load before": _load(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""


def fsync_ms(folder: Path, times: int = 100) -> float:
    """Median milliseconds of appending 4 kB and syncing them, the floor of every durable commit."""
    spent = []
    with (folder / "fsync").open("ab", buffering=0) as file:
        for _ in range(times):
            file.write(b"x" * 4096)
            begin = time.perf_counter()
            os.fsync(file.fileno())
            spent.append(time.perf_counter() - begin)
    return statistics.median(spent) * 1000


if __name__ == "__main__":
    main()
