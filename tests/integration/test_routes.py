"""Which model is asked: chosen by rules before each call, recorded, and followed by a replay."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from crewai import Agent, Crew, Task
from crewai.flow.flow import Flow, start
from pydantic import BaseModel

from crewai_prod import Budget, Retry, Route, RouteContext, harden, open_journal, open_run
from crewai_prod.errors import BudgetExceeded, ModelUnpriced, RouteFailed, UsageError
from crewai_prod.records import RunStatus, StepKind
from tests.crews import MODEL, make_llm
from tests.integration.parts import (
    MODES,
    PATHS,
    REQUESTS,
    SCRIPT,
    Effects,
    Killed,
    Mode,
    fail_once,
    go,
    killed,
    killed_before_each_request,
    make_crew,
    make_tools,
)
from tests.integration.test_cost import lines
from tests.openai_script import FAULTS, Turn
from tests.openai_server import Conversation, Reply, Rule, Server

OWN, SMALL, STRONG, DEAR = MODEL, "gpt-4.1-nano", "gpt-4.1", "gpt-4"
ASKED = {"who": "ann"}
BOTH: tuple[Mode, ...] = ("kickoff", "akickoff")
ALL = ["look_up tides", "charge 7", "send ann"]


def another(server: Server, model: str, path: str = "native", **options: Any) -> Any:
    """A model beside the crew's own."""
    name = model if path == "text" else f"openai/{model}"
    return make_llm(server.url, path, model=name, max_retries=0, **options)  # type: ignore[arg-type]


def asked(server: Server) -> list[str]:
    """Which models the server was asked for."""
    return [one.model for one in server.requests]


def routes_of(journal: Path, run_id: str = "r") -> list[tuple[str | None, Any]]:
    """Who answered each model call, and what the journal says of why."""
    steps = [one for one in open_journal(journal).steps(run_id) if one.kind is StepKind.MODEL]
    return [(one.model, orjson.loads(one.route) if one.route else None) for one in steps]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_the_small_model_is_asked_from_a_part_of_the_budget_on(
    server: Server, effects: Effects, tmp_path: Path, mode: Mode, path: str
) -> None:
    """In the middle of a conversation with tool calls; priced as itself, and said why."""
    journal = tmp_path / "runs.db"
    small = Route(another(server, SMALL, path), budget_used_from=0.3, name="thrift")
    bare = make_crew(server, effects, path)
    crew = harden(bare, journal=journal, budget=Budget(max_llm_calls=10), route=[small])
    assert go(crew, mode, inputs=ASKED, run_id="r").raw == "sent to ann"
    assert (asked(server), effects.lines) == ([OWN] * 3 + [SMALL] * 3, ALL)
    told = routes_of(journal)
    assert told[:3] == [(OWN, None)] * 3
    assert told[3] == (
        SMALL,
        {
            "rule": "thrift",
            "reason": "30% of max_llm_calls of the run are used",
            "model": SMALL,
            "instead_of": OWN,
        },
    )
    said = lines(journal, "llm.routed")
    assert len(said) == 3
    assert (said[0]["route.from"], said[0]["gen_ai.request.model"]) == (OWN, SMALL)
    assert (said[0]["route.rule"], said[0]["task"]) == ("thrift", "t1")
    assert said[0]["route.reason"] == told[3][1]["reason"]
    usage = {row.key["model"]: row.llm_calls for row in open_journal(journal).usage(["model"])}
    assert usage == {OWN: 3, SMALL: 3}


def test_a_conversation_may_change_its_model_there_and_back(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """The small model asks for a tool, the own one reads its result; both stream."""
    route = [Route(another(server, SMALL), step_to=1, agent=["Researcher", "Courier"])]
    bare = make_crew(server, effects, stream=True)
    crew = harden(bare, journal=tmp_path / "runs.db", route=route)
    assert crew.kickoff(inputs=ASKED).raw == "sent to ann"
    assert (asked(server), effects.lines) == ([SMALL, OWN, OWN, OWN, SMALL, OWN], ALL)
    assert all(one.stream for one in server.requests)


# -- failures -------------------------------------------------------------------------------------


class Answer(BaseModel):
    """What the task asks for."""

    number: int


def _by_model(turn: Turn) -> Reply:
    good = turn.body["model"] == STRONG
    return Reply('{"number": 7}' if good else f"no form {turn.turns}")


STUBBORN = Conversation(Rule(_by_model))
"""Only the strong model gives what is asked for."""


def _stubborn(server: Server, how: str) -> Crew:
    def check(output):  # type: ignore[no-untyped-def] # CrewAI reads annotations, not as text
        good = "number" in output.raw
        return good, output.raw if good else "Say the number."

    agent = Agent(role="Teller", goal="g", backstory="b", llm=make_llm(server.url, max_retries=0))
    asks: dict[str, Any] = {"output_pydantic": Answer} if how == "form" else {"guardrail": check}
    first = Task(name="first", description="Tell", expected_output="o", agent=agent, **asks)
    return Crew(name="tellers", agents=[agent], tasks=[first])


@pytest.mark.parametrize("how", ["form", "guardrail"])
@pytest.mark.parametrize("mode", BOTH)
def test_the_strong_model_is_asked_after_two_failed_validations(
    server: Server, tmp_path: Path, how: str, mode: Mode
) -> None:
    """Killed before every request, it is asked neither sooner nor later."""
    server.app.script = STUBBORN
    journal = tmp_path / "runs.db"
    small, strong = another(server, SMALL), another(server, STRONG)
    route = [Route(strong, after_failures=2), Route(small, after_failures=1)]

    def kick() -> Any:
        crew = harden(_stubborn(server, how), journal=journal, route=route)
        return go(crew, mode, run_id="r")

    assert killed_before_each_request(kick).raw.replace(" ", "") == '{"number":7}'
    assert asked(server) == [OWN, SMALL, STRONG]
    told = routes_of(journal)
    assert [model for model, _ in told] == [OWN, SMALL, STRONG]
    assert told[2][1]["reason"] == "2 answers sent back"


def test_failed_tries_count_as_failures(server: Server, effects: Effects, tmp_path: Path) -> None:
    """Of one task; the next one begins with none. A resumed run remembers them."""
    journal = tmp_path / "runs.db"
    fail_once(server, FAULTS["unavailable"], lambda seen: True)
    route = Route(another(server, STRONG), after_failures=1)
    crew = harden(make_crew(server, effects), journal=journal, route=route)
    with pytest.raises(Killed):
        killed(lambda: crew.kickoff(inputs=ASKED, run_id="r"), 3)
    assert asked(server) == [OWN, OWN]
    assert crew.kickoff(inputs=ASKED, run_id="r").raw == "sent to ann"
    assert asked(server) == [OWN, OWN, STRONG, OWN, OWN, OWN, OWN]
    assert routes_of(journal)[1][1]["reason"] == "1 failed try"


# -- replay ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", BOTH)
def test_a_resumed_run_follows_what_was_chosen(
    server: Server, effects: Effects, tmp_path: Path, mode: Mode
) -> None:
    """Whatever the rules would choose now: what is answered stays answered by who answered it."""
    journal = tmp_path / "runs.db"
    bare = make_crew(server, effects)
    first: list[RouteContext] = []

    def to_small(context: RouteContext) -> Any:
        first.append(context)
        return small

    def to_strong(context: RouteContext) -> Any:
        later.append(context)
        return strong

    later: list[RouteContext] = []
    small, strong = another(server, SMALL), another(server, STRONG)
    crew = harden(bare, journal=journal, route=to_small)
    with pytest.raises(Killed):
        killed(lambda: go(crew, mode, inputs=ASKED, run_id="r"), 4)
    crew = harden(bare, journal=journal, route=to_strong)
    assert go(crew, mode, inputs=ASKED, run_id="r").raw == "sent to ann"
    assert (asked(server), effects.lines) == ([SMALL] * 3 + [STRONG] * 3, ALL)
    assert [(one.task, one.agent, one.step) for one in later] == [
        ("t1", "Cashier", 2),
        ("t2", "Courier", 1),
        ("t2", "Courier", 2),
    ]
    assert [one.step for one in first] == [1, 2, 1, 2]
    assert all(one.model == OWN and one.input_tokens > 50 for one in later)
    assert [one[1]["model"] for one in routes_of(journal)] == [SMALL] * 3 + [STRONG] * 3
    harden(bare, journal=journal).kickoff(inputs=ASKED, run_id="r")
    assert len(server.requests) == REQUESTS


@pytest.mark.parametrize("mode", BOTH)
def test_a_rule_that_raises_stops_the_run(
    server: Server, effects: Effects, tmp_path: Path, mode: Mode
) -> None:
    """Nobody is asked in its stead; with the rule mended the run goes on at that call."""
    journal = tmp_path / "runs.db"
    bare = make_crew(server, effects)

    def broken(context: RouteContext) -> bool:
        if context.agent == "Cashier":
            raise KeyError("no idea")
        return False

    rule = Route(another(server, SMALL), when=broken, name="thrift")
    crew = harden(bare, journal=journal, route=rule)
    with pytest.raises(RouteFailed, match="'thrift' raised KeyError") as caught:
        go(crew, mode, inputs=ASKED, run_id="r")
    assert (caught.value.run_id, caught.value.task) == ("r", "t1")
    assert [one.raw for one in caught.value.outputs] == ["facts about tides"]
    assert asked(server) == [OWN, OWN]
    assert open_journal(journal).run("r").status is RunStatus.FAILED
    crew = harden(bare, journal=journal, route=Route(another(server, SMALL)))
    assert go(crew, mode, inputs=ASKED, run_id="r").raw == "sent to ann"
    assert asked(server) == [OWN, OWN] + [SMALL] * 4


def test_a_model_that_cannot_be_made_stops_the_run(
    server: Server, effects: Effects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever named it hears of it, not CrewAI, which would try the task again."""

    def no_driver(name: str) -> Any:
        raise ImportError("its SDK is not installed")

    monkeypatch.setattr("crewai_prod._crewai.fallbacks.create_llm", no_driver)
    crew = harden(make_crew(server, effects), journal=tmp_path / "j.db", route=Route("their/model"))
    with pytest.raises(UsageError, match="Route: 'their/model' cannot be made") as caught:
        crew.kickoff(inputs=ASKED, run_id="r")
    assert (caught.value.run_id, server.requests) == ("r", [])


# -- what else holds of a routed call -------------------------------------------------------------


def test_a_routed_model_is_tried_again_and_stood_in_for(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """A failure that passes is retried with it, one that does not goes on to the fallbacks."""
    journal = tmp_path / "runs.db"
    faults = iter([FAULTS["unavailable"], FAULTS["unauthorized"]])
    server.app.faults = lambda seen: next(faults, None)
    crew = harden(
        make_crew(server, effects),
        journal=journal,
        route=Route(another(server, SMALL), task="t0"),
        retry=Retry(fallback=[another(server, STRONG)]),
    )
    assert crew.kickoff(inputs=ASKED, run_id="r").raw == "sent to ann"
    assert asked(server) == [SMALL, SMALL, STRONG, SMALL] + [OWN] * 4
    tries = open_journal(journal).attempts("r")
    assert [(one.model, orjson.loads(one.route or "{}")["rule"]) for one in tries] == [
        (SMALL, SMALL),
        (SMALL, SMALL),
    ]


def test_a_routed_model_is_held_to_price_and_cap(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """One without a price is not called under a budget in money, where the own one has one."""
    journal = tmp_path / "runs.db"
    bare = make_crew(server, effects)
    unknown = Route(another(server, "my-own-model"), agent="Cashier")
    crew = harden(bare, journal=journal, budget=Budget(max_usd=1), route=unknown)
    with pytest.raises(ModelUnpriced, match="my-own-model"):
        crew.kickoff(inputs=ASKED, run_id="r")
    assert asked(server) == [OWN, OWN]
    crew = harden(
        bare, journal=journal, route=unknown, prices={"my-own-model": 0}, on_unpriced="fail"
    )
    assert crew.kickoff(inputs=ASKED, run_id="r").raw == "sent to ann"
    server.reset()
    small = Route(another(server, SMALL))
    crew = harden(bare, journal=journal, route=small, budget=Budget(max_output_tokens=40))
    with pytest.raises(BudgetExceeded):
        crew.kickoff(inputs=ASKED, run_id="s")
    assert 0 < server.total_usage.completion_tokens <= 40
    assert set(asked(server)) == {SMALL}


def test_what_other_runs_took_of_a_budget_counts(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """A tenant's month is half over with the first run: the second asks the small model."""
    budget = Budget(max_llm_calls=12, window="month", label="t")
    route = Route(another(server, SMALL), budget_used_from=0.5)
    bare = make_crew(server, effects)
    crew = harden(bare, journal=tmp_path / "runs.db", budget=budget, route=route)
    crew.kickoff(inputs=ASKED, run_id="a")
    crew.kickoff(inputs=ASKED, run_id="b")
    assert asked(server) == [OWN] * REQUESTS + [SMALL] * REQUESTS


def test_a_rule_on_a_budget_that_there_is_not_is_told(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """Once: it will never hold."""
    journal = tmp_path / "runs.db"
    route = Route(another(server, SMALL), budget_used_from=0.5, name="thrift")
    harden(make_crew(server, effects), journal=journal, route=route).kickoff(inputs=ASKED)
    (line,) = lines(journal, "warning")
    assert "thrift" in line["message"]


class Form(BaseModel):
    """What a model is set to answer with."""

    said: str


@pytest.mark.parametrize("later", [False, True], ids=["call", "acall"])
def test_a_model_of_ones_own_is_routed_in_the_form_it_is_set_to(
    server: Server, tmp_path: Path, later: bool
) -> None:
    """`open_run` takes rules, too; a stand-in answers in the form that the asked one would."""
    server.app.script = Conversation(Rule(Reply('{"said": "hello"}')))
    own, route = harden(make_llm(server.url, response_format=Form)), Route(another(server, SMALL))

    async def in_a_run() -> tuple[Any, bool]:
        async with open_run("r", journal=tmp_path / "runs.db", route=route) as run:
            said = (await own.acall("Say it")) if later else own.call("Say it")
        return said, run.finished

    assert asyncio.run(in_a_run()) == (Form(said="hello"), False)
    assert asyncio.run(in_a_run()) == (Form(said="hello"), True)
    assert asked(server) == [SMALL]
    assert server.requests[0].body["response_format"]["json_schema"]["name"] == "Form"


@pytest.mark.parametrize("where", ["outer", "inner", "both"])
def test_what_is_kicked_off_within_a_run_is_routed(
    server: Server, effects: Effects, tmp_path: Path, where: str
) -> None:
    """By the run's rules, by its own, and by its own first."""
    journal = tmp_path / "runs.db"
    outer, inner = Route(another(server, SMALL)), Route(another(server, STRONG))

    def cashier() -> Agent:
        tools = [make_tools(effects)[1]]
        return Agent(role="Cashier", goal="g", backstory="b", llm=make_llm(server.url), tools=tools)

    class Shop(Flow[dict[str, Any]]):
        """A crew and an agent in its methods."""

        @start()
        def pay(self) -> str:
            own: dict[str, Any] = {"journal": journal} | (
                {} if where == "outer" else {"route": inner}
            )
            task = Task(description="Pay", expected_output="o", agent=cashier())
            crew = harden(Crew(agents=[task.agent], tasks=[task]), **own)
            return f"{crew.kickoff()}, {harden(cashier(), **own).kickoff('Pay').raw}"

    options: dict[str, Any] = {} if where == "inner" else {"route": outer}
    assert harden(Shop(), journal=journal, **options).kickoff() == "charged 7, charged 7"
    assert asked(server) == [SMALL if where == "outer" else STRONG] * 4


# -- going down at a limit ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_a_budget_goes_down_to_a_cheaper_model(
    server: Server, effects: Effects, tmp_path: Path, mode: Mode, path: str
) -> None:
    """The dear model is asked as long as there is money for it; the limit holds all the same."""
    journal = tmp_path / "runs.db"
    limits = {"max_tokens": 100}
    bare = make_crew(
        server, effects, path, model=DEAR if path == "text" else f"openai/{DEAR}", **limits
    )
    cheap = another(server, SMALL, path, **limits)
    budget = Budget(max_usd="0.04", on_limit="route", route_to=[cheap])
    crew = harden(bare, journal=journal, budget=budget)
    assert go(crew, mode, inputs=ASKED, run_id="r").raw == "sent to ann"
    models = asked(server)
    dear = models.count(DEAR)
    assert 0 < dear < REQUESTS
    assert models == [DEAR] * dear + [SMALL] * (REQUESTS - dear)
    cost = open_journal(journal).runs()[0].cost_usd
    assert cost is not None
    assert cost <= Decimal("0.04")
    told = routes_of(journal)
    assert told[dear - 1][1] is None
    assert told[dear][1]["rule"] == "route_to"
    assert told[dear][1]["reason"].endswith(" of 0.04 are left: max_usd of the run")
    assert len(lines(journal, "llm.routed")) == REQUESTS - dear


def test_where_no_model_fits_the_limit_is_the_end(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """After the whole ladder: the run stops, or pauses, before anyone was asked."""
    ladder = [another(server, OWN), another(server, SMALL)]
    bare = make_crew(server, effects, model=f"openai/{DEAR}")
    for run_id, on_limit in (("r", "route"), ("s", "pause")):
        journal = tmp_path / f"{run_id}.db"
        budget = Budget(max_usd="0.000001", on_limit=on_limit, route_to=ladder)
        with pytest.raises(BudgetExceeded) as caught:
            harden(bare, journal=journal, budget=budget).kickoff(inputs=ASKED, run_id=run_id)
        assert caught.value.fields["limit"] == "max_usd"
        status = open_journal(journal).run(run_id).status
        assert status is (RunStatus.FAILED if on_limit == "route" else RunStatus.PAUSED)
        assert [one["gen_ai.request.model"] for one in lines(journal, "llm.routed")] == [OWN, SMALL]
    assert server.requests == []


@pytest.mark.waits
def test_a_cheaper_model_that_is_left_alone_is_not_asked(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """Its provider has failed too often: the fallbacks are asked, within the same money."""
    with Server(SCRIPT) as other:
        other.app.faults = lambda seen: FAULTS["unavailable"]
        cheap = another(other, SMALL, max_tokens=100)
        bare = make_crew(server, effects, model=f"openai/{DEAR}", max_tokens=100)
        retry = Retry(attempts=1, open_after=1, fallback=[another(server, STRONG, max_tokens=100)])
        budget = Budget(max_usd="0.01", on_limit="route", route_to=cheap)
        crew = harden(bare, journal=tmp_path / "runs.db", budget=budget, retry=retry)
        assert crew.kickoff(inputs=ASKED).raw == "sent to ann"
        assert (asked(other), asked(server)) == ([SMALL], [STRONG] * REQUESTS)


def test_a_rule_for_nobody_is_told(server: Server, effects: Effects, tmp_path: Path) -> None:
    """A role or a task that no call was made for: the log says so."""
    journal = tmp_path / "runs.db"
    route = [Route("small", agent="Reseacher"), Route(None, agent=["Cashier"], task="t1")]
    harden(make_crew(server, effects), journal=journal, route=route).kickoff(inputs=ASKED)
    (line,) = lines(journal, "warning")
    assert "'Reseacher'" in line["message"]


def test_a_tool_of_a_routed_call_runs_once(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """Killed between a routed model's tool call and the next call: nothing is done again."""
    route = Route(another(server, SMALL), step_to=1)
    crew = harden(make_crew(server, effects), journal=tmp_path / "runs.db", route=route)
    result = killed_before_each_request(lambda: crew.kickoff(inputs=ASKED, run_id="r"))
    assert (result.raw, effects.lines) == ("sent to ann", ALL)
    assert asked(server) == [SMALL, OWN] * 3
