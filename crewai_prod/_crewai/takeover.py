"""Copies of pydantic objects under a class made at run time, with a seam in front of their own."""

from __future__ import annotations

import threading
from typing import Any, TypeVar, cast

T = TypeVar("T")

_SEAM = "__crewai_prod_seam__"
_classes: dict[tuple[type, type], type] = {}
_originals: dict[type, type] = {}
_lock = threading.Lock()


def seam_class(mixin: type, original: type) -> type:
    """`class X(mixin, original)`, made once per pair and process.

    It keeps the original's name for everything that prints it; its qualified name is its own, because
    CrewAI registers tool classes by that name and must go on finding the original there. A class made
    here is never put in front of another one: what is taken over again starts from its original.
    """
    original = _originals.get(original, original)
    key = (mixin, original)
    with _lock:
        made = _classes.get(key)
        if made is None:
            namespace = {
                "__module__": mixin.__module__,
                "__qualname__": f"{mixin.__qualname__}[{original.__module__}.{original.__qualname__}]",
                "__doc__": original.__doc__,
            }
            made = cast(type, type(original)(original.__name__, (mixin, original), namespace))
            _classes[key], _originals[made] = made, original
    return made


def take_over(original: T, mixin: type, seam: Any) -> T:
    """A shallow copy of a pydantic object whose class has `mixin` in front; `seam` is its run's end.

    Built without the class's constructor and validators, which could ask for keys or build clients.
    """
    copy = cast(Any, object.__new__(seam_class(mixin, type(original))))
    source = cast(Any, original)
    state = dict(source.__dict__)
    state[_SEAM] = seam
    object.__setattr__(copy, "__dict__", state)
    for name in ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__"):
        value = getattr(source, name, None)
        object.__setattr__(copy, name, value.copy() if value is not None else None)
    return cast(T, copy)


def seam_of(taken: Any) -> Any:
    """The seam an object was taken over with, None for any other object."""
    return getattr(taken, "__dict__", {}).get(_SEAM)


def put(taken: Any, **values: Any) -> None:
    """Set fields of a copy as they are: no validator runs, no deprecation warns."""
    taken.__dict__.update(values)


def put_private(taken: Any, **values: Any) -> None:
    """Set those of the given private attributes that this release of CrewAI has."""
    private = taken.__pydantic_private__
    if private is not None:
        private.update({name: value for name, value in values.items() if name in private})


def give_back(taken: Any, original: Any, *, keep: frozenset[str]) -> None:
    """Let the original show what the run left on its copy, except for the names in `keep`."""
    for name, value in taken.__dict__.items():
        if name != _SEAM and name not in keep:
            original.__dict__[name] = value
    private, target = taken.__pydantic_private__, original.__pydantic_private__
    if private is not None and target is not None:
        target.update({name: value for name, value in private.items() if name not in keep})
