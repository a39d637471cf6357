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
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Protocol, TypedDict

from crewai_prod.journal import Durability, open_journal
from tests.bench.journal_floor import SYNCHRONOUS, file_bytes
from tests.bench.table import Row, amount, paired
from tests.bench.workloads import KILOBYTE, seams

SIZES = (10, 100, 1000)
CHUNK = 10


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
            rounds = 1 if quick else min(30, SIZES[-1] // steps)
            yield _compare(peer, folder, steps, rounds)
    for peer in peers:
        peer.close()


class Peer(Protocol):
    """Another journal."""

    name: str
    durability: Durability

    def open(self, folder: Path) -> None:
        """Begin with no steps."""
        ...

    def take(self) -> float:
        """Take the next `CHUNK` steps; returns milliseconds of one."""
        ...

    def weigh(self, folder: Path, steps: int) -> float:
        """Bytes of one of so many steps."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class Ours:
    """Tool calls through the seam: looked up, called, committed and logged."""

    def __init__(self, folder: Path, durability: Durability) -> None:
        self._path = folder / "ours.db"
        self._journal = open_journal(self._path, durability=durability)
        self._before = file_bytes(self._path)
        self._numbers = count()

    def take(self, tool: Any) -> float:
        """As `Peer.take`."""
        begin = time.perf_counter()
        for _ in range(CHUNK):
            tool.run(topic=f"topic {next(self._numbers)}")
        return (time.perf_counter() - begin) / CHUNK * 1000

    def beside(self, peer: Peer, steps: int) -> tuple[list[float], list[float], float]:
        """Steps of both in turns of a few, since disks change their mind; and our bytes a step."""
        theirs: list[float] = []
        ours: list[float] = []
        with seams(self._journal, "r") as (_, tool):
            for _ in range(steps // CHUNK):
                theirs.append(peer.take())
                ours.append(self.take(tool))
        self._journal.close()
        return theirs, ours, (file_bytes(self._path) - self._before) / steps


def _compare(peer: Peer, folder: Path, steps: int, rounds: int) -> Row:
    theirs: list[float] = []
    ours: list[float] = []
    for _ in range(rounds):
        place = Path(tempfile.mkdtemp(dir=folder))
        peer.open(place)
        their_times, our_times, size = Ours(place, peer.durability).beside(peer, steps)
        theirs += their_times
        ours += our_times
    sizes = (peer.weigh(Path(tempfile.mkdtemp(dir=folder)), steps), size)
    cells = [
        f"{who} {amount(statistics.median(times), 'ms')} and {amount(weight, 'B')} a step"
        for who, times, weight in zip(("theirs", "ours"), (theirs, ours), sizes, strict=True)
    ]
    return Row(
        what=f"faster than {peer.name}, {steps:,} steps",
        value=paired(theirs, ours),
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
        self._entered: list[float] = []
        self._engine = statistics.median(self._loop(None, CHUNK) for _ in range(20))

    def open(self, folder: Path) -> None:
        """See `Peer`."""
        self._path = path = folder / "langgraph.db"
        connection = sqlite3.connect(path, check_same_thread=False)
        self._saver = import_module("langgraph.checkpoint.sqlite").SqliteSaver(connection)
        self._saver.setup()
        connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS[self.durability]}")

    def take(self) -> float:
        """See `Peer`. What the engine takes without a saver is subtracted."""
        return self._loop(self._saver, CHUNK) - self._engine

    def close(self) -> None:
        """See `Peer`."""

    def weigh(self, folder: Path, steps: int) -> float:
        """See `Peer`. In one go: each beginning costs a checkpoint more."""
        self.open(folder)
        before = file_bytes(self._path)
        self._loop(self._saver, steps)
        return (file_bytes(self._path) - before) / steps

    def _loop(self, saver: Any, steps: int) -> float:
        """Take steps on the same thread; milliseconds from one to the next."""
        graph = import_module("langgraph.graph")
        self._entered = []
        builder = graph.StateGraph(_State)
        builder.add_node("step", self._step)
        builder.add_edge(graph.START, "step")
        builder.add_conditional_edges(
            "step", lambda _: "step" if len(self._entered) < steps else graph.END
        )
        settings = {"configurable": {"thread_id": "t"}, "recursion_limit": steps + 10}
        durable = {} if saver is None else {"durability": "sync"}
        builder.compile(checkpointer=saver).invoke({"items": []}, settings, **durable)
        return (self._entered[-1] - self._entered[0]) / (steps - 1) * 1000

    def _step(self, _: _State) -> dict[str, list[str]]:
        self._entered.append(time.perf_counter())
        return {"items": [KILOBYTE]}


class Dbos:
    """DBOS with its defaults on a SQLite file, one per process; a workflow for each chunk."""

    name = "DBOS on SQLite"
    durability: Durability = "power"

    def __init__(self, folder: Path) -> None:
        self._path = folder / "dbos.db"
        self._dbos = import_module("dbos").DBOS
        url = f"sqlite:///{self._path}"
        self._dbos(config={"name": "bench", "system_database_url": url, "log_level": "ERROR"})
        step = self._dbos.step()(_dbos_step)

        def bench_workflow() -> float:
            begin = time.perf_counter()
            for _ in range(CHUNK):
                step()
            return (time.perf_counter() - begin) / CHUNK * 1000

        self._workflow = self._dbos.workflow()(bench_workflow)
        self._dbos.launch()

    def open(self, folder: Path) -> None:
        """See `Peer`."""

    def weigh(self, folder: Path, steps: int) -> float:
        """See `Peer`."""
        before = file_bytes(self._path)
        for _ in range(steps // CHUNK):
            self.take()
        return (file_bytes(self._path) - before) / steps

    def take(self) -> float:
        """See `Peer`."""
        spent: float = self._workflow()
        return spent

    def close(self) -> None:
        """See `Peer`."""
        self._dbos.destroy()


def _dbos_step() -> str:
    return KILOBYTE
