"""Runs side by side on one hardened object, what their commits wait, and memory over many runs."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

from crewai_prod import harden
from crewai_prod.journal import open_journal
from tests.bench.table import Row, amount
from tests.bench.workloads import READS, Talk, make_crew
from tests.concurrency.memory import grown, kickoffs

_DELAY = 0.05
"""Seconds a model call takes here: there is something to do meanwhile."""
_TURNS = 2
_STEPS = 2 * _TURNS + 1
_THREADS = (1, 8, 32)
_TASKS = 200
_WRITES = frozenset({"open_run", "start_step", "finish_step", "save_task", "finish_run"})
_PARTS = 10
_FEW = 200

Kickoff = Callable[[int], Any]


def measure(folder: Path, *, quick: bool, full: bool) -> Iterator[Row]:
    """All rows; two thousand runs for the memory only if everything is asked for."""
    rounds = 1 if quick else 4
    for threads in _THREADS:
        yield from _in_threads(folder, threads, runs=max(4, rounds * threads))
    for how in ("kickoff_async", "akickoff"):
        yield _in_tasks(folder, how, 20 if quick else _TASKS)
    for kind in ("bare", "object", "factory", "anew"):
        yield from _memory(folder, kind, 20 if quick else 2_000 if full else 400)


class _Waited:
    """A journal that notes how long each of its writes took, whatever it waited for."""

    def __init__(self, path: Path) -> None:
        self._journal = open_journal(path, durability="power")
        self.seconds: list[float] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._journal, name)
        if name not in _WRITES:
            return method

        def write(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds.append(time.perf_counter() - begin)

        return write


def _crew() -> Any:
    llm = Talk(_TURNS, "native").llm()
    llm.delay = _DELAY
    return make_crew(llm, _TURNS)


def _in_threads(folder: Path, threads: int, runs: int) -> Iterator[Row]:
    """Runs a second on one hardened crew, and on bare crews, of which each run needs its own."""
    journal: Any = _Waited(folder / f"threads-{threads}.db")
    crew = harden(_crew(), journal=journal, tools=READS)
    crew.kickoff()
    journal.seconds.clear()
    hardened = _rate(threads, runs, lambda _: crew.kickoff())
    bare = _rate(threads, runs, lambda _: _crew().kickoff())
    yield Row(
        what=f"{threads} thread{'s' * (threads > 1)} on one hardened crew, `power`: runs a second",
        value=hardened,
        unit="/s",
        beside=f"{amount(bare, '/s')} with a bare crew for each run; {_STEPS} steps a run",
    )
    spent = sorted(journal.seconds)
    yield Row(
        what="... a commit, median",
        value=statistics.median(spent) * 1000,
        unit="ms",
        beside=f"{amount(spent[int(len(spent) * 0.99)] * 1000, 'ms')} at the 99th percentile",
    )


def _rate(threads: int, runs: int, one: Kickoff) -> float:
    start = threading.Barrier(threads + 1)
    numbers = count()

    def work() -> None:
        start.wait()
        while (n := next(numbers)) < runs:
            one(n)

    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(work) for _ in range(threads)]
        start.wait()
        begin = time.perf_counter()
        for job in jobs:
            job.result()
        return runs / (time.perf_counter() - begin)


def _in_tasks(folder: Path, how: str, tasks: int) -> Row:
    """Runs a second of so many asyncio tasks, and how long the loop was kept from its other work.

    The worst pause is CrewAI's and ours together; a bare crew for each run stands beside it.
    """
    crew = harden(_crew(), journal=folder / f"{how}.db", tools=READS)
    crew.kickoff()
    rate, gap = asyncio.run(_gathered(tasks, lambda: getattr(crew, how)()))
    bare, bare_gap = asyncio.run(_gathered(tasks, lambda: getattr(_crew(), how)()))
    return Row(
        what=f"{tasks} tasks, `{how}`, `power`: runs a second",
        value=rate,
        unit="/s",
        beside=f"{amount(bare, '/s')} bare; the loop's longest pause {amount(gap * 1000, 'ms')}, "
        f"bare {amount(bare_gap * 1000, 'ms')}",
    )


async def _gathered(tasks: int, one: Callable[[], Any]) -> tuple[float, float]:
    gaps: list[float] = []

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.005)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    ticker = asyncio.create_task(tick())
    begin = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(tasks)))
    seconds = time.perf_counter() - begin
    ticker.cancel()
    return tasks / seconds, max(gaps, default=0.0)


def _memory(folder: Path, kind: str, runs: int) -> Iterator[Row]:
    """What each run leaves in the second half of many, when caches have filled up."""
    one = kickoffs(kind, folder)
    held = list(grown(one, runs, _PARTS))
    half = held[_PARTS // 2]
    later = runs // 2
    objects = sum(held[-1].objects.values()) - sum(half.objects.values())
    yield Row(
        what=f"memory, {runs:,} runs, {kind}: objects more a run, second half",
        value=objects / later,
        unit="",
        limit=0.9 if kind != "bare" and runs > _FEW else None,  # caches have filled up by then
    )
    megabytes = [amount(one.kilobytes / 1024, "MB") for one in held]
    yield Row(
        what="... resident memory more a run, second half",
        value=(held[-1].kilobytes - half.kilobytes) / later,
        unit="kB",
        beside=", ".join(megabytes[:: _PARTS // 2]) + " at the start, half way, at the end",
    )
