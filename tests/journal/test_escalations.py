"""How often people are asked, and why, in plain SQL."""

from __future__ import annotations

from pathlib import Path

from crewai_prod.journal import SqliteJournal
from crewai_prod.journal._base import Judge
from crewai_prod.records import Ruling
from tests.journal.support import question, rows, take

_YES = Ruling(status="answered", verdict="approved", answer='{"decision":"approved"}', by="ann")
_LATE = Ruling(status="expired", verdict="rejected", answer='{"decision":"rejected"}')


def _always(ruling: Ruling) -> Judge:
    return lambda row, run: ruling


def test_the_rate_is_of_all_runs_of_the_crew(journal: SqliteJournal, path: Path) -> None:
    """By crew, task and reason; a run counts once, however often it asked."""
    first, second, _ = (take(journal, run_id, crew="ours") for run_id in ("a", "b", "c"))
    other = take(journal, "d", crew="theirs")
    asked = [
        journal.ask(first, question(task="pay", why="amount", about="1")),
        journal.ask(first, question(task="pay", why="amount", about="2")),
        journal.ask(second, question(task="pay", why="amount", about="1")),
        journal.ask(second, question(task="pay", why="loop", about="3")),
        journal.ask(other, question(task="pay", why="amount", about="1")),
    ]
    for number, ruling in zip(asked, (_YES, _LATE), strict=False):
        journal.answer(number, _always(ruling))
    told = "crew, task, why, questions, runs, open, approved, rejected, expired, round(rate, 3)"
    assert rows(path, f"SELECT {told} FROM escalations ORDER BY crew, why") == [
        ("ours", "pay", "amount", 3, 2, 1, 1, 1, 1, 0.667),
        ("ours", "pay", "loop", 1, 1, 1, 0, 0, 0, 0.333),
        ("theirs", "pay", "amount", 1, 1, 1, 0, 0, 0, 1.0),
    ]
