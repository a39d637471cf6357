"""Calls that lead nowhere: which of them are taken for a loop, and what is done about it.

Pure: the calls of one agent's work in, a finding out. What a loop looks like:

- `exact`: a call whose last results were all the same is made again.
- `ping_pong`: two such calls are made in turn, again and again.
- `no_progress`: calls in a row gave the same, whatever they were called with. A call that acts on
  the world gets on by doing so, whatever it returns: of those only failures count.
- `varied`: one tool is called in a row with other arguments each time, and nothing else.

Rule: what is counted are decisions of a model. Calls that one reply makes side by side are one, and
what code calls in a loop of its own is its own affair. A tool that is declared to be polled is left
out altogether. The answer gets firmer with each finding: the model is told, the tool is withheld,
the run is stopped.

Not covered: a model that goes round in circles without calling a tool (CrewAI's `max_iter` and
budgets end that), and circles of three or more calls whose results change.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, fields
from enum import IntEnum
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

from crewai_prod.errors import UsageError

Kind = Literal["exact", "ping_pong", "no_progress", "varied"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loops:
    """When calls are taken for a loop: after how many of a kind; None: not at all.

    The defaults leave alone what gets anywhere. CrewAI itself ends a run at the fifth call with the
    same arguments and result, and an agent after 25 replies unless it is given a `max_iter`.

    Attributes:
        exact: Calls with the same arguments and the same result.
        ping_pong: Rounds of two such calls in turn.
        no_progress: Calls in a row with the same result, whatever their arguments.
        varied: Calls of one tool in a row, with other arguments each time.
    """

    exact: int | None = 4
    ping_pong: int | None = 3
    no_progress: int | None = 12
    varied: int | None = 50

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            if value is not None and not whole:
                raise UsageError(
                    f"Loops({one.name}={value!r}): it is a whole number, 1 or more, or None."
                )

    @property
    def memory(self) -> int:
        """How many calls have to be remembered."""
        return _memory(self)

    @classmethod
    def read(cls, given: Any) -> Loops | None:
        """What `harden(loops=...)` was given: a `Loops`, True for the defaults, or False.

        Raises:
            UsageError: Anything else.
        """
        if given is True:
            return cls()
        if given is False or isinstance(given, cls):
            return given or None
        raise UsageError(f"loops={given!r} is neither a Loops nor True or False.")

    def after(self, calls: int | None) -> Loops:
        """These, or for a tool with a threshold of its own that one, whatever the kind."""
        if calls is None:
            return self
        return Loops(exact=calls, ping_pong=max(calls, 2), no_progress=calls, varied=calls)


@lru_cache(maxsize=64)
def _memory(loops: Loops) -> int:
    return 4 * max(25, *(getattr(loops, one.name) or 0 for one in fields(loops)))


class Rung(IntEnum):
    """What is done about a finding, from the first one of a tool to the last."""

    TOLD = 1
    WITHHELD = 2
    STOPPED = 3


@lru_cache(maxsize=1024)
def plain(tool: str) -> str:
    """A tool's name however it is written: CrewAI has one for people and one for models."""
    return "".join(filter(str.isalnum, tool.casefold()))


@dataclass(slots=True)
class Call:
    """A call of a tool.

    Attributes:
        tool: Its name.
        meant: What tells it from calls with other arguments.
        decision: How many replies of the model there were when it was made.
        acts: Whether it may do something to the world.
        outcome: What it came to, as something to compare; None: it has not ended.
        failed: Whether that is a failure.
    """

    tool: str
    meant: Hashable
    decision: int = 0
    acts: bool = True
    outcome: Hashable = None
    failed: bool = False
    id: str = field(init=False)
    key: tuple[str, Hashable] = field(init=False)
    """What is called with what."""

    def __post_init__(self) -> None:
        self.id = plain(self.tool)
        self.key = self.id, self.meant


@dataclass(frozen=True, slots=True)
class Finding:
    """A call that is taken for one of a loop, and is not made.

    Attributes:
        kind: Of the loop.
        rung: What is done about it.
        tool: Which was to be called.
        calls: How many calls of the loop there were, or rounds of two.
        other: The other tool of a ping-pong.
    """

    kind: Kind
    rung: Rung
    tool: str
    calls: int
    other: str | None = None

    @property
    def message(self) -> str:
        """What the model is told."""
        if self.rung is Rung.TOLD:
            return _TOLD[self.kind].format(tool=self.tool, calls=self.calls, other=self.other)
        return (
            f"{self.tool} is called in a loop, and was not called again. It is not available for "
            "the rest of this task, and to call it once more ends the run. Go on without it, or "
            "give your answer with what you have."
        )


_TOLD: dict[Kind, str] = {
    "exact": "{tool} has been called with these arguments {calls} times, and what came of it was "
    "the same each time. It was not called again. Use what you have, or do something else.",
    "ping_pong": "{tool} and {other} have been called in turn {calls} times, with the same "
    "arguments and the same results. {tool} was not called again. Use what you have, or do "
    "something else.",
    "no_progress": "The last {calls} calls all came to the same, whatever their arguments. {tool} "
    "was not called this time. If such calls bring you nearer to the answer, make this one again; "
    "if not, do something else.",
    "varied": "{tool} has been called {calls} times in a row, with other arguments each time and "
    "nothing else in between. It was not called this time. If such calls bring you nearer to the "
    "answer, make this one again; if not, do something else.",
}


@dataclass(slots=True)
class _Answered:
    """The last finding of a tool."""

    rung: Rung
    decision: int
    finding: Finding


@dataclass(slots=True)
class Trail:
    """What one agent has called in one piece of work. Not thread-safe.

    Attributes:
        decision: How many replies of its model there were.
    """

    decision: int = 0
    _calls: list[Call] = field(default_factory=list)
    _stuck: dict[Hashable, Finding] = field(default_factory=dict)
    _answered: dict[str, _Answered] = field(default_factory=dict)
    _last: dict[str, Call] = field(default_factory=dict)
    _began: int = 0
    _begins: int = 0
    """Calls count from `_began` on; from `_begins` on once the model has answered to a finding."""

    def judge(self, call: Call, limits: Loops) -> Finding | None:
        """Whether a call that is to be made is one of a loop; if so that counts as a finding."""
        call.decision = self.decision
        if not self.decision:
            return None
        del self._calls[: -limits.memory]
        found = self._looks_like(call, limits)
        if found is None:
            return None
        kind, calls, other = found
        tools = {call.id, plain(other or call.tool)}
        before = [self._answered[one] for one in tools if one in self._answered]
        last = max(before, key=lambda one: one.rung, default=None)
        if last is None:
            rung = Rung.TOLD
        elif last.decision == self.decision:  # beside the call that was refused
            rung = last.rung
        else:
            rung = Rung(min(last.rung + 1, Rung.STOPPED))
        return self.answer(call, Finding(kind, rung, call.tool, calls, other))

    def answer(self, call: Call, finding: Finding) -> Finding:
        """Take up a finding, made now or on record."""
        keys = {call.key}
        if finding.kind == "ping_pong":
            keys |= {one.key for one in self._earlier()[-1:]}
        if finding.kind in ("exact", "ping_pong"):
            self._stuck = {**self._stuck, **dict.fromkeys(keys, finding)}
        for tool in (finding.tool, finding.other or finding.tool):
            self._answered[plain(tool)] = _Answered(finding.rung, self.decision, finding)
        if self._begins < self.decision:
            self._began, self._begins = self._begins, self.decision
        return finding

    def enter(self, call: Call) -> None:
        """A call is made: it gets out of the loop that was there, if there was one."""
        call.decision = self.decision
        if call.key not in self._stuck and self._begins < self.decision:
            self._stuck = {}
        self._calls.append(call)
        self._last[call.id] = call

    def take_up(self, call: Call, finding: Finding | None) -> None:
        """A call is on record: it was made, or this was found."""
        if finding is not None:
            self.answer(call, finding)
            return
        last = self._answered.get(call.id)
        if last is not None and last.rung >= Rung.WITHHELD:  # it was made because a person said so
            self.excuse(call)
        self.enter(call)

    def excuse(self, call: Call) -> None:
        """Somebody says that a call makes sense: what was found of its tool does not count."""
        self._stuck = {}
        self._answered.pop(call.id, None)
        self._began = self._begins = self.decision

    def last_of(self, tool: str) -> Call | None:
        """The call of a tool that was made last."""
        return self._last.get(plain(tool))

    def _earlier(self) -> list[Call]:
        """The calls that count, but for those that are made side by side with the next one."""
        first = self._begins if self._begins < self.decision else self._began
        return [one for one in self._calls if first <= one.decision < self.decision]

    def _looks_like(self, call: Call, limits: Loops) -> tuple[Kind, int, str | None] | None:
        last = self._answered.get(call.id)
        if last is not None and last.rung >= Rung.WITHHELD:
            return last.finding.kind, last.finding.calls, None
        stuck = self._stuck.get(call.key)
        if stuck is not None:
            other = stuck.other if plain(stuck.tool) == call.id else stuck.tool
            return stuck.kind, stuck.calls, other
        earlier = self._earlier()
        return (
            _exact(earlier, call, limits.exact)
            or _ping_pong(earlier, call, limits.ping_pong)
            or _no_progress(earlier, call, limits.no_progress)
            or _varied(earlier, call, limits.varied)
        )


def _exact(
    calls: Sequence[Call], call: Call, most: int | None
) -> tuple[Kind, int, str | None] | None:
    if most is None or len(calls) < most:
        return None
    alike = [one.outcome for one in calls if one.key == call.key][-most:]
    return ("exact", most, None) if len(alike) == most and _same(alike) else None


def _ping_pong(
    calls: Sequence[Call], call: Call, rounds: int | None
) -> tuple[Kind, int, str | None] | None:
    if rounds is None or len(calls) < 2 * rounds:
        return None
    ours, theirs = calls[-2 * rounds :: 2], calls[-2 * rounds + 1 :: 2]
    in_turn = {one.key for one in ours} == {call.key} and len({one.key for one in theirs}) == 1
    if not in_turn or theirs[0].key == call.key:
        return None
    if not _same([one.outcome for one in ours]) or not _same([one.outcome for one in theirs]):
        return None
    return "ping_pong", rounds, theirs[0].tool


def _no_progress(
    calls: Sequence[Call], call: Call, most: int | None
) -> tuple[Kind, int, str | None] | None:
    if most is None or len(calls) < most or calls[-1].outcome is None:
        return None
    row = []
    for one in reversed(calls):
        if one.outcome != calls[-1].outcome or (one.acts and not one.failed):
            break
        row.append(one)
    tried = any(one.id == call.id for one in row) and (not call.acts or calls[-1].failed)
    different = len({one.key for one in row}) > 1
    made = len({one.decision for one in row})
    return ("no_progress", made, None) if tried and different and made >= most else None


def _varied(
    calls: Sequence[Call], call: Call, most: int | None
) -> tuple[Kind, int, str | None] | None:
    if most is None or len(calls) < most:
        return None
    keys, row = {call.key}, []
    for one in reversed(calls):
        if one.id != call.id or one.key in keys:
            break
        keys.add(one.key)
        row.append(one)
    made = len({one.decision for one in row})
    return ("varied", made, None) if made >= most else None


def _same(outcomes: Sequence[Hashable]) -> bool:
    return None not in outcomes and all(one == other for one, other in pairwise(outcomes))
