"""What needs a person's word, and what their word is worth. Pure: values in, decisions out.

Rule: a question is answered once. Whoever comes second, too late, without being asked, or with an
answer that makes no sense is told so, and what was decided stays. A condition that cannot be read
(an amount that is no number) counts as fulfilled: in doubt a person is asked.

Who may answer is a name that the answerer gives or that their token stands for. It guards against
mistakes; whoever can write the journal's file can write anything into it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from importlib import import_module
from itertools import zip_longest
from typing import Any, Literal, Protocol

import orjson

from crewai_prod import codec
from crewai_prod.errors import AnswerNotAllowed, ApprovalClosed, UsageError
from crewai_prod.records import ApprovalRecord, Ruling, RunStatus
from crewai_prod.redact import MARK

Verdict = Literal["approved", "rejected"]

TOOL, TASK_OUTPUT, BUDGET, UNKNOWN = "tool", "task_output", "budget", "unknown_outcome"
HUMAN_INPUT, FEEDBACK, QUESTION = "human_input", "feedback", "question"
_DEFAULTS: Mapping[str, Verdict] = {"approve": "approved", "reject": "rejected"}
_OVER = (RunStatus.COMPLETED, RunStatus.CANCELLED)
_SAID_TO_BE = {"done": "it happened", "rerun": "it did not happen", "fail": "it failed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """That a person has to agree first; `approval=True` is short for `Approval()`: always.

    With several conditions any of them will do. `above`, `first_use` and `after_taint` are for
    tools.

    Attributes:
        above: `{argument: amount}`: for calls in which one of these arguments is more than that, or
            is missing or no number.
        first_use: For the first call of the tool in a run, until one has been approved.
        after_taint: Once untrusted content has been read in the task.
        who: Names of those who may answer; empty: anybody.
        expires: Seconds, or a timedelta, for which an answer is waited for; None: for ever.
        default: What counts when nobody has answered by then: `reject` or `approve`.

    Raises:
        UsageError: A value that makes no sense.
    """

    above: Mapping[str, Decimal | float | int] | None = field(default=None, hash=False)
    first_use: bool = False
    after_taint: bool = False
    who: Sequence[str] = ()
    expires: float | timedelta | None = None
    default: str = "reject"

    def __post_init__(self) -> None:
        above = self.above
        if above is not None and not (
            isinstance(above, Mapping) and above and all(map(_is_limit, above.items()))
        ):
            raise UsageError(f"Approval(above={above!r}): amounts by argument: {{'amount': 100}}.")
        names = (self.who,) if isinstance(self.who, str) else self.who
        if not all(isinstance(name, str) and name.strip() for name in names):
            raise UsageError(f"Approval(who={self.who!r}): a list of names.")
        object.__setattr__(self, "who", tuple(names))
        seconds = self.seconds
        if seconds is not None and not 0 < seconds < float("inf"):
            raise UsageError(f"Approval(expires={self.expires!r}): more than 0 seconds, or None.")
        if self.default not in _DEFAULTS:
            raise UsageError(f"Approval(default={self.default!r}): 'reject' or 'approve'.")

    @property
    def seconds(self) -> float | None:
        """For how long an answer is waited for."""
        if isinstance(self.expires, timedelta):
            return self.expires.total_seconds()
        if self.expires is None:
            return None
        if isinstance(self.expires, bool) or not isinstance(self.expires, (int, float)):
            raise UsageError(f"Approval(expires={self.expires!r}): a number of seconds, or None.")
        return float(self.expires)

    @property
    def on_expiry(self) -> Verdict:
        """The verdict that counts when nobody has answered."""
        return _DEFAULTS[self.default]

    @classmethod
    def read(cls, said: Any) -> Approval | None:
        """What `approval=` was given.

        Raises:
            UsageError: Neither True, False, None nor an `Approval`.
        """
        if said is None or isinstance(said, bool):
            return cls() if said else None
        if not isinstance(said, cls):
            raise UsageError(f"approval={said!r}: True, False or an Approval(...).")
        return said


def _is_limit(item: tuple[Any, Any]) -> bool:
    name, most = item
    return isinstance(name, str) and _number(most) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a person has said, or what counts because nobody has.

    Attributes:
        verdict: `approved` or `rejected`.
        edited: What it is to be instead.
        note: What they have to say.
        by: Who it was; None: nobody, its time was over.
    """

    verdict: Verdict
    edited: Any = None
    note: str | None = None
    by: str | None = None

    @property
    def approved(self) -> bool:
        """Whether it may be done."""
        return self.verdict == "approved"


class Form(Protocol):
    """How arguments that a person changes have to be."""

    def schema(self) -> str | None:
        """Their JSON schema; None: nothing is known."""

    def fits(self, arguments: dict[str, Any]) -> bool:
        """Whether the tool would be called with these; if not, nobody need be asked."""

    def read(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """As the tool is called with them. Raises `ToolInputInvalid` if they do not fit."""


# -- whether to ask -------------------------------------------------------------------------------


def reason_to_ask(
    approval: Approval,
    arguments: Mapping[str, Any],
    *,
    tainted: Collection[str] = (),
    used: bool = False,
) -> str | None:
    """Why a call of a tool needs approval: `amount`, `taint`, `first_use`, `declared`; or None.

    Args:
        approval: What is declared of the tool.
        arguments: Of the call.
        tainted: Where untrusted content that was read in the task came from.
        used: Whether a call of it has been approved in this run.
    """
    if any(_is_more(arguments.get(name), most) for name, most in (approval.above or {}).items()):
        return "amount"
    if approval.after_taint and tainted:
        return "taint"
    if approval.first_use and not used:
        return "first_use"
    conditions = approval.above or approval.after_taint or approval.first_use
    return None if conditions else "declared"


def _is_more(value: Any, most: Any) -> bool:
    number, limit = _number(value), _number(most)
    return number is None or limit is None or number > limit


def _number(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        return None
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    return None if number.is_nan() else number


# -- answers --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer as it was given.

    Attributes:
        verdict: `approved` or `rejected`; of an unknown outcome `done`, `rerun` or `fail`.
        edited: What it is to be instead: some of a tool's arguments, a task's output, a budget's
            limits. `has_edit` says whether there is one.
        note: For the model, or a flow.
        by: Who answers.
        holds: Whether it covers this question (`once`), the tool in the whole `run`, or the `tool`
            in all runs of the crew for some `minutes`.
        result: Of an unknown outcome that is `done`.
    """

    verdict: str
    edited: Any = None
    has_edit: bool = False
    note: str | None = None
    by: str | None = None
    holds: str = "once"
    minutes: float | None = None
    result: Any = None


def is_expired(question: ApprovalRecord, now: float) -> bool:
    """Whether the time of an open question is over."""
    expires = question.expires_at
    return question.status == "open" and expires is not None and expires <= now


def expiry(question: ApprovalRecord, now: float | None = None) -> Ruling | None:
    """What becomes of an open question by itself: its default, once its time is over."""
    if not is_expired(question, time.time() if now is None else now):
        return None
    verdict = question.on_expiry or "rejected"
    return Ruling(status="expired", verdict=verdict, answer=_packed({"decision": verdict}))


def rule(
    question: ApprovalRecord, run: RunStatus, reply: Reply, now: float | None = None
) -> Ruling:
    """What an answer makes of a question: its ruling, or that of its expiry if it came too late.

    Raises:
        ApprovalClosed: It is not open any more, or its run is over.
        AnswerNotAllowed: Whoever answers is not asked.
        UsageError: The answer makes no sense.
    """
    moment = time.time() if now is None else now
    if question.status != "open":
        raise closed(question)
    expired = expiry(question, moment)
    if expired is not None:
        return expired
    if run in _OVER:
        raise ApprovalClosed(
            f"Question {question.id} is closed: its run is {run.value}.",
            run_id=question.run_id,
            id=question.id,
            status="closed",
            verdict=None,
            by=None,
        )
    names = who_may(question)
    if names and reply.by not in names:
        raise AnswerNotAllowed(
            f"Question {question.id} is for {', '.join(names)}, not for {reply.by or 'anybody'}.",
            run_id=question.run_id,
            id=question.id,
            who=names,
            by=reply.by,
        )
    _check(question, reply)
    tool = reply.holds == "tool"
    return Ruling(
        status="answered",
        verdict=reply.verdict,
        answer=_packed(_said(question, reply)),
        by=reply.by,
        holds=None if reply.holds == "once" else reply.holds,
        holds_until=moment + (reply.minutes or 0) * 60 if tool else None,
    )


def covered_by(grant: ApprovalRecord) -> Ruling:
    """What becomes of an open question about a call that an approval of another one covers."""
    answer = _packed({"decision": "approved"})
    return Ruling(status="answered", verdict="approved", answer=answer, by=grant.answered_by)


def closed(question: ApprovalRecord) -> ApprovalClosed:
    """Why a question cannot be answered any more."""
    verdict = _SAID_TO_BE.get(question.verdict or "", question.verdict)
    how = {
        "answered": f"was answered by {question.answered_by or 'somebody'}: {verdict}",
        "expired": f"was open for too long, and its default counts: {verdict}",
    }.get(question.status, "is closed: its run has ended")
    return ApprovalClosed(
        f"Question {question.id} {how}.",
        run_id=question.run_id,
        id=question.id,
        status=question.status,
        verdict=question.verdict,
        by=question.answered_by,
    )


def who_may(question: ApprovalRecord) -> list[str]:
    """The names of those who may answer; empty: anybody."""
    return list(orjson.loads(question.who)) if question.who else []


def decision_of(question: ApprovalRecord) -> Decision:
    """What was decided of a question that is not open any more."""
    said = orjson.loads(question.answer or "{}")
    edited = codec.from_tree(said["edited"]) if "edited" in said else None
    note = said.get("note")
    verdict: Verdict = "approved" if question.verdict == "approved" else "rejected"
    if question.status == "expired" and verdict == "rejected":
        note = note or "Nobody has answered in time."
    return Decision(verdict=verdict, edited=edited, note=note, by=question.answered_by)


def _packed(said: Mapping[str, Any]) -> str:
    return orjson.dumps(said).decode()


def _said(question: ApprovalRecord, reply: Reply) -> dict[str, Any]:
    said: dict[str, Any] = {"decision": reply.verdict}
    if reply.has_edit:
        said["edited"] = codec.to_tree(reply.edited)
    if reply.note:
        said["note"] = codec.to_tree(reply.note)
    if reply.verdict == "done":
        said["result"] = codec.to_tree(reply.result)
    return said


def _check(question: ApprovalRecord, reply: Reply) -> None:
    """Refuse an answer that makes no sense for its question.

    Raises:
        UsageError: In what way it does not.
    """
    if question.kind == UNKNOWN:
        if reply.verdict not in _SAID_TO_BE:
            raise UsageError(
                f"Question {question.id} is whether {question.tool} acted. Say that it did (with "
                "its result), that it did not (it is called then), or that the call failed."
            )
        return
    if reply.verdict not in ("approved", "rejected"):
        raise UsageError(f"Question {question.id} is to be approved or rejected.")
    _check_holds(question, reply)
    if reply.verdict == "rejected":
        if reply.has_edit:
            raise UsageError("A rejection changes nothing: say what you want in its reason.")
    elif question.kind == BUDGET:
        raised_limits(question, reply.edited)
    elif reply.has_edit and question.kind == TOOL:
        _check_arguments(question, reply.edited)


def _check_holds(question: ApprovalRecord, reply: Reply) -> None:
    if reply.holds not in ("once", "run", "tool"):
        raise UsageError(f"scope={reply.holds!r} does not exist; there are once, run and tool.")
    if reply.holds == "once":
        if reply.minutes is not None:
            raise UsageError("Minutes are for an approval with the scope `tool`.")
        return
    if question.kind != TOOL or reply.verdict != "approved" or reply.has_edit:
        raise UsageError(
            f"The scope {reply.holds!r} is for the approval of a tool's calls as they come."
        )
    minutes = reply.minutes
    sound = minutes is None or 0 < minutes < float("inf")
    if (reply.holds == "tool") != (minutes is not None) or not sound:
        raise UsageError("The scope `tool`, and no other, needs a number of minutes, more than 0.")


def _check_arguments(question: ApprovalRecord, edited: Any) -> None:
    """A tool's arguments are changed one by one; those that are not named stay."""
    if not isinstance(edited, dict):
        raise UsageError(f"The arguments of {question.tool} are changed by a JSON object.")
    shown = orjson.loads(question.arguments or "{}")
    if any(_misplaced(shown.get(name), one) for name, one in edited.items()):
        raise UsageError(
            f"{MARK} stands for what you are not shown, and is kept only where it stood, in a text "
            "that is otherwise the same. Leave that argument out, or say all of it."
        )
    if question.form is None:
        return
    known = orjson.loads(question.form)
    names = set(known.get("properties", {}))
    wrong = sorted(set(edited) - names)
    if wrong and known.get("additionalProperties", False) is False:
        raise UsageError(
            f"{question.tool} has no arguments {', '.join(wrong)}; there are "
            f"{', '.join(sorted(names))}."
        )
    _check_values(question, {**known, "required": []}, edited)


def _check_values(question: ApprovalRecord, schema: Mapping[str, Any], edited: Any) -> None:
    """Refuse values that the tool's schema excludes; what a schema cannot say, the tool checks."""
    registry = import_module("referencing").Registry()  # what lies elsewhere is not fetched
    validator = import_module("jsonschema").Draft202012Validator(schema, registry=registry)
    said = {name: value for name, value in edited.items() if not _misplaced(None, value)}
    try:
        error = next(validator.iter_errors(said), None)
    except (import_module("referencing.exceptions").Unresolvable, RecursionError):
        return
    if error is not None:
        where = ".".join(map(str, error.absolute_path)) or "the arguments"
        kind = error.schema.get("type") if isinstance(error.schema, Mapping) else None
        expected = f"has to be {kind}" if kind else f"breaks the rule {error.validator!r}"
        raise UsageError(f"{question.tool}: {where} {expected} in its schema.")


def merged(arguments: Mapping[str, Any], edited: Mapping[str, Any]) -> dict[str, Any]:
    """A tool's arguments as a person has changed them; a mark in the place of a secret keeps it."""
    return {**arguments, **{name: _kept(arguments.get(name), one) for name, one in edited.items()}}


def _kept(before: Any, after: Any) -> Any:
    if isinstance(after, str):
        return before if MARK in after else after
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return {name: _kept(before.get(name), one) for name, one in after.items()}
    if isinstance(before, (list, tuple)) and isinstance(after, list):
        return [_kept(*pair) for pair in zip_longest(before[: len(after)], after)]
    return after


def _misplaced(shown: Any, edited: Any) -> bool:
    """Whether a mark stands in what a person has changed where none was shown."""
    if isinstance(edited, str):
        return MARK in edited and edited != shown
    if isinstance(edited, Mapping):
        by_name = shown if isinstance(shown, Mapping) else {}
        return any(_misplaced(by_name.get(name), one) for name, one in edited.items())
    if isinstance(edited, list):
        in_order = shown[: len(edited)] if isinstance(shown, list) else []
        return any(_misplaced(*pair) for pair in zip_longest(in_order, edited))
    return False


_LIMITS = (
    "max_usd",
    "max_tokens",
    "max_input_tokens",
    "max_output_tokens",
    "max_llm_calls",
    "max_tool_calls",
    "max_seconds",
    "per_call_input_tokens",
)


def raised_limits(question: ApprovalRecord, edited: Any) -> dict[str, Any]:
    """The limits that an answer to a question about a budget raises.

    Raises:
        UsageError: It does not raise the one that stands in the way.
    """
    asked = orjson.loads(question.arguments or "{}")
    limit, most = asked.get("limit"), asked.get("most")
    way = f"Say its new value, such as --edit '{{\"{limit}\": ...}}'; it is {most} now."
    if not isinstance(edited, dict) or limit not in edited:
        raise UsageError(f"Question {question.id} is whether {limit} may be raised. {way}")
    wrong = sorted(set(edited) - set(_LIMITS))
    if wrong:
        raise UsageError(f"A budget has no {', '.join(wrong)}; there are {', '.join(_LIMITS)}.")
    given = {name: _number(value) for name, value in edited.items()}
    new, now = given[limit], _number(most)
    if any(one is None or one < 0 for one in given.values()) or new is None:
        raise UsageError(f"The limits of a budget are numbers, not {edited!r}.")
    if now is not None and new <= now:
        raise UsageError(f"{limit}={new} is not more than it is now. {way}")
    money = {"max_usd": str(edited["max_usd"])} if "max_usd" in edited else {}
    return {**edited, **money}
