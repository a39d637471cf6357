"""What stores, digests, redacts and describes values never fails, whatever the value."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings

from crewai_prod.codec import decode, encode, meaning, stored_meaning
from crewai_prod.failures import describe, revive
from crewai_prod.redact import redact
from tests.hostile import ANYTHING, VALUES, HostileError, SurrogateError

PATIENT = settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def _assert_stored(value: Any) -> None:
    text = encode(value)
    text.encode()  # SQLite stores UTF-8
    json.loads(text)
    back = decode(text)
    assert encode(back) == encode(decode(encode(back)))


@pytest.mark.parametrize("name", VALUES)
def test_each_is_stored(name: str) -> None:
    """It becomes JSON that Python and SQLite read, and comes back as something that stays."""
    _assert_stored(VALUES[name]())


@PATIENT
@given(ANYTHING)
def test_anything_is_stored(value: Any) -> None:
    """The same for any of them within any other."""
    _assert_stored(value)


@pytest.mark.parametrize("name", VALUES)
def test_each_has_a_meaning(name: str) -> None:
    """A digest can be made of it; the same one of the same value made anew."""
    for means in (meaning, stored_meaning):
        assert means(VALUES[name]()) == means(VALUES[name]())


@PATIENT
@given(ANYTHING)
def test_anything_has_a_meaning(value: Any) -> None:
    """The same for any of them within any other, though looking at an iterator may use it up."""
    orjson.loads(meaning(value))
    orjson.loads(stored_meaning(value))


@pytest.mark.parametrize("name", VALUES)
def test_each_is_redacted(name: str) -> None:
    """It can be shown in a log line, bounded."""
    assert len(json.dumps(redact({"value": VALUES[name](), "api_key": VALUES[name]()}))) < 500_000


@PATIENT
@given(ANYTHING)
def test_anything_is_redacted(value: Any) -> None:
    """The same for any of them within any other."""
    json.dumps(redact(value))


@pytest.mark.parametrize("error", [HostileError(), SurrogateError(), KeyError("\ud800", b"\xff")])
def test_hostile_exceptions_are_described(error: Exception) -> None:
    """An exception whose text cannot be had or written is one all the same, after a resume too."""
    facts = describe(error)
    json.loads(orjson.dumps(facts))
    back = revive(json.loads(orjson.dumps(facts)))
    assert describe(back)["type"] == facts["type"]


@PATIENT
@given(ANYTHING)
def test_exceptions_may_carry_anything(value: Any) -> None:
    """As their arguments, and where the SDKs keep facts."""
    error = ValueError(value)
    error.code = error.body = error.param = value  # type: ignore[attr-defined]
    facts = json.loads(orjson.dumps(describe(error)))
    assert isinstance(revive(facts), ValueError)
