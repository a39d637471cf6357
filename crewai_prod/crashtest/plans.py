"""Where a trial's sessions are killed: pure decisions, one plan per trial.

Boundaries are the fault points a session passes: before and after each commit, each model call and
each tool's body. They are counted, not named, so that a plan fits any crew.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

Mode = Literal["boundary", "every session", "random"]

_OPENING = 2
"""The boundaries of opening the run, which every session passes first."""
_MOST_SPARED = 3


@dataclass(frozen=True, slots=True)
class Kill:
    """How one session ends before its time: at its n-th boundary, or after some seconds."""

    point: int | None = None
    seconds: float | None = None


class Plan(Protocol):
    """Says for each session of one trial whether and how it is killed."""

    mode: Mode

    @property
    def label(self) -> str:
        """What this trial does, for people."""
        ...

    def next(self, progress: int) -> Kill | None:
        """How to kill the next session, given how many steps and tasks have ended so far."""
        ...


class AtBoundary:
    """Kill the first session at its n-th boundary, and no other."""

    mode: Mode = "boundary"

    def __init__(self, point: int) -> None:
        self._point = point
        self._killed = False

    @property
    def label(self) -> str:
        """See `Plan`."""
        return f"killed at boundary {self._point}"

    def next(self, progress: int) -> Kill | None:
        """See `Plan`."""
        if self._killed:
            return None
        self._killed = True
        return Kill(point=self._point)


class EverySession:
    """Kill every session one boundary after it opened the run; only if that gained nothing, later.

    The run advances one commit at a time, through as many sessions as it has boundaries.
    """

    mode: Mode = "every session"
    label = "every session killed after one more boundary"

    def __init__(self) -> None:
        self._point = _OPENING
        self._progress = -1

    def next(self, progress: int) -> Kill | None:
        """See `Plan`."""
        self._point = self._point + 1 if progress == self._progress else _OPENING + 1
        self._progress = progress
        return Kill(point=self._point)


class AtRandom:
    """SIGKILL the first session at a random moment, and each later one with a chance of a half.

    Args:
        seed: Names the moments; what runs at them is the machine's business.
        span: Seconds an unkilled session takes.
    """

    mode: Mode = "random"

    def __init__(self, seed: str, span: float) -> None:
        self._moments = self._draw(random.Random(seed), span)
        self._seed = seed

    @property
    def label(self) -> str:
        """See `Plan`."""
        return f"SIGKILL at random moments, seed {self._seed}"

    def next(self, progress: int) -> Kill | None:
        """See `Plan`."""
        seconds = next(self._moments, None)
        return None if seconds is None else Kill(seconds=seconds)

    @staticmethod
    def _draw(dice: random.Random, span: float) -> Iterator[float]:
        yield dice.uniform(0, span)
        for _ in range(_MOST_SPARED):
            if dice.random() < 0.5:
                return
            yield dice.uniform(0, span)


def spread(count: int, wanted: int | None) -> list[int]:
    """`wanted` of the numbers 1 to `count`, evenly spread, first and last included; None: all."""
    if wanted is None or wanted >= count:
        return list(range(1, count + 1))
    if wanted <= 1:
        return [(count + 1) // 2] * wanted
    return sorted({1 + round(n * (count - 1) / (wanted - 1)) for n in range(wanted)})
