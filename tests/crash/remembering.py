"""A crew with a memory. A module of its own: lancedb starts threads when it is imported.

What forks the processes that are killed must not have any.
"""

from __future__ import annotations

import os
from typing import Any

from crewai import Crew
from crewai.memory.storage.lancedb_storage import LanceDBStorage
from crewai.memory.unified_memory import Memory

from crewai_prod.crashtest.sessions import EFFECTS
from tests.crash.shapes import SERVER, act, agent_of, charge, reserve, task_of
from tests.crews import make_llm
from tests.memory_script import LONG, embed


class Ledger(LanceDBStorage):
    """A store that writes down what is saved in it."""

    def save(self, records: list[Any]) -> None:
        """Save, and say so: one line for each record."""
        super().save(records)
        for record in records:
            act("remember", record.id, content=record.content)


def remembering() -> Crew:
    """Two agents with one memory: recalls, extractions and analyses beside what they do."""
    folder = os.path.dirname(os.environ[EFFECTS])
    llm = make_llm(os.environ[SERVER], "native", max_retries=0)
    memory = Memory(storage=Ledger(path=f"{folder}/memory"), embedder=embed, llm=llm)
    clerk = agent_of("Clerk", "native", reserve, memory=memory)
    cashier = agent_of("Cashier", "text", charge, memory=memory)
    tasks = [
        task_of(f"Reserve the item of order {{order}}. {LONG}", clerk),
        task_of(f"Charge the card. {LONG}", cashier),
    ]
    return Crew(name="remembering", agents=[clerk, cashier], tasks=tasks)
