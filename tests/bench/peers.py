"""The same steps of 1 kB in LangGraph's SqliteSaver, in DBOS on SQLite and in our journal.

All three commit as durably as SQLite can (`synchronous=FULL`) on the same disk and take turns. What
LangGraph's engine takes without a saver is subtracted from it; DBOS and we are measured around the
step alone. Peers that are not installed are stated as not measured.
"""

from __future__ import annotations

import logging
import operator
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict

from crewai_prod.journal import open_journal
from tests.bench.journal_floor import file_bytes
from tests.bench.table import Row, amount
from tests.bench.workloads import KILOBYTE, seams

SIZES = (10, 100, 1000)


class Cost(NamedTuple):
    """Of one step: median milliseconds, and bytes on disk."""

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
    dbos = Dbos(folder)
    try:
        for steps in SIZES[:2] if quick else SIZES:
            systems: dict[str, Callable[[Path, int], Cost]] = {
                "ours": ours, "LangGraph `SqliteSaver` (sync)": langgraph, "DBOS on SQLite": dbos.run
            }
            found: dict[str, list[Cost]] = {name: [] for name in systems}
            for number in range(1 if quick else 5):
                place = folder / f"peers-{steps}-{number}"
                place.mkdir()
                for name, run in systems.items():
                    found[name].append(run(place, steps))
            mine = found.pop("ours")
            yield from (_row(name, steps, costs, mine) for name, costs in found.items())
    finally:
        dbos.close()


def _row(name: str, steps: int, theirs: list[Cost], ours: list[Cost]) -> Row:
    ratio = statistics.median(t.ms / o.ms for t, o in zip(theirs, ours, strict=True))
    cells = [
        f"{who} {amount(statistics.median(c.ms for c in costs), 'ms')} and "
        f"{amount(statistics.median(c.size for c in costs), 'B')} a step"
        for who, costs in (("theirs", theirs), ("ours", ours))
    ]
    return Row(
        what=f"faster than {name}, {steps:,} steps",
        value=ratio,
        unit="x",
        beside=", ".join(cells),
        limit=5,
        at_least=True,
    )


def ours(folder: Path, steps: int) -> Cost:
    """Tool calls through the seam: looked up, called, committed and logged."""
    path = folder / "ours.db"
    journal = open_journal(path)
    before = file_bytes(path)
    times = []
    with seams(journal, "r") as (_, tool):
        for number in range(steps):
            begin = time.perf_counter()
            tool.run(topic=f"{number}")
            times.append(time.perf_counter() - begin)
    journal.close()
    return Cost(statistics.median(times) * 1000, (file_bytes(path) - before) / steps)


class _State(TypedDict):
    items: Annotated[list[str], operator.add]


def langgraph(folder: Path, steps: int) -> Cost:
    """A loop whose state is a growing list, as a conversation is."""
    connection = sqlite3.connect(folder / "langgraph.db", check_same_thread=False)
    saver = import_module("langgraph.checkpoint.sqlite").SqliteSaver(connection)
    saver.setup()
    before = file_bytes(folder / "langgraph.db")
    engine = _gaps(None, steps)
    times = _gaps(saver, steps)
    connection.close()
    size = (file_bytes(folder / "langgraph.db") - before) / steps
    return Cost((statistics.median(times) - statistics.median(engine)) * 1000, size)


def _gaps(saver: Any, steps: int) -> list[float]:
    """Seconds from one step to the next."""
    graph = import_module("langgraph.graph")
    entered: list[float] = []

    def step(_: _State) -> dict[str, list[str]]:
        entered.append(time.perf_counter())
        return {"items": [KILOBYTE]}

    def following(_: _State) -> Any:
        return "step" if len(entered) <= steps else graph.END

    builder = graph.StateGraph(_State)
    builder.add_node("step", step)
    builder.add_edge(graph.START, "step")
    builder.add_conditional_edges("step", following)
    settings = {"recursion_limit": steps + 10, "configurable": {"thread_id": "t"}}
    durable = {} if saver is None else {"durability": "sync"}
    builder.compile(checkpointer=saver).invoke({"items": []}, settings, **durable)
    return [later - earlier for earlier, later in zip(entered, entered[1:], strict=False)]


class Dbos:
    """DBOS with its defaults on a SQLite file; one per process."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "dbos.db"
        self._dbos = import_module("dbos").DBOS
        logging.getLogger("dbos").setLevel(logging.ERROR)
        url = f"sqlite:///{self._path}"
        config = {"name": "bench", "system_database_url": url, "log_level": "ERROR"}
        self._dbos(config=config)
        step = self._dbos.step()(_dbos_step)
        self._workflow = self._dbos.workflow()(_dbos_workflow(step))
        self._dbos.launch()

    def run(self, _: Path, steps: int) -> Cost:
        """One workflow of so many steps."""
        before = file_bytes(self._path)
        times = self._workflow(steps)
        size = (file_bytes(self._path) - before) / steps
        return Cost(statistics.median(times) * 1000, size)

    def close(self) -> None:
        """End its threads."""
        self._dbos.destroy()


def _dbos_step() -> str:
    return KILOBYTE


def _dbos_workflow(step: Callable[[], str]) -> Callable[[int], list[float]]:
    def bench_workflow(steps: int) -> list[float]:
        times = []
        for _ in range(steps):
            begin = time.perf_counter()
            step()
            times.append(time.perf_counter() - begin)
        return times

    return bench_workflow
