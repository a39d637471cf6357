"""What is recorded decides what is done: identity, history and changed definitions."""

from __future__ import annotations

import json
from datetime import date
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crewai_prod import codec
from crewai_prod.records import StepKind, StepRecord, StepStatus, TaskRecord, TaskStatus
from crewai_prod.replay import CACHED, History, TaskDefinition, Verdict, changes, plan_tasks
from crewai_prod.steps import (
    Scope,
    digest,
    lies_beside,
    path_part,
    read_request,
    related,
    step_id,
    works_on,
)
from crewai_prod.walk import Walk


class Colour(Enum):
    """An enumeration."""

    RED = "red"


TALK = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text()}),
    min_size=1,
    max_size=6,
)


def step(seq: int, scope: str = "tasks/0/A", **fields: Any) -> StepRecord:
    """A recorded model call."""
    defaults = {
        "step_id": f"s{seq}",
        "kind": StepKind.MODEL,
        "name": "m",
        "digest": f"d{seq}",
        "occurrence": 0,
        "status": StepStatus.DONE,
        "params": "p",
        "started_at": 0.0,
    }
    return StepRecord(seq=seq, scope=scope, **{**defaults, **fields})


def request(talk: Any, params: Any = None, known: Any = frozenset()) -> Any:
    """A conversation as a request."""
    return read_request(talk, params or {"model": "m"}, known=known, contents={})


AT, BESIDE = Scope(path="tasks/0/A"), Scope(path="tasks/0/A").beside("memory.recall", "5a6b7c8d")


def test_what_is_done_beside_a_conversation_is_not_its_last_answer() -> None:
    """A task that failed of its answer asks for that anew, not for what was made of it."""
    history = History([step(1, AT.path), step(2, BESIDE.path)])
    history.distrust("tasks/0")
    assert history.failed("s1")
    assert not history.failed("s2")


@pytest.mark.parametrize(
    ("failed", "later", "survived"),
    [(AT, AT, True), (AT, BESIDE, False), (BESIDE, BESIDE, True), (BESIDE, AT, True)],
)
def test_a_conversation_tells_what_was_survived(
    failed: Scope, later: Scope, survived: bool
) -> None:
    """What is done beside a conversation may come before its next step: it tells nothing of it."""
    failure = step(1, failed.path, status=StepStatus.FAILED)
    assert History([failure, step(2, later.path)]).went_on(failure) is survived


def test_no_name_lies_beside_a_conversation() -> None:
    """A tool or an agent may be called anything: its scope is not taken for one beside."""
    assert lies_beside(BESIDE.path)
    assert not lies_beside(AT.of_agent(":memory.recall").inside(":x", "1").path)


@given(TALK, TALK)
def test_requests_of_the_same_meaning_are_the_same(one: Any, other: Any) -> None:
    """A digest is a function of the conversation, and tells different ones apart."""
    assert (request(one).digest == request(other).digest) == (one == other)
    assert request(one, {"model": "x"}).digest != request(one).digest


@given(TALK)
def test_a_growing_conversation_stores_only_what_is_new(talk: Any) -> None:
    """Of a conversation that was stored, one more message is all there is to store."""
    known = {message.digest for message in request(talk).messages}
    grown = [*talk, {"role": "user", "content": "one more"}]
    assert len(request(grown, known=known).messages) == 1
    assert request(talk, known=known).messages == ()


def test_made_up_ids_of_tool_calls_do_not_matter() -> None:
    """Some providers make up ids per process."""

    def talk(made_up: str) -> list[dict[str, Any]]:
        call = {"id": made_up, "type": "function", "function": {"name": "f", "arguments": "{}"}}
        return [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": made_up, "content": "x"},
        ]

    assert request(talk("a")).digest == request(talk("b")).digest


ODD = st.sampled_from(
    [1.5, float("nan"), 2**63, 2**70, "\ud800", (1, 2), {3}, b"b", date(2026, 1, 2), Colour.RED]
)
LEAF = st.none() | st.booleans() | st.integers() | st.text() | ODD
TREE = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text() | st.just("$") | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["role", "content", "name", "$", "more"]), TREE))
def test_a_message_is_stored_as_any_value_is(message: dict[str, Any]) -> None:
    """Whether or not it was JSON already, in which case it is not looked through again."""
    stored = request([message]).messages[-1]
    assert codec.decode(stored.body) == codec.decode(codec.encode(message)) or "nan" in repr(
        message
    )
    assert stored.body == codec.encode(message) or str(2**63) in stored.body


@given(TALK, TALK, TALK)
def test_a_conversation_read_before_is_only_read_faster(begun: Any, one: Any, other: Any) -> None:
    """However much of it was read before, and as what: a request is what it is without that."""
    before = read_request([*begun, *one], {}, known=frozenset(), contents={}).talk
    talk = [*begun, *other]
    got = read_request(talk, {}, known=frozenset(), contents={}, before=before)
    assert got == read_request(talk, {}, known=frozenset(), contents={})


@pytest.mark.parametrize("known", [set(), {"all"}])
def test_parameters_read_before_are_only_read_faster(known: set[str]) -> None:
    """Those of the request before are known again, and one that was changed in place is seen."""
    params: dict[str, Any] = {"model": "m", "tools": [{"name": "look_up"}]}
    talk = [{"role": "user", "content": "go"}]
    first = request(talk, params)
    if known:
        known = {message.digest for message in first.messages}
    again = read_request(talk, params, known=known, contents={}, before=first.talk)
    assert again == request(talk, params, known)
    params["tools"][0]["name"] = "charge"
    changed = read_request(talk, params, known=known, contents={}, before=first.talk)
    assert changed == request(talk, params, known)
    assert changed.params != first.params


@pytest.mark.parametrize(
    "made", [lambda: "x", lambda: {"a": ["b"]}, lambda: SimpleNamespace(a="b")]
)
def test_a_message_that_was_changed_in_place_is_read_anew(made: Any) -> None:
    """What a hook does to a message of an earlier request is seen, however deep."""
    call: dict[str, Any] = {"function": made()}
    talk = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    before = read_request(talk, {}, known=frozenset(), contents={}).talk
    if isinstance(call["function"], SimpleNamespace):
        call["function"].a = "c"
    elif isinstance(call["function"], dict):
        call["function"]["a"].append("c")
    else:
        call["function"] = "y"
    got = read_request(talk, {}, known=frozenset(), contents={}, before=before)
    assert got.digest == read_request(talk, {}, known=frozenset(), contents={}).digest


def test_the_conversation_a_task_ends_with_is_the_one_that_was_sent() -> None:
    """CrewAI's mark for caching and None for no content are gone by then: it is stored once."""
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    sent = [
        {"role": "user", "content": "go", "cache_breakpoint": True},
        {"role": "assistant", "content": None, "tool_calls": calls},
    ]
    shown = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": "", "tool_calls": calls},
    ]
    assert request(sent).tip == request(shown).tip
    assert all("cache_breakpoint" not in message.body for message in request(sent).messages)


def test_repeated_content_is_stored_once() -> None:
    """A message that repeats a step's result word for word points at the step."""
    long = "x" * 100
    got = read_request(
        [{"role": "tool", "content": long}], {}, known=frozenset(), contents={long: "s1"}
    )
    message = got.messages[-1]
    assert message.content_step == "s1"
    assert long not in message.body


@given(st.text(), st.text())
def test_scope_parts_never_break_the_path(role: str, other: str) -> None:
    """Whatever an agent is called, its scope is one part of a path."""
    assert "/" not in path_part(role)
    scope = Scope(path="tasks/0").of_agent(role)
    assert scope.path.count("/") == 2
    assert related(scope.path, "tasks/0")
    assert step_id(scope.path, "model", other, 0) != step_id(scope.path, "model", other, 1)


def test_digest_tells_parts_from_their_sum() -> None:
    """`ab` + `c` is not `a` + `bc`."""
    assert digest(b"ab", b"c") != digest(b"a", b"bc")


def test_history_is_followed_in_order_and_only_alike() -> None:
    """A drifted call gets the next unmet answer of its scope, if model and tools are the same."""
    history = History([step(1), step(2), step(3, scope="tasks/1/A")])
    assert history.take("s1") is not None
    followed = history.follow("tasks/0/A", "p")
    assert followed is not None
    assert followed.step_id == "s2"
    assert history.follow("tasks/0/A", "p") is None
    assert history.follow("tasks/1/A", "other") is None


def test_what_this_session_did_is_not_followed_unless_rewound() -> None:
    """A guardrail's retry must not be given the answer it rejected; an error's retry is."""
    history = History([])
    history.add(step(1))
    assert history.follow("tasks/0/A", "p") is None
    history.rewind("tasks/0/A")
    assert history.follow("tasks/0/A", "p") is not None


def test_went_on() -> None:
    """A failure was survived if something happened after it in or around its scope."""
    failed = step(1, status=StepStatus.FAILED)
    assert not History([failed]).went_on(failed)
    assert not History([failed, step(2, scope="tasks/1/A")]).went_on(failed)
    assert History([failed, step(2, scope="tasks/0")]).went_on(failed)
    assert History([failed, step(2, scope="tasks/0/A/tool~1/B")]).went_on(failed)


def test_a_cached_result_is_no_sign_that_a_run_went_on() -> None:
    """It is handed out again on the way to the call that failed, and is no answer of a model."""
    failed = step(1, status=StepStatus.FAILED)
    hit = step(2, kind=StepKind.FUNCTION, effect=CACHED)
    history = History([failed, hit])
    assert not history.went_on(failed)
    assert history.last_within("tasks/0") == failed


def test_a_question_that_came_to_nothing_takes_no_number() -> None:
    """Looking something up that is not recorded leaves the order of steps as it was."""
    walk = Walk()
    asked = walk.identify(AT, StepKind.FUNCTION, "cached look_up", "d")
    walk.look_up(asked)
    walk.withdraw(asked)
    made = walk.identify(AT, StepKind.TOOL, "look_up", "d")
    walk.look_up(made)
    assert made.seq == 1


def test_distrust_touches_the_last_answer_alone() -> None:
    """A task that could do nothing with an answer asks for that one anew."""
    history = History([step(1), step(2)])
    history.distrust("tasks/0")
    assert [history.failed(one) for one in ("s1", "s2")] == [False, True]
    with_tool = History([step(1), step(2, kind=StepKind.TOOL)])
    with_tool.distrust("tasks/0")
    assert not with_tool.failed("s2")


def definition(position: int, **parts: str) -> TaskDefinition:
    """A task as it is now."""
    text = json.dumps(parts, sort_keys=True)
    return TaskDefinition(position=position, name=f"t{position}", fingerprint=text, parts=parts)


def record(position: int, status: TaskStatus = TaskStatus.DONE, **parts: str) -> TaskRecord:
    """A task as it was."""
    now = definition(position, **parts)
    return TaskRecord(
        position=position,
        name=now.name,
        agent="A",
        fingerprint=now.fingerprint,
        parts=json.dumps(parts),
        status=status,
        started_at=0.0,
    )


def test_plans() -> None:
    """Finished and unchanged: kept. Changed: as asked. Unfinished: walked."""
    now = [definition(0, d="1"), definition(1, d="2"), definition(2, d="3")]
    then = [record(0, d="1"), record(1, d="old")]
    verdicts = {
        choice: [plan.verdict for plan in plan_tasks(now, then, choice)]
        for choice in ("keep", "rerun")
    }
    assert verdicts["keep"] == [Verdict.KEEP, Verdict.KEEP, Verdict.EXECUTE]
    assert verdicts["rerun"] == [Verdict.KEEP, Verdict.AGAIN, Verdict.EXECUTE]
    assert plan_tasks(now, then, "rerun")[1].generation == 1
    running = plan_tasks(now, [record(0, TaskStatus.RUNNING, d="old")], "keep")[0]
    assert (running.verdict, running.follow) == (Verdict.EXECUTE, False)


def test_changes_name_the_parts() -> None:
    """A refusal can say which task differs in what, and which is gone."""
    found = changes([definition(0, d="1", e="2")], [record(0, d="1", e="x"), record(1, d="1")])
    assert [(change.task, change.parts) for change in found] == [
        ("t0", ("e",)),
        ("t1", ("removed",)),
    ]


@pytest.mark.parametrize(("failed_sessions", "replayed"), [((), True), ((1,), False)])
def test_a_tool_that_failed_is_not_run_again(
    failed_sessions: tuple[int, ...], replayed: bool
) -> None:
    """A failed tool may have acted: it is tried anew only if the run ended by its failure."""
    scope = Scope(path="tasks/0/A")
    name = step_id(scope.path, "tool", "d", 0)
    failed = step(1, step_id=name, kind=StepKind.TOOL, status=StepStatus.FAILED, epoch=1)
    walk = Walk([failed], failed_sessions)
    ticket = walk.identify(scope, StepKind.TOOL, "charge", "d", acts=True)
    walk.look_up(ticket)
    assert (ticket.recorded == failed) is replayed
    assert (ticket.attempt == 2) is not replayed


def test_what_a_task_kicks_off_is_over_when_its_agent_works_on() -> None:
    """A guardrail's agent has judged; its work and that of other tasks say nothing of it."""
    task = Scope(path="tasks/3")
    judge = task.of_nested("Judge", "1f2e3d4c5b", 1).of_agent("Judge").path
    agent = task.of_agent("Clerk")
    assert works_on(agent.path, judge)
    assert not works_on(judge, agent.path)
    assert not works_on(judge, judge)
    assert not works_on(Scope(path="tasks/1").of_agent("Clerk").path, judge)
    asked = agent.inside("ask", "1f2e3d4c5b").of_nested("Judge", "1f2e3d4c5b", 0)
    assert not works_on(agent.path, asked.of_agent("Judge").path)


def test_an_answer_of_the_wrong_form_is_told_not_asked_for_again() -> None:
    """It was paid for. A run that was killed tells the model; one it has ended asks anew."""
    wrong = json.dumps({"type": "ValidationError"}, separators=(",", ":"))
    recorded = step(1, status=StepStatus.FAILED, error=wrong, epoch=1)
    other = step(1, status=StepStatus.FAILED, error='{"type":"APIError"}', epoch=1)

    def replayed(one: StepRecord, failed_sessions: Any) -> bool:
        walk = Walk([one], failed_sessions)
        ticket = walk.identify(AT, StepKind.MODEL, "m", "d1")
        ticket.step_id = one.step_id
        walk.look_up(ticket)
        return ticket.recorded is not None

    assert replayed(recorded, ())
    assert not replayed(recorded, (1,))
    assert not replayed(other, ())


def test_what_was_called_is_what_this_session_has_come_to() -> None:
    """A call that is on record but lies ahead has not been made yet; what is in a body has been."""
    asked = step(1, kind=StepKind.TOOL, name="delegate")
    body = Scope(path=AT.path).inside("delegate", "s1").path
    inner = step(2, f"{body}/B", kind=StepKind.TOOL, name="charge")
    failed = step(3, kind=StepKind.TOOL, name="send", status=StepStatus.FAILED)
    told = step(4, kind=StepKind.TOOL, name="post", result='{"$":"tool_failure","v":{}}')
    history = History([asked, inner, failed, told, step(5)])
    assert history.called("tasks/0") == {}
    for one in ("s3", "s4", "s5"):
        history.take(one)
    assert history.called("tasks/0") == {"send": False, "post": False}
    history.take("s1")
    called = {"send": False, "post": False, "delegate": True, "charge": True}
    assert history.called("tasks/0") == called
    assert history.called("tasks/1") == {}
