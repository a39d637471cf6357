"""`secrets`: keys, tokens and passwords do not travel, however they are written.

What a secret looks like is known in one place, `crewai_prod.redact`; here it is looked for in any
reading of a text, and broken up. What a text gives to a telling name (`password = ...`) is taken
for one only if it does not read like a word, a type, or the place where the secret is kept.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from crewai_prod.guards._replacing import (
    REMEMBERED,
    RESTORED,
    Action,
    Found,
    apart,
    found_in,
    replacing_guard,
)
from crewai_prod.guards._types import Guard, Place
from crewai_prod.guards._views import BLANKS, View, joined, readings
from crewai_prod.redact import MARK, find_secrets, is_sensitive, key_shapes

_PLACES: Final[tuple[Place, ...]] = (
    "model_input",
    "tool_call",
    "tool_result",
    "task_output",
    "final_output",
)
_SHORTEST_KNOWN: Final = 6
_LONGEST: Final = 4_096
_BROKEN: Final = 16
"""A key that was broken up has as many characters at least."""
_NO_SECRET = re.compile(
    r"""\$?\{ | \{\{ | < | \$\w | %\w | \*{2} | x{3} | \.{3}
      | os\.|self\.|env\b|getenv|process\.|settings\.|config\.|vault: | \[?redacted""",
    re.VERBOSE | re.IGNORECASE,
)
_TELLING = re.compile(r"\d|[^\w\s.,:;()\[\]{}-]")
_CALL = re.compile(r"\w+(?:\.\w+)*\(")


def secrets(
    action: Action = "redact",
    *,
    known: Collection[str] = (),
    places: Collection[Place] | None = None,
    restore: Collection[Place] = RESTORED,
    tools: Collection[str] | None = None,
    key: str | bytes | None = None,
    name: str = "secrets",
    order: int = 0,
) -> Guard:
    """A guard against keys, tokens and passwords of known shapes, and secrets that are given.

    Found in any reading of a text: broken up by blanks, quotes or invisible characters, in base64,
    hex, percent signs, escapes or entities.

    Args:
        action: `block`, `redact` (default), `mask` or `pseudonymise`, as with `pii`.
        known: Secrets to be found whatever they look like, for example `environment_secrets()`.
        places: Where; default before models and tools, behind tools, tasks and the crew.
        restore: Where pseudonyms are put back.
        tools: The tools that get the values back in their arguments; default all.
        key: The secret that pseudonyms are sealed with; default `CREWAI_PROD_ENCRYPTION_KEY`.
        name: Of the guard.
        order: Of the guard.

    Raises:
        UsageError: An action or place that does not exist; no key for `pseudonymise`.
    """
    planted = [_Known.read(one) for one in known if len(one) >= _SHORTEST_KNOWN]

    @lru_cache(maxsize=REMEMBERED)
    def find(text: str, key: str) -> list[Found]:
        if is_sensitive(key) and _reads_like_one(text):
            return [Found(0, len(text), "password")]
        found = found_in(text, readings(text), _plain)
        return apart([*found, *_broken_up(text), *_planted(text, planted)])

    default: Collection[Place] = ("model_input",) if action == "pseudonymise" else _PLACES
    where = default if places is None else places
    return replacing_guard(
        name, find, action, where, key=key, restore=restore, tools=tools, order=order
    )


def environment_secrets(environment: Mapping[str, str] | None = None) -> list[str]:
    """The values of environment variables whose names tell of a secret."""
    variables = os.environ if environment is None else environment
    return [
        value
        for name, value in variables.items()
        if is_sensitive(name) and len(value) >= _SHORTEST_KNOWN
    ]


def _plain(text: str) -> Iterator[Found]:
    for one in find_secrets(text):
        if one.kind != "assigned":
            yield Found(one.start, one.end, one.kind)
        elif _reads_like_one(text[one.start : one.end]):
            yield Found(one.start, one.end, "password")


def _reads_like_one(value: str) -> bool:
    """Whether a value of a telling name may be a secret and not talk of one."""
    bare = value.strip("`'\"().,; ")
    if len(bare) < _SHORTEST_KNOWN or MARK in value or _NO_SECRET.match(bare):
        return False
    return bool(_TELLING.search(bare)) and not _CALL.match(bare)


@lru_cache(maxsize=1)
def _beginnings() -> tuple[re.Pattern[str], Mapping[str, re.Pattern[str]]]:
    shapes = {start: re.compile(rest, re.ASCII) for start, rest in key_shapes().items()}
    spaced = (
        r"[\s\"'`+\u200b-\u200f\u2060\ufeff]{0,3}".join(map(re.escape, one)) for one in shapes
    )
    return re.compile(f"(?<![A-Za-z0-9])(?:{'|'.join(spaced)})"), shapes


def _broken_up(text: str) -> Iterator[Found]:
    """Keys with blanks, quotes or invisible characters within."""
    begins, shapes = _beginnings()
    for begin in begins.finditer(text):
        view = joined(text[begin.start() : begin.start() + _LONGEST])
        start = next((one for one in shapes if view.text.startswith(one)), None)
        rest = None if start is None else shapes[start].match(view.text, len(start))
        if start is None or rest is None:
            continue
        first, last = view.span(0, rest.end())
        whole = text[begin.start() + first : begin.start() + last]
        if rest.end() >= _BROKEN and len(whole) > rest.end() and _random(whole):
            yield Found(begin.start() + first, begin.start() + last, "key")


def _random(text: str) -> bool:
    """Whether there is more than words in it: in most of its pieces letters and digits mix."""
    pieces = [one for one in re.split(r"[\s\"'`+]+", text) if one]
    mixed = [one for one in pieces if _mixes(one)]
    if len(pieces) > 4 and sum(map(len, pieces)) <= 2 * len(pieces):  # letter by letter
        return _mixes("".join(pieces))
    return len(mixed) * 2 > len(pieces)


def _mixes(piece: str) -> bool:
    return bool(re.search(r"\d", piece)) and bool(re.search(r"[A-Za-z]", piece))


@dataclass(frozen=True, slots=True)
class _Known:
    """A secret that was given, and what it looks like amid other bytes in base64 or hex."""

    plain: str
    coded: tuple[str, ...]

    @classmethod
    def read(cls, value: str) -> _Known:
        raw = value.encode("utf-8", "surrogatepass")
        return cls(
            joined(value).text,
            (raw.hex(), raw.hex().upper(), *(_amid(raw, offset) for offset in range(3))),
        )


def _amid(raw: bytes, offset: int) -> str:
    """The letters of its base64 that do not depend on what stands around it."""
    text = base64.b64encode(b"\0" * offset + raw).decode()
    return text[(offset * 8 + 5) // 6 : (offset + len(raw)) * 8 // 6]


def _planted(text: str, known: Collection[_Known]) -> Iterator[Found]:
    for view in readings(text) if known else ():
        squeezed, coded = joined(view.text), joined(view.text, BLANKS)
        slanted = coded.text.replace("-", "+").replace("_", "/")
        for one in known:
            places = [*_all_in(squeezed, squeezed.text, one.plain)]
            for form in one.coded:
                places += _all_in(coded, slanted, form)
            for start, end in places:
                yield Found(*view.span(start, end), "known secret")


def _all_in(view: View, said: str, form: str) -> Iterator[tuple[int, int]]:
    at = said.find(form)
    while at >= 0:
        yield view.span(at, at + len(form))
        at = said.find(form, at + len(form))
