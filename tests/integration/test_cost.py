"""What a run cost: the ledger in money, against what the server says it has sent."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from crewai import LLM, Agent, Crew, Task
from crewai.types.usage_metrics import UsageMetrics
from hypothesis import given
from hypothesis import strategies as st

from crewai_prod import Settings, harden, open_journal
from crewai_prod._crewai.usage import Reported, read_usage
from crewai_prod.errors import ModelUnpriced, UsageError
from crewai_prod.records import CostStatus, Usage
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
    nth,
)
from tests.openai_script import FAULTS
from tests.openai_server import Conversation, Reply, Rule, Server, Totals
from tests.openai_server import Usage as Claimed

IN, CACHED, OUT = Decimal("0.15"), Decimal("0.075"), Decimal("0.60")
"""gpt-4o-mini, US dollars per million tokens."""
CLAIMS = Conversation(
    Rule(Reply("the answer", usage=Claimed(prompt=1000, completion=200, cached=400, reasoning=50)))
)


def by_hand(told: Totals) -> Decimal:
    """What OpenAI asks for so many tokens."""
    fresh = told.prompt_tokens - told.cached_tokens
    return (fresh * IN + told.cached_tokens * CACHED + told.completion_tokens * OUT) / 10**6


def one_task(server: Server, **llm: Any) -> Crew:
    """A crew of one agent that answers at once."""
    agent = Agent(role="Teller", goal="g", backstory="b", llm=make_llm(server.url, **llm))
    task = Task(name="tell", description="Tell {who}", expected_output="o", agent=agent)
    return Crew(name="tellers", agents=[agent], tasks=[task])


def lines(journal: Path, event: str) -> list[dict[str, Any]]:
    """The lines of one kind in the log beside a journal."""
    log = journal.with_name(f"{journal.name}.log.jsonl").read_text()
    return [line for line in map(json.loads, log.splitlines()) if line["event"] == event]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_a_run_costs_what_the_provider_asks(tmp_path: Path, mode: Mode, path: str) -> None:
    """Every call is priced, and all ways to look at the sum give it to the last digit."""
    journal = tmp_path / "runs.db"
    with Server(SCRIPT) as server:
        crew = harden(make_crew(server, Effects(tmp_path), path), journal=journal)
        go(crew, mode, inputs={"who": "ann"}, run_id="r")
        expected = by_hand(server.total_usage)
    book = open_journal(journal)
    costs = [step.cost for step in book.steps("r") if step.cost is not None]
    assert [cost.status for cost in costs] == [CostStatus.PRICED] * REQUESTS
    assert sum(cost.usd for cost in costs if cost.usd is not None) == expected
    assert book.runs()[0].cost_usd == expected
    for by in ("run", "crew", "task", "agent", "model", "day"):
        rows = book.usage([by])
        assert sum(row.spent.usd for row in rows if row.spent.usd is not None) == expected
    logged = lines(journal, "llm.call")
    assert {line["gen_ai.usage.cost.source"] for line in logged} == {"genai-prices"}
    amounts = sum(Decimal(repr(line["gen_ai.usage.cost.amount"])) for line in logged)
    assert amounts == expected
    assert lines(journal, "run.finished")[0]["totals.cost_usd"] == float(expected)
    assert lines(journal, "cost.unpriced") == []


def test_cached_tokens_are_cheaper_and_reasoning_is_output(tmp_path: Path) -> None:
    """The parts of what a provider reports are priced as such, when it streams too."""
    for stream in (False, True):
        journal = tmp_path / f"{stream}.db"
        with Server(CLAIMS) as server:
            crew = harden(one_task(server, stream=stream), journal=journal)
            crew.kickoff(inputs={"who": "ann"}, run_id="r")
        (step,) = open_journal(journal).steps("r")
        assert step.usage is not None
        assert (step.usage.cache_read_tokens, step.usage.reasoning_tokens) == (400, 50)
        assert step.cost is not None
        assert step.cost.usd == (600 * IN + 400 * CACHED + 200 * OUT) / 10**6


def test_a_resumed_run_is_billed_once(tmp_path: Path) -> None:
    """Killed before each of its requests in turn: what was sent twice is billed, no replay is."""
    journal = tmp_path / "runs.db"
    with Server(SCRIPT) as server:
        crew = harden(make_crew(server, Effects(tmp_path)), journal=journal)
        for _ in range(2):
            with pytest.raises(Killed):
                killed(lambda: crew.kickoff(inputs={"who": "ann"}, run_id="r"), 2)
        crew.kickoff(inputs={"who": "ann"}, run_id="r")
        expected = by_hand(server.total_usage)
        assert server.total_usage.requests == REQUESTS
    book = open_journal(journal)
    assert book.runs()[0].cost_usd == book.usage()[0].spent.usd == expected
    assert lines(journal, "run.finished")[-1]["totals.cost_usd"] == float(expected)


def test_a_billed_answer_that_was_no_use_is_on_the_bill(tmp_path: Path) -> None:
    """An empty answer was paid for: the try it was costs what it cost, and the next one too."""
    journal = tmp_path / "runs.db"
    with Server(CLAIMS) as server:
        fail_once(server, FAULTS["empty"], nth(1))
        crew = harden(one_task(server), journal=journal)
        for _ in range(2):
            with contextlib.suppress(Exception):
                crew.kickoff(inputs={"who": "ann"}, run_id="r")
        assert crew.kickoff(inputs={"who": "ann"}, run_id="r").raw == "the answer"
        expected = by_hand(server.total_usage)
        assert server.total_usage.requests == 2
    assert open_journal(journal).runs()[0].cost_usd == expected


# -- models without a price -----------------------------------------------------------------------


def test_an_unknown_model_is_unpriced_and_said_aloud(tmp_path: Path) -> None:
    """Once per model and run, and wherever the run is listed; never as a cost of nothing."""
    journal = tmp_path / "runs.db"
    with Server(SCRIPT) as server:
        crew = harden(make_crew(server, Effects(tmp_path), model="my-own"), journal=journal)
        crew.kickoff(inputs={"who": "ann"}, run_id="r")
        crew.kickoff(inputs={"who": "ann"}, run_id="s")
    said = lines(journal, "cost.unpriced")
    assert [(line["run_id"], line["gen_ai.request.model"]) for line in said] == [
        ("r", "my-own"),
        ("s", "my-own"),
    ]
    summary = open_journal(journal).runs()[0]
    assert (summary.cost_usd, summary.spent.unpriced) == (None, REQUESTS)
    finished = lines(journal, "run.finished")[0]
    assert finished["totals.unpriced_llm_calls"] == REQUESTS
    assert "totals.cost_usd" not in finished


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_an_unknown_model_can_be_refused(tmp_path: Path, mode: Mode, path: str) -> None:
    """`on_unpriced="fail"`: nothing is sent. With a price the same run goes on and is finished."""
    journal = tmp_path / "runs.db"
    with Server(SCRIPT) as server:
        crew = make_crew(server, Effects(tmp_path), path, model="my-own")
        strict = harden(crew, journal=journal, on_unpriced="fail")
        with pytest.raises(ModelUnpriced, match="my-own") as caught:
            go(strict, mode, inputs={"who": "ann"}, run_id="r")
        assert server.requests == []
        assert (caught.value.run_id, caught.value.agent) == ("r", "Researcher")
        assert caught.value.fields["model"] == "my-own"
        priced = harden(
            crew, journal=journal, on_unpriced="fail", prices={"openai/my-own": {"input": 2}}
        )
        go(priced, mode, inputs={"who": "ann"}, run_id="r")
        expected = server.total_usage.prompt_tokens * Decimal(2) / 10**6
    assert open_journal(journal).runs()[0].cost_usd == expected


def test_an_unknown_model_can_be_estimated(tmp_path: Path) -> None:
    """`on_unpriced=10`: ten dollars per million tokens, marked as an estimate."""
    journal = tmp_path / "runs.db"
    with Server(CLAIMS) as server:
        crew = harden(one_task(server, model="openai/my-own"), journal=journal, on_unpriced=10)
        crew.kickoff(inputs={"who": "ann"}, run_id="r")
    (step,) = open_journal(journal).steps("r")
    assert step.cost is not None
    assert (step.cost.status, step.cost.usd) == (CostStatus.ESTIMATED, Decimal("0.012"))
    (line,) = lines(journal, "llm.call")
    assert (line["cost.status"], line["gen_ai.usage.cost.source"]) == ("estimated", "on_unpriced")


def test_a_price_function_that_fails_loses_no_call(tmp_path: Path) -> None:
    """The call is paid for: it is recorded, unpriced, and the warning says why."""
    journal = tmp_path / "runs.db"

    def broken(*_: Any) -> Decimal:
        raise KeyError("no such price")

    with Server(CLAIMS) as server:
        crew = harden(one_task(server), journal=journal, prices=broken)
        assert crew.kickoff(inputs={"who": "ann"}, run_id="r").raw == "the answer"
    (line,) = lines(journal, "cost.unpriced")
    assert "KeyError" in line["message"]
    assert open_journal(journal).runs()[0].spent.unpriced == 1


def test_prices_come_from_the_settings_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Settings(prices=...)` and CREWAI_PROD_PRICES, CREWAI_PROD_ON_UNPRICED; wrong ones refuse."""
    journal = tmp_path / "runs.db"
    monkeypatch.setenv("CREWAI_PROD_PRICES", '{"my-own": {"input": 0.1, "output": "0.3"}}')
    monkeypatch.setenv("CREWAI_PROD_ON_UNPRICED", "fail")
    with Server(CLAIMS) as server:
        crew = harden(one_task(server, model="openai/my-own"), journal=journal)
        crew.kickoff(inputs={"who": "ann"}, run_id="r")
        settings = Settings(prices={"my-own": {"input": Decimal(1), "output": Decimal(0)}})
        crew = harden(one_task(server, model="openai/my-own"), journal=journal, settings=settings)
        crew.kickoff(inputs={"who": "ann"}, run_id="s")
    costs = {run.run_id: run.cost_usd for run in open_journal(journal).runs()}
    assert costs == {"r": Decimal("0.00016"), "s": Decimal("0.001")}
    monkeypatch.setenv("CREWAI_PROD_ON_UNPRICED", "perhaps")
    with pytest.raises(UsageError, match="perhaps"):
        harden(one_task(server), journal=journal)


# -- what providers report ------------------------------------------------------------------------


def test_what_the_provider_says_it_charged_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`usage.cost` of a response is what the call cost; CrewAI itself drops it."""
    from tests import openai_wire

    told = openai_wire.usage_of
    monkeypatch.setattr(openai_wire, "usage_of", lambda *a: {**told(*a), "cost": 0.00012345})
    for stream in (False, True):
        journal = tmp_path / f"{stream}.db"
        with Server(CLAIMS) as server:
            crew = harden(one_task(server, stream=stream), journal=journal, prices={"*": 5})
            crew.kickoff(inputs={"who": "ann"}, run_id="r")
        (step,) = open_journal(journal).steps("r")
        assert step.cost is not None
        assert (step.cost.status, step.cost.usd) == (CostStatus.REPORTED, Decimal("0.00012345"))
        assert step.usage is not None
        assert step.usage.input_tokens == 1000


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (
            {"prompt_tokens": 9, "completion_tokens": 2, "cached_prompt_tokens": 4},
            Usage(input_tokens=9, output_tokens=2, cache_read_tokens=4, calls=1),
        ),
        (  # LiteLLM: details in objects of its own, and what OpenRouter charged
            {
                "prompt_tokens": 9,
                "completion_tokens": 5,
                "prompt_tokens_details": SimpleNamespace(cached_tokens=4, cache_write_tokens=2),
                "completion_tokens_details": SimpleNamespace(reasoning_tokens=3),
                "cost": 0.25,
            },
            Usage(
                input_tokens=9,
                output_tokens=5,
                cache_read_tokens=4,
                cache_write_tokens=2,
                reasoning_tokens=3,
                calls=1,
                reported_usd=Decimal("0.25"),
            ),
        ),
        (  # Bedrock: cached tokens are not among its input tokens
            {
                "inputTokens": 3,
                "outputTokens": 5,
                "cacheReadInputTokens": 40,
                "cacheWriteInputTokens": 7,
            },
            Usage(
                input_tokens=50,
                output_tokens=5,
                cache_read_tokens=40,
                cache_write_tokens=7,
                calls=1,
            ),
        ),
        (  # a key of the user's own behind OpenRouter
            {
                "prompt_tokens": 1,
                "cost": 0.01,
                "is_byok": True,
                "cost_details": {"upstream_inference_cost": 0.2},
            },
            Usage(input_tokens=1, calls=1, reported_usd=Decimal("0.21")),
        ),
        (
            {"prompt_tokens": 1, "cost": 0.01, "is_byok": True},
            Usage(input_tokens=1, calls=1),
        ),
        (  # Perplexity
            {"prompt_tokens": 1, "cost": {"total_cost": 0.006}},
            Usage(input_tokens=1, calls=1, reported_usd=Decimal("0.006")),
        ),
    ],
)
def test_reports_are_read_whoever_wrote_them(report: dict[str, Any], expected: Usage) -> None:
    """Names and nesting differ; tokens and money are the same things."""
    assert read_usage(report) == expected


NAMES = ["prompt_tokens", "completion_tokens", "total_tokens", "reasoning_tokens", "input_tokens"]
COUNTS = st.integers(-2, 2**70) | st.booleans() | st.none() | st.floats(0, 9) | st.just("3")


@given(st.dictionaries(st.sampled_from(NAMES), COUNTS))
def test_plain_reports_are_read_as_crewai_reads_them(report: dict[str, Any]) -> None:
    """Those of few names are read without it."""
    read, metrics = read_usage(report), UsageMetrics.from_provider_dict(report)
    if metrics is None:
        assert read == Usage()
        return
    counts = metrics.prompt_tokens, metrics.completion_tokens, metrics.successful_requests
    assert (read.input_tokens, read.output_tokens, read.calls) == tuple(max(0, n) for n in counts)
    assert read.reasoning_tokens == metrics.reasoning_tokens


def test_a_report_looks_as_without_us() -> None:
    """What CrewAI's events show of a report is what they show of a bare crew's."""
    report = {"prompt_tokens": 1, "total_tokens": 1}
    reported = Reported.of(report, SimpleNamespace(usage=SimpleNamespace(cost=0.5)))
    assert reported == report
    assert json.dumps(reported) == json.dumps(report)
    assert read_usage(reported).reported_usd == Decimal("0.5")
    assert read_usage(Reported.of(report, object())).reported_usd is None


def test_litellm_s_own_usage_is_read() -> None:
    """The object that LiteLLM hands to CrewAI: cached and reasoning tokens lie within it."""
    litellm = pytest.importorskip("litellm", reason="LiteLLM is an extra of crewai")
    usage = litellm.Usage(
        prompt_tokens=100,
        completion_tokens=30,
        total_tokens=130,
        prompt_tokens_details={"cached_tokens": 60},
        completion_tokens_details={"reasoning_tokens": 20},
        cost=0.5,
    )
    assert read_usage(usage) == Usage(
        input_tokens=100,
        output_tokens=30,
        cache_read_tokens=60,
        reasoning_tokens=20,
        calls=1,
        reported_usd=Decimal("0.5"),
    )


def test_a_direct_call_is_priced_too(tmp_path: Path) -> None:
    """A model that a tool's body calls past the run is on the bill in money, too."""
    from crewai.tools import tool

    from tests.integration.parts import ASKS

    journal = tmp_path / "runs.db"
    with Server(ASKS) as server:

        @tool
        def ask(topic: str) -> str:
            """Ask the model something."""
            aside = LLM(model="openai/gpt-4o-mini", base_url=f"{server.url}/v1", api_key="sk-test")
            return str(aside.call("Aside"))

        clerk = Agent(role="Clerk", goal="g", backstory="b", tools=[ask], llm=make_llm(server.url))
        task = Task(description="d", expected_output="o", agent=clerk)
        crew = harden(Crew(agents=[clerk], tasks=[task]), journal=journal)
        crew.kickoff(run_id="r")
        expected = by_hand(server.total_usage)
        assert server.total_usage.requests == 3
    assert open_journal(journal).runs()[0].cost_usd == expected
    connection = sqlite3.connect(journal)
    ((picousd,),) = connection.execute("SELECT cost_picousd FROM run_summary")
    assert Decimal(picousd) / 10**12 == expected
    connection.close()
