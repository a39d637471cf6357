"""The tool with which an agent asks a person, where a run's rules let it.

Its body asks a question like any other: the run pauses on it, and whoever resumes the run calls the
body again, which finds the answer. No process waits.
"""

from __future__ import annotations

from typing import Final

from crewai.tools.base_tool import BaseTool
from pydantic import BaseModel, Field, PrivateAttr

from crewai_prod.approval import Decision
from crewai_prod.bodies import current_scope, current_step
from crewai_prod.errors import RunError
from crewai_prod.run import Run
from crewai_prod.tooling import ToolOptions

NAME: Final = "ask_human"
ASKING: Final = ToolOptions(effect="read")
"""A question that is cut off is put again: it is the same one."""


class Question(BaseModel):
    """What it is called with."""

    question: str = Field(description="What you need to know, in full: they see nothing else.")


class AskHuman(BaseTool):
    """Asks a person."""

    name: str = NAME
    description: str = (
        "Ask the person who looks after this work. Use it when you cannot go on by yourself: "
        "something is missing, unclear, or not yours to decide. It may take long."
    )
    args_schema: type[BaseModel] = Question
    _of_run: Run = PrivateAttr()

    @classmethod
    def of(cls, run: Run) -> AskHuman:
        """The tool of a run."""
        made = cls()
        made._of_run = run
        return made

    def _run(self, question: str) -> str:
        """What they answer."""
        at, step = current_scope.get(), current_step()
        if at is None or step is None:
            raise RunError(f"{NAME} was called outside of its run.")
        scope = at[1]
        return _told(
            self._of_run.escalating.asked_by_model(scope, step.step_id, self.name, question)
        )


def _told(decision: Decision) -> str:
    """A decision in words, for the model."""
    if decision.by is None:
        default = "You may go on" if decision.approved else "Go on without, or say that you cannot"
        return f"Nobody has answered in time. {default}."
    said = decision.note or ("Yes." if decision.approved else "No.")
    return f"They answer: {said}" if decision.approved else f"They say no: {said}"
