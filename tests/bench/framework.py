"""What hardening adds to CrewAI's own time: whole crews in turns, and the seams by themselves."""

from __future__ import annotations

import asyncio
import gc
import inspect
import statistics
import time
from collections.abc import Awaitable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from crewai_prod import harden
from crewai_prod.journal import Durability, Journal, open_journal
from tests.bench.table import Row, amount
from tests.bench.workloads import (
    READS,
    SCHEMA,
    LookUp,
    Talk,
    ToolPath,
    bare_llm,
    conversation,
    make_crew,
    seams,
)

TURNS = 20
"""Tool calls of one conversation: 2 to 42 messages, 22 on average."""
STEPS = 2 * TURNS + 1
_DURABILITIES: tuple[Durability, ...] = ("process", "power")
_PATHS: tuple[ToolPath, ...] = ("native", "text")
_FORMS = ("kickoff", "kickoff_async", "akickoff")
_BLOCK = 25


def measure(folder: Path, *, quick: bool) -> Iterator[Row]:
    """All rows of this section."""
    for path in _PATHS:
        for form in _FORMS:
            yield from _crews(folder, path, form, rounds=3 if quick else 25)
    for durability in _DURABILITIES:
        yield from _seams(folder, durability, blocks=2 if quick else 20)


def _crews(folder: Path, path: ToolPath, form: str, rounds: int) -> Iterator[Row]:
    """Bare and hardened kickoffs in turns."""
    kinds = ["bare", "process", *(["power"] if form == "kickoff" else [])]
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        kinds.append(kinds.pop(0))  # each comes first as often as the others
        for kind in kinds:
            found[kind].append(_kickoff(folder, path, form, kind))
    bare = found.pop("bare")
    for kind, times in found.items():
        yield from _compare(f"{path} path, `{form}`, `{kind}`", kind == "process", times, bare)


def _kickoff(folder: Path, path: ToolPath, form: str, kind: str) -> tuple[float, float]:
    """Milliseconds of one step within the conversation, and of the whole kickoff."""
    made: Any = make_crew(Talk(TURNS, path).llm(), TURNS)
    crew = made
    if kind != "bare":
        journal = folder / f"crew-{kind}.db"
        crew = harden(made, journal=journal, durability=kind, tools=READS)
    gc.collect()
    begin = time.perf_counter()
    started = getattr(crew, form)()
    if inspect.isawaitable(started):
        asyncio.run(_awaited(started))
    whole = time.perf_counter() - begin
    asked = made.agents[0].tools[0].asked
    assert len(asked) == TURNS
    return (asked[-1] - asked[0]) / (2 * (TURNS - 1)) * 1000, whole * 1000


async def _awaited(work: Awaitable[object]) -> object:
    return await work


def _compare(
    name: str, aimed: bool, times: list[tuple[float, float]], bare: list[tuple[float, float]]
) -> Iterator[Row]:
    steps = [(mine[0] - other[0], other[0]) for mine, other in zip(times, bare, strict=True)]
    added = statistics.median(more for more, _ in steps)
    base = statistics.median(other for _, other in steps)
    wholes = [(mine[1] - other[1], other[1]) for mine, other in zip(times, bare, strict=True)]
    whole = statistics.median(more for more, _ in wholes)
    whole_base = statistics.median(other for _, other in wholes)
    limits = (0.25, 4.0) if aimed else (None, None)
    beside = f"bare CrewAI {amount(base, 'ms')} a step"
    yield Row(
        what=f"added per step, {name}", value=added, unit="ms", beside=beside, limit=limits[0]
    )
    yield Row(what="... of the bare step", value=100 * added / base, unit="%", limit=limits[1])
    yield Row(
        what=f"... of a whole kickoff of {STEPS} steps",
        value=100 * whole / whole_base,
        unit="%",
        beside=f"{amount(whole, 'ms')} on {amount(whole_base, 'ms')}",
    )


class _Timed:
    """A journal that adds up what its step writes take."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.spent = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def finish_step(self, *args: Any, **kwargs: Any) -> None:
        begin = time.perf_counter()
        self._journal.finish_step(*args, **kwargs)
        self.spent += time.perf_counter() - begin


def _seams(folder: Path, durability: Durability, blocks: int) -> Iterator[Row]:
    """One model call with 20 messages and one tool call, bare and through the seams, in turns."""
    journal: Any = _Timed(open_journal(folder / f"seam-{durability}.db", durability=durability))
    marks = (f"turn {number} " for number in count())
    spent: dict[str, list[float]] = {"model": [], "tool": []}
    inner: dict[str, list[float]] = {"model": [], "tool": []}
    for block in range(blocks):
        with seams(journal, f"r{block}") as (llm, tool):
            for _ in range(_BLOCK):
                talk, topic = conversation(20, next(marks)), next(marks)
                calls = {
                    "model": [partial(one.call, talk, [SCHEMA]) for one in (llm, _LLM)],
                    "tool": [partial(one.run, topic=topic) for one in (tool, _TOOL)],
                }
                for kind, (mine, bare) in calls.items():
                    journal.spent = 0.0
                    spent[kind].append(_ms(mine) - _ms(bare))
                    inner[kind].append(journal.spent * 1000)
    journal.close()
    process = durability == "process"
    for kind, name in (("model", "model call, 20 messages"), ("tool", "tool call")):
        added, own = statistics.median(spent[kind]), statistics.median(inner[kind])
        what = f"the seam alone: {name}, `{durability}`"
        yield Row(what=what, value=added, unit="ms", limit=0.25 if process else None)
        yield Row(what="... journal part", value=own, unit="ms", limit=0.12 if process else None)


_LLM, _TOOL = bare_llm(), LookUp()


def _ms(work: Any) -> float:
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1000
