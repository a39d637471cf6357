"""At the end of a run: what took much more than before is logged, and told to who wants to know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task

from crewai_prod import harden, open_journal
from crewai_prod.alerts import RULES, Alert
from crewai_prod.errors import JournalUnavailable, UsageError
from crewai_prod.journal import SqliteJournal
from tests.crews import make_llm
from tests.integration.parts import MODES, Mode, go
from tests.integration.test_cost import lines
from tests.openai_server import Conversation, Reply, Rule, Server, Usage

USUAL = Reply("the answer", usage=Usage(prompt=1000, completion=100))
DEAR = Reply("a long answer", usage=Usage(prompt=1000, completion=9000))
SCRIPT = Conversation(Rule(DEAR, when=lambda turn: "everything" in turn.task), Rule(USUAL))


def make(server: Server, journal: Path, **options: Any) -> Any:
    """A crew whose answer is long if it is asked for everything."""
    agent = Agent(role="Teller", goal="g", backstory="b", llm=make_llm(server.url))
    task = Task(name="tell", description="Tell {what}", expected_output="o", agent=agent)
    return harden(Crew(name="tellers", agents=[agent], tasks=[task]), journal=journal, **options)


def with_history(server: Server, journal: Path, mode: Mode = "kickoff", **options: Any) -> Any:
    """The crew after as many usual runs as a baseline needs."""
    crew = make(server, journal, **options)
    for number in range(RULES.least):
        go(crew, mode, inputs={"what": f"part {number}"}, run_id=f"usual-{number}")
    return crew


@pytest.mark.parametrize("mode", MODES)
def test_a_run_out_of_the_ordinary_is_told(tmp_path: Path, mode: Mode) -> None:
    """By a callback and a log line; once, though the next one is as dear."""
    journal, told = tmp_path / "runs.db", list[Alert]()
    with Server(SCRIPT) as server:
        crew = with_history(server, journal, mode, on_alert=told.append)
        assert told == []
        go(crew, mode, inputs={"what": "everything"}, run_id="dear")
        go(crew, mode, inputs={"what": "everything"}, run_id="again")
    assert [(alert.run_id, alert.metric) for alert in told] == [
        ("dear", "cost_usd"),
        ("dear", "tokens"),
    ]
    cost, tokens = told
    assert [tokens.task, tokens.value, tokens.median] == ["tell", 10_000, 1100]
    assert cost.value > cost.limit > cost.median > 0
    logged = lines(journal, "usage.alert")
    assert [line["alert.metric"] for line in logged] == ["cost_usd", "tokens"]
    assert logged[1]["alert.value"] == 10_000
    said = [logged[1][key] for key in ("run_id", "task", "level")]
    assert said == ["dear", "tell", "warning"]


def test_a_replayed_run_is_not_told_again(tmp_path: Path) -> None:
    """A finished run that is kicked off again has cost nothing, and says nothing."""
    journal, told = tmp_path / "runs.db", list[Alert]()
    with Server(SCRIPT) as server:
        crew = with_history(server, journal, on_alert=told.append)
        for _ in range(2):
            crew.kickoff(inputs={"what": "everything"}, run_id="dear")
    assert len(told) == 2


def test_a_listener_that_fails_costs_no_result(tmp_path: Path) -> None:
    """The run is done: its result is returned, and the log says what the listener raised."""
    journal = tmp_path / "runs.db"

    def broken(alert: Alert) -> None:
        raise RuntimeError("no pager")

    with Server(SCRIPT) as server:
        crew = with_history(server, journal, on_alert=broken)
        result = crew.kickoff(inputs={"what": "everything"}, run_id="dear")
    assert result.raw == "a long answer"
    assert open_journal(journal).run("dear").status == "completed"
    assert [line["message"] for line in lines(journal, "warning")] == [
        "on_alert raised RuntimeError: no pager"
    ] * 2


def test_a_journal_that_cannot_be_read_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done is recorded; that it was not compared is said."""
    journal = tmp_path / "runs.db"

    def unavailable(*_: Any, **__: Any) -> Any:
        raise JournalUnavailable("The disk is gone.")

    with Server(SCRIPT) as server:
        crew = make(server, journal)
        monkeypatch.setattr(SqliteJournal, "task_spending", unavailable)
        assert crew.kickoff(inputs={"what": "a part"}, run_id="r").raw == "the answer"
    (line,) = lines(journal, "warning")
    assert "The disk is gone." in line["message"]


def test_a_listener_is_a_function(tmp_path: Path) -> None:
    """Said at once, not at the first alert."""
    with Server(SCRIPT) as server, pytest.raises(UsageError, match="on_alert"):
        make(server, tmp_path / "runs.db", on_alert="pager")
