"""What a guard is: a plain function with a name, a version, places and an order.

It is given a value and where the value stands, and says what is to become of it. Pure: nothing
here runs a guard, and nothing knows of a run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Literal, TypeAlias, get_args

from crewai_prod.errors import UsageError

Place: TypeAlias = Literal[
    "kickoff_input",
    "model_input",
    "model_output",
    "tool_call",
    "tool_result",
    "task_output",
    "final_output",
]
PLACES: Final[tuple[Place, ...]] = get_args(Place)


@dataclass(frozen=True, slots=True)
class Allow:
    """The value may pass as it is."""


@dataclass(frozen=True, slots=True)
class Modify:
    """The value is replaced; the next guard is given the new one.

    Attributes:
        value: What takes its place, of the same form.
        reason: Why, for the journal and the log.
    """

    value: Any
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Reject:
    """The value may not pass.

    Attributes:
        reason: Why, in words that the model may be told.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Escalate:
    """A person decides whether the value may pass.

    Attributes:
        reason: Why a person is asked.
    """

    reason: str


Verdict: TypeAlias = Allow | Modify | Reject | Escalate


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardContext:
    """Where a value stands that a guard is given.

    Attributes:
        place: Which of the seven places it is.
        run_id: The run's name.
        crew: The name of the crew, flow or agent that runs.
        task: The name of the task, if it is one's.
        agent: The role of the agent at work.
        tool: The tool that is called or has answered.
        effect: What the tool is declared to do: `read`, `write` or `nested`.
        step_id: The step that the value belongs to, if it belongs to one.
        model: The model that is asked or has answered.
        tainted: The untrusted sources that have been read in this task's scope so far.
        built_in: Whether the tool is one that the run itself has added: to ask a person, or to read
            on in a long result.
    """

    place: Place
    run_id: str
    crew: str | None = None
    task: str | None = None
    agent: str | None = None
    tool: str | None = None
    effect: str | None = None
    step_id: str | None = None
    model: str | None = None
    tainted: tuple[str, ...] = ()
    built_in: bool = False


Check: TypeAlias = Callable[[Any, GuardContext], Verdict | Awaitable[Verdict]]


@dataclass(frozen=True, slots=True)
class Guard:
    """A function that judges values at some places of a run.

    Attributes:
        name: How it is called in the journal and the log.
        check: Given the value and its context, says what is to become of the value. It may be
            asynchronous. What it raises means that the value could not be checked.
        places: Where it is asked.
        version: Of its rules. A recorded verdict of another version is not followed.
        order: Guards of a lower one are asked first; of equal ones, those listed first.
        fail: What becomes of a value that could not be checked: `closed` stops the run, `open` lets
            it pass.
        timeout: Seconds after which it is left at work and the value could not be checked; None: it
            takes its time.
    """

    name: str
    check: Check
    places: frozenset[Place]
    version: str = "1"
    order: int = 0
    fail: Literal["closed", "open"] = "closed"
    timeout: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be a guard.

        Raises:
            UsageError: A name, place or rule that does not exist.
        """
        object.__setattr__(self, "places", frozenset(self.places))
        unknown = sorted(map(str, self.places - set(PLACES)))
        if unknown or not self.places:
            said = f"no place {', '.join(unknown)}" if unknown else "no place named"
            raise UsageError(f"Guard {self.name!r}: {said}; there are {', '.join(PLACES)}.")
        if not isinstance(self.name, str) or not self.name:
            raise UsageError("A guard needs a name.")
        if not isinstance(self.version, str) or not self.version:
            raise UsageError(f"Guard {self.name!r}: its version is a text, not {self.version!r}.")
        if not isinstance(self.order, int):
            raise UsageError(f"Guard {self.name!r}: its order is a number, not {self.order!r}.")
        if self.fail not in ("closed", "open"):
            raise UsageError(f'Guard {self.name!r}: fail is "closed" or "open", not {self.fail!r}.')
        if self.timeout is not None and not _is_positive(self.timeout):
            raise UsageError(
                f"Guard {self.name!r}: its timeout is a number of seconds, not {self.timeout!r}."
            )
        if not callable(self.check):
            raise UsageError(f"Guard {self.name!r}: its check cannot be called.")


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < inf


def guard(
    *places: Place,
    name: str | None = None,
    version: str = "1",
    order: int = 0,
    fail: Literal["closed", "open"] = "closed",
    timeout: float | None = None,
) -> Callable[[Check], Guard]:
    """Make a guard of a function: `@guard("tool_call")`.

    Args:
        *places: Where it is asked; see `Place`.
        name: Its name; default that of the function.
        version: Of its rules.
        order: Guards of a lower one are asked first.
        fail: What becomes of a value when the function raises.
        timeout: Seconds it has to judge; None: as many as it takes.
    """

    def made(check: Check) -> Guard:
        called = name or str(getattr(check, "__name__", type(check).__name__))
        return Guard(called, check, frozenset(places), version, order, fail, timeout)

    return made
