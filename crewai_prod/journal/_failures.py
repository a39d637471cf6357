"""What a failure of SQLite means to the person who can act on it.

Rule: nothing of `sqlite3` leaves the journal as itself; it becomes a documented error that names
the file, keeps SQLite's words and chains the original.
"""

from __future__ import annotations

import sqlite3

from crewai_prod.errors import Corrupt, CrewProdError, JournalUnavailable, UsageError

_CORRUPT = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_VALUE = frozenset({sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH})
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_HINTS = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "the file or its folder is read-only",
    sqlite3.SQLITE_CANTOPEN: "the file or its folder cannot be opened",
    sqlite3.SQLITE_IOERR: "the disk reports an error",
    sqlite3.SQLITE_BUSY: "another process holds the lock",
    sqlite3.SQLITE_LOCKED: "another process holds the lock",
    sqlite3.SQLITE_PERM: "access was denied",
}
BINDING_ERRORS = (UnicodeEncodeError, OverflowError)
"""What Python raises for a value that SQLite has no place for."""
_VALUE_ERRORS = (*BINDING_ERRORS, sqlite3.InterfaceError, sqlite3.ProgrammingError)
_PRIMARY = 0xFF


def primary_code(error: BaseException) -> int | None:
    """SQLite's primary result code of an error, None where it has none."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & _PRIMARY


def is_busy(error: BaseException) -> bool:
    """Whether another connection's lock was in the way."""
    return primary_code(error) in _BUSY


def translated(error: Exception, location: str) -> CrewProdError:
    """The documented error for a database error."""
    code = primary_code(error)
    if isinstance(error, _VALUE_ERRORS) or code in _VALUE:
        return UsageError(f"A value cannot be stored in the journal: {error}.", path=location)
    if code in _CORRUPT:
        return Corrupt(
            f"{location} is damaged or is no journal ({error}). "
            "Restore it from a backup, or use another file.",
            path=location,
        )
    hint = _HINTS.get(code, "SQLite failed") if code is not None else "SQLite failed"
    return JournalUnavailable(f"The journal {location}: {hint} ({error}).", path=location)


class failures:
    """Raise the documented error in place of a database error inside the block."""

    __slots__ = ("_location",)

    def __init__(self, location: str) -> None:
        self._location = location

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (sqlite3.Error, *BINDING_ERRORS)):
            raise translated(error, self._location) from error


def unavailable(location: str, error: OSError) -> JournalUnavailable:
    """The error for a file or folder that the operating system refuses."""
    return JournalUnavailable(
        f"The journal {location} cannot be opened or created ({error}).", path=location
    )
