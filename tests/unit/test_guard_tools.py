"""Which tools may be called, by whom, with which arguments: what gets past, and what must not."""

from __future__ import annotations

import os
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crewai_prod.errors import GuardUnavailable, UsageError
from crewai_prod.guards import (
    Allow,
    Escalate,
    Reject,
    at_most,
    hosts,
    inside,
    matches,
    one_of,
    receivers,
    shorter_than,
    tools,
)
from crewai_prod.guards._predicates import Predicate, why_not
from tests.unit.guard_parts import at


def fits(predicate: Predicate, value: Any) -> bool:
    """Whether a predicate holds of a value."""
    return why_not(predicate, value) is None


API = hosts("api.example.com", "*.example.org", "10.0.0.5:8443", "xn--bcher-kva.example")


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com",
        "https://API.example.COM:443/v1?q=a%20b#top",
        "https://api.example.com./v1",
        "https://a.b.example.org/x",
        "https://10.0.0.5:8443/",
        "https://bücher.example/",
        "https://api.example.com/login?next=https://api.example.com/home",
        "https://api.example.com/search?q=http and ftp//x",
        "api.example.com",
    ],
)
def test_hosts_that_are_allowed(url: str) -> None:
    """In upper case, with the usual port, a last dot, as a name below, in their own script."""
    if " " in url:
        url = url.replace(" ", "%20")
    assert fits(API, url)


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com/",
        "https://evil.com/",
        "https://example.org/",
        "https://api.example.com:8080/",
        "https://api.example.com.evil.com/",
        "https://api.example.com@evil.com/",
        "https://api.example.com:x@evil.com/",
        "https://evil.com\\@api.example.com/",
        "https://api.example.com\\.evil.com/",
        "https://api.example.com#@evil.com/",
        "https://api.example.com?@evil.com/",
        "https://api.example.com%2eevil.com/",
        "https://api.example.com%00.evil.com/",
        "https://api.example.com\t.evil.com/",
        " https://api.example.com/",
        "https://api.example.com\u200b/",
        "https://api.example.com\u3002evil.com/",
        "https://аpi.example.com/",  # a Cyrillic letter
        "https://ａpi.example.com/",  # a full-width one
        "https://api.example。com/",
        "https:///api.example.com/",
        "https:api.example.com",
        "//api.example.com/",
        "https://[::ffff:10.0.0.5]:8443/",
        "https://167772165:8443/",
        "https://0xa000005:8443/",
        "https://012.0.0.5:8443/",
        "https://10.5:8443/",
        "https://127.0.0.1/",
        "https://api.example.com/go?to=https://evil.com",
        "https://api.example.com/go?to=https%3A%2F%2Fevil.com",
        "https://api.example.com/go?to=https%253A%252F%252Fevil.com",
        "https://api.example.com/go?to=//evil.com/x",
        "https://api.example.com/go?to=%5C%5Cevil.com",
        "https://api.example.com/go?https://evil.com",
        "https://api.example.com/go#https://evil.com",
        "https://api.example.com/proxy/https://evil.com/x",
        "https://api.example.com/proxy/https:/evil.com/x",
        "https://api.example.com//evil.com",
        "javascript://api.example.com/%0aalert(1)",
        "file:///etc/passwd",
        "evil.com",
        "api.example.com:99",
        "",
        5,
        None,
        b"https://api.example.com",
    ],
)
def test_hosts_that_are_not(url: Any) -> None:
    """Whatever stands in front of them, behind them, in them, or is meant to be read as them."""
    assert not fits(API, url)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a file, beside another with a similar name, and links that lead out of it."""
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (tmp_path / "data2").mkdir()
    (tmp_path / "secret").write_text("s")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to(tmp_path)
    (folder / "round").symlink_to(folder / "sub")
    return folder


@pytest.mark.parametrize(
    "path",
    ["a.txt", "sub/../a.txt", "sub/new.txt", "round/b", "50%.txt", "ünï.txt", "a b.txt", "."],
)
def test_paths_inside(data: Path, path: str) -> None:
    """Files that are there or not, `..` that stays within, links that stay within."""
    assert fits(inside(data), str(data / path))
    assert fits(inside(data, relative_to=data), path)
    assert fits(inside("/nowhere", data), data / path)


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "../data2/x",
        "sub/../../secret",
        "link",
        "up/secret",
        "%2e%2e/secret",
        "..%2fsecret",
        "%252e%252e/secret",
        "..\\secret",
        "a.txt\0",
        "a.txt\n",
        "~/x",
        "~root/x",
        "/etc/passwd",
        "//etc/passwd",
        "file:///etc/passwd",
        "http://evil.com/x",
        "C:/x",
        "．．/secret",
        "..∕secret",
        "..／secret",
        "‥/secret",
        "a\u200b.txt",
        "a\ud800",
        "",
        None,
        5,
        ["a.txt"],
        b"a.txt",
    ],
)
def test_paths_outside(data: Path, path: Any) -> None:
    """Up, along links, in codes, in look-alike letters, elsewhere, or not a path at all."""
    check = inside(data, relative_to=data)
    assert not fits(check, path)
    if isinstance(path, str) and not path.startswith(("/", "~", "file:", "http:", "C:")) and path:
        assert not fits(check, f"{data}/{path}")


def test_paths_begin_in_the_working_directory(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they do for the tool that opens them."""
    monkeypatch.chdir(data / "sub")
    assert fits(inside(data), "../a.txt")
    assert not fits(inside(data), "../../secret")


@pytest.mark.parametrize("amount", [0, 1, 100, 99.99, Decimal("100")])
def test_amounts_up_to_a_limit(amount: Any) -> None:
    """Numbers of any kind."""
    assert fits(at_most(100), amount)


@pytest.mark.parametrize(
    "amount",
    [
        100.01,
        -1,
        -0.01,
        10**400,
        True,
        False,
        "5",
        "1e9",
        None,
        [5],
        float("nan"),
        float("inf"),
        float("-inf"),
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("Infinity"),
        1j,
    ],
)
def test_amounts_that_are_not(amount: Any) -> None:
    """Above, below nothing, truth values, texts, and what is no number."""
    assert not fits(at_most(100), amount)


@given(st.one_of(st.integers(), st.floats(), st.booleans(), st.text(), st.none()))
def test_an_amount_that_passes_is_a_number_in_the_range(value: Any) -> None:
    """Whatever it is."""
    if fits(at_most(10, least=-10), value):
        assert type(value) in (int, float)
        assert -10 <= value <= 10


@given(st.text(max_size=60))
def test_a_path_that_passes_lies_inside(text: str) -> None:
    """Whatever it is, for whoever opens it as it is."""
    if fits(inside("/srv/data", relative_to="/srv/data"), text):
        real = os.path.realpath(os.path.join("/srv/data", text))
        assert real == "/srv/data" or real.startswith("/srv/data/")


@given(st.text(alphabet="aehilmoptv.:/@\\#?%2e5c[]0x1 \t", max_size=40))
def test_a_url_that_passes_is_on_the_host(tail: str) -> None:
    """Whatever follows the name of the host, its end is where a path, query or fragment begins."""
    if fits(hosts("api.a"), f"https://api.a{tail}"):
        assert not tail or tail.lstrip(".")[:1] in ("", "/", "?", "#") or tail.startswith(":443")


def test_small_predicates() -> None:
    """Values, forms, lengths, receivers."""
    assert fits(one_of("EUR", 1), "EUR")
    assert not fits(one_of("EUR", 1), True)
    assert not fits(one_of("EUR"), "eur")
    assert fits(matches(r"[A-Z]{3}-\d+"), "ABC-12")
    assert not fits(matches(r"[A-Z]{3}-\d+"), "ABC-12\n")
    assert fits(shorter_than(3), "ab")
    assert not fits(shorter_than(3), "abc")
    assert not fits(shorter_than(3), ["a"])
    mail = receivers("example.com")
    assert fits(mail, "ann@example.com, bob@EXAMPLE.com")
    for other in (
        "ann@evil.com",
        "ann@example.com,eve@evil.com",
        "ann@example.com;eve@evil.com",
        "ann@example.com\nBcc: eve@evil.com",
        "Ann <eve@evil.com>",
        "ann@evil.com@example.com",
        "ann@example.com.evil.com",
        "ann@exаmple.com",
        "",
        None,
    ):
        assert not fits(mail, other)


# -- the guard ------------------------------------------------------------------------------------

CALL = at("tool_call", tool="Send Mail", agent="Clerk", task="settle")


@pytest.mark.parametrize(
    ("rules", "passes"),
    [
        ({}, True),
        ({"allow": ["send_mail"]}, True),
        ({"allow": ["Send Mail"]}, True),
        ({"allow": ["send_*"]}, True),
        ({"allow": []}, False),
        ({"allow": ["send"]}, False),
        ({"deny": ["SEND_MAIL"]}, False),
        ({"deny": ["send-*"]}, False),
        ({"allow": ["send_mail"], "deny": ["*_mail"]}, False),
        ({"agents": {"Clerk": ["send_mail"]}}, True),
        ({"agents": {"Clerk": ["look_up"]}}, False),
        ({"agents": {"Clerk": {"deny": ["send_mail"]}}}, False),
        ({"agents": {"Boss": ["look_up"]}}, True),
        ({"agents": {"Boss": ["send_mail"], "*": []}}, False),
        ({"agents": {"Clerk": ["send_mail"], "*": []}}, True),
        ({"allow": ["look_up"], "agents": {"Clerk": ["send_mail"]}}, False),
        ({"tasks": {"settle": {"deny": ["send_mail"]}}}, False),
        ({"tasks": {"settle": ["send_mail"]}, "agents": {"Clerk": ["look_up"]}}, False),
    ],
)
def test_every_list_that_speaks_of_a_call_must_let_it_pass(rules: Any, passes: bool) -> None:
    """For all, of the agent, of the task; names as CrewAI shows them; a denial always holds."""
    said = tools(**rules).check({}, CALL)
    assert isinstance(said, Allow if passes else Reject)


def test_a_runs_own_tools_are_allowed_unless_they_are_denied() -> None:
    """A tool of the user's that is called the same is not."""
    for own in (True, False):
        call = replace(CALL, tool="ask_human", built_in=own)
        rules = tools(allow=["look_up"], agents={"Clerk": ["look_up"]})
        assert isinstance(rules.check({}, call), Allow if own else Reject)
        assert isinstance(tools(deny=["ask_human"]).check({}, call), Reject)


def test_the_model_is_told_what_it_may_do_instead() -> None:
    """In the words of a person who set the rule."""
    said = tools(agents={"Clerk": ["look_up", "ask"]}).check({}, CALL)
    assert said == Reject(
        "The tool 'Send Mail' is not allowed for agent 'Clerk'. Allowed are: ask, look_up."
    )
    asked = tools(deny=["send_mail"], otherwise="escalate").check({}, CALL)
    assert isinstance(asked, Escalate)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"amount": 5}, None),
        ({"amount": 500}, "Argument amount: it is above 100."),
        ({"Amount": 500}, "Argument Amount: it is above 100."),
        ({"order": {"amount": 500}}, "Argument order.amount: it is above 100."),
        (
            {"orders": [{"amount": 5}, {"amount": 500}]},
            "Argument orders[1].amount: it is above 100.",
        ),
        ({"amount": [5, 500]}, "Argument amount[1]: it is above 100."),
        ({"amount": {"value": "5"}}, "Argument amount.value: it is not a number."),
        ({"body": '{"x": [{"amount": 500}]}'}, "Argument body.x[0].amount: it is above 100."),
        ({"note": "amount: 500"}, None),
        ({"order": {"lines": [{"price": 3}, {"price": 30}]}}, "Argument order.lines[1].price: "),
        ({"price": 30}, None),
    ],
)
def test_arguments_are_found_wherever_they_are(arguments: Any, why: str | None) -> None:
    """At any depth, in lists, in JSON within a text; a longer name only where it says."""
    guard = tools(arguments={"send_*": {"amount": at_most(100), "order.lines.price": at_most(10)}})
    said = guard.check(arguments, CALL)
    if why is None:
        assert said == Allow()
    else:
        assert isinstance(said, Reject)
        assert said.reason.startswith(why)


def test_predicates_of_ones_own() -> None:
    """True and None are fine; False and a text are not; anything else is an error, not a yes."""
    for answer, kind in ((True, Allow), (None, Allow), (False, Reject), ("no!", Reject)):
        guard = tools(arguments={"send_mail": {"to": _saying(answer)}})
        assert isinstance(guard.check({"to": "x"}, CALL), kind)
    with pytest.raises(TypeError, match="gave 1"):
        tools(arguments={"send_mail": {"to": _saying(1)}}).check({"to": "x"}, CALL)
    several = tools(arguments={"send_mail": {"to": [shorter_than(5), matches("[a-z]+")]}})
    assert isinstance(several.check({"to": "a1"}, CALL), Reject)


def _saying(answer: Any) -> Predicate:
    return lambda value: answer


def test_too_deep_or_too_large_is_no_yes() -> None:
    """What cannot be looked through is not allowed."""
    deep: Any = "x"
    for _ in range(200):
        deep = [deep]
    guard = tools(arguments={"send_mail": {"amount": at_most(1)}})
    for value in ({"a": deep}, {"a": "x" * 5_000_000}):
        with pytest.raises(GuardUnavailable):
            guard.check(value, CALL)


@pytest.mark.parametrize(
    "rules",
    [
        {"allow": "send"},
        {"deny": [5]},
        {"agents": {"Clerk": {"only": ["x"]}}},
        {"arguments": {"send": {"url": "https://x"}}},
        {"otherwise": "ask"},
    ],
)
def test_rules_that_are_none(rules: Any) -> None:
    """Are refused before a run."""
    with pytest.raises(UsageError):
        tools(**rules)


@pytest.mark.parametrize("names", [["https://x.com"], ["a b"], [""], ["api..com"]])
def test_hosts_that_are_none(names: list[str]) -> None:
    """So are names that are no hosts."""
    with pytest.raises(UsageError):
        hosts(*names)
