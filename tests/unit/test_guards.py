"""What a guard is, which ones judge where, and guards that are made of guards."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from crewai_prod.errors import UsageError
from crewai_prod.guarding import _revived, _stored
from crewai_prod.guards import (
    Allow,
    Escalate,
    Guard,
    GuardContext,
    Modify,
    Reject,
    all_of,
    guard,
)
from crewai_prod.guards._pipeline import chains, fits, read_guards

HERE = GuardContext(place="tool_call", run_id="r")


def _of(name: str, *places: Any, order: int = 0, says: Any = None) -> Guard:
    said = says or Allow()
    made: Any = guard(*(places or ("tool_call",)), name=name, order=order)
    one: Guard = made(lambda value, context: said(value) if callable(said) else said)
    return one


def test_a_function_becomes_a_guard() -> None:
    """It keeps its name; what it is declared to be can be read."""

    @guard("tool_call", "tool_result", version="3", order=2, fail="open")
    def hosts(value: Any, context: GuardContext) -> Allow:
        return Allow()

    assert (hosts.name, hosts.version, hosts.order, hosts.fail) == ("hosts", "3", 2, "open")
    assert hosts.places == {"tool_call", "tool_result"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"places": frozenset()},
        {"places": frozenset({"nowhere"})},
        {"name": ""},
        {"version": 1},
        {"order": "first"},
        {"fail": "maybe"},
        {"check": None},
    ],
)
def test_what_is_no_guard(wrong: dict[str, Any]) -> None:
    """A value that does not exist is refused where it is written."""
    right: dict[str, Any] = {"name": "g", "check": print, "places": frozenset({"tool_call"})}
    with pytest.raises(UsageError):
        Guard(**(right | wrong))


def test_guards_judge_by_order_then_as_listed() -> None:
    """Lists may lie in lists; the same guard twice is one."""
    a, b, c = _of("a", order=1), _of("b"), _of("c", "tool_call", "model_output")
    read = read_guards([a, [b, (c, a)]])
    assert [one.name for one in read] == ["a", "b", "c"]
    found = chains(read)
    assert {place: [one.name for one in chain] for place, chain in found.items()} == {
        "tool_call": ["b", "c", "a"],
        "model_output": ["c"],
    }


@pytest.mark.parametrize("wrong", ["guard", [print], [_of("a"), _of("a", says=Reject("no"))]])
def test_wrong_lists(wrong: Any) -> None:
    """What is no guard; and two of one name at one place, whose verdicts look alike."""
    with pytest.raises(UsageError):
        read_guards(wrong)
    assert len(read_guards([_of("a"), _of("a", "model_output")])) == 2


@pytest.mark.parametrize("later", [False, True])
def test_a_guard_of_guards(later: bool) -> None:
    """What one modifies the next is given; the first that says no speaks for all."""

    def add(text: str) -> Guard:
        def now(value: Any, context: GuardContext) -> Any:
            return Modify(value + text, f"added {text}")

        async def then(value: Any, context: GuardContext) -> Any:
            return now(value, context)

        return guard("tool_call", name=text)(then if later else now)

    def ask(whole: Guard, value: str, context: GuardContext = HERE) -> Any:
        said = whole.check(value, context)

        async def wait() -> Any:
            return await said if inspect.isawaitable(said) else said

        return asyncio.run(wait())

    short = _of("short", says=lambda value: Allow() if len(value) < 4 else Reject("too long"))
    whole = all_of("whole", add("b"), _of("same"), add("c"), short)
    assert ask(whole, "a") == Modify("abc", "added b; added c")
    assert ask(whole, "aa") == Reject("too long")
    assert ask(all_of("two", _of("x"), _of("y")), "a") == Allow()
    person = all_of("p", _of("x", says=Escalate("who knows")), add("b"))
    assert ask(person, "a") == Escalate("who knows")
    elsewhere = GuardContext(place="model_output", run_id="r")
    assert ask(all_of("w", add("b"), _of("m", "model_output")), "a", elsewhere) == Allow()


def test_a_new_version_of_a_part_is_one_of_the_whole() -> None:
    """Unless the whole says its own."""
    parts = [_of("a"), _of("b", "model_output")]
    assert all_of("whole", *parts).version == "a:1+b:1"
    assert all_of("whole", *parts).places == {"tool_call", "model_output"}
    assert all_of("whole", *parts, version="7").version == "7"
    with pytest.raises(UsageError):
        all_of("whole")


@pytest.mark.parametrize(
    ("place", "good", "bad"),
    [
        ("kickoff_input", {"who": "ann"}, ["ann"]),
        ("tool_call", {"amount": 7}, {7: "amount"}),
        ("model_input", [{"role": "user", "content": "hi"}], []),
        ("model_output", [{"name": "charge", "arguments": {}}], [{"arguments": {}}]),
        ("model_output", "text", None),
        ("tool_result", {"any": ["thing"]}, ...),
        ("task_output", "text", {"raw": "text"}),
        ("final_output", "text", None),
    ],
)
def test_forms(place: str, good: Any, bad: Any) -> None:
    """What may stand in the place of a value is of its form; a tool may return anything."""
    assert fits(place, good)
    assert bad is ... or not fits(place, bad)


@pytest.mark.parametrize(
    ("before", "after", "size"),
    [
        ([{"c": "a" * 500}, {"c": "b"}], [{"c": "a" * 500}, {"c": "x"}], 40),
        ([{"c": "a"}], [{"c": "a"}, {"c": "b"}], 40),
        ({"at": 1}, {"at": {"0": 2}}, 40),
        ("a", "b", 40),
    ],
)
def test_of_a_conversation_only_what_differs_is_kept(before: Any, after: Any, size: int) -> None:
    """A modified value comes back as it was, and a long conversation is not stored again."""
    stored = _stored(after, before)
    assert _revived(stored, before) == after
    assert len(stored) < size
