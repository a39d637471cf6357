"""Rules that choose a model: which hold, which comes first, and what is no rule."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import orjson
import pytest

from crewai_prod.brakes import Brakes, Lower
from crewai_prod.budget import USUAL, Ask, Budget, Budgets, Fits, Used, goes_down, raised
from crewai_prod.errors import RouteFailed, UsageError
from crewai_prod.records import PICO, Amounts, Taken
from crewai_prod.route import Route, RouteContext, Routes
from crewai_prod.steps import Scope, task_around

CALL = RouteContext(
    run_id="r",
    task="pay",
    agent="Cashier",
    model="strong",
    step=3,
    input_tokens=1_000,
    budget_used=0.7,
    budget=Used(part=0.7, limit="max_usd", scope="run"),
    rejected=1,
    failed_tries=1,
)


@pytest.mark.parametrize(
    ("condition", "just", "not_yet", "reason"),
    [
        ("task", "pay", "send", "task 'pay'"),
        ("task", ["send", "pay"], ["send"], "task 'pay'"),
        ("agent", ("Cashier",), "Clerk", "agent 'Cashier'"),
        ("step_from", 3, 4, "model call 3 of its scope"),
        ("step_to", 3, 2, "model call 3 of its scope"),
        ("input_tokens_from", 1_000, 1_001, "about 1,000 tokens of input"),
        ("after_failures", 2, 3, "1 answer sent back and 1 failed try"),
        ("budget_used_from", 0.7, 0.71, "70% of max_usd of the run are used"),
        ("when", lambda c: c.model == "strong", lambda c: c.failures > 2, "<lambda> says so"),
    ],
)
def test_a_condition_holds_from_its_value_on(
    condition: str, just: Any, not_yet: Any, reason: str
) -> None:
    """At the value it does, and says why; beyond it does not."""
    given: dict[str, Any] = {condition: just}
    why = Route("small", **given).why(CALL)
    assert why is not None
    assert why.endswith(reason)
    given = {condition: not_yet}
    assert Route("small", **given).why(CALL) is None


def test_all_conditions_of_a_rule_must_hold() -> None:
    """The last of them decides as well as the first; a rule without any always holds."""
    assert Route("small", agent="Cashier", step_from=2).why(CALL) is not None
    assert Route("small", agent="Cashier", step_from=4).why(CALL) is None
    assert Route("small", agent="Clerk", step_from=2).why(CALL) is None
    assert Route("small").why(CALL) == "always"


def test_no_budget_is_not_used_up() -> None:
    """Where there is none, a rule on what is left of it does not hold."""
    alone = replace(CALL, budget=None, budget_used=0.0)
    assert Route("small", budget_used_from=0.01).why(alone) is None


def test_the_first_rule_that_holds_decides() -> None:
    """A rule may name the agent's own model; a function passes on with None."""
    asked: list[str] = []

    def by_hand(context: RouteContext) -> str | None:
        asked.append(context.model)
        return "third" if context.step == 9 else None

    routes = Routes.read(
        [
            by_hand,
            Route(None, after_failures=2),
            Route("small", budget_used_from=0.7, name="thrift"),
        ]
    )
    choice = routes.choose(CALL)
    assert choice is not None
    assert (choice.model, choice.rule) == (None, "own model")
    choice = routes.choose(replace(CALL, rejected=0))
    assert choice is not None
    assert (choice.model, choice.rule) == ("small", "thrift")
    assert orjson.loads(choice.facts("small", "strong")) == {
        "rule": "thrift",
        "reason": "70% of max_usd of the run are used",
        "model": "small",
        "instead_of": "strong",
    }
    choice = routes.choose(replace(CALL, step=9))
    assert choice is not None
    assert choice.model == "third"
    assert choice.rule.endswith("by_hand")
    assert routes.choose(replace(CALL, rejected=0, budget=None)) is None
    assert asked == ["strong"] * 4


def test_a_rule_that_cannot_say_is_no_answer() -> None:
    """One that raises, that is asynchronous or that names no model: typed, with its name."""

    def broken(context: RouteContext) -> bool:
        raise KeyError("no idea")

    async def later(context: RouteContext) -> bool:
        return True

    wrong: Any = later
    for rule in (Route("small", when=broken), broken, Route("small", when=wrong), lambda c: 5):
        with pytest.raises(RouteFailed) as caught:
            Routes.read(rule).choose(CALL)
        assert caught.value.fields["rule"]
    with pytest.raises(RouteFailed, match="KeyError") as caught:
        Routes.read(Route("small", when=broken, name="thrift")).choose(CALL)
    assert caught.value.fields["rule"] == "thrift"
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"model": 5}, "5"),
        ({"model": ""}, "''"),
        ({"model": ["a"]}, "a"),
        ({"budget_used_from": 70}, "budget_used_from=70"),
        ({"budget_used_from": 0}, "budget_used_from=0"),
        ({"budget_used_from": float("nan")}, "budget_used_from=nan"),
        ({"task": []}, "task="),
        ({"agent": [3]}, "agent="),
        ({"step_from": 0}, "step_from=0"),
        ({"step_to": 1.5}, "step_to=1.5"),
        ({"step_from": 3, "step_to": 2}, "no step is both"),
        ({"input_tokens_from": True}, "input_tokens_from=True"),
        ({"after_failures": -1}, "after_failures=-1"),
        ({"when": "always"}, "when='always'"),
        ({"name": ""}, "name=''"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(wrong: dict[str, Any], said: str) -> None:
    """At once, named."""
    with pytest.raises(UsageError) as caught:
        Route(**({"model": "small"} | wrong))
    assert said in str(caught.value)


def test_what_is_no_rule_is_refused() -> None:
    """A model alone is none: it says not when."""
    for wrong in ("small", 5, {"small": 0.7}, [Route("small"), "small"]):
        with pytest.raises(UsageError, match="is no Route"):
            Routes.read(wrong)
    assert not Routes.read()
    assert not Routes.read([])


# -- going down at a limit ------------------------------------------------------------------------

DEAR = Ask(input_tokens=100, most=1_000, price=lambda output: (100 + output) * PICO // 1_000)
"""A tenth of a dollar, and a dollar more for the longest answer."""
LADDER = Budget(max_usd=2, on_limit="route", route_to=["small", "tiny"])


def test_a_dear_model_is_not_asked_for_the_last_of_the_money() -> None:
    """Nor once all are passed over; money that other calls may still leave is waited for."""
    for spent, down in ((Decimal("0.9"), False), (Decimal("0.91"), True), (Decimal(3), True)):
        taken = Amounts(cost_picousd=int(spent * PICO))
        assert goes_down(LADDER, taken, DEAR) is down
        assert goes_down(LADDER, taken, replace(DEAR, passed_over=1)) is down
        assert not goes_down(LADDER, taken, replace(DEAR, passed_over=2))
    endless = replace(DEAR, most=10**6)
    enough = 2 * PICO - endless.price(USUAL)
    assert goes_down(LADDER, Amounts(cost_picousd=max(0, enough + 1)), endless)


def test_brakes_say_who_is_short_of_money() -> None:
    """Nothing is set aside for a model that is passed over; the next one is judged anew."""
    own = Brakes()
    own.join(Budgets.read([LADDER, Budget(max_tokens=10**6)]), of="crew/desk")
    scope = Scope(path="tasks/0/Clerk", agent="Clerk")

    def alone(pots: Any, decide: Any) -> None:
        assert not pots

    dearer = replace(DEAR, price=lambda output: (100 + output) * PICO // 500)
    lower = own.reserve(scope, "a", dearer, alone, patient=True)
    assert isinstance(lower, Lower)
    assert lower.excess.rest == "2 of 2 are left: max_usd of the run"
    assert not own.release("a")
    next_one = replace(DEAR, passed_over=1)
    assert own.reserve(scope, "a", next_one, alone, patient=True) == Fits(1_000)


def test_how_much_of_a_budget_is_used_is_told_of_the_tightest() -> None:
    """Spent and set aside, own and shared; a budget on another agent is none of this one's."""
    own = Brakes()
    read = Budgets.read(
        [Budget(max_tokens=1_000), Budget(max_llm_calls=10, label="t")],
        {"Other": Budget(max_llm_calls=1)},
    )
    own.join(read, of="crew/desk")
    scope = Scope(path="tasks/0/Clerk", agent="Clerk")
    calls = 2

    def share(pots: Any, decide: Any) -> None:
        taken = [Taken(spent=Amounts(llm_calls=calls), reserved=Amounts(llm_calls=1))]
        decide(taken)

    used = own.used(scope, share)
    assert used == Used(part=0.3, limit="max_llm_calls", scope="run (label 't')")
    own.reserve(scope, "a", Ask(input_tokens=300, most=100), share, patient=True)
    used = own.used(scope, share)
    assert used == Used(part=0.4, limit="max_tokens", scope="run")
    calls = 8
    assert own.used(scope, share) == Used(part=0.9, limit="max_llm_calls", scope="run (label 't')")
    assert Brakes().used(scope, share) is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"max_usd": 1, "on_limit": "route"}, "route_to"),
        ({"max_usd": 1, "route_to": [None]}, "is no model"),
        ({"max_usd": 1, "route_to": 5}, "is no model"),
        ({"max_tokens": 9, "route_to": "small"}, "takes max_usd"),
        ({"max_usd": 1, "on_limit": "down"}, "'down'"),
    ],
)
def test_a_ladder_that_makes_no_sense_is_refused(wrong: dict[str, Any], said: str) -> None:
    """Without models, without money, or with what is none."""
    with pytest.raises(UsageError, match=said):
        Budget(**wrong)


def test_a_raised_budget_keeps_its_ladder() -> None:
    """Unless the function names another one."""
    kept = raised(LADDER, Budget(max_usd=5))
    assert isinstance(kept, Budget)
    assert kept.route_to == ("small", "tiny")
    other = raised(LADDER, Budget(max_usd=5, route_to="other"))
    assert isinstance(other, Budget)
    assert other.route_to == ("other",)


@pytest.mark.parametrize(
    ("path", "task"),
    [
        ("tasks/0/Clerk", "tasks/0"),
        ("tasks/10~1/Clerk/:memory.recall~5a6b7c8d", "tasks/10~1"),
        ("tasks/0/Clerk/ask~1f/shop~2e/tasks/1/Cashier", "tasks/0/Clerk/ask~1f/shop~2e/tasks/1"),
        ("run", None),
        ("run/pay/Cashier~1f2e3d4c", None),
    ],
)
def test_work_belongs_to_the_innermost_task(path: str, task: str | None) -> None:
    """Whose failures count together."""
    assert task_around(path) == task
