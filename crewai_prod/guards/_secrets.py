"""`secrets`: keys, tokens and passwords do not travel, however they are written.

What a secret looks like is known in one place, `crewai_prod.redact`; here it is looked for in any
reading of a text, and broken up. What a text gives to a telling name (`password = ...`) is taken
for one only if it does not read like a word, a type, or the place where the secret is kept.
"""

from __future__ import annotations

import base64
import codecs
import os
import re
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, cast

from crewai_prod.errors import GuardUnavailable
from crewai_prod.guards._replacing import (
    REMEMBERED,
    RESTORED,
    Action,
    Found,
    apart,
    found_in,
    replacing_guard,
)
from crewai_prod.guards._texts import DEEPEST
from crewai_prod.guards._types import Guard, GuardContext, Place, Reject, Verdict
from crewai_prod.guards._versions import version_of
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
_LONGEST: Final = 512
_MOST: Final = 2_000
_BROKEN: Final = 16
"""A key that was broken up has as many characters at least."""
_TURNED: Final = 10
"""So many letters and digits a given secret has at least that is looked for by them alone."""
_NO_SECRET = re.compile(
    r"""\$?\{ | \{\{ | < | \$\w | %\w | \*{2} | x{3} | \.{3}
      | os\.|self\.|env\b|getenv|process\.|settings\.|config\.|vault: | \[?redacted""",
    re.VERBOSE | re.IGNORECASE,
)
_TELLING = re.compile(r"\d|[^\w\s.,:;()\[\]{}-]")
_PIECE = re.compile(r"[^\s\"'`+\u00ad\u200b-\u200f\u2060\ufeff]+")
_WORD = re.compile(r"[A-Z]?[a-z]+[-.,;:!?)]*")
_DIGIT = re.compile(r"\d")
_SCHEME = re.compile(r"(?:basic|bearer|digest|token)\s+", re.IGNORECASE)
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
    hex, percent signs, escapes or entities. Secrets that are given are found in other cases, with
    any signs between, backwards and in ROT13, too; in pieces over several texts they are rejected.

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
        found = found_in(text, readings(text), _shaped)
        return apart([*found, *_planted(text, planted)])

    default: Collection[Place] = ("model_input",) if action == "pseudonymise" else _PLACES
    where = default if places is None else places
    made = replacing_guard(
        name,
        find,
        action,
        where,
        key=key,
        restore=restore,
        tools=tools,
        order=order,
        version=version_of("2", action, len(known), restore, tools),
    )

    def check(value: Any, context: GuardContext) -> Verdict:
        said = cast(Verdict, made.check(value, context))
        if context.place in where and not isinstance(said, Reject) and _scattered(value, planted):
            return Reject("It holds a secret in several pieces. Leave that out.")
        return said

    return replace(made, check=check) if planted else made


def environment_secrets(environment: Mapping[str, str] | None = None) -> list[str]:
    """The values of environment variables whose names tell of a secret."""
    variables = os.environ if environment is None else environment
    return [
        value
        for name, value in variables.items()
        if is_sensitive(name) and len(value) >= _SHORTEST_KNOWN
    ]


def _shaped(text: str) -> Iterator[Found]:
    yield from _broken_up(text)
    for one in find_secrets(text):
        if one.kind != "assigned":
            yield Found(one.start, one.end, one.kind)
        elif _reads_like_one(text[one.start : one.end]):
            yield Found(one.start, one.end, "password")


def _reads_like_one(value: str) -> bool:
    """Whether a value of a telling name may be a secret and not talk of one."""
    bare = _SCHEME.sub("", value.strip("`'\"().,; "), count=1)
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
    first = begins.search(text)
    if first is None:
        return
    view = joined(text)
    assert view.starts is not None
    for number, begin in enumerate(begins.finditer(text, first.start())):
        if number > _MOST:
            raise GuardUnavailable(f"A text has more than {_MOST} beginnings of keys.")
        at = bisect_left(view.starts, begin.start())
        start = next((one for one in shapes if view.text.startswith(one, at)), None)
        rest = shapes[start].match(view.text, at + len(start), at + _LONGEST) if start else None
        if rest is None or rest.end() - at < _BROKEN:
            continue
        span = view.span(at, rest.end())
        if span[1] - span[0] > rest.end() - at and _DIGIT.search(rest[0]):
            length = _random(text[slice(*span)])
            if length:
                yield Found(span[0], span[0] + length, "key")


def _random(text: str) -> int:
    """How much of a text, from its beginning, is the pieces of a key and no words; 0: none."""
    pieces = list(_PIECE.finditer(text))
    if all(len(one[0]) <= 2 for one in pieces[2:-2]) and len(pieces) > _BROKEN // 2:
        return len(text)  # letter by letter
    while pieces and _WORD.fullmatch(pieces[-1][0]):
        pieces.pop()  # what follows the key
    words = sum(1 for one in pieces if _WORD.fullmatch(one[0]))
    size = sum(len(one[0]) for one in pieces)
    return pieces[-1].end() if words * 2 < len(pieces) and size >= _BROKEN else 0


@dataclass(frozen=True, slots=True)
class _Known:
    """A secret that was given, and what it looks like amid other bytes in base64 or hex.

    `turned` are its letters and digits alone, forwards, backwards and in ROT13.
    """

    plain: str
    coded: tuple[str, ...]
    turned: tuple[str, ...]

    @classmethod
    def read(cls, value: str) -> _Known:
        raw = value.encode("utf-8", "surrogatepass")
        return cls(
            joined(value).text,
            (raw.hex(), raw.hex().upper(), *(_amid(raw, offset) for offset in range(3))),
            _turned(value),
        )


def _turned(value: str) -> tuple[str, ...]:
    bare = _letters(value).text.lower()
    return (bare, bare[::-1], codecs.encode(bare, "rot13")) if len(bare) >= _TURNED else ()


def _letters(text: str) -> View:
    """The text without what is neither letter nor digit."""
    return joined(text, {letter for letter in set(text) if not letter.isalnum()})


def _scattered(value: Any, known: Collection[_Known]) -> bool:
    """Whether texts that stand one after the other in a value are a secret together."""
    leaves = list(_leaves(value, DEEPEST))
    if len(leaves) < 2:
        return False
    said = _letters("".join(leaves)).text.lower()
    return any(form in said for one in known for form in one.turned)


def _leaves(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list, tuple)) and depth:
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(item, depth - 1)


def _amid(raw: bytes, offset: int) -> str:
    """The letters of its base64 that do not depend on what stands around it."""
    text = base64.b64encode(b"\0" * offset + raw).decode()
    return text[(offset * 8 + 5) // 6 : (offset + len(raw)) * 8 // 6]


def _planted(text: str, known: Collection[_Known]) -> Iterator[Found]:
    for view in readings(text) if known else ():
        squeezed, coded = joined(view.text), joined(view.text, BLANKS)
        slanted = coded.text.replace("-", "+").replace("_", "/")
        letters = _letters(view.text)
        lowered = "".join(one.lower() if len(one.lower()) == 1 else one for one in letters.text)
        for one in known:
            places = [*_all_in(squeezed, squeezed.text, one.plain)]
            for form in one.turned:
                places += _all_in(letters, lowered, form)
            for form in one.coded:
                places += _all_in(coded, slanted, form)
            for start, end in places:
                yield Found(*view.span(start, end), "known secret")


def _all_in(view: View, said: str, form: str) -> Iterator[tuple[int, int]]:
    at = said.find(form)
    while at >= 0:
        yield view.span(at, at + len(form))
        at = said.find(form, at + len(form))
