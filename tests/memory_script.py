"""What the model says to CrewAI's memory, and an embedder that needs no model.

No crewai here: the server process imports this module and must start at once.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from tests.openai_script import Conversation, Reply, Rule, Seen, Turn, text_of

_EXTRACT = "You extract discrete, reusable memory statements"
_ANALYZE_SAVE = "You analyze content to be stored"
_ANALYZE_QUERY = "You analyze a query for searching memory"
_CONSOLIDATE = "You are comparing new content against existing memories"
_EXPLORE = "Relevant memory excerpts:"
LONG = "Please mind all of it. " * 10
"""What makes a task's description long enough for CrewAI to have its recall analysed."""


def embed(texts: list[str]) -> list[list[float]]:
    """Directions that texts share if they begin alike."""
    return [
        [digit / 128 - 1 for digit in hashlib.sha256(text[:12].encode()).digest()[:16]]
        for text in texts
    ]


def of_memory(seen: Seen) -> bool:
    """Requests of the memory: when one fails, CrewAI goes on with what it has."""
    said = text_of(seen.body["messages"][0])
    systems = (_EXTRACT, _ANALYZE_SAVE, _ANALYZE_QUERY, _CONSOLIDATE)
    return said.startswith(systems) or _EXPLORE in said


def remembering(*rules: Rule) -> Conversation:
    """A script with what the memory's analyses are told in front of it."""
    return Conversation(
        Rule(_extracted, agent=_EXTRACT),
        Rule(_as_json(suggested_scope="/facts", categories=["sea"]), agent=_ANALYZE_SAVE),
        Rule(_as_json(recall_queries=["tides"], complexity="complex"), agent=_ANALYZE_QUERY),
        Rule(_as_json(actions=[], insert_new=True), agent=_CONSOLIDATE),
        Rule(Reply("nothing is missing"), task=_EXPLORE),
        *rules,
    )


def _as_json(**values: Any) -> Reply:
    return Reply(json.dumps(values))


def _extracted(turn: Turn) -> Reply:
    said = turn.task.partition("Result: ")[2].splitlines()[0]
    return _as_json(memories=[f"first of {said}", f"second of {said}"])
