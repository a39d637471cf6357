"""Where a trial's sessions are killed: pure decisions, one plan per trial.

Boundaries are the fault points a session passes: before and after each commit, each model call and
each tool's body. They are counted, not named, so that a plan fits any crew.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

Mode = Literal["boundary", "every session", "random", "cancelled"]

_OPENING = 2
"""The boundaries of opening the run, which every session passes first."""
_MOST_SPARED = 3


@dataclass(frozen=True, slots=True)
class Kill:
    """How one session ends before its time: at its n-th boundary, or after some seconds.

    Attributes:
        point: The boundary.
        seconds: From the kickoff on.
        cancel: After these seconds it is not killed, but another process cancels the run.
    """

    point: int | None = None
    seconds: float | None = None
    cancel: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SoFar:
    """What a trial has come to before a session.

    Attributes:
        progress: Steps and tasks that have ended, questions that were asked and answered.
        points: Boundaries that were passed, in all sessions.
        seconds: How long these took.
        opens: Whether the session opens the run; that of a person who answers does not.
    """

    progress: int = 0
    points: int = 0
    seconds: float = 0.0
    opens: bool = True


class Plan(Protocol):
    """Says for each session of one trial whether and how it is killed."""

    mode: Mode

    @property
    def label(self) -> str:
        """What this trial does, for people."""
        ...

    def next(self, so_far: SoFar) -> Kill | None:
        """How to end the next session before its time; None: not at all."""
        ...


class AtBoundary:
    """Kill the session that comes to the n-th boundary of the trial there, and no other."""

    mode: Mode = "boundary"

    def __init__(self, point: int) -> None:
        self._point = point

    @property
    def label(self) -> str:
        """See `Plan`."""
        return f"killed at boundary {self._point}"

    def next(self, so_far: SoFar) -> Kill | None:
        """See `Plan`."""
        ahead = self._point - so_far.points
        return Kill(point=ahead) if ahead > 0 else None


class EverySession:
    """Kill every session one boundary after it opened the run; only if that gained nothing, later.

    The run advances one commit at a time, through as many sessions as it has boundaries.
    """

    mode: Mode = "every session"
    label = "every session killed after one more boundary"

    def __init__(self) -> None:
        self._point = _OPENING
        self._progress = -1

    def next(self, so_far: SoFar) -> Kill | None:
        """See `Plan`."""
        least = _OPENING + 1 if so_far.opens else 1
        gained = so_far.progress > self._progress  # less of it: a task that is begun again
        self._point = least if gained else self._point + 1
        self._progress = max(self._progress, so_far.progress)
        return Kill(point=self._point)


class AtRandom:
    """SIGKILL at a random moment, and again at another one after it with a chance of a half.

    Args:
        seed: Names the moments; what runs at them is the machine's business.
        span: Seconds that an unkilled run takes, in all its sessions.
    """

    mode: Mode = "random"
    cancel = False

    def __init__(self, seed: str, span: float) -> None:
        self._moments = self._draw(random.Random(seed), span)
        self._seed = seed
        self._at = 0.0

    @property
    def label(self) -> str:
        """See `Plan`."""
        return f"SIGKILL at random moments, seed {self._seed}"

    def next(self, so_far: SoFar) -> Kill | None:
        """See `Plan`."""
        if so_far.seconds >= self._at:
            after = next(self._moments, None)
            if after is None:
                return None
            self._at = so_far.seconds + after
        return Kill(seconds=self._at - so_far.seconds, cancel=self.cancel)

    @staticmethod
    def _draw(dice: random.Random, span: float) -> Iterator[float]:
        yield dice.uniform(0, span)
        for _ in range(_MOST_SPARED):
            if dice.random() < 0.5:
                return
            yield dice.uniform(0, span)


class CancelAtRandom(AtRandom):
    """The same moments, but the run is cancelled from another process; its own goes on till then.

    A person's session is left in peace: there is nobody at work who could be asked to stop.
    """

    mode: Mode = "cancelled"
    cancel = True

    @property
    def label(self) -> str:
        """See `Plan`."""
        return f"cancelled at random moments, seed {self._seed}"

    def next(self, so_far: SoFar) -> Kill | None:
        """See `Plan`."""
        return super().next(so_far) if so_far.opens else None


def spread(count: int, wanted: int | None) -> list[int]:
    """`wanted` of the numbers 1 to `count`, evenly spread, first and last included; None: all."""
    if wanted is None or wanted >= count:
        return list(range(1, count + 1))
    if wanted <= 1:
        return [(count + 1) // 2] * wanted
    return sorted({1 + round(n * (count - 1) / (wanted - 1)) for n in range(wanted)})
