"""The texts in what a guard is given: found wherever they are, and changed in place.

A value is a text, or a tree of JSON values: arguments, messages, a tool's result. A text that holds
JSON itself (the arguments of a native call stand so in a message) is looked into as a tree, so that
what is put into it leaves it JSON. Too large or too deep is `GuardUnavailable`, never passed over.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from crewai_prod.errors import GuardUnavailable

MOST_CHARACTERS: Final = 4_000_000
"""Of all texts of one value together."""
DEEPEST: Final = 64
_LONG_NUMBER: Final = 10**8
"""Numbers from here on may be what a text would hold: that of a card, an account, a phone."""

Change = Callable[[str, str], str]
"""What becomes of a text, given the name it has in the mapping it stands in; "" if in none."""


def texts(value: Any) -> Iterator[tuple[str, str]]:
    """Every text in a value with the name it has there: keys too, and numbers of nine digits.

    Raises:
        GuardUnavailable: It is too large or too deep to be looked through.
    """
    left = MOST_CHARACTERS
    for text, name in _texts(value, "", DEEPEST):
        left -= len(text)
        if left < 0:
            raise GuardUnavailable(f"A value has more than {MOST_CHARACTERS} characters.")
        yield text, name


def _texts(value: Any, name: str, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield value, name
    elif isinstance(value, (int, float)):
        if abs(value) >= _LONG_NUMBER:
            yield _digits(value), name
    elif isinstance(value, Mapping):
        _check(depth)
        for key, item in value.items():
            yield str(key), ""
            yield from _texts(item, str(key), depth - 1)
    elif isinstance(value, (list, tuple, set, frozenset)):
        _check(depth)
        for item in value:
            yield from _texts(item, name, depth - 1)
    elif value is not None:
        yield str(value), name


def rewritten(value: Any, change: Change) -> Any:
    """The value with `change` made to every text in it; itself if that changes nothing.

    What cannot hold a text stays, and so do the names of a message's fields.

    Raises:
        GuardUnavailable: It is too large or too deep to be looked through.
    """
    for _ in texts(value):
        pass
    return _rewritten(value, change, "", DEEPEST)


def _rewritten(value: Any, change: Change, name: str, depth: int) -> Any:
    if isinstance(value, str):
        return _text(value, change, name, depth)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if abs(value) < _LONG_NUMBER:
            return value
        said = _digits(value)
        made = change(said, name)
        return value if made == said else made
    if isinstance(value, Mapping):
        return _mapping(value, change, depth - 1)
    if isinstance(value, (list, tuple)):
        items = [_rewritten(item, change, name, depth - 1) for item in value]
        same = all(new is old for new, old in zip(items, value, strict=True))
        return value if same else type(value)(items) if type(value) in (list, tuple) else items
    return value


def _mapping(value: Mapping[Any, Any], change: Change, depth: int) -> Any:
    made: dict[Any, Any] = {}
    for key, item in value.items():
        name = change(key, "") if isinstance(key, str) else key
        while name in made:  # two keys whose difference was taken out
            name = f"{name}'"
        made[name] = _rewritten(item, change, str(key), depth)
    same = len(made) == len(value) and all(
        name == key and made[name] is value[key] for name, key in zip(made, value, strict=True)
    )
    return value if same else made


def _text(text: str, change: Change, name: str, depth: int) -> str:
    made = change(text, name)
    if made == text:
        return text
    tree = as_tree(text)
    if tree is None or depth <= 0:
        return made
    return json.dumps(_rewritten(tree, change, name, depth - 1), ensure_ascii=False)


def as_tree(text: str) -> Any:
    """The mapping or list that a text holds as JSON; None if it holds none."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _digits(value: float) -> str:
    """A number as a text; one without an end or of thousands of digits holds nothing readable."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e40 else repr(value)
    return str(value) if value.bit_length() < 1_000 else ""


def _check(depth: int) -> None:
    if depth <= 0:
        raise GuardUnavailable(f"A value is nested more than {DEEPEST} levels deep.")
