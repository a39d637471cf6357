"""A run puts it to a person whether it is to go on, by rule."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.flow.flow import Flow, start

from crewai_prod import Budget, Escalation, Journal, approve, harden, open_journal, reject, tool
from crewai_prod.approval import Approval
from crewai_prod.errors import ApprovalRequired, EscalationRejected, LoopDetected, UsageError
from crewai_prod.guards import tools
from crewai_prod.records import RunStatus
from tests.crews import make_llm
from tests.integration.parts import MODES, PATHS, Killed, Mode, go, killed
from tests.openai_server import Conversation, Rule, Server, answer, use

ALWAYS = Conversation(Rule(use("look", {"topic": "tides"})))
STUBBORN = Conversation(
    Rule(*[use("look", {"topic": f"t{n}"}) for n in range(3)], answer("I could not find it."))
)


def make_crew(server: Server, path: str, *tools: Any) -> Crew:
    """A clerk with some tools."""
    llm = make_llm(server.url, path, max_retries=0)  # type: ignore[arg-type]
    clerk = Agent(role="Clerk", goal="g", backstory="b", llm=llm, tools=list(tools))
    task = Task(name="find", description="Find out.", expected_output="o", agent=clerk)
    return Crew(name="clerks", agents=[clerk], tasks=[task])


@tool(effect="read")
def look(topic: str) -> str:
    """Look something up.

    Args:
        topic: What.
    """
    raise ValueError(f"no {topic}")


def asked(journal: Journal) -> list[tuple[str, str | None, str]]:
    """(kind, why, status) of all questions."""
    return [(one.kind, one.why, one.status) for one in journal.approvals()]


def last_message(server: Server) -> str:
    """What the model was told last."""
    return str(server.requests[-1].body["messages"][-1]["content"])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_after_failures_a_person_is_asked(tmp_path: Path, path: str, mode: Mode) -> None:
    """Before the next call, once per so many; what they say is told to the model, once."""
    rules = Escalation(after_failures=2)
    with Server(STUBBORN) as server:
        crew = harden(make_crew(server, path, look), journal=tmp_path / "j.db", escalation=rules)
        for _ in range(2):
            with pytest.raises(ApprovalRequired) as caught:
                go(crew, mode, run_id="r")
            assert len(server.requests) == 2
        journal = open_journal(tmp_path / "j.db")
        assert asked(journal) == [("question", "failures", "open")]
        assert json.loads(caught.value.fields["arguments"])["failed_tool_calls"] == ["look"] * 2
        approve(caught.value.fields["id"], journal, note="Try once more, then stop.")
        assert go(crew, mode, run_id="r").raw == "I could not find it."
        said = ["Try once more" in str(request.body["messages"]) for request in server.requests]
        assert said == [False, False, True, False]
        assert journal.run("r").status is RunStatus.COMPLETED
        assert asked(journal) == [("question", "failures", "answered")]


def test_a_no_ends_the_run_and_another_rule_goes_on(tmp_path: Path) -> None:
    """The caller is told who said so and why; resumed without the rule it is finished."""
    with Server(STUBBORN) as server:
        bare, journal = make_crew(server, "native", look), open_journal(tmp_path / "j.db")
        crew = harden(bare, journal=journal, escalation=Escalation(after_failures=2))
        with pytest.raises(ApprovalRequired) as caught:
            crew.kickoff(run_id="r")
        reject(caught.value.fields["id"], journal, reason="Too dear.", by="ann")
        for _ in range(2):
            with pytest.raises(EscalationRejected, match=r"Too dear\.") as ended:
                crew.kickoff(run_id="r")
        assert (ended.value.fields["by"], ended.value.task) == ("ann", "find")
        assert journal.run("r").status is RunStatus.FAILED
        assert len(server.requests) == 2
        assert harden(bare, journal=journal).kickoff(run_id="r").raw == "I could not find it."


def test_at_a_part_of_a_budget_a_person_is_asked_once(tmp_path: Path) -> None:
    """Two of four calls are half of them; the limit itself stays."""
    with Server(STUBBORN) as server:
        crew = harden(
            make_crew(server, "native", look),
            journal=tmp_path / "j.db",
            budget=Budget(max_llm_calls=4),
            escalation=Escalation(at_budget=0.5),
        )
        with pytest.raises(ApprovalRequired) as caught:
            crew.kickoff(run_id="r")
        assert len(server.requests) == 2
        assert "50% of max_llm_calls" in caught.value.fields["arguments"]
        approve(caught.value.fields["id"], tmp_path / "j.db")
        assert crew.kickoff(run_id="r").raw == "I could not find it."
        assert asked(open_journal(tmp_path / "j.db")) == [("question", "budget", "answered")]


@pytest.mark.parametrize("path", PATHS)
def test_a_loop_is_put_to_a_person(tmp_path: Path, path: str) -> None:
    """Approved, the ladder begins anew; rejected, the loop ends the run.

    On the text path CrewAI answers the call itself: it does not make the same one twice in a row.
    """
    made = []

    @tool(effect="read")
    def look(topic: str) -> str:
        """Look something up.

        Args:
            topic: What.
        """
        made.append(topic)
        return "nothing"

    with Server(ALWAYS) as server:
        bare = make_crew(server, path, look)
        bare.agents[0].cache = False
        crew = harden(bare, journal=tmp_path / "j.db", escalation=Escalation(on_loop=True))
        with pytest.raises(ApprovalRequired) as caught:
            crew.kickoff(run_id="r")
        before = len(made)
        approve(caught.value.fields["id"], tmp_path / "j.db")
        with pytest.raises(ApprovalRequired) as again:
            crew.kickoff(run_id="r")
        assert (len(made) > before) is (path == "native")
        assert again.value.fields["id"] != caught.value.fields["id"]
        made.clear()
        reject(again.value.fields["id"], tmp_path / "j.db", reason="Enough.")
        with pytest.raises(LoopDetected):
            crew.kickoff(run_id="r")
        assert made == []


ASKS = Conversation(
    Rule(use("ask_human", {"question": "Which tide?"}), lambda turn: answer(turn.results[-1])(turn))
)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_an_agent_asks_by_itself(tmp_path: Path, path: str, mode: Mode) -> None:
    """No process waits; the answer is the tool's result, and is replayed."""
    with Server(ASKS) as server:
        crew = harden(
            make_crew(server, path),
            journal=tmp_path / "j.db",
            escalation=Escalation(ask_human=True),
            guards=[tools(allow=[])],  # of the user's tools; a run's own are allowed
        )
        with pytest.raises(ApprovalRequired) as caught:
            go(crew, mode, run_id="r")
        assert json.loads(caught.value.fields["arguments"]) == {"question": "Which tide?"}
        journal = open_journal(tmp_path / "j.db")
        assert asked(journal) == [("question", "model", "open")]
        approve(caught.value.fields["id"], journal, note="The spring tide.")
        assert go(crew, mode, run_id="r").raw == "They answer: The spring tide."
        assert len(server.requests) == 2
        assert go(crew, mode, run_id="r").raw == "They answer: The spring tide."


@pytest.mark.parametrize("own", [True, False])
def test_what_is_kicked_off_within_has_its_own_rules(tmp_path: Path, own: bool) -> None:
    """A crew in a flow by its own, where it has some, else by those of the flow."""
    failures, asking = Escalation(after_failures=1), Escalation(ask_human=True)

    with Server(ASKS) as server:

        class Around(Flow):  # type: ignore[type-arg]
            """Kicks a crew off."""

            @start()
            def work(self) -> Any:
                """Work."""
                inner = make_crew(server, "native")
                return (harden(inner, escalation=asking) if own else inner).kickoff().raw

        flow = harden(Around(), journal=tmp_path / "j.db", escalation=failures if own else asking)
        with pytest.raises(ApprovalRequired, match="'Clerk' asks a person: Which tide"):
            flow.kickoff(run_id="r")
        approve(1, tmp_path / "j.db", note="Spring.")
        assert flow.kickoff(run_id="r") == "They answer: Spring."
        assert asked(open_journal(tmp_path / "j.db")) == [("question", "model", "answered")]


@pytest.mark.parametrize("point", ["commit.before:ask", "commit.after:ask"])
@pytest.mark.parametrize("why", ["failures", "model"])
def test_killed_around_the_question(tmp_path: Path, why: str, point: str) -> None:
    """Asked once, answered once, told once; nothing is sent again."""
    failing = why == "failures"
    rules = Escalation(after_failures=2) if failing else Escalation(ask_human=True)
    with Server(STUBBORN if failing else ASKS) as server:

        def kick() -> Any:
            crew = make_crew(server, "native", look)
            return harden(crew, journal=tmp_path / "j.db", escalation=rules).kickoff(run_id="r")

        with pytest.raises(Killed):
            killed(kick, 1, point)
        with pytest.raises(ApprovalRequired) as caught:
            kick()
        approve(caught.value.fields["id"], tmp_path / "j.db", note="a spring tide")
        with pytest.raises(Killed):
            killed(kick, 1, "commit.after:open_run")
        kick()
        assert asked(open_journal(tmp_path / "j.db")) == [("question", why, "answered")]
        assert len(server.requests) == (4 if failing else 2)
        told = [str(one.body["messages"]).count("a spring tide") for one in server.requests]
        assert sum(told) == 1


@pytest.mark.parametrize("default", ["reject", "approve"])
def test_nobody_answers_in_time(tmp_path: Path, default: str) -> None:
    """The agent is told so, whatever counts instead, and goes on."""
    rules = Escalation(ask_human=True, approval=Approval(expires=0.05, default=default))
    with Server(ASKS) as server:
        crew = harden(make_crew(server, "native"), journal=tmp_path / "j.db", escalation=rules)
        with pytest.raises(ApprovalRequired):
            crew.kickoff(run_id="r")
        time.sleep(0.06)
        assert "Nobody has answered" in crew.kickoff(run_id="r").raw


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"after_failures": 0},
        {"after_failures": True},
        {"at_budget": 1.5},
        {"ask_human": "yes"},
        {"ask_human": True, "approval": Approval(first_use=True)},
        {"ask_human": True, "approval": False},
    ],
    ids=str,
)
def test_values_that_make_no_sense(wrong: dict[str, Any]) -> None:
    """The value is named."""
    with pytest.raises(UsageError, match="Escalation"):
        Escalation(**wrong)
    with pytest.raises(UsageError, match="no Escalation"):
        Escalation.read(3)
