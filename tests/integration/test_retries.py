"""Model calls against a hostile provider: tried again, handed on, left in time, or typed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
from crewai import Agent, Crew, Task
from crewai.tools import tool

from crewai_prod import Retry, harden, open_journal
from crewai_prod.errors import (
    ContextOverflow,
    DeadlineExceeded,
    EmptyResponse,
    ModelError,
    ModelRejected,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
    UsageError,
)
from tests.crews import make_llm
from tests.integration.parts import (
    MODES,
    PATHS,
    REQUESTS,
    Effects,
    Killed,
    Mode,
    assert_all_metered,
    fail_once,
    go,
    killed,
    make_crew,
    nth,
    total,
)
from tests.openai_server import Conversation, Reply, Rule, Seen, Server, answer, fault, use

EFFECTS = ["look_up tides", "charge 7", "send ann"]
PASSING = [
    *("rate_limit", "server_error", "bad_gateway", "unavailable", "overloaded"),
    *("close", "reset", "cut", "truncated", "malformed", "empty"),
]
ASKED = {"who": "ann"}
TOOLS: dict[str, Any] = {"charge": {"effect": "write"}, "look_up": {"effect": "read"}}


def way(path: str) -> Any:
    """A path as `make_llm` takes it."""
    return path


def always(wrong: Any, when: Callable[[Seen], bool] = lambda _: True) -> Callable[[Seen], Any]:
    """Every request that fits goes wrong."""
    return lambda seen: wrong if when(seen) else None


def after(number: int) -> Callable[[Seen], bool]:
    """True of every request after the first few, counted from now."""
    counted = itertools.count(1)
    return lambda _: next(counted) > number


def _works(body: Any) -> bool:
    """Whether a request is an agent's at work, not one to summarize."""
    return "structured summaries" not in str(body["messages"][0])


def hardened(crew: Any, tmp_path: Path, **options: Any) -> Any:
    """The crew with a journal and a log of the test's."""
    given = {"tools": TOOLS, "retry": Retry(attempts=3), **options}
    return harden(crew, journal=tmp_path / "runs.db", log=tmp_path / "log.jsonl", **given)


def lines(tmp_path: Path, event: str) -> list[dict[str, Any]]:
    """The log lines of one event."""
    told = map(orjson.loads, (tmp_path / "log.jsonl").read_bytes().splitlines())
    return [line for line in told if line["event"] == event]


@pytest.mark.parametrize("wrong", PASSING)
@pytest.mark.parametrize("path", PATHS)
def test_what_passes_is_tried_again(
    server: Server, effects: Effects, tmp_path: Path, path: str, wrong: str
) -> None:
    """One failure in the middle: the same answer, one more request, and every effect once."""
    fail_once(server, fault(wrong), nth(3))
    crew = hardened(make_crew(server, effects, path), tmp_path)
    assert go(crew, inputs=ASKED, run_id="a").raw == "sent to ann"
    assert effects.lines == EFFECTS
    assert len(server.requests) == REQUESTS + 1
    [tried] = open_journal(tmp_path / "runs.db").attempts("a")
    assert (tried.attempt, tried.status.value) == (1, "failed")
    [line] = lines(tmp_path, "retry")
    assert line["attempt"] == 1
    assert line["error.type"] == orjson.loads(tried.error or "{}")["type"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_every_call_may_fail_once(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode
) -> None:
    """Each request fails the first time it is made, whoever kicks the crew off."""
    server.app.faults = lambda seen: fault("unavailable") if seen.nth == 1 else None
    crew = hardened(make_crew(server, effects, path), tmp_path)
    assert go(crew, mode, inputs=ASKED, run_id="a").raw == "sent to ann"
    assert (effects.lines, len(server.requests)) == (EFFECTS, 2 * REQUESTS)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_a_failure_that_stays_is_raised_typed_and_resumed(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode
) -> None:
    """As often as said and not once more, although SDK, CrewAI and agent would all try again."""
    llm = {"max_retries": 4}
    server.app.faults = always(fault("server_error"), after(3))
    made = make_crew(server, effects, path)
    for agent in made.agents:
        agent.max_retry_limit = 2
        agent.llm.max_retries = llm["max_retries"]
    crew = hardened(made, tmp_path)
    with pytest.raises(ModelUnavailable) as raised:
        go(crew, mode, inputs=ASKED, run_id="a")
    error = raised.value
    assert len(server.requests) == 3 + 3
    assert (error.run_id, error.task, error.agent) == ("a", "t1", "Cashier")
    assert error.fields["attempts"] == 3
    assert error.fields["status"] == 500
    assert error.resume == "kickoff(run_id='a')"
    assert [output.raw for output in error.outputs] == ["facts about tides"]
    assert isinstance(error.__cause__, openai.InternalServerError)
    server.app.faults = None
    assert go(crew, mode, inputs=ASKED, run_id="a").raw == "sent to ann"
    assert effects.lines == EFFECTS
    assert len(server.requests) == REQUESTS + 3


@pytest.mark.parametrize(
    ("wrong", "kind", "why"),
    [("unauthorized", ModelRejected, "auth"), ("quota", ModelRejected, "quota")],
)
@pytest.mark.parametrize("path", PATHS)
def test_what_does_not_pass_is_not_tried_again(
    server: Server, effects: Effects, tmp_path: Path, path: str, wrong: str, kind: Any, why: str
) -> None:
    """One request, and the person who can act is told why."""
    server.app.faults = always(fault(wrong))
    crew = hardened(make_crew(server, effects, path), tmp_path)
    with pytest.raises(kind) as raised:
        go(crew, inputs=ASKED, run_id="a")
    assert raised.value.fields["kind"] == why
    assert raised.value.actor == "operator"
    assert len(server.requests) == 1


@pytest.mark.parametrize("path", PATHS)
def test_nothing_said_for_good(server: Server, effects: Effects, tmp_path: Path, path: str) -> None:
    """A model that answers nothing is asked again at the call, not by doing the task again."""
    server.app.faults = always(fault("empty"), after(1))
    crew = hardened(make_crew(server, effects, path), tmp_path)
    with pytest.raises(EmptyResponse):
        go(crew, inputs=ASKED, run_id="a")
    assert len(server.requests) == 1 + 3
    assert open_journal(tmp_path / "runs.db").run("a").status.value == "failed"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_fallback(server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode) -> None:
    """Another model takes over, call by call; the bill says who answered."""
    server.app.faults = always(fault("unavailable"), lambda seen: seen.body["model"] != "other")
    other = make_llm(server.url, way(path), model="other" if path == "text" else "openai/other")
    crew = hardened(
        make_crew(server, effects, path), tmp_path, retry=Retry(attempts=2, fallback=[other])
    )
    assert go(crew, mode, inputs=ASKED, run_id="a").raw == "sent to ann"
    assert effects.lines == EFFECTS
    assert len(server.requests) == REQUESTS * 3
    steps = [s for s in open_journal(tmp_path / "runs.db").steps("a") if s.kind.value == "model"]
    assert {str(step.model).removeprefix("openai/") for step in steps} == {"other"}
    assert crew.usage_metrics.total_tokens == total(server)
    told = lines(tmp_path, "llm.fallback")
    assert len(told) == REQUESTS
    assert told[0]["fallback.from"].endswith("gpt-4o-mini")
    assert told[0]["gen_ai.request.model"].endswith("other")


def test_fallback_by_name_at_once_when_refused(
    server: Server, effects: Effects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that is refused is not tried twice; a model given by name is made when needed."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    server.app.faults = always(fault("unauthorized"), lambda seen: seen.body["model"] != "gpt-4o")
    crew = hardened(
        make_crew(server, effects), tmp_path, retry=Retry(attempts=4, fallback=["openai/gpt-4o"])
    )
    assert go(crew, inputs=ASKED, run_id="a").raw == "sent to ann"
    assert len(server.requests) == REQUESTS * 2


@pytest.mark.waits
def test_a_provider_that_asks_to_wait_is_waited_for(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """Its word is longer than ours, and counts."""
    fail_once(server, fault("rate_limit", retry_after=1), nth(2))
    crew = hardened(make_crew(server, effects), tmp_path, retry=Retry(base=0.01))
    go(crew, inputs=ASKED, run_id="a")
    first, second = server.requests[1:3]
    assert second.started_at - first.started_at >= 1.0
    [line] = lines(tmp_path, "retry")
    assert line["retry.wait_ms"] >= 1000


@pytest.mark.waits
def test_a_wait_beyond_the_bound_is_not_begun(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """An hour is too long: the caller hears of it now, and how long it would take."""
    server.app.faults = always(fault("rate_limit", retry_after=3600))
    crew = hardened(make_crew(server, effects), tmp_path)
    began = time.monotonic()
    with pytest.raises(RateLimited) as raised:
        go(crew, inputs=ASKED, run_id="a")
    assert time.monotonic() - began < 20
    assert raised.value.fields["retry_after"] == 3600
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("wrong", "path", "mode"),
    [
        *(("hang", "native", mode) for mode in MODES),
        *(("hang", "text", "kickoff"), ("hang", "text", "akickoff")),
        *(("drip", "native", "akickoff"), ("drip", "text", "kickoff")),
    ],
)
def test_a_call_that_hangs_is_left(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode, wrong: str
) -> None:
    """At its deadline, whether nothing comes or too little; the next try is answered."""
    fail_once(server, fault(wrong, seconds=60.0), nth(3))
    crew = hardened(make_crew(server, effects, path), tmp_path, retry=Retry(timeout=4))
    began = time.monotonic()
    assert go(crew, mode, inputs=ASKED, run_id="a").raw == "sent to ann"
    assert time.monotonic() - began < 30
    assert effects.lines == EFFECTS
    [line] = lines(tmp_path, "retry")
    assert line["error.type"] == "ModelTimeout"


def test_a_late_answer_is_billed(server: Server, effects: Effects, tmp_path: Path) -> None:
    """Who was left at the deadline and answered after all has cost something."""
    later = after(1)
    server.app.faults = lambda seen: fault("drip", seconds=0.6 if later(seen) else 3.0)
    crew = hardened(make_crew(server, effects), tmp_path, retry=Retry(timeout=1.5))
    assert go(crew, inputs=ASKED, run_id="a").raw == "sent to ann"
    assert len(server.requests) == REQUESTS + 1
    assert server.requests[0].completed
    assert crew.usage_metrics.total_tokens == total(server)
    assert_all_metered(tmp_path / "runs.db", "a", direct=1)


@pytest.mark.parametrize("mode", ["kickoff", "akickoff"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_without_choices_is_billed(
    server: Server, effects: Effects, tmp_path: Path, mode: Mode, stream: bool
) -> None:
    """It is asked for again, and its provider has counted it all the same."""
    fail_once(server, fault("no_choices"), nth(2))
    crew = hardened(make_crew(server, effects, stream=stream), tmp_path)
    assert go(crew, mode, inputs=ASKED, run_id="a").token_usage.total_tokens == total(server)
    assert server.total_usage.requests == REQUESTS + 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_max_execution_time_is_true(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode
) -> None:
    """An agent's time is over when it says, whatever hangs; the run resumes with the whole time."""
    made = make_crew(server, effects, path)
    made.agents[1].max_execution_time = 2
    fail_once(server, fault("hang"), nth(4))
    crew = hardened(made, tmp_path)
    with pytest.raises(DeadlineExceeded) as raised:
        go(crew, mode, inputs=ASKED, run_id="a")
    seconds = [r.started_at for r in server.requests]
    assert time.time() - seconds[3] < 6
    assert isinstance(raised.value, TimeoutError)
    assert raised.value.agent == "Cashier"
    assert [output.raw for output in raised.value.outputs] == ["facts about tides"]
    assert go(crew, mode, inputs=ASKED, run_id="a").raw == "sent to ann"
    assert effects.lines == EFFECTS


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_too_long_a_conversation_is_typed(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode
) -> None:
    """Where it may not be shortened CrewAI ends the process; here the caller is told."""
    made = make_crew(server, effects, path)
    for agent in made.agents:
        agent.respect_context_window = False
    server.app.faults = always(fault("context_length"), after(1))
    crew = hardened(made, tmp_path)
    with pytest.raises(ContextOverflow) as raised:
        go(crew, mode, inputs=ASKED, run_id="a")
    assert raised.value.actor == "developer"
    server.app.faults = None
    assert go(crew, mode, inputs=ASKED, run_id="a").raw == "sent to ann"
    assert effects.lines == EFFECTS


@pytest.mark.parametrize("path", PATHS)
def test_too_long_a_conversation_is_shortened_but_not_for_ever(
    server: Server, effects: Effects, tmp_path: Path, path: str
) -> None:
    """CrewAI summarizes; where that does not help, or it does not go on, the run ends typed."""
    server.app.script = Conversation(
        Rule(Reply("<summary>short</summary>"), when=lambda turn: not _works(turn.body)),
        *server.app.script.rules,
    )
    crew = hardened(make_crew(server, effects, path), tmp_path)
    server.app.faults = always(fault("context_length"), lambda seen: _works(seen.body))
    with pytest.raises(ContextOverflow) as raised:
        go(crew, inputs=ASKED, run_id="a")
    assert (raised.value.run_id, raised.value.agent) == ("a", "Researcher")
    assert len(server.requests) < 30
    server.app.faults = None
    assert go(crew, inputs=ASKED, run_id="a").raw == "sent to ann"
    assert effects.lines == EFFECTS


@pytest.mark.parametrize("path", PATHS)
def test_a_users_own_body_hears_of_it_and_decides(
    server: Server, tmp_path: Path, path: str
) -> None:
    """A crew kicked off in a tool fails for good: the tool gets the error, and the run goes on."""
    heard: list[Exception] = []

    def inner() -> Any:
        agent = Agent(
            role="Helper",
            goal="g",
            backstory="b",
            llm=make_llm(server.url, way(path)),
        )
        task = Task(description="inner", expected_output="o", agent=agent)
        return Crew(agents=[agent], tasks=[task])

    @tool
    def ask(topic: str) -> str:
        """Ask the others."""
        try:
            return str(inner().kickoff().raw)
        except ModelError as error:
            heard.append(error)
            return "nobody there"

    server.app.script = Conversation(
        Rule(Reply("x"), agent="Helper"),
        Rule(use("ask", {"topic": "a"}), answer("done"), agent="Boss"),
    )
    server.app.faults = always(
        fault("unavailable"), lambda seen: "Helper" in str(seen.body["messages"])[:400]
    )
    boss = Agent(
        role="Boss",
        goal="g",
        backstory="b",
        llm=make_llm(server.url, way(path)),
        tools=[ask],
    )
    crew = hardened(
        Crew(agents=[boss], tasks=[Task(description="d", expected_output="o", agent=boss)]),
        tmp_path,
        tools={"ask": {"effect": "nested"}},
    )
    assert go(crew, run_id="a").raw == "done"
    assert [type(error) for error in heard] == [ModelUnavailable]
    assert len(server.requests) == 2 + 3


@pytest.mark.parametrize("hit", range(1, 10))
def test_killed_between_tries(server: Server, effects: Effects, tmp_path: Path, hit: int) -> None:
    """However often it is killed, no answered call is made again, and tries are counted on."""
    server.app.faults = lambda seen: fault("unavailable") if seen.nth == 1 else None
    crew = hardened(make_crew(server, effects), tmp_path)
    with pytest.raises(Killed):
        killed(lambda: go(crew, inputs=ASKED, run_id="a"), hit)
    assert go(crew, inputs=ASKED, run_id="a").raw == "sent to ann"
    assert effects.lines == EFFECTS
    assert len([r for r in server.requests if r.usage and r.status == 200]) == REQUESTS
    journal = open_journal(tmp_path / "runs.db")
    assert (
        sum(s.attempts for s in journal.steps("a") if s.kind.value == "model") <= 2 * REQUESTS + 1
    )


def test_a_timeout_is_told_as_one(server: Server, effects: Effects, tmp_path: Path) -> None:
    """All tries hang: typed, with the time each was given, and soon."""
    server.app.faults = always(fault("hang"))
    crew = hardened(make_crew(server, effects), tmp_path, retry=Retry(attempts=2, timeout=0.5))
    with pytest.raises(ModelTimeout, match=r"0\.5 s"):
        go(crew, inputs=ASKED, run_id="a")
    assert len(server.requests) == 2


@pytest.mark.waits
def test_a_provider_that_is_down_is_left_alone(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """After so many failures in a row nobody asks it, until somebody looks whether it is back."""
    retry = Retry(attempts=3, base=0.0, max_elapsed=0.5, open_after=5, open_for=2.0)
    crew = hardened(make_crew(server, effects), tmp_path, retry=retry)
    go(crew, inputs=ASKED, run_id="it is well")
    server.reset()
    server.app.faults = always(fault("unavailable"))
    for name, asked in (("a", 3), ("b", 5), ("c", 5)):
        with pytest.raises(ModelUnavailable):
            go(crew, inputs=ASKED, run_id=name)
        assert len(server.requests) == asked
    server.app.faults = None
    time.sleep(2.0)
    assert go(crew, inputs=ASKED, run_id="c").raw == "sent to ann"


@pytest.mark.parametrize("mode", MODES)
def test_a_fallback_that_cannot_be_made_is_said_at_once(
    server: Server, effects: Effects, tmp_path: Path, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever named it hears of it, not CrewAI, which would try the task again."""

    def no_driver(name: str) -> Any:
        raise ImportError("its SDK is not installed")

    monkeypatch.setattr("crewai_prod._crewai.fallbacks.create_llm", no_driver)
    server.app.faults = always(fault("unauthorized"))
    crew = hardened(make_crew(server, effects), tmp_path, retry=Retry(fallback=["their/model"]))
    with pytest.raises(UsageError, match="'their/model' cannot be made") as raised:
        go(crew, mode, inputs=ASKED, run_id="a")
    assert raised.value.run_id == "a"
    assert len(server.requests) == 1
    server.app.faults = None
    assert go(crew, mode, inputs=ASKED, run_id="a").raw == "sent to ann"
