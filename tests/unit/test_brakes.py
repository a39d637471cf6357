"""The budgets of one run: what is set aside, counted and released, by whichever thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from crewai_prod.brakes import Brakes, Refused
from crewai_prod.budget import Ask, Budget, Budgets, Fits, Waits
from crewai_prod.records import Amounts, CutOff, Place, Pot, StepStatus, Taken, Usage
from crewai_prod.steps import Scope
from tests.journal.support import attempt, model_step, step

RUN = Scope(path="tasks/0/Clerk", agent="Clerk")
ASK = Ask(input_tokens=10, most=90)


def alone(pots: Sequence[Pot], decide: Any) -> None:
    """Where no runs share a budget nobody is asked: the call is noted, should a kill cut it off."""
    assert not pots
    assert decide([]).llm_calls == 1


def brakes(*budgets: Budget, **parts: Budget) -> Brakes:
    """The brakes of a crew with one task."""
    made = Brakes()
    read = Budgets.read(list(budgets) or None, parts)
    made.join(read, of="crew/desk", tasks={"pay": "tasks/0"})
    return made


def done(number: int, *, tokens: int = 100, **more: Any) -> Any:
    """A model call that took so many tokens, half of them output."""
    usage = Usage(input_tokens=tokens - tokens // 2, output_tokens=tokens // 2, calls=1)
    given: dict[str, Any] = {"scope": RUN.path, "agent": RUN.agent, "usage": usage}
    return model_step(number, **(given | more))


def test_what_was_done_before_there_was_a_budget_counts() -> None:
    """Counted once there is one: however much that was."""
    own = Brakes()
    for number in range(1, 1201):
        own.enter(done(number, tokens=10))
    own.join(Budgets.read([Budget(max_tokens=12_050)], {}), of="crew/desk")
    assert own.reserve(RUN, "next", ASK, alone, patient=False) == Fits(40, capped=True)
    assert own.unmet() == []


def test_a_call_waits_for_another_and_takes_what_that_left() -> None:
    """What was set aside and not used is there again; what was used is not."""
    own = brakes(Budget(max_tokens=190))
    assert own.reserve(RUN, done(1).step_id, ASK, alone, patient=True) == Fits(90)
    assert own.reserve(RUN, "other", ASK, alone, patient=True) == Waits()
    assert own.reserve(RUN, "other", ASK, alone, patient=False) == Fits(80, capped=True)
    assert own.release("other")
    assert not own.release("other")
    own.enter(done(1, tokens=40))
    assert own.reserve(RUN, "other", ASK, alone, patient=True) == Fits(90)
    own.enter(done(2, tokens=170))
    own.release("other")
    refused = own.reserve(RUN, "third", ASK, alone, patient=True)
    assert isinstance(refused, Refused)
    assert (refused.excess.limit, refused.excess.spent, refused.excess.left) == (
        "max_tokens",
        210,
        0,
    )


def test_what_earlier_sessions_took_is_spent() -> None:
    """Tries that failed included; tool calls that were refused or cached are none."""
    steps = [
        done(1, tokens=60),
        step(2, scope=RUN.path, agent="Clerk"),
        step(3, scope=RUN.path, agent="Clerk", effect="refused", status=StepStatus.FAILED),
    ]
    tried = attempt(done(1).step_id, usage=Usage(input_tokens=7, output_tokens=3, calls=1))
    for place in ({}, {"Clerk": 1}, {"pay": 1}):
        own = Brakes()
        own.take_up(steps, [tried])
        budget = Budget(max_tokens=170, max_tool_calls=2)
        read = Budgets.read(None, dict.fromkeys(place, budget)) if place else Budgets.read(budget)
        own.join(read, of="crew/desk", tasks={"pay": "tasks/0"})
        assert own.reserve(RUN, "next", ASK, alone, patient=True) == Fits(90)
        own.release("next")
        own.enter(done(4, tokens=1))
        assert own.reserve(RUN, "next", ASK, alone, patient=True) == Fits(89, capped=True)
        assert own.admit_tool(RUN, alone) is None
        refused = own.admit_tool(RUN, alone)
        assert refused is not None
        assert refused.excess.limit == "max_tool_calls"


def test_what_a_kill_has_cut_off_is_spent() -> None:
    """As what was set aside for it, on whatever covered it."""
    most = Amounts(input_tokens=20, output_tokens=40, llm_calls=1)
    place = Place(step_id=done(1).step_id, scope=RUN.path, agent="Clerk")
    own = Brakes()
    own.take_up([], [], cut_off=[CutOff(place=place, epoch=1, at=1.0, amounts=most)] * 2)
    parts = {"Clerk": Budget(max_tokens=200), "Other": Budget(max_tokens=200)}
    own.join(Budgets.read(Budget(max_llm_calls=3), parts), of="crew/desk")
    assert own.reserve(RUN, done(1).step_id, ASK, alone, patient=True) == Fits(70, capped=True)
    assert own.is_noted(done(1).step_id)
    own.enter(done(1, tokens=1))
    assert not own.is_noted(done(1).step_id)
    refused = own.reserve(RUN, "next", ASK, alone, patient=True)
    assert isinstance(refused, Refused)
    assert refused.excess.limit == "max_llm_calls"


def test_a_budget_covers_its_place_and_no_other() -> None:
    """A task with all within it, whichever time it is executed; an agent wherever it works."""
    own = brakes(pay=Budget(max_llm_calls=1), Clerk=Budget(max_llm_calls=2))
    within = Scope(path="tasks/0~1/Other/ask~1f/shop~2e/tasks/0/Third", agent="Third")
    own.enter(done(1, scope=within.path, agent="Third"))
    assert isinstance(own.reserve(within, "a", ASK, alone, patient=True), Refused)
    elsewhere = Scope(path="tasks/1/Clerk", agent="Clerk")
    assert own.reserve(elsewhere, "b", ASK, alone, patient=True) == Fits(90)
    for number in (2, 3):
        own.enter(done(number, scope=elsewhere.path))
    refused = own.reserve(elsewhere, "b", ASK, alone, patient=True)
    assert isinstance(refused, Refused)
    assert refused.excess.scope == "agent 'Clerk'"
    third = Scope(path="tasks/10/Third", agent="Third")
    assert own.reserve(third, "c", ASK, alone, patient=True) == Fits(90)
    assert own.unmet() == []
    assert brakes(Nobody=Budget(max_usd=1)).unmet() == ["Nobody"]


def test_a_shared_budget_is_asked_of_the_journal() -> None:
    """It lowers what the run's own budgets allow, and is told once when little is left."""
    own = brakes(Budget(max_tokens=95), Budget(max_tokens=1000, label="t", warn_at=0.5))
    taken = Taken(spent=Amounts(input_tokens=930), reserved=Amounts())
    asked: list[Amounts | None] = []

    def share(pots: Sequence[Pot], decide: Any) -> None:
        assert [pot.label for pot in pots] == ["t"]
        asked.append(decide([taken]))

    assert own.reserve(RUN, "a", ASK, share, patient=True) == Fits(60, capped=True)
    assert asked[0] is not None
    assert asked[0].output_tokens == 60
    assert [one.limit for one in own.warnings()] == ["max_tokens"]
    assert own.warnings() == []
    settled = own.settled(done(1, tokens=50), None)
    assert settled is not None
    assert (settled.labels, settled.took.tokens) == (("t",), 50)
    assert brakes(Budget(max_tokens=9)).settled(done(1), None) is None


@settings(deadline=None, max_examples=25)
@given(st.integers(100, 2_000), st.integers(2, 6), st.integers(1, 120))
def test_threads_cannot_overspend_together(most: int, threads: int, took: int) -> None:
    """Each spends until it is refused: together no more than there was."""
    own = brakes(Budget(max_tokens=most))
    spent: list[int] = []

    def spend(thread: int) -> None:
        for number in range(1, 200):
            call = done(thread * 1000 + number)
            granted: Any = Waits()
            while isinstance(granted, Waits):
                granted = own.reserve(RUN, call.step_id, ASK, alone, patient=True)
            if isinstance(granted, Refused):
                return
            used = min(took, 10 + granted.output)
            usage = Usage(input_tokens=min(10, used), output_tokens=max(0, used - 10), calls=1)
            spent.append(used)
            own.enter(done(thread * 1000 + number, usage=usage))

    started = [threading.Thread(target=spend, args=(n,)) for n in range(threads)]
    for one in started:
        one.start()
    for one in started:
        one.join()
    assert sum(spent) <= most
