"""The one place where secrets are taken out of what people get to see: logs, reports, exports.

Rule: a value goes if its key names a secret (`api_key`, `Authorization` ...; counts of tokens do
not), and so does any part of a text that has the shape of a known kind of key, of a URL's password
or of `name=value` with such a name. When in doubt it goes: a lost word costs less than a leaked
key. Booleans and None stay, as they say only whether there is a secret.

The result has the structure of the input and consists of plain JSON types: what is no data is shown
as its `repr`, redacted. Pure, bounded in depth and size, never raises.

Not covered: secrets without a telling name or shape, personal data, and what a text gives to a
telling name as a list or object, or unquoted and with a comma in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import date, time
from decimal import Decimal
from functools import lru_cache
from pathlib import PurePath
from typing import Any, Final, NamedTuple
from uuid import UUID

MARK: Final = "[redacted]"
"""Stands where a secret was."""
CUT: Final = "[cut]"
"""Stands where something was left out because it was too deep or too large."""

MAX_DEPTH: Final = 12
MAX_SIZE: Final = 65_536

_MARGIN: Final = 512
"""A text is cut this much later than shown, so that a key across the cut is still recognised."""
_SHORT: Final = 64
"""Texts up to this length recur from line to line and are remembered."""
_LONGEST_KEY: Final = 256
_INT64: Final = 2**63
_LONGEST_NUMBER: Final = 14_000
"""Bits; Python refuses to write integers of more than 4,300 decimal digits."""


def redact(
    value: Any,
    *,
    sensitive: Set[str] = frozenset(),
    max_depth: int = MAX_DEPTH,
    max_size: int = MAX_SIZE,
) -> Any:
    """The value without its secrets, as plain JSON types. Never raises.

    Args:
        value: Anything.
        sensitive: Further keys whose values are never shown.
        max_depth: Containers deeper than this are cut.
        max_size: How many characters and items are shown in all; the rest is cut.
    """
    return _Walk(sensitive, max_size).value(value, max_depth)


def redact_fields(
    line: Mapping[str, Any], *, sensitive: Set[str] = frozenset(), max_size: int = MAX_SIZE
) -> dict[str, Any]:
    """As `redact`, for a log line: each field has a bound of its own, None is left out.

    A large field thus takes no room from the others. Costs half as much for short plain values.
    """
    shown: dict[str, Any] = {}
    names = _known_keys(tuple(line), frozenset(sensitive))
    for (name, secret), value in zip(names, line.values(), strict=True):
        if value is None:
            continue
        kind = type(value)
        if secret:
            shown[name] = _Walk(sensitive, max_size).value(value, MAX_DEPTH, hidden=True)
        elif kind is str and len(value) <= _SHORT:
            shown[name] = _short(value)
        elif kind is float or kind is bool or (kind is int and -_INT64 < value < _INT64):
            shown[name] = value
        elif kind in _SMALL:
            shown[name] = _number(value)
        else:
            shown[name] = _Walk(sensitive, max_size).value(value, MAX_DEPTH)
    return shown


def is_sensitive(key: str) -> bool:
    """Whether values under this key are secrets, in snake, kebab, dotted or camel case."""
    return _known_key(key[:_LONGEST_KEY])[1]


def redact_text(text: str) -> str:
    """The text with everything that looks like a key, token or password replaced."""
    return _short(text) if len(text) <= _SHORT else _clean(text)


class Secret(NamedTuple):
    """Where in a text a secret stands.

    Attributes:
        start: Position of its first character.
        end: Position after its last one.
        kind: `key`, `private key`, `password` (in a URL), `token` (after `Bearer`), or `assigned`
            (to a telling name), which is the weakest sign.
    """

    start: int
    end: int
    kind: str


def find_secrets(text: str) -> list[Secret]:
    """Where `redact_text` would put its mark. They may overlap."""
    return [
        Secret(start, end, shape.kind)
        for shape in _shapes_for(text)
        for start, end in shape.spans(text)
    ]


def key_shapes() -> Mapping[str, str]:
    """How known kinds of keys begin, and the pattern of how each goes on."""
    return _KEYS


# -- keys -----------------------------------------------------------------------------------------


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRETS = _words(
    "apikeys authorization cookie cookies credential credentials jwt otp passcode pwd secrets"
)
_ENDINGS = tuple(
    _words(
        "password passwords passwd passphrase secret apikey authtoken accesstoken refreshtoken "
        "secretkey accesskey privatekey"
    )
)
_COMPANY = {
    "key": _words(
        "access account api auth client deploy encryption master private secret service shared "
        "signing ssh storage subscription"
    ),
    "pass": _words("admin db ftp imap mysql pg proxy redis root smtp user"),
    "tokens": _words("access api auth bearer id refresh secret session"),
}
"""Words that tell of a secret only after one of these words."""
_NAMING = sorted(_words("auth cookie credential jwt key otp pass pwd secret token"))
"""Every telling key contains one of these."""
_COUNTED = _words(
    "bos cached completion eos first input last max min output pad per prompt reasoning special "
    "stop total unk"
)
_COUNTING = _words(
    "budget cost count counts counter id ids index length limit limits price rate type usage"
)


def _tells(before: str, word: str, after: str) -> bool:
    """Whether a word of a key, between its neighbours, says that the value is a secret."""
    if word in _SECRETS or word.endswith(_ENDINGS):
        return True
    if word == "token":
        return before not in _COUNTED and after not in _COUNTING
    if word == "auth":
        return not after
    return before in _COMPANY.get("key" if word == "keys" else word, ())


# -- texts ----------------------------------------------------------------------------------------

_KEYS: Final = {
    "sk-": r"(?:(?=[A-Za-z_-]*[0-9])[\w-]{8,}|[\w-]{20,})",  # OpenAI, Anthropic, OpenRouter ...
    "sk_live_": r"\w{8,}",  # Stripe
    "sk_test_": r"\w{8,}",
    "rk_live_": r"\w{8,}",
    "whsec_": r"[\w+/=-]{16,}",
    "AKIA": r"[A-Z0-9]{16}",  # AWS
    "ASIA": r"[A-Z0-9]{16}",
    "ghp_": r"\w{20,}",  # GitHub
    "gho_": r"\w{20,}",
    "ghs_": r"\w{20,}",
    "ghu_": r"\w{20,}",
    "ghr_": r"\w{20,}",
    "github_pat_": r"\w{20,}",
    "glpat-": r"[\w-]{16,}",  # GitLab
    "xox": r"[abeoprs]-[\w-]{10,}",  # Slack
    "xapp-": r"[\w-]{10,}",
    "AIza": r"[\w-]{30,}",  # Google
    "ya29.": r"[\w-]{20,}",
    "hf_": r"[A-Za-z0-9]{20,}",
    "gsk_": r"[A-Za-z0-9]{20,}",  # Groq
    "xai-": r"[\w-]{20,}",
    "pplx-": r"[\w-]{20,}",
    "tvly-": r"[\w-]{16,}",
    "r8_": r"[A-Za-z0-9]{30,}",  # Replicate
    "lsv2_": r"[a-z]{2}_\w{20,}",  # LangSmith
    "npm_": r"[A-Za-z0-9]{30,}",
    "pypi-": r"[\w-]{32,}",
    "SG.": r"[\w-]{16,}\.[\w-]{16,}",  # SendGrid
    "dapi": r"[0-9a-f]{32}",  # Databricks
    "dop_v1_": r"[0-9a-f]{32,}",  # DigitalOcean
    "eyJ": r"[\w-]{6,}\.[\w-]{6,}(?:\.[\w-]*)*",  # JWT
}
"""How known kinds of keys begin and go on."""
_BLOCK = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*?"
    r"(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\Z)",
    re.DOTALL,
)
_USERINFO = re.compile(r"://(?P<secret>[^\s/@:\"']{0,100}:[^\s/@\"']{1,200})@")
_BEARER = re.compile(
    r"(?i:(\bbearer\s{1,4}))(?P<secret>(?=[^\s\d]*\d)[\w.~+/=-]{8,}|[\w.~+/=-]{16,})", re.ASCII
)
_NAME = re.compile(
    r"""(?<![\w.-])(?:
        --(?P<flag>[\w-]{1,64})\s{1,4}
      | -{0,2}(?P<name>(?:(?i:access|api|private|secret)\ )?[\w.-]{1,64})
        (?:\\*["'])?\s{0,4}[:=]>?\s{0,4}
    )""",
    re.VERBOSE | re.ASCII,
)
_VALUE = re.compile(
    r"""  (?:(?i:basic|bearer|digest|token)\s{1,4})?\[redacted\]
      | (?P<quote>")(?:[^"\\]|\\.)*+(?:"|\Z)
      | (?P<single>')(?:[^'\\]|\\.)*+(?:'|\Z)
      | (?P<escaped>\\+["'])[^"'\\]*+(?:\\+["'])?             # JSON inside JSON
      | (?:(?i:basic|bearer|digest|token)\s{1,4})?
        (?![({\[])(?:[^\s,;&"'\\]|\\(?![nrt"'\\]))++
    """,
    re.VERBOSE | re.DOTALL,
)


class _Pattern:
    """What one pattern knows of: where its secrets stand, and the text without them."""

    __slots__ = ("_instead", "_pattern", "_secret", "kind")

    def __init__(self, pattern: re.Pattern[str], instead: str = MARK, *, kind: str = "key") -> None:
        self._pattern = pattern
        self._instead = instead
        self._secret: str | int = "secret" if "secret" in pattern.groupindex else 0
        self.kind = kind

    def clean(self, text: str) -> str:
        return self._pattern.sub(self._instead, text)

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        return (match.span(self._secret) for match in self._pattern.finditer(text))


class _Assigned:
    """What `name=value`, `"name": "value"` and `--name value` give to a telling name."""

    kind = "assigned"

    def clean(self, text: str) -> str:
        parts: list[str] = []
        end = 0
        for start, stop, quote in self._values(text):
            parts += text[end:start], quote, MARK, quote
            end = stop
        return "".join([*parts, text[end:]])

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        for start, stop, quote in self._values(text):
            closed = quote and stop - len(quote) >= start + len(quote)
            inner = stop - len(quote) if closed and text.endswith(quote, start, stop) else stop
            if start + len(quote) < inner:
                yield start + len(quote), inner

    def _values(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Start, end and quotes of each value, the quotes within."""
        end = 0
        for match in _NAME.finditer(text):
            if match.start() < end or not is_sensitive(match["flag"] or match["name"]):
                continue
            value = _VALUE.match(text, match.end())
            if value is not None:
                end = value.end()
                yield (
                    value.start(),
                    end,
                    value["quote"] or value["single"] or value["escaped"] or "",
                )


_ASSIGNED: Final = _Assigned()


def _key_shape(prefix: str, rest: str) -> _Pattern:
    # The prefix comes before the look behind it: a pattern that begins with letters is searched for
    # many times faster.
    letters = re.escape(prefix)
    return _Pattern(re.compile(f"{letters}(?<![A-Za-z0-9]{letters})(?:{rest})", re.ASCII))


# Most texts hold no secret: looking for these first costs a tenth of trying every pattern.
_HINTS: Final[list[tuple[str, _Pattern | _Assigned]]] = [
    ("-----begin", _Pattern(_BLOCK, kind="private key")),
    ("://", _Pattern(_USERINFO, f"://{MARK}@", kind="password")),
    *((prefix.lower(), _key_shape(prefix, rest)) for prefix, rest in _KEYS.items()),
    ("bearer", _Pattern(_BEARER, r"\1" + MARK, kind="token")),
    *((word, _ASSIGNED) for word in _NAMING),
]


_DIGITS = re.compile(r"[0-9a-f]*", re.ASCII).fullmatch
"""Of our ids and digests, which are in every line: no hint consists of such letters alone."""


def _shapes_for(text: str) -> dict[_Pattern | _Assigned, None]:
    """What is worth trying on a text, each once and in order."""
    if _DIGITS(text):
        return {}
    lowered = text.lower()
    return dict.fromkeys([shape for hint, shape in _HINTS if hint in lowered])


def _clean(text: str) -> str:
    for shape in _shapes_for(text):
        text = shape.clean(text)
    return text


_short = lru_cache(maxsize=2048)(_clean)


@lru_cache(maxsize=2048)
def _known_key(key: str) -> tuple[str, bool]:
    """A key as it is shown, and whether it names a secret."""
    words = [word.lower() for word in _WORD.findall(key)]
    secret = any(map(_tells, ["", *words], words, [*words[1:], ""]))
    return _clean(key), secret


@lru_cache(maxsize=256)
def _known_keys(keys: tuple[str, ...], sensitive: frozenset[str]) -> list[tuple[str, bool]]:
    """The same of all keys of a line: few lines have keys that no earlier one had."""
    known = [(key, *_known_key(key)) for key in keys]
    return [(name, secret or key in sensitive) for key, name, secret in known]


def _number(value: Any) -> Any:
    """A small value; an integer of more digits than Python would write out by its size alone."""
    if type(value) is int and value.bit_length() > _LONGEST_NUMBER:
        return f"<{value.bit_length()} bits>"
    return value


# -- structures -----------------------------------------------------------------------------------


class _Walk:
    """One pass over one value; `left` is how much of it may still be shown."""

    __slots__ = ("left", "sensitive")

    def __init__(self, sensitive: Set[str], left: int) -> None:
        self.sensitive = sensitive
        self.left = left

    def value(self, value: Any, depth: int, hidden: bool = False) -> Any:
        kind = type(value)
        if kind is str:
            return self.mark() if hidden else self.text(value)
        if kind in _SMALL:
            return self.mark() if hidden and kind in _NUMBERS else _number(value)
        try:
            if kind is dict or kind is list or kind is tuple:
                return self.container(value, depth, hidden)
            return self.foreign(value, depth, hidden)
        except Exception:  # noqa: BLE001 - a user's class may raise anything when looked at
            return f"<{kind.__name__}>"

    def mark(self) -> str:
        self.left -= len(MARK)
        return MARK

    def text(self, text: str) -> str:
        size = len(text)
        if size <= self.left:
            self.left -= size
            return _short(text) if size <= _SHORT else _clean(text)
        left, self.left = max(self.left, 0), 0
        shown = _clean(text[: left + _MARGIN])
        return shown[: left if size <= left + _MARGIN else -_MARGIN] + CUT

    def container(self, value: Any, depth: int, hidden: bool) -> Any:
        if depth <= 0:
            return CUT
        if isinstance(value, dict):
            return self.mapping(value, depth - 1, hidden)
        return self.sequence(value, depth - 1, hidden)

    def mapping(self, value: dict[Any, Any], depth: int, hidden: bool) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        # A pair as lists of headers and of variables write it: {"name": ..., "value": ...}.
        named = "value" in value and self.tells(value.get("name", value.get("key")))
        for key, item in list(value.items()):
            if self.left <= 0:
                shown[CUT] = len(value) - len(shown)
                break
            self.left -= 1
            name, secret = self.key(key)
            self.left -= len(name)
            shown[name] = self.value(item, depth, hidden or secret or (named and key == "value"))
        return shown

    def sequence(self, value: Sequence[Any], depth: int, hidden: bool) -> list[Any]:
        shown: list[Any] = []
        pair = len(value) == 2 and self.tells(value[0])
        for item in value:
            if self.left <= 0:
                shown.append(CUT)
                break
            self.left -= 1
            shown.append(self.value(item, depth, hidden or (pair and len(shown) == 1)))
        return shown

    def key(self, key: Any) -> tuple[str, bool]:
        """A key as it is shown, and whether it names a secret."""
        if not isinstance(key, str):
            return str(self.value(key, 1)), False
        if len(key) > _LONGEST_KEY:
            return self.text(key), is_sensitive(key)
        name, secret = _known_key(str.__str__(key))
        return name, secret or key in self.sensitive

    def tells(self, name: Any) -> bool:
        """Whether a value that may be a name is that of a secret; a sentence is none."""
        is_name = type(name) is str and len(name) <= _SHORT and " " not in name
        return is_name and self.key(name)[1]

    def foreign(self, value: Any, depth: int, hidden: bool) -> Any:
        """A value of another class: as the JSON type it stands for, else as its `repr`."""
        if isinstance(value, Mapping):
            return self.container(dict(value), depth, hidden)
        if isinstance(value, (Sequence, Set)) and not isinstance(value, _OPAQUE):
            return self.container(list(value), depth, hidden)
        if hidden:
            return self.mark()
        if isinstance(value, (bytes, bytearray, memoryview)):
            return f"<{len(value)} bytes>"
        for plain, convert in _PLAIN:
            if isinstance(value, plain):
                return self.value(convert(value), depth)
        return self.text(repr(value))


_NUMBERS = frozenset({int, float})
_SMALL = frozenset({int, float, bool, type(None)})
_OPAQUE = (str, bytes, bytearray, memoryview, range)
_PLAIN: tuple[tuple[Any, Any], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    ((date, time), lambda value: value.isoformat()),
    ((Decimal, PurePath, UUID), str),
)
