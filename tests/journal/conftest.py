"""A journal for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crewai_prod.journal import SqliteJournal, open_journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the test's journal lies."""
    return tmp_path / "runs.db"


@pytest.fixture
def journal(path: Path) -> Iterator[SqliteJournal]:
    """A new journal; commits do not wait for the disk."""
    opened = open_journal(path, durability="process")
    yield opened
    opened.close()
