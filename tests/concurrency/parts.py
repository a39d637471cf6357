"""A crew whose every prompt, effect and answer names its run, and a check of what it left."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crewai import Agent, Crew, Task
from crewai.llms.base_llm import BaseLLM
from crewai.tools import tool

from crewai_prod import current_step, harden, open_journal
from crewai_prod.logfile import beside, read_log
from crewai_prod.records import RunStatus, StepKind
from tests.concurrency.script import mark, paid, run_of
from tests.openai_server import Record, totals

TOOLS = {"look_up": {"effect": "read"}, "charge": {"effect": "write"}}
_REQUESTS = 2
"""Model calls of one task."""
Act = Callable[[str, str], None]
"""(tool, whom it is done to)."""


def inputs_of(n: int) -> dict[str, Any]:
    """The inputs of the n-th run."""
    return {"who": mark(n), "usd": n}


@dataclass
class World:
    """What tools did: by run id, (tool, whom it was done to, idempotency key)."""

    effects: dict[str, list[tuple[str, str, str]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def act(self, name: str, who: str) -> None:
        """Do something."""
        step = current_step()
        assert step is not None
        with self._lock:
            self.effects[step.run_id].append((name, who, step.idempotency_key))


def make_crew(llm: BaseLLM, act: Act, *, brief: bool = False) -> Crew:
    """Two agents that share a model, two tasks, everything named after the run.

    Args:
        llm: The model.
        act: What tools do.
        brief: The second task alone, where there are very many runs.
    """

    @tool
    def look_up(who: str) -> str:
        """Look somebody up."""
        act("look_up", who)
        return f"{who} lives"

    @tool
    def charge(who: str, usd: int) -> str:
        """Charge somebody."""
        act("charge", who)
        return f"{who} was charged {usd}"

    def agent(name: str, own: Any) -> Agent:
        texts = {"role": f"{name} of {{who}}", "goal": "Serve {who}", "backstory": "Of {who}'s."}
        return Agent(llm=llm, tools=[own], max_retry_limit=0, **texts)

    clerk, cashier = agent("Clerk", look_up), agent("Cashier", charge)
    look = Task(name="look", description="Look {who} up", expected_output="{who}", agent=clerk)
    pay = Task(
        name="charge",
        description="Charge {who} {usd} USD",
        expected_output="{who} and {usd}",
        agent=cashier,
    )
    if brief:
        return Crew(name="bank", agents=[cashier], tasks=[pay])
    return Crew(name="bank", agents=[clerk, cashier], tasks=[look, pay])


def harden_it(kind: str, llm: BaseLLM, world: World, journal: Path, *, brief: bool = False) -> Any:
    """The crew as one hardened `object`, or as what a hardened `factory` returns."""
    hardened = harden(journal=journal, durability="process", tools=TOOLS)
    if kind == "factory":
        return hardened(lambda: make_crew(llm, world.act, brief=brief))()
    return hardened(make_crew(llm, world.act, brief=brief))


def by_run(records: Iterable[Record]) -> Mapping[str, list[Record]]:
    """The requests of each run."""
    found: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        found[mark(run_of(record.body))].append(record)
    return found


def check_runs(
    results: Mapping[int, Any],
    records: Iterable[Record],
    world: World,
    journal: Path,
    *,
    brief: bool = False,
    repeated: int = 0,
) -> None:
    """Output, effects, bill, steps and log lines of each run are its own and complete.

    Args:
        results: What each run returned.
        records: What the server saw of all of them.
        world: What was done.
        journal: Where the runs are.
        brief: As `make_crew` was told.
        repeated: How many requests a run may have sent twice, having been cut off so often.
    """
    asked, lines = by_run(records), defaultdict(list)
    for line in read_log(beside(journal)):
        lines[line["run_id"]].append(line)
    reader = open_journal(journal)
    parts = (("charge", "Cashier"),) if brief else (("look_up", "Clerk"), ("charge", "Cashier"))
    for n, result in results.items():
        name = mark(n)
        agents = [f"{role} of {name}" for _, role in parts]
        assert (result.raw, len(result.tasks_output)) == (paid(n), len(parts))
        done = world.effects[name]
        assert [(tool, who) for tool, who, _ in done] == [(tool, name) for tool, _ in parts]
        assert len({key for _, _, key in done}) == len(parts)
        good = {one.digest: one for one in asked[name] if one.status == 200}
        requests = _REQUESTS * len(parts)
        assert len(good) == requests
        assert sum(one.status == 200 for one in asked[name]) <= requests + repeated
        spent = totals(good.values()).total_tokens
        assert result.token_usage.total_tokens == spent
        assert result.token_usage.successful_requests == requests
        check_journal(reader, name, agents, spent)
        check_log(lines[name], agents, spent)
    reader.close()


def check_journal(reader: Any, name: str, agents: Sequence[str], spent: int) -> None:
    """A run's steps are in its own scopes, by its own agents, and add up to its bill."""
    assert reader.run(name).status is RunStatus.COMPLETED
    steps = reader.steps(name)
    found = Counter((step.kind, step.task, step.agent, step.scope) for step in steps)
    assert found == {
        (kind, task, agent, f"tasks/{task}/{agent}"): times
        for task, agent in enumerate(agents)
        for kind, times in ((StepKind.MODEL, 2), (StepKind.TOOL, 1))
    }
    assert sum(step.usage.total_tokens for step in steps if step.usage) == spent


def check_log(lines: list[dict[str, Any]], agents: Sequence[str], spent: int) -> None:
    """A run's log lines are in order, of its own agents only, and add up to its bill.

    Those that were cut off have taken more than the others: that may be said behind the end.
    """
    lines = [line for line in lines if line["event"] != "usage.alert"]
    assert [lines[0]["event"], lines[-1]["event"]] == ["run.started", "run.finished"]
    assert lines[-1]["status"] == "completed"
    named = {line["gen_ai.agent.name"] for line in lines if "gen_ai.agent.name" in line}
    assert named == set(agents)
    calls = [line for line in lines if line["event"] == "llm.call"]
    told = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")
    assert sum(line.get(key, 0) for line in calls for key in told) == spent
