"""Money: rates, tables, functions, the public lists, and what nobody knows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Context, Decimal, localcontext
from typing import Any

import genai_prices
import pytest
from genai_prices import data_snapshot
from hypothesis import given
from hypothesis import strategies as st

from crewai_prod.errors import UsageError
from crewai_prod.prices import Prices, Rates, look_up, reported_usd
from crewai_prod.records import PICO, Cost, CostStatus, Spending, Usage, dollars

NOW = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
CALL = Usage(input_tokens=1000, output_tokens=100, cache_read_tokens=400, calls=1)
COUNTS = st.integers(0, 3_000_000)
MONEY = st.decimals(0, 1000, places=6)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """What providers report, the parts no more than the whole."""
    read, written, fresh = draw(COUNTS), draw(COUNTS), draw(COUNTS)
    reasoning, said = draw(COUNTS), draw(COUNTS)
    return Usage(
        input_tokens=read + written + fresh,
        output_tokens=reasoning + said,
        cache_read_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=reasoning,
        calls=1,
    )


def _price(prices: Prices, model: str = "m", usage: Usage = CALL, provider: str = "p") -> Cost:
    return prices.price(provider, model, usage, NOW)


# -- rates ----------------------------------------------------------------------------------------


def test_a_price_by_hand() -> None:
    """gpt-4o-mini: 0.15 in, 0.075 cached, 0.60 out, for a million tokens each."""
    cost = _price(Prices(), "gpt-4o-mini", CALL, "openai")
    assert (
        cost.usd == (600 * Decimal("0.15") + 400 * Decimal("0.075") + 100 * Decimal("0.6")) / 10**6
    )
    assert (cost.status, cost.source) == (CostStatus.PRICED, "genai-prices")


@given(usages(), st.builds(Rates, input=MONEY, output=MONEY, cache_read=st.none() | MONEY))
def test_rates_are_exact(usage: Usage, rates: Rates) -> None:
    """Rates with six decimals give whole trillionths, in any precision a program has set."""
    cached = rates.input if rates.cache_read is None else rates.cache_read
    with localcontext(Context(prec=200)):
        fresh = usage.input_tokens - usage.cache_read_tokens
        expected = rates.input * fresh + cached * usage.cache_read_tokens
        expected += rates.output * usage.output_tokens
        whole = expected * PICO / 10**6
    assert whole == int(whole)
    with localcontext(Context(prec=3)):
        assert rates.picousd(usage) == int(whole)


@given(usages(), usages(), st.builds(Rates, input=MONEY, output=MONEY, reasoning=MONEY))
def test_two_calls_cost_what_both_cost(one: Usage, other: Usage, rates: Rates) -> None:
    """Pricing is linear, so that a call with several reports may be priced as one."""
    assert rates.picousd(one + other) == rates.picousd(one) + rates.picousd(other)


def test_rates_as_users_write_them() -> None:
    """Numbers of any kind, all names of `Rates`, or one number for every token."""
    assert Rates.read({"input": 0.1, "output": "0.2", "cache_read": 1}, "x") == Rates(
        input=Decimal("0.1"), output=Decimal("0.2"), cache_read=Decimal(1)
    )
    assert Rates.read(2, "x") == Rates(input=Decimal(2), output=Decimal(2))
    assert Rates.read({"input": 1}, "x").output == 0


@pytest.mark.parametrize(
    "wrong",
    [
        *({}, {"output": 1}, {"input": 1, "colour": 2}, {"input": -1}, {"input": "dear"}),
        *({"input": float("inf")}, "NaN", True, 10**7, None, [1]),
    ],
)
def test_what_is_no_rate_is_refused(wrong: Any) -> None:
    """At once, with the name of the model whose rate it was to be."""
    with pytest.raises(UsageError, match="my-model"):
        Prices.read({"my-model": wrong})


# -- whose price it is ----------------------------------------------------------------------------


def test_a_table_is_asked_before_the_lists() -> None:
    """By provider and model, by model, with or without what stands before a slash, by pattern."""
    table = {"openai/gpt-4o": 1, "GPT-4o": 2, "ollama/*": 0, "deep/er": 3, "*": 9}
    prices = Prices.read(table)

    def dollars_for(provider: str | None, model: str) -> Decimal | None:
        return prices.price(provider, model, Usage(input_tokens=10**6, calls=1), NOW).usd

    assert dollars_for("openai", "gpt-4o") == 1
    assert dollars_for("azure", "gpt-4o") == 2
    assert dollars_for(None, "openai/gpt-4o") == 1
    assert dollars_for("router", "x/GPT-4O") == 2
    assert dollars_for("ollama", "llama3") == 0
    assert dollars_for("far", "deep/er") == 3
    assert dollars_for("openai", "gpt-4o-mini") == 9
    free = prices.price("ollama", "llama3", CALL, NOW)
    assert free == Cost(status=CostStatus.PRICED, picousd=0, source="prices")


def test_a_function_is_asked_before_the_lists() -> None:
    """With provider, model, usage and time; where it knows nothing, the lists are asked."""
    asked: list[Any] = []

    def mine(provider: str | None, model: str, usage: Usage, at: datetime) -> Decimal | None:
        asked.append((provider, model, usage, at.timestamp()))
        return Decimal("0.5") if model == "m" else None

    prices = Prices.read(mine)
    assert _price(prices) == Cost(status=CostStatus.PRICED, picousd=PICO // 2, source="prices")
    assert asked == [("p", "m", CALL, NOW)]
    assert _price(prices, "gpt-4o-mini", CALL, "openai").source == "genai-prices"
    assert prices.knows("p", "m", NOW)
    assert not prices.knows("p", "other", NOW)


@pytest.mark.parametrize("wrong", [-1, "dear", float("nan"), Decimal("Infinity"), 10**7, [1]])
def test_a_function_that_gives_no_amount(wrong: Any) -> None:
    """It is refused: nothing that is no money gets on a bill."""
    with pytest.raises(ValueError, match="no price"):
        _price(Prices.read(lambda *_: wrong))


def test_the_provider_has_the_last_word() -> None:
    """What it says it charged is what the call cost, whatever a table or list says."""
    usage = Usage(input_tokens=10, calls=1, reported_usd=Decimal("0.000123"))
    for model in ("m", "gpt-4o-mini"):
        cost = _price(Prices.read({"m": 5}, "fail"), model, usage, "openai")
        assert cost == Cost(status=CostStatus.REPORTED, picousd=123_000_000, source="provider")


def test_reports_of_cost_add_up_or_are_none() -> None:
    """A sum of which the provider has priced but a part is not priced by the provider."""
    said, silent = (Usage(calls=1, reported_usd=Decimal(1)), Usage(calls=1))
    assert (said + said).reported_usd == 2
    assert (said + silent).reported_usd is None
    assert sum([said, said], Usage()).reported_usd == 2
    said_so: list[Any] = [0.1, None, "x", -1, True, {}]
    assert [reported_usd(one) for one in said_so] == [
        Decimal("0.1"),
        *[None] * 5,
    ]


# -- nobody knows ---------------------------------------------------------------------------------


def test_an_unknown_model_is_never_free() -> None:
    """It is unpriced, or estimated with the price that is given for such."""
    assert _price(Prices()) == Cost(status=CostStatus.UNPRICED)
    flat = _price(Prices.read(on_unpriced="2.5"))
    assert flat.usd == Decimal("2.5") * 1100 / 10**6
    assert (flat.status, flat.source) == (CostStatus.ESTIMATED, "on_unpriced")
    rates = Prices.read(on_unpriced={"input": 1, "output": 3})
    assert _price(rates).usd == Decimal("0.0013")


def test_a_call_without_usage_is_unpriced() -> None:
    """Nobody said how much it was, so no rate helps."""
    assert Prices.read({"*": 1}).price("p", "m", None, NOW).status is CostStatus.UNPRICED


@pytest.mark.parametrize("model", ["scripted", "llama3", "gpt-9-turbo-ultra"])
def test_models_are_not_guessed_from_other_providers(model: str) -> None:
    """What another provider asks for a model of this name says nothing about this one."""
    assert look_up("ollama", model) is None
    assert look_up("hosted_vllm", "gpt-4o-mini") is None


def test_usage_that_does_not_add_up_is_an_estimate() -> None:
    """More cached tokens than there are: counted as far as possible, and marked."""
    odd = Usage(input_tokens=10, output_tokens=5, cache_read_tokens=25, reasoning_tokens=9, calls=1)
    for prices, model in ((Prices.read({"m": 1}), "m"), (Prices(), "gpt-4o-mini")):
        cost = _price(prices, model, odd, "openai")
        assert cost.status is CostStatus.ESTIMATED
        assert cost.picousd is not None
        assert cost.picousd > 0


@pytest.mark.parametrize("wrong", ["refuse", "", -1, [], {"output": 1}])
def test_a_policy_that_does_not_exist(wrong: Any) -> None:
    """`warn`, `fail` and prices are all there are."""
    with pytest.raises(UsageError, match="on_unpriced"):
        Prices.read(on_unpriced=wrong)


def test_what_prices_can_be() -> None:
    """Another kind of thing is refused; a `Prices` keeps its policy unless told otherwise."""
    with pytest.raises(UsageError, match="mapping"):
        Prices.read(7)
    mine = Prices.read({"m": 1}, "fail")
    assert Prices.read(mine) == mine
    assert Prices.read(mine, "warn").on_unpriced == "warn"


# -- the public lists -----------------------------------------------------------------------------


def _every_model() -> Iterator[tuple[str, str]]:
    for provider in data_snapshot.get_snapshot().providers:
        for model in provider.models:
            yield provider.id, model.id


def test_every_listed_price_is_the_list_s_own() -> None:
    """Our fast way to a price gives to the last digit what genai-prices gives, for all models."""
    usage = Usage(
        input_tokens=300_007,
        output_tokens=1_013,
        cache_read_tokens=100_003,
        cache_write_tokens=503,
        reasoning_tokens=211,
        calls=1,
    )
    at = datetime.fromtimestamp(NOW, UTC)
    compared = 0
    for provider, model in _every_model():
        said = genai_prices.Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            output_reasoning_tokens=usage.reasoning_tokens,
        )
        ours = look_up(provider, model)
        if ours is None or ours.picousd(usage, NOW) is None:
            continue
        expected = genai_prices.calc_price(
            said, model, provider_id=provider, genai_request_timestamp=at
        )
        compared += 1
        assert ours.picousd(usage, NOW) == round(expected.total_price * PICO), (provider, model)
    assert compared > 1500


@pytest.mark.parametrize(
    ("provider", "model", "listed"),
    [
        ("openai", "gpt-4o-mini", "openai"),
        ("openai", "openai/gpt-4o-mini", "openai"),
        (None, "openai/gpt-4o-mini", "openai"),
        (None, "gpt-4o-mini", "openai"),
        ("gemini", "gemini-2.5-pro", "google"),
        ("anthropic", "claude-sonnet-4-5", "anthropic"),
        ("bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "aws"),
        ("azure_openai", "gpt-4o", "azure"),
        ("openrouter", "anthropic/claude-3.5-sonnet", "openrouter"),
        ("groq", "llama-3.3-70b-versatile", "groq"),
        ("xai", "grok-4", "x-ai"),
        ("dashscope", "qwen-max", None),
    ],
)
def test_names_of_crewai_and_litellm_are_understood(
    provider: str | None, model: str, listed: str | None
) -> None:
    """A provider by any of its names, and a model with its provider in front."""
    found = look_up(provider, model)
    assert (found and found.provider) == listed


def test_a_price_that_goes_by_size_is_that_of_one_request() -> None:
    """Two requests in one call may be of different tiers: their sum is an estimate."""
    one = Usage(input_tokens=150_000, calls=1)
    assert _price(Prices(), "gemini-2.5-pro", one, "gemini").status is CostStatus.PRICED
    assert _price(Prices(), "gemini-2.5-pro", one + one, "gemini").status is CostStatus.ESTIMATED


def test_the_lists_are_imported_when_they_are_asked() -> None:
    """Importing the rules, and prices of the user's own, cost nothing."""
    program = """
import sys
from crewai_prod.prices import Prices
from crewai_prod.records import Usage
Prices.read({"m": 1}).price("p", "m", Usage(input_tokens=1, calls=1), 0.0)
assert not {"genai_prices", "pydantic", "crewai"} & set(sys.modules)
Prices().price("openai", "gpt-4o", Usage(input_tokens=1, calls=1), 0.0)
assert "genai_prices" in sys.modules and "crewai" not in sys.modules
"""
    path = os.pathsep.join(filter(None, [*sys.path, os.getcwd()]))
    environment = {**os.environ, "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


# -- sums -----------------------------------------------------------------------------------------

COSTS = st.builds(Cost, status=st.just(CostStatus.PRICED), picousd=st.none() | st.integers(0, PICO))


@given(st.lists(COSTS))
def test_a_sum_is_known_or_says_what_it_lacks(costs: list[Cost]) -> None:
    """`usd` is all or nothing; what is known and how many calls are not always stand there."""
    spent = Spending()
    for cost in costs:
        spent += cost
    known = [cost.picousd for cost in costs if cost.picousd is not None]
    assert spent.unpriced == len(costs) - len(known)
    assert spent.known_usd == (dollars(sum(known)) if known else None)
    assert spent.usd == (None if spent.unpriced else spent.known_usd)
    assert spent + None == spent + Spending() == spent
