"""When a run puts it to a person whether it is to go on. Pure: values in, decisions out.

Rule: a rule that holds makes a question, once for each time that it holds anew: for every
`after_failures` failures of a task, and for a budget once. Approved, the run goes on, and what the
person has to say is told to the model; rejected, it ends there, with `EscalationRejected`. Whoever
resumes it with another rule, or with none, goes on at that call.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from crewai_prod.approval import Approval
from crewai_prod.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalation:
    """When a person is asked, as a rule.

    Attributes:
        after_failures: From how many failures in a task on, and again after as many more: tool
            calls that failed or were refused, answers that were sent back, tries of model calls
            that failed. None: never.
        at_budget: From which part of a budget on, of the tightest that covers the call. None:
            never.
        on_loop: Whether a loop is put to a person before it ends the run.
        ask_human: Whether agents have a tool to ask a person, `ask_human`.
        approval: Who may answer, how long is waited, and what counts otherwise.

    Raises:
        UsageError: A value that makes no sense.
    """

    after_failures: int | None = None
    at_budget: float | None = None
    on_loop: bool = False
    ask_human: bool = False
    approval: Approval = field(default_factory=Approval)

    def __post_init__(self) -> None:
        most = self.after_failures
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            raise UsageError(f"Escalation(after_failures={most!r}): a whole number from 1 on.")
        part = self.at_budget
        number = isinstance(part, (int, float)) and not isinstance(part, bool)
        if part is not None and not (number and 0 < part <= 1):
            raise UsageError(
                f"Escalation(at_budget={part!r}): a part of the budget, more than 0, at most 1."
            )
        for name in ("on_loop", "ask_human"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"Escalation({name}={getattr(self, name)!r}): True or False.")
        approval = Approval.read(self.approval)
        if approval is None or approval.above or approval.first_use or approval.after_taint:
            raise UsageError(
                f"Escalation(approval={self.approval!r}): an Approval that says who answers, and "
                "how long is waited; its conditions are for tools."
            )
        object.__setattr__(self, "approval", approval)
        if most is None and part is None and not (self.on_loop or self.ask_human):
            raise UsageError(
                "An Escalation without any rule: give it after_failures, at_budget, on_loop or "
                "ask_human."
            )

    @classmethod
    def read(cls, said: Any) -> Escalation | None:
        """What `harden(escalation=...)` was given.

        Raises:
            UsageError: It is no such thing.
        """
        if said is not None and not isinstance(said, cls):
            raise UsageError(
                f"escalation={said!r} is no Escalation; for example Escalation(after_failures=3)."
            )
        return said

    def level(self, failures: int) -> int:
        """How often the failures of a task have been a reason to ask; 0: not yet."""
        return failures // self.after_failures if self.after_failures else 0

    def is_low(self, used: float) -> bool:
        """Whether so large a part of a budget is used that a person is to know.

        Args:
            used: 0.0 to 1.0 and more.
        """
        return self.at_budget is not None and used >= self.at_budget
