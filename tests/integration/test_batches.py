"""Batches: a run for each item, a bounded number at a time, and no item loses another."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, Literal

import pytest
from crewai import Agent, Crew, Task
from crewai.tools import tool

from crewai_prod import Settings, harden, open_journal
from crewai_prod.errors import (
    JournalUnavailable,
    RunInterrupted,
    RunInUse,
    RunMismatch,
    StaleOwner,
    UsageError,
)
from crewai_prod.heart import HEART
from crewai_prod.records import RunStatus
from tests.crews import make_llm
from tests.integration.batch_crew import REQUESTS, items, make_crew, script
from tests.integration.parts import PATHS, Effects, total
from tests.openai_server import ROOT, Conversation, Record, Rule, Server, answer, fault, use

Form = Literal["kickoff_for_each", "kickoff_for_each_async", "akickoff_for_each"]
FORMS: tuple[Form, ...] = ("kickoff_for_each", "kickoff_for_each_async", "akickoff_for_each")
NAMES = ("ann", "bob", "cid", "dan", "eve", "fay")
ITEMS = items(*NAMES)
CHARGED = [f"charged {name}" for name in NAMES]
EACH_ONCE = [f"charge {name}" for name in NAMES]
_TENANT: ContextVar[str] = ContextVar("tenant", default="nobody")


@pytest.fixture(autouse=True)
def _script(server: Server) -> None:
    server.app.script = script()


def each(crew: Any, form: Form = "kickoff_for_each", **arguments: Any) -> Any:
    """Run a batch in one of the three ways."""
    if form == "kickoff_for_each":
        return crew.kickoff_for_each(**arguments)
    return asyncio.run(getattr(crew, form)(**arguments))


def hardened(
    server: Server, effects: Effects, path: str = "native", hook: Any = None, **options: Any
) -> Any:
    """The crew of these tests, its journal in the working directory."""
    return harden(make_crew(server.url, effects, path, hook), **{"journal": "runs.db", **options})


def raws(results: list[Any]) -> list[str]:
    """What each item gave, or the class of its error."""
    return [getattr(result, "raw", type(result).__name__) for result in results]


def statuses() -> dict[str, RunStatus]:
    """How each run of the journal stands."""
    return {run.run_id: run.status for run in open_journal("runs.db").runs()}


def fail_for(server: Server, *names: str, wrong: str = "unauthorized", **how: Any) -> list[str]:
    """Let the second request of these people's items go wrong; returns whose have, so far."""
    hit: list[str] = []

    def schedule(seen: Any) -> Any:
        text = str(seen.body["messages"])
        due = [name for name in names if f"Charge {name}" in text and f"charged {name}" in text]
        hit.extend(due)
        return fault(wrong, **how) if due else None

    server.app.faults = schedule
    return hit


def most_at_once(records: list[Record]) -> int:
    """How many requests were being answered at the same time."""
    ends = [(record.finished_at or 0.0, -1) for record in records]
    level = most = 0
    for _, step in sorted([(record.started_at, 1) for record in records] + ends):
        level += step
        most = max(most, level)
    return most


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", PATHS)
def test_bad_item_stands_in_its_place_and_a_second_call_finishes_it(
    server: Server, effects: Effects, path: str, form: Form
) -> None:
    """The others are done; a second call asks only for what is missing, and the bill is exact."""
    fail_for(server, "bob")
    crew = hardened(server, effects, path)
    first = each(crew, form, inputs=ITEMS, run_ids=list(NAMES))
    assert [one for n, one in enumerate(raws(first)) if n != 1] == CHARGED[:1] + CHARGED[2:]
    assert isinstance(first[1], Exception)
    assert "401" in str(first[1])
    assert "run_id='bob'" in str(first[1])
    assert crew.usage_metrics.total_tokens == total(server)
    assert crew.tasks[0].output is None
    assert Counter(statuses().values()) == {RunStatus.COMPLETED: 5, RunStatus.FAILED: 1}
    spent = total(server)
    server.reset()
    server.app.faults = None
    fresh = hardened(server, effects, path)
    second = each(fresh, form, inputs=ITEMS, run_ids=list(NAMES))
    assert raws(second) == CHARGED
    assert [second[n] for n in (0, 2, 3, 4, 5)] == [first[n] for n in (0, 2, 3, 4, 5)]
    assert len(server.requests) == 1
    assert sorted(effects.lines) == EACH_ONCE
    assert fresh.usage_metrics.total_tokens == spent + total(server)
    assert fresh.usage_metrics.successful_requests == REQUESTS * len(NAMES)
    paid = sum(result.token_usage.total_tokens for result in second)
    assert paid == fresh.usage_metrics.total_tokens


@pytest.mark.parametrize("form", FORMS)
def test_finished_batch_is_handed_back_without_any_call(
    server: Server, effects: Effects, form: Form
) -> None:
    """The same ids again: the same results and the same bill, no request, no effect."""
    crew = hardened(server, effects)
    first = each(crew, form, inputs=ITEMS, run_ids="b")
    spent = crew.usage_metrics
    server.reset()
    assert each(crew, form, inputs=ITEMS, run_ids="b") == first
    assert (len(server.requests), crew.usage_metrics) == (0, spent)
    assert sorted(effects.lines) == EACH_ONCE


def test_batch_that_was_killed_is_finished(server: Server, effects: Effects) -> None:
    """Killed with three items in flight: no answered request and no effect is repeated."""
    hanging = fail_for(server, "dan", "eve", "fay", wrong="hang")
    names = (*NAMES, "gus", "hal")
    command = [sys.executable, "-m", "tests.integration.batch_crew", server.url]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen([*command, str(effects.path.parent), *names], env=environment)
    try:
        _wait(lambda: len(hanging) == 3)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert sorted(effects.lines) == EACH_ONCE
    answered = [record for record in server.requests if record.completed]
    assert len(answered) == 3 * REQUESTS + 3
    spent = total(server)
    server.reset()
    server.app.faults = None
    crew = hardened(server, effects)
    results = crew.kickoff_for_each(inputs=items(*names), run_ids="b", concurrency=3)
    assert raws(results) == [f"charged {name}" for name in names]
    asked = [record.digest for record in server.requests]
    assert len(asked) == 3 + 2 * REQUESTS
    assert set(asked).isdisjoint(record.digest for record in answered)
    assert sorted(effects.lines) == [f"charge {name}" for name in names]
    assert crew.usage_metrics.total_tokens == spent + total(server)


@pytest.mark.parametrize("form", FORMS)
def test_concurrency_is_a_bound(server: Server, effects: Effects, form: Form) -> None:
    """The server never sees more requests at a time than items may run, and sees them overlap."""
    server.app.script = script(delay=0.1)
    crew = hardened(server, effects)
    assert raws(each(crew, form, inputs=ITEMS, concurrency=3)) == CHARGED
    assert 2 <= most_at_once(server.requests) <= 3


def test_concurrency_unless_told(server: Server, effects: Effects) -> None:
    """One after another as in bare CrewAI; asynchronously 8 at a time, not all at once."""
    server.app.script = script(delay=0.1)
    names = [f"p{n}" for n in range(20)]
    crew = hardened(server, effects)
    each(crew, inputs=ITEMS)
    assert most_at_once(server.requests) == 1
    assert effects.lines == EACH_ONCE
    server.reset()
    each(crew, "akickoff_for_each", inputs=items(*names))
    assert 2 <= most_at_once(server.requests) <= 8


def test_ids_of_a_prefix_stay_when_the_list_grows(server: Server, effects: Effects) -> None:
    """A longer list with the same prefix runs only the new items."""
    crew = hardened(server, effects)
    first = crew.kickoff_for_each(inputs=ITEMS[:2], run_ids="b")
    assert set(statuses()) == {"b-0", "b-1"}
    server.reset()
    assert crew.kickoff_for_each(inputs=ITEMS, run_ids="b")[:2] == first
    assert len(server.requests) == REQUESTS * 4
    assert set(statuses()) == {f"b-{n}" for n in range(6)}


def test_ids_that_are_made_share_a_prefix(server: Server, effects: Effects) -> None:
    """Without ids each call is a new batch, and its runs can be called by their prefix."""
    crew = hardened(server, effects)
    results = crew.kickoff_for_each(inputs=ITEMS[:2])
    crew.kickoff_for_each(inputs=ITEMS[:2])
    assert len(statuses()) == 4
    prefix = min(statuses()).removesuffix("-0")
    assert prefix.startswith("batch-")
    server.reset()
    assert crew.kickoff_for_each(inputs=ITEMS[:2], run_ids=prefix) == results
    assert not server.requests


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"run_ids": ["a", "b"]}, "run_ids has 2 ids for 6 items"),
        ({"run_ids": ["a", "b", "a", "c", "d", "e"]}, "names 'a' more than once"),
        ({"run_ids": ["a", "b", None, "c", "d", "e"]}, r"run_ids\[2\]=None"),
        ({"run_ids": ""}, "run_ids=''"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"concurrency": 1.5}, r"concurrency=1\.5"),
        ({"on_change": "retry"}, "on_change='retry'"),
        ({"unknown": "maybe"}, "unknown='maybe'"),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_wrong_arguments_are_named(
    server: Server, effects: Effects, form: Form, wrong: dict[str, Any], says: str
) -> None:
    """A wrong value is refused before anything is run."""
    with pytest.raises(UsageError, match=says):
        each(hardened(server, effects), form, inputs=ITEMS, **wrong)
    assert not server.requests


@pytest.mark.parametrize("form", FORMS)
def test_no_items(server: Server, effects: Effects, form: Form) -> None:
    """Nothing to do is done at once, and costs nothing."""
    crew = hardened(server, effects)
    assert each(crew, form, inputs=[], concurrency=3) == []
    assert crew.usage_metrics.total_tokens == 0


def test_first_error_is_raised_if_wanted(server: Server, effects: Effects) -> None:
    """`return_exceptions=False` raises as bare CrewAI does, after every item was tried."""
    fail_for(server, "bob", "dan")
    crew = hardened(server, effects)
    with pytest.raises(Exception, match="401") as raised:
        crew.kickoff_for_each(inputs=ITEMS, run_ids=list(NAMES), return_exceptions=False)
    assert "run_id='bob'" in str(raised.value)
    assert Counter(statuses().values()) == {RunStatus.COMPLETED: 4, RunStatus.FAILED: 2}


def test_refused_items_stand_in_their_place(server: Server, effects: Effects) -> None:
    """An id of other inputs, inputs that are none, a run lost to another owner: one item fails."""

    def lose(who: str) -> None:
        for run in HEART.runs():
            if who == "cid" and run.run_id == "b-2":
                run.stop(StaleOwner())

    crew = hardened(server, effects, hook=lose)
    crew.kickoff(inputs={"who": "zoe"}, run_id="b-0")
    before = crew.usage_metrics.total_tokens
    wrong: Any = [ITEMS[0], "bob", ITEMS[2], ITEMS[3]]
    results = crew.kickoff_for_each(inputs=wrong, run_ids="b")
    assert isinstance(results[0], RunMismatch)
    assert isinstance(results[1], (TypeError, ValueError))
    assert isinstance(results[2], StaleOwner)
    assert (results[2].run_id, results[3].raw) == ("b-2", "charged dan")
    assert crew.usage_metrics.total_tokens == total(server) - before


def test_run_that_somebody_else_advances_is_refused(server: Server, effects: Effects) -> None:
    """A batch called twice at the same time: one of them gets each run, nothing happens twice."""
    server.app.script = script(delay=0.1)
    crew = hardened(server, effects)
    both: list[Any] = []

    def go() -> None:
        both.append(crew.kickoff_for_each(inputs=ITEMS, run_ids="b", concurrency=3))

    threads = [threading.Thread(target=go) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for pair, raw in zip(zip(*both, strict=True), CHARGED, strict=True):
        assert raw in [getattr(one, "raw", None) for one in pair]
        assert all(isinstance(one, RunInUse) or one.raw == raw for one in pair)
    assert sorted(effects.lines) == EACH_ONCE


class FullDisk:
    """A journal that cannot be written any more once the disk is full."""

    def __init__(self) -> None:
        self._journal = open_journal("runs.db")
        self.full = False

    def __getattr__(self, name: str) -> Any:
        if self.full and name in ("start_step", "finish_step", "save_task", "finish_run"):
            raise JournalUnavailable("database or disk is full")
        return getattr(self._journal, name)


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_journal_that_cannot_be_written_ends_the_batch(
    server: Server, effects: Effects, form: Form, concurrency: int
) -> None:
    """No further item is begun, the caller is told once, and a second call finishes the rest."""
    disk: Any = FullDisk()

    def fill(who: str) -> None:
        disk.full = disk.full or who == "cid"

    crew = hardened(server, effects, hook=fill, journal=disk, tools={"charge": {"effect": "read"}})
    with pytest.raises(JournalUnavailable, match="disk is full") as raised:
        each(crew, form, inputs=ITEMS, run_ids="b", concurrency=concurrency)
    assert "call again with the same run_ids" in str(raised.value.__notes__)
    assert len(statuses()) >= 3
    assert Counter(statuses().values())[RunStatus.COMPLETED] < 6
    fresh = hardened(server, effects, tools={"charge": {"effect": "read"}})
    assert raws(each(fresh, form, inputs=ITEMS, run_ids="b")) == CHARGED


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_process_that_was_asked_to_end_ends_the_batch(
    server: Server, effects: Effects, form: Form, concurrency: int
) -> None:
    """A run that was interrupted is no bad item: the batch stops there, resumable."""

    def ask(who: str) -> None:
        if who == "bob":
            for run in HEART.runs():
                run.stop(RunInterrupted(signal=15))

    crew = hardened(server, effects, hook=ask)
    with pytest.raises(RunInterrupted):
        each(crew, form, inputs=ITEMS, run_ids="b", concurrency=concurrency)
    assert 2 <= len(statuses()) < 6
    assert RunStatus.RUNNING not in statuses().values()
    assert raws(each(hardened(server, effects), form, inputs=ITEMS, run_ids="b")) == CHARGED
    assert sorted(effects.lines) == EACH_ONCE


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as Python has it: what starts the tests in the background may have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_ctrl_c_ends_the_batch(
    server: Server, effects: Effects, concurrency: int, ctrl_c: None
) -> None:
    """Ctrl-C reaches the caller after the steps under way, and no further item is begun."""

    def press(who: str) -> None:
        if who == "bob":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)

    crew = hardened(server, effects, hook=press, tools={"charge": {"effect": "read"}})
    with pytest.raises(KeyboardInterrupt) as raised:
        crew.kickoff_for_each(inputs=ITEMS, run_ids="b", concurrency=concurrency)
    assert "of 6 items had ended" in str(raised.value.__notes__)
    assert statuses()["b-1"] is RunStatus.INTERRUPTED
    assert 2 <= len(statuses()) < 6
    assert set(statuses().values()) <= {RunStatus.COMPLETED, RunStatus.INTERRUPTED}
    fresh = hardened(server, effects, tools={"charge": {"effect": "read"}})
    assert raws(fresh.kickoff_for_each(inputs=ITEMS, run_ids="b")) == CHARGED


@pytest.mark.parametrize("form", FORMS[1:])
def test_cancelled_batch_can_be_finished(server: Server, effects: Effects, form: Form) -> None:
    """A caller that gives up ends the batch: nothing goes on for long behind its back."""
    hanging = fail_for(server, "bob", "cid", wrong="hang", seconds=1.0)
    crew = hardened(server, effects)

    async def give_up() -> None:
        batch = asyncio.create_task(getattr(crew, form)(inputs=ITEMS, run_ids="b", concurrency=2))
        await asyncio.to_thread(_wait, lambda: len(hanging) == 2)
        batch.cancel()
        await batch

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(give_up())
    assert Counter(statuses().values()) == {RunStatus.COMPLETED: 1, RunStatus.INTERRUPTED: 2}
    server.app.faults = None
    assert raws(each(crew, form, inputs=ITEMS, run_ids="b")) == CHARGED
    assert sorted(effects.lines) == EACH_ONCE


@pytest.mark.parametrize("form", FORMS)
def test_items_see_the_callers_context(server: Server, effects: Effects, form: Form) -> None:
    """A context variable of the caller reaches every item; what an item sets stays with it."""
    seen: list[str] = []

    def look(who: str) -> None:
        seen.append(_TENANT.get())
        _TENANT.set(who)

    crew = hardened(server, effects, hook=look)
    token = _TENANT.set("acme")
    try:
        each(crew, form, inputs=ITEMS, concurrency=3)
    finally:
        _TENANT.reset(token)
    assert seen == ["acme"] * 6


def test_factory_builds_a_crew_for_each_item(server: Server, effects: Effects) -> None:
    """A function's crew is built once for each item, and what the user has set on it counts."""
    built: list[Crew] = []

    @harden(journal="runs.db")
    def make() -> Crew:
        built.append(make_crew(server.url, effects))
        return built[-1]

    heard: list[str] = []
    made: Any = make()

    def listen(output: Any) -> Any:
        heard.append(output.raw)
        return output

    made.after_kickoff_callbacks.append(listen)
    assert raws(made.kickoff_for_each(inputs=ITEMS, concurrency=3)) == CHARGED
    assert len(built) == 1 + len(ITEMS)
    assert sorted(heard) == CHARGED
    assert made.usage_metrics.total_tokens == total(server)


def test_batch_after_a_kickoff(server: Server, effects: Effects) -> None:
    """What an earlier kickoff filled in and counted is no part of the items."""
    crew = hardened(server, effects)
    crew.kickoff(inputs={"who": "zoe"})
    server.reset()
    assert raws(crew.kickoff_for_each(inputs=ITEMS[:2])) == CHARGED[:2]
    assert crew.usage_metrics.total_tokens == total(server)


def boss_of(server: Server, path: str, work: Callable[[], list[str]]) -> Any:
    """A hardened crew whose one tool does `work`, a batch, and then its agent is done."""

    @tool
    def charge_all(month: str) -> str:
        """Charge everybody."""
        return f"{month}: {work()}"

    llm = make_llm(server.url, path, max_retries=0)  # type: ignore[arg-type]
    boss = Agent(
        role="Boss", goal="g", backstory="b", llm=llm, tools=[charge_all], max_retry_limit=0
    )
    task = Task(description="Charge everybody", expected_output="o", agent=boss)
    says = Rule(use("charge_all", {"month": "june"}), answer("done"), agent="Boss")
    server.app.script = Conversation(says, *script().rules)
    nested = {"charge_all": {"effect": "nested"}}
    return harden(Crew(agents=[boss], tasks=[task]), journal="runs.db", tools=nested)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", PATHS)
def test_batch_in_a_tool_belongs_to_the_run_around_it(
    server: Server, effects: Effects, path: str, form: Form
) -> None:
    """Its items are on that run's bill, and the tool is told of a bad one."""
    inner = hardened(server, effects, path)
    told: list[str] = []

    def work() -> list[str]:
        told.extend(raws(each(inner, form, inputs=ITEMS, concurrency=3)))
        return told

    outer = boss_of(server, path, work)
    fail_for(server, "cid")
    result = outer.kickoff(run_id="outer")
    assert told == [*CHARGED[:2], "ModelRejected", *CHARGED[3:]]
    assert (result.raw, set(statuses())) == ("done", {"outer"})
    assert result.token_usage.total_tokens == total(server)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", PATHS)
def test_run_that_is_stopped_ends_the_batch_in_its_tool(
    server: Server, effects: Effects, path: str, form: Form
) -> None:
    """Resumed, the tool does the batch again: what was done of it is replayed."""
    charging: list[str] = []
    one_by_one = (
        threading.Lock()
    )  # else the others may all be done before the fourth has stopped it

    def stop(who: str) -> None:
        with one_by_one:
            charging.append(who)
            if len(charging) == 4:
                for run in HEART.runs():
                    run.stop(RunInterrupted(signal=15))

    inner = hardened(server, effects, path, hook=stop)
    work = partial(each, inner, form, inputs=ITEMS, concurrency=2)
    outer = boss_of(server, path, lambda: raws(work()))
    with pytest.raises(RunInterrupted):
        outer.kickoff(run_id="outer")
    assert f"charge {charging[3]}" in effects.lines
    assert len(effects.lines) in (4, 5)
    result = outer.kickoff(run_id="outer")
    assert (result.raw, set(statuses())) == ("done", {"outer"})
    assert sorted(effects.lines) == EACH_ONCE
    answered = [record.digest for record in server.requests if record.status == 200]
    assert len(answered) == len(set(answered)) == REQUESTS * 6 + 2
    assert result.token_usage.total_tokens == total(server)


def _bare_and_hardened(server: Server, effects: Effects) -> Iterator[tuple[Any, dict[str, Any]]]:
    for crew, more in (
        (make_crew(server.url, effects), {}),
        (hardened(server, effects), {"run_ids": "b"}),
    ):
        crew.stream = True
        yield crew, more


def test_streams_of_a_batch(server: Server, effects: Effects) -> None:
    """A streaming crew gives a stream for each item, as the bare one does; read, they are runs."""
    told = []
    for crew, more in _bare_and_hardened(server, effects):
        streams = crew.kickoff_for_each(inputs=ITEMS[:3], **more)
        text = ["".join(chunk.content for chunk in stream) for stream in streams]
        told.append((text, [stream.result.raw for stream in streams]))
    assert told[0] == told[1]
    assert told[0][1] == CHARGED[:3]
    assert set(statuses()) == {"b-0", "b-1", "b-2"}


@pytest.mark.parametrize("form", FORMS[1:])
def test_stream_of_a_batch(server: Server, effects: Effects, form: Form) -> None:
    """Asynchronously one stream gives the chunks of all items, and their results."""

    async def read(crew: Any, more: dict[str, Any]) -> Any:
        stream = await getattr(crew, form)(inputs=ITEMS[:3], **more)
        chunks = [chunk.content async for chunk in stream]
        return sorted(chunks), raws(stream.results)

    told = [asyncio.run(read(*one)) for one in _bare_and_hardened(server, effects)]
    assert told[0] == told[1]
    assert told[0][1] == CHARGED[:3]
    assert set(statuses()) == {"b-0", "b-1", "b-2"}
    server.reset()
    assert asyncio.run(read(crew_of(server, effects), {"run_ids": "b"}))[1] == CHARGED[:3]
    assert not server.requests


def crew_of(server: Server, effects: Effects) -> Any:
    """The hardened crew, streaming."""
    crew = hardened(server, effects)
    crew.stream = True
    return crew


@pytest.mark.parametrize("form", FORMS)
def test_progress_on_a_terminal(
    server: Server, effects: Effects, monkeypatch: pytest.MonkeyPatch, form: Form
) -> None:
    """One line on stderr: how many are done, how many failed, and what they have cost."""
    fail_for(server, "bob")
    crew = hardened(server, effects)
    with terminal(monkeypatch) as seen:
        each(crew, form, inputs=ITEMS)
    text = seen()
    assert "batch" in text
    assert "6/6" in text
    assert "1 failed" in text
    assert f"{total(server):,} tokens" in text
    assert "\n" not in text.strip()


@pytest.mark.parametrize("silence", [{"progress": False}, {"settings": Settings(quiet=True)}])
def test_progress_can_be_silenced(
    server: Server, effects: Effects, monkeypatch: pytest.MonkeyPatch, silence: dict[str, Any]
) -> None:
    """Nothing is written to the terminal if the call or the settings say so."""
    told = {"progress": silence["progress"]} if "progress" in silence else {}
    crew = hardened(server, effects, **({} if told else silence))
    with terminal(monkeypatch) as seen:
        crew.kickoff_for_each(inputs=ITEMS[:1], **told)
    assert seen() == ""


def test_no_progress_elsewhere(
    server: Server, effects: Effects, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written to a stderr that is no terminal."""
    hardened(server, effects).kickoff_for_each(inputs=ITEMS[:1])
    assert capfd.readouterr().err == ""


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """Make stderr a terminal; what was written to it can be read after the block."""
    ours, theirs = pty.openpty()
    written = bytearray()

    def read() -> None:
        with suppress(OSError):  # how a terminal says that the other end is closed
            while data := os.read(ours, 4096):
                written.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    with monkeypatch.context() as patched:
        patched.setenv("TERM", "xterm")
        patched.setenv("COLUMNS", "120")
        with open(theirs, "w", encoding="utf-8") as stream:
            patched.setattr(sys, "stderr", stream)
            yield lambda: re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())
    reader.join()
    os.close(ours)


def _wait(until: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(6000):
        if until():
            return
        pause.wait(0.01)
    raise AssertionError("it did not happen within a minute")
