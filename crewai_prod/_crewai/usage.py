"""A provider's report of what a call took, in the journal's terms.

Providers and LiteLLM say the same things under many names, some of them nested. Where CrewAI's own
reading of a report (`UsageMetrics`) misses one, the call would be billed too low.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from crewai.types.usage_metrics import UsageMetrics

from crewai_prod.prices import reported_usd
from crewai_prod.records import Usage

_TOTALS = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})
"""Names whose meaning is beyond doubt: a report of no others is read without CrewAI."""


class Reported(dict[str, Any]):
    """A report as CrewAI makes it of a response, and beside it what CrewAI leaves out of it.

    It is equal to the plain report, so that CrewAI's events hold what they hold without us.
    """

    left_out: Mapping[str, Any]

    @classmethod
    def of(cls, report: Mapping[str, Any], response: Any) -> Reported:
        """The report with what the response's own usage says."""
        reported = cls(report)
        reported.left_out = _plain(getattr(response, "usage", None))
        return reported


def read_usage(report: Mapping[str, Any]) -> Usage:
    """A provider's usage report in the journal's terms."""
    if type(report) is dict and report.keys() <= _TOTALS and {*map(type, report.values())} == {int}:
        return Usage(
            input_tokens=max(0, report.get("prompt_tokens", 0)),
            output_tokens=max(0, report.get("completion_tokens", 0)),
            calls=1,
        )
    said = dict(report)
    more = {**_plain(getattr(report, "left_out", None)), **said}
    if "inputTokens" in said:
        return _of_bedrock(said)
    metrics = UsageMetrics.from_provider_dict(said)
    if metrics is None:
        return Usage()
    prompt, completion = _plain(more.get("prompt_tokens_details")), _details(more)
    return Usage(
        input_tokens=max(0, metrics.prompt_tokens),
        output_tokens=max(0, metrics.completion_tokens),
        cache_read_tokens=metrics.cached_prompt_tokens or _count(prompt, "cached_tokens"),
        cache_write_tokens=metrics.cache_creation_tokens
        or _count(prompt, "cache_creation_tokens", "cache_write_tokens"),
        reasoning_tokens=metrics.reasoning_tokens or _count(completion, "reasoning_tokens"),
        calls=metrics.successful_requests,
        reported_usd=_reported(more),
    )


def read_metrics(usage: Usage) -> UsageMetrics:
    """The journal's usage in CrewAI's terms."""
    return UsageMetrics(
        total_tokens=usage.total_tokens,
        prompt_tokens=usage.input_tokens,
        completion_tokens=usage.output_tokens,
        cached_prompt_tokens=usage.cache_read_tokens,
        cache_creation_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        successful_requests=usage.calls,
    )


def _of_bedrock(report: Mapping[str, Any]) -> Usage:
    """Bedrock's report: the tokens read from or written to its cache are not in `inputTokens`."""
    read = _count(report, "cacheReadInputTokens", "cacheReadInputTokenCount")
    written = _count(report, "cacheWriteInputTokens", "cacheWriteInputTokenCount")
    usage = Usage(output_tokens=_count(report, "outputTokens"), calls=1)
    return replace(
        usage,
        input_tokens=_count(report, "inputTokens") + read + written,
        cache_read_tokens=read,
        cache_write_tokens=written,
    )


def _reported(report: Mapping[str, Any]) -> Decimal | None:
    """What the provider says it charged (OpenRouter; LiteLLM hands it on), in US dollars.

    With a key of the user's own behind OpenRouter, `cost` is its fee, and what the provider behind
    it charges stands beside it.
    """
    said = report.get("cost")
    if isinstance(said, Mapping):
        said = said.get("total_cost")
    cost = reported_usd(said)
    if cost is None or not report.get("is_byok"):
        return cost
    upstream = reported_usd(_plain(report.get("cost_details")).get("upstream_inference_cost"))
    return None if upstream is None else cost + upstream


def _details(report: Mapping[str, Any]) -> Mapping[str, Any]:
    return _plain(report.get("completion_tokens_details"))


def _plain(value: Any) -> Mapping[str, Any]:
    """A part of a report as a mapping, whatever class the SDK gives it."""
    if isinstance(value, Mapping):
        return value
    dump = getattr(value, "model_dump", None)
    dumped = dump() if callable(dump) else getattr(value, "__dict__", None)
    return dumped if isinstance(dumped, Mapping) else {}


def _count(report: Mapping[str, Any], *names: str) -> int:
    for name in names:
        value = report.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return 0
