"""All hostile cases."""

from __future__ import annotations

from dataclasses import replace

from tests.attack import contents, names, people, planted
from tests.attack.case import Case

_UNICODE = (
    "invisible characters",
    "another alphabet",
    "full-width",
    "tag block",
    "look-alike letter",
    "another script",
    "looks alike",
    "turns the text around",
    "isolates directions",
    "in Unicode",
)


def _told_apart(case: Case) -> Case:
    """Tricks with letters are counted by themselves, wherever they are tried."""
    tricky = any(part in case.name for part in _UNICODE)
    return replace(case, family="unicode tricks") if tricky else case


CASES: tuple[Case, ...] = tuple(
    map(_told_apart, (*contents.CASES, *names.CASES, *people.CASES, *planted.CASES))
)
