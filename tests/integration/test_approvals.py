"""A person is asked before something is done, in whichever process; the run waits as a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.flow.flow import Flow, listen, start
from crewai.flow.human_feedback import human_feedback

from crewai_prod import Approval, Budget, approve, errors, harden, open_journal, reject, tool
from crewai_prod.errors import ApprovalRequired, BudgetPaused
from crewai_prod.records import RunStatus
from tests.crews import make_llm
from tests.integration.parts import (
    MODES,
    PATHS,
    REQUESTS,
    SCRIPT,
    Effects,
    Killed,
    Mode,
    go,
    killed,
    make_crew,
)
from tests.openai_script import calls
from tests.openai_server import Conversation, Rule, Server, answer, use

ALL = ["look_up tides", "charge 7", "send ann"]
CHARGE = {"charge": {"approval": True}}
WHO = {"who": "ann"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_a_call_waits_for_a_persons_word(tmp_path: Path, mode: Mode, path: str) -> None:
    """The run pauses before the call; approved from elsewhere, it goes on at that step."""
    journal, effects = tmp_path / "runs.db", Effects(tmp_path)
    with Server(SCRIPT) as server:
        crew = harden(make_crew(server, effects, path), journal=journal, tools=CHARGE)
        for _ in range(2):
            with pytest.raises(ApprovalRequired) as caught:
                go(crew, mode, inputs=WHO, run_id="r")
        asked = caught.value
        assert (asked.run_id, asked.task, asked.agent) == ("r", "t1", "Cashier")
        assert (asked.fields["tool"], asked.fields["why"]) == ("charge", "declared")
        assert json.loads(asked.fields["arguments"]) == {"amount": 7}
        assert [one.raw for one in asked.outputs] == ["facts about tides"]
        run = open_journal(journal).run("r")
        assert (run.status, run.reason) == (RunStatus.PAUSED, "approval")
        (question,) = open_journal(journal).approvals("r")
        assert (question.id, question.status) == (asked.fields["id"], "open")
        assert effects.lines == ALL[:1]
        approve(question.id, journal, by="ann")
        assert go(crew, mode, inputs=WHO, run_id="r").raw == "sent to ann"
        assert effects.lines == ALL
        assert server.total_usage.requests == REQUESTS


TOLD = Conversation(
    Rule(use("charge", {"amount": 700}), lambda turn: answer(turn.results[-1])(turn)),
)
"""A cashier who answers with what the tool said."""


def one_cashier(server: Server, effects: Effects, path: str = "native", **declared: Any) -> Crew:
    """A cashier with a typed tool."""

    @tool(effect="write", **declared)
    def charge(amount: int) -> str:
        """Charge a card.

        Args:
            amount: How much.
        """
        effects.add(f"charge {amount}")
        return f"charged {amount}"

    llm = make_llm(server.url, path, max_retries=0)  # type: ignore[arg-type]
    agent = Agent(role="Cashier", goal="g", backstory="b", llm=llm, tools=[charge])
    task = Task(name="pay", description="Pay", expected_output="o", agent=agent)
    return Crew(name="till", agents=[agent], tasks=[task])


@pytest.mark.parametrize("path", PATHS)
def test_a_rejected_call_is_told_and_not_made(tmp_path: Path, path: str) -> None:
    """The model hears the reason; the run goes on and is done, degraded by nothing."""
    journal, effects = tmp_path / "runs.db", Effects(tmp_path)
    with Server(TOLD) as server:
        crew = harden(one_cashier(server, effects, path, approval=True), journal=journal)
        with pytest.raises(ApprovalRequired) as caught:
            crew.kickoff(run_id="r")
        reject(caught.value.fields["id"], journal, reason="Ask for less.", by="ann")
        said = crew.kickoff(run_id="r").raw
        assert "rejected" in said
        assert "Ask for less." in said
        assert effects.lines == []
        (step,) = [one for one in open_journal(journal).steps("r") if one.name == "charge"]
        assert (step.effect, step.status.value) == ("refused", "failed")
        run = open_journal(journal).run("r")
        assert (run.status, run.reason) == (RunStatus.COMPLETED, None)
        assert crew.kickoff(run_id="r").raw == said


@pytest.mark.parametrize("path", PATHS)
def test_changed_arguments_are_what_is_done(tmp_path: Path, path: str) -> None:
    """The call is made with them, its record says so, and the model is told."""
    journal, effects = tmp_path / "runs.db", Effects(tmp_path)
    with Server(TOLD) as server:
        crew = harden(one_cashier(server, effects, path, approval=True), journal=journal)
        with pytest.raises(ApprovalRequired) as caught:
            crew.kickoff(run_id="r")
        number = caught.value.fields["id"]
        for wrong in ({"amount": "much"}, {"sum": 5}, [5]):
            with pytest.raises(errors.UsageError):
                approve(number, journal, edit=wrong)
        approve(number, journal, edit={"amount": 50})
        said = crew.kickoff(run_id="r").raw
        assert said.startswith("charged 50\n[A person has changed the arguments")
        assert effects.lines == ["charge 50"]
        (step,) = [one for one in open_journal(journal).steps("r") if one.name == "charge"]
        assert json.loads(step.arguments or "") == {"amount": 50}


def _open(journal: Path, run_id: str = "r") -> Any:
    """The one open question of a run."""
    (question,) = open_journal(journal).approvals(run_id, status="open")
    return question


def drafts(server: Server) -> Agent:
    """A writer whose first draft is bad, and better when somebody has said so."""

    def said(turn: Any) -> Any:
        return answer("good" if "try harder" in str(turn.body["messages"]) else "bad")(turn)

    server.app.script = Conversation(Rule(answer("closed"), task="Close"), Rule(said))
    llm = make_llm(server.url, max_retries=0)
    return Agent(role="Writer", goal="g", backstory="b", llm=llm)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("human", [True, False], ids=["human_input", "output"])
def test_an_answer_waits_for_feedback(
    server: Server, tmp_path: Path, mode: Mode, human: bool
) -> None:
    """`human_input=True`, or a task whose output needs approval: rejected, changed, then used."""
    journal, done = tmp_path / "runs.db", []
    writer = drafts(server)
    first = Task(
        name="write",
        description="Write",
        expected_output="o",
        agent=writer,
        human_input=human,
        callback=lambda output: done.append(output.raw),
    )
    last = Task(description="Close", expected_output="o", agent=writer)
    bare = Crew(name="desk", agents=[writer], tasks=[first, last])
    crew = harden(bare, journal=journal, approvals=None if human else {"write": True})
    shown = []
    for answered in (lambda n: reject(n, journal, reason="try harder"), None):
        with pytest.raises(ApprovalRequired):
            go(crew, mode, run_id="r")
        question = _open(journal)
        assert question.kind == ("human_input" if human else "task_output")
        shown.append(json.loads(question.arguments)["answer" if human else "output"])
        if answered is not None:
            answered(question.id)
    assert (shown, done) == (["bad", "good"], [])
    requests = server.total_usage.requests
    approve(question.id, journal, edit="better")
    assert go(crew, mode, run_id="r").raw == "closed"
    assert done == ["better"]
    assert server.total_usage.requests == requests + 1
    assert go(crew, mode, run_id="r").tasks_output[0].raw == "better"


class Review(Flow[dict[str, Any]]):
    """A person looks at what a method returns, and is asked something in the next one."""

    @start()
    @human_feedback(message="Good?")
    def write(self) -> str:
        """Write."""
        return "a draft"

    @listen(write)
    def sign(self) -> str:
        """Ask for a name."""
        return f"{self.last_human_feedback.feedback} {self.ask('Your name?')}"


@pytest.mark.parametrize("mode", MODES)
def test_a_flow_waits_for_feedback_and_answers(tmp_path: Path, mode: Mode) -> None:
    """`@human_feedback` and `Flow.ask` pause the run; words, not `input()`, go on with it."""
    journal = tmp_path / "runs.db"
    flow = harden(Review(), journal=journal)
    with pytest.raises(ApprovalRequired):
        go(flow, mode, run_id="r")
    question = _open(journal)
    shown = json.loads(question.arguments)
    assert (question.kind, shown) == ("feedback", {"message": "Good?", "output": "a draft"})
    reject(question.id, journal, reason="No,")
    with pytest.raises(ApprovalRequired):
        go(flow, mode, run_id="r")
    assert json.loads(_open(journal).arguments) == {"message": "Your name?"}
    assert flow.resume("ann", run_id="r") == "No, ann"
    assert open_journal(journal).run("r").status is RunStatus.COMPLETED


@pytest.mark.parametrize("limits", [{"max_llm_calls": 3}, {"max_usd": "0.0005"}])
def test_a_person_raises_a_limit(tmp_path: Path, limits: dict[str, Any]) -> None:
    """`on_limit="pause"` is a question; its answer holds in this run, over kills, for good."""
    journal, effects = tmp_path / "runs.db", Effects(tmp_path)
    ((limit, most),) = limits.items()
    with Server(SCRIPT) as server:
        budget = Budget(**limits, on_limit=Approval(who=["ops"]))
        prices = {"gpt-4o-mini": {"input": 1, "output": 1}}
        crew = harden(make_crew(server, effects), journal=journal, budget=budget, prices=prices)
        for _ in range(2):
            with pytest.raises(BudgetPaused) as caught:
                crew.kickoff(inputs=WHO, run_id="r")
        question = _open(journal)
        assert caught.value.fields["id"] == question.id
        sent = server.total_usage.requests
        with pytest.raises(errors.AnswerNotAllowed):
            approve(question.id, journal, edit={limit: 50}, by="ann")
        for wrong in ({}, {limit: most}, {"limit": 5}, {limit: "much"}, 5):
            with pytest.raises(errors.UsageError):
                approve(question.id, journal, edit=wrong, by="ops")
        approve(question.id, journal, edit={limit: 50}, by="ops")
        with pytest.raises(Killed):
            killed(lambda: crew.kickoff(inputs=WHO, run_id="r"), 2)
        assert crew.kickoff(inputs=WHO, run_id="r").raw == "sent to ann"
        assert 0 < sent < server.total_usage.requests == REQUESTS
        with pytest.raises(BudgetPaused):
            crew.kickoff(inputs=WHO, run_id="other")


def test_a_limit_that_is_not_raised_ends_the_run(tmp_path: Path) -> None:
    """Rejected: the run fails with `BudgetExceeded`; the developer may still raise it."""
    journal, effects = tmp_path / "runs.db", Effects(tmp_path)
    with Server(SCRIPT) as server:
        bare = make_crew(server, effects)
        crew = harden(bare, journal=journal, budget=Budget(max_tool_calls=1, on_limit="pause"))
        with pytest.raises(BudgetPaused):
            crew.kickoff(inputs=WHO, run_id="r")
        reject(_open(journal).id, journal)
        with pytest.raises(errors.BudgetExceeded) as caught:
            crew.kickoff(inputs=WHO, run_id="r")
        assert not isinstance(caught.value, BudgetPaused)
        crew = harden(bare, journal=journal, budget=Budget(max_tool_calls=3, on_limit="pause"))
        assert crew.kickoff(inputs=WHO, run_id="r").raw == "sent to ann"


PAIR = Conversation(
    Rule(lambda turn: calls([("charge", {"amount": 1}), ("charge", {"amount": 2})]), results=0),
    Rule(answer("done")),
)


@pytest.mark.parametrize("mode", MODES)
def test_one_answer_runs_one_call(tmp_path: Path, mode: Mode) -> None:
    """Of two calls that a model makes at once each is asked about; one approval is for one."""
    journal, effects = tmp_path / "runs.db", Effects(tmp_path)
    with Server(PAIR) as server:
        crew = harden(one_cashier(server, effects, approval=True), journal=journal)
        for answered in range(2):
            with pytest.raises(ApprovalRequired):
                go(crew, mode, run_id="r")
            assert len(effects.lines) <= answered
            approve(open_journal(journal).approvals("r", status="open")[0].id, journal)
        assert go(crew, mode, run_id="r").raw == "done"
        assert sorted(effects.lines) == ["charge 1", "charge 2"]
        assert len(open_journal(journal).approvals("r")) == 2
