"""Who answers what a run under test asks, and who cancels it: each in a process of their own.

A session kicks them off as it kicks off a crew, so that they are killed at the same places.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any

import orjson

from crewai_prod.answering import approve
from crewai_prod.approval import BUDGET, FEEDBACK, QUESTION, UNKNOWN
from crewai_prod.cancelling import cancel
from crewai_prod.errors import CrewProdError
from crewai_prod.journal import Journal, open_journal
from crewai_prod.records import ApprovalRecord

PEOPLE = f"{__name__}:Agreeable"
CANCELS = f"{__name__}:Canceller"


class Agreeable:
    """Says yes to everything, and raises limits to twice as much."""

    def kickoff(self, inputs: Mapping[str, str]) -> int:
        """Answer what is open but for what became of calls; how many that were."""
        journal = open_journal(inputs["journal"], create=False)
        asked = journal.approvals(inputs["run_id"], status="open")
        asked = [one for one in asked if one.kind != UNKNOWN]
        for question in asked:
            self.answer(journal, question)
        return len(asked)

    def answer(self, journal: Journal, question: ApprovalRecord) -> None:
        """Answer one question."""
        if question.kind == BUDGET:
            approve(question.id, journal, edit=twice(question))
        else:
            note = "yes" if question.kind in (QUESTION, FEEDBACK) else None
            approve(question.id, journal, note=note)


def twice(question: ApprovalRecord) -> dict[str, Any]:
    """The limit that is asked about, twice as high."""
    said = orjson.loads(question.arguments or "{}")
    most = said["most"]
    return {said["limit"]: str(2 * Decimal(most)) if isinstance(most, str) else 2 * most}


class Canceller:
    """Asks whoever is at work on the run to stop."""

    def kickoff(self, inputs: Mapping[str, str]) -> None:
        """Ask, if anybody is."""
        with suppress(CrewProdError):
            cancel(inputs["run_id"], open_journal(inputs["journal"], create=False))
