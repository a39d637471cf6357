"""Model calls that pass the seams are seen, billed where they happened, and counted otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.events.event_bus import crewai_event_bus
from crewai.llms.base_llm import BaseLLM
from crewai.tools import tool

from crewai_prod import fields, harden, open_journal, open_run
from crewai_prod.testing import ScriptedLLM
from tests.crews import MODEL, make_llm
from tests.integration.parts import (
    ASKS,
    MODES,
    PATHS,
    Mode,
    assert_all_metered,
    go,
    make_crew,
    total,
)
from tests.openai_server import ROOT, Conversation, Reply, Rule, Server, answer, fault


def asking_crew(server: Server, path: str, ask: Callable[[str], str], **agent: Any) -> Crew:
    """A crew whose only tool asks a model of its own."""
    llm = make_llm(server.url, path, max_retries=0)  # type: ignore[arg-type]
    clerk = Agent(
        role="Clerk",
        goal="g",
        backstory="b",
        tools=[tool("ask")(ask)],
        **{"llm": llm, "max_retry_limit": 0, **agent},
    )
    return Crew(
        name="asking",
        agents=[clerk],
        tasks=[Task(name="t", description="Ask.", expected_output="o", agent=clerk)],
    )


def ask_through(llm: BaseLLM) -> Callable[[str], str]:
    """The body of a tool that calls a model."""

    def ask(topic: str) -> str:
        """Ask about a topic."""
        return str(llm.call(f"Aside about {topic}"))

    return ask


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    """The lines of that event in the logs of a folder."""
    files = folder.rglob("*.jsonl")
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [line for line in lines if line[fields.EVENT] == name]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_a_call_in_a_tools_body_is_billed_to_it(
    server: Server, tmp_path: Path, path: str, mode: Mode
) -> None:
    """`LLM.call` in a tool is a model step within the tool, on the bill of task and agent."""
    server.app.script = ASKS
    crew = asking_crew(server, path, ask_through(make_llm(server.url)))
    result = go(harden(crew, journal=tmp_path / "j.db"), mode, run_id="a")
    assert result.token_usage.total_tokens == total(server)
    journal = open_journal(tmp_path / "j.db")
    steps = {step.step_id: step for step in journal.steps("a")}
    (call,) = [step for step in steps.values() if step.direct]
    (around,) = [step for step in steps.values() if step.kind.value == "tool"]
    assert call.scope.startswith(f"{around.scope}/ask~")
    assert (call.name, call.provider, call.task, call.agent) == (MODEL, "openai", 0, "Clerk")
    assert call.usage is not None
    assert call.usage.calls == 1
    assert_all_metered(tmp_path / "j.db", "a", direct=1)
    (finished,) = events(tmp_path, fields.RUN_FINISHED)
    assert finished[fields.TOTAL_UNMETERED] == 0
    assert finished[fields.TOTAL_TOKENS] == total(server)
    assert events(tmp_path, fields.LLM_UNMETERED) == []


def test_a_call_made_again_with_its_body_is_another_attempt(server: Server, tmp_path: Path) -> None:
    """A body that is cut off and run again pays again, and the bill says so."""
    server.app.script = ASKS
    llm, cut = make_llm(server.url), [True]

    def ask(topic: str) -> str:
        """Ask about a topic."""
        said = str(llm.call(f"Aside about {topic}"))
        if cut.pop() if cut else False:
            raise KeyboardInterrupt
        return said

    def crew() -> Any:
        options = {"ask": {"effect": "read"}}
        return harden(asking_crew(server, "native", ask), journal=tmp_path / "j.db", tools=options)

    with pytest.raises(KeyboardInterrupt):
        crew().kickoff(run_id="a")
    result = crew().kickoff(run_id="a")
    assert result.token_usage.total_tokens == total(server)
    journal = open_journal(tmp_path / "j.db")
    (call,) = [step for step in journal.steps("a") if step.direct]
    assert call.attempts == 2
    (before,) = [one for one in journal.attempts("a") if one.step_id == call.step_id]
    assert before.usage == call.usage
    assert len(server.requests) == 4


def test_a_failed_call_is_recorded_as_failed(server: Server, tmp_path: Path) -> None:
    """What the provider refused costs nothing and is no call of unknown cost."""
    server.app.script = ASKS
    llm = make_llm(server.url, max_retries=0)

    def ask(topic: str) -> str:
        """Ask about a topic."""
        try:
            return str(llm.call(f"Aside about {topic}"))
        except Exception:  # noqa: BLE001 - whatever CrewAI makes of the 401
            return "nobody answered"

    server.app.faults = lambda seen: (
        fault("unauthorized") if "Aside" in str(seen.body["messages"]) else None
    )
    crew = harden(asking_crew(server, "native", ask), journal=tmp_path / "j.db")
    result = crew.kickoff(run_id="a")
    assert result.raw == "done"
    assert result.token_usage.total_tokens == total(server)
    (call,) = [step for step in open_journal(tmp_path / "j.db").steps("a") if step.direct]
    assert call.status.value == "failed"
    assert not call.unmetered


def test_a_call_of_unknown_cost_is_counted_and_said_once(server: Server, tmp_path: Path) -> None:
    """A provider that reports no usage leaves a warning for each model, and a count."""
    server.app.script = ASKS
    llm = make_llm(server.url)

    def without_usage(topic: str) -> str:
        """Ask about a topic."""
        for _ in range(2):
            llm._emit_call_completed_event(  # as a provider that does not know the cost
                response="x", call_type=_llm_call(), messages="Aside", usage=None
            )
        return topic

    crew = asking_crew(server, "native", without_usage)
    harden(crew, journal=tmp_path / "j.db").kickoff(run_id="a")
    calls = [step for step in open_journal(tmp_path / "j.db").steps("a") if step.direct]
    assert [step.unmetered for step in calls] == [True, True]
    (warning,) = events(tmp_path, fields.LLM_UNMETERED)
    assert MODEL in warning[fields.MESSAGE]
    (finished,) = events(tmp_path, fields.RUN_FINISHED)
    assert finished[fields.TOTAL_UNMETERED] == 2
    with pytest.raises(AssertionError, match="passed the seams"):
        assert_all_metered(tmp_path / "j.db", "a")


def _llm_call() -> Any:
    from crewai.events.types.llm_events import LLMCallType

    return LLMCallType.LLM_CALL


def test_a_seam_that_is_missed_is_found(
    server: Server, tmp_path: Path, effects: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent whose model was not taken over is on the bill, and the count shows it."""
    from crewai_prod._crewai.build import Workshop

    monkeypatch.setattr(Workshop, "llm", lambda self, llm: llm)
    crew = harden(make_crew(server, effects), journal=tmp_path / "j.db")
    result = crew.kickoff(inputs={"who": "ann"}, run_id="a")
    assert result.token_usage.total_tokens == total(server)
    assert_all_metered(tmp_path / "j.db", "a", direct=6)


def test_calls_within_the_seams_are_not_counted(
    server: Server, tmp_path: Path, effects: Any
) -> None:
    """What passes the seams is recorded there and nowhere else."""
    crew = harden(make_crew(server, effects), journal=tmp_path / "j.db")
    crew.kickoff(inputs={"who": "ann"}, run_id="a")
    assert_all_metered(tmp_path / "j.db", "a")


class Router(BaseLLM):
    """A model of a user's own that hands its calls on to another one."""

    model: str = "router"
    inner: Any = None
    reports: bool = False

    def call(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        """Ask the other one, and tell what it cost if asked to."""
        inner = self.inner()
        answered = inner.call(messages)
        if self.reports:
            spent = inner.get_token_usage_summary()
            self._track_token_usage_internal(
                {
                    "prompt_tokens": spent.prompt_tokens,
                    "completion_tokens": spent.completion_tokens,
                    "total_tokens": spent.total_tokens,
                }
            )
        return answered

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """As `call`."""
        return self.call(*args, **kwargs)

    def supports_function_calling(self) -> bool:
        """Not natively."""
        return False


@pytest.mark.parametrize("reports", [True, False])
@pytest.mark.parametrize("hardened", [True, False])
def test_a_model_that_hands_its_calls_on(
    server: Server, tmp_path: Path, reports: bool, hardened: bool
) -> None:
    """What another model cost within a call is on the bill of that call, once."""
    server.app.script = Conversation(Rule(answer("done")))

    def inner() -> BaseLLM:
        llm = make_llm(server.url, "text")
        return harden(llm) if hardened else llm

    router = Router(model="router", inner=inner, reports=reports)
    agent = Agent(role="Clerk", goal="g", backstory="b", llm=router)
    task = Task(description="Say it.", expected_output="o", agent=agent)
    crew = harden(Crew(agents=[agent], tasks=[task]), journal=tmp_path / "j.db")
    result = crew.kickoff(run_id="a")
    assert result.token_usage.total_tokens == total(server)
    (call,) = open_journal(tmp_path / "j.db").steps("a")
    assert (call.name, call.direct) == ("router", False)


def test_a_run_around_plain_code(server: Server, tmp_path: Path) -> None:
    """In an `open_run` block a plain model's call is on the bill, though not replayed."""
    server.app.script = Conversation(Rule(Reply("an aside")))
    llm = make_llm(server.url)
    with open_run("a", journal=tmp_path / "j.db"):
        assert llm.call("Aside") == "an aside"
    assert_all_metered(tmp_path / "j.db", "a", direct=1)
    journal = open_journal(tmp_path / "j.db")
    assert journal.runs()[0].total_tokens == total(server)
    with open_run("a", journal=tmp_path / "j.db") as run:
        assert llm.call("Aside") == "an aside"
    assert run.finished
    assert_all_metered(tmp_path / "j.db", "a", direct=1)
    llm.call("Aside")  # outside of any run nobody counts
    crewai_event_bus.flush()
    assert journal.runs()[0].total_tokens < total(server)


def test_handlers_that_were_hidden_come_back(server: Server, tmp_path: Path) -> None:
    """A run begun while listeners are hidden is watched, and so is one after it."""
    server.app.script = ASKS
    for run_id in ("a", "b"):
        with crewai_event_bus.scoped_handlers():
            crew = asking_crew(server, "native", ask_through(make_llm(server.url)))
            harden(crew, journal=tmp_path / "j.db").kickoff(run_id=run_id)
        assert_all_metered(tmp_path / "j.db", run_id, direct=1)
    crew = asking_crew(server, "native", ask_through(make_llm(server.url)))
    harden(crew, journal=tmp_path / "j.db").kickoff(run_id="c")
    assert_all_metered(tmp_path / "j.db", "c", direct=1)


def test_importing_listens_to_nothing() -> None:
    """Only a run that is opened registers the listener."""
    code = (
        "from crewai.events.event_bus import crewai_event_bus as bus\n"
        "import crewai\n"
        "before = {kind: set(found) for kind, found in bus._sync_handlers.items()}\n"
        "import crewai_prod._crewai.second_line, crewai_prod._crewai.harden\n"
        "assert {kind: set(found) for kind, found in bus._sync_handlers.items()} == before\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_scripted_models_are_not_seen_by_the_bus(tmp_path: Path, server: Server) -> None:
    """A model that emits no events is not seen when it is called directly: `harden` it."""
    server.app.script = ASKS
    silent = ScriptedLLM(lambda messages, tools: "an aside")
    crew = asking_crew(server, "native", ask_through(silent))
    harden(crew, journal=tmp_path / "j.db").kickoff(run_id="a")
    assert_all_metered(tmp_path / "j.db", "a")
    crew = asking_crew(server, "native", ask_through(harden(silent)))
    harden(crew, journal=tmp_path / "j.db").kickoff(run_id="b")
    calls = [s for s in open_journal(tmp_path / "j.db").steps("b") if s.name == "scripted"]
    assert [step.usage is not None for step in calls] == [True]
