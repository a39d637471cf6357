"""A person is asked before something is done, in whichever process; the run waits as a row."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Annotated, Any

import pytest
from crewai import Agent, Crew, Task
from crewai.flow.flow import Flow, listen, start
from crewai.flow.human_feedback import human_feedback
from pydantic import AfterValidator

from crewai_prod import Approval, Budget, approve, errors, harden, open_journal, reject, tool
from crewai_prod._crewai.changing import ToolForm
from crewai_prod.answering import NOTHING
from crewai_prod.approval import Reply, rule
from crewai_prod.errors import ApprovalRequired, BudgetPaused
from crewai_prod.guarding import Guarding
from crewai_prod.records import ApprovalRecord, RunStatus
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
FORMS: tuple[Mode, ...] = ("kickoff", "akickoff")
"""Where `kickoff_async` does what `kickoff` does, on a thread."""


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
    """The model hears the reason; the run goes on and is done, degraded by nothing.

    The tool is required: a person's word stands, it is not asked for any more.
    """
    journal, effects = tmp_path / "runs.db", Effects(tmp_path)
    with Server(TOLD) as server:
        declared = {"approval": True, "required": True}
        crew = harden(one_cashier(server, effects, path, **declared), journal=journal)
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


@pytest.mark.parametrize("mode", FORMS)
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


@pytest.mark.parametrize("mode", FORMS)
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


@pytest.mark.parametrize("mode", FORMS)
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


# -- killed around a pause ------------------------------------------------------------------------


def _till(server: Server, effects: Effects, journal: Path) -> Any:
    server.app.script = TOLD
    return harden(one_cashier(server, effects, approval=True), journal=journal)


def _desk(server: Server, journal: Path, *, human: bool) -> Any:
    server.app.script = Conversation(Rule(answer("closed")))
    llm = make_llm(server.url, max_retries=0)
    writer = Agent(role="Writer", goal="g", backstory="b", llm=llm)
    task = Task(
        name="write", description="Write", expected_output="o", agent=writer, human_input=human
    )
    crew = Crew(name="desk", agents=[writer], tasks=[task])
    return harden(crew, journal=journal, approvals=None if human else {"write": True})


def _poor(server: Server, effects: Effects, journal: Path) -> Any:
    server.app.script = TOLD
    budget = Budget(max_llm_calls=1, on_limit="pause")
    return harden(one_cashier(server, effects), journal=journal, budget=budget)


class Asking(Flow[dict[str, Any]]):
    """Asks in a method."""

    @start()
    def begin(self) -> str:
        """Ask."""
        return f"hello {self.ask('Your name?')}"


class Reviewed(Flow[dict[str, Any]]):
    """A person looks at what a method returns."""

    @start()
    @human_feedback(message="Good?")
    def write(self) -> str:
        """Write."""
        return "a draft"


PAUSES: dict[str, Callable[[Server, Effects, Path], Any]] = {
    "tool": _till,
    "human_input": lambda server, effects, journal: _desk(server, journal, human=True),
    "task_output": lambda server, effects, journal: _desk(server, journal, human=False),
    "budget": _poor,
    "question": lambda server, effects, journal: harden(Asking(), journal=journal),
    "feedback": lambda server, effects, journal: harden(Reviewed(), journal=journal),
}


@pytest.mark.parametrize("point", ["commit.before:ask", "commit.after:ask"])
@pytest.mark.parametrize("kind", PAUSES)
def test_killed_around_a_pause(server: Server, tmp_path: Path, kind: str, point: str) -> None:
    """Before the row, after it, and between answer and resume: asked once, done once."""
    journal, effects = tmp_path / "runs.db", Effects(tmp_path)

    def kick() -> Any:
        return PAUSES[kind](server, effects, journal).kickoff(run_id="r")

    with pytest.raises(Killed):
        killed(kick, 1, point)
    assert len(open_journal(journal).approvals("r")) == (point == "commit.after:ask")
    sent, done = len(server.requests), ["charge 700"] if kind == "budget" else []
    with pytest.raises(errors.RunPaused):
        kick()
    assert (len(server.requests), effects.lines) == (sent, done)
    edit = {"budget": {"max_llm_calls": 5}}.get(kind, NOTHING)
    approve(_open(journal).id, journal, edit=edit, note="ann")
    with pytest.raises(Killed):
        killed(kick, 1, "commit.after:open_run")
    kick()
    assert effects.lines == (["charge 700"] if kind in ("tool", "budget") else [])
    (question,) = open_journal(journal).approvals("r")
    assert (question.kind, question.status) == (kind, "answered")
    assert len(server.requests) == sent + (kind in ("tool", "budget"))
    assert open_journal(journal).run("r").status is RunStatus.COMPLETED


# -- telling people -------------------------------------------------------------------------------


def test_people_are_told_once(tmp_path: Path) -> None:
    """After the row is there, without secrets, and never again; nobody's failure is the run's."""
    journal, effects, told = tmp_path / "runs.db", Effects(tmp_path), []

    def tell(facts: dict[str, Any]) -> None:
        told.append(facts)
        assert open_journal(journal).approval(facts["id"]).status == "open"
        raise LookupError("nobody is in the office")

    declared = {"charge": {"approval": Approval(who=["ann"]), "sensitive": ["amount"]}}
    with Server(SCRIPT) as server:
        options = {"journal": journal, "tools": declared, "notify": tell}
        crew = harden(make_crew(server, effects), **options)
        for _ in range(2):
            with pytest.raises(ApprovalRequired):
                crew.kickoff(inputs=WHO, run_id="r")
        (facts,) = told
        assert (facts["run_id"], facts["tool"], facts["who"]) == ("r", "charge", ["ann"])
        assert facts["arguments"] == {"amount": "[redacted]"}
        assert facts["approve"].startswith(f"crewai-prod approve {facts['id']} ")
        for point, number in (("commit.after:claim_notice", 1), ("commit.after:ask", 2)):
            kickoff = partial(crew.kickoff, inputs=WHO, run_id=point)
            with pytest.raises(Killed):
                killed(kickoff, 1, point)
            with pytest.raises(ApprovalRequired):
                kickoff()
            assert len(told) == number  # killed before it could tell: silence, not twice


def test_a_web_address_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON is sent to it; one that hangs or refuses costs seconds, not the run."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        """Takes one notice."""

        def do_POST(self) -> None:
            """Take it."""
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as http, Server(SCRIPT) as server:
        threading.Thread(target=http.handle_request, daemon=True).start()
        crew = harden(
            make_crew(server, Effects(tmp_path)),
            journal=tmp_path / "runs.db",
            tools=CHARGE,
            notify=f"http://127.0.0.1:{http.server_address[1]}/hook",
        )
        with pytest.raises(ApprovalRequired):
            crew.kickoff(inputs=WHO, run_id="r")
    assert [(one["event"], one["tool"]) for one in got] == [("approval.requested", "charge")]


# -- what an answer covers ------------------------------------------------------------------------

TWICE = Conversation(
    Rule(use("charge", {"amount": 1}), results=0),
    Rule(use("charge", {"amount": 2}), results=1),
    Rule(answer("done")),
)


@pytest.mark.parametrize(
    ("scope", "minutes", "asked"),
    [("once", None, 4), ("run", None, 2), ("tool", 5, 1), ("tool", 1e-9, 4)],
)
def test_what_an_approval_covers(
    tmp_path: Path, scope: str, minutes: float | None, asked: int
) -> None:
    """One call; the tool in this run; the tool in all runs of the crew, for some minutes."""
    journal, effects = tmp_path / "runs.db", Effects(tmp_path)
    with Server(TWICE) as server:
        for run_id in ("a", "b"):
            crew = harden(one_cashier(server, effects, approval=True), journal=journal)
            while True:
                try:
                    crew.kickoff(run_id=run_id)
                    break
                except ApprovalRequired as error:
                    approve(error.fields["id"], journal, scope=scope, minutes=minutes)
        assert effects.lines == ["charge 1", "charge 2"] * 2
        assert len(open_journal(journal).approvals()) == asked


@pytest.mark.parametrize("who", [(), ("ann",)])
def test_an_approval_covers_what_was_asked_with_it(tmp_path: Path, who: tuple[str, ...]) -> None:
    """The questions of calls side by side, too, unless they are for others than who gave it."""
    journal, effects = tmp_path / "runs.db", Effects(tmp_path)
    side_by_side = [("charge", {"amount": 1}), ("charge", {"amount": 2})]
    with Server(Conversation(Rule(lambda turn: calls(side_by_side), answer("done")))) as server:
        open_ = harden(one_cashier(server, effects, approval=True), journal=journal)
        with pytest.raises(ApprovalRequired) as caught:
            open_.kickoff(run_id="r")
        approve(caught.value.fields["id"], journal, scope="run", by="bob")
        crew = harden(one_cashier(server, effects, approval=Approval(who=who)), journal=journal)
        if who:
            with pytest.raises(ApprovalRequired):
                crew.kickoff(run_id="r")
            return
        crew.kickoff(run_id="r")
        assert sorted(effects.lines) == ["charge 1", "charge 2"]
        found = open_journal(journal).approvals()
        assert {(one.status, one.answered_by) for one in found} == {("answered", "bob")}


@pytest.mark.parametrize(
    ("approval", "whys"),
    [
        (Approval(first_use=True), ["first_use"]),
        (Approval(above={"amount": 1}), ["amount"]),
        (Approval(after_taint=True), ["taint"]),
        (Approval(above={"amount": 5}), []),
    ],
)
def test_which_calls_need_approval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, approval: Approval, whys: list[str]
) -> None:
    """The first of a run, one above an amount, one after untrusted content."""
    journal, effects = tmp_path / "runs.db", Effects(tmp_path)
    with Server(TWICE) as server:
        crew = harden(one_cashier(server, effects, approval=approval), journal=journal)
        monkeypatch.setattr(Guarding, "tainted", lambda self, scope: tuple(effects.lines))
        for _ in whys:
            with pytest.raises(ApprovalRequired) as caught:
                crew.kickoff(run_id="r")
            approve(caught.value.fields["id"], journal)
        assert crew.kickoff(run_id="r").raw == "done"
        assert [one.why for one in open_journal(journal).approvals("r")] == whys
        assert effects.lines == ["charge 1", "charge 2"]


def test_nobody_answers_in_time(tmp_path: Path) -> None:
    """The default counts when the run is resumed: rejected, or approved."""
    journal, effects = tmp_path / "runs.db", Effects(tmp_path)
    with Server(TOLD) as server:
        for default, lines in (("reject", []), ("approve", ["charge 700"])):
            soon = Approval(expires=0.001, default=default)
            crew = harden(one_cashier(server, effects, approval=soon), journal=journal)
            with pytest.raises(ApprovalRequired) as caught:
                crew.kickoff(run_id=default)
            time.sleep(0.002)
            said = crew.kickoff(run_id=default).raw
            assert ("Nobody has answered in time" in said) == (default == "reject")
            assert effects.lines == lines
            question = open_journal(journal).approval(caught.value.fields["id"])
            assert (question.status, question.answered_by) == ("expired", None)
            with pytest.raises(errors.ApprovalClosed):
                approve(question.id, journal)


def test_a_change_that_the_tool_refuses_is_asked_about_again(tmp_path: Path) -> None:
    """What no schema can say shows when the run goes on; the question says what was wrong."""
    journal, effects = tmp_path / "runs.db", Effects(tmp_path)

    @tool(effect="write", approval=True, sensitive=["pin"])
    def pay(amount: Annotated[int, AfterValidator(_even)], pin: str) -> str:
        """Pay.

        Args:
            amount: How much, even.
            pin: The secret.
        """
        effects.add(f"pay {amount} {pin}")
        return "paid"

    wants = use("pay", {"amount": 8, "pin": "4711"})
    with Server(Conversation(Rule(wants, answer("done")))) as server:
        llm = make_llm(server.url, max_retries=0)
        agent = Agent(role="Cashier", goal="g", backstory="b", llm=llm, tools=[pay])
        task = Task(description="Pay", expected_output="o", agent=agent)
        crew = harden(Crew(agents=[agent], tasks=[task]), journal=journal)
        with pytest.raises(ApprovalRequired):
            crew.kickoff(run_id="r")
        first = _open(journal)
        approve(first.id, journal, edit={"amount": 3})
        with pytest.raises(ApprovalRequired, match="cannot be used"):
            crew.kickoff(run_id="r")
        second = _open(journal)
        assert second.id != first.id
        assert "amount" in second.remark
        assert "4711" not in f"{first}{second}"
        approve(second.id, journal, edit={"amount": 4, "pin": "[redacted]"})
        assert crew.kickoff(run_id="r").raw == "done"
        assert effects.lines == ["pay 4 4711"]


def _even(value: int) -> int:
    if value % 2:
        raise ValueError("has to be even")
    return value


def test_a_mapping_is_changed_in_either_form() -> None:
    """As strict models write it, in keys and values, and as what it is."""

    @tool(effect="write")
    def label(tags: dict[str, int]) -> None:
        """Label.

        Args:
            tags: By name.
        """

    question = ApprovalRecord(
        id=1,
        run_id="r",
        step_id="s",
        kind="tool",
        tool="label",
        status="open",
        asked_at=0.0,
        arguments="{}",
        form=ToolForm(label, frozenset()).schema(),
    )
    for tags in ({"a": 1}, [{"key": "a", "value": 1}]):
        reply = Reply(verdict="approved", edited={"tags": tags}, has_edit=True)
        assert rule(question, RunStatus.PAUSED, reply).verdict == "approved"
    reply = Reply(verdict="approved", edited={"tags": {"a": "x"}}, has_edit=True)
    with pytest.raises(errors.UsageError, match="tags"):
        rule(question, RunStatus.PAUSED, reply)


def test_a_name_that_fits_no_task_is_refused(server: Server, tmp_path: Path) -> None:
    """An approval that would never be asked for is an error, not silence."""
    crew = make_crew(server, Effects(tmp_path))
    with pytest.raises(errors.UsageError, match="t9"):
        harden(crew, journal=tmp_path / "j.db", approvals={"t9": True}).kickoff(run_id="r")


@pytest.mark.parametrize("path", PATHS)
def test_waiting_is_no_use_of_a_tool(tmp_path: Path, path: str) -> None:
    """A tool that may be called once is called once it is approved, however often it was asked."""
    journal, effects = tmp_path / "runs.db", Effects(tmp_path)
    once = {"approval": True, "max_usage_count": 1, "max_calls": 1}
    with Server(TOLD) as server:
        crew = harden(one_cashier(server, effects, path, **once), journal=journal)
        with pytest.raises(ApprovalRequired):
            crew.kickoff(run_id="r")
        approve(_open(journal).id, journal)
        assert crew.kickoff(run_id="r").raw == "charged 700"
        assert effects.lines == ["charge 700"]
