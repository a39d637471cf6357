"""Answering what runs wait for, from any process: `approve` and `reject`.

Rule: an answer is one transaction that finds the question open and leaves it decided. Of several
that answer at once exactly one is heard; the others are told what was decided. Whoever answers
needs the journal and nothing else: the run goes on when it is resumed.
"""

from __future__ import annotations

import getpass
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from crewai_prod.approval import UNKNOWN, Reply, closed, rule
from crewai_prod.errors import UsageError
from crewai_prod.journal import Journal
from crewai_prod.journals import shared_journal
from crewai_prod.records import ApprovalRecord

NOTHING: Any = object()
"""Where nothing was said: None is a value."""


def approve(
    approval_id: int,
    journal: str | os.PathLike[str] | Journal | None = None,
    *,
    edit: Any = NOTHING,
    note: str | None = None,
    by: str | None = None,
    scope: str = "once",
    minutes: float | None = None,
    rerun: bool = False,
) -> ApprovalRecord:
    """Say yes to a question that a run waits for.

    Args:
        approval_id: The question; `crewai-prod approvals` lists them.
        journal: Where it is recorded. Default: as for `harden`.
        edit: What it is to be instead. Of a tool: the arguments that change, as a dict. Of an
            output: the output. Of a budget: its new limits, as a dict. Of a call of unknown
            outcome: it did act, and this is its result.
        note: A remark; a flow's feedback, or the answer to a question.
        by: Who answers. Default: the name of the user whose process this is.
        scope: `once`; `run`: all calls of the tool in this run; `tool`: all calls of the tool in
            any run of the crew, for so many `minutes`.
        minutes: See `scope`.
        rerun: Of a call of unknown outcome: it did not act, call it now.

    Returns:
        The question, answered.

    Raises:
        ApprovalNotFound: There is no such question.
        ApprovalClosed: It is not open any more; nothing is changed.
        AnswerNotAllowed: `by` is not among those who may answer.
        UsageError: The answer makes no sense for this question.
        JournalError: The journal could not be read or written.
    """
    book = opened(journal)
    given = edit is not NOTHING
    if _asked(book, approval_id).kind == UNKNOWN:
        if given == rerun:
            raise UsageError(
                "Say what became of the call: that it acted, with its result (an edit), or that it "
                "did not and is to be called now (rerun). A rejection tells the model that it "
                "failed."
            )
        result = edit if given else None
        reply = Reply(verdict="rerun" if rerun else "done", result=result, note=note, by=by)
        return answered(book, approval_id, reply)
    if rerun:
        raise UsageError("`rerun` is for a call of which nobody knows whether it acted.")
    return answered(
        book,
        approval_id,
        Reply(
            verdict="approved",
            edited=edit if given else None,
            has_edit=given,
            note=note,
            by=by,
            holds=scope,
            minutes=minutes,
        ),
    )


def reject(
    approval_id: int,
    journal: str | os.PathLike[str] | Journal | None = None,
    *,
    reason: str | None = None,
    by: str | None = None,
) -> ApprovalRecord:
    """Say no to a question that a run waits for. The run does not fail by it.

    Args:
        approval_id: The question.
        journal: Where it is recorded. Default: as for `harden`.
        reason: What the model, or the flow, is told.
        by: Who answers. Default: the name of the user whose process this is.

    Returns:
        The question, answered.

    Raises:
        CrewProdError: As `approve`.
    """
    book = opened(journal)
    unknown = _asked(book, approval_id).kind == UNKNOWN
    verdict = "fail" if unknown else "rejected"
    return answered(book, approval_id, Reply(verdict=verdict, note=reason, by=by))


def _asked(book: Journal, approval_id: int) -> ApprovalRecord:
    if isinstance(approval_id, bool) or not isinstance(approval_id, int):
        raise UsageError(
            f"{approval_id!r} is not the number of a question; `crewai-prod approvals` lists them."
        )
    return book.approval(approval_id)


def answered(journal: Journal, approval_id: int, reply: Reply) -> ApprovalRecord:
    """Have an answer decide a question.

    Raises:
        ApprovalClosed: It was decided before, or its time was over: its default counts then.
        CrewProdError: As `approval.rule`, and the journal's own.
    """
    named, now = replace(reply, by=reply.by or user_here()), time.time()
    question = journal.answer(approval_id, lambda asked, run: rule(asked, run, named, now))
    if question.status != "answered":
        raise closed(question)
    return question


def user_here() -> str:
    """The name of the user whose process this is, or their number where they have none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def opened(journal: str | os.PathLike[str] | Journal | None) -> Journal:
    """A journal by its path, shared with the runs of this process."""
    if journal is None or isinstance(journal, (str, os.PathLike)):
        return shared_journal(None if journal is None else Path(journal))
    return journal
