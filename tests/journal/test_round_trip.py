"""What is written is what is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crewai_prod.errors import ApprovalNotFound, RunNotFound, UsageError
from crewai_prod.journal import Journal, SqliteJournal, open_journal
from crewai_prod.journal._base import Judge
from crewai_prod.records import (
    ApprovalRecord,
    AttemptRecord,
    Cost,
    CostStatus,
    MessageRecord,
    Ruling,
    RunStatus,
    StepKind,
    StepRecord,
    StepStatus,
    TaskRecord,
    TaskStatus,
    Usage,
    VerdictKind,
)
from tests.journal.support import (
    attempt,
    message,
    model_step,
    new_run,
    question,
    rows,
    step,
    take,
    task,
    verdict,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
maybe = st.none() | texts
counts = st.integers(0, 2**63 - 1)
times = st.floats(0, 4e9)
usages = st.none() | st.builds(
    Usage,
    input_tokens=counts,
    output_tokens=counts,
    cache_read_tokens=counts,
    cache_write_tokens=counts,
    reasoning_tokens=counts,
    calls=counts,
)
steps = st.builds(
    StepRecord,
    seq=counts,
    step_id=texts,
    scope=texts,
    kind=st.sampled_from(StepKind),
    name=texts,
    digest=texts,
    occurrence=counts,
    agent=maybe,
    task=st.none() | st.integers(0, 99),
    status=st.sampled_from(StepStatus),
    effect=maybe,
    attempts=counts,
    arguments=maybe,
    request=maybe,
    params=maybe,
    result=maybe,
    error=maybe,
    usage=usages,
    model=maybe,
    provider=maybe,
    response_id=maybe,
    finish_reason=maybe,
    started_at=times,
    duration_ms=st.none() | times,
    cost=st.none()
    | st.builds(Cost, status=st.sampled_from(CostStatus), picousd=counts, source=maybe),
    route=maybe,
    output_size=st.none() | counts,
    output_cut=st.none() | counts,
    epoch=st.just(1),
)
tasks = st.builds(
    TaskRecord,
    position=st.integers(0, 99),
    generation=st.integers(0, 9),
    name=texts,
    agent=maybe,
    fingerprint=texts,
    parts=texts,
    status=st.sampled_from(TaskStatus),
    output=maybe,
    messages=maybe,
    error=maybe,
    started_at=times,
    finished_at=st.none() | times,
)
attempts = st.builds(
    AttemptRecord,
    step_id=texts,
    attempt=counts,
    status=st.sampled_from(StepStatus),
    error=maybe,
    usage=usages,
    started_at=times,
    duration_ms=st.none() | times,
    epoch=counts,
)
approvals = st.builds(
    ApprovalRecord,
    id=st.just(0),
    run_id=st.just("r"),
    step_id=maybe,
    kind=texts,
    tool=maybe,
    arguments=maybe,
    status=st.just("open"),
    asked_at=times,
    expires_at=st.none() | times,
    scope=maybe,
    task=maybe,
    agent=maybe,
    why=maybe,
    about=maybe,
    who=maybe,
    on_expiry=maybe,
    form=maybe,
    remark=maybe,
)
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(step=steps, attempt=attempts, task=tasks, approval=approvals, run=st.tuples(texts, maybe))
@quick
def test_records_survive_the_disk(
    tmp_path_factory: pytest.TempPathFactory,
    step: StepRecord,
    attempt: AttemptRecord,
    task: TaskRecord,
    approval: ApprovalRecord,
    run: tuple[str, str | None],
) -> None:
    """Any step, attempt, task, approval and run comes back equal, whatever its texts hold."""
    journal = open_journal(tmp_path_factory.mktemp("j") / "runs.db", durability="process")
    run_id, inputs = run
    lease = take(journal, run_id, inputs=inputs, crew=inputs, kind=run_id)
    journal.finish_step(lease, step, attempt=attempt)
    journal.save_task(lease, task)
    asked = journal.ask(lease, approval)
    assert journal.steps(run_id) == [step]
    assert journal.attempts(run_id) == [attempt]
    assert journal.tasks(run_id) == [task]
    assert journal.approvals(run_id) == [replace(approval, id=asked, run_id=run_id)]
    stored = journal.run(run_id)
    assert (stored.run_id, stored.inputs, stored.crew, stored.kind) == (
        run_id,
        inputs,
        inputs,
        run_id,
    )
    journal.finish_run(lease, RunStatus.FAILED, reason=run_id, result=inputs, error=inputs)
    ended = journal.run(run_id)
    assert (ended.reason, ended.result, ended.error) == (run_id, inputs, inputs)
    again = journal.open_run(
        new_run(run_id, kind=run_id, inputs=inputs), lease.owner, lease_seconds=9
    )
    finished = task.status is TaskStatus.DONE and step.task == task.position
    kept = step._replace(arguments=None, result=None) if finished else step
    assert again.steps == (kept,)
    assert again.attempts == (attempt,)
    assert again.tasks == (() if task.status is TaskStatus.SUPERSEDED else (task,))
    journal.close()


def test_verdicts_come_with_what_they_are_committed_with(journal: SqliteJournal) -> None:
    """In the order in which they were said, whatever carried them, and to whoever resumes."""
    lease = take(journal)
    said = [
        verdict(guard=name, verdict=kind) for name, kind in zip("abcdef", VerdictKind, strict=True)
    ]
    journal.add_verdicts(lease, said[:2])
    journal.finish_step(lease, step(), verdicts=said[2:4])
    journal.save_task(lease, task(), verdicts=said[4:])
    assert journal.verdicts("r") == said
    journal.finish_run(lease, RunStatus.FAILED)
    assert journal.open_run(new_run(), lease.owner, lease_seconds=9).verdicts == tuple(said)
    (summed,) = rows(journal.location, "SELECT sum(judged), sum(rejected) FROM guard_verdicts")
    assert summed == (5, 1), "taint is said by no guard"


@pytest.mark.parametrize("change", [{"result": '"\ud800"'}, {"scope": "\udfff"}, {"seq": 2**63}])
def test_a_value_without_a_place_is_refused(
    journal: SqliteJournal, path: Path, change: dict[str, Any]
) -> None:
    """Lone surrogates and integers above 64 bits are usage errors, and nothing is written."""
    lease = take(journal)
    with pytest.raises(UsageError, match="cannot be stored") as caught:
        journal.finish_step(lease, step(**change), messages=[message()])
    assert isinstance(caught.value.__cause__, (UnicodeEncodeError, OverflowError))
    assert rows(path, "SELECT count(*) FROM steps") == [(0,)]
    assert rows(path, "SELECT count(*) FROM messages") == [(0,)]
    journal.finish_step(lease, step())


def test_a_started_step_is_completed_in_place(journal: SqliteJournal, path: Path) -> None:
    """The row of the intent becomes the row of the outcome, and keeps its place in the order."""
    lease = take(journal)
    begun = step(3, status=StepStatus.STARTED, result=None, duration_ms=None, effect="write")
    journal.start_step(lease, begun)
    assert journal.steps("r") == [begun]
    done = begun._replace(seq=9, status=StepStatus.DONE, result="1", attempts=2, started_at=7.0)
    journal.finish_step(lease, done)
    assert journal.steps("r") == [done._replace(seq=3)]
    assert rows(path, "SELECT count(*) FROM steps") == [(1,)]


def test_a_failed_try_becomes_an_attempt(journal: SqliteJournal) -> None:
    """A step tried again keeps one row; the earlier try and its cost are an attempt."""
    lease = take(journal)
    failed = model_step(status=StepStatus.FAILED, result=None, error='{"type":"E"}')
    journal.finish_step(lease, failed)
    done = model_step(attempts=2)
    journal.finish_step(lease, done, attempt=attempt(usage=failed.usage))
    assert journal.steps("r") == [done]
    assert journal.attempts("r") == [attempt(usage=failed.usage)]
    assert journal.runs()[0].total_tokens == 30
    assert journal.runs()[0].llm_calls == 2


def test_a_step_without_usage_takes_that_of_the_failed_try_away(journal: SqliteJournal) -> None:
    """What a failed try cost is not counted again in the outcome that replaces it."""
    lease = take(journal)
    cost = Usage(input_tokens=1, output_tokens=1, calls=1)
    journal.finish_step(lease, step(status=StepStatus.FAILED, usage=cost, model="m"))
    journal.finish_step(lease, step(attempts=2), attempt=attempt(usage=cost))
    assert journal.steps("r")[0].usage is None
    assert journal.steps("r")[0].model is None
    assert journal.runs()[0].total_tokens == 2


def test_the_intent_of_another_try_keeps_the_one_that_failed(journal: SqliteJournal) -> None:
    """A call that acts and is made again has an intent for each try; none is lost meanwhile."""
    lease = take(journal)
    journal.start_step(lease, step(status=StepStatus.STARTED, result=None))
    journal.finish_step(lease, step(status=StepStatus.FAILED, result=None, error='{"type":"E"}'))
    again = step(status=StepStatus.STARTED, result=None, attempts=2)
    journal.start_step(lease, again, attempt=attempt(usage=None))
    assert [(s.status, s.attempts, s.error) for s in journal.steps("r")] == [
        (StepStatus.STARTED, 2, None)
    ]
    assert journal.attempts("r") == [attempt(usage=None)]
    journal.finish_step(lease, step(attempts=2))
    assert journal.steps("r") == [step(attempts=2)]


def test_an_outcome_is_never_overwritten(journal: SqliteJournal) -> None:
    """A second outcome for a step that has one is a programming error; the first one stays."""
    from crewai_prod.errors import RunError

    lease = take(journal)
    journal.finish_step(lease, step())
    for write in (journal.start_step, journal.finish_step):
        with pytest.raises(RunError, match="outcome already"):
            write(lease, step(result='"other"'))
    assert journal.steps("r")[0].result == '"found"'


def test_messages_are_stored_once(journal: SqliteJournal, path: Path) -> None:
    """The same digest written again changes nothing; another run has its own."""
    first, second = take(journal, "r"), take(journal, "other")
    journal.finish_step(first, model_step(1), messages=[message()])
    journal.finish_step(first, model_step(2), messages=[message(), message("m2", "m1")])
    journal.save_task(second, task(), messages=[message()])
    assert rows(path, "SELECT run, digest FROM messages ORDER BY id") == [
        (1, "m1"),
        (1, "m2"),
        (2, "m1"),
    ]


def test_a_conversation_is_whole_again(journal: SqliteJournal) -> None:
    """Contents that were left out because a step holds them are filled in."""
    lease = take(journal)
    journal.finish_step(lease, step(1, result='"the tide\\nrises"'))
    recorded = '{"$":"object","v":{"type":"T","text":"shown","data":null}}'
    journal.finish_step(lease, step(2, result=recorded))
    chain = [
        message("m1"),
        message("m2", "m1", role="tool", body='{"role":"tool"}', content_step=step(1).step_id),
        message("m3", "m2", role="tool", body='{"role":"tool"}', content_step=step(2).step_id),
        message("m4", "m2"),
    ]
    journal.finish_step(lease, model_step(3, request="m3"), messages=chain)
    assert journal.conversation("r", "m3") == [
        {"role": "user", "content": "hello"},
        {"role": "tool", "content": "the tide\nrises"},
        {"role": "tool", "content": "shown"},
    ]
    assert len(journal.conversation("r", "m4")) == 3
    assert journal.conversation("r", "unknown") == []


def _ruled(ruling: Ruling) -> Judge:
    return lambda asked, run: ruling


def test_a_question_is_asked_once_and_answered_once(journal: SqliteJournal) -> None:
    """One open row per run, step, kind, scope and subject; the first ruling stays."""
    lease = take(journal)
    number = journal.ask(lease, question())
    assert journal.ask(lease, question(asked_at=9.0)) == number
    others: list[dict[str, Any]] = [
        {"step_id": None},
        {"scope": "t"},
        {"about": "a"},
        {"kind": "k"},
    ]
    assert number not in [journal.ask(lease, question(**other)) for other in others]
    assert journal.answer(number, lambda asked, run: None).status == "open"
    first = Ruling(status="answered", verdict="rerun", answer='{"decision":"rerun"}', by="ann")
    for ruling in (first, replace(first, verdict="fail", by="ben")):
        said = journal.answer(number, _ruled(ruling))
        assert (said.status, said.verdict, said.answered_by) == ("answered", "rerun", "ann")
    assert journal.approvals(status="answered") == [journal.approval(number)]
    assert journal.approval(number).answer == '{"decision":"rerun"}'
    assert journal.approval(number).answered_at is not None
    with pytest.raises(ApprovalNotFound):
        journal.answer(99, lambda asked, run: first)
    assert journal.ask(lease, question()) != number
    assert len(journal.approvals("r")) == 6


def test_a_question_is_told_of_once_and_ends_with_its_run(journal: SqliteJournal) -> None:
    """The first who claims it may tell; a completed run has no open questions."""
    lease = take(journal)
    number = journal.ask(lease, question())
    assert [journal.claim_notice(number) for _ in range(2)] == [True, False]
    journal.finish_run(lease, RunStatus.COMPLETED)
    assert journal.approval(number).status == "closed"


def test_unknown_runs_are_not_found(journal: SqliteJournal) -> None:
    """Each reader of one run says that there is none."""
    contract: Journal = journal
    readers = (
        contract.run,
        contract.transitions,
        contract.tasks,
        contract.steps,
        contract.attempts,
        contract.approvals,
        lambda run_id: contract.conversation(run_id, "m1"),
    )
    for read in readers:
        with pytest.raises(RunNotFound) as caught:
            read("nobody")
        assert caught.value.run_id == "nobody"


def test_a_message_record_needs_no_content(journal: SqliteJournal) -> None:
    """A conversation whose step is gone shows the message without content."""
    lease = take(journal)
    lost = MessageRecord(
        digest="m1", parent=None, role="tool", body='{"role":"tool"}', content_step="gone"
    )
    journal.save_task(lease, task(), messages=[lost])
    assert journal.conversation("r", "m1") == [{"role": "tool", "content": None}]
