"""How guards work together: which ones judge at a place, in which order, and guards made of guards.

Pure: nothing here knows of a run. Rule: by order, then as listed; what one has modified is given to
the next.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any, Literal

from crewai_prod.errors import UsageError
from crewai_prod.guards._types import (
    PLACES,
    Allow,
    Escalate,
    Guard,
    GuardContext,
    Modify,
    Place,
    Reject,
    Verdict,
)

Chains = Mapping[str, tuple[Guard, ...]]
"""The guards of each place that has any, in the order in which they judge."""


def read_guards(given: Any) -> tuple[Guard, ...]:
    """The guards that were given: one, or a list of them and of such lists.

    Raises:
        UsageError: Something else was given, or two guards of one name would judge at one place.
    """
    found = tuple(_flat(given))
    for place, chain in chains(found).items():
        names = [one.name for one in chain]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UsageError(
                f"guards: there are two named {', '.join(twice)} at {place}; their verdicts could "
                "not be told apart in the journal."
            )
    return found


def _flat(given: Any) -> Iterable[Guard]:
    if given is None:
        return
    if isinstance(given, Guard):
        yield given
        return
    if not isinstance(given, (list, tuple)):
        raise UsageError(
            f"guards={given!r} is no Guard; make one of a function with @guard('tool_call')."
        )
    seen: list[Guard] = []
    for one in given:
        for guard in _flat(one):
            if guard not in seen:
                seen.append(guard)
                yield guard


def chains(guards: Iterable[Guard]) -> Chains:
    """The guards of each place, in the order in which they judge."""
    ordered = sorted(guards, key=lambda one: one.order)
    found = {place: tuple(one for one in ordered if place in one.places) for place in PLACES}
    return {place: chain for place, chain in found.items() if chain}


def fits(place: str, value: Any) -> bool:
    """Whether a value has the form of those at a place, so that it can take one's stead."""
    if place in ("kickoff_input", "tool_call"):
        return isinstance(value, dict) and all(isinstance(key, str) for key in value)
    if place == "model_input":
        return isinstance(value, list) and bool(value) and all(isinstance(m, dict) for m in value)
    if place == "model_output":
        return isinstance(value, str) or (isinstance(value, list) and all(map(_is_call, value)))
    return place == "tool_result" or isinstance(value, str)


def _is_call(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("name"), str) and "arguments" in value


def is_verdict(said: Any) -> bool:
    """Whether it is what a guard may say."""
    return isinstance(said, (Allow, Modify, Reject, Escalate))


def all_of(
    name: str,
    *guards: Guard,
    version: str | None = None,
    order: int = 0,
    fail: Literal["closed", "open"] = "closed",
    timeout: float | None = None,
) -> Guard:
    """One guard made of several: judged in their order, journaled under one name.

    It says the first thing that one of them says against the value, else `Modify` if any of them
    has modified it. A part judges only where it would by itself.

    Args:
        name: Of the whole.
        *guards: Its parts.
        version: Of the whole; default: made of those of its parts, so that a part's new version is
            a new one of the whole.
        order: Of the whole among other guards.
        fail: What becomes of a value when a part raises.
        timeout: Seconds that the whole has to judge; those of its parts do not count.

    Raises:
        UsageError: No part was given, or something that is no guard.
    """
    parts = read_guards(list(guards))
    if not parts:
        raise UsageError(f"Guard {name!r} has no parts.")
    made_of = chains(parts)

    def check(value: Any, context: GuardContext) -> Verdict | Awaitable[Verdict]:
        return _judge(list(made_of.get(context.place, ())), value, context, [])

    places: frozenset[Place] = frozenset().union(*(one.places for one in parts))
    return Guard(name, check, places, version or _version(parts), order, fail, timeout)


def _version(parts: Iterable[Guard]) -> str:
    return "+".join(f"{one.name}:{one.version}" for one in parts)


def _judge(
    left: list[Guard], value: Any, context: GuardContext, reasons: list[str]
) -> Verdict | Awaitable[Verdict]:
    """What the parts that are left say; awaitable from the first part on that is."""
    changed = bool(reasons)
    while left:
        said = left.pop(0).check(value, context)
        if inspect.isawaitable(said):
            return _judge_later(said, left, value, context, reasons)
        if not isinstance(said, (Allow, Modify)):
            return said
        if isinstance(said, Modify):
            value, changed = said.value, True
            reasons.append(said.reason)
    return Modify(value, "; ".join(filter(None, reasons))) if changed else Allow()


async def _judge_later(
    said: Awaitable[Verdict],
    left: list[Guard],
    value: Any,
    context: GuardContext,
    reasons: list[str],
) -> Verdict:
    verdict = await said
    if not isinstance(verdict, (Allow, Modify)):
        return verdict
    if isinstance(verdict, Modify):
        value = verdict.value
        reasons = [*reasons, verdict.reason]
    rest = _judge(left, value, context, reasons)
    return await rest if inspect.isawaitable(rest) else rest
