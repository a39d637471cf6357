"""A process that makes run after run holds no more after the last than after the first few.

`python -m tests.bench --full --only concurrency` does the same over two thousand runs.
"""

from __future__ import annotations

import gc
import weakref
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import pytest
from crewai.tools import BaseTool

from crewai_prod._crewai import takeover
from crewai_prod._crewai.tools import DurableTool
from tests.concurrency.memory import Held, kickoffs

WARM = 8
RUNS = 32
_PLAIN = frozenset({"dict", "list", "tuple", "set"})
_PLAIN_A_RUN = 3.0
"""Caches of a bounded size (those of `typing`, say) still fill up with these. A run that is held
has a hundred of them."""
_OTHERS_A_RUN = 0.9
_UNCOUNTED = frozenset({"ReferenceType"})
"""Dead references to cursors: sqlite3 forgets them two hundred at a time."""


def growth(kind: str, folder: Path) -> Mapping[str, float]:
    """Objects more for each run, by class."""
    one = kickoffs(kind, folder)
    for n in range(WARM):
        one(n)
    before = Held.now()
    for n in range(RUNS):
        one(WARM + n)
    return Held.now().since(before, RUNS)


def held(more: Mapping[str, float], bare: Mapping[str, float]) -> dict[str, float]:
    """What grows with every run, and does not with those of the bare crew."""
    return {
        name: count
        for name, count in more.items()
        if name not in _UNCOUNTED
        and count - bare.get(name, 0.0) > (_PLAIN_A_RUN if name in _PLAIN else _OTHERS_A_RUN)
    }


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, float]:
    """What CrewAI itself keeps of each run; some releases keep every event for their tracing."""
    return growth("bare", tmp_path_factory.mktemp("bare"))


@pytest.mark.parametrize("kind", ["object", "factory"])
def test_runs_leave_nothing_behind(
    bare: Mapping[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Of no class is there one object more for each run, beyond what a bare crew leaves."""
    monkeypatch.setattr(takeover, "_recent", deque(maxlen=8))  # full when the count begins
    assert held(growth(kind, tmp_path), bare) == {}


def test_a_run_that_is_held_is_seen(tmp_path: Path) -> None:
    """What the test above goes by: whoever keeps a run's output keeps one object more for each."""
    one = kickoffs("object", tmp_path)
    for n in range(4):
        one(n)
    before = Held.now()
    kept = [one(n) for n in range(8)]
    assert held(Held.now().since(before, len(kept)), {})["CrewOutput"] == 1.0


def test_classes_made_for_a_run_go_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's class that no object is of any more is let go, and ours in front of it.

    All have one name, as those of a function have: CrewAI keeps the last tool class of each name.
    """
    monkeypatch.setattr(takeover, "_recent", deque(maxlen=2))

    def make() -> tuple[weakref.ref[type], weakref.ref[type]]:
        kind = type("Mine", (BaseTool,), {"_run": lambda self: "", "__module__": __name__})
        made = takeover.seam_class(DurableTool, kind)
        assert takeover.seam_class(DurableTool, kind) is made
        return weakref.ref(kind), weakref.ref(made)

    made = [make() for _ in range(6)]
    gc.collect()
    assert [one() is None and two() is None for one, two in made[:-2]] == [True] * 4
