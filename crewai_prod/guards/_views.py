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
_MOST_READINGS: Final = 2_000
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_HEX = re.compile(
    r"(?<![0-9A-Za-z])(?:0x|\\x)?[0-9A-Fa-f]{2}(?:(?:[ :]|\\x)?[0-9A-Fa-f]{2}){7,}(?![0-9A-Za-z])"
)
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
        starts: Where in the original each character begins; None: where it stands here.
        ends: Where it ends there; None: one further on.
        whole: The part of the original that all of it stands for, if no more is known.
    """

    text: str
    starts: Sequence[int] | None = None
    ends: Sequence[int] | None = None
    whole: tuple[int, int] | None = None

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The part of the original that a part of this reading stands for."""
        if self.whole is not None:
            return self.whole
        if self.starts is None:
            return start, end
        last = self.starts[end - 1] + 1 if self.ends is None else self.ends[end - 1]
        return self.starts[start], last

    def newly(self, original: str, start: int, end: int) -> bool:
        """Whether a part of this reading does not stand there in the original as it is."""
        return self.whole is None or self.text[start:end] not in original[slice(*self.whole)]


def readings(text: str) -> Iterator[View]:
    """The text as it is, in plain letters, what its encoded parts stand for, and so on in those.

    Raises:
        GuardUnavailable: It has more encoded parts than are decoded.
    """
    known = {text}
    waiting = [(View(text), 0)]
    while waiting:
        view, depth = waiting.pop(0)
        yield view
        for inner in _inner(view.text) if depth < _DEEPEST else ():
            if inner.text in known:
                continue
            known.add(inner.text)
            if len(known) > _MOST_READINGS:
                raise GuardUnavailable(f"A text can be read in more than {_MOST_READINGS} ways.")
            waiting.append((_within(view, inner), depth + 1))


def _inner(text: str) -> Iterator[View]:
    for view in (in_plain_letters(text), without_entities(text)):
        if view is not None:
            yield view
    for span, meant in _decoded(text):
        yield View(meant, whole=span)


def _within(outer: View, inner: View) -> View:
    """A reading of a reading, as one of the original."""
    if inner.whole is not None:
        return View(inner.text, whole=outer.span(*inner.whole))
    if outer.whole is not None:
        return View(inner.text, whole=outer.whole)
    if outer.starts is None or inner.starts is None:
        return inner
    ends = inner.ends or [one + 1 for one in inner.starts]
    spans = [outer.span(*span) for span in zip(inner.starts, ends, strict=True)]
    return View(inner.text, [start for start, _ in spans], [end for _, end in spans])


def without_entities(text: str) -> View | None:
    """The text with what its HTML entities stand for; None if it has none."""
    if "&" not in text:
        return None
    made: list[str] = []
    spans: list[tuple[int, int]] = []
    end = 0
    for one in _ENTITY.finditer(text):
        letters = html.unescape(one[0])
        made += text[end : one.start()], letters
        spans += [(at, at + 1) for at in range(end, one.start())]
        spans += [one.span()] * len(letters)
        end = one.end()
    view = "".join([*made, text[end:]])
    spans += [(at, at + 1) for at in range(end, len(text))]
    if view == text:
        return None
    return View(view, [start for start, _ in spans], [end for _, end in spans])


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
        shown = INVISIBLE.sub("", text)
        if shown and sum(map(str.isprintable, shown)) + shown.count("\n") >= 0.9 * len(shown):
            return text
    return None
