"""Hardened flows: every method is a step, and what it uses belongs to the run."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, CrewOutput, Task
from crewai.flow.flow import Flow, and_, listen, or_, router, start
from crewai.flow.human_feedback import human_feedback
from crewai.flow.persistence import persist
from crewai.flow.persistence.sqlite import SQLiteFlowPersistence
from crewai.lite_agent_output import LiteAgentOutput
from pydantic import BaseModel

from crewai_prod import harden, open_journal, step
from crewai_prod._crewai.takeover import seam_of
from crewai_prod.errors import DefinitionChanged, RunMismatch, RunPaused
from crewai_prod.records import RunStatus, StepKind
from tests.crews import make_llm
from tests.integration.parts import (
    MODES,
    PATHS,
    Effects,
    Killed,
    Mode,
    go,
    killed,
    killed_before_each_request,
    make_tools,
)
from tests.openai_server import Conversation, Reply, Rule, Server, answer, use

SHOP = Conversation(
    Rule(use("charge", {"amount": 7}), answer("charged 7"), agent="Cashier"),
    Rule(use("send", {"to": "ann"}), answer("sent to ann"), agent="Courier"),
)


class Item(BaseModel):
    """What is sold."""

    name: str
    pieces: int = 1


class Size(enum.Enum):
    """Of an order."""

    BIG = "big"
    SMALL = "small"


@dataclass
class Note:
    """What a method may return."""

    text: str
    size: Size


class Order(BaseModel):
    """The state of the flows here."""

    id: str = ""
    customer: str = "bob"
    items: list[Item] = []
    paid: bool = False
    sent: bool = False
    log: str = ""


@dataclass
class Desk:
    """What the flows work with: a model, two agents, and a place to leave effects."""

    server: Server
    effects: Effects
    path: str

    def __post_init__(self) -> None:
        self.server.app.script = SHOP
        _, self.charge, self.send = make_tools(self.effects)

    def model(self) -> Any:
        """A model of the server's."""
        return make_llm(self.server.url, self.path, max_retries=0)  # type: ignore[arg-type]

    def cashier(self) -> Agent:
        """An agent that charges."""
        return self._agent("Cashier", self.charge)

    def courier(self) -> Agent:
        """An agent that sends."""
        return self._agent("Courier", self.send)

    def _agent(self, role: str, tool: Any) -> Agent:
        return Agent(
            role=role,
            goal="g",
            backstory="b",
            llm=self.model(),
            tools=[tool],
            max_retry_limit=0,
        )

    def crew(self, agent: Agent) -> Crew:
        """A crew of one."""
        task = Task(description="Do it for {customer}", expected_output="o", agent=agent)
        return Crew(name="shop", agents=[agent], tasks=[task])


DESK: Any = None
"""The desk of the test that runs: flows are classes, and CrewAI makes some of them itself."""


@pytest.fixture
def desk(server: Server, effects: Effects) -> Callable[[str], Desk]:
    """Open a desk on one of the tool paths."""

    def opened(path: str = "native") -> Desk:
        global DESK
        DESK = Desk(server, effects, path)
        return DESK  # type: ignore[no-any-return]

    return opened


class Shop(Flow[Order]):
    """A start, a crew and an agent side by side, a router, an end: results of many kinds."""

    @start()
    def begin(self) -> Item:
        DESK.effects.add("begin")
        self.state.items.append(Item(name="lamp"))
        return Item(name="lamp", pieces=2)

    @listen(begin)
    def pay(self, item: Item) -> CrewOutput:
        assert type(item) is Item
        output = DESK.crew(DESK.cashier()).kickoff(inputs={"customer": self.state.customer})
        self.state.paid = True
        return output  # type: ignore[no-any-return]

    @listen(begin)
    async def deliver(self) -> LiteAgentOutput:
        output = await DESK.courier().kickoff_async("send it")
        self.state.sent = True
        return output  # type: ignore[no-any-return]

    @router(and_(pay, deliver))
    def judge(self) -> Size:
        DESK.effects.add("judge")
        assert self.state.paid
        assert self.state.sent
        return Size.BIG

    @listen("big")
    def wrap(self) -> Note:
        self.state.log += "wrapped"
        return Note("wrapped", Size.BIG)

    @listen(or_(wrap, "small"))
    def end(self, note: Note) -> str:
        assert type(note) is Note
        DESK.effects.add("end")
        items = ", ".join(item.name for item in self.state.items)
        return f"{note.text} {note.size.value} {items} for {self.state.customer}"


@pytest.mark.parametrize(
    ("path", "mode"),
    [("native", "kickoff"), ("text", "kickoff_async"), ("native", "akickoff"), ("text", "kickoff")],
)
def test_killed_before_every_request(
    server: Server,
    desk: Callable[[str], Desk],
    effects: Effects,
    tmp_path: Path,
    path: str,
    mode: Mode,
) -> None:
    """Result, state, bill and effects are those of an uninterrupted bare flow."""
    desk(path)
    bare = Shop()
    expected = go(bare, mode, inputs={"customer": "ann"})
    requests, spent, acted = len(server.requests), server.total_usage, sorted(effects.lines)
    server.reset()
    effects.path.unlink()
    result = killed_before_each_request(
        lambda: go(
            harden(Shop(), journal=tmp_path / "j.db"), mode, inputs={"customer": "ann"}, run_id="a"
        )
    )
    assert result == expected == "wrapped big lamp for ann"
    assert sorted(effects.lines) == acted
    assert len(server.requests) == requests
    assert server.total_usage.total_tokens == spent.total_tokens
    flow = harden(Shop(), journal=tmp_path / "j.db")
    assert go(flow, mode, inputs={"customer": "ann"}, run_id="a") == expected
    left = {"id"}
    assert flow.state.model_dump(exclude=left) == bare.state.model_dump(exclude=left)
    assert type(flow.state.items[0]) is Item
    assert len(server.requests) == requests
    assert flow.usage_metrics.total_tokens == bare.usage_metrics.total_tokens
    assert flow.usage_metrics.total_tokens == spent.total_tokens
    runs = open_journal(tmp_path / "j.db").runs()
    assert [(run.run_id, run.status) for run in runs] == [("a", RunStatus.COMPLETED)]


class Fails(Flow[dict[str, Any]]):
    """A method that raises, beside one that does not, and after one that was done."""

    @start()
    def begin(self) -> None:
        DESK.effects.add("begin")
        self.state["count"] = 1

    @listen(begin)
    def work(self) -> str:
        DESK.effects.add("work")
        self.state["count"] += 1
        if DESK.server is None:
            raise KeyError("no server")
        return f"counted {self.state['count']}"


@pytest.mark.parametrize("mode", MODES)
def test_failed_method_is_called_again(
    desk: Callable[[], Desk], effects: Effects, tmp_path: Path, mode: Mode
) -> None:
    """The user's own exception is raised; resuming calls that method again, and it alone."""
    here = desk()
    flow = harden(Fails(), journal=tmp_path / "j.db")
    server, here.server = here.server, None  # type: ignore[assignment]
    with pytest.raises(KeyError, match="no server") as seen:
        go(flow, mode, run_id="a")
    assert "resume with run_id='a'" in "".join(seen.value.__notes__)
    journal = open_journal(tmp_path / "j.db")
    assert journal.run("a").status is RunStatus.FAILED
    here.server = server
    assert go(flow, mode, run_id="a") == "counted 2"
    assert effects.lines == ["begin", "work", "work"]
    with pytest.raises(RunMismatch):
        go(flow, mode, run_id="a", inputs={"other": 1})


class Cycle(Flow[dict[str, Any]]):
    """A loop: each method is executed three times."""

    @start("again")
    def turn(self) -> int:
        self.state["turns"] = self.state.get("turns", 0) + 1
        DESK.effects.add(f"turn {self.state['turns']}")
        return int(self.state["turns"])

    @router(turn)
    def more(self, turn: int) -> str:
        if turn == 2:
            DESK.crew(DESK.cashier()).kickoff(inputs={"customer": "ann"})
        return "again" if turn < 3 else "done"

    @listen("done")
    def end(self) -> str:
        return f"{self.state['turns']} turns"


def test_cycle(desk: Callable[[], Desk], effects: Effects, server: Server, tmp_path: Path) -> None:
    """The n-th execution of a method is answered by the n-th recorded one."""
    desk()
    result = killed_before_each_request(
        lambda: harden(Cycle(), journal=tmp_path / "j.db").kickoff(run_id="a")
    )
    assert result == Cycle().kickoff() == "3 turns"
    assert effects.lines[:4] == ["turn 1", "turn 2", "charge 7", "turn 3"]


class Odd:
    """Nothing that JSON could restore."""

    def __init__(self) -> None:
        self.value = 3


class Unkept(Flow[dict[str, Any]]):
    """A method whose result cannot be stored, one whose state cannot, one that is kept."""

    @start()
    def make(self) -> Odd:
        DESK.effects.add("make")
        DESK.crew(DESK.cashier()).kickoff(inputs={"customer": "ann"})
        return Odd()

    @listen(make)
    def keep(self, odd: Odd) -> int:
        DESK.effects.add("keep")
        self.state["odd"] = odd
        return odd.value

    @listen(keep)
    def plain(self, value: int) -> int:
        DESK.effects.add("plain")
        DESK.courier().kickoff("send it")
        return value + int(self.state["odd"].value)


def test_what_cannot_be_stored_is_made_again(
    desk: Callable[[], Desk], effects: Effects, server: Server, tmp_path: Path
) -> None:
    """A method that returns such a thing is called again; its crew is not asked again."""
    desk()
    result = killed_before_each_request(
        lambda: harden(Unkept(), journal=tmp_path / "j.db").kickoff(run_id="a")
    )
    assert result == 6
    assert [effects.lines.count(line) for line in ("charge 7", "send ann")] == [1, 1]
    assert len(server.requests) == 4
    assert effects.lines.count("make") > 1
    told = (tmp_path / "j.db.log.jsonl").read_text(encoding="utf-8")
    assert "make returned a Odd, which cannot be restored" in told
    assert "keep changed the state's odd, which cannot be restored" in told
    assert harden(Unkept(), journal=tmp_path / "j.db").kickoff(run_id="a") == 6
    assert len(server.requests) == 4


class Side(Flow[dict[str, Any]]):
    """Two methods side by side that change one member of the state, one after the other."""

    @start()
    def begin(self) -> None:
        self.state["log"] = []

    @listen(begin)
    async def first(self) -> None:
        self.state["log"].append("first")

    @listen(begin)
    async def second(self) -> None:
        await asyncio.sleep(0.3)
        self.state["log"].append("second")

    @listen(and_(first, second))
    def join(self) -> list[str]:
        if DESK.server is None:
            raise KeyError("stopped")
        self.state["log"].append("join")
        return list(self.state["log"])


@pytest.mark.parametrize("turn", range(3))
def test_changes_of_parallel_methods_are_done_in_their_order(
    desk: Callable[[], Desk], tmp_path: Path, turn: int
) -> None:
    """Replayed at once, they leave the state as the one that ended last did."""
    here = desk()
    server, here.server = here.server, None  # type: ignore[assignment]
    with pytest.raises(KeyError):
        harden(Side(), journal=tmp_path / "j.db").kickoff(run_id="a")
    here.server = server
    flow = harden(Side(), journal=tmp_path / "j.db")
    assert flow.kickoff(run_id="a") == ["first", "second", "join"]


def test_persist(desk: Callable[[], Desk], effects: Effects, tmp_path: Path) -> None:
    """States are saved and loaded as by a bare flow; a resume starts from the run's own state."""
    here = desk()
    store = SQLiteFlowPersistence(str(tmp_path / "states.db"))

    @persist(store)
    class Counting(Flow[dict[str, Any]]):
        @start()
        def one(self) -> int:
            self.state["count"] = self.state.get("count", 0) + 1
            return int(self.state["count"])

        @listen(one)
        def two(self) -> int:
            self.state["count"] += 10
            if here.server is None:
                raise KeyError("stopped")
            return int(self.state["count"])

    journal = tmp_path / "j.db"
    flow = harden(Counting(), journal=journal)
    assert flow.kickoff(run_id="a") == 11
    saved = flow.state["id"]
    assert (store.load_state(saved) or {})["count"] == 11
    assert harden(Counting(), journal=journal).kickoff(inputs={"id": saved}, run_id="b") == 22
    server, here.server = here.server, None  # type: ignore[assignment]
    with pytest.raises(KeyError):
        harden(Counting(), journal=journal).kickoff(inputs={"id": saved}, run_id="c")
    assert (store.load_state(saved) or {})["count"] == 23
    here.server = server
    assert harden(Counting(), journal=journal).kickoff(inputs={"id": saved}, run_id="c") == 33
    forked = harden(Counting(), journal=journal)
    assert forked.kickoff(restore_from_state_id=saved, run_id="d") == 44
    assert forked.state["id"] != saved
    assert (store.load_state(saved) or {})["count"] == 33


def test_persisted_method(desk: Callable[[], Desk], tmp_path: Path) -> None:
    """`@persist` on a method saves after it, on a resume as well."""
    desk()
    store = SQLiteFlowPersistence(str(tmp_path / "states.db"))

    class Saving(Flow[dict[str, Any]]):
        @start()
        @persist(store)
        def one(self) -> None:
            self.state["kept"] = True

        @listen("one")
        def two(self) -> str:
            return "two"

    flow = harden(Saving(), journal=tmp_path / "j.db")
    assert flow.kickoff(run_id="a") == "two"
    assert (store.load_state(flow.state["id"]) or {})["kept"]


def reviewing(**options: Any) -> Any:
    """A class of flows whose first method a person looks at."""

    class Review(Flow[dict[str, Any]]):
        @start()
        @human_feedback(message="Good?", **options)
        def write(self) -> str:
            DESK.effects.add("write")
            return "a draft"

        @listen("approved")
        def publish(self) -> str:
            DESK.effects.add("publish")
            return f"published, {self.last_human_feedback.feedback}"

        @listen("rejected")
        def drop(self) -> str:
            return "dropped"

    return Review


def test_human_feedback_on_the_console(
    desk: Callable[[], Desk],
    effects: Effects,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A person is asked once; the model that reads the answer is metered and asked once."""
    here = desk()
    server.app.script = Conversation(Rule(Reply('{"outcome": "approved"}')))
    asked: list[str] = []

    def type_in(prompt: str = "") -> str:
        asked.append(prompt)
        return "looks fine"

    monkeypatch.setattr("builtins.input", type_in)
    review = reviewing(emit=["approved", "rejected"], llm=here.model())
    result = killed_before_each_request(
        lambda: harden(review(), journal=tmp_path / "j.db", human="terminal").kickoff(run_id="a")
    )
    assert result == "published, looks fine"
    assert (len(asked), len(server.requests)) == (1, 1)
    assert effects.lines == ["write", "publish"]
    steps = open_journal(tmp_path / "j.db").steps("a")
    assert [one.name for one in steps if one.kind is StepKind.HUMAN] == ["human_feedback"]
    assert sum(one.kind is StepKind.MODEL for one in steps) == 1


def test_human_feedback_without_outcomes(
    desk: Callable[[], Desk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flow that ends with a person's answer hands back CrewAI's own result of it."""
    desk()
    monkeypatch.setattr("builtins.input", lambda prompt="": "fine")
    flow = reviewing()
    first = harden(flow(), journal=tmp_path / "j.db", human="terminal").kickoff(run_id="a")
    monkeypatch.delattr("builtins.input")
    again = harden(flow(), journal=tmp_path / "j.db").kickoff(run_id="a")
    assert (first.feedback, first.output) == ("fine", "a draft")
    assert again == first
    assert type(again) is type(first)


class Instantly:
    """A provider that answers at once."""

    def __init__(self) -> None:
        self.asked = 0

    def request_feedback(self, context: Any, flow: Any) -> str:
        """Answer."""
        self.asked += 1
        return "yes"


class Later:
    """A provider whose answer comes another day."""

    def request_feedback(self, context: Any, flow: Any) -> str:
        """Say so."""
        from crewai.flow.async_feedback import HumanFeedbackPending

        raise HumanFeedbackPending(context=context)


def test_provider_that_answers_at_once(desk: Callable[[], Desk], tmp_path: Path) -> None:
    """The answer is recorded: a finished run does not ask."""
    desk()
    provider = Instantly()
    review = reviewing(provider=provider)
    for _ in range(2):
        result = harden(review(), journal=tmp_path / "j.db").kickoff(run_id="a")
        assert (result.feedback, provider.asked) == ("yes", 1)


@pytest.mark.parametrize("mode", ["resume", "resume_async"])
@pytest.mark.parametrize("same", [True, False], ids=["same object", "another"])
def test_provider_that_answers_later(
    desk: Callable[[], Desk],
    effects: Effects,
    server: Server,
    tmp_path: Path,
    mode: str,
    same: bool,
) -> None:
    """The run is paused, kicked off again it still waits, and it goes on with the answer."""
    from crewai.flow.async_feedback import HumanFeedbackPending

    here = desk()
    server.app.script = Conversation(Rule(Reply('{"outcome": "approved"}')))
    review = reviewing(provider=Later(), emit=["approved", "rejected"], llm=here.model())
    journal = open_journal(tmp_path / "j.db")
    flow = harden(review(), journal=tmp_path / "j.db")
    for _ in range(2):
        waiting = flow.kickoff(inputs={"topic": "tides"}, run_id="a")
        assert isinstance(waiting, HumanFeedbackPending)
        run = journal.run("a")
        assert (run.status, run.reason) == (RunStatus.PAUSED, "approval")
    other = flow if same else harden(review(), journal=tmp_path / "j.db")
    named = {} if same else {"run_id": "a"}
    if mode == "resume":
        result = other.resume("yes", **named)
    else:
        result = asyncio.run(other.resume_async("yes", **named))
    assert result == "published, yes"
    assert (effects.lines, len(server.requests)) == (["write", "publish"], 1)
    assert journal.run("a").status is RunStatus.COMPLETED
    assert other.state["topic"] == "tides"


class Asking(Flow[dict[str, Any]]):
    """Asks a person in a method."""

    @start()
    def begin(self) -> str:
        name = self.ask("Your name?")
        DESK.courier().kickoff("send it")
        return f"hello {name}"


def test_ask(desk: Callable[[], Desk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`flow.ask` asks once per run."""
    desk()
    asked: list[str] = []

    def type_in(prompt: str = "") -> str:
        asked.append(prompt)
        return "ann"

    monkeypatch.setattr("builtins.input", type_in)
    result = killed_before_each_request(
        lambda: harden(Asking(), journal=tmp_path / "j.db", human="terminal").kickoff(run_id="a")
    )
    assert (result, len(asked)) == ("hello ann", 1)


@pytest.mark.parametrize("path", PATHS)
def test_models_and_tools_kept_on_the_flow(
    desk: Callable[[str], Desk], server: Server, effects: Effects, tmp_path: Path, path: str
) -> None:
    """What a flow holds is recorded when a method uses it, and is the user's own afterwards."""
    here = desk(path)
    server.app.script = Conversation(Rule(Reply("hello")))

    class Holding(Flow[dict[str, Any]]):
        llm: Any = None
        send: Any = None

        @start()
        def begin(self) -> str:
            return str(self.llm.call("hi"))

        @listen(begin)
        def act(self, said: str) -> str:
            sent = self.send.run(to="ann")
            return f"{said}, {sent}, {self.llm.call('bye')}"

    model = here.model()
    flow = Holding(llm=model, send=here.send)
    hardened = harden(flow, journal=tmp_path / "j.db", tools={"send": {"effect": "write"}})
    result = killed_before_each_request(lambda: hardened.kickoff(run_id="a"))
    assert result == "hello, sent to ann, hello"
    assert (effects.lines, len(server.requests)) == (["send ann"], 2)
    assert hardened.usage_metrics.total_tokens == server.total_usage.total_tokens
    assert flow.llm is hardened.llm is model
    assert seam_of(hardened.send) is None
    assert flow.state == hardened.state


@pytest.mark.parametrize("kind", ["hardened", "bare"])
def test_flow_within_a_flow(
    desk: Callable[[], Desk], server: Server, effects: Effects, tmp_path: Path, kind: str
) -> None:
    """A flow kicked off in a method belongs to the run; hardened, its methods are steps, too."""
    desk()

    class Outer(Flow[dict[str, Any]]):
        @start()
        def begin(self) -> str:
            inner: Any = Shop()
            if kind == "hardened":
                inner = harden(inner, journal=tmp_path / "j.db")
            return f"outer {inner.kickoff(inputs={'customer': 'ann'})}"

    flow = harden(Outer(), journal=tmp_path / "j.db")
    result = killed_before_each_request(lambda: flow.kickoff(run_id="a"))
    assert result == "outer wrapped big lamp for ann"
    assert [effects.lines.count(one) for one in ("charge 7", "send ann")] == [1, 1]
    if kind == "hardened":
        assert effects.lines.count("begin") == 1
    assert flow.usage_metrics.total_tokens == server.total_usage.total_tokens
    assert [run.run_id for run in open_journal(tmp_path / "j.db").runs()] == ["a"]


def test_crews_of_a_method(
    desk: Callable[[], Desk], server: Server, effects: Effects, tmp_path: Path
) -> None:
    """A batch, crews awaited side by side, and an agent's coroutine left to the flow to await."""
    here = desk()

    class Many(Flow[dict[str, Any]]):
        @start()
        def batch(self) -> list[str]:
            crew = here.crew(here.cashier())
            done = crew.kickoff_for_each([{"customer": "ann"}, {"customer": "bob"}])
            return [one.raw for one in done]

        @listen(batch)
        async def side(self) -> list[str]:
            crews = [here.crew(here.courier()) for _ in range(2)]
            work = [one.akickoff(inputs={"customer": "cid"}) for one in crews]
            return [one.raw for one in await asyncio.gather(*work)]

        @listen(side)
        async def left(self) -> Any:
            begun: Any = here.cashier().kickoff("pay")
            return await begun

    flow = harden(Many(), journal=tmp_path / "j.db")
    result = killed_before_each_request(lambda: flow.kickoff(run_id="a"))
    assert result.raw == "charged 7"
    assert sorted(effects.lines) == ["charge 7"] * 3 + ["send ann"] * 2
    assert len(server.requests) == 10
    assert flow.usage_metrics.total_tokens == server.total_usage.total_tokens


def test_steps_of_a_method(desk: Callable[[], Desk], effects: Effects, tmp_path: Path) -> None:
    """Functions and methods under `step` are not executed again when their method is."""
    here = desk()

    @step
    def fetch(number: int) -> Item:
        here.effects.add(f"fetch {number}")
        return Item(name="lamp", pieces=number)

    class Stepping(Flow[dict[str, Any]]):
        @start()
        def begin(self) -> int:
            found = [fetch(1), fetch(2), self.own(3)]
            here.courier().kickoff("send it")
            return sum(item.pieces for item in found)

        @step
        def own(self, number: int) -> Item:
            here.effects.add(f"own {number}")
            return Item(name="lamp", pieces=number)

    result = killed_before_each_request(
        lambda: harden(Stepping(), journal=tmp_path / "j.db").kickoff(run_id="a")
    )
    assert result == 6
    assert effects.lines == ["fetch 1", "fetch 2", "own 3", "send ann"]


def test_write_step_that_was_cut_off_pauses_the_flow(
    desk: Callable[[], Desk], effects: Effects, tmp_path: Path
) -> None:
    """A step that acts is never blindly repeated, in a flow as anywhere."""
    here = desk()

    @step(effect="write")
    def pay(amount: int) -> str:
        here.effects.add(f"pay {amount}")
        if here.server is None:
            raise Killed
        return "paid"

    class Paying(Flow[dict[str, Any]]):
        @start()
        def begin(self) -> str:
            return pay(3)

    server, here.server = here.server, None  # type: ignore[assignment]
    flow = harden(Paying(), journal=tmp_path / "j.db")
    with pytest.raises(Killed):
        killed(lambda: flow.kickoff(run_id="a"), 99)
    here.server = server
    with pytest.raises(RunPaused, match="pay"):
        flow.kickoff(run_id="a")
    from crewai_prod import Outcome

    assert flow.kickoff(run_id="a", unknown=Outcome.done("paid")) == "paid"
    assert effects.lines == ["pay 3"]


def test_changed_method_is_refused(desk: Callable[[], Desk], tmp_path: Path) -> None:
    """A run of other code is not continued unless it is asked for; the method is named."""
    here = desk()

    class Told(Flow[dict[str, Any]]):
        @start()
        def begin(self) -> str:
            if here.server is None:
                raise KeyError("stopped")
            return "old"

    before = Told

    class Told(Flow[dict[str, Any]]):  # type: ignore[no-redef]
        @start()
        def begin(self) -> str:
            return "new"

    server, here.server = here.server, None  # type: ignore[assignment]
    with pytest.raises(KeyError):
        harden(before(), journal=tmp_path / "j.db").kickoff(run_id="a")
    here.server = server
    with pytest.raises(DefinitionChanged) as seen:
        harden(Told(), journal=tmp_path / "j.db").kickoff(run_id="a")
    assert seen.value.fields["changed"] == {"Told": ("begin",)}
    assert harden(Told(), journal=tmp_path / "j.db").kickoff(run_id="a", on_change="keep") == "new"


def test_decorated_class(desk: Callable[[], Desk], tmp_path: Path) -> None:
    """`@harden` on a class of flows: its instances are hardened, and are its instances."""
    desk()

    @harden(journal=tmp_path / "j.db")
    class Simple(Flow[Order]):
        @start()
        def begin(self) -> str:
            DESK.effects.add("begin")
            return f"for {self.state.customer}"

    for _ in range(2):
        flow = Simple()
        assert isinstance(flow, Simple)
        assert flow.kickoff(inputs={"customer": "ann"}, run_id="a") == "for ann"
        assert flow.state.customer == "ann"
        assert flow.last_run == "a"
    assert DESK.effects.lines == ["begin"]


def test_second_kickoff_without_an_id_goes_on_from_the_state(
    desk: Callable[[], Desk], tmp_path: Path
) -> None:
    """As on a bare flow: each is a run of its own, and the state is kept."""
    desk()
    flows = [Cycle(), harden(Cycle(), journal=tmp_path / "j.db")]
    seen = []
    for flow in flows:
        flow.kickoff(inputs={"turns": 2})
        flow.state["mine"] = "x"
        seen.append((flow.kickoff(), flow.state["mine"], flow.method_outputs))
    assert seen[0] == seen[1]
    assert len(open_journal(tmp_path / "j.db").runs()) == 2


def test_streamed_flow(
    desk: Callable[[], Desk], server: Server, effects: Effects, tmp_path: Path
) -> None:
    """A stream is that of the bare flow; it is recorded, and finished it is not asked again."""
    desk()

    class Streaming(Flow[dict[str, Any]]):
        @start()
        def begin(self) -> str:
            return str(DESK.crew(DESK.cashier()).kickoff(inputs={"customer": "ann"}).raw)

    for _ in range(2):
        flow = harden(Streaming(stream=True), journal=tmp_path / "j.db")
        stream = flow.kickoff(run_id="a")
        for _piece in stream:
            pass
        assert stream.result == "charged 7"
    assert (effects.lines, len(server.requests)) == (["charge 7"], 2)
    assert open_journal(tmp_path / "j.db").run("a").status is RunStatus.COMPLETED


def test_input_files(
    desk: Callable[[], Desk], server: Server, effects: Effects, tmp_path: Path
) -> None:
    """A flow that is given files hands them on to its crews, as a bare one does."""
    files = pytest.importorskip("crewai_files", reason="crewai-files is an extra of crewai")
    desk()

    class Reading(Flow[dict[str, Any]]):
        @start()
        def begin(self) -> str:
            return str(DESK.crew(DESK.cashier()).kickoff(inputs={"customer": "ann"}).raw)

    file = files.TextFile(source=b"a bill")
    asked = []
    for flow in (Reading(), harden(Reading(), journal=tmp_path / "j.db")):
        server.reset()
        assert flow.kickoff(input_files={"bill": file}) == "charged 7"
        asked.append([record.body["messages"] for record in server.requests])
    assert asked[0] == asked[1]


def test_many_kickoffs_of_one_flow_side_by_side(desk: Callable[[], Desk], tmp_path: Path) -> None:
    """Runs of one object do not see each other's state."""
    desk()
    flow = harden(Cycle(), journal=tmp_path / "j.db")

    async def all_at_once() -> list[str]:
        ids = [f"r{n}" for n in range(4)]
        return list(await asyncio.gather(*(flow.akickoff(run_id=one) for one in ids)))

    assert asyncio.run(all_at_once()) == ["3 turns"] * 4
    assert DESK.effects.lines.count("turn 1") == 4
    assert DESK.effects.lines.count("charge 7") == 4


DECLARED = """
schema: crewai.flow/v1
name: declared
state:
  type: dict
  default:
    topic: tides
methods:
  pay:
    start: true
    do:
      call: crew
      with:
        name: shop
        agents:
          cashier:
            role: Cashier
            goal: g
            backstory: b
            llm: openai/gpt-4o-mini
        tasks:
          - name: pay
            description: pay for ${state.topic}
            expected_output: o
            agent: cashier
  end:
    listen: pay
    do:
      call: expression
      expr: outputs.pay.raw
"""


def test_declared_flow(
    desk: Callable[[], Desk], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flow that was read from a declaration is hardened as one that was written."""
    desk()
    server.app.script = Conversation(Rule(answer("paid"), agent="Cashier"))
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    if not hasattr(Flow, "from_declaration"):
        pytest.skip("this release of CrewAI has no declared flows")
    flow: Any = harden(Flow.from_declaration(contents=DECLARED), journal=tmp_path / "j.db")
    result = killed_before_each_request(lambda: flow.kickoff(run_id="a"))
    assert result == "paid"
    assert len(server.requests) == 1
    assert flow.usage_metrics.total_tokens == server.total_usage.total_tokens
    assert flow.kickoff(run_id="a") == "paid"


def test_conversation(desk: Callable[[], Desk], server: Server, tmp_path: Path) -> None:
    """A conversational flow takes its turns as a bare one: each is a run, the talk goes on."""
    module = pytest.importorskip(
        "crewai.flow.conversational", reason="this release of CrewAI has no conversational flows"
    )
    here = desk()
    server.app.script = Conversation(Rule(Reply("hello there")))

    class Chat(Flow[module.ConversationState]):  # type: ignore[name-defined]
        conversational = True  # type: ignore[pydantic-field]
        conversational_config = module.ConversationConfig(llm=here.model())  # type: ignore[pydantic-field]

    seen = []
    for flow in (Chat(), harden(Chat(), journal=tmp_path / "j.db")):
        said = [flow.handle_turn(text, session_id="s") for text in ("hi", "and again")]
        talk = [(message.role, message.content) for message in flow.state.messages]
        seen.append((said, talk, flow.usage_metrics.total_tokens))
    assert seen[0] == seen[1]
    assert len(open_journal(tmp_path / "j.db").runs()) == 2


def test_model_that_a_method_makes(
    desk: Callable[[], Desk], server: Server, tmp_path: Path
) -> None:
    """It is recorded and counted, though not behind a seam."""
    here = desk()
    server.app.script = Conversation(Rule(Reply("hello")))

    class Calling(Flow[dict[str, Any]]):
        @start()
        def begin(self) -> str:
            return str(here.model().call("hi"))

    flow = harden(Calling(), journal=tmp_path / "j.db")
    assert flow.kickoff(run_id="a") == "hello"
    assert flow.usage_metrics.total_tokens == server.total_usage.total_tokens > 0
    assert flow.kickoff(run_id="a") == "hello"
    assert len(server.requests) == 1
