"""Shapes of crews beyond the sequential one: failed anywhere, resumed, billed exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
from crewai import Crew

from crewai_prod import harden
from tests.integration import shapes
from tests.integration.parts import PATHS, Effects, Mode, fail_once, make_crew, nth
from tests.integration.shape_trials import (
    Scene,
    Shape,
    assert_handed_back,
    cases,
    compare,
    run_bare,
    run_failing,
)
from tests.openai_server import Conversation, Rule, Server, answer, fault, use

assert shapes  # they register themselves


@pytest.mark.dear
@pytest.mark.parametrize(("one", "path", "mode"), cases())
def test_shape_survives_a_failure_of_every_request(
    server: Server, tmp_path: Path, one: Shape, path: str, mode: Mode
) -> None:
    """Bill, effects and output of a run that failed at each request in turn are the bare crew's."""
    bare = run_bare(one, server, tmp_path / "bare", path, mode)
    folder = tmp_path / "hardened"
    done = run_failing(one, server, folder, path, mode)
    assert done.failures, "nothing failed: this trial proves nothing"
    compare(one, bare, done, folder)
    assert_handed_back(one, Scene(server, Effects(folder), path), mode, done)


@pytest.mark.parametrize("path", PATHS)
def test_task_retry_repeats_nothing_that_was_done(
    server: Server, tmp_path: Path, effects: Effects, path: str
) -> None:
    """CrewAI's own retry of a task after a model error does not run its tools again."""
    server.app.script = Conversation(Rule(use("look_up", {"topic": "x"}), answer("ok")))
    crew = make_crew(server, effects, path)
    crew.agents[0].max_retry_limit = 2
    fail_once(server, fault("server_error"), nth(2))
    one = Crew(agents=crew.agents[:1], tasks=crew.tasks[:1])
    result = harden(one, journal=tmp_path / "j.db").kickoff(inputs={"who": "x"}, run_id="a")
    assert (result.raw, effects.lines) == ("ok", ["look_up x"])
    assert [record.status for record in server.requests] == [200, 500, 200]
    assert result.token_usage.total_tokens == server.total_usage.total_tokens
