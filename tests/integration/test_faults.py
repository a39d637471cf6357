"""Every fault of the server that passes is got through, streaming or not, on both tool paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from crewai_prod import Retry, harden, open_journal
from crewai_prod.errors import ModelUnavailable
from crewai_prod.waiting import skipping
from tests.hostile import assert_journal_whole
from tests.integration.parts import PATHS, REQUESTS, Effects, fail_once, make_crew, nth
from tests.openai_server import FAULTS, RECOVERABLE, Server, fail_first, fault

ACTS = ["charge 7", "look_up tides", "send ann"]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", RECOVERABLE)
def test_each_passing_fault_is_got_through(
    server: Server, effects: Effects, tmp_path: Path, name: str, path: str, stream: bool
) -> None:
    """Each request meets it once; the result and the effects are those of a run without faults."""
    server.app.faults = fail_first(FAULTS[name])
    journal = tmp_path / "j.db"
    crew = harden(
        make_crew(server, effects, path, stream=stream), journal=journal, retry=Retry(attempts=3)
    )
    with skipping():
        result = crew.kickoff(inputs={"who": "ann"}, run_id="a")
    assert [one.raw for one in result.tasks_output] == [
        "facts about tides",
        "charged 7",
        "sent to ann",
    ]
    assert sorted(effects.lines) == ACTS
    assert len(server.requests) == 2 * REQUESTS
    assert {step.attempts for step in open_journal(journal).steps("a") if step.kind == "model"} == {
        2
    }
    assert_journal_whole(journal)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_stream_that_ends_early_is_no_answer(
    server: Server, effects: Effects, tmp_path: Path, path: str, share: float
) -> None:
    """CrewAI takes what has come for the whole; a run that cannot get the rest says so."""
    crew = make_crew(server, effects, path, stream=True)
    fail_once(server, fault("short", share=share), nth(2))
    hardened = harden(crew, journal=tmp_path / "j.db", retry=Retry(attempts=1))
    with pytest.raises(ModelUnavailable, match="ended before its answer"):
        hardened.kickoff(inputs={"who": "ann"}, run_id="a")
    assert hardened.kickoff(inputs={"who": "ann"}, run_id="a").raw == "sent to ann"
    assert sorted(effects.lines) == ACTS
    assert len(server.requests) == REQUESTS + 1


@pytest.mark.parametrize("path", PATHS)
def test_a_stream_without_usage_is_whole(
    server: Server, effects: Effects, tmp_path: Path, path: str
) -> None:
    """Not every server tells the usage in a stream: the finish reason will do."""
    server.app.faults = lambda _: fault("short", share=0.8)
    crew = make_crew(server, effects, path, stream=True)
    hardened = harden(crew, journal=tmp_path / "j.db", retry=Retry(attempts=1))
    assert hardened.kickoff(inputs={"who": "ann"}).raw == "sent to ann"
    assert [one.usage for one in server.requests] == [None] * REQUESTS
