"""`approvals`, `approve`, `reject`, and the same over HTTP: answered from any process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from crewai_prod import approve, reject
from crewai_prod.cli._serving import MOST_BYTES, make_app
from crewai_prod.errors import ApprovalClosed
from crewai_prod.journal import open_journal
from crewai_prod.records import ApprovalRecord, Lease, RunStatus
from crewai_prod.signing import Signer, tokens_in
from tests.cli.conftest import Book, Cli
from tests.openai_server import ROOT

EVIL = "<script>alert(1)</script>\x1b[31m\"'&"
ANN, OPS = "token-of-ann-0123456789", "token-of-nobody-0123456789"


def ask(book: Book, lease: Lease, **changes: Any) -> int:
    """A question, asked by hand."""
    values: dict[str, Any] = {
        "id": 0,
        "run_id": lease.run_id,
        "step_id": f"{1:016x}",
        "kind": "tool",
        "tool": "charge",
        "arguments": '{"amount":7}',
        "status": "open",
        "asked_at": 1_700_000_000.0,
        "about": json.dumps(changes, default=str),
        "why": "declared",
    }
    return book.journal.ask(lease, ApprovalRecord(**(values | changes)))


@pytest.fixture
def lease(book: Book) -> Lease:
    """A run at work."""
    return book.start("order-1")


def test_questions_are_listed_and_answered(book: Book, lease: Lease, cli: Cli) -> None:
    """With what is asked, in a shape that stays; both answers say how to go on."""
    first, second = ask(book, lease), ask(book, lease, tool="send", who='["ops"]')
    book.end(lease, RunStatus.PAUSED, reason="approval")
    at = ("--journal", book.path)
    listed = json.loads(cli("approvals", "--json", *at).stdout)
    assert [one["id"] for one in listed] == [first, second]
    shape = {"id", "run_id", "kind", "tool", "arguments", "status", "asked_at", "expires_at"}
    assert shape <= set(listed[0])
    assert listed[0]["arguments"] == {"amount": 7}
    assert (listed[0]["status"], listed[0]["expires_at"]) == ("open", None)
    shown = cli("show", "order-1", *at).stdout
    assert f"approve {first} --journal" in shown
    assert "for ops: tool send" in shown
    said = cli("approve", first, "--edit", '{"amount": 5}', "--note", "less", *at).stdout
    assert f"Question {first}: approved. Continue it with:" in said
    assert "resume order-1" in said
    assert "for ops" in cli("reject", second, "--reason", "no", *at, status=1).stderr
    cli("reject", second, "--reason", "no", "--by", "ops", *at)
    assert "was answered" in cli("approve", second, *at, status=1).stderr
    assert "no question" in cli("approve", 99, *at, status=1).stderr.lower()
    cli("approve", 2**70, *at, status=1)
    assert cli("approvals", *at).stdout == "No open questions.\n"
    answers = [json.loads(one.answer or "") for one in book.journal.approvals()]
    assert answers == [
        {"decision": "approved", "edited": {"amount": 5}, "note": "less"},
        {"decision": "rejected", "note": "no"},
    ]
    verdicts = json.loads(cli("approvals", "--all", "--json", *at).stdout)
    assert [one["verdict"] for one in verdicts] == ["approved", "rejected"]


def test_an_unknown_outcome_is_answered_too(book: Book, lease: Lease, cli: Cli) -> None:
    """It acted, with this result; it did not; tell the model that it failed."""
    numbers = [ask(book, lease, kind="unknown_outcome", step_id=f"{n:016x}") for n in range(3)]
    at = ("--journal", book.path)
    assert "Say what became" in cli("approve", numbers[0], *at, status=2).stderr
    cli("approve", numbers[0], "--edit", '"charged 7"', *at)
    cli("approve", numbers[1], "--rerun", *at)
    cli("reject", numbers[2], "--reason", "no trace of it", *at)
    answers = [json.loads(one.answer or "") for one in book.journal.approvals()]
    assert [one["decision"] for one in answers] == ["done", "rerun", "fail"]
    assert answers[0]["result"] == "charged 7"


def test_looking_decides_nothing(book: Book, lease: Lease, cli: Cli) -> None:
    """An expired question is shown as such; the late answer finds its default."""
    number = ask(book, lease, expires_at=1.0, on_expiry="approved")
    at = ("--journal", book.path)
    assert json.loads(cli("approvals", "--json", *at).stdout) == []
    (listed,) = json.loads(cli("approvals", "--all", "--json", *at).stdout)
    assert listed["status"] == "expired"
    assert book.journal.approval(number).status == "open"
    late = cli("reject", number, "--reason", "no", *at, status=1).stderr
    assert "its default counts: approved" in late
    assert book.journal.approval(number).verdict == "approved"


def test_a_run_that_is_over_takes_no_answer(book: Book, lease: Lease) -> None:
    """Completed or cancelled: a typed error, and nothing is written."""
    numbers = [ask(book, lease), ask(book, other := book.start("order-2"))]
    book.end(lease, RunStatus.COMPLETED)
    book.end(other, RunStatus.CANCELLED)
    for number in numbers:
        with pytest.raises(ApprovalClosed):
            approve(number, book.journal)
        assert book.journal.approval(number).verdict is None


def test_of_several_answers_one_counts(book: Book, lease: Lease) -> None:
    """Approvers in different connections, and the clock: one wins, the others hear which."""
    for expires in (None, time.time() + 0.05):
        number = ask(book, lease, expires_at=expires, on_expiry="rejected")
        start = threading.Barrier(8)
        heard: list[Any] = []

        def answer(n: int, number: int = number, start: Any = start, heard: Any = heard) -> None:
            journal = open_journal(book.path, durability="process")
            start.wait()
            time.sleep(0.02 * n)
            try:
                by = f"person {n}"
                done = (
                    approve(number, journal, by=by)
                    if n % 2
                    else reject(number, journal, reason="no", by=by)
                )
                heard.append(done.answered_by)
            except ApprovalClosed as error:
                heard.append(error)
            journal.close()

        threads = [threading.Thread(target=answer, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        winners = [one for one in heard if isinstance(one, str)]
        decided = book.journal.approval(number)
        assert len(heard) == 8
        assert winners == ([decided.answered_by] if decided.answered_by else [])
        assert {e.fields["verdict"] for e in heard if not isinstance(e, str)} == {decided.verdict}


# -- over HTTP ------------------------------------------------------------------------------------


@pytest.fixture
def client(book: Book) -> TestClient:
    """A client of the server, without a token."""
    signer = Signer.of(str(book.path))
    return TestClient(make_app(book.journal, tokens_in(f"ann={ANN},{OPS}"), signer))


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_http_needs_a_token(book: Book, lease: Lease, client: TestClient) -> None:
    """Without one nothing is told, not even which questions there are."""
    number = ask(book, lease)
    for headers in ({}, _bearer(""), _bearer(ANN + "x"), {"Authorization": f"Basic {ANN}"}):
        for path in ("/approvals", f"/approvals/{number}", "/approvals/99"):
            assert client.get(path, headers=headers).status_code == 401
        body = {"decision": "approve"}
        assert client.post(f"/approvals/{number}", json=body, headers=headers).status_code == 401
    assert book.journal.approval(number).status == "open"


def test_http_answers(book: Book, lease: Lease, client: TestClient) -> None:
    """JSON in and out, with the status that fits; GET changes nothing."""
    first, second = ask(book, lease), ask(book, lease, who='["ann"]')
    ann, nobody = _bearer(ANN), _bearer(OPS)
    assert [one["id"] for one in client.get("/approvals", headers=nobody).json()] == [first, second]
    yes = {"decision": "approve", "edit": {"amount": 5}}
    client.get(f"/approvals/{first}?decision=approve", headers=ann)
    assert book.journal.approval(first).status == "open"
    assert client.put(f"/approvals/{first}", json=yes, headers=ann).status_code == 405
    done = client.post(f"/approvals/{first}", json=yes, headers=ann)
    assert (done.status_code, done.json()["answered_by"]) == (200, "ann")
    again = client.post(f"/approvals/{first}", json={"decision": "reject"}, headers=ann)
    assert (again.status_code, again.json()["error"]["verdict"]) == (409, "approved")
    assert client.post("/approvals/99", json=yes, headers=ann).status_code == 404
    for number in (2**63 - 1, 2**70, "1" * 5000, "x", "1/2"):
        assert client.post(f"/approvals/{number}", json=yes, headers=ann).status_code == 404
    claims = {"decision": "approve", "by": "ann"}
    assert client.post(f"/approvals/{second}", json=claims, headers=nobody).status_code == 403
    assert client.post(f"/approvals/{second}", json=claims, headers=ann).status_code == 400
    for wrong in (
        b"",
        b"[]",
        b"{",
        b"[" * 50_000,
        b'{"decision": 1}',
        b'{"decision":"yes"}',
        b'{"t": 5}',
    ):
        sent = client.post(f"/approvals/{second}", content=wrong, headers=ann)
        assert sent.status_code == 400, wrong[:20]
    large = b" " * (MOST_BYTES + 1)
    assert client.post(f"/approvals/{second}", content=large, headers=ann).status_code == 413
    no = {"decision": "reject", "reason": "too much"}
    assert client.post(f"/approvals/{second}", json=no, headers=ann).status_code == 200
    assert json.loads(book.journal.approval(second).answer or "")["note"] == "too much"


def test_a_signed_link_opens_one_question(book: Book, lease: Lease, client: TestClient) -> None:
    """A page with a form, every text in it harmless; the link works once, for this question."""
    number = ask(book, lease, task=EVIL, remark=EVIL, arguments=json.dumps({"to": EVIL}))
    other = ask(book, lease)
    signer = Signer.of(str(book.path))
    token = signer.token(book.journal.approval(number), "ann")
    page = client.get(f"/approvals/{number}", params={"t": token})
    assert page.status_code == 200
    assert "<script" not in page.text
    assert "\x1b" not in page.text
    assert "&lt;script&gt;" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    form = {"t": token, "decision": "approve", "edit": "", "note": "fine"}
    assert client.post(f"/approvals/{other}", data=form).status_code == 401
    assert client.get("/approvals", params={"t": token}).status_code == 401
    assert client.post(f"/approvals/{number}", data={**form, "t": token[:-2]}).status_code == 401
    assert client.post(f"/approvals/{number}", data=form).status_code == 200
    assert client.post(f"/approvals/{number}", data=form).status_code == 409
    decided = book.journal.approval(number)
    assert (decided.answered_by, decided.verdict) == ("ann", "approved")
    assert book.journal.approval(other).status == "open"


def test_links_are_printed_for_those_who_may_answer(
    book: Book, lease: Lease, cli: Cli, client: TestClient
) -> None:
    """One for each of them; anybody's has no name."""
    ask(book, lease, who='["ann","ben"]')
    ask(book, lease)
    at = ("--journal", book.path)
    links = json.loads(cli("approvals", "--links", "--json", "--url", "http://here", *at).stdout)
    assert [one["for"] for one in links] == ["ann", "ben", None]
    for one in links:
        path = one["link"].removeprefix("http://here")
        assert client.get(path).status_code == 200


def test_the_server_is_a_process_of_its_own(book: Book, lease: Lease) -> None:
    """It prints where it listens, on loopback, and its token, which is needed."""
    number = ask(book, lease)
    command = [sys.executable, "-m", "crewai_prod", "approvals", "--serve", "--port", "0"]
    with subprocess.Popen(
        [*command, "--journal", str(book.path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            token = process.stdout.readline().split()[1]
            assert url.startswith("http://127.0.0.1:")
            with httpx.Client(trust_env=False) as client:
                assert client.get(url).status_code == 401
                listed = client.get(url, headers=_bearer(token)).json()
                assert [one["id"] for one in listed] == [number]
                body = {"decision": "reject", "reason": "no"}
                sent = client.post(f"{url}/{number}", json=body, headers=_bearer(token))
                assert sent.status_code == 200
        finally:
            process.terminate()
            process.wait(30)
    assert book.journal.approval(number).verdict == "rejected"
