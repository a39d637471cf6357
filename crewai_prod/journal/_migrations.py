"""The schema's version: making a journal, and bringing an older one up to date.

Rule: a new file gets `schema.sql` as it is; an older one goes through `MIGRATIONS`, each in one
transaction with its new `user_version`; both ways end in the same schema, which a test proves. A
file of a newer version, or of another application, is refused before anything is written to it.

To change the schema: edit `schema.sql`, add a migration, raise nothing by hand (the version is the
number of the last migration). Migrations get a `sqlite_utils.Database`, whose `transform` does what
SQLite's ALTER TABLE cannot; it is imported only then, because importing it takes 0.3 s.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from crewai_prod.errors import Corrupt, SchemaTooNew
from crewai_prod.journal._group import alone

if TYPE_CHECKING:
    from sqlite_utils import Database

APPLICATION_ID = 0x43725064
"""Marks the file as ours (`file` and `PRAGMA application_id` show it)."""


@dataclass(frozen=True, slots=True)
class Migration:
    """A step from the version before to `version`."""

    version: int
    apply: Callable[[Database], None]


MIGRATIONS: tuple[Migration, ...] = ()
FIRST_VERSION = 1


def current_version() -> int:
    """The version of `schema.sql`."""
    return MIGRATIONS[-1].version if MIGRATIONS else FIRST_VERSION


def stored_version(connection: sqlite3.Connection, location: str) -> int:
    """The version of the file, 0 for an empty one. Writes nothing.

    Raises:
        SchemaTooNew: A newer crewai-prod wrote it.
        Corrupt: It is the database of another application.
    """
    application, version = _marks(connection)
    if application != APPLICATION_ID:
        empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if empty and application == 0 and version == 0:
            return 0
        application, version = _marks(connection)  # made by another process meanwhile
    if application != APPLICATION_ID:
        raise Corrupt(f"{location} is no journal but some other database.", path=location)
    if version > current_version():
        raise SchemaTooNew(
            f"The journal {location} has schema {version}, this crewai-prod knows up to "
            f"{current_version()}. Upgrade crewai-prod, or use another file.",
            path=location,
            version=version,
        )
    return version


def _marks(connection: sqlite3.Connection) -> tuple[int, int]:
    application: int = connection.execute("PRAGMA application_id").fetchone()[0]
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return application, version


def migrate(connection: sqlite3.Connection, location: str) -> None:
    """Bring the file to the current schema; another process may be doing the same."""
    if stored_version(connection, location) == 0:
        alone(connection, lambda c: _create(c, location))
    for migration in MIGRATIONS:
        if stored_version(connection, location) < migration.version:
            _apply(connection, migration, location)


def statements(script: str) -> Iterator[str]:
    """The statements of a script, comments inside them kept."""
    text = ""
    for line in script.splitlines(keepends=True):
        if text or not line.lstrip().startswith("--"):
            text += line
        if sqlite3.complete_statement(text):
            yield text.strip()
            text = ""


def script(name: str) -> str:
    """Text of one of the SQL files beside this module."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _create(connection: sqlite3.Connection, location: str) -> None:
    if stored_version(connection, location) != 0:
        return  # another process was faster
    for statement in (*statements(script("schema.sql")), *statements(script("views.sql"))):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {current_version()}")


def _apply(connection: sqlite3.Connection, migration: Migration, location: str) -> None:
    from sqlite_utils import Database

    database = Database(connection, recursive_triggers=False, execute_plugins=False)

    def work(inner: sqlite3.Connection) -> None:
        if stored_version(inner, location) >= migration.version:
            return  # another process was faster
        _drop_views(inner)
        migration.apply(database)
        for statement in statements(script("views.sql")):
            inner.execute(statement)
        inner.execute(f"PRAGMA user_version = {migration.version}")

    alone(connection, work)


def _drop_views(connection: sqlite3.Connection) -> None:
    for (name,) in connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'view'"
    ).fetchall():
        connection.execute(f'DROP VIEW "{name}"')
