"""Opening the journal's file: where it lies, who may read it, which settings its connections have.

Rule: the file and its companions are 0600 from their first byte, folders made for it 0700; a
connection is WAL with foreign keys on, or it is not opened. Not covered: file systems that cannot
share memory between processes (network shares); SQLite refuses WAL there, and so does this.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from crewai_prod.errors import JournalUnavailable
from crewai_prod.journal._failures import is_busy, unavailable
from crewai_prod.journal._migrations import current_version, migrate, stored_version

Durability = Literal["power", "process"]
SYNCHRONOUS: dict[Durability, str] = {"power": "FULL", "process": "NORMAL"}
_RETRY_SECONDS = 0.01
_LOOK_SECONDS = 0.02
"""Looking whether the file is still there takes a tenth of a quick commit: not in every one."""


def create_file(path: Path) -> None:
    """Make the folders and an empty file, unless they exist.

    Raises:
        JournalUnavailable: The operating system refuses.
    """
    try:
        _make_folders(path.parent)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise unavailable(str(path), error) from error


def open_writer(path: Path, durability: Durability, busy_seconds: float) -> sqlite3.Connection:
    """A connection that can write, to an existing file; its schema is brought up to date.

    Raises:
        JournalError: It is not there, no journal, or of a newer schema.
        sqlite3.Error: SQLite could not open it.
    """
    require_file(path)
    connection = _connect(path, "rw", busy_seconds)
    try:
        stored_version(connection, str(path))
        _use_wal(connection, path, busy_seconds)
        connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS[durability]}")
        connection.execute("PRAGMA foreign_keys = ON")
        migrate(connection, str(path))
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: Path, busy_seconds: float) -> sqlite3.Connection:
    """A connection that only reads; the file's schema must be the current one.

    Raises:
        JournalError: It is not there, no journal, or of another schema.
        sqlite3.Error: SQLite could not open it.
    """
    require_file(path)
    try:
        connection = _connect(path, "ro", busy_seconds)
        version = stored_version(connection, str(path))
    except sqlite3.OperationalError:
        # In a read-only folder SQLite cannot make the files that WAL needs. If nobody left any, no
        # one can be writing, and the file alone is the whole journal.
        if Path(f"{path}-wal").exists() or os.access(path.parent, os.W_OK):
            raise
        connection = _connect(path, "ro&immutable=1", busy_seconds)
        version = stored_version(connection, str(path))
    if version != current_version():
        connection.close()
        raise JournalUnavailable(
            f"The journal {path} has schema {version}; it must be opened for writing once to bring "
            f"it to {current_version()}.",
            path=str(path),
        )
    return connection


def require_file(path: Path) -> os.stat_result:
    """What the operating system knows of the file.

    Raises:
        JournalUnavailable: There is none, or it may not be looked at.
    """
    try:
        return path.stat()
    except FileNotFoundError as error:
        raise JournalUnavailable(f"There is no journal at {path}.", path=str(path)) from error
    except OSError as error:
        raise unavailable(str(path), error) from error


def _connect(path: Path, mode: str, busy_seconds: float) -> sqlite3.Connection:
    name = str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return sqlite3.connect(
        f"file:{name}?mode={mode}",
        uri=True,
        timeout=busy_seconds,
        isolation_level=None,
        check_same_thread=False,
    )


def _use_wal(connection: sqlite3.Connection, path: Path, busy_seconds: float) -> None:
    """Switch to WAL; while another process does so, SQLite says busy without waiting."""
    deadline = time.monotonic() + busy_seconds
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            break
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)
    if mode != "wal":
        raise JournalUnavailable(
            f"The journal {path} is on a file system without write-ahead logging ({mode}). "
            "Put it on a local disk.",
            path=str(path),
        )


def _make_folders(folder: Path) -> None:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for made in reversed(missing):
        made.mkdir(mode=0o700, exist_ok=True)


class Handle:
    """A connection opened when first used, and again after `drop` (a fork, or an error).

    Not safe for two threads at once: its user holds a lock.

    Args:
        path: The file.
        connect: Opens it.
    """

    def __init__(self, path: Path, connect: Callable[[], sqlite3.Connection]) -> None:
        self._path = str(path)
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._looked = 0.0
        self.suspect = False

    def get(self) -> sqlite3.Connection:
        """The connection to the file that lies at the path now.

        Raises:
            JournalError: It cannot be opened, or was moved away: a write to the file that it was
                would be lost.
            sqlite3.Error: SQLite could not open it.
        """
        now = time.monotonic()
        if self._connection is None or self.suspect:
            self.drop()
            self._connection = self._connect()
            self._identity = self._look()
        elif now - self._looked < _LOOK_SECONDS:
            return self._connection
        elif self._look() != self._identity:
            self.drop()
            raise JournalUnavailable(
                f"The journal {self._path} was moved, deleted or replaced.", path=self._path
            )
        self._looked = now
        return self._connection

    def drop(self) -> None:
        """Close the connection; the next `get` opens another."""
        connection, self._connection = self._connection, None
        self.suspect = False
        if connection is not None:
            connection.close()

    def _look(self) -> tuple[int, int] | None:
        try:
            stat = os.stat(self._path)
        except OSError:
            return None
        return stat.st_dev, stat.st_ino
