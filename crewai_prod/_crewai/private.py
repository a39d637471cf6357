"""Private attributes of pydantic objects, found at once.

pydantic finds one last of all: where class and object have nothing of the name, and after an
exception that it raises and catches itself. CrewAI's executors, which are flows, ask for some three
hundred of them in each step: that is a third of what a step takes without us. The classes that we
put in front of CrewAI's find them as quickly as any method.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

K = TypeVar("K", bound=type)


def found_at_once(kind: K) -> K:
    """Have a class of our own find the private attributes of its objects at once.

    What is found is what pydantic finds, and what is missing is as missing; to set or delete one is
    pydantic's affair as ever. A class that looks for attributes in its own way is left alone, and
    so are attributes whose default is a descriptor, a function for one: pydantic binds these; and
    what a class has under the same name comes first.
    """
    if getattr(kind, "__getattr__", None) is not BaseModel.__getattr__:  # type: ignore[attr-defined]
        return kind
    known = {name for base in kind.__mro__ for name in vars(base)}
    for name, attribute in kind.__private_attributes__.items():  # type: ignore[attr-defined]
        if name not in known and not hasattr(attribute, "__get__"):
            type.__setattr__(kind, name, _Found(name))
    return kind


class _Found:
    """Finds a private attribute where pydantic keeps it.

    Like a method it gives way to what stands in the object's own `__dict__` under the same name:
    CrewAI's flows put some there, past pydantic.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        try:
            return owner.__pydantic_private__[self._name]
        except (KeyError, TypeError, AttributeError):  # pydantic looks next, and says what is wrong
            raise AttributeError(self._name) from None
