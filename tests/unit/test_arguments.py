"""Signatures, docstrings, and what a model is told of arguments that do not fit."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr, field_validator
from pydantic_core import from_json

from crewai_prod.arguments import Unfit, _json, closed_model, read_arguments, read_signature
from crewai_prod.corrections import Corrections
from crewai_prod.docstrings import read_docstring
from crewai_prod.errors import UsageError
from crewai_prod.misfits import told


class Colour(enum.Enum):
    """An enumeration."""

    RED = "red"


class Item(BaseModel):
    """A nested model."""

    name: str
    price: Decimal = Decimal(1)


def refusal(func: Callable[..., Any], strict: bool = True, **given: Any) -> str:
    """What a model is told of arguments."""
    signature = read_signature(func, "t", strict=strict)
    with pytest.raises(Unfit) as caught:
        read_arguments(signature.kind, given, strict=strict)
    return told(caught.value.misfits)


def called(func: Callable[..., Any], strict: bool = True, **given: Any) -> Any:
    """What a function gives that is called with what a model gave."""
    signature = read_signature(func, "t", strict=strict)
    read = read_arguments(signature.kind, given, strict=strict)
    positional, named = signature.unpack(read)
    return func(*positional, **named)


def everything(
    n: int,
    f: float,
    when: date,
    key: UUID,
    path: Path,
    amount: Decimal,
    colour: Colour,
    items: list[Item],
    by_name: dict[str, Item],
    either: int | str,
    choice: Literal["a", 1],
    secret: SecretStr,
    pair: tuple[int, str],
    maybe: int | None,
    *,
    keyword: bool,
) -> Any:
    """Give it all back."""
    return dict(locals())


FITTING: dict[str, Any] = {
    "n": 1,
    "f": 2,
    "when": "2026-01-31",
    "key": "12345678-1234-5678-1234-567812345678",
    "path": "/tmp/x",
    "amount": "1.50",
    "colour": "red",
    "items": [{"name": "a", "price": None}],
    "by_name": [{"key": "b", "value": {"name": "b", "price": "2"}}],
    "either": "x",
    "choice": 1,
    "secret": "s3",
    "pair": [1, "x"],
    "maybe": None,
    "keyword": True,
}


def test_arguments_have_the_annotated_types() -> None:
    """What JSON cannot say arrives as text, and is what is annotated."""
    got = called(everything, **FITTING)
    assert got["when"] == date(2026, 1, 31)
    assert got["key"] == UUID(FITTING["key"])
    assert got["path"] == Path("/tmp/x")
    assert got["amount"] == Decimal("1.50")
    assert got["colour"] is Colour.RED
    assert got["items"] == [Item(name="a")]
    assert got["by_name"] == {"b": Item(name="b", price=Decimal(2))}
    assert got["secret"].get_secret_value() == "s3"
    assert got["pair"] == (1, "x")
    assert got["f"] == 2.0
    assert got["maybe"] is None


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("n", "5", 'n: expected integer, got "5".'),
        ("n", 5.5, "n: expected integer, got 5.5."),
        ("n", True, "n: expected integer, got true."),
        ("f", "2", 'f: expected number, got "2".'),
        ("when", "soon", 'when: expected date (YYYY-MM-DD), got "soon".'),
        ("key", "x", 'key: expected UUID, got "x".'),
        ("colour", "blue", "colour: expected 'red', got \"blue\"."),
        ("items", {"name": "a"}, "items: expected list, got an object."),
        ("items", [{"name": 1}], "items[0].name: expected string, got 1."),
        ("items", [{}], "items[0].name: expected a value, but it is missing."),
        ("items", [{"name": "a", "z": 1}], "items[0].z: there is no such field."),
        ("either", 0.5, "either: expected integer or string, got 0.5."),
        ("either", None, "either: expected integer or string, got null."),
        ("choice", "b", "choice: expected 'a' or 1, got \"b\"."),
        ("secret", 12, "secret: expected string, got a hidden value."),
        ("maybe", "x", 'maybe: expected integer, got "x".'),
        ("keyword", "yes", 'keyword: expected boolean, got "yes".'),
        ("other", 1, "other: there is no such field."),
        ("path", "x\ud800", "it: expected text that is valid Unicode, got an object."),
    ],
)
def test_what_is_wrong_is_told_in_a_line(name: str, value: Any, text: str) -> None:
    """Field, expected, got."""
    assert refusal(everything, **{**FITTING, name: value}) == text


def test_long_values_and_many_misfits_are_cut() -> None:
    """What a model is told stays short, whatever it gave."""
    text = refusal(everything, **{**FITTING, "n": "9" * 10_000})
    assert len(text) < 120
    assert text.endswith("...."), text
    assert refusal(everything).endswith("And 10 more.")


def test_lenient_tool_coerces_but_drops_nothing() -> None:
    """`strict=False` takes "5" for 5; what nobody asked for is refused all the same."""

    def pay(amount: int) -> int:
        """Pay."""
        return amount

    assert called(pay, strict=False, amount="5") == 5
    assert refusal(pay, strict=False, amount="5", fast=1) == "fast: there is no such field."


def test_defaults_are_the_functions_own() -> None:
    """They are neither copied nor validated; `Field`'s are known to the model alone."""
    marker = object()

    def pay(
        a: Any = marker,
        b: int = Field(7, ge=1),
        c: Annotated[int, Field(default=3)] = 4,
        d: list[int] = Field(default_factory=list),  # noqa: B008
    ) -> Any:
        """Pay."""
        return a, b, c, d

    assert called(pay) == (marker, 7, 4, [])
    assert called(pay, b=None, d=None) == (marker, 7, 4, [])
    assert refusal(pay, b=0) == "b: expected greater than or equal to 1, got 0."


def test_awkward_names_are_the_models_own() -> None:
    """Names that pydantic would not have as fields are shown, told and called as they are."""

    def odd(_a: int, schema: str, json: int, copy: bool, model_config: int) -> Any:
        """Odd."""
        return _a, schema, json, copy, model_config

    given: dict[str, Any] = {"_a": 1, "schema": "s", "json": 2, "copy": True, "model_config": 3}
    assert called(odd, **given) == (1, "s", 2, True, 3)
    assert list(read_signature(odd, "t").kind.model_json_schema()["properties"]) == list(given)
    assert refusal(odd, **{**given, "_a": "x"}) == '_a: expected integer, got "x".'


def test_parameters_without_names_are_given_by_position() -> None:
    """They have a name for the model; the function is called as it wants to be."""

    def add(a: int, b: int = 2, /, c: int = 3) -> Any:
        """Add."""
        return a, b, c

    assert called(add, a=1, c=4) == (1, 2, 4)
    assert called(add, a=1, b=5) == (1, 5, 3)


def test_what_cannot_be_told_is_refused_at_once() -> None:
    """Parameters without a type or a name, and types that are not there."""

    def untyped(a: int, b) -> None:  # type: ignore[no-untyped-def]
        """Do."""

    def variable(a: int, *more: int) -> None:
        """Do."""

    def keywords(a: int, **more: int) -> None:
        """Do."""

    def missing(a: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
        """Do."""

    for func, text in ((untyped, "'b'"), (variable, "more"), (keywords, "more")):
        with pytest.raises(UsageError, match=text):
            read_signature(func, "t")
        assert read_signature(func, "t", strict=False).kind
    with pytest.raises(UsageError, match="Nowhere"):
        read_signature(missing, "t")


def test_validators_words_are_told_unless_they_could_hold_a_secret() -> None:
    """A validator's own text may repeat the value."""

    class Card(BaseModel):
        number: SecretStr
        holder: str

        @field_validator("holder")
        @classmethod
        def check(cls, value: str) -> str:
            raise ValueError(f"{value} is unknown")

        @field_validator("number")
        @classmethod
        def refuse(cls, value: SecretStr) -> SecretStr:
            raise ValueError(f"{value.get_secret_value()} is no number")

    def pay(card: Card) -> None:
        """Pay."""

    signature = read_signature(pay, "t", names=locals())
    given = {"card": {"number": "4111", "holder": "ann"}}
    with pytest.raises(Unfit) as caught:
        read_arguments(signature.kind, given, strict=True)
    assert told(caught.value.misfits) == (
        "card.number: expected another value, got a hidden value. "
        'card.holder: expected ann is unknown, got "ann".'
    )


class Postponed(BaseModel):
    """As CrewAI makes models of annotations that are postponed."""

    when: Unresolved  # type: ignore[name-defined]  # noqa: F821


def test_existing_model_is_resolved_and_closed() -> None:
    """What CrewAI could not resolve is; the user's model stays as it was."""
    made = closed_model(Postponed, "t", {"Unresolved": date})
    assert read_arguments(made, {"when": "2026-01-31"}, strict=True).when == date(2026, 1, 31)  # type: ignore[attr-defined]
    assert issubclass(made, Postponed)
    assert not Postponed.__pydantic_complete__


class Shown(BaseModel):
    """One that says something else each time it is asked."""

    amount: int
    asked: ClassVar[int] = 0

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Its schema, and how often it was made."""
        Shown.asked += 1
        return {**super().model_json_schema(*args, **kwargs), "title": f"number {Shown.asked}"}


def test_a_schema_is_made_once_a_task_if_that_is_asked_for() -> None:
    """What a caller does to it is done to a copy of its own."""
    made = closed_model(Shown, "t", keep=True)
    first = made.model_json_schema()["title"]
    assert made.model_json_schema()["title"] != first
    made.show_once()
    once = made.model_json_schema()
    once["properties"]["amount"]["type"] = "string"
    again = made.model_json_schema()
    assert again["title"] == once["title"]
    assert again["properties"]["amount"]["type"] == "integer"
    assert made.model_json_schema(mode="serialization")["title"] != once["title"]
    made.show_once()
    assert made.model_json_schema()["title"] != once["title"]


def test_a_schema_that_json_cannot_say_is_made_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would come back as something else."""
    made = closed_model(Shown, "t", keep=True)
    made.show_once()
    monkeypatch.setattr(Shown, "model_json_schema", lambda *_, **__: {"examples": (1, object())})
    assert isinstance(made.model_json_schema()["examples"], tuple)
    assert isinstance(made.model_json_schema()["examples"], tuple)
    assert made.model_json_schema(ref_template=[])["properties"] == {}


def takes(
    number: float, whole: int, text: str, flag: bool, maybe: str | None = None, many: Any = ()
) -> None:
    """Of all kinds."""


SINGLE = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
GIVEN = st.fixed_dictionaries(
    {"number": st.floats() | st.integers(), "whole": st.integers(), "text": st.text()},
    optional={
        "flag": st.booleans(),
        "maybe": SINGLE,
        "many": SINGLE | st.lists(SINGLE) | st.dictionaries(st.text(), SINGLE),
        "more": SINGLE,
    },
)


@given(GIVEN, st.booleans())
def test_plain_arguments_are_only_read_faster(given: dict[str, Any], strict: bool) -> None:
    """As if each of them had to be walked along its schema: what comes of it is the same."""
    kind = read_signature(takes, "t").kind
    outcomes = []
    for fitting in (kind.meaning_.fitting, frozenset[str]()):
        meaning = replace(kind.meaning_, fitting=fitting)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(kind, "meaning_", meaning)
            try:
                outcomes.append(repr(read_arguments(kind, given, strict=strict)))
            except Unfit as error:
                outcomes.append(told(error.misfits))
    assert outcomes[0] == outcomes[1]


@given(SINGLE | st.lists(SINGLE) | st.dictionaries(st.text(), SINGLE))
def test_json_of_arguments_says_what_pythons_own_does(value: Any) -> None:
    """Also of numbers that are none, and of such that 64 bits do not hold."""
    said, read = from_json(_json(value)), from_json(json.dumps(value))
    assert repr(said) == repr(read)


GOOGLE = """Pay somebody.

Twice if need be.

Args:
    amount (int): Cents,
        and not euros.
    to: Who.

Returns:
    A receipt.
"""
NUMPY = """Pay somebody.

Twice if need be.

Parameters
----------
amount : int
    Cents,
    and not euros.
to
    Who.

Returns
-------
str
    A receipt.
"""
SPHINX = """Pay somebody.

Twice if need be.

:param int amount: Cents,
    and not euros.
:param to: Who.
:returns: A receipt.
"""


@pytest.mark.parametrize("text", [GOOGLE, NUMPY, SPHINX], ids=["google", "numpy", "sphinx"])
def test_docstrings_of_every_style_say_the_same(text: str) -> None:
    """Parameters are told where they are; the rest is the tool's description."""
    read = read_docstring(text)
    assert dict(read.parameters) == {"amount": "Cents, and not euros.", "to": "Who."}
    assert read.text == "Pay somebody.\n\nTwice if need be.\n\nReturns: A receipt."


@pytest.mark.parametrize("text", [None, "", "  \n"])
def test_no_docstring_says_nothing(text: str | None) -> None:
    """And that is what is said."""
    assert read_docstring(text).text == ""


def test_fields_text_goes_before_the_docstrings() -> None:
    """`Field(description=...)` is nearer to the argument."""

    def pay(amount: Annotated[int, Field(description="Own.")], to: str, note: str = "x") -> None:
        """Pay.

        Args:
            amount: Docstring's.
            to: Who.
            note: What for.
        """

    shown = read_signature(pay, "t").kind.model_json_schema()["properties"]
    assert [one["description"] for one in shown.values()] == [
        "Own.",
        "Who.",
        'What for. Default: "x".',
    ]


def test_corrections_are_counted_in_a_row_and_by_place() -> None:
    """A call that is accepted ends the row; another place has its own."""
    counted = Corrections(limit=2)
    assert [counted.refuse("a"), counted.refuse("a")] == [2, 1]
    assert not counted.spent("a")
    counted.accept("a")
    assert [counted.refuse("a") for _ in range(3)] == [2, 1, 0]
    assert counted.spent("a")
    assert not counted.spent("b")


def test_corrections_forget_the_oldest_places() -> None:
    """A tool that lives for long does not remember every task it ever served."""
    counted = Corrections(limit=0)
    for place in range(5000):
        counted.refuse(place)
    assert counted.spent(4999)
    assert not counted.spent(0)
