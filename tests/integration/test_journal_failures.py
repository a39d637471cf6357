"""A journal that cannot be written stops the run before its next effect, on every path."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.tools import tool

from crewai_prod import Budget, harden, open_journal, open_run, step
from crewai_prod.errors import (
    Corrupt,
    JournalError,
    JournalUnavailable,
    RunInUse,
    SchemaTooNew,
    StaleOwner,
)
from crewai_prod.journal import SqliteJournal
from crewai_prod.records import RunStatus
from crewai_prod.testing import ScriptedLLM
from tests.integration.parts import MODES, PATHS, Effects, Killed, Mode, go, make_crew
from tests.openai_script import fault
from tests.openai_server import Conversation, Rule, Server

WHO = {"who": "ann"}
WRITES = ("start_step", "finish_step", "save_task", "finish_run")


class Flaky:
    """A journal whose n-th write fails, as a full disk makes it fail."""

    def __init__(self, path: Path, fail_at: int) -> None:
        self._journal = open_journal(path)
        self._left = fail_at
        self.effects_when_failed: list[str] | None = None
        self.effects: Effects | None = None

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._journal, name)
        if name not in WRITES:
            return attribute

        def write(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                if self.effects is not None and self.effects_when_failed is None:
                    self.effects_when_failed = self.effects.lines
                raise JournalUnavailable("database or disk is full")
            return attribute(*args, **kwargs)

        return write


@pytest.mark.dear
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_failed_write_stops_the_run_before_the_next_effect(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode
) -> None:
    """Whichever write fails: nothing acts after it, the caller sees why, and it resumes."""
    for number in range(0, 19, 3):
        journal = tmp_path / f"{number}.db"
        mine = Effects(tmp_path)
        mine.path.unlink(missing_ok=True)
        server.reset()
        flaky: Any = Flaky(journal, number)
        flaky.effects = mine
        with pytest.raises(JournalUnavailable, match="disk is full"):
            go(harden(make_crew(server, mine, path), journal=flaky), mode, inputs=WHO, run_id="a")
        assert mine.lines == flaky.effects_when_failed
        assert open_journal(journal).run("a").status is not RunStatus.COMPLETED
        # A tool whose outcome could not be written may have acted: here, a person says run it.
        crew = harden(make_crew(server, mine, path), journal=journal, unknown="rerun")
        assert go(crew, mode, inputs=WHO, run_id="a").raw == "sent to ann"


def test_journal_that_cannot_be_opened(server: Server, effects: Effects, tmp_path: Path) -> None:
    """Corrupt, too new, or in an impossible place: the documented error before any request."""
    corrupt = tmp_path / "corrupt.db"
    corrupt.write_bytes(b"no database at all, but long enough to be looked at" * 20)
    blocked = tmp_path / "file" / "j.db"
    (tmp_path / "file").write_text("a file, not a folder")
    newer = tmp_path / "newer.db"
    open_journal(newer).close()
    import sqlite3

    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 999")
    for place, kind in ((corrupt, Corrupt), (blocked, JournalUnavailable), (newer, SchemaTooNew)):
        with pytest.raises(kind) as caught:
            harden(make_crew(server, effects), journal=place).kickoff(inputs=WHO)
        assert isinstance(caught.value, JournalError)
        assert place.name in str(caught.value) or "file" in str(caught.value)
    assert server.requests == []
    assert effects.lines == []


def test_run_in_use_is_refused(server: Server, effects: Effects, tmp_path: Path) -> None:
    """Two kickoffs of one run id in one process: the second is told who has it."""
    journal = tmp_path / "j.db"
    outcome: list[BaseException] = []

    def ask_again(inputs: Any) -> Any:
        second = harden(make_crew(server, effects), journal=journal)
        try:
            second.kickoff(inputs=WHO, run_id="a")
        except RunInUse as error:
            outcome.append(error)
        return inputs

    crew = make_crew(server, effects)
    crew.before_kickoff_callbacks.append(ask_again)
    harden(crew, journal=journal).kickoff(inputs=WHO, run_id="a")
    assert len(outcome) == 1
    assert "a" in str(outcome[0])


def test_stale_owner_cannot_go_on(server: Server, effects: Effects, tmp_path: Path) -> None:
    """A run that somebody else has taken over is refused at its next write and acts no more."""
    journal = tmp_path / "j.db"
    crew = make_crew(server, effects)

    def steal(output: Any) -> None:
        import sqlite3

        with sqlite3.connect(journal) as connection:
            connection.execute("UPDATE runs SET epoch = epoch + 1")

    crew.tasks[0].callback = steal
    with pytest.raises(StaleOwner):
        harden(crew, journal=journal).kickoff(inputs=WHO, run_id="a")
    assert effects.lines == ["look_up tides"]


_SLOW = 0.5
"""Seconds of each write."""


class Slow:
    """A journal on a slow disk."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._journal = open_journal(path)
        self._seconds = seconds

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._journal, name)
        if name not in (*WRITES, "open_run"):
            return attribute

        def write(*args: Any, **kwargs: Any) -> Any:
            time.sleep(self._seconds)
            return attribute(*args, **kwargs)

        return write


@pytest.mark.parametrize("native", [True, False])
def test_slow_disk_does_not_stall_the_event_loop(tmp_path: Path, native: bool) -> None:
    """Under `akickoff` every commit is made off the loop: a ticker beside it keeps ticking."""

    @tool
    def look() -> str:
        """Look."""
        return "seen"

    def script(messages: Any, tools: Any) -> Any:
        if any("seen" in str(message.get("content")) for message in messages):
            return "done" if native else "Final Answer: done"
        if native:
            return [
                {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
            ]
        return "Thought: look\nAction: look\nAction Input: {}"

    agent = Agent(
        role="A", goal="g", backstory="b", llm=ScriptedLLM(script, native=native), tools=[look]
    )
    bare = Crew(agents=[agent], tasks=[Task(description="d", expected_output="o", agent=agent)])
    slow: Any = Slow(tmp_path / "j.db", _SLOW)
    gaps: list[float] = []

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.01)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    async def both() -> Any:
        ticker = asyncio.create_task(tick())
        result = await harden(bare, journal=slow).akickoff(run_id="a")
        ticker.cancel()
        return result

    assert asyncio.run(both()).raw == "done"
    assert max(gaps) < _SLOW


def test_what_a_run_was_lent_is_given_back_though_its_end_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare agent that was cut off within a run holds the run's model until then."""
    llm = ScriptedLLM(lambda messages, tools: "Final Answer: never asked")
    agent = Agent(role="A", goal="g", backstory="b", llm=llm)
    journal = open_journal(tmp_path / "j.db")

    def cut_off(*_: Any, **__: Any) -> Any:
        raise Killed

    def lose(*_: Any, **__: Any) -> None:
        raise JournalError("the disk is gone")

    monkeypatch.setattr(ScriptedLLM, "call", cut_off)
    monkeypatch.setattr(type(journal), "finish_run", lose)
    with pytest.raises(Killed), open_run("a", journal=journal):
        agent.kickoff("hi")
    assert agent.llm is llm


@pytest.mark.parametrize("reads", ["transitions", "approvals"])
def test_a_run_that_cannot_be_taken_up_is_let_go(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: str
) -> None:
    """What fails after the lease was taken keeps nobody out: the next kickoff has it at once."""
    path = tmp_path / "runs.db"
    crew = harden(
        make_crew(server, Effects(tmp_path)), journal=path, budget=Budget(max_llm_calls=90)
    )
    whole = getattr(SqliteJournal, reads)

    def fail(*_: Any, **__: Any) -> Any:
        raise JournalUnavailable("disk I/O error")

    def fails_once() -> None:
        with open_run("code", journal=path, budget=Budget(max_llm_calls=1)):
            failing(1)

    for begin in (lambda: crew.kickoff(inputs=WHO, run_id="crew"), fails_once):
        script, server.app.script = server.app.script, Conversation(Rule(fault("forbidden")))
        with pytest.raises(Exception, match=r"403|is odd"):
            begin()
        server.app.script = script
        monkeypatch.setattr(SqliteJournal, reads, fail)
        with pytest.raises(JournalUnavailable, match="disk I/O error"):
            begin()
        monkeypatch.setattr(SqliteJournal, reads, whole)
    assert crew.kickoff(inputs=WHO, run_id="crew").raw == "sent to ann"
    with open_run("code", journal=path, budget=Budget(max_llm_calls=1)):
        pass
    statuses = {run.run_id: run.status for run in open_journal(path).runs()}
    assert statuses == {"crew": RunStatus.COMPLETED, "code": RunStatus.COMPLETED}


@step
def failing(number: int) -> None:
    """A step that fails."""
    raise ValueError(f"{number} is odd")
