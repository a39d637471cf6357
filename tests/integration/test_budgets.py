"""No run takes more than it was given: looked at before each call, held against the server."""

from __future__ import annotations

import asyncio
import contextlib
import time
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.flow.flow import Flow, start
from crewai.hooks import register_before_llm_call_hook, unregister_before_llm_call_hook
from crewai.tools import tool
from pydantic import BaseModel

from crewai_prod import Budget, Retry, harden, open_journal, open_run, step
from crewai_prod.errors import (
    BudgetExceeded,
    BudgetPaused,
    ModelUnpriced,
    RunPaused,
    UsageError,
)
from crewai_prod.records import RunStatus
from tests import openai_wire
from tests.crews import make_llm
from tests.integration.parts import (
    MODES,
    PATHS,
    REQUESTS,
    SCRIPT,
    Effects,
    Killed,
    Mode,
    fail_once,
    go,
    killed,
    make_crew,
    make_tools,
    total,
)
from tests.integration.test_cost import by_hand, lines
from tests.journal.support import child, finished
from tests.openai_script import FAULTS, fault
from tests.openai_server import Conversation, Reply, Rule, Server, answer, use

ALL = ["look_up tides", "charge 7", "send ann"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_a_run_stops_before_the_call_that_would_pass_its_limit(
    tmp_path: Path, mode: Mode, path: str
) -> None:
    """Three of six model calls, with what is finished; a higher limit goes on from there."""
    journal = tmp_path / "runs.db"
    effects = Effects(tmp_path)
    with Server(SCRIPT) as server:
        bare = make_crew(server, effects, path)
        crew = harden(bare, journal=journal, budget=Budget(max_llm_calls=3))
        with pytest.raises(BudgetExceeded) as caught:
            go(crew, mode, inputs={"who": "ann"}, run_id="r")
        error = caught.value
        assert (error.fields["limit"], error.fields["most"]) == ("max_llm_calls", 3)
        assert (error.fields["spent"], error.fields["left"]) == (3, 0)
        assert error.fields["scope"] == "run"
        assert (error.run_id, error.task, error.agent) == ("r", "t1", "Cashier")
        assert [one.raw for one in error.outputs] == ["facts about tides"]
        assert server.total_usage.requests == 3
        assert open_journal(journal).run("r").status is RunStatus.FAILED
        with pytest.raises(BudgetExceeded):
            go(crew, mode, inputs={"who": "ann"}, run_id="r")
        assert server.total_usage.requests == 3
        raised = harden(bare, journal=journal, budget=Budget(max_llm_calls=REQUESTS))
        assert go(raised, mode, inputs={"who": "ann"}, run_id="r").raw == "sent to ann"
        assert server.total_usage.requests == REQUESTS
        assert effects.lines == ALL


@pytest.mark.parametrize("path", PATHS)
def test_a_limit_is_counted_over_kills(tmp_path: Path, path: str) -> None:
    """A call that a kill has cut off counts: it may have been made. Replays cost nothing."""
    journal = tmp_path / "runs.db"
    with Server(SCRIPT) as server:
        bare = make_crew(server, Effects(tmp_path), path)
        crew = harden(bare, journal=journal, budget=Budget(max_llm_calls=4))
        for point in ("model.before_call", "model.after_call"):
            with pytest.raises(Killed):
                killed(lambda: crew.kickoff(inputs={"who": "ann"}, run_id="r"), 2, point)
        assert server.total_usage.requests == 3
        with pytest.raises(BudgetExceeded, match=r"4 are spent \(2 by calls that a kill cut off\)"):
            crew.kickoff(inputs={"who": "ann"}, run_id="r")
        assert server.total_usage.requests == 3
        crew = harden(bare, journal=journal, budget=Budget(max_llm_calls=REQUESTS + 2))
        assert crew.kickoff(inputs={"who": "ann"}, run_id="r").raw == "sent to ann"
        assert server.total_usage.requests == REQUESTS + 1
    said = (tmp_path / "runs.db.log.jsonl").read_text()
    assert said.count("ended with 1 model call(s) under way") == 2


@pytest.mark.parametrize("label", [None, "t"])
def test_a_process_that_dies_in_each_of_its_calls_is_bounded(
    tmp_path: Path, label: str | None
) -> None:
    """Nobody learns what these calls took: what was set aside for them counts, in money, too."""
    journal, most = tmp_path / "runs.db", 900
    with Server(SCRIPT) as server:
        bare = make_crew(server, Effects(tmp_path), max_tokens=100)
        budget = Budget(max_tokens=most, max_usd=1, label=label)
        crew = harden(bare, journal=journal, budget=budget)
        kick = partial(crew.kickoff, inputs={"who": "ann"}, run_id="r")
        ends = []
        for _ in range(20):
            try:
                killed(kick, 1, "model.after_call")
            except (Killed, BudgetExceeded) as end:
                ends.append(end)
        sessions = [type(end) for end in ends].index(BudgetExceeded)
        assert isinstance(ends[-1], BudgetExceeded)
        assert ends[-1].fields["limit"] == "max_tokens"
        assert sessions == server.total_usage.requests > 1
        assert most / 2 < total(server) + 100 * sessions < most + 100 * sessions
        assert total(server) <= most
        assert open_journal(journal).runs()[0].total_tokens == 0


def test_a_paused_run_waits_for_a_higher_limit(tmp_path: Path) -> None:
    """`on_limit="pause"`: the run is paused for the budget, and is nobody's failure."""
    journal = tmp_path / "runs.db"
    with Server(SCRIPT) as server:
        bare = make_crew(server, Effects(tmp_path))
        crew = harden(bare, journal=journal, budget=Budget(max_tool_calls=1, on_limit="pause"))
        with pytest.raises(RunPaused) as caught:
            crew.kickoff(inputs={"who": "ann"}, run_id="r")
        assert isinstance(caught.value, BudgetPaused)
        run = open_journal(journal).run("r")
        assert (run.status, run.reason) == (RunStatus.PAUSED, "budget")
        crew = harden(bare, journal=journal, budget=Budget(max_tool_calls=3))
        assert crew.kickoff(inputs={"who": "ann"}, run_id="r").raw == "sent to ann"
        assert server.total_usage.requests == REQUESTS


def test_a_function_decides_at_the_limit(tmp_path: Path) -> None:
    """It is told what the limit is and may raise it, as often as need be; else the run stops."""
    journal = tmp_path / "runs.db"
    told: list[tuple[str, Any, Any]] = []

    def more(excess: Any) -> Any:
        told.append((excess.limit, excess.most, excess.spent))
        return Budget(max_llm_calls=excess.most + 2, on_limit=more) if excess.most < 6 else "stop"

    def wrong(excess: Any) -> Any:
        raise KeyError("no idea")

    with Server(SCRIPT) as server:
        bare = make_crew(server, Effects(tmp_path))
        crew = harden(bare, journal=journal, budget=Budget(max_llm_calls=2, on_limit=more))
        assert crew.kickoff(inputs={"who": "ann"}, run_id="r").raw == "sent to ann"
        assert told == [("max_llm_calls", 2, 2), ("max_llm_calls", 4, 4)]
        crew = harden(bare, journal=journal, budget=Budget(max_llm_calls=2, on_limit=wrong))
        with pytest.raises(BudgetExceeded):
            crew.kickoff(inputs={"who": "ann"}, run_id="s")


@pytest.mark.parametrize("mode", MODES)
def test_money_and_tokens_are_never_passed(tmp_path: Path, mode: Mode) -> None:
    """For many limits, up to the whole: the server has sent no more than that."""
    with Server(SCRIPT) as server:
        go(
            harden(make_crew(server, Effects(tmp_path)), journal=tmp_path / "all.db"),
            mode,
            inputs={"who": "ann"},
        )
        whole = server.total_usage
        completed = 0
        for part in (0.35, 0.9, 1.0, 3.0):
            for limit in ("max_usd", "max_tokens", "max_input_tokens", "max_output_tokens"):
                before = server.total_usage
                budget, most = _part(limit, whole, part)
                crew = harden(
                    make_crew(server, Effects(tmp_path)),
                    journal=tmp_path / f"{limit}{part}.db",
                    budget=budget,
                )
                completed += _completes(crew, mode, limit)
                spent = _measure(limit, server.total_usage) - _measure(limit, before)
                assert spent <= most, (limit, part)
        assert completed >= 4


def _completes(crew: Any, mode: Mode, limit: str) -> bool:
    """Whether a kickoff ends well; it may only be ended by this limit."""
    try:
        go(crew, mode, inputs={"who": "ann"}, run_id="r")
    except BudgetExceeded as error:
        if error.fields["limit"] != limit:
            raise
        return False
    return True


def _measure(limit: str, told: Any) -> Any:
    if limit == "max_usd":
        return by_hand(told)
    return {
        "max_tokens": told.total_tokens,
        "max_input_tokens": told.prompt_tokens,
        "max_output_tokens": told.completion_tokens,
    }[limit]


def _part(limit: str, whole: Any, part: float) -> tuple[Budget, Any]:
    most = _measure(limit, whole)
    value = most * Decimal(str(part)) if limit == "max_usd" else int(most * part)
    given: dict[str, Any] = {limit: value}
    return Budget(**given), value


def test_an_answer_is_capped_to_what_is_left(tmp_path: Path) -> None:
    """The last call is asked for no more than there is; the user's model stays as it is."""
    journal = tmp_path / "runs.db"
    long = Conversation(Rule(Reply("word " * 400)))  # 500 tokens
    with Server(long) as server:
        llm = make_llm(server.url)
        agent = Agent(role="Teller", goal="g", backstory="b", llm=llm)
        task = Task(name="tell", description="Tell", expected_output="o", agent=agent)
        bare = Crew(agents=[agent], tasks=[task])
        crew = harden(bare, journal=journal, budget=Budget(max_output_tokens=100))
        with pytest.raises(BudgetExceeded) as caught:
            crew.kickoff(run_id="r")
        assert caught.value.fields["limit"] == "max_output_tokens"
        assert caught.value.fields["spent"] == 100
        assert server.total_usage.completion_tokens == 100
        assert (llm.max_tokens, llm.max_completion_tokens) == (None, None)
        crew = harden(bare, journal=journal, budget=Budget(max_output_tokens=1000))
        assert len(crew.kickoff(run_id="r").raw) > 1900
        assert server.total_usage.completion_tokens == 601
    (line,) = [one for one in lines(journal, "budget.warning") if one["budget.most"] == 100]
    assert (line["budget.limit"], line["budget.spent"]) == ("max_output_tokens", 100)


def test_a_warning_is_logged_once(tmp_path: Path) -> None:
    """From `warn_at` on, and not again when the run is resumed."""
    journal = tmp_path / "runs.db"
    with Server(SCRIPT) as server:
        crew = harden(
            make_crew(server, Effects(tmp_path)),
            journal=journal,
            budget=Budget(max_llm_calls=7, max_tool_calls=9, warn_at=0.4),
        )
        with pytest.raises(Killed):
            killed(lambda: crew.kickoff(inputs={"who": "ann"}, run_id="r"), 5)
        crew.kickoff(inputs={"who": "ann"}, run_id="r")
    said = [(o["budget.limit"], o["budget.spent"]) for o in lines(journal, "budget.warning")]
    assert said == [("max_llm_calls", 3.0)]


def test_a_call_that_is_too_large_is_not_made(tmp_path: Path) -> None:
    """`per_call_input_tokens` looks at one call, as it is estimated."""
    with Server(SCRIPT) as server:
        crew = harden(
            make_crew(server, Effects(tmp_path)),
            journal=tmp_path / "runs.db",
            budget=Budget(per_call_input_tokens=20),
        )
        with pytest.raises(BudgetExceeded) as caught:
            crew.kickoff(inputs={"who": "ann"}, run_id="r")
        assert caught.value.fields["limit"] == "per_call_input_tokens"
        assert caught.value.fields["spent"] > 20
        assert total(server) == 0


def test_a_task_and_an_agent_have_budgets_of_their_own(tmp_path: Path) -> None:
    """By name and by role; the others are not held to them."""
    for name, calls in (("t1", 3), ("Courier", 5)):
        journal = tmp_path / f"{name}.db"
        with Server(SCRIPT) as server:
            crew = harden(
                make_crew(server, Effects(tmp_path)),
                journal=journal,
                budgets={name: Budget(max_llm_calls=1), "Nobody": Budget(max_usd=1)},
            )
            with pytest.raises(BudgetExceeded) as caught:
                crew.kickoff(inputs={"who": "ann"}, run_id="r")
            assert repr(name) in caught.value.fields["scope"]
            assert server.total_usage.requests == calls


def test_a_budget_on_nobody_is_told(tmp_path: Path) -> None:
    """A role that no agent has limits nothing: the log says so."""
    journal = tmp_path / "runs.db"
    with Server(SCRIPT) as server:
        budgets = {"Reseacher": Budget(max_llm_calls=1)}
        crew = harden(make_crew(server, Effects(tmp_path)), journal=journal, budgets=budgets)
        crew.kickoff(inputs={"who": "ann"}, run_id="r")
    assert any("'Reseacher'" in one["message"] for one in lines(journal, "warning"))


NESTED = Conversation(
    Rule(use("ask_shop", {"order": 7}), answer("the shop is done"), agent="Clerk"),
    Rule(use("charge", {"amount": 7}), answer("charged 7"), agent="Cashier"),
)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("where", ["outer", "inner"])
def test_what_is_kicked_off_within_a_run_is_held_to_budgets(
    tmp_path: Path, mode: Mode, path: str, where: str
) -> None:
    """The run's own, and that of a hardened crew in a tool."""
    effects, journal = Effects(tmp_path), tmp_path / "runs.db"
    budget = Budget(max_llm_calls=2 if where == "outer" else 1)

    def agent(role: str, *tools: Any) -> Agent:
        llm = make_llm(server.url, path, max_retries=0)  # type: ignore[arg-type]
        return Agent(role=role, goal="g", backstory="b", llm=llm, tools=list(tools))

    @tool
    def ask_shop(order: int) -> str:
        """Ask the shop."""
        task = Task(
            description="Pay", expected_output="o", agent=agent("Cashier", make_tools(effects)[1])
        )
        inner = Crew(name="shop", agents=[task.agent], tasks=[task])
        if where == "inner":
            inner = harden(inner, journal=journal, budget=budget)
        return str(inner.kickoff())

    with Server(NESTED) as server:
        clerk = agent("Clerk", ask_shop)
        task = Task(description="Order", expected_output="o", agent=clerk)
        options: dict[str, Any] = {"budget": budget} if where == "outer" else {}
        crew = harden(
            Crew(name="desk", agents=[clerk], tasks=[task]),
            journal=journal,
            tools={"ask_shop": {"effect": "nested"}},
            **options,
        )
        with pytest.raises(BudgetExceeded) as caught:
            go(crew, mode, run_id="r")
        assert caught.value.fields["scope"] == ("run" if where == "outer" else "shop")
        assert server.total_usage.requests == 2
        assert effects.lines == ["charge 7"]


def test_calls_side_by_side_cannot_overspend_together(tmp_path: Path) -> None:
    """Six tasks at once, money for some: each waits for the others where it would not fit."""
    slow = Conversation(Rule(Reply("word " * 100, delay=0.1)))
    with Server(slow) as server:
        llm = make_llm(server.url, max_tokens=200)
        agents = [Agent(role=f"A{n}", goal="g", backstory="b", llm=llm) for n in range(6)]
        tasks = [
            Task(description=f"T{n}", expected_output="o", agent=one, async_execution=True)
            for n, one in enumerate(agents)
        ]
        last = Task(description="End", expected_output="o", agent=agents[0], context=tasks)
        bare = Crew(agents=agents, tasks=[*tasks, last])
        for most in (300, 450, 700):
            before = server.total_usage.completion_tokens
            crew = harden(
                bare, journal=tmp_path / f"{most}.db", budget=Budget(max_output_tokens=most)
            )
            with pytest.raises(BudgetExceeded):
                crew.kickoff(run_id="r")
            spent = server.total_usage.completion_tokens - before
            assert most - 200 < spent <= most


@pytest.mark.parametrize("label", [None, "t"])
def test_a_call_that_was_left_still_holds_what_it_may_take(
    tmp_path: Path, label: str | None
) -> None:
    """It is answered after its deadline and billed: its next try waits to see what is left then."""
    journal = tmp_path / "runs.db"
    with Server(Conversation(Rule(Reply("word " * 40)))) as server:  # 50 tokens
        fail_once(server, fault("drip", seconds=1.2), lambda seen: True)
        agent = Agent(role="Teller", goal="g", backstory="b", llm=make_llm(server.url))
        task = Task(description="Tell", expected_output="o", agent=agent)
        crew = harden(
            Crew(agents=[agent], tasks=[task]),
            journal=journal,
            retry=Retry(attempts=2, timeout=0.5, base=0),
            budget=Budget(max_output_tokens=90, label=label),
        )
        with pytest.raises(BudgetExceeded):
            crew.kickoff(run_id="r")
        assert server.total_usage.completion_tokens == 90  # the next try was capped to 40
        assert open_journal(journal).runs()[0].total_tokens == total(server)
    assert list(open_journal(journal).database().query("SELECT * FROM reservations")) == []


def test_a_model_without_a_price_is_not_called_under_a_budget_in_money(tmp_path: Path) -> None:
    """It would cost nobody knows what; with a price of one's own it is called."""
    with Server(SCRIPT) as server:
        bare = make_crew(server, Effects(tmp_path), model="my-own-model")
        crew = harden(bare, journal=tmp_path / "runs.db", budget=Budget(max_usd=1))
        with pytest.raises(ModelUnpriced, match="has a budget in US dollars"):
            crew.kickoff(inputs={"who": "ann"}, run_id="r")
        assert total(server) == 0
        free = {"my-own-model": 0}
        crew = harden(bare, journal=tmp_path / "runs.db", budget=Budget(max_usd=1), prices=free)
        assert crew.kickoff(inputs={"who": "ann"}, run_id="r").raw == "sent to ann"


# -- budgets that runs share ----------------------------------------------------------------------


def test_runs_of_one_label_share_a_budget(tmp_path: Path) -> None:
    """What earlier runs of a tenant took counts; another tenant has its own."""
    journal = tmp_path / "runs.db"
    with Server(SCRIPT) as server:
        bare = make_crew(server, Effects(tmp_path))

        def kick(tenant: str, run_id: str, most: int = 8) -> Any:
            budget = Budget(max_llm_calls=most, window="day", label=tenant)
            crew = harden(bare, journal=journal, budget=budget)
            return crew.kickoff(inputs={"who": "ann"}, run_id=run_id)

        kick("a", "a1")
        with pytest.raises(BudgetExceeded) as caught:
            kick("a", "a2")
        assert caught.value.fields["scope"] == "run, this day (label 'a')"
        assert server.total_usage.requests == 8
        kick("b", "b1")
        assert server.total_usage.requests == 14
        kick("a", "a2", most=12)
        assert server.total_usage.requests == 18
        with pytest.raises(BudgetExceeded):
            kick("a", "a3", most=12)


def test_batches_share_a_window_without_overspending(tmp_path: Path) -> None:
    """Eight runs at once under one budget of tool calls and tokens: the sum stays within it."""
    journal = tmp_path / "runs.db"
    with Server(SCRIPT) as server:
        most = 2000
        budget = Budget(max_tokens=most, max_tool_calls=10, window="hour")
        crew = harden(
            make_crew(server, Effects(tmp_path), max_tokens=100), journal=journal, budget=budget
        )
        items = [{"who": str(n)} for n in range(8)]
        done = asyncio.run(crew.akickoff_for_each(items, run_ids="b", progress=False))
        stopped = [one for one in done if isinstance(one, BudgetExceeded)]
        assert stopped
        assert len(stopped) < 8 or total(server) > most / 2
        assert total(server) <= most
        rows = open_journal(journal).database().query("SELECT * FROM shared_usage")
        (row,) = list(rows)
        assert row["label"] == "crew/parts"
        assert row["input_tokens"] + row["output_tokens"] == total(server)
        assert row["tool_calls"] <= 10
        assert list(open_journal(journal).database().query("SELECT * FROM reservations")) == []


KICKS = """
from pathlib import Path
from types import SimpleNamespace
from crewai_prod import Budget, Settings, harden
from crewai_prod.errors import BudgetExceeded
from tests.integration.parts import Effects, make_crew
journal, url, name, most = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
crew = make_crew(SimpleNamespace(url=url), Effects(journal.parent), max_tokens=60)
budget = Budget(max_tokens=most, window="day", label="t")
soon = Settings(lease_seconds=1)  # until then the others wait for what the killed one has set aside
crew = harden(crew, journal=journal, budget=budget, settings=soon)
print("ready", flush=True)
sys.stdin.readline()
for number in range(4):
    try:
        crew.kickoff(inputs={"who": name}, run_id=f"{name}-{number}")
    except BudgetExceeded:
        break
"""


def test_processes_share_a_window_without_overspending(tmp_path: Path) -> None:
    """Three processes at once, one of them killed: what the server has sent stays within it."""
    journal = tmp_path / "runs.db"
    with Server(SCRIPT) as server:
        go(harden(make_crew(server, Effects(tmp_path)), journal=journal), inputs={"who": "x"})
        one = total(server)
        most = one * 5 // 2
        started = [child(KICKS, str(journal), server.url, f"p{n}", str(most)) for n in range(3)]
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        time.sleep(0.3)
        started[0].kill()
        started[0].communicate()
        for process in started[1:]:
            finished(process)
        taken = total(server) - one
    (row,) = (
        open_journal(journal)
        .database()
        .query(
            "SELECT sum(input_tokens + output_tokens) AS tokens FROM shared_usage WHERE label = 't'"
        )
    )
    assert row["tokens"] <= most
    assert taken <= most
    assert row["tokens"] > most / 2


# -- time -----------------------------------------------------------------------------------------


def test_a_run_has_so_many_seconds_over_all_its_sessions(tmp_path: Path) -> None:
    """The call under way is left when they are over; a resumed run has what is left of them."""
    journal = tmp_path / "runs.db"
    slow = Conversation(Rule(Reply("done", delay=1.5)))
    with Server(slow) as server:
        agent = Agent(role="Teller", goal="g", backstory="b", llm=make_llm(server.url))
        task = Task(name="tell", description="Tell", expected_output="o", agent=agent)
        bare = Crew(agents=[agent], tasks=[task])
        crew = harden(bare, journal=journal, budget=Budget(max_seconds=0.7))
        began = time.monotonic()
        with pytest.raises(BudgetExceeded) as caught:
            crew.kickoff(run_id="r")
        assert time.monotonic() - began < 1.4
        assert caught.value.fields["limit"] == "max_seconds"
        (line,) = lines(journal, "budget.warning")
        assert (line["budget.limit"], line["budget.most"]) == ("max_seconds", 0.7)
        began = time.monotonic()
        with pytest.raises(BudgetExceeded):
            crew.kickoff(run_id="r")
        assert time.monotonic() - began < 0.6
        assert len(open_journal(journal).steps("r")) >= 1
        crew = harden(bare, journal=journal, budget=Budget(max_seconds=60))
        assert crew.kickoff(run_id="r").raw == "done"


def test_code_in_a_run_is_held_to_its_budget(tmp_path: Path) -> None:
    """`open_run` takes budgets, too: steps begin no more once its time is over."""

    @step(effect="read")
    def work(n: int) -> int:
        time.sleep(0.3)
        return n

    def code() -> None:
        with open_run("r", journal=tmp_path / "runs.db", budget=Budget(max_seconds=0.2)):
            work(1)
            done.append(1)

    done: list[int] = []
    with pytest.raises(BudgetExceeded) as caught:
        code()
    assert (caught.value.fields["limit"], done) == ("max_seconds", [])
    assert open_journal(tmp_path / "runs.db").run("r").status is RunStatus.FAILED


def test_what_is_no_budget_is_refused() -> None:
    """At once, when the crew is hardened."""
    agent = Agent(role="Teller", goal="g", backstory="b", llm=make_llm("http://localhost"))
    task = Task(description="Tell", expected_output="o", agent=agent)
    crew = Crew(agents=[agent], tasks=[task])
    for wrong in ({"budget": 5}, {"budgets": Budget(max_usd=1)}, {"budgets": {"a": 3}}):
        with pytest.raises(UsageError):
            harden(crew, **wrong)
    with pytest.raises(UsageError, match="max_seconds is for a run"):
        harden(crew, budgets={"a": Budget(max_seconds=1)})


# -- other ways to be asked -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_streamed_answer_is_capped_too(tmp_path: Path, mode: Mode) -> None:
    """The same limit, read from a stream."""
    long = Conversation(Rule(Reply("word " * 400)))
    with Server(long) as server:
        agent = Agent(role="Teller", goal="g", backstory="b", llm=make_llm(server.url, stream=True))
        task = Task(name="tell", description="Tell", expected_output="o", agent=agent)
        crew = harden(
            Crew(agents=[agent], tasks=[task]),
            journal=tmp_path / "runs.db",
            budget=Budget(max_output_tokens=100),
        )
        with pytest.raises(BudgetExceeded):
            go(crew, mode, run_id="r")
        assert server.total_usage.completion_tokens == 100


def test_tries_and_models_that_stand_in_count(tmp_path: Path) -> None:
    """Each try of a call is a model call; a dearer model may be what does not fit any more."""
    journal = tmp_path / "runs.db"
    with Server(SCRIPT) as server:
        fail_once(server, FAULTS["unauthorized"], lambda seen: True)
        other = make_llm(server.url, model="openai/gpt-4", max_tokens=1000)
        retry = Retry(attempts=1, fallback=[other])
        llm: dict[str, Any] = {"max_tokens": 100}
        bare = make_crew(server, Effects(tmp_path), **llm)
        crew = harden(bare, journal=journal, retry=retry, budget=Budget(max_usd="0.001"))
        with pytest.raises(BudgetExceeded) as caught:
            crew.kickoff(inputs={"who": "ann"}, run_id="r")
        assert caught.value.fields["limit"] == "max_usd"
        assert server.total_usage.requests == 0  # the dear one was not asked
        crew = harden(bare, journal=journal, retry=retry, budget=Budget(max_llm_calls=3))
        with pytest.raises(BudgetExceeded):
            crew.kickoff(inputs={"who": "ann"}, run_id="r")
        assert server.total_usage.requests == 2  # and the try that was refused


def test_agents_and_flows_have_budgets(tmp_path: Path) -> None:
    """An agent's run is stopped like a crew's, and what a flow kicks off counts as the flow's."""
    journal, effects = tmp_path / "runs.db", Effects(tmp_path)

    class Shop(Flow[dict[str, Any]]):
        """A crew in a method."""

        @start()
        def pay(self) -> str:
            task = Task(description="Pay", expected_output="o", agent=cashier())
            return str(Crew(agents=[task.agent], tasks=[task]).kickoff())

    def cashier() -> Agent:
        tools = [make_tools(effects)[1]]
        return Agent(role="Cashier", goal="g", backstory="b", llm=make_llm(server.url), tools=tools)

    budget = Budget(max_llm_calls=1)
    with Server(SCRIPT) as server:
        with pytest.raises(BudgetExceeded):
            harden(cashier(), journal=journal, budget=budget).kickoff("Pay", run_id="a")
        with pytest.raises(BudgetExceeded):
            harden(Shop(), journal=journal, budget=budget).kickoff(run_id="f")
        assert server.total_usage.requests == 2
        assert harden(cashier(), journal=journal).kickoff("Pay", run_id="a").raw == "charged 7"
        assert harden(Shop(), journal=journal).kickoff(run_id="f") == "charged 7"
    assert effects.lines == ["charge 7", "charge 7"]


def test_a_call_that_was_withdrawn_holds_nothing(tmp_path: Path) -> None:
    """A hook that refuses a model call leaves the whole budget to the next."""
    journal = tmp_path / "runs.db"
    refused: list[int] = []

    def refuse(context: Any) -> bool | None:
        refused.append(1)
        return False if len(refused) == 1 else None

    with Server(SCRIPT) as server:
        budget = [Budget(max_llm_calls=6), Budget(max_llm_calls=6, label="t")]
        crew = harden(make_crew(server, Effects(tmp_path)), journal=journal, budget=budget)
        register_before_llm_call_hook(refuse)
        try:
            with contextlib.suppress(Exception):
                crew.kickoff(inputs={"who": "ann"}, run_id="r")
        finally:
            unregister_before_llm_call_hook(refuse)
        assert refused
        assert crew.kickoff(inputs={"who": "ann"}, run_id="r").raw == "sent to ann"
        assert server.total_usage.requests == REQUESTS


@pytest.mark.parametrize("limit", ["tokens", "money"])
def test_a_call_of_which_nothing_is_reported_counts_as_estimated(
    tmp_path: Path, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the bill nobody knows what it cost; the limit holds all the same, after a kill, too."""
    journal = tmp_path / "runs.db"
    counted = openai_wire.usage_of
    said = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    monkeypatch.setattr(openai_wire, "usage_of", lambda *_: said)
    with Server(SCRIPT) as server:
        budget = Budget(max_tokens=1100) if limit == "tokens" else Budget(max_usd="0.0002")
        crew = make_crew(server, Effects(tmp_path), max_tokens=60)
        hardened = harden(crew, journal=journal, budget=budget)
        with pytest.raises(Killed):
            killed(lambda: hardened.kickoff(inputs={"who": "ann"}, run_id="r"), 3)
        with pytest.raises(BudgetExceeded, match="With a higher limit"):
            hardened.kickoff(inputs={"who": "ann"}, run_id="r")
        sent = server.requests
    assert 2 < len(sent) < REQUESTS
    run = open_journal(journal).runs()[0]
    assert (run.cost_usd, run.spent.unpriced) == (None, len(sent))
    took = sum(counted(one.body, Reply())["prompt_tokens"] for one in sent)
    assert took < 1100


@pytest.mark.parametrize("path", PATHS)
def test_an_agent_of_a_flow_that_was_stopped_is_not_asked_again(tmp_path: Path, path: str) -> None:
    """Its answer was of use; the limit stood before the tool that it called."""
    journal = tmp_path / "runs.db"
    with Server(SCRIPT) as server:
        agent = make_crew(server, Effects(tmp_path), path).agents[0]

        class Desk(Flow):  # type: ignore[type-arg]
            @start()
            def work(self) -> str:
                return str(agent.kickoff("Look it up.").raw)

        with pytest.raises(BudgetExceeded):
            harden(Desk(), journal=journal, budget=Budget(max_tool_calls=0)).kickoff(run_id="r")
        assert len(server.requests) == 1
        raised = harden(Desk(), journal=journal, budget=Budget(max_tool_calls=1))
        assert raised.kickoff(run_id="r") == "facts about tides"
        assert len(server.requests) == 2


class _Report(BaseModel):
    text: str


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_in_a_form_is_cut_like_any_other(tmp_path: Path, stream: bool) -> None:
    """The SDK gives up on it; it is the budget that has cut it, and it is on the bill."""
    journal = tmp_path / "runs.db"
    long = Reply('{"text": "' + "x" * 400 + '"}')
    with Server(Conversation(Rule(long))) as server:
        model = harden(make_llm(server.url, stream=stream, max_retries=0))
        budget = Budget(max_output_tokens=50)
        with (
            pytest.raises(BudgetExceeded, match="max_output_tokens is 50, 50 are spent"),
            open_run("r", journal=journal, budget=budget),
        ):
            model.call("Report.", response_model=_Report)
        assert [one.body["max_tokens"] for one in server.requests] == [50]
    (total,) = open_journal(journal).usage()
    assert total.spent.unpriced == (1 if stream else 0)  # not told: it breaks off before the end
    assert total.usage.output_tokens == (0 if stream else 50)


def test_a_try_that_failed_is_a_call(tmp_path: Path) -> None:
    """CrewAI raises a provider's exception from itself; the try is recorded all the same."""
    journal = tmp_path / "runs.db"
    with Server(SCRIPT) as server:
        fail_once(server, FAULTS["server_error"], lambda _: True)
        quick = Retry(attempts=3, base=0.01)
        crew = harden(make_crew(server, Effects(tmp_path)), journal=journal, retry=quick)
        crew.kickoff(inputs={"who": "ann"}, run_id="r")
        assert open_journal(journal).usage()[0].llm_calls == len(server.requests) == REQUESTS + 1
