"""A guardrail that could not check stops the run there; one that says no to the end says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task

from crewai_prod import harden, open_journal
from crewai_prod.errors import GuardRejected, GuardUnavailable
from tests.crews import make_llm
from tests.integration.parts import (
    MODES,
    PATHS,
    Effects,
    Mode,
    assert_all_metered,
    fail_once,
    go,
    killed_before_each_request,
    make_tools,
    total,
)
from tests.openai_server import Conversation, Reply, Rule, Server, answer, fault, use

Check = Callable[[Any], Any]


class Mine(Exception):
    """An error of the user's own."""


def _agent(server: Server, effects: Effects, path: str, **options: Any) -> Agent:
    tools = [one for one in make_tools(effects) if one.name == "charge"]
    llm = make_llm(server.url, path, max_retries=0)  # type: ignore[arg-type]
    given = {"role": "Cashier", "goal": "g", "backstory": "b", "llm": llm, **options}
    return Agent(**given, tools=tools)


def _crew(server: Server, effects: Effects, path: str, **options: Any) -> Crew:
    agent = _agent(server, effects, path)
    last = Task(description="Close", expected_output="o", agent=agent)
    first = Task(name="pay", description="Pay", expected_output="o", agent=agent, **options)
    return Crew(agents=[agent], tasks=[first, last])


SCRIPT = Conversation(
    Rule(Reply('{"valid": true, "feedback": null}'), agent="Guardrail"),
    Rule(Reply('{"valid": true, "feedback": null}'), task="Ensure the following task result"),
    Rule(answer("closed"), task="Close"),
    Rule(use("charge", {"amount": 7}), answer("charged 7"), agent="Cashier"),
)


def _failing(times: int) -> tuple[Check, list[str]]:
    """A function that cannot check so many times, and what it was given."""
    seen: list[str] = []

    def check(output):  # type: ignore[no-untyped-def]  # CrewAI reads the annotations
        seen.append(output.raw)
        if len(seen) <= times:
            raise Mine("the service is down")
        return True, output.raw

    return check, seen


@pytest.mark.parametrize("several", [False, True], ids=["guardrail", "guardrails"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", MODES)
def test_a_check_that_cannot_be_made(
    server: Server, tmp_path: Path, effects: Effects, path: str, mode: Mode, several: bool
) -> None:
    """The run stops with the cause; resuming checks the same answer again and asks nothing."""
    server.app.script = SCRIPT
    check, seen = _failing(2)
    options = {"guardrails": [check]} if several else {"guardrail": check}
    crew = harden(_crew(server, effects, path, **options), journal=tmp_path / "j.db")
    for _ in range(2):
        with pytest.raises(GuardUnavailable, match="the service is down") as failed:
            go(crew, mode, run_id="a")
        assert isinstance(failed.value.__cause__, Mine)
        assert (failed.value.run_id, failed.value.task) == ("a", "pay")
        assert len(server.requests) == 2
    result = go(crew, mode, run_id="a")
    assert (result.raw, seen, len(server.requests)) == ("closed", ["charged 7"] * 3, 3)
    assert effects.lines == ["charge 7"]
    assert result.token_usage.total_tokens == total(server)


@pytest.mark.parametrize("verdict", ["fine", None, (True,)], ids=["text", "nothing", "half"])
def test_what_is_no_verdict(server: Server, tmp_path: Path, effects: Effects, verdict: Any) -> None:
    """What a guardrail returns that says neither yes nor no leaves the answer unchecked."""
    server.app.script = SCRIPT
    verdicts = [verdict]

    def check(output):  # type: ignore[no-untyped-def]  # CrewAI reads the annotations
        return verdicts.pop() if verdicts else (True, output.raw)

    crew = harden(_crew(server, effects, "native", guardrail=check), journal=tmp_path / "j.db")
    with pytest.raises(GuardUnavailable):
        crew.kickoff(run_id="a")
    assert crew.kickoff(run_id="a").raw == "closed"
    assert len(server.requests) == 3


@pytest.mark.parametrize("mode", MODES)
def test_a_judging_model_that_cannot_be_had(
    server: Server, tmp_path: Path, effects: Effects, mode: Mode
) -> None:
    """A guardrail in words whose model fails stops the run; only the judge is asked again."""
    server.app.script = SCRIPT
    fail_once(server, fault("unauthorized"), lambda seen: "valid" in json.dumps(seen.body))
    one = _crew(server, effects, "native", guardrail="It must be kind.")
    crew = harden(one, journal=tmp_path / "j.db")
    with pytest.raises(Exception, match="401"):
        go(crew, mode, run_id="a")
    assert len(server.requests) == 3
    assert go(crew, mode, run_id="a").raw == "closed"
    assert len(server.requests) == 5
    assert_all_metered(tmp_path / "j.db", "a")


@pytest.mark.parametrize("several", [False, True], ids=["guardrail", "guardrails"])
@pytest.mark.parametrize("mode", MODES)
def test_no_to_every_try(
    server: Server, tmp_path: Path, effects: Effects, mode: Mode, several: bool
) -> None:
    """The error is typed and holds CrewAI's; a resumed run is checked again."""
    server.app.script = SCRIPT
    good: list[bool] = []

    def check(output):  # type: ignore[no-untyped-def]  # CrewAI reads the annotations
        return (True, output.raw) if good else (False, "not good enough")

    options: dict[str, Any] = {"guardrails": [check]} if several else {"guardrail": check}
    one = _crew(server, effects, "native", guardrail_max_retries=1, **options)
    crew = harden(one, journal=tmp_path / "j.db")
    with pytest.raises(GuardRejected, match="validation after 1 retries") as failed:
        go(crew, mode, run_id="a")
    assert failed.value.fields["attempts"] == 2
    assert (failed.value.task, failed.value.agent) == ("pay", "Cashier")
    assert type(failed.value.__cause__) is Exception
    assert open_journal(tmp_path / "j.db").run("a").status.value == "failed"
    asked = len(server.requests)
    good.append(True)
    assert go(crew, mode, run_id="a").raw == "closed"
    assert len(server.requests) == asked + 1  # of the next task
    assert effects.lines == ["charge 7"]


@pytest.mark.parametrize("path", PATHS)
def test_killed_between_complaints(
    server: Server, tmp_path: Path, effects: Effects, path: str
) -> None:
    """A run that is killed before every request goes through the same complaints."""
    server.app.script = Conversation(
        Rule(
            use("charge", {"amount": 7}),
            lambda turn: answer("good" if "harder" in str(turn.body) else "bad")(turn),
            task="Pay",
        ),
        *SCRIPT.rules,
    )

    def check(output):  # type: ignore[no-untyped-def]  # CrewAI reads the annotations
        return (True, output.raw) if output.raw == "good" else (False, "try harder")

    crew = harden(_crew(server, effects, path, guardrail=check), journal=tmp_path / "j.db")
    result = killed_before_each_request(lambda: crew.kickoff(run_id="a"))
    assert [task.raw for task in result.tasks_output] == ["good", "closed"]
    assert (effects.lines, result.token_usage.total_tokens) == (["charge 7"], total(server))


@pytest.mark.parametrize("mode", MODES)
def test_an_agent_alone_that_cannot_be_checked(
    server: Server, tmp_path: Path, effects: Effects, mode: Mode
) -> None:
    """So it is for an agent that is kicked off by itself, with a function."""
    server.app.script = SCRIPT
    check, seen = _failing(1)
    agent = harden(_agent(server, effects, "native", guardrail=check), journal=tmp_path / "j.db")
    with pytest.raises(GuardUnavailable, match="the service is down"):
        go(agent, mode, messages="pay", run_id="a")
    result = go(agent, mode, messages="pay", run_id="a")
    assert (result.raw, seen, len(server.requests)) == ("charged 7", ["charged 7"] * 2, 2)


def test_an_agent_alone_that_is_judged_in_words(
    server: Server, tmp_path: Path, effects: Effects
) -> None:
    """And with a guardrail in words, which CrewAI makes anew for each check."""
    server.app.script = SCRIPT
    fail_once(server, fault("unauthorized"), lambda seen: "valid" in json.dumps(seen.body))
    one = _agent(server, effects, "native", guardrail="It must be kind.")
    agent = harden(one, journal=tmp_path / "j.db")
    with pytest.raises(Exception, match="401"):
        agent.kickoff("pay", run_id="a")
    assert agent.kickoff("pay", run_id="a").raw == "charged 7"
    assert (len(server.requests), one.guardrail) == (4, "It must be kind.")
