"""The same steps of 1 kB in LangGraph's SqliteSaver, in DBOS on SQLite and in our journal.

All commit to the same disk, in turns, as durably as SQLite can (`synchronous=FULL`), which is what
the peers do by default; LangGraph also with NORMAL, which is our `durability="process"`. What
LangGraph's engine takes without a saver is subtracted. Without the peers nothing is measured.
"""

from __future__ import annotations

import operator
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol, TypedDict

from crewai_prod.journal import Durability, open_journal
from tests.bench.journal_floor import SYNCHRONOUS, file_bytes
from tests.bench.table import Row, amount, paired
from tests.bench.workloads import KILOBYTE, seams

SIZES = (10, 100, 1000)


class Cost(NamedTuple):
    """Of one step: milliseconds, and bytes on disk."""

    ms: float
    size: float


def missing() -> list[str]:
    """The peers that are not installed."""
    named = {"langgraph": "LangGraph", "langgraph.checkpoint.sqlite": "SqliteSaver", "dbos": "DBOS"}
    return [name for module, name in named.items() if not _is_installed(module)]


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the parent package
        return False


def measure(folder: Path, *, quick: bool) -> Iterator[Row]:
    """One row per peer and number of steps."""
    if missing():
        return
    peers: list[Peer] = [LangGraph("power"), LangGraph("process"), Dbos(folder)]
    for steps in SIZES[:2] if quick else SIZES:
        for peer in peers:
            pairs = []
            for _ in range(1 if quick else 3 if steps == SIZES[-1] else 9):
                place = Path(tempfile.mkdtemp(dir=folder))
                pairs.append((peer.run(place, steps), ours(place, steps, peer.durability)))
            yield _row(peer.name, steps, pairs)
    for peer in peers:
        peer.close()


class Peer(Protocol):
    """Another journal."""

    name: str
    durability: Durability

    def run(self, folder: Path, steps: int) -> Cost:
        """So many steps."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


def ours(folder: Path, steps: int, durability: Durability) -> Cost:
    """Tool calls through the seam: looked up, called, committed and logged."""
    path = folder / "ours.db"
    journal = open_journal(path, durability=durability)
    before = file_bytes(path)
    with seams(journal, "r") as (_, tool):
        begin = time.perf_counter()
        for number in range(steps):
            tool.run(topic=f"topic {number}")
        spent = time.perf_counter() - begin
    journal.close()
    return Cost(spent / steps * 1000, (file_bytes(path) - before) / steps)


def _row(name: str, steps: int, pairs: list[tuple[Cost, Cost]]) -> Row:
    theirs, ours = zip(*pairs, strict=True)
    cells = [
        f"{who} {amount(statistics.median(c.ms for c in costs), 'ms')} and "
        f"{amount(statistics.median(c.size for c in costs), 'B')} a step"
        for who, costs in (("theirs", theirs), ("ours", ours))
    ]
    return Row(
        what=f"faster than {name}, {steps:,} steps",
        value=paired([cost.ms for cost in theirs], [cost.ms for cost in ours]),
        unit="x",
        beside=", ".join(cells),
        limit=5,
        at_least=True,
    )


class _State(TypedDict):
    items: Annotated[list[str], operator.add]


class LangGraph:
    """A loop whose state is a growing list, as a conversation is; `durability="sync"`."""

    def __init__(self, durability: Durability) -> None:
        self.durability = durability
        self.name = f"LangGraph `SqliteSaver` (sync, {SYNCHRONOUS[durability]})"

    def run(self, folder: Path, steps: int) -> Cost:
        """See `Peer`. What the engine takes without a saver is subtracted."""
        path = folder / "langgraph.db"
        connection = sqlite3.connect(path, check_same_thread=False)
        saver = import_module("langgraph.checkpoint.sqlite").SqliteSaver(connection)
        saver.setup()
        connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS[self.durability]}")
        before = file_bytes(path)
        engine, spent = _seconds(None, steps), _seconds(saver, steps)
        connection.close()
        size = (file_bytes(path) - before) / steps
        return Cost((spent - engine) / steps * 1000, size)

    def close(self) -> None:
        """See `Peer`."""


def _seconds(saver: Any, steps: int) -> float:
    """A loop of so many steps, until all is written: some of it is while the next one runs."""
    graph = import_module("langgraph.graph")

    def following(state: _State) -> Any:
        return "step" if len(state["items"]) < steps else graph.END

    builder = graph.StateGraph(_State)
    builder.add_node("step", _langgraph_step)
    builder.add_edge(graph.START, "step")
    builder.add_conditional_edges("step", following)
    loop = builder.compile(checkpointer=saver)
    settings = {"recursion_limit": steps + 10, "configurable": {"thread_id": "t"}}
    durable = {} if saver is None else {"durability": "sync"}
    begin = time.perf_counter()
    loop.invoke({"items": []}, settings, **durable)
    return time.perf_counter() - begin


def _langgraph_step(_: _State) -> dict[str, list[str]]:
    return {"items": [KILOBYTE]}


class Dbos:
    """DBOS with its defaults on a SQLite file; one per process."""

    name = "DBOS on SQLite"
    durability: Durability = "power"

    def __init__(self, folder: Path) -> None:
        self._path = folder / "dbos.db"
        self._dbos = import_module("dbos").DBOS
        url = f"sqlite:///{self._path}"
        self._dbos(config={"name": "bench", "system_database_url": url, "log_level": "ERROR"})
        step = self._dbos.step()(_dbos_step)

        def bench_workflow(steps: int) -> float:
            begin = time.perf_counter()
            for _ in range(steps):
                step()
            return time.perf_counter() - begin

        self._workflow = self._dbos.workflow()(bench_workflow)
        self._dbos.launch()

    def run(self, folder: Path, steps: int) -> Cost:
        """See `Peer`."""
        before = file_bytes(self._path)
        spent: float = self._workflow(steps)
        return Cost(spent / steps * 1000, (file_bytes(self._path) - before) / steps)

    def close(self) -> None:
        """See `Peer`."""
        self._dbos.destroy()


def _dbos_step() -> str:
    return KILOBYTE
