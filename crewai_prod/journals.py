"""The journals this process has open: one per file, so that all runs on it share their commits."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Literal

from crewai_prod.journal import Journal, default_location, open_journal

_open: dict[tuple[str, str], Journal] = {}
_lock = threading.Lock()


def shared_journal(
    location: str | Path | None = None, durability: Literal["power", "process"] = "power"
) -> Journal:
    """The journal at `location` (default: as `open_journal`), opened once per process.

    Raises:
        JournalError: It cannot be opened.
    """
    place = str(location) if location is not None else str(default_location())
    key = (place if "://" in place else str(Path(place).absolute()), durability)
    with _lock:
        if key not in _open:
            _open[key] = open_journal(key[0], durability=durability)
        return _open[key]
