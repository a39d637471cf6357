"""Crews and agents kicked off inside the tools of a hardened crew belong to its run."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Process, Task
from crewai.tools import BaseTool, tool

from crewai_prod import harden, open_journal
from crewai_prod._crewai.takeover import seam_of
from crewai_prod.errors import RunPaused
from crewai_prod.records import RunStatus
from tests.crews import make_llm
from tests.integration.parts import (
    MODES,
    PATHS,
    Effects,
    Killed,
    Mode,
    fail_once,
    go,
    killed,
    killed_before_each_request,
    make_tools,
)
from tests.openai_server import Conversation, Reply, Rule, Server, Turn, answer, fault, use

SHOP = Conversation(
    Rule(use("ask_shop", {"order": 7}), answer("the shop is done"), agent="Clerk"),
    Rule(use("charge", {"amount": 7}), answer("charged 7"), agent="Cashier"),
    Rule(use("send", {"to": "ann"}), answer("sent to ann"), agent="Courier"),
)
OUTER = 2
"""Requests of the clerk."""


@dataclass
class Shop:
    """A clerk whose tool asks a shop, and the shop: a crew of a cashier and a courier."""

    server: Server
    effects: Effects
    path: str
    journal: Path

    def __post_init__(self) -> None:
        _, charge, send = make_tools(self.effects)
        self.server.app.script = SHOP
        self.llm = self.model()
        self.cashier, self.courier = self.agent("Cashier", charge), self.agent("Courier", send)
        self.crew = self.inner()

    def model(self) -> Any:
        """A model of the server's."""
        return make_llm(self.server.url, self.path, max_retries=0)  # type: ignore[arg-type]

    def agent(self, role: str, *tools: BaseTool, **more: Any) -> Agent:
        """An agent on the shop's model."""
        return Agent(
            role=role,
            goal="g",
            backstory="b",
            llm=self.llm,
            tools=list(tools),
            max_retry_limit=0,
            **more,
        )

    def inner(self, **more: Any) -> Crew:
        """The shop's crew."""
        tasks = [
            Task(description="Pay {order}", expected_output="o", agent=self.cashier),
            Task(description="Send {order}", expected_output="o", agent=self.courier),
        ]
        return Crew(name="shop", agents=[self.cashier, self.courier], tasks=tasks, **more)

    def outer(self, ask: BaseTool, effect: str | None = "nested", *, bare: bool = False) -> Any:
        """The clerk's crew."""
        clerk = Agent(
            role="Clerk",
            goal="g",
            backstory="b",
            llm=self.model(),
            tools=[ask],
            max_retry_limit=0,
        )
        task = Task(description="Serve", expected_output="o", agent=clerk)
        crew = Crew(name="outer", agents=[clerk], tasks=[task])
        declared = {} if effect is None else {"ask_shop": {"effect": effect}}
        return crew if bare else harden(crew, journal=self.journal, tools=declared)

    @property
    def run_ids(self) -> list[str]:
        """The runs of the journal."""
        return [run.run_id for run in open_journal(self.journal).runs()]


@pytest.fixture
def make(server: Server, effects: Effects, tmp_path: Path) -> Callable[[str], Shop]:
    """Open a shop on one of the tool paths."""
    return lambda path: Shop(server, effects, path, tmp_path / "j.db")


def asking(work: Callable[[], Any]) -> BaseTool:
    """The clerk's tool, as a function that does `work`."""

    @tool
    def ask_shop(order: int) -> str:
        """Ask the shop."""
        return str(work())

    return ask_shop


def asking_async(work: Callable[[], Any]) -> BaseTool:
    """The clerk's tool, as a coroutine function that awaits `work`."""

    @tool
    async def ask_shop(order: int) -> str:
        """Ask the shop."""
        return str(await work())

    return ask_shop


def hardened_crew(shop: Shop) -> BaseTool:
    """A hardened crew."""
    inner = harden(shop.crew, journal=shop.journal)
    return asking(lambda: inner.kickoff(inputs={"order": 7}).raw)


def bare_crew(shop: Shop) -> BaseTool:
    """A bare crew."""
    return asking(lambda: shop.crew.kickoff(inputs={"order": 7}).raw)


def awaited_crew(shop: Shop) -> BaseTool:
    """A bare crew, awaited."""

    async def work() -> Any:
        return (await shop.crew.akickoff(inputs={"order": 7})).raw

    return asking_async(work)


def hardened_awaited_crew(shop: Shop) -> BaseTool:
    """A hardened crew, awaited."""
    inner = harden(shop.crew, journal=shop.journal)

    async def work() -> Any:
        return (await inner.akickoff(inputs={"order": 7})).raw

    return asking_async(work)


def threaded_crew(shop: Shop) -> BaseTool:
    """A bare crew under `kickoff_async`."""

    async def work() -> Any:
        return (await shop.crew.kickoff_async(inputs={"order": 7})).raw

    return asking_async(work)


def bare_agents(shop: Shop) -> BaseTool:
    """Two bare agents, one after the other."""
    return asking(lambda: shop.cashier.kickoff("pay").raw + shop.courier.kickoff("send").raw)


def hardened_agents(shop: Shop) -> BaseTool:
    """Two hardened agents."""
    one, two = (harden(a, journal=shop.journal) for a in (shop.cashier, shop.courier))
    return asking(lambda: one.kickoff("pay").raw + two.kickoff("send").raw)


def awaited_agents(shop: Shop) -> BaseTool:
    """Two bare agents, awaited at once."""

    async def work() -> Any:
        done = [shop.cashier.kickoff_async("pay"), shop.courier.kickoff_async("send")]
        return [one.raw for one in await asyncio.gather(*done)]

    return asking_async(work)


def two_threads(shop: Shop) -> BaseTool:
    """Two crews of equal inputs side by side, in threads that were given the context."""

    def work() -> Any:
        crews = [shop.inner(), harden(shop.inner(), journal=shop.journal)]
        with ThreadPoolExecutor(2) as pool:
            begun = [
                pool.submit(contextvars.copy_context().run, crew.kickoff, {"order": 7})
                for crew in crews
            ]
            return sorted(one.result().raw for one in begun)

    return asking(work)


def twice(shop: Shop) -> BaseTool:
    """The same crew twice, with equal inputs."""
    return asking(lambda: [shop.crew.kickoff(inputs={"order": 7}).raw for _ in range(2)])


def hardened_twice(shop: Shop) -> BaseTool:
    """A hardened crew twice: the second may be answered from CrewAI's cache, if the bare one is."""
    inner = harden(shop.crew, journal=shop.journal)
    return asking(lambda: [inner.kickoff(inputs={"order": 7}).raw for _ in range(2)])


def for_each(shop: Shop) -> BaseTool:
    """A batch of a bare crew."""
    inputs = [{"order": 7}, {"order": 8}]
    return asking(lambda: [one.raw for one in shop.crew.kickoff_for_each(inputs)])


CASES = [
    *((kind, path) for kind in (hardened_crew, bare_crew, bare_agents) for path in PATHS),
    (awaited_crew, "text"),
    (hardened_awaited_crew, "native"),
    (threaded_crew, "native"),
    (hardened_agents, "text"),
    (awaited_agents, "native"),
    (two_threads, "native"),
    (twice, "text"),
    (hardened_twice, "text"),
    (for_each, "text"),
]


@pytest.mark.parametrize(("kind", "path"), CASES, ids=lambda one: getattr(one, "__name__", one))
def test_killed_before_every_request(
    server: Server, make: Callable[[str], Shop], effects: Effects, kind: Any, path: str
) -> None:
    """The run repeats no request and no effect of what was kicked off within, and has its bill."""
    mode = MODES[CASES.index((kind, path)) % 3]
    other = make(path)
    other.journal = other.journal.with_name("bare.db")
    bare = go(other.outer(kind(other), bare=True), mode)
    requests, spent, acted = len(server.requests), server.total_usage, sorted(effects.lines)
    server.reset()
    effects.path.unlink()
    shop = make(path)
    crew = shop.outer(kind(shop))
    result = killed_before_each_request(lambda: go(crew, mode, run_id="a"))
    assert (result.raw, sorted(effects.lines)) == (bare.raw, acted)
    assert len(server.requests) == requests > OUTER
    assert result.token_usage.total_tokens == spent.total_tokens
    assert server.total_usage.total_tokens == spent.total_tokens
    assert shop.run_ids == ["a"]
    assert go(crew, mode, run_id="a").raw == bare.raw
    assert len(server.requests) == requests
    _is_the_users_own(shop)


def _is_the_users_own(shop: Shop) -> None:
    held: list[Any] = [shop.crew, shop.cashier, shop.courier, *shop.crew.agents, *shop.crew.tasks]
    held += [agent.llm for agent in shop.crew.agents]
    held += [one for agent in shop.crew.agents for one in agent.tools or []]
    assert [one for one in held if seam_of(one) is not None] == []
    assert shop.crew.agents[0] is shop.cashier
    assert shop.cashier.llm is shop.llm


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_bare_crew_shows_its_outputs_and_is_bare_again(
    server: Server, make: Callable[[str], Shop], effects: Effects, path: str, mode: Mode
) -> None:
    """After a kickoff within a run the user's objects hold its outputs and belong to no run."""
    other = make(path)  # CrewAI may answer the second kickoff's tools from its cache
    twice = [other.crew.kickoff(inputs={"order": 7}).raw for _ in range(2)]
    acted = effects.lines
    effects.path.unlink()
    shop = make(path)
    go(shop.outer(bare_crew(shop)), mode, run_id="a")
    assert [task.output.raw for task in shop.crew.tasks] == ["charged 7", "sent to ann"]
    _is_the_users_own(shop)
    steps = open_journal(shop.journal).steps("a")
    cost = sum(s.usage.total_tokens for s in steps if s.usage and "/tasks/" in s.scope)
    assert shop.crew.token_usage.total_tokens == cost > 0
    again = shop.crew.kickoff(inputs={"order": 7})
    assert (again.raw, effects.lines) == (twice[-1], acted)
    assert shop.run_ids == ["a"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("effect", ["write", None, "read"])
def test_interrupted_tool_around_a_crew(
    make: Callable[[str], Shop], effects: Effects, effect: str | None, path: str, server: Server
) -> None:
    """Cut off, a tool that may act itself pauses the run; called again it repeats nothing."""
    shop = make(path)
    crew = shop.outer(bare_crew(shop), effect)
    with pytest.raises(Killed):
        killed(lambda: crew.kickoff(run_id="a"), 3)
    if effect == "read":
        result = crew.kickoff(run_id="a")
    else:
        with pytest.raises(RunPaused, match="ask_shop"):
            crew.kickoff(run_id="a")
        result = crew.kickoff(run_id="a", unknown="rerun")
    assert (result.raw, effects.lines) == ("the shop is done", ["charge 7", "send ann"])
    assert len(server.requests) == OUTER + 4
    assert result.token_usage.total_tokens == server.total_usage.total_tokens


@pytest.mark.parametrize("path", PATHS)
def test_two_levels(
    server: Server, make: Callable[[str], Shop], effects: Effects, path: str
) -> None:
    """A crew in the tool of a crew in the tool of a crew."""
    shop = make(path)
    server.app.script = Conversation(
        Rule(use("ask_shop", {"order": 7}), answer("asked"), agent="Middle"), *SHOP.rules
    )
    middle = shop.agent("Middle", bare_crew(shop))
    task = Task(description="Ask", expected_output="o", agent=middle)
    between = Crew(name="between", agents=[middle], tasks=[task])
    # What is declared for the run holds for what is kicked off within it without being hardened.
    crew = shop.outer(asking(lambda: between.kickoff().raw))
    result = killed_before_each_request(lambda: crew.kickoff(run_id="a"))
    assert (result.raw, effects.lines) == ("the shop is done", ["charge 7", "send ann"])
    assert len(server.requests) == 8
    assert result.token_usage.total_tokens == server.total_usage.total_tokens
    deepest = max((step.scope for step in open_journal(shop.journal).steps("a")), key=len)
    assert [part.partition("~")[0] for part in deepest.split("/")] == [
        *("tasks", "0", "Clerk", "ask_shop", "between", "tasks", "0", "Middle", "ask_shop", "shop"),
        *("tasks", "0", "Cashier"),
    ]


def _named_model(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setenv("OPENAI_API_BASE", f"{server.url}/v1")
    return "openai/gpt-4o-mini"


def test_hierarchical_crew_within(
    server: Server, make: Callable[[str], Shop], effects: Effects, monkeypatch: Any
) -> None:
    """The manager that CrewAI makes from a model's name is metered and answered, too."""
    shop = make("native")
    server.app.script = Conversation(
        Rule(use("charge", {"amount": 7}), answer("charged 7"), task="Pay seven"),
        Rule(use("ask_shop", {"order": 7}), answer("the shop is done"), agent="Clerk"),
        Rule(
            use(
                "delegate_work_to_coworker",
                {"task": "Pay seven", "context": "c", "coworker": "Cashier"},
            ),
            answer("all charged"),
        ),
    )
    inner = Crew(
        agents=[shop.cashier],
        tasks=[Task(description="Charge it", expected_output="o")],
        process=Process.hierarchical,
        manager_llm=_named_model(server, monkeypatch),
    )
    crew = shop.outer(asking(lambda: inner.kickoff().raw))
    result = killed_before_each_request(lambda: crew.kickoff(run_id="a"))
    assert (result.raw, effects.lines) == ("the shop is done", ["charge 7"])
    assert len(server.requests) == 6
    assert result.token_usage.total_tokens == server.total_usage.total_tokens
    assert seam_of(inner.manager_llm) is seam_of(inner.manager_agent) is None


def test_planning_crew_within(
    server: Server, make: Callable[[str], Shop], effects: Effects, monkeypatch: Any
) -> None:
    """The planner that CrewAI makes from a model's name is metered and answered, too."""
    shop = make("native")
    plan = '{"list_of_plans_per_task": [{"task_number": 1, "task": "t", "plan": "step one"}]}'

    def planning(turn: Turn) -> bool:
        return turn.schema is not None or "plan" in turn.task[:200]

    server.app.script = Conversation(Rule(Reply(plan), when=planning), *SHOP.rules)
    inner = Crew(
        agents=[shop.cashier],
        tasks=[Task(description="Pay", expected_output="o", agent=shop.cashier)],
        planning=True,
        planning_llm=_named_model(server, monkeypatch),
    )
    crew = shop.outer(asking(lambda: inner.kickoff().raw))
    result = killed_before_each_request(lambda: crew.kickoff(run_id="a"))
    assert (result.raw, effects.lines) == ("the shop is done", ["charge 7"])
    assert result.token_usage.total_tokens == server.total_usage.total_tokens


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", [bare_crew, hardened_crew, bare_agents, hardened_agents])
def test_failure_within_is_told_to_the_outer_model(
    server: Server, make: Callable[[str], Shop], effects: Effects, kind: Any, path: str
) -> None:
    """A crew that fails in a tool fails the tool, not the run; on resume it stays as it was."""
    shop = make(path)
    crew = shop.outer(kind(shop))
    fail_once(server, fault("unauthorized"), lambda seen: "Courier" in str(seen.body))
    with pytest.raises(Killed):
        killed(lambda: crew.kickoff(run_id="a"), 5)
    result = crew.kickoff(run_id="a")
    assert (result.raw, effects.lines) == ("the shop is done", ["charge 7"])
    assert len(server.requests) == OUTER + 3
    assert open_journal(shop.journal).run("a").reason == "degraded"


@pytest.mark.parametrize("kind", [bare_crew, hardened_crew])
def test_unusable_answer_within_is_asked_for_anew(
    server: Server, make: Callable[[str], Shop], effects: Effects, kind: Any
) -> None:
    """An answer that a nested task could do nothing with is not handed over again on resume."""
    shop = make("native")
    verdicts: list[bool] = [False]

    def check(output):  # type: ignore[no-untyped-def]  # CrewAI reads the annotations
        return (True, output.raw) if verdicts.pop() else (False, "no")

    shop.crew.tasks[1].guardrail = check
    shop.crew.tasks[1]._guardrail = check
    shop.crew.tasks[1].guardrail_max_retries = 0
    crew = shop.outer(kind(shop))

    @tool
    def ask_shop(order: int) -> str:
        """Ask the shop."""
        try:
            return str(shop.crew.kickoff(inputs={"order": 7}).raw)
        except Exception as error:
            raise Killed from error

    crew = shop.outer(ask_shop)
    with pytest.raises(Killed):
        killed(lambda: crew.kickoff(run_id="a"), 99)
    asked = len(server.requests)
    verdicts.append(True)
    result = crew.kickoff(run_id="a")
    assert (result.raw, effects.lines) == ("the shop is done", ["charge 7", "send ann"])
    assert len(server.requests) == asked + OUTER
    assert result.token_usage.total_tokens == server.total_usage.total_tokens


def test_run_id_within_a_run_is_a_run_of_its_own(
    server: Server, make: Callable[[str], Shop], effects: Effects
) -> None:
    """A crew kicked off with a run_id has its own bill; the outer run has what is left."""
    shop = make("native")
    inner = harden(shop.crew, journal=shop.journal)
    crew = shop.outer(asking(lambda: inner.kickoff(inputs={"order": 7}, run_id="b").raw))
    result = killed_before_each_request(lambda: crew.kickoff(run_id="a"))
    journal = open_journal(shop.journal)
    assert sorted(shop.run_ids) == ["a", "b"]
    assert [journal.run(run).status for run in "ab"] == [RunStatus.COMPLETED] * 2
    spent = {
        run: sum(step.usage.total_tokens for step in journal.steps(run) if step.usage)
        for run in "ab"
    }
    assert spent["a"] == result.token_usage.total_tokens
    assert spent["a"] + spent["b"] == server.total_usage.total_tokens
    assert effects.lines == ["charge 7", "send ann"]


def test_hardened_crew_within_counts_what_it_cost(
    server: Server, make: Callable[[str], Shop]
) -> None:
    """`token_usage` of the inner output is the inner crew's own, also after a resume."""
    shop = make("native")
    inner = harden(shop.crew, journal=shop.journal)
    seen: list[int] = []

    def work() -> str:
        output = inner.kickoff(inputs={"order": 7})
        seen.append(output.token_usage.total_tokens)
        return str(output.raw)

    crew = shop.outer(asking(work))
    with pytest.raises(Killed):
        killed(lambda: crew.kickoff(run_id="a"), 6)
    crew.kickoff(run_id="a")
    records = [record for record in server.requests if "Clerk" not in str(record.body)]
    spent = sum((record.usage or {})["total_tokens"] for record in records)
    assert seen == [spent]
