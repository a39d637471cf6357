"""What does not fit, told to a model in a line: field, expected, got.

Never a stack trace, never a secret, and the same misfit is told in the same words.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import ErrorDetails

Place = tuple[Any, ...]

_MOST = 5
_LONGEST = 60
_LONGEST_TEXT = 160
_HIDDEN = "a hidden value"

_EXPECTED = {
    "int_type": "integer",
    "int_parsing": "integer",
    "int_from_float": "integer",
    "float_type": "number",
    "float_parsing": "number",
    "finite_number": "finite number",
    "decimal_type": "decimal number",
    "decimal_parsing": "decimal number",
    "bool_type": "boolean",
    "bool_parsing": "boolean",
    "string_type": "string",
    "none_required": "null",
    "list_type": "list",
    "tuple_type": "list",
    "set_type": "list",
    "frozen_set_type": "list",
    "dict_type": "object",
    "mapping_type": "object",
    "model_type": "object",
    "model_attributes_type": "object",
    "dataclass_type": "object",
    "date_type": "date (YYYY-MM-DD)",
    "date_parsing": "date (YYYY-MM-DD)",
    "date_from_datetime_parsing": "date (YYYY-MM-DD)",
    "datetime_type": "date and time (ISO 8601)",
    "datetime_parsing": "date and time (ISO 8601)",
    "datetime_from_date_parsing": "date and time (ISO 8601)",
    "time_type": "time (HH:MM:SS)",
    "time_parsing": "time (HH:MM:SS)",
    "time_delta_type": "duration (ISO 8601)",
    "time_delta_parsing": "duration (ISO 8601)",
    "uuid_type": "UUID",
    "uuid_parsing": "UUID",
    "path_type": "path",
    "bytes_type": "string",
    "model_class_type": "object",
    "json_invalid": "text that is valid Unicode",
}
_OWN_WORDS = frozenset({"value_error", "assertion_error"})
"""Errors whose text is that of the user's own validator, which may repeat the value."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """One thing that does not fit.

    Attributes:
        place: Keys and positions that lead to it; empty: the whole.
        expected: What should be there; None: nothing, the name is not known.
        got: What is there, shortened; None: nothing.
    """

    place: Place
    expected: str | None
    got: str | None = None

    @property
    def text(self) -> str:
        """As the model reads it."""
        if self.expected is None:
            return f"{self.field}: there is no such field."
        got = "but it is missing" if self.got is None else f"got {self.got}"
        return f"{self.field}: expected {self.expected}, {got}."

    @property
    def field(self) -> str:
        """Where it is: `items[2].price`."""
        text = ""
        for part in self.place:
            text += f"[{part}]" if isinstance(part, int) else f".{_cut(str(part), _LONGEST)}"
        return text.removeprefix(".") or "it"


def told(misfits: Sequence[Misfit]) -> str:
    """The first few of them in one line."""
    parts = [misfit.text for misfit in misfits[:_MOST]]
    if len(misfits) > _MOST:
        parts.append(f"And {len(misfits) - _MOST} more.")
    return " ".join(parts)


def misfits_of(
    errors: Iterable[ErrorDetails], value: Any, hidden: Collection[str] = ()
) -> list[Misfit]:
    """What pydantic found, one for each place.

    Args:
        errors: `ValidationError.errors()`.
        value: What was validated.
        hidden: Names whose values are not shown.
    """
    found: dict[Place, list[ErrorDetails]] = {}
    for error in errors:
        found.setdefault(_place(error, value), []).append(error)
    return [_misfit(place, group, value, hidden) for place, group in found.items()]


def unknown_at(places: Iterable[Place]) -> list[Misfit]:
    """What nobody asked for."""
    return [Misfit(place, None) for place in places]


def _place(error: ErrorDetails, value: Any) -> Place:
    """Where it is in the value: pydantic also names the branch of a union that it tried."""
    place: list[Any] = []
    location = error["loc"]
    for number, part in enumerate(location):
        inside = isinstance(value, Mapping) and part in value
        if inside or (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            value = value[part]
            place.append(part)
        elif number == len(location) - 1 and error["type"] == "missing":
            place.append(part)
    return tuple(place)


def _misfit(
    place: Place, errors: Sequence[ErrorDetails], value: Any, hidden: Collection[str]
) -> Misfit:
    if errors[0]["type"] == "extra_forbidden":
        return Misfit(place, None)
    for number, part in enumerate(place):
        if errors[0]["type"] == "missing" and number == len(place) - 1:
            return Misfit(place, "a value")
        value = value[part]
    secret = any(part in hidden for part in place)
    wary = secret or (bool(hidden) and isinstance(value, (dict, list)))
    expected = list(dict.fromkeys(_expected(error, wary) for error in errors))
    return Misfit(place, " or ".join(expected), _HIDDEN if secret else shown(value))


def _expected(error: ErrorDetails, wary: bool) -> str:
    kind = error["type"]
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    if wary and kind in _OWN_WORDS:
        return "another value"
    text = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    text = text.removeprefix("Input should be ").removeprefix("a valid ")
    return _cut(text[:1].lower() + text[1:] if text[1:2].islower() else text, _LONGEST_TEXT)


def shown(value: Any) -> str:
    """A value as a model knows it, cut to a few words; of what holds others only what it is."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, (list, tuple, set, frozenset)):
        return "a list"
    if value is None or isinstance(value, (str, int, float)):
        return _cut(json.dumps(value), _LONGEST)
    return f"an instance of {type(value).__name__}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
