"""Answers that nobody gave, gave twice, or may not give: to questions that runs wait for."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from crewai_prod import approve, reject
from crewai_prod.cli._serving import make_app
from crewai_prod.errors import AnswerNotAllowed, ApprovalClosed, CrewProdError, UsageError
from crewai_prod.journal import SqliteJournal, new_owner, open_journal
from crewai_prod.records import ApprovalRecord, Lease, NewRun, RunStatus
from crewai_prod.signing import Signer, tokens_in
from tests.attack.case import Case

ANN, NOBODY = "token-of-ann-0123456789", "token-of-nobody-0123456789"
SECRET = "what-is-asked-about-7391"
_FORM = json.dumps(
    {
        "type": "object",
        "properties": {"amount": {"type": "integer"}, "note": {"type": "string"}},
        "additionalProperties": False,
    }
)


@dataclass(slots=True)
class Desk:
    """A journal with a run that waits, and the server in front of it."""

    journal: SqliteJournal
    path: Path
    lease: Lease
    client: TestClient
    signer: Signer

    def ask(self, run_id: str = "r", **changes: Any) -> ApprovalRecord:
        """A question, put to whoever may answer."""
        values: dict[str, Any] = {
            "id": 0,
            "run_id": run_id,
            "step_id": "1" * 16,
            "kind": "tool",
            "tool": "charge",
            "arguments": json.dumps({"amount": 7, "note": SECRET}),
            "form": _FORM,
            "status": "open",
            "asked_at": 1_700_000_000.0,
            "about": json.dumps(changes, default=str),
            "why": "declared",
        }
        lease = self.lease if run_id == "r" else _start(self.journal, run_id)
        return self.journal.approval(self.journal.ask(lease, ApprovalRecord(**(values | changes))))

    def is_open(self, question: ApprovalRecord) -> bool:
        """Whether nothing has been decided."""
        now = self.journal.approval(question.id)
        return (now.status, now.verdict, now.answer) == ("open", None, None)

    def post(self, number: object, said: Any = None, **options: Any) -> Any:
        """An answer over HTTP; by default `approve`."""
        given: dict[str, Any] = {"json": said or {"decision": "approve"}, **options}
        return self.client.post(f"/approvals/{number}", **given)


def _start(journal: SqliteJournal, run_id: str) -> Lease:
    new = NewRun(
        run_id=run_id, kind="crew", crew="desk", inputs=None, inputs_digest="d", versions="{}"
    )
    opened = journal.open_run(new, new_owner(), lease_seconds=60.0)
    assert opened.lease is not None
    return opened.lease


@contextmanager
def _desk(folder: Path) -> Iterator[Desk]:
    path = folder / "runs.db"
    journal = open_journal(path, durability="process")
    signer = Signer(b"k" * 32)
    app = make_app(journal, tokens_in(f"ann={ANN},{NOBODY}"), signer)
    try:
        yield Desk(journal, path, _start(journal, "r"), TestClient(app), signer)
    finally:
        journal.close()


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def right_answers(folder: Path) -> list[int]:
    """The statuses of two answers that are as they should be."""
    with _desk(folder) as desk:
        first, second = desk.ask(about="1"), desk.ask(about="2", who='["ann"]')
        by_token = desk.post(first.id, headers=_bearer(NOBODY))
        by_link = desk.post(second.id, params={"t": desk.signer.token(second, "ann")})
        return [by_token.status_code, by_link.status_code]


# -- who has no right -----------------------------------------------------------------------------

Forge = Callable[[Desk, ApprovalRecord], Any]


def _signed(desk: Desk, question: ApprovalRecord, by: str | None = None) -> str:
    return desk.signer.token(question, by)


def _bent(desk: Desk, question: ApprovalRecord, *, at: int) -> str:
    token = _signed(desk, question)
    other = "A" if token[at] != "A" else "B"
    return token[:at] + other + token[at + 1 :]


def _other_payload(desk: Desk, question: ApprovalRecord) -> str:
    """The signature of one's own link under what it would be for the boss."""
    payload, _, signature = _signed(desk, question, "ann").partition(".")
    raw = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)).replace(b"ann", b"boss")
    return f"{base64.urlsafe_b64encode(raw).decode().rstrip('=')}.{signature}"


def _get(desk: Desk, question: ApprovalRecord, **options: Any) -> Any:
    return desk.client.get(f"/approvals/{question.id}", **options)


FORGED: dict[str, Forge] = {
    "no token": lambda d, q: d.post(q.id),
    "an empty token": lambda d, q: d.post(q.id, headers={"Authorization": "Bearer "}),
    "a guessed token": lambda d, q: d.post(q.id, headers=_bearer("a" * 24)),
    "the beginning of a token": lambda d, q: d.post(q.id, headers=_bearer(ANN[:-1])),
    "a token and more": lambda d, q: d.post(q.id, headers=_bearer(f"{ANN}x")),
    "a token in capitals": lambda d, q: d.post(q.id, headers=_bearer(ANN.upper())),
    "another scheme": lambda d, q: d.post(q.id, headers={"Authorization": f"Basic {ANN}"}),
    "the server's token as a link": lambda d, q: d.post(q.id, params={"t": ANN}),
    "a name and its token": lambda d, q: d.post(q.id, headers=_bearer(f"ann={ANN}")),
    "a link with another signature": lambda d, q: d.post(q.id, params={"t": _bent(d, q, at=-2)}),
    "a link with another payload": lambda d, q: d.post(q.id, params={"t": _bent(d, q, at=3)}),
    "a link for somebody else": lambda d, q: d.post(q.id, params={"t": _other_payload(d, q)}),
    "a link without a signature": lambda d, q: d.post(
        q.id, params={"t": _signed(d, q).partition(".")[0] + "."}
    ),
    "a link of another key": lambda d, q: d.post(q.id, params={"t": Signer(b"x" * 32).token(q)}),
    "a link that is over": lambda d, q: d.post(
        q.id, params={"t": d.signer.token(q, until=time.time() - 1)}
    ),
    "a link of another question": lambda d, q: d.post(
        q.id, params={"t": _signed(d, d.ask(about="other"))}
    ),
    "a link of a question that was there before": lambda d, q: d.post(
        q.id, params={"t": _signed(d, replace(q, asked_at=q.asked_at - 1))}
    ),
    "a link that is no link": lambda d, q: d.post(q.id, params={"t": "\u00e9.." + "=" * 99}),
    "looking instead of answering": lambda d, q: _get(d, q, params={"decision": "approve"}),
    "a form of another site": lambda d, q: d.client.post(
        f"/approvals/{q.id}",
        data={"decision": "approve"},
        headers={"Origin": "https://evil.example", "Cookie": f"t={ANN}"},
    ),
    "the list without a token": lambda d, q: d.client.get("/approvals"),
    "the list with a link": lambda d, q: d.client.get("/approvals", params={"t": _signed(d, q)}),
    "another method": lambda d, q: d.client.put(
        f"/approvals/{q.id}", json={"decision": "approve"}, headers=_bearer("a" * 24)
    ),
}
"""Requests of somebody who has no right to the question."""


def _nothing_told(forge: Forge, folder: Path) -> bool:
    with _desk(folder) as desk:
        question = desk.ask()
        answer = forge(desk, question)
        told = SECRET in answer.text or "charge" in answer.text
        return 400 <= answer.status_code < 500 and not told and desk.is_open(question)


# -- who has a right, to something else -----------------------------------------------------------

BENT: dict[str, tuple[dict[str, Any], Forge]] = {
    "to say who one is": (
        {"who": '["boss"]'},
        lambda d, q: d.post(q.id, {"decision": "approve", "by": "boss"}, headers=_bearer(ANN)),
    ),
    "to answer for the boss": (
        {"who": '["boss"]'},
        lambda d, q: d.post(q.id, headers=_bearer(ANN)),
    ),
    "to answer without a name": (
        {"who": '["boss"]'},
        lambda d, q: d.post(q.id, headers=_bearer(NOBODY)),
    ),
    "a link without a name": (
        {"who": '["boss"]'},
        lambda d, q: d.post(q.id, params={"t": _signed(d, q)}),
    ),
    "a name that looks alike": (
        {"who": '["boss"]'},
        lambda d, q: d.post(q.id, params={"t": _signed(d, q, "b\u043ess")}),
    ),
    "an argument that the tool has not": (
        {},
        lambda d, q: d.post(
            q.id, {"decision": "approve", "edit": {"admin": True}}, headers=_bearer(ANN)
        ),
    ),
    "an argument of another type": (
        {},
        lambda d, q: d.post(
            q.id, {"decision": "approve", "edit": {"amount": "7; DROP"}}, headers=_bearer(ANN)
        ),
    ),
    "arguments that are a list": (
        {},
        lambda d, q: d.post(q.id, {"decision": "approve", "edit": [7]}, headers=_bearer(ANN)),
    ),
    "a rejection that changes something": (
        {},
        lambda d, q: d.post(
            q.id, {"decision": "reject", "edit": {"amount": 1}, "x": 1}, headers=_bearer(ANN)
        ),
    ),
    "for ever": (
        {},
        lambda d, q: d.post(q.id, {"decision": "approve", "scope": "tool"}, headers=_bearer(ANN)),
    ),
    "for minus five minutes": (
        {},
        lambda d, q: d.post(
            q.id, {"decision": "approve", "scope": "tool", "minutes": -5}, headers=_bearer(ANN)
        ),
    ),
    "for infinitely many minutes": (
        {},
        lambda d, q: d.post(
            q.id,
            content='{"decision": "approve", "scope": "tool", "minutes": Infinity}',
            json=None,
            headers=_bearer(ANN),
        ),
    ),
    "for everything": (
        {},
        lambda d, q: d.post(q.id, {"decision": "approve", "scope": "*"}, headers=_bearer(ANN)),
    ),
    "two decisions": (
        {},
        lambda d, q: d.post(q.id, {"decision": ["approve", "reject"]}, headers=_bearer(ANN)),
    ),
    "a body of a megabyte": (
        {},
        lambda d, q: d.post(
            q.id, {"decision": "approve", "note": "x" * 1_000_000}, headers=_bearer(ANN)
        ),
    ),
    "a body nested without end": (
        {},
        lambda d, q: d.post(q.id, content='{"edit":' * 8_000, json=None, headers=_bearer(ANN)),
    ),
    "a body that is no text": (
        {},
        lambda d, q: d.post(q.id, content=b"\xff\xfe{}", json=None, headers=_bearer(ANN)),
    ),
    "a number in another script": (
        {},
        lambda d, q: d.post("\u0661", headers=_bearer(ANN)),
    ),
    "a number that is none": ({}, lambda d, q: d.post("1e0", headers=_bearer(ANN))),
    "a number with a sign": ({}, lambda d, q: d.post("+1", headers=_bearer(ANN))),
    "a number without end": ({}, lambda d, q: d.post("9" * 5_000, headers=_bearer(ANN))),
    "SQL for a number": ({}, lambda d, q: d.post("1 OR 1=1", headers=_bearer(ANN))),
}
"""Requests of somebody who has a right, though not to this."""


def _not_taken(changes: dict[str, Any], ask: Forge, folder: Path) -> bool:
    with _desk(folder) as desk:
        question = desk.ask(**changes)
        answer = ask(desk, question)
        return 400 <= answer.status_code < 500 and desk.is_open(question)


# -- twice, too late, and at once -----------------------------------------------------------------


def _twice(folder: Path) -> bool:
    with _desk(folder) as desk:
        question = desk.ask()
        link = {"t": _signed(desk, question)}
        first = desk.post(question.id, {"decision": "reject", "reason": "no"}, params=link)
        again = desk.post(question.id, params=link)
        now = desk.journal.approval(question.id)
        return (first.status_code, again.status_code, now.verdict) == (200, 409, "rejected")


def _in_another_run(folder: Path) -> bool:
    """The approval of one call, for the same call of another run, and for the next in its own."""
    with _desk(folder) as desk:
        question = desk.ask(scope="tasks/0/A", about="same")
        approve(question.id, desk.journal)
        other = desk.ask("other", scope="tasks/0/A", about="same")
        next_one = desk.ask(scope="tasks/0/A", about="next")
        return desk.is_open(other) and desk.is_open(next_one)


def _of_a_run_that_is_over(folder: Path) -> bool:
    with _desk(folder) as desk:
        question = desk.ask()
        desk.journal.finish_run(desk.lease, RunStatus.COMPLETED)
        return _refused(ApprovalClosed, lambda: approve(question.id, desk.journal))


def _refused(kind: type[CrewProdError], act: Callable[[], object]) -> bool:
    try:
        act()
    except kind:
        return True
    return False


def _too_late(default: str, folder: Path) -> bool:
    """Its time is over: the default counts, whatever is said then."""
    with _desk(folder) as desk:
        question = desk.ask(expires_at=time.time() - 0.001, on_expiry=default)
        late = approve if default == "rejected" else partial(reject, reason="no")
        closed = _refused(ApprovalClosed, lambda: late(question.id, desk.journal))
        now = desk.journal.approval(question.id)
        return closed and (now.status, now.verdict) == ("expired", default)


def _race(folder: Path, count: int, expires_in: float | None, gap: float) -> bool:
    """Many answer in connections of their own: one is heard, or the clock is; all hear the same."""
    with _desk(folder) as desk:
        expires = None if expires_in is None else time.time() + expires_in
        question = desk.ask(expires_at=expires, on_expiry="rejected")
        start = threading.Barrier(count)
        heard: list[str] = []
        refusals: list[ApprovalClosed] = []

        def answer(number: int) -> None:
            journal = open_journal(desk.path, durability="process")
            start.wait()
            time.sleep(gap * number)
            by = f"person {number}"
            try:
                if number % 2:
                    approve(question.id, journal, by=by)
                else:
                    reject(question.id, journal, reason="no", by=by)
                heard.append(by)
            except ApprovalClosed as error:
                refusals.append(error)
            finally:
                journal.close()

        threads = [threading.Thread(target=answer, args=(n,)) for n in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        now = desk.journal.approval(question.id)
        winner = [] if now.answered_by is None else [now.answered_by]
        agreed = {error.fields["verdict"] for error in refusals} <= {now.verdict}
        return heard == winner and len(refusals) == count - len(winner) and agreed


def _right_withdrawn(folder: Path) -> bool:
    """Two approvers of whom one may: the other cannot be first."""
    with _desk(folder) as desk:
        question = desk.ask(who='["boss"]')
        first = _refused(AnswerNotAllowed, lambda: approve(question.id, desk.journal, by="ann"))
        approve(question.id, desk.journal, by="boss")
        return first and desk.journal.approval(question.id).answered_by == "boss"


def _unknown_is_no_approval(folder: Path) -> bool:
    """`approve` alone does not say of an unknown outcome that it may be done again."""
    with _desk(folder) as desk:
        question = desk.ask(kind="unknown_outcome")
        return _refused(UsageError, lambda: approve(question.id, desk.journal)) and desk.is_open(
            question
        )


def _budget_not_lowered_to_all(folder: Path) -> bool:
    """A raise that raises nothing, or without bound, or something else."""
    with _desk(folder) as desk:
        asked = json.dumps({"limit": "max_usd", "most": 2})
        question = desk.ask(kind="budget", tool=None, arguments=asked, form=None)
        wrong: tuple[Any, ...] = (
            {"max_usd": 2},
            {"max_usd": "NaN"},
            {"max_usd": -1},
            {"max_tokens": 10},
            {"max_usd": 3, "label": "x"},
            "all of it",
        )
        refused = [
            _refused(UsageError, partial(approve, question.id, desk.journal, edit=edit))
            for edit in wrong
        ]
        return all(refused) and desk.is_open(question)


# -- HTML and more in what is shown ---------------------------------------------------------------

MARKUP = {
    "a script": "<script>alert(1)</script>",
    "a handler": '"><img src=x onerror=alert(1)>',
    "the end of an attribute": "' onfocus='alert(1)' autofocus='",
    "the end of the text": "</pre></dl><form action=https://evil.example>",
    "an entity that is one": "&lt;script&gt;alert(1)&lt;/script&gt;",
    "escape sequences": "\x1b]52;c;eA==\x07\u202eevil",
}


def _text_on_the_page(markup: str, folder: Path) -> bool:
    with _desk(folder) as desk:
        question = desk.ask(
            tool=markup,
            task=markup,
            agent=markup,
            remark=markup,
            why=markup,
            arguments=json.dumps({markup: markup}),
        )
        page = _get(desk, question, params={"t": _signed(desk, question)})
        data = _get(desk, question, headers=_bearer(ANN))
        policy = page.headers["content-security-policy"]
        safe_headers = (
            "default-src 'none'" in policy
            and page.headers["x-content-type-options"] == "nosniff"
            and data.headers["content-type"].startswith("application/json")
        )
        tags = page.text.lower().count("<script") + page.text.lower().count("<img")
        forms = page.text.count("<form")
        shown = "<" in markup and markup in page.text
        raw = any(one in page.text for one in ("\x1b", "\u202e", "onfocus='alert"))
        return safe_headers and tags == 0 and forms == 1 and not shown and not raw


_OPEN = "nothing is told and nothing decided"

CASES: tuple[Case, ...] = (
    *(
        Case(
            family="forged tokens",
            name=name,
            tried="a request of somebody who has no right to the question",
            blocked=_OPEN,
            attempt=partial(_nothing_told, forge),
        )
        for name, forge in FORGED.items()
    ),
    *(
        Case(
            family="answers that are not theirs to give",
            name=name,
            tried="a request of somebody who may answer, though not like this",
            blocked="it is refused, and the question stays open",
            attempt=partial(_not_taken, changes, ask),
        )
        for name, (changes, ask) in BENT.items()
    ),
    Case(
        family="replayed approvals",
        name="a link is used twice",
        tried="rejected, and then approved with the same link",
        blocked="the second is told what was decided",
        attempt=_twice,
    ),
    Case(
        family="replayed approvals",
        name="an approval is used again",
        tried="the same call in another run, and the next call in this one",
        blocked="both are questions of their own",
        attempt=_in_another_run,
    ),
    Case(
        family="replayed approvals",
        name="an answer to a run that is over",
        tried="approved when the run has ended",
        blocked="it is closed",
        attempt=_of_a_run_that_is_over,
    ),
    Case(
        family="replayed approvals",
        name="yes to an unknown outcome",
        tried="`approve` of a call of which nobody knows whether it acted",
        blocked="whoever answers has to say what happened",
        attempt=_unknown_is_no_approval,
    ),
    Case(
        family="replayed approvals",
        name="a budget without bound",
        tried="a raise to nothing more, to NaN, of something else",
        blocked="it is refused",
        attempt=_budget_not_lowered_to_all,
    ),
    *(
        Case(
            family="races",
            name=f"after expiry, {default} by default",
            tried="an answer a moment too late",
            blocked="the default counts",
            attempt=partial(_too_late, default),
        )
        for default in ("rejected", "approved")
    ),
    *(
        Case(
            family="races",
            name=name,
            tried="answers of many people, each in a connection of their own",
            blocked="one of them is heard, and all others are told which",
            attempt=partial(_race, count=count, expires_in=expires, gap=gap),
        )
        for name, count, expires, gap in (
            ("two approvers at once", 2, None, 0.0),
            ("eight approvers at once", 8, None, 0.0),
            ("approvers around expiry", 8, 0.04, 0.01),
            ("approvers after expiry, at once", 4, -0.001, 0.0),
        )
    ),
    Case(
        family="races",
        name="two approvers, of whom one may",
        tried="the other one is first",
        blocked="the one who may decides",
        attempt=_right_withdrawn,
    ),
    *(
        Case(
            family="HTML in outputs",
            name=f"a question's page: {name}",
            tried=f"all that is asked about is {markup!r}",
            blocked="it is text there",
            attempt=partial(_text_on_the_page, markup),
        )
        for name, markup in MARKUP.items()
    ),
)
