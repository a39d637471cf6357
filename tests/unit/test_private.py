"""Private attributes of the classes that are put in front of CrewAI's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from crewai import Agent
from crewai.flow.flow import Flow
from pydantic import BaseModel, PrivateAttr

from crewai_prod._crewai.private import found_at_once
from crewai_prod._crewai.takeover import Seamed, take_over


def _shout(self: Any) -> str:
    return type(self).__name__.upper()


class Users(BaseModel):
    """A class as CrewAI and its users write them."""

    name: str = "n"
    _count: int = PrivateAttr(default=3)
    _many: list[int] = PrivateAttr(default_factory=list)
    _unset: int = PrivateAttr()
    _bound: Any = PrivateAttr(default=_shout)


class Front:
    """What is put in front of it."""

    _many = "the front's own"


class Asking(Users):
    """One that looks for attributes in its own way."""

    def __getattr__(self, name: str) -> Any:
        return f"asked for {name}" if name == "_count" else super().__getattr__(name)  # type: ignore[misc]


def _in_front(kind: type, mixin: type = object) -> Any:
    bases = (kind,) if mixin is object else (mixin, kind)
    made = type(kind)(kind.__name__, bases, {})
    found_at_once(made)
    return made


def test_they_are_what_pydantic_finds() -> None:
    """Defaults, and what was set."""
    quick, slow = _in_front(Users)(), Users()
    assert (quick._count, quick._many) == (slow._count, slow._many) == (3, [])
    quick._count, slow._count = 4, 4
    quick._many.append(1)
    assert (quick._count, quick._many) == (4, [1])
    assert quick.__pydantic_private__ == {**(slow.__pydantic_private__ or {}), "_many": [1]}


def test_only_the_class_that_was_made_has_them() -> None:
    """The user's class is not touched."""
    kind = _in_front(Users)
    assert "_count" in vars(kind)
    assert "_count" not in vars(Users)
    assert kind.__private_attributes__.keys() == Users.__private_attributes__.keys()


@pytest.mark.parametrize("name", ["_unset", "_count"])
def test_what_is_missing_is_missing_as_ever(name: str) -> None:
    """Never set, or deleted: pydantic's own words."""
    quick, slow = _in_front(Users)(), Users()
    for one in (quick, slow):
        if name == "_count":
            del one._count
        assert not hasattr(one, name)
        assert getattr(one, name, "other") == "other"
    with pytest.raises(AttributeError) as said:
        getattr(slow, name)
    with pytest.raises(AttributeError) as told:
        getattr(quick, name)
    assert str(told.value) == str(said.value)


def test_an_object_that_was_never_filled() -> None:
    """Made without a constructor."""
    kind = _in_front(Users)
    bare = object.__new__(kind)
    with pytest.raises(AttributeError):
        _ = bare._count
    object.__setattr__(bare, "__pydantic_private__", None)
    assert not hasattr(bare, "_unknown")


def test_defaults_that_pydantic_binds_are_bound() -> None:
    """A function as a default is a method."""
    assert _in_front(Users)()._bound() == Users()._bound() == "USERS"


def test_what_the_front_has_itself_comes_first() -> None:
    """As it does for pydantic."""

    class Own:
        _count = 9

    assert _in_front(Users, Own)()._count == 9


def test_a_class_that_looks_in_its_own_way_is_left_alone() -> None:
    """It may make up what it finds."""
    asked: Any = Asking()
    assert _in_front(Asking)()._count == asked._count == "asked for _count"


def test_what_was_put_past_pydantic_is_found_first() -> None:
    """CrewAI's flows do so."""
    for one in (_in_front(Users)(), Users()):
        object.__setattr__(one, "_count", 7)
        assert one._count == 7
        one._count = 8
        assert (one._count, (one.__pydantic_private__ or {})["_count"]) == (7, 8)


def test_copies_have_their_own() -> None:
    """Deep ones."""
    quick = _in_front(Users)()
    quick._many.append(1)
    copied = copy.deepcopy(quick)
    copied._many.append(2)
    assert (quick._many, copied._many) == ([1], [1, 2])
    assert quick.model_copy()._many is not None


def test_what_is_taken_over_finds_them_at_once() -> None:
    """Every class of ours does."""
    taken: Any = take_over(Users(), Seamed, "seam")
    assert "_count" in vars(type(taken))
    assert taken._count == 3


@pytest.mark.parametrize("kind", [Agent, Flow])
def test_of_crewais_classes_most_are(kind: type) -> None:
    """So that the test shows if CrewAI looks in its own way some day."""
    private: dict[str, Any] = getattr(kind, "__private_attributes__", {})
    if not private:
        pytest.skip("in this release of CrewAI it is no pydantic model")
    made = type(kind)(kind.__name__, (kind,), {"__module__": __name__})
    found_at_once(made)
    quick = private.keys() & vars(made).keys()
    assert len(quick) > len(private) / 2
