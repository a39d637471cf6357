"""What needs a person's word, and which answers count."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from crewai_prod.approval import (
    Approval,
    Reply,
    decision_of,
    expiry,
    merged,
    raised_limits,
    reason_to_ask,
    rule,
)
from crewai_prod.approving import without_secrets
from crewai_prod.errors import AnswerNotAllowed, ApprovalClosed, CrewProdError, UsageError
from crewai_prod.records import ApprovalRecord, Ruling, RunStatus
from crewai_prod.redact import MARK

PAUSED = RunStatus.PAUSED
YES, NO = Reply(verdict="approved", by="ann"), Reply(verdict="rejected", note="no", by="ann")


def asked(**changes: Any) -> ApprovalRecord:
    """A tool's question."""
    values: dict[str, Any] = {
        "id": 1,
        "run_id": "r",
        "step_id": "s",
        "kind": "tool",
        "tool": "charge",
        "arguments": '{"amount":7}',
        "status": "open",
        "asked_at": 0.0,
    }
    return ApprovalRecord(**(values | changes))


@pytest.mark.parametrize(
    ("approval", "arguments", "more", "why"),
    [
        (Approval(), {}, {}, "declared"),
        (Approval(above={"amount": 100}), {"amount": 100}, {}, None),
        (Approval(above={"amount": 100}), {"amount": 100.01}, {}, "amount"),
        (Approval(above={"amount": 100}), {"amount": "１０１"}, {}, "amount"),  # noqa: RUF001 - wide digits
        (Approval(above={"amount": 100}), {"amount": " 7 "}, {}, None),
        (Approval(above={"amount": 100}), {}, {}, "amount"),
        (Approval(above={"amount": 100}), {"amount": "a lot"}, {}, "amount"),
        (Approval(above={"amount": 100}), {"amount": True}, {}, "amount"),
        (Approval(above={"amount": 100}), {"amount": float("nan")}, {}, "amount"),
        (Approval(above={"amount": 100}), {"amount": {"value": 1}}, {}, "amount"),
        (Approval(above={"amount": 100}), {"amount": float("-inf")}, {}, None),
        (Approval(after_taint=True), {}, {}, None),
        (Approval(after_taint=True), {}, {"tainted": ["page"]}, "taint"),
        (Approval(first_use=True), {}, {}, "first_use"),
        (Approval(first_use=True), {}, {"used": True}, None),
        (Approval(first_use=True, after_taint=True), {}, {"used": True, "tainted": ["x"]}, "taint"),
    ],
)
def test_when_a_person_is_asked(
    approval: Approval, arguments: dict[str, Any], more: dict[str, Any], why: str | None
) -> None:
    """Any condition will do; one that cannot be read counts as fulfilled."""
    assert reason_to_ask(approval, arguments, **more) == why


@pytest.mark.parametrize(
    "wrong",
    [
        {"above": {}},
        {"above": {"amount": "much"}},
        {"above": 100},
        {"who": [""]},
        {"who": [7]},
        {"expires": 0},
        {"expires": "soon"},
        {"expires": float("inf")},
        {"default": "maybe"},
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    """When it is written, not when a person is asked."""
    with pytest.raises(UsageError):
        Approval(**wrong)


def test_the_short_forms() -> None:
    """True is always, False and None are never, one name is a list of one."""
    assert Approval.read(True) == Approval()
    assert Approval.read(False) is Approval.read(None) is None
    assert Approval(who="ann").who == ("ann",)
    assert Approval(expires=timedelta(hours=1)).seconds == 3600.0
    with pytest.raises(UsageError):
        Approval.read("yes")


def test_an_answer_decides() -> None:
    """What was said comes back as it was."""
    ruling = rule(asked(), PAUSED, Reply(verdict="approved", by="ann", note="ok"))
    assert (ruling.status, ruling.verdict, ruling.by) == ("answered", "approved", "ann")
    assert (ruling.holds, ruling.holds_until) == (None, None)
    decided = asked(
        status="answered", verdict="approved", answer=ruling.answer, answered_by=ruling.by
    )
    decision = decision_of(decided)
    assert (decision.approved, decision.note, decision.by) == (True, "ok", "ann")
    changed = rule(asked(), PAUSED, Reply(verdict="approved", edited={"amount": 1}, has_edit=True))
    assert json.loads(changed.answer) == {"decision": "approved", "edited": {"amount": 1}}
    wide = rule(asked(), PAUSED, Reply(verdict="approved", holds="tool", minutes=5), now=10.0)
    assert (wide.holds, wide.holds_until) == ("tool", 310.0)


@pytest.mark.parametrize(
    ("question", "status", "reply", "error"),
    [
        (asked(status="answered", verdict="approved"), PAUSED, NO, ApprovalClosed),
        (asked(status="expired", verdict="rejected"), PAUSED, YES, ApprovalClosed),
        (asked(status="closed"), PAUSED, YES, ApprovalClosed),
        (asked(), RunStatus.COMPLETED, YES, ApprovalClosed),
        (asked(), RunStatus.CANCELLED, YES, ApprovalClosed),
        (asked(who='["ops"]'), PAUSED, YES, AnswerNotAllowed),
        (asked(who='["ops"]'), PAUSED, Reply(verdict="approved"), AnswerNotAllowed),
        (asked(), PAUSED, Reply(verdict="done"), UsageError),
        (asked(), PAUSED, Reply(verdict="rejected", edited={}, has_edit=True), UsageError),
        (asked(), PAUSED, Reply(verdict="approved", edited=[7], has_edit=True), UsageError),
        (asked(), PAUSED, Reply(verdict="approved", holds="tool"), UsageError),
        (asked(), PAUSED, Reply(verdict="approved", holds="tool", minutes=-1), UsageError),
        (asked(), PAUSED, Reply(verdict="approved", holds="tool", minutes=1e999), UsageError),
        (asked(), PAUSED, Reply(verdict="approved", holds="run", minutes=1), UsageError),
        (asked(), PAUSED, Reply(verdict="approved", minutes=1), UsageError),
        (asked(), PAUSED, Reply(verdict="approved", holds="world"), UsageError),
        (asked(), PAUSED, Reply(verdict="rejected", holds="run"), UsageError),
        (asked(kind="guard"), PAUSED, Reply(verdict="approved", holds="run"), UsageError),
        (asked(kind="unknown_outcome"), PAUSED, YES, UsageError),
    ],
)
def test_what_is_no_answer(
    question: ApprovalRecord, status: RunStatus, reply: Reply, error: type[CrewProdError]
) -> None:
    """Too late, not asked, or without sense: each is told so, and nothing is decided."""
    with pytest.raises(error):
        rule(question, status, reply)


def test_nobodys_answer() -> None:
    """Once the time is over the default counts, whoever answers then."""
    question = asked(expires_at=100.0, on_expiry="approved")
    assert expiry(question, 99.9) is None
    expired = Ruling(status="expired", verdict="approved", answer='{"decision":"approved"}')
    assert expiry(question, 100.0) == expired
    assert rule(question, PAUSED, NO, now=100.0) == expired
    assert rule(question, PAUSED, NO, now=99.9).verdict == "rejected"
    assert expiry(asked(expires_at=1.0), 2.0) == Ruling(
        status="expired", verdict="rejected", answer='{"decision":"rejected"}'
    )
    late = decision_of(asked(status="expired", verdict="rejected", answer="{}"))
    assert (late.by, late.note) == (None, "Nobody has answered in time.")


FORM = json.dumps(
    {
        "properties": {"amount": {"type": "integer"}, "to": {"$ref": "#/$defs/To"}},
        "$defs": {"To": {"type": "object", "properties": {"name": {"type": "string"}}}},
        "required": ["amount", "to"],
    }
)


@pytest.mark.parametrize(
    ("edited", "fits"),
    [
        ({"amount": 5}, True),
        ({"to": {"name": "ann"}}, True),
        ({"amount": MARK}, True),
        ({"amount": "5"}, False),
        ({"to": {"name": 5}}, False),
        ({"other": 5}, False),
    ],
)
def test_changed_arguments_have_to_fit_the_tool(edited: dict[str, Any], fits: bool) -> None:
    """As far as its schema says: when they are given, not when the run is resumed."""
    reply = Reply(verdict="approved", edited=edited, has_edit=True)
    question = asked(form=FORM, arguments=json.dumps({"amount": MARK}))
    if fits:
        assert rule(question, PAUSED, reply).verdict == "approved"
        return
    with pytest.raises(UsageError, match="charge"):
        rule(question, PAUSED, reply)


def test_a_schema_that_points_elsewhere_is_not_followed() -> None:
    """Nothing is fetched; what cannot be checked here is checked by the tool."""
    form = json.dumps({"properties": {"amount": {"$ref": "http://127.0.0.1:9/schema"}}})
    reply = Reply(verdict="approved", edited={"amount": 5}, has_edit=True)
    assert rule(asked(form=form), PAUSED, reply).verdict == "approved"


def test_a_change_keeps_what_it_does_not_name() -> None:
    """A mark in the place of a secret stands for the secret."""
    before = {"amount": 7, "card": "4111", "to": {"name": "ann", "pin": 1}, "cc": ["ann", "key"]}
    to = {"name": "ben", "pin": MARK}
    after = merged(before, {"amount": 5, "card": MARK, "to": to, "cc": ["ben", f"a {MARK}", "c"]})
    assert after == {
        "amount": 5,
        "card": "4111",
        "to": {"name": "ben", "pin": 1},
        "cc": ["ben", "key", "c"],
    }


@pytest.mark.parametrize(
    ("edited", "kept"),
    [
        ({"cc": ["ben", MARK]}, True),
        ({"cc": [MARK, "ben"]}, False),
        ({"cc": ["ann", MARK, MARK]}, False),
        ({"body": f"key {MARK}"}, True),
        ({"body": f"key {MARK}!"}, False),
        ({"other": {"pin": MARK}}, False),
    ],
)
def test_a_mark_is_kept_where_it_was_shown(edited: dict[str, Any], kept: bool) -> None:
    """Nothing is done with the mark itself: where it stands for nothing, the answer is refused."""
    shown = json.dumps({"cc": ["ann", MARK], "body": f"key {MARK}"})
    reply = Reply(verdict="approved", edited=edited, has_edit=True)
    if kept:
        assert rule(asked(arguments=shown), PAUSED, reply).verdict == "approved"
        return
    with pytest.raises(UsageError, match="stands for what you are not shown"):
        rule(asked(arguments=shown), PAUSED, reply)


def test_limits_are_raised() -> None:
    """By at least the one that stands in the way; money stays exact."""
    question = asked(kind="budget", arguments='{"limit":"max_usd","most":"2"}')
    assert raised_limits(question, {"max_usd": 2.5}) == {"max_usd": "2.5"}
    assert raised_limits(question, {"max_usd": "3", "max_tokens": 9}) == {
        "max_usd": "3",
        "max_tokens": 9,
    }
    for wrong in (None, {}, {"max_usd": 2}, {"max_usd": "x"}, {"max_usd": 3, "x": 1}, {"x": 9}):
        with pytest.raises(UsageError):
            raised_limits(question, wrong)
    assert expiry(asked(kind="budget", expires_at=1.0), 2.0) is not None


def test_a_question_shows_no_secret() -> None:
    """Of its arguments what names or looks like a secret is taken out before it is stored."""
    key = "sk-proj-" + "a" * 40
    shown = without_secrets(json.dumps({"api_key": "abc", "text": f"use {key}", "amount": 7}))
    assert shown is not None
    assert "abc" not in shown
    assert key not in shown
    assert json.loads(shown)["amount"] == 7
