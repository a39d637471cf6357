"""Personal data and secrets: found in every form, left alone where there are none, put back."""

from __future__ import annotations

import base64
import itertools
import json
import time
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crewai_prod.errors import GuardUnavailable, UsageError
from crewai_prod.guards import (
    Allow,
    Modify,
    Reject,
    environment_secrets,
    pii,
    presidio,
    secrets,
)
from crewai_prod.guards._replacing import Action, Found, apart
from crewai_prod.guards._sealing import PSEUDONYM, VARIABLE
from tests.unit.benign import LINKED, PROSE, TECHNICAL
from tests.unit.guard_parts import at

KEY = "a secret of the tests alone"
ASKED = at("model_input")
CALL = at("tool_call", tool="send")

PERSONAL = {
    "email": [
        "ann@example.com",
        "Ann.Smith+news@mail.example.co.uk",
        "ann@bücher.example",
        "ann (at) example (dot) com",
        "ann[at]example.com",
        "ANN@EXAMPLE.COM",
    ],
    "phone": [
        "+14155552671",
        "+49 170 1234567",
        "+44 (0)20 7946 0958",
        "0049 30 1234567",
        "(415) 555-2671",
        "415-555-2671",
        "415.555.2671",
        "1-415-555-2671",
        "030 1234567",
        "0170/1234567",
        "020 7946 0958",
        "(030) 1234567",
    ],
    "card": [
        "4111111111111111",
        "4111 1111 1111 1111",
        "5500-0000-0000-0004",
        "378282246310005",
        "6011000990139424",
    ],
    "iban": [
        "DE89370400440532013000",
        "DE89 3704 0044 0532 0130 00",
        "GB29 NWBK 6016 1331 9268 19",
        "fr14 2004 1010 0505 0001 3m02 606",
        "NL91ABNA0417164300",
    ],
    "ip": ["192.0.2.17", "10.1.2.3", "2001:db8::8a2e:370:7334", "fe80::1"],
    "ssn": ["123-45-6789"],
}
EACH = [(kind, value) for kind, values in PERSONAL.items() for value in values]
CODES = {
    "base64": lambda text: base64.b64encode(f"for {text}!".encode()).decode(),
    "url-safe base64": lambda text: base64.urlsafe_b64encode(f"for {text}".encode()).decode(),
    "hex": lambda text: text.encode().hex(),
    "hex with blanks": lambda text: text.encode().hex(" "),
    "percent": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "escapes": lambda text: "".join(f"\\u{ord(one):04x}" for one in text),
    "entities": lambda text: "".join(f"&#x{ord(one):x};" for one in text),
    "zero width": lambda text: "\u200b".join(text),
    "full width": lambda text: "".join(
        chr(ord(one) + 0xFEE0) if 33 <= ord(one) < 127 else one for one in text
    ),
}


@pytest.mark.parametrize(("kind", "value"), EACH, ids=[value for _, value in EACH])
def test_personal_data_goes_and_the_rest_stays(kind: str, value: str) -> None:
    """Each known shape, in a sentence, in brackets, in a tree, in JSON within a text."""
    for text in ("It is {}, I think.", "({})", "{}", "{}\nEnd"):
        said = pii().check(text.format(value), ASKED)
        assert isinstance(said, Modify), text
        assert said.value == text.format(f"[redacted {kind}]")
    said = pii().check({"a": [f"x {value}"], "b": json.dumps({"to": value}), "n": 7}, ASKED)
    assert isinstance(said, Modify)
    mark = f"[redacted {kind}]"
    assert said.value == {"a": [f"x {mark}"], "b": json.dumps({"to": mark}), "n": 7}
    assert isinstance(pii("block", kinds=[kind]).check(value, ASKED), Reject)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Tel.: 1234567890", "phone"),
        ("call me at 4155552671", "phone"),
        ("SSN: 123456789", "ssn"),
        ("social security number 123 45 6789", "ssn"),
        ("٤١١١١١١١١١١١١١١١", "card"),
    ],
)
def test_what_is_announced_or_in_other_digits(text: str, kind: str) -> None:
    """Numbers without a shape of their own, where a word says what they are."""
    said = pii().check(text, ASKED)
    assert isinstance(said, Modify)
    assert said.value.endswith(f"[redacted {kind}]")


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_codes_are_read(code: Any) -> None:
    """What is found in them goes with the whole of the code."""
    for value in ("ann@example.com", "4111 1111 1111 1111"):
        said = pii().check(f"see {code(value)} .", ASKED)
        assert isinstance(said, Modify), code(value)
        assert said.value in ("see [redacted email] .", "see [redacted card] .")


@pytest.mark.parametrize("text", [*PROSE, *TECHNICAL, *LINKED])
def test_ordinary_texts_hold_no_secret_and_nobody(text: str) -> None:
    """Versions, times, sums, ids, hashes and code are none."""
    if "info@example.org" not in text and "tel:112" not in text:
        assert pii().check(text, ASKED) == Allow()
    assert secrets().check(text, ASKED) == Allow()


@pytest.mark.parametrize(
    "value",
    [
        "4111111111111112",
        "4111 1111 1111",
        "0000000000000000",
        "DE88370400440532013000",
        "DE8937040044053201300",
        "000-12-3456",
        "666-12-3456",
        "900-12-3456",
        "123-00-4567",
        "127.0.0.1",
        "::1",
        "0.0.0.0",
        "256.1.1.1",
        "+1 23",
        "ann@example",
        "@example.com",
    ],
)
def test_what_does_not_add_up_is_nobody(value: str) -> None:
    """Checks, lengths, areas that were never given out, this very machine."""
    assert pii().check(f"It is {value}.", ASKED) == Allow()


def test_numbers_and_keys_of_a_tree() -> None:
    """A card may be a number, an address the name of a field."""
    said = pii().check({"ann@example.com": 4111111111111111, "n": 12.5, "ok": True}, ASKED)
    assert isinstance(said, Modify)
    assert said.value == {"[redacted email]": "[redacted card]", "n": 12.5, "ok": True}
    two = pii().check({"ann@example.com": 1, "bob@example.com": 2}, ASKED)
    assert isinstance(two, Modify)
    assert sorted(two.value.values()) == [1, 2]


def test_a_mask_shows_enough_to_know_it_again() -> None:
    """The last four characters, or whose address it is; of short ones nothing."""
    guard = pii("mask")
    for value, shown in (
        ("4111 1111 1111 1111", "***1111"),
        ("ann@example.com", "a***@example.com"),
        ("192.0.2.17", "***"),
    ):
        said = guard.check(f"<{value}>", ASKED)
        assert isinstance(said, Modify)
        assert said.value == f"<{shown}>"


def test_finders_of_ones_own() -> None:
    """A library's or one's own, on every reading of a text, behind the package's."""

    def names(text: str) -> list[tuple[int, int, str]]:
        found = text.find("Ann Smith")
        return [] if found < 0 else [(found, found + 9, "person")]

    guard = pii(also=[names])  # type: ignore[list-item]
    said = guard.check("Ann\u200b Smith <ann@example.com>", ASKED)
    assert isinstance(said, Modify)
    assert said.value == "[redacted person] <[redacted email]>"

    class Analyzer:
        def analyze(self, text: str, **options: Any) -> list[Any]:
            assert options == {"language": "de", "entities": ["PERSON"], "score_threshold": 0.7}
            kind = type("Result", (), {"start": 0, "end": 3, "entity_type": "US_PASSPORT"})
            return [kind()]

    find = presidio(Analyzer(), language="de", entities=["PERSON"], score=0.7)
    assert list(find("Ann is here")) == [Found(0, 3, "us passport")]


def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install."""
    monkeypatch.setitem(__import__("sys").modules, "presidio_analyzer", None)
    with pytest.raises(UsageError, match=r"crewai-prod\[pii\]"):
        presidio()


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8), st.sampled_from("ab"))))
def test_finds_that_overlap_become_one(every: list[tuple[int, int, str]]) -> None:
    """None is lost, none overlap, and they stand in order."""
    given_ = [Found(start, start + size, kind) for start, size, kind in every]
    made = apart(given_)
    covered = {n for one in given_ for n in range(one.start, one.end)}
    assert {n for one in made for n in range(one.start, one.end)} == covered
    assert all(before.end <= after.start for before, after in itertools.pairwise(made))


# -- pseudonyms -----------------------------------------------------------------------------------

VALUES = st.sampled_from([value for _, value in EACH])
TREES = st.recursive(
    st.one_of(st.text(max_size=12), VALUES, st.integers(-99, 99), st.none(), st.booleans()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text("abc", max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(TREES, st.text(max_size=8))
def test_what_was_replaced_is_put_back(tree: Any, run: str) -> None:
    """Exactly, in another process too: nothing is kept but the secret that the user has."""
    value = {"value": tree}
    away = pii("pseudonymise", key=KEY).check(value, at("model_input", run_id=run))
    there = away.value if isinstance(away, Modify) else value
    assert pii("block").check(there, ASKED) == Allow()
    back = pii("pseudonymise", key=KEY).check(there, at("tool_call", run_id=run))
    assert (back.value if isinstance(back, Modify) else there) == value


def test_a_pseudonym_is_the_same_all_over_a_run_and_another_in_the_next() -> None:
    """So that a model can tell people apart, and nobody can put two runs together."""

    def name(value: str, run: str, key: str = KEY) -> str:
        said = pii("pseudonymise", key=key).check(value, at("model_input", run_id=run))
        assert isinstance(said, Modify)
        assert PSEUDONYM.fullmatch(said.value)
        return str(said.value)

    assert name("ann@example.com", "r") == name("ann@example.com", "r")
    assert name("ann@example.com", "r") != name("bob@example.com", "r")
    assert name("ann@example.com", "r") != name("ann@example.com", "q")
    assert name("ann@example.com", "r") != name("ann@example.com", "r", "another secret entirely")
    assert "ann" not in name("ann@example.com", "r").lower()


@pytest.mark.parametrize("harm", ["altered", "of another run", "of another key", "renamed"])
def test_a_pseudonym_that_stands_for_nothing_is_refused(harm: str) -> None:
    """And the model is told to copy it as it was; nothing wrong is ever put in its place."""
    sealing = pii("pseudonymise", key=KEY)
    said = sealing.check("ann@example.com", ASKED)
    assert isinstance(said, Modify)
    name, run = said.value, "r"
    if harm == "altered":
        name = name[:-1] + ("a" if name[-1] != "a" else "q")
    elif harm == "renamed":
        name = "CARD" + name[len("EMAIL") :]
    elif harm == "of another run":
        run = "q"
    else:
        sealing = pii("pseudonymise", key="another secret entirely")
    for value in ({"to": name}, {"body": json.dumps({"to": [name]})}):
        refused = sealing.check(value, at("tool_call", run_id=run, tool="send"))
        assert isinstance(refused, Reject)
        assert name in refused.reason


def test_where_it_is_put_back() -> None:
    """In arguments, and in what comes out; only for the tools that are named, if any are."""
    guard = pii("pseudonymise", key=KEY, tools=["send"])
    assert guard.places == {"model_input", "tool_call", "task_output", "final_output"}
    said = guard.check("Mail ann@example.com", ASKED)
    assert isinstance(said, Modify)
    assert isinstance(guard.check({"a": said.value}, CALL), Modify)
    assert guard.check({"a": said.value}, at("tool_call", tool="post")) == Allow()
    answer = guard.check(said.value, at("task_output"))
    assert answer == Modify("Mail ann@example.com", "restored")
    assert guard.check("nothing", at("final_output")) == Allow()


def test_the_secret_must_be_one_that_a_resumed_run_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given, or in the environment; without one there is no guard."""
    monkeypatch.delenv(VARIABLE, raising=False)
    for key in (None, "short"):
        with pytest.raises(UsageError, match=VARIABLE):
            pii("pseudonymise", key=key)
    monkeypatch.setenv(VARIABLE, KEY)
    said = secrets("pseudonymise").check("password=hunter2!", ASKED)
    assert isinstance(said, Modify)
    assert secrets("pseudonymise", key=KEY).check(said.value, at("task_output")) == Modify(
        "password=hunter2!", "restored"
    )


# -- secrets --------------------------------------------------------------------------------------

# Put together at run time, so that no scanner of this repository takes them for real.
TOKENS = {
    "openai": "sk-" + "Zx81kQpL0aWm9Y3bT",
    "github": "ghp_" + "a1B2c3D4e5" * 4,
    "aws": "AKIA" + "IOSFODNN7EXAMPLE",
    "google": "AIza" + "SyA1234567890abcdefghijklmnopqrstuv",
    "slack": "xoxb-" + "1234567890-abcdefghij",
}
BROKEN = {
    "blanks": lambda text: f"{text[:9]} {text[9:15]} {text[15:]}",
    "lines": lambda text: f"{text[:10]}\n  {text[10:]}",
    "letters": lambda text: " ".join(text),
    "pieces of code": lambda text: f"'{text[:10]}' + '{text[10:]}'",
    "zero width": lambda text: "\u200b".join(text),
    "soft hyphens": lambda text: "\u00ad".join(text),
}


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS)
@pytest.mark.parametrize("form", [*BROKEN.values(), *CODES.values()], ids=[*BROKEN, *CODES])
def test_secrets_are_found_in_every_form(token: str, form: Any) -> None:
    """Broken up, in codes, and in codes within codes."""
    for text in (f"see {form(token)}", base64.b64encode(f"see {form(token)}".encode()).decode()):
        said = secrets().check({"q": text}, CALL)
        assert isinstance(said, Modify)
        left = said.value["q"]
        assert token not in left
        assert "[redacted" in left
        assert not any(token[n : n + 8] in left for n in range(len(token) - 8))


@pytest.mark.parametrize(
    "text",
    [
        "password=hunter2!",
        "api_key: 'a8f5f167f44f4964'",
        "postgres://ann:pa55word@db/x",
        '{"client_secret": "Zx81kQpL"}',
        "Authorization: Bearer abcdefgh12345678",
        "--token t0k3n-x",
    ],
)
def test_what_is_given_to_a_telling_name(text: str) -> None:
    """In the notations people use, if it does not read like a word."""
    assert isinstance(secrets("block").check(text, ASKED), Reject)


def test_the_names_in_a_tree_tell() -> None:
    """A value under a telling name goes, a word or type under it does not."""
    said = secrets().check({"password": "hunter2", "token": "string", "user": "hunter2"}, CALL)
    assert isinstance(said, Modify)
    assert said.value == {"password": "[redacted password]", "token": "string", "user": "hunter2"}


@given(
    st.binary(max_size=7), st.binary(max_size=7), st.sampled_from(["correct horse 7", "pässwörter"])
)
def test_a_planted_secret_is_found_amid_other_bytes(
    before: bytes, after: bytes, secret: str
) -> None:
    """In base64 and hex, wherever in them it begins, and with blanks in between."""
    guard = secrets("block", known=[secret])
    raw = before + secret.encode() + after
    for text in (base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode(), raw.hex()):
        assert isinstance(guard.check(f"x {text} y", CALL), Reject)
        assert isinstance(guard.check(f"{text[:12]}\n{text[12:]}", CALL), Reject)
    assert isinstance(guard.check(" ".join(secret), CALL), Reject)


def test_secrets_of_the_environment() -> None:
    """The values of variables whose names tell of one."""
    found = environment_secrets({"DB_PASSWORD": "tr0ub4dor", "PATH": "/usr/bin", "MY_TOKEN": "x"})
    assert found == ["tr0ub4dor"]
    assert isinstance(secrets("block", known=found).check("so tr0ub4dor it is", ASKED), Reject)


def test_what_is_said_does_not_repeat_what_was_found() -> None:
    """Reasons stand in the journal, in logs, and before the model."""
    for action in get_args(Action):
        guard = pii(action, key=KEY)
        said = guard.check("Mail ann@example.com", ASKED)
        assert isinstance(said, (Modify, Reject))
        assert "ann@" not in said.reason


def test_actions_and_places_that_do_not_exist() -> None:
    """Are refused before a run."""
    wrong: list[dict[str, Any]] = [
        {"action": "hide"},
        {"kinds": ["name"]},
        {"kinds": []},
        {"action": "pseudonymise", "key": KEY, "restore": ["model_input"]},
        {"action": "pseudonymise", "key": KEY, "restore": ["anywhere"]},
        {"places": []},
    ]
    for options in wrong:
        with pytest.raises(UsageError):
            pii(**options)


@pytest.mark.parametrize(
    "hostile",
    [
        "a" * 200000,
        "1 " * 100000,
        "%41" * 50000,
        "a@" * 100000,
        "\\u0041" * 30000,
        "+1" * 100000,
        "é" * 150000,
        "a.b-" * 50000 + "@",
        "sk- " * 50000,
        "&#65;" * 40000,
    ],
    ids=lambda text: text[:6],
)
def test_long_texts_take_no_time(hostile: str) -> None:
    """Nothing in it grows with the square of the length."""
    started = time.perf_counter()
    for guard in (pii(), secrets(known=["correct horse"])):
        try:
            guard.check(hostile, ASKED)
        except GuardUnavailable:
            assert len(hostile) > 100_000  # too much to be decoded is not let pass
    assert time.perf_counter() - started < 8
