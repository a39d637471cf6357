"""Redaction: what goes, what stays, and that nothing makes it fail."""

from __future__ import annotations

import json
import time
from collections import UserDict
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crewai_prod import fields
from crewai_prod.redact import (
    _DIGITS,
    _HINTS,
    CUT,
    MARK,
    MAX_SIZE,
    is_sensitive,
    redact,
    redact_fields,
    redact_text,
)

# Put together at run time, so that no scanner of this repository takes them for real.
SHAPES = {
    "openai": "sk-" + "Zx81kQpL0aWm",
    "openai project": "sk-" + "proj-" + "aB3_" * 12,
    "anthropic": "sk-" + "ant-api03-" + "x9Y-" * 10,
    "letters only": "sk-" + "abcdefghijklmnopqrstuvwx",
    "stripe": "sk_" + "live_" + "4eC39HqLyjWD",
    "aws": "AKIA" + "IOSFODNN7EXAMPLE",
    "aws session": "ASIA" + "IOSFODNN7EXAMPLE",
    "github": "ghp_" + "a1B2c3D4e5" * 4,
    "github fine": "github_pat_" + "11ABCDEFG0" * 3,
    "gitlab": "glpat-" + "abcdEFGH1234_-xyzw",
    "slack": "xoxb-" + "1234567890-abcdefghij",
    "google": "AIza" + "SyA1234567890abcdefghijklmnopqrstuv",
    "hugging face": "hf_" + "AbCdEfGhIjKlMnOpQrStUv",
    "groq": "gsk_" + "AbCdEfGhIjKlMnOpQrStUv12",
    "xai": "xai-" + "AbCdEfGhIjKlMnOpQrStUv12",
    "jwt": "eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0In0" + ".dozjgNryP4J3jVmNHl0w5N",
    "key block": "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nAAA=\n-----END RSA PRIVATE KEY-----",
    "open block": "-----BEGIN PRIVATE KEY-----\nMIIEowIBAAKCAQEA",
}


@pytest.mark.parametrize("secret", SHAPES.values(), ids=SHAPES)
def test_key_shapes_go_wherever_they_stand(secret: str) -> None:
    """A known kind of key is cut out of any text, which otherwise stays."""
    assert redact_text(secret) == MARK
    assert redact_text(f"before {secret}") == f"before {MARK}"
    assert secret not in redact_text(f"({secret})")
    assert secret not in json.dumps(redact({"a": [{"b": f"x={secret}"}], secret: 1}))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abc.def-1", f"Authorization: {MARK}"),
        ("Authorization: Basic dXNlcjpwYXNz", f"Authorization: {MARK}"),
        ("sent Bearer abcdefgh12345678 along", f"sent Bearer {MARK} along"),
        ("password=hunter2&user=ann", f"password={MARK}&user=ann"),
        ("https://h/p?api_key=abc&limit=5", f"https://h/p?api_key={MARK}&limit=5"),
        ('{"api_key": "hun\\"ter2", "n": 1}', f'{{"api_key": "{MARK}", "n": 1}}'),
        ("{'clientSecret': 'hunter2'}", f"{{'clientSecret': '{MARK}'}}"),
        ('{\\"token\\": \\"hunter2\\"}', f'{{\\"token\\": \\"{MARK}\\"}}'),
        ("Settings(db_password='hunter2', port=5)", f"Settings(db_password='{MARK}', port=5)"),
        ("config: api_key=hunter2", f"config: api_key={MARK}"),
        ("run --api-key hunter2 --verbose", f"run --api-key {MARK} --verbose"),
        ("API key: hunter2", f"API key: {MARK}"),
        ("export OPENAI_API_KEY=hunter2", f"export OPENAI_API_KEY={MARK}"),
        (r"password=hu\Nter2 x", f"password={MARK} x"),
        ("postgresql://ann:hunter2@db/x", f"postgresql://{MARK}@db/x"),
        ('password: "never closed', f'password: "{MARK}"'),
        (f"api_key={SHAPES['openai']}", f"api_key={MARK}"),
    ],
)
def test_assignments_and_urls_lose_their_secret_only(text: str, shown: str) -> None:
    """What a text gives to a telling name goes, in each notation, and the rest stays."""
    assert redact_text(text) == shown


@pytest.mark.parametrize(
    "key",
    [
        "api_key",
        "apiKey",
        "APIKey",
        "X-Api-Key",
        "OPENAI_API_KEY",
        "Authorization",
        "proxy-authorization",
        "password",
        "db.password",
        "userPassword",
        "PGPASSWORD",
        "smtp_pass",
        "secret",
        "clientSecret",
        "aws_secret_access_key",
        "token",
        "accessToken",
        "refresh_tokens",
        "id_token",
        "private_key",
        "Set-Cookie",
        "credentials",
        "auth",
        "jwt",
    ],
)
def test_telling_keys(key: str) -> None:
    """The value under a telling key goes, whatever it looks like."""
    assert redact({key: "plain"}) == {key: MARK}
    assert redact({key: 12345}) == {key: MARK}
    assert redact_fields({key: ["a", {"b": "c"}]}) == {key: [MARK, {"b": MARK}]}


@pytest.mark.parametrize(
    "key",
    [
        "tokens",
        "input_tokens",
        "total_tokens",
        "max_tokens",
        "maxTokens",
        "token_usage",
        "tokenCount",
        "token_limit",
        "cost_per_token",
        "time_to_first_token",
        "eos_token",
        "tokenizer",
        "key",
        "idempotency_key",
        "primary_key",
        "author",
        "authored_by",
        "passed",
        "compass",
        "public_key",
    ],
)
def test_counts_and_lookalikes_stay(key: str) -> None:
    """Usage and keys that merely resemble telling ones are shown."""
    assert redact({key: 17}) == {key: 17}
    assert redact({key: "seventeen"}) == {key: "seventeen"}


def test_our_own_keys_are_shown() -> None:
    """No key of a log line is taken for a secret."""
    names = [value for name, value in vars(fields).items() if name.isupper()]
    assert len(names) > 60
    assert [name for name in names if isinstance(name, str) and is_sensitive(name)] == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The task-force met at risk-averse times; basic understanding of keys is enough.",
        "2026-11-22T22:05:01.123456Z",
        "chatcmpl-BZa8d7sjd8AJD82ks0",
        "gpt-4o-mini-2024-07-18",
        "tasks/0/Researcher",
        "total_tokens: 500, max_tokens=20",
        "https://example.org:8080/a?b=c",
        "Asia and the bearer of news",
        "sk-learn",
        "ünïcödé ✓",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    """Prose, ids, models and times pass unchanged."""
    assert redact_text(text) == text


def test_structure_is_kept() -> None:
    """Keys, lengths and plain values are those of the input; booleans and None say nothing."""
    value = {"a": [1, 2.5, None, True, "x"], "password": {"set": True, "old": None, "new": "n"}}
    assert redact(value) == {
        "a": [1, 2.5, None, True, "x"],
        "password": {"set": True, "old": None, "new": MARK},
    }


def test_named_values_and_pairs() -> None:
    """Headers and variables written as pairs are understood."""
    headers = [("Authorization", "abc"), ("Accept", "json")]
    assert redact(headers) == [["Authorization", MARK], ["Accept", "json"]]
    assert redact({"name": "API_KEY", "value": "abc"}) == {"name": "API_KEY", "value": MARK}
    assert redact({"key": "color", "value": "red"}) == {"key": "color", "value": "red"}
    assert redact(["a sentence on the secret", "next"]) == ["a sentence on the secret", "next"]


def test_further_keys_can_be_named() -> None:
    """What a tool declares sensitive goes at any depth."""
    value = {"args": {"iban": "DE00", "amount": 5}}
    assert redact(value, sensitive={"iban"}) == {"args": {"iban": MARK, "amount": 5}}
    assert redact_fields({"iban": "DE00"}, sensitive={"iban"}) == {"iban": MARK}


class _Key(StrEnum):
    API = "api_key"


class _Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class _Config:
    def __repr__(self) -> str:
        return "Config(api_key='hunter2')"


class _BadMapping(UserDict[str, int]):
    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("no")


def test_other_types_become_plain_ones() -> None:
    """What is no JSON type is shown as what it stands for, else as its redacted `repr`."""
    value: dict[Any, Any] = {
        _Key.API: "hunter2",
        "enum": _Key.API,
        "bytes": b"hunter2",
        "when": datetime(2026, 11, 22, tzinfo=UTC),
        "money": Decimal("1.50"),
        "path": PurePosixPath("a/b"),
        "set": {1},
        "proxy": MappingProxyType({"token": "hunter2"}),
        "config": _Config(),
        5: "number",
    }
    assert redact(value) == {
        "api_key": MARK,
        "enum": "api_key",
        "bytes": "<7 bytes>",
        "when": "2026-11-22T00:00:00+00:00",
        "money": "1.50",
        "path": "a/b",
        "set": [1],
        "proxy": {"token": MARK},
        "config": f"Config(api_key='{MARK}')",
        "5": "number",
    }


def test_hostile_objects_are_named_and_nothing_else_is_lost() -> None:
    """An object that raises when looked at costs only its own place."""
    value = {"a": _Hostile(), "b": _BadMapping({"x": 1}), "c": 3}
    assert redact(value) == {"a": "<_Hostile>", "b": "<_BadMapping>", "c": 3}


def test_depth_and_size_are_bounded() -> None:
    """Cyclic, deep and huge values end, with a mark where they were cut."""
    cycle: list[Any] = []
    cycle += [cycle, cycle]
    assert CUT in json.dumps(redact(cycle))
    assert redact([[[1]]], max_depth=2) == [[CUT]]
    assert redact("x" * 1000, max_size=10) == "x" * 10 + CUT
    assert redact(list(range(1000)), max_size=3) == [0, 1, 2, CUT]
    assert redact({"a": 1, "b": 2, "c": 3}, max_size=1) == {"a": 1, CUT: 2}


def test_a_cut_does_not_uncover_half_a_key() -> None:
    """A key that lies across the cut is recognised before it is cut."""
    secret = SHAPES["openai project"]
    for size in range(90, 130):
        shown = redact("y" * 89 + " " + secret + " z" * 400, max_size=size)
        assert "proj" not in shown


def test_large_fields_take_no_room_from_others() -> None:
    """Each field of a line is bounded on its own; None is left out."""
    line = redact_fields({"big": "x" * 100, "none": None, "small": ["y" * 9]}, max_size=10)
    assert line == {"big": "x" * 10 + CUT, "small": ["y" * 9]}


@pytest.mark.parametrize(
    "text",
    [
        "eyJ" * 20_000,
        "sk-" * 20_000,
        "-----BEGIN " * 6_000,
        "token" * 12_000,
        "a=" * 30_000,
        'password="' * 6_000,
        "://a:" * 12_000,
        "key:" + " " * 60_000,
        "x" * 60_000,
    ],
)
def test_time_is_linear(text: str) -> None:
    """No text makes the patterns run away."""
    begin = time.perf_counter()
    redact(text)
    assert time.perf_counter() - begin < 2


_trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=30,
)


@given(_trees)
def test_any_tree_gives_plain_json_types(tree: Any) -> None:
    """What comes out can be written as JSON, and redacting it again changes nothing."""
    shown = redact(tree)
    json.dumps(shown)
    assert json.dumps(redact(shown)) == json.dumps(shown)


@given(st.text(), st.sampled_from(sorted(SHAPES.values())), st.text())
def test_no_context_protects_a_key(before: str, secret: str, after: str) -> None:
    """A key that stands apart is found in every surrounding."""
    assert secret not in redact_text(f"{before} {secret} {after}")


def test_keys_and_marks_count_towards_the_size() -> None:
    """Many small items under long names, each a secret, are bounded as one large text is."""
    items = [{"n" * 200: n, "api_key": "x"} for n in range(10_000)]
    assert len(json.dumps(redact(items))) < 2 * MAX_SIZE


def test_no_hint_of_a_secret_is_made_of_hex_digits_alone() -> None:
    """Texts of such letters only, as our ids are, are not looked through."""
    assert not [hint for hint, _ in _HINTS if _DIGITS(hint)]
