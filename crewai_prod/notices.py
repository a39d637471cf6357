"""Telling people that a run waits for them: a function, or an address that is sent JSON.

Rule: nothing is sent twice. Who tells claims the question in the journal first, in a transaction of
its own after the one that asked it; a process that is killed in between has told nobody, and nobody
is told later: it errs on the side of silence. `crewai-prod approvals` shows every question all the
same. Whatever goes wrong here is logged and changes nothing about the run, which waits at most
`SECONDS` for it.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson

from crewai_prod.approving import Tell, facts_of
from crewai_prod.errors import JournalError, UsageError
from crewai_prod.records import ApprovalRecord
from crewai_prod.redact import redact_text

if TYPE_CHECKING:
    from crewai_prod.run import Run

SECONDS = 5.0
"""How long somebody may take to be told."""
Notify: TypeAlias = "str | Callable[[dict[str, Any]], object]"


def check(notify: Any) -> Notify | None:
    """What `harden(notify=)` was given.

    Raises:
        UsageError: Neither a function nor the address of a web server.
    """
    address = isinstance(notify, str) and notify.startswith(("http://", "https://"))
    if notify is None or callable(notify) or address:
        checked: Notify | None = notify
        return checked
    raise UsageError(f"notify={notify!r}: a function of one dict, or an http(s):// address.")


def teller(notify: Notify) -> Tell:
    """What tells people of a question that was committed; each question once."""

    def tell(run: Run, question: ApprovalRecord) -> None:
        try:
            if not run.journal.claim_notice(question.id):
                return
        except JournalError as error:  # the run's own next write finds the journal like this, too
            run.log.warning(f"Nobody was told of question {question.id}: {error.message}")
            return
        failure = _in_time(lambda: _send(notify, told(run, question)))
        if failure is not None:
            run.log.warning(f"Nobody may have been told of question {question.id}: {failure}")

    return tell


def told(run: Run, question: ApprovalRecord) -> dict[str, Any]:
    """What is said of a question: plain values, without secrets."""
    facts = facts_of(question, run.journal.location)
    arguments = facts.pop("arguments")
    return {
        "event": "approval.requested",
        "run_id": question.run_id,
        "task": question.task,
        "agent": question.agent,
        **facts,
        "arguments": None if arguments is None else orjson.loads(arguments),
        "asked_at": question.asked_at,
        "remark": question.remark,
    }


def _send(notify: Notify, facts: dict[str, Any]) -> None:
    if callable(notify):
        returned = notify(facts)
        if inspect.iscoroutine(returned):
            asyncio.run(returned)
        return
    from urllib.request import Request, urlopen  # takes longer than all else here

    headers = {"Content-Type": "application/json"}
    request = Request(notify, orjson.dumps(facts), headers, method="POST")
    with urlopen(request, timeout=SECONDS):
        pass


def _in_time(send: Callable[[], None]) -> str | None:
    """Do it on a thread; what went wrong, if something did."""
    failed = ["it took too long"]

    def work() -> None:
        try:
            send()
        except Exception as error:  # noqa: BLE001 - whoever is told is none of the run's business
            failed[:] = [f"{type(error).__name__}: {redact_text(str(error))}"]
        else:
            failed.clear()

    thread = threading.Thread(target=work, name="crewai-prod-notice", daemon=True)
    thread.start()
    thread.join(SECONDS)
    return failed[0] if failed else None
