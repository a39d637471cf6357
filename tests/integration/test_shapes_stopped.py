"""Shapes whose failures CrewAI swallows are stopped after every model call, as by a signal."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration import shapes
from tests.integration.parts import Mode
from tests.integration.shape_trials import (
    SHAPES,
    Shape,
    cases,
    compare,
    run_bare,
    run_stopping,
)
from tests.openai_server import Server

assert shapes  # they register themselves

_ONCE = [SHAPES[name] for name in ("reasoned", "cached", "asked")]
STOPPED = [*cases([SHAPES["reasoned_by_name"]]), *cases(_ONCE, modes=("kickoff",))]


@pytest.mark.dear
@pytest.mark.parametrize(("one", "path", "mode"), STOPPED)
def test_shape_survives_being_stopped_after_every_request(
    server: Server, tmp_path: Path, one: Shape, path: str, mode: Mode
) -> None:
    """What was answered is not asked again; bill, effects and output are the bare crew's."""
    bare = run_bare(one, server, tmp_path / "bare", path, mode)
    folder = tmp_path / "hardened"
    done = run_stopping(one, server, folder, path, mode)
    compare(one, bare, done, folder)
