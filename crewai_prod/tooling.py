"""What a tool's effect is and what became of a call whose outcome a crash left open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from crewai_prod.approval import Approval
from crewai_prod.errors import UsageError
from crewai_prod.retry import Retry

Effect = Literal["read", "write", "nested"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known about a tool call that was started and never reported back.

    Build one with `Outcome.done(result)`, `Outcome.not_done()` or `Outcome.unknown()`.
    """

    kind: Literal["done", "not_done", "unknown", "failed"]
    result: Any = None

    @classmethod
    def done(cls, result: Any) -> Outcome:
        """The effect happened, and this is what the tool would have returned."""
        return cls("done", result)

    @classmethod
    def not_done(cls) -> Outcome:
        """The effect did not happen: run the tool."""
        return cls("not_done")

    @classmethod
    def unknown(cls) -> Outcome:
        """It cannot be told: ask a person."""
        return cls("unknown")

    @classmethod
    def failed(cls) -> Outcome:
        """Tell the model that the call failed."""
        return cls("failed")


Reconcile = Callable[[dict[str, Any], str], Outcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOptions:
    """What is declared about one tool.

    Attributes:
        effect: `read` has no effect on the world and may be repeated; `write` has one; `nested`
            does its work through steps of its own (delegation). None: not declared, treated as
            `write`.
        idempotent: Repeating the call with the same `current_step().idempotency_key` has no second
            effect, so an open outcome is settled by running it again.
        reconcile: `(arguments, idempotency_key) -> Outcome`, asked about an open outcome.
        required: The task may not be finished without a successful call. A tool that is declared
            `write` and fails has to be made good, too.
        timeout: Seconds one call may take; it is left at work then, and reported as a
            `ToolTimeout`. None: no limit.
        retry: When a call that failed is made again. Default: once only. A `write` that is not
            `idempotent` is retried on `ToolUnavailable` and on what `retry.on` names, or where
            `reconcile` says that nothing was done: an exception alone does not say so.
        max_calls: How often it may be called in a run.
        max_output: Characters of its result that a model is shown; more is cut, with a mark, and
            can be read in pages of that size through a tool that its agent is given besides.
        polling: It is called again and again with the same arguments until something has changed:
            every call is made, whatever was returned before, and none is taken for a loop.
        loop_after: Calls after which the next one is taken for a loop, of whatever kind, in place
            of what `harden(loops=...)` says.
        sensitive: Names of arguments that no log, report or message shows.
        result_schema: What its result is validated against, instead of its return annotation.
        strict: Whether arguments must have their types. False: `"5"` will do for 5.
        untrusted: Strangers may have a say in what it returns: pages, mails, files, search results.
            What the task does from then on counts as tainted (see `guards.taint`).
        approval: Whether a person has to agree before it is called: True (always), or an
            `Approval`.
    """

    effect: Effect | None = None
    idempotent: bool = False
    reconcile: Reconcile | None = None
    required: bool = False
    timeout: float | None = None
    retry: Retry | None = None
    max_calls: int | None = None
    max_output: int | None = None
    polling: bool = False
    loop_after: int | None = None
    sensitive: frozenset[str] = frozenset()
    result_schema: Any = None
    strict: bool = True
    untrusted: bool = False
    approval: Approval | None = None

    def over(self, other: ToolOptions) -> ToolOptions:
        """These options where they say something, the other ones where they do not.

        What has its default says nothing: a declaration cannot take another one's `write` back by
        leaving it out.
        """
        said = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if getattr(self, f.name) != f.default
        }
        return replace(other, **said)

    @classmethod
    def read(cls, name: str, declared: Mapping[str, Any] | ToolOptions) -> ToolOptions:
        """Options from what `harden(tools={name: ...})` was given.

        Raises:
            UsageError: An option or a value that does not exist.
        """
        if isinstance(declared, ToolOptions):
            return declared
        allowed = {f.name for f in fields(cls)}
        wrong = sorted(set(declared) - allowed)
        if wrong:
            raise UsageError(
                f"Tool {name!r} has unknown options {wrong}; there are {sorted(allowed)}."
            )
        for option, value in declared.items():
            holds, expected = _EXPECTED.get(option, (_anything, ""))
            if not holds(value):
                raise UsageError(f"Tool {name!r} has {option}={value!r}; {expected}.")
        read = {
            "sensitive": _names(declared.get("sensitive")),
            "approval": Approval.read(declared.get("approval")),
        }
        return cls(**{**declared, **read})


def _anything(value: Any) -> bool:
    return True


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not _is_flag(value) and value >= 1)


def _is_time(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not _is_flag(value)
    return value is None or (number and 0 < value < float("inf"))


def _is_names(value: Any) -> bool:
    several = isinstance(value, (list, tuple, set, frozenset))
    return value is None or isinstance(value, str) or (several and all(map(_is_name, value)))


def _is_name(value: Any) -> bool:
    return isinstance(value, str)


def _names(value: Any) -> frozenset[str]:
    return frozenset((value,) if isinstance(value, str) else value or ())


_FLAG = (_is_flag, "it is True or False")
_COUNT = (_is_count, "it is a whole number, 1 or more, or None for no limit")
_EXPECTED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "effect": (
        lambda value: value in (None, "read", "write", "nested"),
        "it must be 'read', 'write' or 'nested'",
    ),
    "idempotent": _FLAG,
    "required": _FLAG,
    "strict": _FLAG,
    "untrusted": _FLAG,
    "reconcile": (
        lambda value: value is None or callable(value),
        "it is a function of (arguments, idempotency_key) that returns an Outcome",
    ),
    "timeout": (_is_time, "it is a number of seconds above 0, or None for no limit"),
    "retry": (
        lambda value: value is None or isinstance(value, Retry),
        "it is a Retry, for example Retry(attempts=3), or None",
    ),
    "max_calls": _COUNT,
    "max_output": _COUNT,
    "approval": (
        lambda value: value is None or isinstance(value, (bool, Approval)),
        "it is True, False, or an Approval, for example Approval(above={'amount': 100})",
    ),
    "polling": _FLAG,
    "loop_after": _COUNT,
    "sensitive": (_is_names, "it is the name of an argument, or a list of names"),
}
"""What each option has to be, and how that is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentStep:
    """The step that is being made: what a tool needs to act at most once.

    Attributes:
        run_id: The run.
        step_id: The step within it.
        attempt: 1 for the first try.
        idempotency_key: 32 hex digits, the same for every attempt of this step in any process. Hand
            it to the service you call (Stripe's `Idempotency-Key`, a unique column ...).
    """

    run_id: str
    step_id: str
    attempt: int
    idempotency_key: str
