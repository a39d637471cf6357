"""Do the seams take hold in this installation? The order desk runs, and the journal is counted.

Rule: what the script, the tools and the ledger saw must be what the journal holds, to the call; and
asked for again, the finished run must be handed back without a single one. It needs no network.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crewai_prod.demo.crew import order_desk
from crewai_prod.demo.ledger import Ledger
from crewai_prod.demo.script import CONFIRMATION, answer
from crewai_prod.journal import open_journal
from crewai_prod.records import StepKind, StepStatus, TaskStatus
from crewai_prod.testing import ScriptedLLM

_RUN = "selftest"
_INPUTS = {"order": "A-1001"}


def self_test(*, native: bool) -> list[str]:
    """Run it with native or textual tool calls; returns what is wrong, nothing if all is well."""
    with tempfile.TemporaryDirectory(prefix="crewai-prod-doctor-") as folder:
        return _counted(Path(folder), native=native)


def _counted(folder: Path, *, native: bool) -> list[str]:
    asked: list[Any] = []

    def script(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> Any:
        asked.append(answer(messages, tools))
        return asked[-1]

    path, ledger = folder / "journal.db", Ledger(folder / "charges.jsonl")
    crew = order_desk(ScriptedLLM(script, native=native), ledger, path)
    first: Any = crew.kickoff(inputs=_INPUTS, run_id=_RUN)  # type: ignore[call-arg]
    calls = len(asked)
    again = crew.kickoff(inputs=_INPUTS, run_id=_RUN)  # type: ignore[call-arg]
    journal = open_journal(path, create=False)
    try:
        found = Counter(s.kind for s in journal.steps(_RUN) if s.status is StepStatus.DONE)
        tasks = sum(task.status is TaskStatus.DONE for task in journal.tasks(_RUN))
        tokens = journal.runs()[0].total_tokens
    finally:
        journal.close()
    expected = {
        "model calls the journal holds": (calls, found[StepKind.MODEL]),
        "tool calls the journal holds": (1 + len(ledger.charges()), found[StepKind.TOOL]),
        "charges": (2, len(ledger.charges())),
        "finished tasks": (3, tasks),
        "output": (CONFIRMATION, str(first)),
        "output of the finished run asked for again": (CONFIRMATION, str(again)),
        "model calls after asking again": (calls, len(asked)),
        "tokens of the result": (tokens, first.token_usage.total_tokens),
    }
    return [
        f"{what}: {got!r} in place of {wanted!r}"
        for what, (wanted, got) in expected.items()
        if got != wanted
    ]
