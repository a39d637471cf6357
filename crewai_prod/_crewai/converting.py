"""The seam in front of conversions: CrewAI asks for JSON through a client that is not the model's.

With function calling, a converter has `instructor` build a client of its own and send the request:
it would be neither recorded nor billed. Everything else a converter asks goes through `LLM.call`.
"""

from __future__ import annotations

from typing import Any

from crewai.utilities.converter import Converter
from crewai.utilities.internal_instructor import InternalInstructor
from pydantic import BaseModel

from crewai_prod._crewai.llm import answer_beside
from crewai_prod._crewai.metering import meter_beside
from crewai_prod._crewai.model_call import Messages
from crewai_prod._crewai.takeover import Seamed, seam_class


class RunInstructor(InternalInstructor[Any]):
    """CrewAI's own, its one request a step of the run."""

    def to_pydantic(self) -> Any:
        """The recorded answer, or a new one."""
        messages = [{"role": "user", "content": self.content}]
        return answer_beside(self.llm, messages, self.model, self._ask)

    def _ask(self, sent: Messages | None) -> Any:
        if sent is not None:  # it sends one message
            self.content = "\n\n".join(str(one.get("content", "")) for one in sent)
        try:
            answer = super().to_pydantic()
        except Exception as error:
            meter_beside(_usage(getattr(error, "total_usage", None)))
            raise
        # `instructor` sums up in its last response what all its tries have cost.
        meter_beside(_usage(getattr(getattr(answer, "_raw_response", None), "usage", None)))
        return answer


class RunConverter(Seamed):
    """A converter of a hardened run."""

    def _create_instructor(self) -> Any:
        made = super()._create_instructor()  # type: ignore[misc]
        if type(made) is InternalInstructor:
            made.__class__ = RunInstructor
        return made


def converter_class(kind: Any) -> Any:
    """A user's converter class with the seam in front of it; None and other things as they are."""
    if not isinstance(kind, type) or not issubclass(kind, Converter):
        return kind
    return seam_class(RunConverter, kind)


def _usage(reported: Any) -> dict[str, Any]:
    """A provider's usage object as a dict; tries that were refused have cost nothing."""
    if not isinstance(reported, BaseModel):
        return {}
    usage = reported.model_dump(exclude_none=True)
    return usage if any(isinstance(value, int) and value for value in usage.values()) else {}
