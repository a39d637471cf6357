"""A hardened crew runs as before, pays and acts once, and finished runs are handed back."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from crewai import Agent, Crew, CrewOutput, Task
from pydantic import BaseModel

from crewai_prod import harden, open_journal
from crewai_prod.errors import DefinitionChanged, RunMismatch, UsageError
from crewai_prod.records import RunStatus, StepKind
from tests.crews import make_llm
from tests.integration.parts import (
    MODES,
    PATHS,
    REQUESTS,
    Effects,
    Mode,
    fail_once,
    go,
    make_crew,
    nth,
    steps_of,
    total,
)
from tests.openai_server import Conversation, Reply, Rule, Server, fault

WHO = {"who": "ann"}
DONE = ["look_up tides", "charge 7", "send ann"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_run_is_what_it_was_and_a_finished_one_is_handed_back(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode
) -> None:
    """Output as bare, tokens as the server counted, each effect once; nothing the second time."""
    bare = go(make_crew(server, Effects(tmp_path / "..")), mode, inputs=WHO).raw
    server.reset()
    crew = harden(make_crew(server, effects, path), journal=tmp_path / "runs.db")
    first = go(crew, mode, inputs=WHO, run_id="a")
    assert isinstance(crew, Crew)
    assert (first.raw, len(server.requests), effects.lines) == (bare, REQUESTS, DONE)
    assert first.token_usage.total_tokens == total(server)
    again = go(crew, mode, inputs=WHO, run_id="a")
    assert again == first
    assert (len(server.requests), effects.lines) == (REQUESTS, DONE)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("broken", range(REQUESTS))
def test_failed_run_resumes_where_it_failed(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode, broken: int
) -> None:
    """Whichever request fails, resuming repeats that one alone and no effect."""
    fail_once(server, fault("unauthorized"), nth(broken + 1))
    crew = harden(make_crew(server, effects, path), journal=tmp_path / "runs.db")
    with pytest.raises(Exception, match=r"401|auth"):
        go(crew, mode, inputs=WHO, run_id="a")
    assert open_journal(tmp_path / "runs.db").run("a").status is RunStatus.FAILED
    fresh = harden(make_crew(server, effects, path), journal=tmp_path / "runs.db")
    result = go(fresh, mode, inputs=WHO, run_id="a")
    good = [record for record in server.requests if record.status == 200]
    assert (len(good), len({record.digest for record in good})) == (REQUESTS, REQUESTS)
    assert effects.lines == DONE
    assert result.raw == "sent to ann"
    assert [output.raw for output in result.tasks_output] == [
        "facts about tides",
        "charged 7",
        "sent to ann",
    ]
    assert result.token_usage.total_tokens == total(server)
    assert result.token_usage.successful_requests == REQUESTS


def test_steps_say_who_did_what(server: Server, effects: Effects, tmp_path: Path) -> None:
    """Each step names its scope, agent and task, and each model call its usage."""
    crew = harden(make_crew(server, effects), journal=tmp_path / "runs.db")
    crew.kickoff(inputs=WHO, run_id="a")
    steps = open_journal(tmp_path / "runs.db").steps("a")
    assert [(step.task, step.agent) for step in steps] == [
        (n, name) for n, name in enumerate(("Researcher", "Cashier", "Courier")) for _ in range(3)
    ]
    assert {step.scope for step in steps} == {
        "tasks/0/Researcher",
        "tasks/1/Cashier",
        "tasks/2/Courier",
    }
    models = [step for step in steps if step.kind is StepKind.MODEL]
    sent = [record.usage for record in server.requests]
    assert [step.usage and step.usage.input_tokens for step in models] == [
        usage and usage["prompt_tokens"] for usage in sent
    ]


def test_log_has_a_line_for_each_thing(server: Server, effects: Effects, tmp_path: Path) -> None:
    """Run, tasks and steps are logged in order; usage stands on model calls, once each."""
    crew = harden(make_crew(server, effects), journal=tmp_path / "runs.db")
    crew.kickoff(inputs=WHO, run_id="a")
    lines = [json.loads(line) for line in (tmp_path / "runs.db.log.jsonl").read_text().splitlines()]
    part = ["task.started", "llm.call", "tool.call", "llm.call", "task.finished"]
    assert [line["event"] for line in lines] == ["run.started", *part * 3, "run.finished"]
    calls = [line for line in lines if line["event"] == "llm.call"]
    spent = sum(
        line["gen_ai.usage.input_tokens"] + line["gen_ai.usage.output_tokens"] for line in calls
    )
    assert spent == total(server)
    assert {line["run_id"] for line in lines} == {"a"}
    assert calls[0]["gen_ai.agent.name"] == "Researcher"


def test_eight_threads_on_one_hardened_crew(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """Eight runs at once on one object do not mix."""
    server.app.script = Conversation(
        Rule(lambda turn: Reply(f"Final Answer: for {turn.task.split('for ')[1].split()[0]}"))
    )
    llm = make_llm(server.url)
    agent = Agent(role="A", goal="g", backstory="b", llm=llm)
    task = Task(description="Work for {who} now", expected_output="o", agent=agent)
    crew = harden(Crew(agents=[agent], tasks=[task]), journal=tmp_path / "runs.db")

    def one(n: int) -> str:
        return str(crew.kickoff(inputs={"who": f"p{n}"}, run_id=f"r{n}").raw)

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(one, range(8)))
    assert got == [f"for p{n}" for n in range(8)]
    journal = open_journal(tmp_path / "runs.db")
    assert {journal.run(f"r{n}").status for n in range(8)} == {RunStatus.COMPLETED}
    assert {len(journal.steps(f"r{n}")) for n in range(8)} == {1}
    assert task.output is not None


def test_users_objects_show_the_run_and_keep_their_classes(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """After a run the task, agent and crew a user holds read as after a bare kickoff."""
    bare = make_crew(server, effects)
    before = [type(o) for o in (bare, *bare.agents, *bare.tasks, bare.agents[0].llm)]
    crew = harden(bare, journal=tmp_path / "runs.db")
    result = crew.kickoff(inputs=WHO)
    assert [task.output and task.output.raw for task in bare.tasks] == [
        output.raw for output in result.tasks_output
    ]
    assert bare.tasks[0].description == "Do part 0 for ann"
    assert crew.usage_metrics == bare.usage_metrics == result.token_usage
    assert bare.agents[0].last_messages
    assert [type(o) for o in (bare, *bare.agents, *bare.tasks, bare.agents[0].llm)] == before
    assert crew.tasks[0] is bare.tasks[0]


def test_second_kickoff_counts_its_own_tokens(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """Agents that share a model and kickoffs that share a crew are each counted once."""
    crew = harden(make_crew(server, effects), journal=tmp_path / "runs.db")
    first = crew.kickoff(inputs=WHO)
    spent = total(server)
    second = crew.kickoff(inputs=WHO)
    assert first.token_usage.total_tokens == spent
    assert second.token_usage.total_tokens == total(server) - spent


def test_streaming_is_metered(server: Server, effects: Effects, tmp_path: Path) -> None:
    """A model that streams is billed as the server says."""
    crew = harden(make_crew(server, effects, stream=True), journal=tmp_path / "runs.db")
    result = crew.kickoff(inputs=WHO)
    assert all(record.stream for record in server.requests)
    assert result.token_usage.total_tokens == total(server) > 0


def test_stream_of_a_crew(server: Server, effects: Effects, tmp_path: Path) -> None:
    """`Crew(stream=True)` streams, and the run is a run like any other."""
    bare = make_crew(server, effects)
    bare.stream = True
    crew = harden(bare, journal=tmp_path / "runs.db")
    stream = crew.kickoff(inputs=WHO, run_id="a")
    text = "".join(chunk.content for chunk in stream)
    assert "sent to ann" in text
    assert stream.result.raw == "sent to ann"
    assert open_journal(tmp_path / "runs.db").run("a").status is RunStatus.COMPLETED
    assert effects.lines == DONE


class Fact(BaseModel):
    """A structured answer."""

    name: str
    size: int


@pytest.mark.parametrize("mode", MODES)
def test_structured_output_is_the_callers_class(server: Server, tmp_path: Path, mode: Mode) -> None:
    """`output_pydantic` comes back as an instance of the user's class, live and stored."""
    server.app.script = Conversation(Rule(Reply('{"name": "tide", "size": 3}')))
    llm = make_llm(server.url)
    agent = Agent(role="A", goal="g", backstory="b", llm=llm)
    task = Task(description="d", expected_output="o", agent=agent, output_pydantic=Fact)
    crew = harden(Crew(agents=[agent], tasks=[task]), journal=tmp_path / "runs.db")
    live = go(crew, mode, run_id="a")
    stored = go(crew, mode, run_id="a")
    assert live.pydantic == stored.pydantic == Fact(name="tide", size=3)
    assert type(stored.tasks_output[0].pydantic) is Fact
    assert stored == live


def test_billed_reply_that_could_not_be_read_is_on_the_bill(server: Server, tmp_path: Path) -> None:
    """A structured answer that fails to parse was paid for, and is counted."""
    good, bad = Reply('{"name": "tide", "size": 3}'), Reply('{"name": "tide"}')
    replies = iter([bad])
    server.app.script = lambda _: next(replies, good)
    llm = make_llm(server.url, max_retries=0)
    agent = Agent(role="A", goal="g", backstory="b", llm=llm)
    task = Task(description="d", expected_output="o", agent=agent, output_pydantic=Fact)
    crew = harden(Crew(agents=[agent], tasks=[task]), journal=tmp_path / "runs.db")
    result = crew.kickoff(run_id="a")
    assert result.pydantic == Fact(name="tide", size=3)
    assert len(server.requests) > 1
    assert result.token_usage.total_tokens == total(server)


def test_other_inputs_are_refused(server: Server, effects: Effects, tmp_path: Path) -> None:
    """A run id names one set of inputs."""
    crew = harden(make_crew(server, effects), journal=tmp_path / "runs.db")
    crew.kickoff(inputs=WHO, run_id="a")
    with pytest.raises(RunMismatch, match="who"):
        crew.kickoff(inputs={"who": "bob"}, run_id="a")
    assert len(server.requests) == REQUESTS


def _broken_run(server: Server, effects: Effects, journal: Path) -> None:
    """A run that failed in its last task."""
    fail_once(server, fault("unauthorized"), nth(5))
    with pytest.raises(Exception, match=r"401|auth"):
        harden(make_crew(server, effects), journal=journal).kickoff(inputs=WHO, run_id="a")


def test_changed_definition_is_refused_and_named(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """By default a changed crew does not continue another's run, which stays as it was."""
    _broken_run(server, effects, tmp_path / "runs.db")
    crew = make_crew(server, effects)
    crew.tasks[1].expected_output = "something else"
    with pytest.raises(DefinitionChanged, match=r"'t1' \(expected_output\).*'t2' \(context\)"):
        harden(crew, journal=tmp_path / "runs.db").kickoff(inputs=WHO, run_id="a")
    assert open_journal(tmp_path / "runs.db").run("a").status is RunStatus.FAILED
    assert effects.lines == DONE[:2]


def test_changed_task_is_executed_again(server: Server, effects: Effects, tmp_path: Path) -> None:
    """`rerun` executes the changed task and what reads it, and keeps the others."""
    _broken_run(server, effects, tmp_path / "runs.db")
    crew = make_crew(server, effects)
    crew.tasks[1].expected_output = "something else"
    server.reset()
    result = harden(crew, journal=tmp_path / "runs.db", on_change="rerun").kickoff(
        inputs=WHO, run_id="a"
    )
    assert result.raw == "sent to ann"
    assert len(server.requests) == 4
    assert effects.lines == [*DONE[:2], "charge 7", "send ann"]


def test_changed_task_is_kept(server: Server, effects: Effects, tmp_path: Path) -> None:
    """`keep` accepts the stored outputs."""
    _broken_run(server, effects, tmp_path / "runs.db")
    crew = make_crew(server, effects)
    crew.tasks[1].expected_output = "something else"
    server.reset()
    hardened = harden(crew, journal=tmp_path / "runs.db")
    result = hardened.kickoff(inputs=WHO, run_id="a", on_change="keep")
    assert result.raw == "sent to ann"
    assert effects.lines == DONE


def test_drifted_prompt_follows_the_history(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """A prompt that holds the time of day does not make a resumed run pay again."""

    def dated() -> Crew:
        crew = make_crew(server, effects)
        for agent in crew.agents:
            agent.inject_date, agent.date_format = True, "%Y-%m-%d %H:%M:%S.%f"
        return crew

    fail_once(server, fault("unauthorized"), nth(2))
    with pytest.raises(Exception, match=r"401|auth"):
        harden(dated(), journal=tmp_path / "runs.db").kickoff(inputs=WHO, run_id="a")
    result = harden(dated(), journal=tmp_path / "runs.db").kickoff(inputs=WHO, run_id="a")
    assert result.raw == "sent to ann"
    assert len([r for r in server.requests if r.status == 200]) == REQUESTS
    assert effects.lines == DONE
    log = (tmp_path / "runs.db.log.jsonl").read_text()
    assert log.count('"step.drift"') == 1


def test_no_secret_reaches_the_disk(server: Server, effects: Effects, tmp_path: Path) -> None:
    """The key of the model is in no file the run wrote, and the files are private."""
    crew = make_crew(server, effects, api_key="sk-canary-1234567890")
    harden(crew, journal=tmp_path / "runs.db").kickoff(inputs=WHO)
    files = [file for file in tmp_path.iterdir() if file.name.startswith("runs.db")]
    assert len(files) >= 2
    assert all(b"canary" not in file.read_bytes() for file in files)
    assert {oct(file.stat().st_mode & 0o777) for file in files} == {"0o600"}


def test_options_are_checked_when_they_are_given(server: Server, effects: Effects) -> None:
    """A wrong option is refused before any kickoff, with the values that exist."""
    crew = make_crew(server, effects)
    for wrong in ({"on_change": "maybe"}, {"durability": "fast"}, {"tools": {"x": {"efect": 1}}}):
        with pytest.raises(UsageError, match=r"there are"):
            harden(crew, **wrong)
    with pytest.raises(UsageError, match="not int"):
        harden(3)


def test_hardened_output_is_crewais_own(server: Server, effects: Effects, tmp_path: Path) -> None:
    """The result is a plain `CrewOutput`, and steps are journaled under the run's id."""
    crew = harden(make_crew(server, effects), journal=tmp_path / "runs.db")
    assert type(crew.kickoff(inputs=WHO, run_id="a")) is CrewOutput
    assert steps_of(tmp_path / "runs.db", "a")[1] == ("tool", "look_up", "done")


def test_refused_kickoff_leaves_the_crew_as_it_was(
    server: Server, effects: Effects, tmp_path: Path
) -> None:
    """After a refusal the user's tasks still show the next run while it goes on."""
    bare = make_crew(server, effects)
    crew = harden(bare, journal=tmp_path / "runs.db")
    crew.kickoff(inputs=WHO, run_id="a")
    with pytest.raises(RunMismatch):
        crew.kickoff(inputs={"who": "bob"}, run_id="a")
    shown: list[object] = []
    bare.tasks[1].output = None
    bare.tasks[1].callback = lambda _: shown.append(bare.tasks[1].output)
    crew.kickoff(inputs={"who": "eve"})
    assert [output and output.raw for output in shown] == ["charged 7"]
