"""Schemas for strict mode: valid by OpenAI's rules, and nothing is lost on the way back."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Optional
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr, TypeAdapter, create_model

from crewai_prod.arguments import Arguments, Unfit, read_arguments, read_signature
from crewai_prod.errors import UsageError
from crewai_prod.misfits import told
from crewai_prod.schemas import fit, hidden_names, strict_schema
from tests.openai_strict import violations


class Colour(enum.Enum):
    """Of two types."""

    RED = "red"
    TWO = 2


@dataclass
class Point:
    """A dataclass."""

    x: int
    y: int = 0


class Node(BaseModel):
    """Contains itself in every way."""

    name: str
    parent: Node | None = None
    children: list[Node] = []
    named: dict[str, Node] = Field(default_factory=dict)


class Cat(BaseModel):
    """One alternative."""

    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    """The other one."""

    kind: Literal["dog"]
    tricks: list[str] = []


class Awkward(BaseModel):
    """Properties named like keywords, and open ends."""

    model_config = {"extra": "allow"}

    title: str
    default: int = 1
    type: str = "x"
    properties: dict[str, int] = {}


KINDS: list[Any] = [
    int,
    float,
    str,
    bool,
    None,
    date,
    datetime,
    time,
    timedelta,
    Decimal,
    UUID,
    Path,
    SecretStr,
    bytes,
    Colour,
    Point,
    Node,
    Awkward,
    Any,
    dict,
    list,
    dict[str, Any],
    dict[int, list[str]],
    dict[Literal["a", "b"], int],
    tuple[int, str],
    tuple[int, ...],
    set[int],
    frozenset[str],
    Literal["a", 1, None, True],
    Cat | Dog,
    Annotated[Cat | Dog, Field(discriminator="kind")],
    int | str | None,
    list[Cat | None],
    Annotated[str, Field(min_length=2, max_length=5, pattern=r"^a")],
    Annotated[int, Field(ge=1, lt=9, multiple_of=2)],
    Annotated[list[int], Field(min_length=1, max_length=3)],
]


def schema_of(kind: Any) -> dict[str, Any]:
    """The strict schema of a function of one argument, needed and with a default."""
    made = create_model("M", __base__=Arguments, a=(kind, ...), b=(Optional[kind], None))  # noqa: UP045
    made.understand("m")
    schema: dict[str, Any] = json.loads(json.dumps(made.model_json_schema()))
    return schema


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_schema_is_strict(kind: Any) -> None:
    """Whatever the type, OpenAI's rules hold."""
    assert violations(schema_of(kind)) == []


LIST: Any = list
DICT: Any = dict
TUPLE: Any = tuple
"""For types that are put together at run time."""


def _model(fields: dict[str, Any]) -> Any:
    needed: dict[str, Any] = {name: (kind, ...) for name, kind in fields.items()}
    return create_model("Inner", **needed)


_leaves = st.sampled_from([k for k in KINDS if k is not None])
_kinds = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        inner.map(lambda k: LIST[k]),
        inner.map(lambda k: DICT[str, k]),
        st.tuples(inner, inner).map(lambda pair: pair[0] | pair[1] | None),
        st.tuples(inner, inner).map(lambda pair: TUPLE[pair]),
        st.dictionaries(st.sampled_from("pqr"), inner, min_size=1, max_size=3).map(_model),
    ),
    max_leaves=3,
)


@settings(max_examples=60, deadline=None)
@given(_kinds)
def test_any_schema_is_strict(kind: Any) -> None:
    """However types are put together; how deep is up to whoever does it."""
    found = [text for text in violations(schema_of(kind)) if "levels of objects" not in text]
    assert found == []


def test_type_without_an_end_is_refused() -> None:
    """A type that no finite value fits cannot be told to anybody."""
    schema = {"$defs": {"A": _needs("A")}, **_needs("A")}
    with pytest.raises(ValueError, match="No finite value"):
        strict_schema(schema)


def _needs(name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"a": {"$ref": f"#/$defs/{name}"}},
        "required": ["a"],
    }


def test_recursive_type_ends() -> None:
    """It is written out a few levels deep, and no deeper one can be asked for."""
    text = json.dumps(schema_of(Node))
    assert "$ref" not in text
    assert '"maxItems": 0' in text


@pytest.mark.parametrize(
    ("kind", "given_value", "meant"),
    [
        (dict[str, int], [{"key": "a", "value": 1}], {"a": 1}),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (dict[int, str], [{"key": 1, "value": "x"}], {"1": "x"}),
        (dict[str, int], [{"key": "a", "value": 1}] * 2, [{"key": "a", "value": 1}] * 2),
        (list[dict[str, int]], [[{"key": "a", "value": 1}]], [{"a": 1}]),
        (list[Any] | dict[str, int], [{"key": "a", "value": 1}], [{"key": "a", "value": 1}]),
        (Node, {"name": "n", "children": None}, {"name": "n"}),
        (Node, {"name": "n", "parent": None}, {"name": "n", "parent": None}),
        (Cat | Dog, {"kind": "dog", "tricks": None}, {"kind": "dog"}),
        (Cat | Dog | None, None, None),
        (Point, {"x": 1, "y": None}, {"x": 1}),
        (tuple[Point, int], [{"x": 1, "y": None}, 2], [{"x": 1}, 2]),
    ],
    ids=str,
)
def test_what_strict_mode_changed_is_undone(kind: Any, given_value: Any, meant: Any) -> None:
    """Pairs become mappings and null a default, unless they are what is meant."""
    assert fit(given_value, TypeAdapter(kind).json_schema()) == (meant, [])


@pytest.mark.parametrize(
    ("kind", "given_value", "unknown"),
    [
        (Point, {"x": 1, "z": 2}, [("z",)]),
        (list[Point], [{"x": 1}, {"x": 1, "z": 2}], [(1, "z")]),
        (dict[str, Point], [{"key": "a", "value": {"x": 1, "z": 2}}], [("a", "z")]),
        (Cat | Dog, {"kind": "cat", "tricks": []}, [("tricks",)]),
        (Node, {"name": "n", "parent": {"name": "m", "z": 2}}, [("parent", "z")]),
        (Awkward, {"title": "t", "z": 2}, []),
        (Any, {"z": 2}, []),
        (dict[str, Any], {"z": {"y": 2}}, []),
    ],
    ids=str,
)
def test_unknown_properties_are_found(
    kind: Any, given_value: Any, unknown: list[tuple[Any, ...]]
) -> None:
    """At any depth, in any alternative; what takes anything takes it."""
    assert fit(given_value, TypeAdapter(kind).json_schema())[1] == unknown


def test_secrets_are_known_by_name() -> None:
    """Also those in nested models, and not the models they are in."""

    class Login(BaseModel):
        user: str
        password: SecretStr

    class Outer(BaseModel):
        login: Login
        keys: list[SecretStr]

    assert hidden_names(Outer.model_json_schema()) == {"password", "keys"}


def _round_trip(kind: Any, value: Any) -> Any:
    made: Any = create_model("M", __base__=Arguments, a=(kind, ...))
    made.understand("m")
    said = json.loads(made(a=value).model_dump_json(include={"a"}))
    read: Any = read_arguments(made, _as_pairs(said, made.model_json_schema()), strict=True)
    return read.a


def _as_pairs(value: Any, node: dict[str, Any]) -> Any:
    """The value as a model that obeys the strict schema would say it."""
    kind = node.get("type")
    if kind == "array" and isinstance(value, dict):
        inner = node["items"]["properties"]
        return [
            {
                "key": json.loads(k) if inner["key"]["type"] != "string" else k,
                "value": _as_pairs(v, inner["value"]),
            }
            for k, v in value.items()
        ]
    if kind == "array":
        return [_as_pairs(item, node["items"]) for item in value]
    if kind == "object":
        return {k: _as_pairs(value.get(k), one) for k, one in node["properties"].items()}
    return value


_VALUES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(),
    bool: st.booleans(),
    date: st.dates(),
    datetime: st.datetimes(),
    UUID: st.uuids(),
    Colour: st.sampled_from(Colour),
    Decimal: st.decimals(allow_nan=False, allow_infinity=False, places=2),
    dict[str, int]: st.dictionaries(st.text(), st.integers()),
    dict[int, list[str]]: st.dictionaries(st.integers(), st.lists(st.text())),
    list[date]: st.lists(st.dates()),
    tuple[int, str]: st.tuples(st.integers(), st.text()),
    set[int]: st.sets(st.integers()),
    Point: st.builds(Point, st.integers(), st.integers()),
}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(_VALUES)).flatmap(lambda k: st.tuples(st.just(k), _VALUES[k])))
def test_arguments_arrive_as_they_were_meant(pair: tuple[Any, Any]) -> None:
    """A value, said as the strict schema wants it, is read back equal and of its type."""
    kind, value = pair
    read = _round_trip(kind, value)
    assert read == value
    assert type(read) is type(value)


_hostile = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["node", "animal", "odd"]) | st.text(), _hostile))
def test_whatever_arrives_is_read_or_refused(given_value: dict[str, Any]) -> None:
    """Nothing that JSON can say makes anything but arguments or a refusal of them."""
    try:
        outcome: Any = read_arguments(HOSTED, given_value, strict=True)
    except Unfit as refusal:
        outcome = told(refusal.misfits)
    assert isinstance(outcome, HOSTED) or 0 < len(outcome) < 2000


def test_unusable_types_are_named() -> None:
    """A type that JSON cannot say is an error where the tool is defined."""

    def call(what: Callable[[], int]) -> None:
        """Call."""

    def match(what: Annotated[str, Field(pattern="(?=x)")]) -> None:
        """Match."""

    for func in (call, match):
        with pytest.raises(UsageError, match="'call_it'"):
            read_signature(func, "call_it")


HOSTED = create_model(
    "Hosted",
    __base__=Arguments,
    node=(Node | None, None),
    animal=(Cat | Dog, ...),
    odd=(dict[str, Awkward | int], {}),
)
HOSTED.understand("hosted")
