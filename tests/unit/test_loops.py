"""Which calls are taken for a loop, and which are not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from crewai_prod.errors import UsageError
from crewai_prod.loops import Call, Finding, Loops, Rung, Trail

DEFAULT = Loops()
Made = tuple[str, Any, Any]
"""Tool, arguments, result."""


def walk(calls: Iterable[Made], *, acts: bool = False) -> list[Finding | None]:
    """What is found of each of these calls, one to a reply; those that are refused are not made."""
    trail, found = Trail(), []
    for tool, meant, outcome in calls:
        trail.decision += 1
        call = Call(tool, meant, acts=acts)
        finding = trail.judge(call, DEFAULT)
        if finding is None:
            trail.enter(call)
            call.outcome = outcome
        found.append(finding)
    return found


def rungs(found: list[Finding | None]) -> list[str]:
    """Number of the call and rung of what was found."""
    return [f"{n} {one.rung.name.lower()}" for n, one in enumerate(found, 1) if one is not None]


SAME = [("look", "x", "nothing")] * 8
IN_TURN = [("look", "x", "nothing"), ("check", "y", "pending")] * 8
OTHERS = [("look", n, "nothing") for n in range(60)]
ALL_DIFFERENT = [("look", n, f"result {n}") for n in range(200)]


@pytest.mark.parametrize(
    ("calls", "kind", "expected"),
    [
        (SAME, "exact", ["5 told", "6 withheld", "7 stopped", "8 stopped"]),
        (IN_TURN[:9], "ping_pong", ["7 told", "8 withheld", "9 stopped"]),
        (OTHERS[:27], "no_progress", ["13 told", "26 withheld", "27 stopped"]),
        (ALL_DIFFERENT[:103], "varied", ["51 told", "102 withheld", "103 stopped"]),
    ],
)
def test_each_kind_is_found_and_answered_firmer_each_time(
    calls: list[Made], kind: str, expected: list[str]
) -> None:
    """With the default thresholds."""
    found = walk(calls)
    assert rungs(found) == expected
    assert {one.kind for one in found if one is not None} == {kind}


@pytest.mark.parametrize(
    ("calls", "acts"),
    [
        pytest.param([("status", "x", f"{n} %") for n in range(90)], False, id="it changes"),
        pytest.param(
            [("look", n // 3, n % 3) for n in range(40)], False, id="three of each, all different"
        ),
        pytest.param([("save", n, "ok") for n in range(45)], True, id="forty-five rows saved"),
        pytest.param(
            [(tool, n, "ok") for n in range(99) for tool in ("read", "save")],
            True,
            id="read and save a hundred",
        ),
        pytest.param([("exists", n, "no") for n in range(11)], False, id="eleven that are not"),
        pytest.param(
            [("page", n, f"text {n}") for n in range(49)], False, id="forty-nine pages read"
        ),
        pytest.param(
            [one for n in range(30) for one in (("look", "x", n), ("check", "y", n))],
            False,
            id="in turn, but it changes",
        ),
        pytest.param(
            [one for n in range(30) for one in (("edit", n, n), ("test", "", "failed"))][:7],
            True,
            id="edit and test, three times in vain",
        ),
    ],
)
def test_what_gets_anywhere_is_left_alone(calls: list[Made], acts: bool) -> None:
    """The default thresholds trouble no sound work."""
    assert rungs(walk(calls, acts=acts)) == []


def test_whoever_did_something_else_begins_anew() -> None:
    """After it was told, a model may come back to the call, as often as before."""
    found = walk([*SAME[:5], ("save", "x", "ok"), *SAME[:5]])
    assert rungs(found) == ["5 told", "11 withheld"]


def test_a_tool_that_is_withheld_is_so_with_other_arguments() -> None:
    """And the others are not."""
    found = walk([*SAME[:6], ("check", "y", "z"), ("look", "another", "z")])
    assert rungs(found) == ["5 told", "6 withheld", "8 stopped"]


def test_failures_of_calls_that_act_are_no_progress() -> None:
    """The same failure, whatever is tried."""
    trail = Trail()
    for n in range(DEFAULT.no_progress or 0):
        trail.decision += 1
        call = Call("save", n)
        assert trail.judge(call, DEFAULT) is None
        trail.enter(call)
        call.outcome, call.failed = "no connection", True
    trail.decision += 1
    found = trail.judge(Call("save", "more"), DEFAULT)
    assert found is not None
    assert (found.kind, found.rung) == ("no_progress", Rung.TOLD)
    assert trail.judge(Call("another", "tool"), DEFAULT) is None


def test_code_that_calls_in_a_loop_is_no_model() -> None:
    """Where no model was asked, nothing is found."""
    trail = Trail()
    for _ in range(99):
        call = Call("look", "x", acts=False)
        assert trail.judge(call, DEFAULT) is None
        trail.enter(call)
        call.outcome = "nothing"


def test_what_is_on_record_is_taken_up() -> None:
    """A session that meets a refusal goes on one rung higher, whatever its own rules are."""
    trail = Trail(decision=1)
    trail.take_up(Call("look", "x"), Finding("exact", Rung.TOLD, "look", 2))
    trail.decision += 1
    found = trail.judge(Call("look", "x"), DEFAULT)
    assert found is not None
    assert (found.kind, found.rung) == ("exact", Rung.WITHHELD)


def test_a_trail_does_not_grow() -> None:
    """What can no longer matter is forgotten."""
    trail = Trail()
    for n in range(5000):
        trail.decision += 1
        call = Call("look" if n % 2 else "save", n)
        assert trail.judge(call, DEFAULT) is None
        trail.enter(call)
        call.outcome = n
    assert len(trail._calls) <= DEFAULT.memory + 1


def test_names_of_a_tool_are_one() -> None:
    """CrewAI has one for people and one for models; the model is told the one that was called."""
    found = walk([("Look Up", "x", "r"), *[("look_up", "x", "r")] * 4])
    assert rungs(found) == ["5 told"]
    assert found[-1] is not None
    assert found[-1].message.startswith("look_up has been called with these arguments 4 times")


@pytest.mark.parametrize("value", [0, -1, 2.5, "3", True])
def test_a_threshold_is_a_number(value: Any) -> None:
    """Or None; said at once."""
    with pytest.raises(UsageError, match="1 or more, or None"):
        Loops(exact=value)


@pytest.mark.parametrize(
    ("given", "expected"), [(True, DEFAULT), (False, None), (Loops(exact=9), Loops(exact=9))]
)
def test_loops_are_on_unless_said_otherwise(given: Any, expected: Loops | None) -> None:
    """`harden(loops=...)` takes True, False, or the rules."""
    assert Loops.read(given) == expected
    with pytest.raises(UsageError, match="neither"):
        Loops.read("often")
