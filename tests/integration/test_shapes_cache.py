"""CrewAI's cache of tool results, across kickoffs and across processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crewai_prod import harden, open_journal
from tests.integration.parts import PATHS, Effects
from tests.integration.shape_trials import Scene
from tests.integration.shapes import limits
from tests.openai_server import Server, fault


@pytest.mark.parametrize("path", PATHS)
def test_a_later_kickoff_sees_what_a_completed_one_cached(
    server: Server, tmp_path: Path, path: str
) -> None:
    """As with a bare crew: one object, two kickoffs, each tool called once."""
    scene = Scene(server, Effects(tmp_path), path)
    bare = limits.cached(scene)
    outputs = [bare.kickoff().raw, bare.kickoff().raw]
    effects = scene.effects.lines
    scene.effects.path.unlink()
    crew = harden(limits.cached(scene), journal=tmp_path / "j.db")
    assert [crew.kickoff(run_id=name).raw for name in "ab"] == outputs
    assert scene.effects.lines == effects


@pytest.mark.parametrize("path", PATHS)
def test_a_hit_is_the_same_in_a_new_process(server: Server, tmp_path: Path, path: str) -> None:
    """What an earlier kickoff had cached is gone with its process; the resumed run has its hits."""
    scene = Scene(server, Effects(tmp_path), path)
    crew = harden(limits.cached(scene), journal=tmp_path / "j.db")
    first = crew.kickoff(run_id="a").raw

    def third_task(seen: Any) -> Any:
        return fault("unauthorized") if "Third" in str(seen.body["messages"]) else None

    server.app.faults = third_task
    with pytest.raises(Exception, match="401"):
        crew.kickoff(run_id="b")
    server.app.faults = None
    again = harden(limits.cached(scene), journal=tmp_path / "j.db")
    assert again.kickoff(run_id="b").raw == first
    assert scene.effects.lines == ["read hall", "read attic"]
    hits = [s.name for s in open_journal(tmp_path / "j.db").steps("b") if s.effect == "cached"]
    assert hits
    assert set(hits) == {"cached read_meter"}


def test_a_failed_run_shares_nothing(server: Server, tmp_path: Path) -> None:
    """What a run had cached before it failed is not seen by other runs, as it may be made again."""
    scene = Scene(server, Effects(tmp_path), "native")
    crew = harden(limits.cached(scene), journal=tmp_path / "j.db")
    server.app.faults = lambda seen: fault("unauthorized") if seen.body["messages"][3:] else None
    with pytest.raises(Exception, match="401"):
        crew.kickoff(run_id="a")
    server.app.faults = None
    crew.kickoff(run_id="b")
    assert scene.effects.lines.count("read hall") == 2
