"""Values survive the journal, and hostile ones do not break it."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from crewai_prod.codec import Recorded, decode, encode, meaning

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(alphabet=st.characters(codec=None))
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.datetimes()
    | st.dates()
    | st.timedeltas()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.just("$"), inner)
        | st.frozensets(st.integers() | st.text())
    ),
    max_leaves=20,
)


@given(VALUES)
def test_round_trip(value: Any) -> None:
    """What the standard library has a word for comes back equal and of its class."""
    back = decode(encode(value))
    assert back == value
    assert type(back) is type(value)
    json.loads(encode(value))


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_floats_that_json_lacks(value: float) -> None:
    """Infinities and NaN come back."""
    back = decode(encode(value))
    assert back == value or (math.isnan(back) and math.isnan(value))


class Point(BaseModel):
    """An object with fields."""

    x: int


class Rude:
    """An object without a usable text."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def test_object_comes_back_as_its_text_and_fields() -> None:
    """An object of a class the journal does not know is what a model would be shown of it."""
    back = decode(encode(Point(x=3)))
    assert isinstance(back, Recorded)
    assert (str(back), back.data, back.type_name) == ("x=3", {"x": 3}, "Point")


def test_hostile_values_never_fail() -> None:
    """Recursive, deep and rude values are stored as text."""
    loop: list[Any] = []
    loop.append(loop)
    deep: Any = "end"
    for _ in range(10_000):
        deep = [deep]
    for value in (loop, deep, Rude(), object(), {"a": Rude()}, [object()] * 3, lambda: None):
        assert json.loads(encode(value)) is not None
        assert meaning(value)


def test_meaning_ignores_order_and_addresses() -> None:
    """Equal meanings have equal digests, whatever the order of keys or the object's address."""
    assert meaning({"a": 1, "b": {2, 1}}) == meaning({"b": {1, 2}, "a": 1})
    assert meaning(object()) == meaning(object())
    assert meaning({"f": Point(x=1)}) == meaning({"f": {"x": 1}})
    assert meaning({"a": 1}) != meaning({"a": 2})


@given(VALUES, VALUES)
def test_meaning_tells_values_apart(one: Any, other: Any) -> None:
    """Different plain values have different meanings."""
    if encode(one) == encode(other):
        assert meaning(one) == meaning(other)


def test_named_examples() -> None:
    """The stored form is readable and stays as it is."""
    assert encode({"a": [1, "x", None]}) == '{"a":[1,"x",null]}'
    assert encode((1,)) == '{"$":"tuple","v":[1]}'
    assert encode(Decimal("1.50")) == '{"$":"Decimal","v":"1.50"}'
    for value in (
        datetime(2026, 11, 22, tzinfo=UTC),
        date(2026, 11, 22),
        timedelta(days=1, microseconds=5),
        UUID(int=5),
        2**80,
    ):
        assert decode(encode(value)) == value
