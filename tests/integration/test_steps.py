"""`step` and `open_run`: durable runs around plain functions, with and without crews in them."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from pydantic import BaseModel

from crewai_prod import Outcome, current_step, harden, open_journal, open_run, step
from crewai_prod.errors import ReplayOnly, RunInUse, RunMismatch, RunPaused, UsageError
from crewai_prod.records import RunStatus, StepStatus
from tests.crews import make_llm
from tests.integration.parts import (
    PATHS,
    SCRIPT,
    Effects,
    Killed,
    go,
    killed_before_each_request,
    make_crew,
    make_tools,
)
from tests.openai_server import Server


class Color(enum.Enum):
    """Of a lamp."""

    RED = "red"


@dataclass
class Lamp:
    """A dataclass that a step returns."""

    price: int
    color: Color


class Bill(BaseModel):
    """A model that a step returns."""

    lamps: list[str]
    total: int


class OutOfStock(Exception):
    """The user's own."""


class Interrupted(Exception):
    """What ends a block in these tests."""


done: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_done() -> Iterator[None]:
    done.clear()
    yield
    done.clear()


@step
def fetch(price: int) -> Lamp:
    """Return a dataclass."""
    done.append(f"fetch {price}")
    return Lamp(price, Color.RED)


@step(name="billing")
async def bill(*prices: int) -> Bill:
    """Return a model, on the event loop."""
    await asyncio.sleep(0)
    done.append(f"bill {len(prices)}")
    return Bill(lamps=["lamp"], total=sum(prices))


@step
def missing() -> None:
    """Fail."""
    done.append("missing")
    raise OutOfStock("no lamps left")


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """The journal of a test."""
    return tmp_path / "j.db"


def test_steps_are_done_once(journal: Path) -> None:
    """Interrupted and run again, a block returns the same values of the same classes."""

    def block(*, fail: bool) -> Any:
        with open_run("a", journal=journal) as run:
            lamps = [fetch(1), fetch(1)]
            with pytest.raises(OutOfStock, match="no lamps left"):
                missing()
            lamps.append(fetch(2))
            if fail:
                raise Interrupted
            return lamps, run.finished

    with pytest.raises(Interrupted) as seen:
        block(fail=True)
    assert seen.value.__notes__ == ["crewai-prod: resume with run_id='a'"]
    assert open_journal(journal).run("a").status is RunStatus.FAILED
    expected = [Lamp(1, Color.RED), Lamp(1, Color.RED), Lamp(2, Color.RED)]
    assert block(fail=False) == (expected, False)
    assert block(fail=False) == (expected, True)
    assert done == ["fetch 1", "fetch 1", "missing", "fetch 2"]


def test_failure_that_a_finished_run_survived(journal: Path) -> None:
    """It is raised again, although nothing was recorded after it."""
    for _ in range(2):
        with open_run("a", journal=journal), pytest.raises(OutOfStock):
            missing()
    assert done == ["missing"]


def test_asynchronous_block(journal: Path) -> None:
    """`async with`, coroutine functions, steps side by side."""

    async def block(*, fail: bool) -> list[Bill]:
        async with open_run("a", journal=journal):
            bills = await asyncio.gather(bill(1), bill(2), bill(3))
            if fail:
                raise Interrupted
            return list(bills)

    with pytest.raises(Interrupted):
        asyncio.run(block(fail=True))
    for _ in range(2):
        bills = asyncio.run(block(fail=False))
        assert [(type(one), one.total) for one in bills] == [(Bill, 1), (Bill, 2), (Bill, 3)]
    assert len(done) == 3
    assert {one.name for one in open_journal(journal).steps("a")} == {"billing"}


def test_cancelled_block(journal: Path) -> None:
    """A cancelled block leaves an interrupted run that can be resumed."""

    async def block() -> None:
        async with open_run("a", journal=journal):
            await bill(1)
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(block())
    assert open_journal(journal).run("a").status is RunStatus.INTERRUPTED
    with open_run("a", journal=journal):
        pass
    assert open_journal(journal).run("a").status is RunStatus.COMPLETED


def test_outside_of_runs_a_step_is_a_function() -> None:
    """Nothing is recorded, nothing is hidden."""
    assert fetch(3) == Lamp(3, Color.RED)
    assert fetch(3) == Lamp(3, Color.RED)
    assert done == ["fetch 3", "fetch 3"]
    assert (fetch.__name__, fetch.__doc__) == ("fetch", "Return a dataclass.")


class Shop:
    """Methods as steps: the object itself is no part of the request."""

    def __init__(self, city: str) -> None:
        self.city = city

    @step
    def price(self, item: str, *, pieces: int = 1) -> str:
        """A method."""
        done.append(f"price {item} {pieces}")
        return f"{item} in {self.city}"

    @classmethod
    @step
    def country(cls, name: str) -> str:
        """A class method."""
        done.append(f"country {name}")
        return name


def test_methods(journal: Path) -> None:
    """A new object in a new session asks the same; defaults and names do not matter."""
    for city in ("Rome", "Oslo"):
        with contextlib.suppress(Interrupted), open_run("a", journal=journal):
            shop = Shop(city)
            assert shop.price("lamp") == "lamp in Rome"
            assert shop.price(item="lamp", pieces=2) == "lamp in Rome"
            assert Shop.country("it") == "it"
            raise Interrupted
    assert done == ["price lamp 1", "price lamp 2", "country it"]


@pytest.mark.parametrize(
    ("outcome", "expected", "times"),
    [(Outcome.done("paid 3"), "paid 3", 1), ("rerun", "paid 3", 2), ({}, None, 1)],
)
@pytest.mark.parametrize("how", ["raises", "killed"])
def test_effect_that_nobody_can_vouch_for(
    journal: Path, effects: Effects, how: str, outcome: Any, expected: str | None, times: int
) -> None:
    """A write step that raised or was killed pauses the run until its outcome is told."""
    wrong = [Killed if how == "killed" else RuntimeError]

    @step(effect="write")
    def pay(amount: int) -> str:
        effects.add(f"pay {amount}")
        if wrong:
            raise wrong.pop()
        return f"paid {amount}"

    def block(unknown: Any = None) -> str:
        with open_run("a", journal=journal, unknown=unknown):
            return pay(3)

    with pytest.raises(Killed if how == "killed" else RunPaused):
        block()
    with pytest.raises(RunPaused, match="pay"):
        block()
    run = open_journal(journal).run("a")
    assert (run.status, run.reason) == (RunStatus.PAUSED, "unknown outcome")
    if expected is None:
        with pytest.raises(RunPaused):
            block(outcome)
    else:
        assert block(outcome) == expected
    assert effects.lines == ["pay 3"] * times


def test_failed_by_a_persons_word(journal: Path) -> None:
    """`unknown="fail"`: the code is told that the effect did not happen."""

    @step(effect="write")
    def pay() -> None:
        raise Killed

    with pytest.raises(Killed), open_run("a", journal=journal):
        pay()
    with (
        pytest.raises(Exception, match="did not happen"),
        open_run("a", journal=journal, unknown="fail"),
    ):
        pay()


def test_idempotent_step(journal: Path) -> None:
    """It is called again with the same key."""
    keys: list[str] = []

    @step(effect="write", idempotent=True)
    def pay() -> str:
        here = current_step()
        assert here is not None
        keys.append(here.idempotency_key)
        if len(keys) == 1:
            raise Killed
        return "paid"

    with pytest.raises(Killed), open_run("a", journal=journal):
        pay()
    with open_run("a", journal=journal):
        assert pay() == "paid"
    assert len(set(keys)) == 1
    assert len(keys) == 2
    assert current_step() is None


def test_reconciled_step(journal: Path) -> None:
    """A step that can look whether it acted is asked, and not called."""
    asked: list[dict[str, Any]] = []

    def look(arguments: dict[str, Any], key: str) -> Outcome:
        asked.append(arguments)
        return Outcome.done("paid, says the bank")

    @step(effect="write", reconcile=look)
    def pay(amount: int) -> str:
        raise Killed

    with pytest.raises(Killed), open_run("a", journal=journal):
        pay(3)
    with open_run("a", journal=journal):
        assert pay(3) == "paid, says the bank"
    assert asked == [{"amount": 3}]


def test_finished_run_takes_nothing_new(journal: Path) -> None:
    """It hands out what it holds, and refuses to do more."""
    with open_run("a", journal=journal):
        fetch(1)
    with open_run("a", journal=journal) as run:
        assert run.finished
        assert fetch(1).price == 1
        with pytest.raises(ReplayOnly):
            fetch(2)
    assert done == ["fetch 1"]


def test_inputs_and_owners(journal: Path) -> None:
    """A run belongs to one set of inputs, and to one block at a time."""
    with open_run("a", journal=journal, inputs={"day": 1}):
        with pytest.raises(RunInUse), open_run("a", journal=journal, inputs={"day": 1}):
            pass
        with open_run("b", journal=journal) as inner:
            fetch(1)
        assert inner.run_id == "b"
        fetch(1)
    with pytest.raises(RunMismatch), open_run("a", journal=journal, inputs={"day": 2}):
        pass
    assert done == ["fetch 1", "fetch 1"]
    assert [len(open_journal(journal).steps(run)) for run in "ab"] == [1, 1]


def test_made_up_names_and_wrong_options(journal: Path) -> None:
    """Without a name the run gets one; what does not exist is refused at once."""
    with open_run(name="nightly job", journal=journal) as run:
        assert str(run.run_id).startswith("nightly-job-")
    record = open_journal(journal).run(str(run.run_id))
    assert (record.kind, record.crew) == ("function", "nightly job")
    with pytest.raises(UsageError, match="once"), run:
        pass
    with pytest.raises(UsageError):
        step(effect="maybe")(fetch)
    with pytest.raises(UsageError):
        step(3)  # type: ignore[call-overload]


def test_result_that_cannot_be_stored(journal: Path) -> None:
    """Such a step is called again; the steps in it are not."""

    class Opaque:
        def __init__(self, lamp: Lamp) -> None:
            self.lamp = lamp

    @step
    def wrap() -> Opaque:
        done.append("wrap")
        return Opaque(fetch(1))

    for _ in range(2):
        with contextlib.suppress(Interrupted), open_run("a", journal=journal):
            assert wrap().lamp == Lamp(1, Color.RED)
            raise Interrupted
    assert done == ["wrap", "fetch 1", "wrap"]


@pytest.mark.parametrize("path", PATHS)
def test_crews_and_agents_in_a_block(
    server: Server, effects: Effects, journal: Path, path: str
) -> None:
    """Hardened and bare ones belong to the run; its steps are on one bill."""
    crew = harden(make_crew(server, effects, path), journal=journal)
    llm = make_llm(server.url, path, max_retries=0)  # type: ignore[arg-type]
    tools = [make_tools(effects)[0]]
    agent = Agent(role="Researcher", goal="g", backstory="b", llm=llm, tools=tools, cache=False)
    task = Task(description="Look", expected_output="o", agent=agent)
    bare = Crew(name="bare", agents=[agent], tasks=[task], cache=False)
    server.app.script = SCRIPT

    def block() -> list[str]:
        with open_run("a", journal=journal):
            first = crew.kickoff(inputs={"who": "ann"})
            return [first.raw, bare.kickoff().raw, agent.kickoff("look").raw, str(fetch(1).price)]

    result = killed_before_each_request(block)
    assert result == ["sent to ann", "facts about tides", "facts about tides", "1"]
    assert effects.lines == ["look_up tides", "charge 7", "send ann", *["look_up tides"] * 2]
    assert len(server.requests) == 10
    assert done == ["fetch 1"]
    steps = open_journal(journal).steps("a")
    spent = sum(one.usage.total_tokens for one in steps if one.usage)
    assert spent == server.total_usage.total_tokens
    assert [run.run_id for run in open_journal(journal).runs()] == ["a"]
    assert all(one.status is StepStatus.DONE for one in steps)
    assert block() == result
    assert len(server.requests) == 10


def test_crew_in_an_asynchronous_block(server: Server, effects: Effects, journal: Path) -> None:
    """`akickoff` within `async with`; a run_id makes a run of its own."""
    crew = harden(make_crew(server, effects), journal=journal)

    async def block() -> list[str]:
        async with open_run("a", journal=journal):
            one = await crew.akickoff(inputs={"who": "ann"})
            two = await crew.akickoff(inputs={"who": "bob"}, run_id="b")
            return [one.raw, two.raw]

    assert asyncio.run(block()) == asyncio.run(block()) == ["sent to ann"] * 2
    assert len(server.requests) == 12
    assert sorted(run.run_id for run in open_journal(journal).runs()) == ["a", "b"]


def test_steps_in_a_tool(
    server: Server, effects: Effects, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step in the body of a crew's tool is a step of the crew's run."""
    crew = make_crew(server, effects)
    (tool,) = crew.agents[0].tools or []
    inner: Callable[[str], str] = tool.func

    @step
    def remember(topic: str) -> str:
        done.append(topic)
        return inner(topic)

    def look_up(topic: str) -> str:
        found = remember(topic)
        if len(done) == 1 and not effects.lines[1:]:
            done.append("killed")
            raise Killed
        return found

    monkeypatch.setattr(tool, "func", look_up)
    hardened = harden(crew, journal=journal, tools={"look_up": {"effect": "nested"}})
    with pytest.raises(Killed):
        go(hardened, run_id="a")
    assert go(hardened, run_id="a").raw == "sent to ann"
    assert done == ["tides", "killed"]
    assert effects.lines == ["look_up tides", "charge 7", "send ann"]


def test_without_crewai(tmp_path: Path) -> None:
    """Steps around plain code do not import crewai."""
    code = (
        "import sys\n"
        "from crewai_prod import open_run, step\n"
        "@step\n"
        "def one(): return 1\n"
        "with open_run('a', journal='j.db'): assert one() == 1\n"
        "assert 'crewai' not in sys.modules\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, env={"PYTHONPATH": str(root)}
    )
