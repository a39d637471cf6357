"""Values as JSON text and back, without pickle and without loading a class by a stored name.

Plain JSON values are stored as they are. Other values of the standard library carry a tag,
`{"$": tag, "v": ...}`. An object of any other class is stored as what a model would be shown of it
(`str(value)`) together with its fields if it is a pydantic model or a dataclass, and comes back as
`Recorded`: a string with that text and the fields in `data`.

Encoding never fails: what has no structure that can be kept (recursive, too deep, no usable `str`)
is stored as text.
"""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

import orjson

MAX_DEPTH = 64
_INT64 = 2**63
_DECIMAL_BITS = 14_000
"""Python writes and reads up to 4,300 decimal digits; more take it too long."""


class Recorded(str):
    """An object that was recorded as text: equal to that text, with its fields in `data`."""

    __slots__ = ("data", "type_name")
    data: Any
    type_name: str

    def __new__(cls, text: str, *, type_name: str, data: Any = None) -> Recorded:
        """Text as `str(value)` gave it, class name for people, fields if there were any."""
        self = super().__new__(cls, text)
        self.type_name = type_name
        self.data = data
        return self


def encode(value: Any) -> str:
    """The value as JSON text that `decode` reads back."""
    return orjson.dumps(to_tree(value)).decode()


def decode(text: str) -> Any:
    """The value that `encode` was given, or a `Recorded` where its class is not known here."""
    return from_tree(orjson.loads(text))


def to_tree(value: Any, depth: int = MAX_DEPTH, above: list[int] | None = None) -> Any:
    """The value as a tree of JSON values, tags where JSON has no word for it.

    Args:
        value: Anything.
        depth: So many levels are kept; what is deeper is text.
        above: Ids of the values that this one lies in. One that lies in itself is text there: told
            only by its depth, a list that holds itself twice would be 2**64 lists.
    """
    if value is None or value is True or value is False:
        return value
    kind = type(value)
    if kind is str:
        return (
            value if _is_text(value) else _tag("str", _b64(value.encode("utf-8", "surrogatepass")))
        )
    if kind is int:
        return value if -_INT64 <= value < _INT64 else _tag("int", _digits(value))
    if kind is float:
        return value if math.isfinite(value) else _tag("float", repr(value))
    above = [] if above is None else above
    if depth <= 0 or id(value) in above:
        return _object(value, None, above)
    above.append(id(value))
    try:
        return _structure(value, depth, above)
    finally:
        above.pop()


def _structure(value: Any, depth: int, above: list[int]) -> Any:
    """The tree of a value that may hold others."""
    kind = type(value)
    if kind is Recorded:
        data = to_tree(value.data, depth - 1, above)
        return _tag("object", {"type": value.type_name, "text": str(value), "data": data})
    if kind is list:
        return _items(value, depth, above)
    if kind is dict:
        return _dict(value, depth, above)
    packer = _PACKERS.get(kind)
    if packer is not None:
        try:
            return _tag(kind.__name__, packer(value, depth, above))
        except Exception:  # noqa: BLE001 - a time may ask a user's zone; the text remains
            return _object(value, None, above)
    return _object(value, depth, above)


def from_tree(tree: Any) -> Any:
    """Inverse of `to_tree`."""
    if isinstance(tree, list):
        return [from_tree(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    tag = tree.get("$")
    if tag is None:
        return {key: from_tree(item) for key, item in tree.items()}
    unpack = _UNPACKERS.get(tag)
    if unpack is None:
        return Recorded(orjson.dumps(tree).decode(), type_name=str(tag), data=tree)
    return unpack(tree["v"])


def text_of(value: Any) -> str:
    """`str(value)`, or `repr`, or the class name: whichever the object still manages."""
    for attempt in (str, repr):
        try:
            return attempt(value)
        except Exception:  # noqa: BLE001, S112 - a user's __str__ may raise anything
            continue
    return f"<{type(value).__qualname__}>"


def _tag(name: str, value: Any) -> dict[str, Any]:
    return {"$": name, "v": value}


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _is_text(value: str) -> bool:
    """Whether UTF-8 can say it: lone surrogates, as broken models send them, it cannot."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _digits(value: int) -> str:
    """Decimal, or hexadecimal where Python refuses to write that many decimal digits."""
    return str(value) if value.bit_length() <= _DECIMAL_BITS else hex(value)


def _dict(value: dict[Any, Any], depth: int, above: list[int]) -> Any:
    tree = {}
    for key, item in value.items():
        if type(key) is not str or key == "$" or not (key.isascii() or _is_text(key)):
            pairs = value.items()
            return _tag("dict", [_items(pair, depth, above) for pair in pairs])
        plain = type(item) is str and item.isascii()  # most are
        tree[key] = item if plain else to_tree(item, depth - 1, above)
    return tree


def _object(value: Any, depth: int | None, above: list[int]) -> dict[str, Any]:
    text = text_of(value)
    fields = _fields(value) if depth is not None else None
    body = {
        "type": type(value).__qualname__,
        "text": text if _is_text(text) else text.encode("utf-8", "replace").decode(),
        "data": None if fields is None or depth is None else to_tree(fields, depth - 1, above),
    }
    return _tag("object", body)


def _fields(value: Any) -> dict[str, Any] | None:
    """The fields of a model, dataclass or enum; None for anything else or if it refuses."""
    try:
        if isinstance(value, Enum):
            return {"value": value.value}
        dump = getattr(type(value), "model_dump", None)
        if dump is not None:
            dumped = dump(value, mode="json")
            return dumped if isinstance(dumped, dict) else None
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    except Exception:  # noqa: BLE001 - a user's class may raise anything when looked at; the text remains
        return None
    return None


def _items(value: Any, depth: int, above: list[int]) -> list[Any]:
    return [to_tree(item, depth - 1, above) for item in value]


def _sorted(value: Any, depth: int, above: list[int]) -> list[Any]:
    return sorted(_items(value, depth, above), key=orjson.dumps)


_PACKERS: dict[type, Callable[[Any, int, list[int]], Any]] = {
    tuple: _items,
    set: _sorted,
    frozenset: _sorted,
    bytes: lambda v, *_: _b64(v),
    datetime: lambda v, *_: v.isoformat(),
    date: lambda v, *_: v.isoformat(),
    time: lambda v, *_: v.isoformat(),
    timedelta: lambda v, *_: [v.days, v.seconds, v.microseconds],
    Decimal: lambda v, *_: str(v),
    UUID: lambda v, *_: str(v),
}
_UNPACKERS: dict[str, Callable[[Any], Any]] = {
    "str": lambda v: base64.b64decode(v).decode("utf-8", "surrogatepass"),
    "int": lambda v: int(v, 0),
    "float": float,
    "dict": lambda v: {from_tree(key): from_tree(item) for key, item in v},
    "tuple": lambda v: tuple(from_tree(item) for item in v),
    "set": lambda v: {from_tree(item) for item in v},
    "frozenset": lambda v: frozenset(from_tree(item) for item in v),
    "bytes": base64.b64decode,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda v: timedelta(*v),
    "Decimal": Decimal,
    "UUID": UUID,
    "object": lambda v: Recorded(v["text"], type_name=v["type"], data=from_tree(v["data"])),
}


def meaning(value: Any) -> bytes:
    """Canonical JSON of what a value means, for digests: keys sorted, no addresses, never fails.

    Two values of different classes with the same fields mean the same; an object without fields
    means its class.
    """
    try:
        return orjson.dumps(value, default=_meaning_of, option=_CANONICAL)
    except (TypeError, ValueError, RecursionError):
        return orjson.dumps(_readable(to_tree(value)), option=_CANONICAL)


def stored_meaning(value: Any) -> bytes:
    """As `meaning`, of the form in which a value is stored: equal before and after the journal."""
    return orjson.dumps(_readable(to_tree(value)), option=_CANONICAL)


_CANONICAL = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_NON_STR_KEYS
    | orjson.OPT_PASSTHROUGH_DATACLASS
    # A user's time zone that raises ends the process within orjson (3.13: a segmentation fault).
    | orjson.OPT_PASSTHROUGH_DATETIME
)


def _meaning_of(value: Any) -> Any:
    if isinstance(value, type):
        schema = getattr(value, "model_json_schema", None)
        return schema() if schema is not None else f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, (set, frozenset)):
        return sorted(meaning(item).decode() for item in value)
    if isinstance(value, (bytes, bytearray)):
        return _b64(bytes(value))
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, (Decimal, PurePath, timedelta)):
        return str(value)
    fields = _fields(value)
    if fields is not None:
        return fields
    function = getattr(value, "__qualname__", None)
    if function is not None:
        return f"{getattr(value, '__module__', '')}.{function}"
    return f"<{type(value).__module__}.{type(value).__qualname__}>"


def _readable(tree: Any) -> Any:
    """The tree with the texts of unknown objects dropped: a `repr` may hold an address."""
    if isinstance(tree, list):
        return [_readable(item) for item in tree]
    if isinstance(tree, dict):
        if tree.get("$") == "object":
            return [tree["v"]["type"], _readable(tree["v"]["data"])]
        return {key: _readable(item) for key, item in tree.items()}
    return tree
