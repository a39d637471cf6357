"""What a model call costs: the provider's word, the user's prices, then the public lists.

Rule: money is exact. An amount is a whole number of trillionths of a US dollar (see
`records.PICO`), rounded once, half to even, when a call is priced; sums are sums of integers. A
call whose price nobody knows is unpriced, never free. Reason: a bill that is a little wrong, or
silently too low, is worse than none.

The public lists are those of genai-prices: they lie in the package, nothing is fetched, and they
are as old as it is (`pip install -U genai-prices`). It is imported with the first call that needs
it, as that takes 0.3 s. Not covered: batch, flex and priority tiers, and what is billed besides
tokens and requests (searches, images, audio), unless the provider reports what it charged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation, localcontext
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib import import_module
from typing import Any, Literal, TypeAlias

from crewai_prod.errors import UsageError
from crewai_prod.records import PICO, Cost, CostStatus, Usage

_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)
"""A program may have set its own precision to less."""
_MILLION = 1_000_000
_MOST = 1_000_000 * PICO
"""A million dollars for one call is a mistake, and nine of them are more than SQLite can add up."""

PriceFunction: TypeAlias = Callable[[str | None, str, Usage, datetime], "Decimal | int | None"]
"""`(provider, model, usage, at) -> US dollars`, or None where it does not know."""
Policy: TypeAlias = "Literal['warn', 'fail'] | Rates"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """US dollars per million tokens.

    Attributes:
        input: Of the prompt.
        output: Of the answer.
        cache_read: Of the part of the prompt that was read from the provider's cache; default:
            as `input`.
        cache_write: Of the part that was written to it; default: as `input`.
        reasoning: Of the part of the answer that is reasoning; default: as `output`.
    """

    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None

    @classmethod
    def read(cls, said: Any, of: str) -> Rates:
        """Rates as a user writes them: a mapping by these names, or one number for all tokens.

        Raises:
            UsageError: A name or an amount that makes no sense; `of` says whose.
        """
        if isinstance(said, Rates):
            return said
        if not isinstance(said, Mapping):
            rate = _amount(said, of)
            return cls(input=rate, output=rate)
        names = {one.name for one in fields(cls)}
        if not said or set(said) - names or "input" not in said:
            raise UsageError(
                f"{of}={dict(said)!r} are no rates. They are US dollars per million tokens: "
                "{'input': 0.15, 'output': 0.60}, if need be with cache_read, cache_write and "
                "reasoning."
            )
        rates = {name: _amount(value, f"{of}[{name!r}]") for name, value in said.items()}
        return cls(**{"output": Decimal(0), **rates})

    def picousd(self, usage: Usage) -> int:
        """What so many tokens cost."""
        cached = usage.cache_read_tokens + usage.cache_write_tokens
        parts = (
            (self.input, usage.input_tokens - cached),
            (self.cache_read, usage.cache_read_tokens, self.input),
            (self.cache_write, usage.cache_write_tokens, self.input),
            (self.output, usage.output_tokens - usage.reasoning_tokens),
            (self.reasoning, usage.reasoning_tokens, self.output),
        )
        with localcontext(_EXACT):
            total = Decimal(0)
            for rate, tokens, *instead in parts:
                total += (instead[0] if rate is None else rate) * tokens
            return int((total * (PICO // _MILLION)).to_integral_value())


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Where prices come from, and what to do about a model without one.

    Attributes:
        table: Rates by model, `provider/model` or a pattern such as `ollama/*`, in lower case.
        function: Asked before the public lists.
        on_unpriced: `warn`; `fail`: such a model is not called; or the rates to count it with.
    """

    table: Mapping[str, Rates] = field(default_factory=dict)
    function: PriceFunction | None = None
    on_unpriced: Policy = "warn"

    @classmethod
    def read(cls, prices: Any = None, on_unpriced: Any = None) -> Prices:
        """Prices as `harden` takes them.

        Raises:
            UsageError: They are no mapping, function or `Prices`, or hold what is no rate.
        """
        policy = "warn" if on_unpriced is None else _policy(on_unpriced)
        if isinstance(prices, Prices):
            own = prices.on_unpriced if on_unpriced is None else policy
            return cls(table=prices.table, function=prices.function, on_unpriced=own)
        if prices is None:
            return cls(on_unpriced=policy)
        if isinstance(prices, Mapping):
            table = {
                str(model).lower(): Rates.read(said, f"prices[{model!r}]")
                for model, said in prices.items()
            }
            return cls(table=table, on_unpriced=policy)
        if callable(prices):
            return cls(function=prices, on_unpriced=policy)
        raise UsageError(
            f"prices={prices!r} is neither a mapping of models to rates nor a function "
            "(provider, model, usage, at) -> Decimal | None."
        )

    def knows(self, provider: str | None, model: str, at: float) -> bool:
        """Whether a call of the model could be priced, before it is made."""
        return self._own_rates(provider, model) is not None or (
            self._listed(provider, model, _ONE_CALL, at) is not None
        )

    def price(self, provider: str | None, model: str, usage: Usage | None, at: float) -> Cost:
        """What a call cost.

        Args:
            provider: As CrewAI names it.
            model: As it was asked for.
            usage: What it took; None if nobody said.
            at: When it was made; prices change.

        Raises:
            ValueError: The user's function gave what is no amount of money.
        """
        if usage is None or not usage.says_anything:
            return Cost(status=CostStatus.UNPRICED)
        if usage.reported_usd is not None:
            return _cost(CostStatus.REPORTED, _whole(usage.reported_usd), "provider")
        rates = self._own_rates(provider, model)
        if rates is not None:
            return _cost(_sound(usage), rates.picousd(_clean(usage)), "prices")
        return self._listed(provider, model, usage, at) or self._unlisted(usage)

    def _own_rates(self, provider: str | None, model: str) -> Rates | None:
        if not self.table:
            return None
        names = _names(provider, model)
        for name in names:
            if name in self.table:
                return self.table[name]
        for pattern, rates in self.table.items():
            if "*" in pattern and any(fnmatchcase(name, pattern) for name in names):
                return rates
        return None

    def _listed(self, provider: str | None, model: str, usage: Usage, at: float) -> Cost | None:
        if self.function is not None:
            said = self.function(provider, model, usage, datetime.fromtimestamp(at, UTC))
            if said is not None:
                return _cost(CostStatus.PRICED, _whole(said), "prices")
        listing = look_up(provider, model)
        if listing is None:
            return None
        known = listing.picousd(_clean(usage), at)
        if known is None:
            return None
        estimated = listing.rates is None and usage.calls > 1  # tiers go by the single request
        status = CostStatus.ESTIMATED if estimated else _sound(usage)
        return _cost(status, known, "genai-prices")

    def _unlisted(self, usage: Usage) -> Cost:
        if isinstance(self.on_unpriced, Rates):
            picousd = self.on_unpriced.picousd(_clean(usage))
            return _cost(CostStatus.ESTIMATED, picousd, "on_unpriced")
        return Cost(status=CostStatus.UNPRICED)


_ONE_CALL = Usage(input_tokens=1, output_tokens=1, calls=1)


def _cost(status: CostStatus, picousd: int, source: str) -> Cost:
    return Cost(status=status, picousd=picousd, source=source)


def _names(provider: str | None, model: str) -> list[str]:
    """What a model may be called in a table, the most exact name first."""
    name = model.lower()
    named = [] if provider is None else [f"{provider.lower()}/{name}"]
    return list(dict.fromkeys([*named, name, name.partition("/")[2] or name]))


def _clean(usage: Usage) -> Usage:
    """The usage with parts that are no more than the whole; some providers report such."""
    read = min(usage.cache_read_tokens, usage.input_tokens)
    written = min(usage.cache_write_tokens, usage.input_tokens - read)
    reasoned = min(usage.reasoning_tokens, usage.output_tokens)
    if (read, written, reasoned) == (
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
    ):
        return usage
    return Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=reasoned,
        calls=usage.calls,
    )


def _sound(usage: Usage) -> CostStatus:
    return CostStatus.PRICED if _clean(usage) is usage else CostStatus.ESTIMATED


# -- the public lists -----------------------------------------------------------------------------

_PROVIDERS = {
    "azure_ai": "azure",
    "azure_openai": "azure",
    "bedrock_converse": "aws",
    "claude": "anthropic",
    "dashscope": "",  # what other providers ask for the same models says nothing
    "deepinfra": "",
    "fireworks_ai": "fireworks",
    "gemini": "google",
    "moonshot": "moonshotai",
    "vertex_ai": "google",
    "xai": "x-ai",
}
"""Names of CrewAI and LiteLLM that genai-prices does not know, or takes for somebody else's."""
_TOKENS = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")


@dataclass(frozen=True, slots=True)
class Listing:
    """A model in the public lists.

    Attributes:
        provider: As they name it.
        model: As they name it.
        rates: Its price, if it is always the same; else it depends on the time or the request.
    """

    provider: str
    model: str
    rates: Rates | None

    def picousd(self, usage: Usage, at: float) -> int | None:
        """What so many tokens cost at that time; None if the lists do not say."""
        if self.rates is not None:
            return self.rates.picousd(usage)
        with localcontext(_EXACT):
            found = _calculate(self.provider, self.model, usage, at)
            return None if found is None else _whole(found)


@lru_cache(maxsize=1024)
def look_up(provider: str | None, model: str) -> Listing | None:
    """The model in the public lists, None if it is not there."""
    for provider_id, reference in _references(provider, model):
        found = _find(provider_id, reference)
        if found is not None:
            return found
    return None


def _references(provider: str | None, model: str) -> list[tuple[str | None, str]]:
    """Under which provider and name to look. A model of a known provider is no other one's."""
    prefix, slash, rest = model.partition("/")
    if provider is None and not slash:
        return [(None, model)]
    tries = [] if provider is None else [(provider, model)]
    if slash and (provider is None or _provider(prefix) == _provider(provider)):
        tries.append((prefix, rest))
    return [(_provider(name), reference) for name, reference in tries if _provider(name)]


def _provider(name: str) -> str:
    return _PROVIDERS.get(name.lower(), name.lower())


def load() -> None:
    """Import the lists, before any model is called.

    They bring httpx2. OpenAI's SDK looks whether that module is loaded each time it reads an
    answer, and trips over it while another thread is importing it: a paid answer would be lost.
    """
    import_module("genai_prices")


def _find(provider_id: str | None, reference: str) -> Listing | None:
    from genai_prices import Usage as ListUsage
    from genai_prices import calc_price
    from genai_prices.types import ModelPrice

    try:
        found = calc_price(ListUsage(), reference, provider_id=provider_id)
    except LookupError:
        return None
    fixed = isinstance(found.model.prices, ModelPrice)
    return Listing(found.provider.id, reference, _rates(found.model_price) if fixed else None)


def _rates(listed: Any) -> Rates | None:
    """The prices of tokens, if they are all there is to it."""
    values = [getattr(listed, name) for name in _TOKENS]
    if not isinstance(values[0], Decimal) or listed.requests_kcount is not None:
        return None
    if any(value is not None and not isinstance(value, Decimal) for value in values):
        return None
    reasoning = listed.output_reasoning_mtok
    return Rates(
        input=values[0],
        output=Decimal(0) if values[1] is None else values[1],
        cache_read=values[2],
        cache_write=values[3],
        reasoning=reasoning if isinstance(reasoning, Decimal) else None,
    )


def _calculate(provider: str, model: str, usage: Usage, at: float) -> Decimal | None:
    """The price of one request where it depends on its size or the time; None if there is none."""
    from genai_prices import Usage as ListUsage
    from genai_prices import calc_price

    said = ListUsage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_reasoning_tokens=usage.reasoning_tokens,
    )
    when = datetime.fromtimestamp(at, UTC)
    found = calc_price(said, model, provider_id=provider, genai_request_timestamp=when)
    tokens = [getattr(found.model_price, name) for name in ("input_mtok", "output_mtok")]
    return None if tokens == [None, None] else found.total_price


# -- amounts --------------------------------------------------------------------------------------


def _policy(said: Any) -> Policy:
    if said in ("warn", "fail"):
        return said  # type: ignore[no-any-return]
    if isinstance(said, str) and not said.replace(".", "", 1).isdigit():
        raise UsageError(
            f"on_unpriced={said!r} does not exist; there are warn, fail, and a price in US dollars "
            "per million tokens."
        )
    return Rates.read(said, "on_unpriced")


def _amount(said: Any, of: str) -> Decimal:
    """A rate as a user writes it; a float counts as the decimal number it is written as."""
    value = _decimal(said)
    if value is None or not 0 <= value <= _MILLION:
        raise UsageError(f"{of}={said!r} is no price in US dollars per million tokens.")
    return value


def _whole(usd: Any) -> int:
    """Dollars as trillionths.

    Raises:
        ValueError: It is no amount of money.
    """
    value = _decimal(usd)
    if value is None or value < 0 or value * PICO > _MOST:
        raise ValueError(f"{usd!r} is no price of a model call")
    with localcontext(_EXACT):
        return int((value * PICO).to_integral_value())


def _decimal(said: Any) -> Decimal | None:
    """A finite number as a decimal, None for anything else."""
    if isinstance(said, bool) or not isinstance(said, (int, float, str, Decimal)):
        return None
    try:
        value = Decimal(repr(said) if isinstance(said, float) else said)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def reported_usd(said: Any) -> Decimal | None:
    """A provider's own word on what a call cost, None if it is no amount of money."""
    value = _decimal(said)
    return None if value is None or not 0 <= value <= _MILLION else value
