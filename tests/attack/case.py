"""One hostile case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Something that must not work.

    Attributes:
        family: What kind of attack it is.
        name: Of the case.
        tried: What is done.
        blocked: What counts as blocked.
        attempt: Does it, in an empty folder; True if it was blocked. An exception is a miss.
    """

    family: str
    name: str
    tried: str
    blocked: str
    attempt: Callable[[Path], bool]
