"""What is done about something that was found in a text: block, redact, mask or pseudonymise."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, get_args

from crewai_prod.errors import UsageError
from crewai_prod.guards._sealing import PSEUDONYM, Sealer
from crewai_prod.guards._texts import rewritten, texts
from crewai_prod.guards._types import (
    PLACES,
    Allow,
    Check,
    Guard,
    GuardContext,
    Modify,
    Place,
    Reject,
    Verdict,
)
from crewai_prod.guards._views import View

Action = Literal["block", "redact", "mask", "pseudonymise"]

RESTORED: Final[tuple[Place, ...]] = ("tool_call", "task_output", "final_output")
"""Where pseudonyms are put back unless it is said otherwise."""
REMEMBERED: Final = 512
"""Texts whose finds are kept: a conversation is looked through again before each call."""
_SHOWN: Final = 4
_LONG_ENOUGH: Final = 12
"""Of shorter values a mask shows nothing: the rest could be guessed."""


class Found(NamedTuple):
    """Something in a text.

    Attributes:
        start: Position of its first character.
        end: Position after its last one.
        kind: What it is, in a word or two.
    """

    start: int
    end: int
    kind: str


Search = Callable[[str, str], list[Found]]
"""The finds in a text and, where it stands in a mapping, the name it has there; "" if it has none.
No two of them overlap."""
Finder = Callable[[str], Iterable[Found]]
"""Where in a text there is something. Those of a lower position in its answer win over others."""


def found_in(text: str, views: Iterable[View], find: Finder) -> list[Found]:
    """Where in a text a finder finds something, in any reading of it; no two overlap."""
    every = [
        Found(*view.span(one.start, one.end), one.kind)
        for view in views
        for one in find(view.text)
        if one.start < one.end and view.newly(text, one.start, one.end)
    ]
    return apart(every)


def apart(every: Sequence[Found]) -> list[Found]:
    """What overlaps put together, in order; the kind is that of the one named first."""
    ranked = sorted(range(len(every)), key=lambda number: every[number].start)
    parts: list[tuple[int, Found]] = []
    for rank in ranked:
        one = every[rank]
        if parts and one.start < parts[-1][1].end:
            before, last = parts[-1]
            kind = last.kind if before <= rank else one.kind
            parts[-1] = min(before, rank), Found(last.start, max(last.end, one.end), kind)
        else:
            parts.append((rank, one))
    return [one for _, one in parts]


def masked(value: str, kind: str) -> str:
    """A value of which enough is left to know it again: its end, or the host of an address."""
    if kind == "email" and "@" in value:
        name, _, host = value.partition("@")
        return f"{name[:1]}***@{host}"
    shown = sum(map(str.isalnum, value)) >= _LONG_ENOUGH
    return "***" + (value[-_SHOWN:] if shown else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacing:
    """A finder and what is done about its finds.

    Attributes:
        find: Where in a text something is.
        action: What is done.
        restore: Where pseudonyms are opened again, with this action.
        tools: Those whose arguments get what was replaced; None: all.
        sealer: Makes and opens pseudonyms.
    """

    find: Search
    action: Action
    restore: frozenset[Place] = frozenset()
    tools: frozenset[str] | None = None
    sealer: Sealer | None = None

    def check(self, value: Any, context: GuardContext) -> Verdict:
        """The guard's check."""
        if self.sealer is not None and context.place in self.restore:
            return self._restored(value, context)
        if self.action == "block":
            kinds = {one.kind for text, key in texts(value) for one in self.find(text, key)}
            return Reject(f"It holds {_told(kinds)}. Leave that out.") if kinds else Allow()
        kinds = set()
        made = rewritten(value, lambda text, key: self._replaced(text, key, context.run_id, kinds))
        return Allow() if made is value else Modify(made, f"{self.action}: {_told(kinds)}")

    def _replaced(self, text: str, key: str, run_id: str, kinds: set[str]) -> str:
        parts: list[str] = []
        end = 0
        for one in self.find(text, key):
            value = text[one.start : one.end]
            if PSEUDONYM.fullmatch(value):
                continue
            kinds.add(one.kind)
            parts += text[end : one.start], self._instead(value, one.kind, run_id)
            end = one.end
        return "".join([*parts, text[end:]])

    def _instead(self, value: str, kind: str, run_id: str) -> str:
        if self.sealer is not None:
            return self.sealer.seal(value, kind, run_id)
        return masked(value, kind) if self.action == "mask" else f"[redacted {kind}]"

    def _restored(self, value: Any, context: GuardContext) -> Verdict:
        assert self.sealer is not None
        outside = self.tools is not None and context.tool not in self.tools
        if context.place == "tool_call" and outside:
            return Allow()
        sealer, strange = self.sealer, set[str]()
        made = rewritten(value, lambda text, _: sealer.open(text, context.run_id, strange.add))
        if strange:
            return Reject(
                "These placeholders stand for nothing here (altered, or of another run or key): "
                f"{', '.join(sorted(strange))}. Copy placeholders exactly as they were given."
            )
        return Allow() if made is value else Modify(made, "restored")


def _told(kinds: Collection[str]) -> str:
    return ", ".join(sorted(kinds))


def replacing_guard(
    name: str,
    find: Search,
    action: str,
    places: Collection[Place],
    *,
    key: str | bytes | None,
    restore: Collection[Place],
    tools: Collection[str] | None,
    order: int,
    version: str,
) -> Guard:
    """A guard that does something about what it finds.

    Raises:
        UsageError: An action or place that does not exist, or no secret to make pseudonyms with.
    """
    if action not in get_args(Action):
        raise UsageError(f"action={action!r} does not exist; there are {get_args(Action)}.")
    unknown = sorted(set(restore) - set(PLACES))
    if unknown:
        raise UsageError(f"restore: no place {unknown}; there are {', '.join(PLACES)}.")
    sealing = action == "pseudonymise"
    back = frozenset(restore) if sealing else frozenset[Place]()
    if sealing and back & set(places):
        raise UsageError(f"{sorted(back & set(places))} are both to be replaced and restored.")
    replacing = Replacing(
        find=find,
        action=action,  # type: ignore[arg-type]
        restore=back,
        tools=None if tools is None else frozenset(tools),
        sealer=Sealer(key) if sealing else None,
    )
    check: Check = replacing.check
    return Guard(name, check, frozenset(places) | back, version, order)
