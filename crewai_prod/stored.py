"""Results of a user's own functions as JSON and back, as instances of the user's own classes.

A class is never loaded by a stored name: a recorded instance is matched, by name, with the classes
the function can see (its annotations, its module, what it closes over). A value that would not come
back as what it was is said to be unfaithful; whoever asked decides what to do about it.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any

from crewai_prod import codec

Kinds = Mapping[str, type]
"""Classes that may be made from what was recorded, by qualified name."""
UNFAITHFUL = '{"$":"unfaithful"}'
"""Stands in the journal for a result that would not come back as what it was."""


def kinds_seen_by(function: Callable[..., Any]) -> dict[str, type]:
    """The models, dataclasses, enums and exceptions a function can see."""
    plain = inspect.unwrap(function)
    plain = getattr(plain, "__func__", plain)
    found: dict[str, type] = {}
    for value in (*_annotated(plain), *_closed_over(plain), *_module_of(plain)):
        if isinstance(value, type) and _can_be_made(value):
            found.setdefault(value.__qualname__, value)
    return found


def kinds_of_model(model: type) -> dict[str, type]:
    """The classes that a model's or dataclass's fields may hold, its own included."""
    found: dict[str, type] = {}
    waiting: list[Any] = [model]
    while waiting:
        hint = waiting.pop()
        waiting.extend(typing.get_args(hint))
        if isinstance(hint, type) and _can_be_made(hint) and hint.__qualname__ not in found:
            found[hint.__qualname__] = hint
            waiting.extend(_hints(hint))
    return found


def pack(value: Any, kinds: Kinds) -> tuple[str, bool]:
    """JSON of the value, and whether it comes back as what it is."""
    text = codec.encode(value)
    try:
        back = unpack(text, kinds)
        return text, type(back) is type(value) and bool(back == value)
    except Exception:  # noqa: BLE001 - a user's validators and __eq__ may raise anything
        return text, False


def unpack(text: str, kinds: Kinds) -> Any:
    """The value, with instances of `kinds` where they were recorded.

    Raises:
        ValueError: A class has changed and no longer accepts what was recorded.
    """
    return _revived(codec.decode(text), kinds)


def _revived(value: Any, kinds: Kinds) -> Any:
    if isinstance(value, codec.Recorded):
        kind = kinds.get(value.type_name)
        if kind is None or issubclass(kind, Exception):  # those are made when they are raised again
            return value
        return _made(kind, _revived(value.data, kinds))
    if type(value) is dict:
        return {_revived(key, kinds): _revived(item, kinds) for key, item in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(_revived(item, kinds) for item in value)
    return value


def _made(kind: type, data: Any) -> Any:
    from pydantic import TypeAdapter  # only where there is something to make

    if issubclass(kind, Enum):
        return kind(data["value"])
    return TypeAdapter(kind).validate_python(data, strict=False)


def _can_be_made(kind: type) -> bool:
    return (
        hasattr(kind, "model_validate")
        or dataclasses.is_dataclass(kind)
        or issubclass(kind, (Enum, Exception))
    )


def _hints(annotated: Any) -> list[Any]:
    try:
        return list(typing.get_type_hints(annotated).values())
    except Exception:  # noqa: BLE001 - an annotation may be any expression, true or not
        return []


def _annotated(function: Any) -> Iterator[Any]:
    waiting = _hints(function)
    while waiting:
        hint = waiting.pop()
        yield hint
        waiting.extend(typing.get_args(hint))


def _closed_over(function: Any) -> Iterator[Any]:
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not bound yet
            continue


def _module_of(function: Any) -> Iterator[Any]:
    yield from list(getattr(function, "__globals__", {}).values())
