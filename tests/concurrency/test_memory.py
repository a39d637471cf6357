"""A process that makes run after run holds no more after the last than after the first few.

`python -m tests.bench --only concurrency` does the same over two thousand runs, beside a bare crew.
"""

from __future__ import annotations

import gc
import weakref
from collections import deque
from pathlib import Path

import pytest
from crewai.tools import BaseTool

from crewai_prod._crewai import takeover
from crewai_prod._crewai.tools import DurableTool
from tests.concurrency.memory import KINDS, Held, kickoffs

WARM = 10
RUNS = 40


@pytest.mark.parametrize("kind", KINDS[1:])
def test_runs_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Of no class is there one object more for each run."""
    monkeypatch.setattr(takeover, "_recent", deque(maxlen=8))  # full when the count begins
    one = kickoffs(kind, tmp_path)
    for n in range(WARM):
        one(n)
    before = Held.now()
    for n in range(RUNS):
        one(WARM + n)
    assert Held.now().since(before, RUNS) == {}


def test_a_leak_is_seen(tmp_path: Path) -> None:
    """What the test above goes by: a list of results, one more for each run, shows."""
    one = kickoffs("object", tmp_path)
    for n in range(4):
        one(n)
    before = Held.now()
    kept = [one(n) for n in range(8)]
    assert len(kept) == 8
    assert Held.now().since(before, 8)["CrewOutput"] == 1.0


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
