"""The crew of `parts` for processes that are killed: built in each of them, found by name."""

from __future__ import annotations

import os

from crewai import Crew

from crewai_prod import harden
from tests.concurrency.parts import TOOLS, make_crew
from tests.crash.shapes import SERVER, act
from tests.crews import Path, make_llm


def native() -> Crew:
    """With native tool calls."""
    return _bank("native")


def text() -> Crew:
    """With tools called in the text."""
    return _bank("text")


def _bank(path: Path) -> Crew:
    llm = make_llm(os.environ[SERVER], path, max_retries=0)
    hardened: Crew = harden(make_crew(llm, _act), tools=TOOLS)
    return hardened


def _act(tool: str, who: str) -> None:
    act(tool, "done", who=who)
