"""Runs that begin and end while others are at work on the same object, moment by moment."""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task

from crewai_prod import harden, open_journal
from crewai_prod._crewai.model_call import model_params
from crewai_prod.errors import RunMismatch
from crewai_prod.heart import HEART
from crewai_prod.records import RunStatus, StepStatus
from crewai_prod.testing import ScriptedLLM
from crewai_prod.threads import in_thread

PATIENCE = 30.0
Script = Callable[[Any, Any], Any]


def done(*_: Any) -> str:
    """The shortest answer."""
    return "Final Answer: done"


def crew_of(script: Script = done, **task: Any) -> Crew:
    """One agent, one task; all its texts name `{who}`."""
    agent = Agent(role="R {who}", goal="g {who}", backstory="b {who}", llm=ScriptedLLM(script))
    texts = {"description": "d {who}", "expected_output": "o {who}"}
    return Crew(agents=[agent], tasks=[Task(agent=agent, **texts, **task)])


def test_run_that_starts_meanwhile_works_on_its_own_inputs(tmp_path: Path) -> None:
    """A second run begins in the middle of the first: each prompt names its own inputs only."""
    asked: list[set[str]] = []
    first, second = threading.Event(), threading.Event()

    def script(messages: Any, _: Any) -> str:
        asked.append(set(re.findall(r"who-\w+", str(messages))))
        if len(asked) == 1:
            first.set()
            assert second.wait(PATIENCE)
        return done()

    crew = harden(crew_of(script, output_file="{who}.txt"), journal=tmp_path / "j.db")
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(crew.kickoff, inputs={"who": "who-ann"})
        assert first.wait(PATIENCE)
        crew.kickoff(inputs={"who": "who-bob"})
        second.set()
        begun.result(PATIENCE)
    assert asked == [{"who-ann"}, {"who-bob"}]
    assert {path.name for path in Path().glob("*.txt")} == {"who-ann.txt", "who-bob.txt"}


class Pausing(dict[str, Any]):
    """Private attributes that take their time to be updated, and say when that begins."""

    begun = threading.Event()
    enough = threading.Event()

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Half of the object shows the run, half of it not yet."""
        self.begun.set()
        self.enough.wait(0.5)
        super().update(*args, **kwargs)


def test_run_that_starts_while_another_one_is_shown(tmp_path: Path) -> None:
    """It does not take half of what the other run left for what the task was before."""
    asked: list[set[str]] = []

    def script(messages: Any, _: Any) -> str:
        asked.append(set(re.findall(r"who-\w+", str(messages))))
        if len(asked) > 1:
            Pausing.enough.set()
        return done()

    bare = crew_of(script)
    private = Pausing(bare.tasks[0].__pydantic_private__ or {})
    object.__setattr__(bare.tasks[0], "__pydantic_private__", private)
    crew = harden(bare, journal=tmp_path / "j.db", durability="process")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(crew.kickoff, inputs={"who": "who-ann"})
        assert Pausing.begun.wait(PATIENCE)
        crew.kickoff(inputs={"who": "who-bob"})
        first.result(PATIENCE)
    assert asked == [{"who-ann"}, {"who-bob"}]


def test_runs_that_start_while_others_end(tmp_path: Path) -> None:
    """A crew that was never kicked off before, and threads that switch at any moment."""
    mixed: list[set[str]] = []

    def script(messages: Any, _: Any) -> str:
        named = set(re.findall(r"who-\d+", str(messages)))
        if len(named) != 1:
            mixed.append(named)
        return done()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            for _ in range(2):
                crew = harden(crew_of(script), journal=tmp_path / "j.db", durability="process")
                inputs = [{"who": f"who-{n}"} for n in range(10)]
                list(pool.map(lambda one, crew=crew: crew.kickoff(inputs=one), inputs))
    finally:
        sys.setswitchinterval(interval)
    assert mixed == []


def test_each_run_of_a_factory_has_what_its_own_build_made(tmp_path: Path) -> None:
    """Callbacks and lists of one build are not used by the runs after it."""
    heard: list[list[str]] = []

    def make() -> Crew:
        mine: list[str] = []
        heard.append(mine)
        crew = crew_of()
        crew.task_callback = lambda output: mine.append(output.raw)
        crew.after_kickoff_callbacks.append(lambda output: mine.append("after") or output)  # type: ignore[func-returns-value]
        return crew

    crew = harden(journal=tmp_path / "j.db")(make)()
    for who in ("ann", "bob", "cid"):
        crew.kickoff(inputs={"who": who})
    assert heard == [[], *[["done", "after"]] * 3]


def test_what_is_set_on_a_factorys_crew_counts_for_every_run(tmp_path: Path) -> None:
    """A callback that the user sets on the hardened crew replaces that of each build."""
    heard: list[str] = []
    crew = harden(journal=tmp_path / "j.db")(crew_of)()
    for name in ("first", "second"):
        crew.task_callback = lambda _, name=name: heard.append(name)
        crew.kickoff(inputs={"who": "x"})
    assert heard == ["first", "second"]


def test_what_is_set_during_a_run_stays(tmp_path: Path) -> None:
    """A run's end gives back what the run has set, nothing else."""
    bare = crew_of()
    crew = harden(bare, journal=tmp_path / "j.db")

    def set_meanwhile(_: Any) -> None:
        crew.max_rpm = 77
        bare.agents[0].max_iter = 3

    bare.tasks[0].callback = set_meanwhile
    crew.kickoff(inputs={"who": "x"})
    assert (crew.max_rpm, bare.agents[0].max_iter) == (77, 3)
    assert (crew.tasks[0].output.raw, bare.tasks[0].description) == ("done", "d x")


@contextmanager
def _refused(crew: Any) -> Iterator[None]:
    crew.kickoff(inputs={"who": "x"}, run_id="a")
    with pytest.raises(RunMismatch):
        crew.kickoff(inputs={"who": "other"}, run_id="a")
    yield


@contextmanager
def _dropped(crew: Any) -> Iterator[None]:
    crew.stream = True
    crew.kickoff(inputs={"who": "x"})
    crew.stream = False
    gc.collect()
    yield


@pytest.mark.parametrize("before", [_refused, _dropped])
def test_kickoff_that_came_to_nothing_is_not_at_work(tmp_path: Path, before: Any) -> None:
    """After one that was refused or never read, a run shows its progress on the user's task."""
    seen: list[str] = []
    bare = crew_of()
    crew = harden(bare, journal=tmp_path / "j.db")
    with before(crew):
        bare.tasks[0].output = None
        bare.tasks[0].callback = lambda _: seen.append(bare.tasks[0].output.raw)
        crew.kickoff(inputs={"who": "y"})
    assert seen == ["done"]


def test_last_run_is_the_one_that_finished_last(tmp_path: Path) -> None:
    """Not the one that began last, nor one that was refused."""
    crew = harden(crew_of(), journal=tmp_path / "j.db")

    def nest(_: Any) -> None:
        crew.tasks[0].callback = None
        with ThreadPoolExecutor(1) as pool:
            pool.submit(crew.kickoff, inputs={"who": "y"}, run_id="inner").result(PATIENCE)

    crew.tasks[0].callback = nest
    crew.kickoff(inputs={"who": "x"}, run_id="outer")
    with pytest.raises(RunMismatch):
        crew.kickoff(inputs={"who": "x"}, run_id="inner")
    assert crew.last_run == "outer"


class Slow:
    """A journal one of whose methods takes its time, and says when it is at it."""

    def __init__(self, path: Path, name: str) -> None:
        self._journal = open_journal(path)
        self._name = name
        self.begun = threading.Event()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._journal, name)
        if name != self._name:
            return method

        def slowly(*args: Any, **kwargs: Any) -> Any:
            self.begun.set()
            time.sleep(0.3)
            return method(*args, **kwargs)

        return slowly


@pytest.mark.parametrize("during", ["open_run", "finish_step", "finish_run"])
def test_cancelled_run_has_an_end_and_keeps_what_it_paid_for(tmp_path: Path, during: str) -> None:
    """Cancelled while the journal is written: what was begun is recorded, and the run resumes."""
    asked: list[Any] = []

    def script(messages: Any, _: Any) -> str:
        asked.append(messages)
        return done()

    slow: Any = Slow(tmp_path / "j.db", during)
    crew = harden(crew_of(script), journal=slow)

    async def cancelled() -> None:
        work = asyncio.create_task(crew.akickoff(inputs={"who": "x"}, run_id="a"))
        assert await asyncio.to_thread(slow.begun.wait, PATIENCE)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(cancelled())
    assert HEART.runs() == []
    ended = RunStatus.COMPLETED if during == "finish_run" else RunStatus.INTERRUPTED
    assert slow.run("a").status is ended
    assert all(step.status is StepStatus.DONE for step in slow.steps("a"))
    assert asyncio.run(crew.akickoff(inputs={"who": "x"}, run_id="a")).raw == "done"
    assert len(asked) == 1


def test_commits_do_not_wait_for_the_loops_own_threads() -> None:
    """However many kickoffs occupy the loop's executor, an answer is committed at once."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        free = threading.Event()
        occupied = loop.run_in_executor(None, free.wait, PATIENCE)
        try:
            return await asyncio.wait_for(in_thread(lambda: 7), PATIENCE / 2)
        finally:
            free.set()
            await occupied

    assert asyncio.run(main()) == 7


def test_order_of_stop_words_is_no_part_of_a_request() -> None:
    """CrewAI hands on a set of them, ordered anew in each process: a resumed run asks the same."""
    asked = [
        model_params(ScriptedLLM(done, stop=stop), None, None, None)["stop"]
        for stop in (["END", "\nObservation:"], ["\nObservation:", "END"])
    ]
    assert asked[0] == asked[1]
