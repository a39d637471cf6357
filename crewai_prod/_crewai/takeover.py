"""Copies of pydantic objects under a class made at run time, with a seam in front of their own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeVar, cast
from weakref import WeakKeyDictionary, ref

from crewai_prod._crewai.private import found_at_once

T = TypeVar("T")

_SLOT = "crewai_prod_seam"
_ORIGINAL = "crewai_prod_original"
_BEGAN = "crewai_prod_began"
_CLASS = "__crewai_prod_class__"
_STATE = ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
_KEPT_CLASSES = 64
_classes: WeakKeyDictionary[type, dict[type, ref[type]]] = WeakKeyDictionary()
_recent: deque[type] = deque(maxlen=_KEPT_CLASSES)
_lock = threading.Lock()
_MISSING: Any = object()


class Seamed:
    """Base of every mixin.

    A copy of a taken-over object belongs to the same run. To whoever compares or looks up objects,
    a taken-over one is the user's own.

    Attributes:
        users_own: Whether it is itself what a user holds: what is made of it for a run leads back
            to it, not to what is behind it.
    """

    users_own: ClassVar[bool] = False

    def __copy__(self) -> Any:
        copied = super().__copy__()  # type: ignore[misc]
        return _linked(copied, seam_of(self), original_of(self))

    def __deepcopy__(self, memo: Any = None) -> Any:
        copied = super().__deepcopy__(memo)  # type: ignore[misc]
        return _linked(copied, seam_of(self), original_of(self))

    def __eq__(self, other: object) -> bool:
        return _root(self) is _root(other) or bool(super().__eq__(other))

    def __hash__(self) -> int:
        return hash(_root(self))


def seam_class(mixin: type, original: type) -> type:
    """`class X(mixin, original)`, made once per pair.

    Of the last few dozen none is made again; beyond that a class goes when its last object does,
    as an original does that a function of the user's defines anew for each run.

    It keeps the original's name for everything that prints it; its qualified name is its own,
    because CrewAI registers tool classes by that name and must go on finding the original there. A
    class made here is never put in front of another one: what is taken over again starts from its
    original.
    """
    original = original.__dict__.get(_CLASS, original)
    return front_class(mixin, original, {"__slots__": (_SLOT, _ORIGINAL, _BEGAN), _CLASS: original})


def front_class(mixin: type, original: type, namespace: Mapping[str, Any]) -> type:
    """`class X(mixin, original)` with what `namespace` adds, made once per pair."""
    with _lock:
        known = _classes.setdefault(original, {})
        made = known[mixin]() if mixin in known else None
        if made is None:
            name = f"{mixin.__qualname__}[{original.__module__}.{original.__qualname__}]"
            described = {
                "__module__": mixin.__module__,
                "__qualname__": name,
                "__doc__": original.__doc__,
                **namespace,
            }
            made = found_at_once(type(original)(original.__name__, (mixin, original), described))
            known[mixin] = ref(made)
            _recent.append(made)
    return made


def take_over(
    original: T, mixin: type, seam: Any, *, share: bool = False, stands_for: Any = None
) -> T:
    """A pydantic object of a class that has `mixin` in front; `seam` is its run's end.

    Built without the class's constructor and validators, which could ask for keys or build clients.

    Args:
        original: The user's object; it keeps its class.
        mixin: A subclass of `Seamed`.
        seam: What `seam_of` gives back.
        share: Whether both are to have one state, so that what the run does to it (a counter, a
            client, a response id) is done to the user's object; else the state is copied.
        stands_for: The user's object, if `original` was made of it.
    """
    taken = cast(Any, object.__new__(seam_class(mixin, type(original))))
    state = original.__dict__
    object.__setattr__(taken, "__dict__", state if share else dict(state))
    for name in _STATE:
        value = getattr(original, name, None)
        copied = value if share or value is None else value.copy()
        object.__setattr__(taken, name, copied)
    began = {} if share else {**state, **(getattr(original, "__pydantic_private__", None) or {})}
    object.__setattr__(taken, _BEGAN, began)
    users_own = original if stands_for is None else stands_for
    return cast(T, _linked(taken, seam, original_of(users_own)))


def really_a(kind: type, value: Any) -> bool:
    """Whether it can be taken over as one; a mock that only says that it is one stays as it is."""
    return issubclass(type(value), kind)


def seam_of(taken: Any) -> Any:
    """The seam an object was taken over with, None for any other object."""
    return getattr(taken, _SLOT, None) if _CLASS in type(taken).__dict__ else None


def original_of(taken: Any) -> Any:
    """The user's object behind a taken-over one; any other object itself."""
    return taken if getattr(type(taken), "users_own", False) is True else behind(taken)


def behind(taken: Any) -> Any:
    """What an object was taken over from; any other object itself."""
    return getattr(taken, _ORIGINAL, taken) if _CLASS in type(taken).__dict__ else taken


def _root(taken: Any) -> Any:
    while (before := behind(taken)) is not taken:
        taken = before
    return taken


def put(taken: Any, **values: Any) -> None:
    """Set fields of a copy as they are: no validator runs, no deprecation warns."""
    taken.__dict__.update(values)
    _set_by_run(taken, values)


def put_private(taken: Any, **values: Any) -> None:
    """Set those of the given private attributes that this release of CrewAI has."""
    private = taken.__pydantic_private__
    if private is not None:
        private.update({name: value for name, value in values.items() if name in private})
        _set_by_run(taken, values)


def give_back(taken: Any, original: Any, *, keep: frozenset[str]) -> None:
    """Let the original show what the run left on its copy, except for the names in `keep`.

    What the run has not set stays as it is: the user may have set it meanwhile, and where the copy
    is of a crew built anew, it is that crew's.
    """
    began = getattr(taken, _BEGAN, {})

    def left(values: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value
            for name, value in values.items()
            if name not in keep and began.get(name, _MISSING) is not value
        }

    original.__dict__.update(left(taken.__dict__))
    private, target = taken.__pydantic_private__, original.__pydantic_private__
    if private is not None and target is not None:
        target.update(left(private))


def _set_by_run(taken: Any, names: Iterable[str]) -> None:
    """Note that the run has set these, whether or not to what they were."""
    if _CLASS in type(taken).__dict__:
        began = getattr(taken, _BEGAN, {})
        for name in names:
            began.pop(name, None)


def _linked(taken: Any, seam: Any, original: Any) -> Any:
    object.__setattr__(taken, _SLOT, seam)
    object.__setattr__(taken, _ORIGINAL, original)
    return taken
