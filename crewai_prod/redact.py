"""The one place where secrets are taken out of what people get to see: logs, reports, exports.

Rule: a value goes if its key names a secret (`api_key`, `Authorization` ...; counts of tokens do
not), and so does any part of a text that has the shape of a known kind of key, of a URL's password
or of `name=value` with such a name. When in doubt it goes: a lost word is
cheaper than a leaked key.

The result has the structure of the input and consists of plain JSON types: what is no data is shown
as its `repr`, redacted. Pure, bounded in depth and size, never raises.

Not covered: secrets without a telling name or shape, personal data, and an object that stands under
a telling name inside a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence, Set
from datetime import date, time
from decimal import Decimal
from functools import lru_cache
from pathlib import PurePath
from typing import Any, Final
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


@lru_cache(maxsize=4096)
def is_sensitive(key: str) -> bool:
    """Whether values under this key are secrets, in snake, kebab, dotted or camel case."""
    words = [word.lower() for word in _WORD.findall(key[:256])]
    return any(map(_tells, ["", *words], words, [*words[1:], ""]))


def redact_text(text: str) -> str:
    """The text with everything that looks like a key, token or password replaced."""
    return _short(text) if len(text) <= _SHORT else _clean(text)


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

_PREFIXED = re.compile(
    r"""(?<![A-Za-z0-9])(?:
        sk-(?:(?=[A-Za-z_-]*[0-9])[\w-]{8,}|[\w-]{20,})       # OpenAI, Anthropic, OpenRouter ...
      | [srp]k_(?:live|test)_\w{8,} | whsec_[\w+/=-]{16,}     # Stripe
      | A(?:KIA|SIA)[A-Z0-9]{16}                              # AWS
      | gh[oprsu]_[A-Za-z0-9]{20,} | github_pat_\w{20,} | glpat-[\w-]{16,}
      | xox[abeoprs]-[\w-]{10,} | xapp-[\w-]{10,}             # Slack
      | AIza[\w-]{30,} | ya29\.[\w-]{20,}                     # Google
      | hf_[A-Za-z0-9]{20,} | gsk_[A-Za-z0-9]{20,} | r8_[A-Za-z0-9]{30,}
      | (?:xai|pplx|tvly)-[A-Za-z0-9-]{16,} | lsv2_[a-z]{2}_\w{20,}
      | npm_[A-Za-z0-9]{30,} | pypi-[\w-]{32,} | SG\.[\w-]{16,}\.[\w-]{16,}
      | dapi[0-9a-f]{32} | dop_v1_[0-9a-f]{32,}
    )""",
    re.VERBOSE | re.ASCII,
)
_BLOCK = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*?"
    r"(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\Z)",
    re.DOTALL,
)
_USERINFO = re.compile(r"(?<=://)[^\s/@:\"']{0,100}:[^\s/@\"']{1,200}(?=@)")
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]{6,}\.[\w-]{6,}(?:\.[\w-]*)*", re.ASCII)
_BEARER = re.compile(
    r"(?i:(\bbearer\s{1,4}))(?:(?=[^\s\d]*\d)[\w.~+/=-]{8,}|[\w.~+/=-]{16,})", re.ASCII
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
    r"""  \[redacted\]
      | (?P<quote>")(?:[^"\\]|\\.)*+(?:"|\Z)
      | (?P<single>')(?:[^'\\]|\\.)*+(?:'|\Z)
      | (?P<escaped>\\+["'])[^"'\\]*+(?:\\+["'])?             # JSON inside JSON
      | (?:(?i:basic|bearer|digest|token)\s{1,4})?[^\s,;&"'\\({\[][^\s,;&"'\\]*+
    """,
    re.VERBOSE | re.DOTALL,
)


def _assigned(text: str) -> str:
    """Replace what `name=value`, `"name": "value"` and `--name value` give to a telling name."""
    parts: list[str] = []
    end = 0
    for match in _NAME.finditer(text):
        if match.start() < end or not is_sensitive(match["flag"] or match["name"]):
            continue
        value = _VALUE.match(text, match.end())
        if value is not None:
            quote = value["quote"] or value["single"] or value["escaped"] or ""
            parts += text[end : value.start()], quote, MARK, quote
            end = value.end()
    return "".join([*parts, text[end:]])


def _each(pattern: re.Pattern[str], instead: str = MARK) -> Callable[[str], str]:
    return lambda text: pattern.sub(instead, text)


_SHAPES: Final = (
    ("-----begin", _each(_BLOCK)),
    ("://", _each(_USERINFO)),
    ("eyj", _each(_JWT)),
    (
        "sk- k_live_ k_test_ whsec_ akia asia gho_ ghp_ ghr_ ghs_ ghu_ github_pat_ glpat- xox "
        "xapp- aiza ya29. hf_ gsk_ r8_ xai- pplx- tvly- lsv2_ npm_ pypi- sg. dapi dop_v1_",
        _each(_PREFIXED),
    ),
    ("bearer", _each(_BEARER, r"\1" + MARK)),
    ("auth cookie credential jwt key otp pass pwd secret token", _assigned),
)
# Most texts hold no secret: looking for these first costs a tenth of trying every pattern.
_HINTS: Final = [(hint, shape) for hints, shape in _SHAPES for hint in hints.split()]


def _clean(text: str) -> str:
    lowered = text.lower()
    for shape in dict.fromkeys([shape for hint, shape in _HINTS if hint in lowered]):
        text = shape(text)
    return text


_short = lru_cache(maxsize=2048)(_clean)


@lru_cache(maxsize=2048)
def _known_key(key: str) -> tuple[str, bool]:
    return _clean(key), is_sensitive(key)


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
            return MARK if hidden else self.text(value)
        if kind in _SMALL:
            return MARK if hidden and kind in _NUMBERS else value
        try:
            if kind is dict or kind is list or kind is tuple:
                return self.container(value, depth, hidden)
            return self.foreign(value, depth, hidden)
        except Exception:  # noqa: BLE001 - a user's class may raise anything when looked at
            return f"<{kind.__name__}>"

    def text(self, text: str) -> str:
        size = len(text)
        if size <= self.left:
            self.left -= size
            return _short(text) if size <= _SHORT else _clean(text)
        shown = _clean(text[: self.left + _MARGIN])[:-_MARGIN]
        self.left = 0
        return shown + CUT

    def container(self, value: Any, depth: int, hidden: bool) -> Any:
        if depth <= 0:
            return CUT
        if isinstance(value, dict):
            return self.mapping(value, depth - 1, hidden)
        return self.sequence(value, depth - 1, hidden)

    def mapping(self, value: dict[Any, Any], depth: int, hidden: bool) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        # A pair as lists of headers and of variables write it: {"name": ..., "value": ...}.
        named = "value" in value and self.key(value.get("name", value.get("key")))[1]
        for key, item in list(value.items()):
            if self.left <= 0 and (type(item) not in _SMALL or self.left < -_MARGIN):
                shown[CUT] = len(value) - len(shown)
                break
            self.left -= 1
            name, secret = self.key(key)
            shown[name] = self.value(item, depth, hidden or secret or (named and key == "value"))
        return shown

    def sequence(self, value: Sequence[Any], depth: int, hidden: bool) -> list[Any]:
        shown: list[Any] = []
        pair = len(value) == 2 and self.key(value[0])[1]
        for item in value:
            if self.left <= 0:
                shown.append(CUT)
                break
            self.left -= 1
            shown.append(self.value(item, depth, hidden or (pair and len(shown) == 1)))
        return shown

    def key(self, key: Any) -> tuple[str, bool]:
        """A key as it is shown, and whether it names a secret."""
        if type(key) is not str:
            return str(self.value(key, 1)), False
        if len(key) > _SHORT:
            return _clean(key), is_sensitive(key) or key in self.sensitive
        name, secret = _known_key(key)
        return name, secret or key in self.sensitive

    def foreign(self, value: Any, depth: int, hidden: bool) -> Any:
        """A value of another class: as the JSON type it stands for, else as its `repr`."""
        if isinstance(value, Mapping):
            return self.container(dict(value), depth, hidden)
        if isinstance(value, (Sequence, Set)) and not isinstance(value, _OPAQUE):
            return self.container(list(value), depth, hidden)
        if hidden:
            return MARK
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
