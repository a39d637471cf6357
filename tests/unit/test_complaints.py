"""What a model is told of an answer that is sent back."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from crewai_prod.complaints import claim, faults, misfit
from crewai_prod.failures import describe, revive


class Kind(Enum):
    """Of a receipt."""

    CASH = "cash"
    CARD = "card"


class Line(BaseModel):
    """A line of a receipt."""

    text: str
    cents: int = Field(ge=0)


class Receipt(BaseModel):
    """What is asked for."""

    kind: Kind
    lines: list[Line]
    payer: str


def _error(said: Any) -> ValidationError:
    with pytest.raises(ValidationError) as failed:
        Receipt.model_validate(said)
    return failed.value


def test_field_expected_got() -> None:
    """Each field is named with what was expected there and what came."""
    said = {"kind": "cheque", "lines": [{"text": "tea", "cents": -1}]}
    assert faults(str(_error(said))) == [
        "field kind: input should be 'cash' or 'card', got 'cheque' (str)",
        "field lines.0.cents: input should be greater than or equal to 0, got -1 (int)",
        "field payer: it is missing",
    ]


def test_many_faults_are_counted() -> None:
    """A model is not told more than it can use."""
    lines = [{"text": "tea", "cents": "x"} for _ in range(20)]
    told = faults(str(_error({"kind": "cash", "lines": lines, "payer": "ann"})))
    assert len(told) == 9
    assert told[-1] == "12 more like these"


@pytest.mark.parametrize("text", ["", "Expecting value: line 1 column 1 (char 0)"])
def test_no_json(text: str) -> None:
    """What could not be read at all is said to hold no object."""
    assert faults(text) == ["expected a JSON object, got text that holds none"]


def test_invalid_json() -> None:
    """Pydantic's own word for it is no field."""
    with pytest.raises(ValidationError) as failed:
        Receipt.model_validate_json("{kind:")
    assert faults(str(failed.value)) == ["expected a JSON object, got text that holds none"]


def test_a_failure_from_the_journal_tells_the_same() -> None:
    """A replayed failure has only its text: the model is told word for word what it was told."""
    error = _error({"kind": "cheque", "lines": []})
    assert faults(str(revive(describe(error)))) == faults(str(error))


@given(st.recursive(st.none() | st.text() | st.integers(), lambda i: st.lists(i, max_size=3)))
def test_any_value(value: Any) -> None:
    """Whatever a model put into a field, it is told in a few short lines."""
    error = _error({"kind": value, "lines": value, "payer": [value]})
    told = faults(str(error))
    assert 1 <= len(told) <= 9
    assert all(len(line) < 300 for line in told)


def test_the_form_is_shown() -> None:
    """The complaint ends with the schema, without the titles pydantic makes of names."""
    told = misfit(["field payer: it is missing"], Receipt, react=False)
    assert "- field payer: it is missing\n" in told
    assert '"required":["kind","lines","payer"]' in told
    assert '"title"' not in told
    assert "Final Answer" not in told
    assert "`Final Answer:`" in misfit([], Receipt, react=True)


def test_a_field_of_the_name_title_is_shown() -> None:
    """Only what pydantic adds is left out."""

    class Book(BaseModel):
        title: str

    assert '"properties":{"title":{"type":"string"}}' in misfit([], Book, react=False)


def test_a_claim() -> None:
    """The tools are named; a manager is told to hand the work on."""
    assert "charge, send, and no successful call" in claim(["charge", "send"], by_others=False)
    assert "delegate" in claim(["charge"], by_others=True)
