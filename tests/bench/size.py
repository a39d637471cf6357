"""Bytes on disk: of a step early and late in a conversation, and of a crew against checkpoints."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crewai.state.checkpoint_config import CheckpointConfig

from crewai_prod import harden
from crewai_prod.journal import open_journal
from tests.bench.journal_floor import file_bytes
from tests.bench.table import Row, amount
from tests.bench.workloads import READS, Talk, ToolPath, make_crew, seams

_TURNS = 100


def measure(folder: Path, *, quick: bool, full: bool) -> Iterator[Row]:
    """All rows of this section."""
    yield from growth(folder, 10_000 if full else 200 if quick else 1000)
    for path in ("native", "text"):
        yield _whole_crew(folder, path, 20 if quick else _TURNS)
    yield from checkpoints(folder, tasks=5 if quick else 40, rounds=1 if quick else 3)


def growth(folder: Path, steps: int) -> Iterator[Row]:
    """Bytes of one step of 1 kB after the 10th and up to the last step of one conversation."""
    path = folder / "growth.db"
    sizes, times = _grow(path, steps)
    early = (sizes[110] - sizes[10]) / 100
    late = (sizes[steps] - sizes[steps - 100]) / 100
    what = "bytes per step of 1 kB, 10th to 110th of one conversation"
    yield Row(what=what, value=early, unit="B", limit=1500)
    what = f"... the last 100 of {steps:,}"
    yield Row(what=what, value=late, unit="B", limit=1500)
    flat = abs(late / early - 1) * 100
    yield Row(what="... difference", value=flat, unit="%", limit=10)
    first, last = (statistics.median(part) * 1000 for part in (times[5:50], times[-45:]))
    beside = f"{amount(first, 'ms')} at the 10th to 100th step"
    yield Row(what="time of a model step at that length", value=last, unit="ms", beside=beside)


def _grow(path: Path, steps: int) -> tuple[dict[int, int], list[float]]:
    """File size after some steps, and seconds of each model call, in one growing conversation."""
    journal = open_journal(path, durability="process")
    talk: list[dict[str, Any]] = [{"role": "user", "content": "u" * 300}]
    sizes, times = {}, []
    with seams(journal, "r") as (llm, tool):
        for number in range(2, steps + 1, 2):
            begin = time.perf_counter()
            talk.append({"role": "assistant", "content": llm.call(talk)})
            times.append(time.perf_counter() - begin)
            talk.append({"role": "tool", "content": tool.run(topic=f"{number}")})
            if number in (10, 110, steps - 100, steps):
                sizes[number] = file_bytes(path)
    journal.close()
    return sizes, times


def _whole_crew(folder: Path, path: ToolPath, turns: int) -> Row:
    """A crew in one task, its tasks' and runs' rows and all indexes included."""
    journal = folder / f"whole-{path}.db"
    made = make_crew(Talk(turns, path).llm(), turns)
    crew = harden(made, journal=journal, durability="process", tools=READS, loops=False)
    open_journal(journal).close()
    before = file_bytes(journal)
    crew.kickoff()
    steps = 2 * turns + 1
    return Row(
        what=f"bytes per step of a whole crew of {steps} steps, {path} path, tool results of 1 kB",
        value=(file_bytes(journal) - before) / steps,
        unit="B",
        limit=1500,
    )


def checkpoints(folder: Path, tasks: int, rounds: int) -> Iterator[Row]:
    """A crew of many tasks with one tool call each: CrewAI's checkpoints against the journal."""
    found: dict[str, list[tuple[float, float, int]]] = {
        "bare": [],
        "checkpoints": [],
        "journal": [],
    }
    for number in range(rounds):
        for kind, costs in found.items():
            place = folder / f"tasks-{kind}-{number}"
            place.mkdir()
            costs.append(_kickoff(kind, place, tasks))
    times, sizes = (
        {kind: statistics.median(cost[index] for cost in costs) for kind, costs in found.items()}
        for index in (0, 1)
    )
    written = statistics.median(cost[2] for cost in found["checkpoints"])
    yield Row(
        what=f"journal of a {tasks}-task crew, smaller than CrewAI's JSON checkpoints",
        value=sizes["checkpoints"] / sizes["journal"],
        unit="x",
        beside=f"{sizes['journal'] / 1e3:,.0f} kB to {sizes['checkpoints'] / 1e3:,.0f} kB "
        f"({written:g} of {tasks} checkpoints were written)",
        limit=20,
        at_least=True,
    )
    what = f"time added to the {tasks}-task crew, `power`"
    added = {kind: (times[kind] - times["bare"]) * 1000 for kind in ("journal", "checkpoints")}
    beside = f"CrewAI's checkpoints add {amount(added['checkpoints'], 'ms')}, bare "
    yield Row(
        what=what,
        value=added["journal"],
        unit="ms",
        beside=beside + amount(times["bare"] * 1000, "ms"),
    )


def _kickoff(kind: str, place: Path, tasks: int) -> tuple[float, float, int]:
    """Seconds, bytes and files of one kickoff, until all that it writes is written."""
    options = {"checkpoint": CheckpointConfig(location=str(place))} if kind == "checkpoints" else {}
    crew: Any = make_crew(Talk(1, "native").llm(), 1, tasks, **options)
    if kind == "journal":
        crew = harden(crew, journal=place / "runs.db", tools=READS, log=None)
    gc.collect()
    begin = time.perf_counter()
    crew.kickoff()
    seconds = time.perf_counter() - begin
    if kind == "checkpoints":
        seconds = max(seconds, _settled(place) - begin)
    if kind == "journal":
        return seconds, file_bytes(place / "runs.db"), 1
    files = [file for file in place.rglob("*") if file.is_file()]
    return seconds, sum(file.stat().st_size for file in files), len(files)


def _settled(place: Path) -> float:
    """When the last checkpoint was written: CrewAI writes them on threads and does not wait."""
    last, seen = time.perf_counter(), -1
    while time.perf_counter() - last < 1.0:
        size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        if size != seen:
            last, seen = time.perf_counter(), size
        time.sleep(0.01)
    return last
