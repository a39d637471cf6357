r"""What a text says to whoever decodes it: the ways in which it hides something in plain sight.

A view is such a reading, with the way back: where in the original stands what was found in it.
Read are: the text without invisible characters and with its letters and digits in their plain
forms; the text without the blanks and quotes that break a word up; and what base64, hex, percent
signs, `\u` escapes and HTML entities stand for, also within each other. Pure and bounded.

Not read: ciphers, compression, pictures, languages.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from crewai_prod.errors import GuardUnavailable

INVISIBLE: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
"""Characters that show nothing: zero-width, bidirectional, fillers, variation selectors, tags."""

_DEEPEST: Final = 3
"""How many encodings within each other are undone."""
_MOST_RUNS: Final = 2_000
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:0x|\\x)?(?:[0-9A-Fa-f]{2}(?:[ :]|\\x)?){8,}(?![0-9A-Za-z])")
_RUN = re.compile(r"[^\s\"'<>]+")
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")
_ESCAPE = re.compile(r"\\u([0-9A-Fa-f]{4})|\\x([0-9A-Fa-f]{2})")
_ENTITY = re.compile(r"&(?:#x?[0-9A-Fa-f]{1,7}|[A-Za-z]{2,8});")
BLANKS: Final = frozenset(" \t\r\n\v\f\u00a0\u2028\u2029")
_BREAKS = BLANKS | frozenset("\"'`+")


@dataclass(frozen=True, slots=True)
class View:
    """One reading of a text.

    Attributes:
        text: What it says.
        starts: Where in the original each character stands; None: where it stands here.
        whole: The part of the original that all of it stands for, if no more is known.
    """

    text: str
    starts: Sequence[int] | None = None
    whole: tuple[int, int] | None = None

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The part of the original that a part of this reading stands for."""
        if self.whole is not None:
            return self.whole
        if self.starts is None:
            return start, end
        return self.starts[start], self.starts[end - 1] + 1

    def newly(self, original: str, start: int, end: int) -> bool:
        """Whether a part of this reading does not stand there in the original as it is."""
        return self.whole is None or self.text[start:end] not in original[slice(*self.whole)]


def readings(text: str) -> Iterator[View]:
    """The text as it is, in plain letters, and what its encoded parts stand for.

    Raises:
        GuardUnavailable: It has more encoded parts than are decoded.
    """
    yield View(text)
    for view in (in_plain_letters(text), without_entities(text)):
        if view is not None:
            yield view
    yield from decoded(text)


def without_entities(text: str) -> View | None:
    """The text with what its HTML entities stand for; None if it has none."""
    if "&" not in text:
        return None
    made: list[str] = []
    starts: list[int] = []
    end = 0
    for one in _ENTITY.finditer(text):
        letters = html.unescape(one[0])
        made += text[end : one.start()], letters
        starts += [*range(end, one.start()), *[one.start()] * len(letters)]
        end = one.end()
    view = "".join([*made, text[end:]])
    return None if view == text else View(view, [*starts, *range(end, len(text))])


def in_plain_letters(text: str) -> View | None:
    """The text without invisible characters, letters and digits in plain forms; None if it is."""
    if text.isascii():
        return None
    made: list[str] = []
    starts: list[int] = []
    for position, letter in enumerate(text):
        for one in letter if letter.isascii() else _plain(letter):
            made.append(one)
            starts.append(position)
    view = "".join(made)
    return None if view == text else View(view, starts)


@lru_cache(maxsize=4096)
def _plain(letter: str) -> str:
    """A character in its plain form; a digit of any script is one of ours."""
    if INVISIBLE.match(letter):
        return ""
    if unicodedata.category(letter) == "Nd":
        return str(unicodedata.decimal(letter))
    return unicodedata.normalize("NFKC", letter)


def joined(text: str, breaks: Set[str] = _BREAKS) -> View:
    """The text without blanks, quotes and invisible characters: words that were broken up."""
    kept = [
        (position, letter)
        for position, letter in enumerate(text)
        if letter not in breaks and (letter.isascii() or not INVISIBLE.match(letter))
    ]
    return View("".join(letter for _, letter in kept), [position for position, _ in kept])


def decoded(text: str) -> Iterator[View]:
    """What the encoded parts of a text stand for.

    Raises:
        GuardUnavailable: There are more than are decoded.
    """
    seen = 0
    waiting = [(text, None, 0)] if len(text) >= _SHORTEST else []
    known: set[str] = {text}
    while waiting:
        said, whole, depth = waiting.pop()
        for part, meant in _decoded(said):
            seen += 1
            if seen > _MOST_RUNS:
                raise GuardUnavailable(f"A text has more than {_MOST_RUNS} encoded parts.")
            if meant in known:
                continue
            known.add(meant)
            place = whole or part
            yield View(meant, whole=place)
            if depth + 1 < _DEEPEST:
                waiting.append((meant, place, depth + 1))  # type: ignore[arg-type]


_SHORTEST: Final = 4


def _decoded(text: str) -> Iterator[tuple[tuple[int, int], str]]:
    for run in _BASE64.finditer(text):
        for meant in _from_base64(run[0]):
            yield run.span(), meant
    for run in _HEX.finditer(text):
        text_of = _from_hex(run[0])
        if text_of is not None:
            yield run.span(), text_of
    if "%" in text or "\\" in text:
        for run in _RUN.finditer(text):
            if _PERCENT.search(run[0]):
                yield run.span(), unquote(run[0], errors="replace")
            if _ESCAPE.search(run[0]):
                yield run.span(), _ESCAPE.sub(_escaped, run[0])


def _escaped(escape: re.Match[str]) -> str:
    return chr(int(escape[1] or escape[2], 16))


def _from_base64(run: str) -> Iterator[str]:
    """What it may stand for: it may begin amid something, so from each of its first characters."""
    body = run.rstrip("=").replace("-", "+").replace("_", "/")
    for skipped in range(4):
        part = body[skipped:]
        part = part[: len(part) - (len(part) % 4 == 1)]
        try:
            raw = base64.b64decode(part + "=" * (-len(part) % 4), validate=True)
        except (binascii.Error, ValueError):
            continue
        meant = _readable(raw)
        if meant is not None:
            yield meant
            return


def _from_hex(run: str) -> str | None:
    digits = re.sub(r"0x|\\x|[ :]", "", run)
    return _readable(bytes.fromhex(digits[: len(digits) // 2 * 2]))


def _readable(raw: bytes) -> str | None:
    """Bytes as the text they are; None if they are none."""
    for encoding in ("utf-8", "utf-16-le") if b"\0" in raw else ("utf-8",):
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if text and sum(map(str.isprintable, text)) + text.count("\n") >= 0.9 * len(text):
            return text
    return None
