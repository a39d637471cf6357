"""`length`, `script` and `language`: what can be measured of a text without understanding it."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection
from functools import lru_cache
from importlib import import_module
from typing import Any, Final, Literal

from crewai_prod.errors import UsageError
from crewai_prod.guards._texts import texts
from crewai_prod.guards._types import Allow, Guard, GuardContext, Place, Reject, Verdict
from crewai_prod.guards._versions import version_of

_OUTPUTS: Final[tuple[Place, ...]] = ("task_output", "final_output")
_WORD: Final = re.compile(r"\w+(?:[-'\u2019]\w+)*")
_NO_PROSE: Final = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|\b[a-z]+://\S+|\S+@\S+", re.DOTALL)
_SHORTEST: Final = 20
"""Letters, below which a text may be of any language: a name, a number, `OK`."""
_LONGEST: Final = 20_000


def length(
    min: int = 0,
    max: int | None = None,
    *,
    unit: Literal["characters", "words"] = "characters",
    places: Collection[Place] = _OUTPUTS,
    name: str = "length",
    order: int = 0,
) -> Guard:
    """A guard that rejects what is too short or too long.

    Args:
        min: At least so many, blanks at both ends not counted.
        max: At most so many; None: no limit.
        unit: `characters` or `words`.
        places: Where; default outputs of tasks and of the crew.
        name: Of the guard.
        order: Of the guard.

    Raises:
        UsageError: Limits that make no sense.
    """
    for limit in (min, max):
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
            raise UsageError(f"length() takes whole numbers, not {limit!r}.")
    if min < 0 or (max is not None and max < min) or (min == 0 and max is None):
        raise UsageError("length() takes 0 <= min <= max, and at least one of them.")
    if unit not in ("characters", "words"):
        raise UsageError(f"unit={unit!r} does not exist; there are characters and words.")

    def check(value: Any, context: GuardContext) -> Verdict:
        text = _text(value).strip()
        count = len(text) if unit == "characters" else len(_WORD.findall(text))
        if count < min:
            return Reject(f"It has {count} {unit}; there must be at least {min}.")
        if max is not None and count > max:
            return Reject(f"It has {count} {unit}; there may be at most {max}.")
        return Allow()

    return Guard(name, check, frozenset(places), version_of("1", min, max, unit), order)


def script(
    *scripts: str,
    share: float = 0.9,
    places: Collection[Place] = _OUTPUTS,
    name: str = "script",
    order: int = 0,
) -> Guard:
    """A guard that rejects text in other scripts. It needs no library, and knows no languages.

    Args:
        *scripts: As Unicode names them: `latin`, `cyrillic`, `greek`, `arabic`, `hebrew`, `cjk`,
            `hiragana`, `katakana`, `hangul`, `devanagari` ...
        share: How much of the letters must be in them, from 0 to 1.
        places: Where; default outputs of tasks and of the crew.
        name: Of the guard.
        order: Of the guard.

    Raises:
        UsageError: No script is named, or the share is none.
    """
    wanted = {one.upper() for one in scripts}
    if not wanted or not 0 < share <= 1:
        raise UsageError("script() takes names of scripts, and a share above 0 and up to 1.")

    def check(value: Any, context: GuardContext) -> Verdict:
        counted = Counter(_script(letter) for letter in _prose(_text(value)) if letter.isalpha())
        total = counted.total()
        if sum(counted[one] for one in wanted) >= share * total:
            return Allow()
        most = counted.most_common(1)[0][0].lower()
        return Reject(f"It is not written in {' or '.join(sorted(scripts))} letters, but {most}.")

    return Guard(name, check, frozenset(places), version_of("1", wanted, share), order)


@lru_cache(maxsize=8192)
def _script(letter: str) -> str:
    return unicodedata.name(letter, "UNKNOWN").partition(" ")[0]


def language(
    *languages: str,
    detect: Callable[[str], str] | None = None,
    places: Collection[Place] = _OUTPUTS,
    name: str = "language",
    order: int = 0,
) -> Guard:
    """A guard that rejects text in other languages (`pip install 'crewai-prod[language]'`).

    Code, addresses and texts of fewer than 20 letters are of any language.

    Args:
        *languages: Their ISO 639-1 codes: `en`, `de` ...
        detect: A function that gives the code of a text's language; default that of py3langid.
        places: Where; default outputs of tasks and of the crew.
        name: Of the guard.
        order: Of the guard.

    Raises:
        UsageError: No language is named, or the library is not installed.
    """
    wanted = {one.lower() for one in languages}
    if not wanted:
        raise UsageError("language() takes the codes of languages: language('en').")
    of = _library() if detect is None else detect

    def check(value: Any, context: GuardContext) -> Verdict:
        text = _prose(_text(value))[:_LONGEST]
        if sum(map(str.isalpha, text)) < _SHORTEST:
            return Allow()
        found = of(text).lower()
        if found in wanted:
            return Allow()
        return Reject(f"It is written in {found!r}; it must be in {' or '.join(sorted(wanted))}.")

    return Guard(name, check, frozenset(places), version_of("1", wanted, detect), order)


def _library() -> Callable[[str], str]:
    try:
        classify = import_module("py3langid").classify
    except ImportError as error:
        raise UsageError(
            "language() needs py3langid: pip install 'crewai-prod[language]'."
        ) from error
    return lambda text: str(classify(text)[0])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "\n".join(text for text, _ in texts(value))


def _prose(text: str) -> str:
    return _NO_PROSE.sub(" ", text)
