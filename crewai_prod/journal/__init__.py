"""The journal: runs and steps on disk. The only place that knows SQL.

`open_journal` gives a `Journal`; `_base` says what it promises. Importing this costs little and
needs neither crewai nor sqlite-utils.
"""

from __future__ import annotations

import os
from pathlib import Path

from crewai_prod.errors import UsageError
from crewai_prod.journal._base import CANCEL_SECONDS, Journal
from crewai_prod.journal._crypto import VARIABLE as KEY_VARIABLE
from crewai_prod.journal._crypto import Cipher, Plain
from crewai_prod.journal._files import SYNCHRONOUS, Durability
from crewai_prod.journal._lease import forget_owner, new_owner
from crewai_prod.journal._sql import GROUPS
from crewai_prod.journal._sqlite import SqliteJournal
from crewai_prod.journal._states import check_transition

__all__ = [
    "CANCEL_SECONDS",
    "GROUPS",
    "Durability",
    "Journal",
    "SqliteJournal",
    "check_transition",
    "default_location",
    "forget_owner",
    "new_owner",
    "open_journal",
]

BUSY_SECONDS = 30.0
_VARIABLE = "CREWAI_PROD_JOURNAL"
_DEFAULT = Path(".crewai_prod", "journal.db")


def open_journal(
    path_or_url: str | os.PathLike[str] | None = None,
    *,
    durability: Durability = "power",
    create: bool = True,
    encryption_key: str | None = None,
    busy_seconds: float = BUSY_SECONDS,
) -> SqliteJournal:
    """Open a journal, or make one.

    Args:
        path_or_url: The SQLite file. Default: environment variable CREWAI_PROD_JOURNAL, else
            `.crewai_prod/journal.db` below the working directory.
        durability: `power`: a commit survives a power cut. `process`: it survives the end of the
            process, kill -9 included, and costs no wait for the disk.
        create: Whether to make the file and its folders (0600, 0700) where they are missing.
        encryption_key: Base64 of 32 bytes with which payloads are encrypted. Default: environment
            variable CREWAI_PROD_ENCRYPTION_KEY, else none.
        busy_seconds: How long a call waits for another process's lock.

    Raises:
        JournalError: It cannot be opened or made, is no journal, or of a newer schema.
        UsageError: An argument is wrong, or the key is not the file's.
    """
    given = path_or_url if path_or_url is not None else default_location()
    if durability not in SYNCHRONOUS:
        raise UsageError(f"durability must be 'power' or 'process', not {durability!r}.")
    key = encryption_key if encryption_key is not None else os.environ.get(KEY_VARIABLE)
    vault = Cipher(key) if key else Plain()
    journal = SqliteJournal(_path(given), durability, vault, busy_seconds)
    journal.prepare(create=create)
    return journal


def default_location() -> str:
    """Where the journal is unless said otherwise."""
    return os.environ.get(_VARIABLE) or str(_DEFAULT)


def _path(given: str | os.PathLike[str]) -> Path:
    text = os.fspath(given)
    scheme, found, _ = text.partition("://")
    if found and scheme in ("postgresql", "postgres"):
        raise UsageError("PostgreSQL journals are not in this version. Give the path of a file.")
    if found or text in ("", ":memory:"):
        raise UsageError("A journal is a file on disk: give its path.")
    return Path(os.path.abspath(os.path.expanduser(text)))
