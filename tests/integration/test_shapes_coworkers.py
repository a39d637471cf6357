"""Delegation: what bare CrewAI cannot do, and what becomes of a coworker's failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from crewai import Crew, Process, Task

from crewai_prod import errors, harden, open_journal
from crewai_prod.records import RunStatus
from tests.integration.parts import Effects, Mode, go
from tests.integration.shape_trials import Scene
from tests.openai_server import Conversation, Rule, Server, answer, calls, fail_first, fault, use

_DELEGATE = "delegate_work_to_coworker"


def _work(task: str) -> dict[str, str]:
    return {"task": task, "context": "c", "coworker": "Cashier"}


def _both_to_one(scene: Scene) -> Crew:
    """A manager hands two pieces of work to one coworker in one reply."""
    both = [(_DELEGATE, _work("Pay seven")), (_DELEGATE, _work("Look it up"))]
    scene.script(
        Conversation(
            Rule(use("charge", {"amount": 7}), answer("charged 7"), task="Pay seven"),
            Rule(use("look_up", {"topic": "tides"}), answer("high"), task="Look it up"),
            Rule(calls(both), lambda turn: answer(" / ".join(turn.results))(turn)),
        )
    )
    return Crew(
        agents=[scene.agent("Cashier", scene.charge, scene.look_up)],
        tasks=[Task(description="Serve ann", expected_output="o")],
        process=Process.hierarchical,
        manager_agent=scene.agent("Boss"),
    )


@pytest.mark.parametrize("mode", ["kickoff", "akickoff"])
def test_one_coworker_does_two_things_at_once(server: Server, tmp_path: Path, mode: Mode) -> None:
    """Two delegations to one coworker in one reply are both done; bare CrewAI refuses one."""
    scene = Scene(server, Effects(tmp_path), "native")
    result = go(harden(_both_to_one(scene), journal=tmp_path / "j.db"), mode, run_id="a")
    assert result.raw == "charged 7 / high"
    assert sorted(scene.effects.lines) == ["charge 7", "look_up tides"]
    assert result.token_usage.total_tokens == server.total_usage.total_tokens


def test_a_coworker_at_two_things_is_resumed(server: Server, tmp_path: Path) -> None:
    """Each request of both pieces of work fails once; nothing else is asked or done again."""
    scene = Scene(server, Effects(tmp_path), "native")
    server.app.faults = fail_first(fault("unauthorized"))
    result: Any = None
    for _ in range(20):
        try:
            crew = harden(_both_to_one(scene), journal=tmp_path / "j.db")
            result = crew.kickoff(run_id="a")
            break
        except errors.ModelError as error:
            assert "401" in str(error), error  # noqa: PT017
    assert result is not None
    assert result.raw == "charged 7 / high"
    assert sorted(scene.effects.lines) == ["charge 7", "look_up tides"]
    answered = [record for record in server.requests if record.status == 200]
    assert len(answered) == len({record.digest for record in answered}) == 6
    assert result.token_usage.total_tokens == server.total_usage.total_tokens


@pytest.mark.parametrize("mode", ["kickoff", "akickoff"])
@pytest.mark.parametrize("path", ["native", "text"])
def test_a_coworkers_model_failure_ends_the_run(
    server: Server, tmp_path: Path, path: str, mode: Mode
) -> None:
    """The manager is not told of it and does not make a success of it; the run resumes there."""
    scene = Scene(server, Effects(tmp_path), path)
    scene.script(
        Conversation(
            Rule(use("charge", {"amount": 7}), answer("charged 7"), task="Pay seven"),
            Rule(use(_DELEGATE, _work("Pay seven")), answer("all is paid")),
        )
    )

    def crew() -> Crew:
        made = Crew(
            agents=[scene.agent("Cashier", scene.charge)],
            tasks=[Task(name="serve", description="Serve ann", expected_output="o")],
            process=Process.hierarchical,
            manager_llm=scene.llm(),
        )
        hardened: Crew = harden(made, journal=tmp_path / "j.db")
        return hardened

    def is_the_cashiers(body: Any) -> bool:
        return "Pay seven" in str(body["messages"][1]["content"])

    server.app.faults = fail_first(fault("unauthorized"), when=is_the_cashiers)
    with pytest.raises(errors.ModelRejected, match="401") as caught:
        go(crew(), mode, run_id="a")
    assert (caught.value.agent, caught.value.task) == ("Cashier", "serve")
    assert caught.value.__cause__ is not None
    assert open_journal(tmp_path / "j.db").run("a").status is RunStatus.FAILED
    assert [record.status for record in server.requests] == [200, 401]
    server.app.faults = None
    result = go(crew(), mode, run_id="a")
    assert (result.raw, scene.effects.lines) == ("all is paid", ["charge 7"])
    assert [record.status for record in server.requests] == [200, 401, 200, 200, 200]
    assert result.token_usage.total_tokens == server.total_usage.total_tokens
