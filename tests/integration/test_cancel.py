"""A run that somebody cancels stops before its next step, and can be resumed."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.flow.flow import Flow, listen, start

from crewai_prod import Settings, cancel, harden, open_journal, open_run
from crewai_prod.errors import RunCancelled, RunError, RunNotFound
from crewai_prod.records import RunStatus
from tests.crews import make_llm
from tests.integration.parts import (
    MODES,
    PATHS,
    REQUESTS,
    SCRIPT,
    Effects,
    Mode,
    go,
    make_crew,
    make_tools,
)
from tests.openai_server import ROOT, Server

ALL = ["look_up tides", "charge 7", "send ann"]


class Told(Effects):
    """Effects that do something once, when the first of them happens."""

    def __init__(self, folder: Path, then: Callable[[], Any]) -> None:
        super().__init__(folder)
        self._then: list[Callable[[], Any]] = [then]

    def add(self, line: str) -> None:
        """Act, and do it on a thread that knows nothing of the run."""
        super().add(line)
        if self._then:
            thread = threading.Thread(target=self._then.pop())
            thread.start()
            thread.join()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_a_cancelled_run_stops_before_its_next_step(tmp_path: Path, mode: Mode, path: str) -> None:
    """`crew.cancel` from another thread: the step under way is kept, the next one not begun."""
    journal = tmp_path / "runs.db"
    effects = Told(tmp_path, lambda: crew.cancel("r"))
    with Server(SCRIPT) as server:
        crew = harden(make_crew(server, effects, path), journal=journal)
        with pytest.raises(RunCancelled) as caught:
            go(crew, mode, inputs={"who": "ann"}, run_id="r")
        assert caught.value.run_id == "r"
        assert effects.lines == ALL[:1]
        assert server.total_usage.requests == 1
        run = open_journal(journal).run("r")
        assert (run.status, run.reason) == (RunStatus.CANCELLED, "RunCancelled")
        result = go(crew, mode, inputs={"who": "ann"}, run_id="r")
        assert result.raw == "sent to ann"
        assert effects.lines == ALL
        assert server.total_usage.requests == REQUESTS


@pytest.mark.parametrize("path", PATHS)
def test_no_step_is_begun_after_it(tmp_path: Path, path: str) -> None:
    """Another process cancels: long before the next heartbeat the next model call is refused."""
    journal = tmp_path / "runs.db"
    effects = Told(tmp_path, lambda: open_journal(journal).cancel("r"))
    with Server(SCRIPT) as server:
        tools = {"look_up": {"effect": "read"}}
        crew = harden(make_crew(server, effects, path), journal=journal, tools=tools)
        with pytest.raises(RunCancelled):
            crew.kickoff(inputs={"who": "ann"}, run_id="r")
        assert effects.lines == ALL[:1]
        assert server.total_usage.requests == 1
        assert open_journal(journal).run("r").status is RunStatus.CANCELLED
        crew.kickoff(inputs={"who": "ann"}, run_id="r")
        assert effects.lines == ALL


def test_another_process_is_heard_with_the_next_heartbeat(tmp_path: Path) -> None:
    """A run of nothing but reads and model calls stops, too, and completes when it is resumed."""
    journal = tmp_path / "runs.db"
    command = [sys.executable, "-m", "crewai_prod", "cancel", "r", "--journal", str(journal)]

    def stop_it() -> None:
        subprocess.run(command, check=True, timeout=60, cwd=ROOT)
        assert heard.wait(30)

    heard = threading.Event()
    effects = Told(tmp_path, stop_it)
    with Server(SCRIPT) as server:
        reads = {name: {"effect": "read"} for name in ("look_up", "charge", "send")}
        settings = Settings(lease_seconds=0.6)
        crew = harden(make_crew(server, effects), journal=journal, tools=reads, settings=settings)
        watch = threading.Thread(target=_wait_for_stop, args=("r", heard))
        watch.start()
        with pytest.raises(RunCancelled):
            crew.kickoff(inputs={"who": "ann"}, run_id="r")
        watch.join()
        assert server.total_usage.requests == 1
        crew.kickoff(inputs={"who": "ann"}, run_id="r")
        assert effects.lines == ALL


def _wait_for_stop(run_id: str, heard: threading.Event) -> None:
    from crewai_prod.heart import HEART

    for _ in range(3000):
        if any(run.run_id == run_id and run.stopped is not None for run in HEART.runs()):
            heard.set()
            return
        heard.wait(0.01)


def test_one_item_of_a_batch_is_cancelled(tmp_path: Path) -> None:
    """The others are run; the cancelled one is an exception in its place, and finished later."""
    journal = tmp_path / "runs.db"
    effects = Told(tmp_path, lambda: crew.cancel("b-0"))
    with Server(SCRIPT) as server:
        crew = harden(make_crew(server, effects), journal=journal)
        items = [{"who": "ann"}, {"who": "ben"}]
        first, second = crew.kickoff_for_each(items, run_ids="b", progress=False)
        assert isinstance(first, RunCancelled)
        assert second.raw == "sent to ann"
        first, _ = crew.kickoff_for_each(items, run_ids="b", progress=False)
        assert first.raw == "sent to ann"
        book = open_journal(journal)
        assert {book.run(f"b-{n}").status for n in range(2)} == {RunStatus.COMPLETED}


def one_agent(server: Server, effects: Effects) -> Agent:
    """A cashier."""
    tools = [make_tools(effects)[1]]
    return Agent(role="Cashier", goal="g", backstory="b", llm=make_llm(server.url), tools=tools)


def test_an_agent_and_a_flow_are_cancelled(tmp_path: Path) -> None:
    """What is kicked off within a flow's method stops with it."""
    journal = tmp_path / "runs.db"

    class Shop(Flow[dict[str, Any]]):
        """A crew in a method, and another method."""

        @start()
        def pay(self) -> str:
            task = Task(description="Pay", expected_output="o", agent=one_agent(server, effects))
            return str(Crew(agents=[task.agent], tasks=[task]).kickoff())

        @listen(pay)
        def pack(self) -> str:
            effects.add("pack")
            return "packed"

    with Server(SCRIPT) as server:
        effects = Told(tmp_path, lambda: agent.cancel("a"))
        agent = harden(one_agent(server, effects), journal=journal)
        with pytest.raises(RunCancelled):
            agent.kickoff("Pay", run_id="a")
        assert agent.kickoff("Pay", run_id="a").raw == "charged 7"
        effects = Told(tmp_path, lambda: flow.cancel("f"))
        flow: Any = harden(Shop(), journal=journal)
        with pytest.raises(RunCancelled):
            flow.kickoff(run_id="f")
        assert flow.kickoff(run_id="f") == "packed"
    assert effects.lines == ["charge 7", "charge 7", "pack"]


def test_what_cannot_be_cancelled_is_refused(tmp_path: Path) -> None:
    """Unknown and finished runs say so; one that is cancelled already stays so."""
    journal = tmp_path / "runs.db"
    with open_run("done", journal=journal):
        pass
    with pytest.raises(RunCancelled), open_run("gone", journal=journal):
        cancel("gone", journal)
    for _ in range(2):
        cancel("gone", journal)
    with pytest.raises(RunError, match="completed: there is nothing to cancel"):
        cancel("done", journal)
    with pytest.raises(RunNotFound):
        cancel("other", journal)
    with open_run("gone", journal=journal) as block:  # what was asked of one session is over
        assert block.run_id == "gone"
    assert open_journal(journal).run("gone").status is RunStatus.COMPLETED
