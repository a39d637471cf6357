"""What a kickoff of something hardened is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from crewai_prod.errors import UsageError
from crewai_prod.outcomes import UnknownPolicy


@dataclass(frozen=True, slots=True)
class Asked:
    """The arguments of a kickoff: ours by name, CrewAI's as they were given.

    Attributes:
        inputs: What it is about: an agent's messages.
        args: The other positional arguments.
        kwargs: The other named arguments.

    Raises:
        UsageError: It is to go on from a checkpoint of CrewAI's.
    """

    run_id: str | None
    on_change: str | None
    unknown: UnknownPolicy | None
    inputs: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    checkpoint_at: ClassVar[int] = 1
    """Where among `args` CrewAI takes a checkpoint."""

    def __post_init__(self) -> None:
        checkpoint = self.argument("from_checkpoint", self.checkpoint_at)
        if getattr(checkpoint, "restore_from", None):
            raise UsageError(
                "What is hardened resumes from its journal: pass run_id, not from_checkpoint."
            )

    def argument(self, name: str, position: int) -> Any:
        """One of CrewAI's arguments, by its name or its place among `args`; None without it."""
        given = self.args[position] if len(self.args) > position else None
        return self.kwargs.get(name, given)
