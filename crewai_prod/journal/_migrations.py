"""The schema's version: making a journal, and bringing an older one up to date.

Rule: a new file gets `schema.sql` as it is; an older one goes through `MIGRATIONS`, each in one
transaction with its new `user_version`; both ways end in the same schema, which a test proves. A
file of a newer version, or of another application, is refused before anything is written to it.

To change the schema: edit `schema.sql`, add a migration, raise nothing by hand (the version is the
number of the last migration). Migrations get a `sqlite_utils.Database`, whose `transform` does what
SQLite's ALTER TABLE cannot; it is imported only then, because importing it takes 0.3 s. Where
columns in the middle of a table change, `rebuild` keeps its constraints.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
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


FIRST_VERSION = 1


def _money(database: Database) -> None:
    """Version 2: money in exact integers, and sums of what finished runs took."""
    connection = database.conn
    assert connection is not None
    rebuild(connection, "steps", _MONEY)
    rebuild(connection, "attempts", (*_MONEY, _ASKED))
    for statement in statements(_RUN_USAGE):
        connection.execute(statement)


_MONEY = (
    (
        r"cost_usd TEXT,.*\n",
        "cost_picousd INTEGER, -- trillionths of a US dollar; NULL: unpriced, or no cost\n",
    ),
    (
        r"cost_status TEXT,.*\n",
        "cost_status TEXT, -- reported (by the provider), priced, estimated or unpriced\n"
        "  cost_source TEXT, -- provider, prices (the user's), genai-prices or on_unpriced\n",
    ),
)
_ASKED = (
    r"  error TEXT -- JSON\n",
    "  model TEXT, -- who was asked: another model may have stood in; NULL: as in steps\n"
    "  provider TEXT,\n  error TEXT -- JSON\n",
)
_RUN_USAGE = """
UPDATE steps SET cost_status = 'unpriced'
WHERE kind = 'model' AND (calls IS NOT NULL OR status = 'done');
UPDATE attempts SET cost_status = 'unpriced' WHERE calls IS NOT NULL;
CREATE INDEX runs_by_crew ON runs (crew, kind, run);
CREATE TABLE run_usage (
  run INTEGER NOT NULL REFERENCES runs (run) ON DELETE CASCADE,
  crew TEXT,
  kind TEXT NOT NULL,
  hour INTEGER NOT NULL,
  task INTEGER,
  agent TEXT,
  provider TEXT,
  model TEXT,
  steps INTEGER NOT NULL,
  llm_calls INTEGER NOT NULL,
  tool_calls INTEGER NOT NULL,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  cache_read_tokens INTEGER NOT NULL,
  cache_write_tokens INTEGER NOT NULL,
  reasoning_tokens INTEGER NOT NULL,
  cost_picousd INTEGER NOT NULL,
  priced INTEGER NOT NULL,
  unpriced INTEGER NOT NULL
);
INSERT INTO run_usage
SELECT t.run, r.crew, r.kind, CAST(t.started_at / 3600 AS INTEGER), s.task, s.agent, s.provider,
  CASE s.kind WHEN 'model' THEN coalesce(s.model, s.name) END,
  sum(t.outcome), sum(s.kind = 'model'), sum(s.kind = 'tool' AND t.outcome),
  coalesce(sum(t.input_tokens), 0), coalesce(sum(t.output_tokens), 0),
  coalesce(sum(t.cache_read_tokens), 0), coalesce(sum(t.cache_write_tokens), 0),
  coalesce(sum(t.reasoning_tokens), 0), 0, 0, coalesce(sum(t.cost_status = 'unpriced'), 0)
FROM (
  SELECT run, step_id, 1 AS outcome, started_at, input_tokens, output_tokens, cache_read_tokens,
    cache_write_tokens, reasoning_tokens, cost_status FROM steps
  UNION ALL
  SELECT run, step_id, 0, started_at, input_tokens, output_tokens, cache_read_tokens,
    cache_write_tokens, reasoning_tokens, cost_status FROM attempts
) t JOIN steps s ON s.run = t.run AND s.step_id = t.step_id JOIN runs r ON r.run = t.run
WHERE r.status <> 'running' GROUP BY 1, 4, 5, 6, 7, 8;
CREATE INDEX run_usage_by_run ON run_usage (run);
CREATE TABLE day_usage (
  day TEXT NOT NULL,
  crew TEXT NOT NULL,
  kind TEXT NOT NULL,
  task INTEGER NOT NULL,
  agent TEXT NOT NULL,
  provider TEXT NOT NULL,
  model TEXT NOT NULL,
  steps INTEGER NOT NULL,
  llm_calls INTEGER NOT NULL,
  tool_calls INTEGER NOT NULL,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  cache_read_tokens INTEGER NOT NULL,
  cache_write_tokens INTEGER NOT NULL,
  reasoning_tokens INTEGER NOT NULL,
  cost_picousd INTEGER NOT NULL,
  priced INTEGER NOT NULL,
  unpriced INTEGER NOT NULL,
  PRIMARY KEY (day, crew, kind, task, agent, provider, model)
) WITHOUT ROWID;
INSERT INTO day_usage
SELECT date(hour * 3600, 'unixepoch'), coalesce(crew, ''), kind, coalesce(task, -1),
  coalesce(agent, ''), coalesce(provider, ''), coalesce(model, ''), sum(steps), sum(llm_calls),
  sum(tool_calls), sum(input_tokens), sum(output_tokens), sum(cache_read_tokens),
  sum(cache_write_tokens), sum(reasoning_tokens), sum(cost_picousd), sum(priced), sum(unpriced)
FROM run_usage GROUP BY 1, 2, 3, 4, 5, 6, 7;
"""


def _brakes(database: Database) -> None:
    """Version 3: budgets shared, cancelling, routes, questions, verdicts, how long results are."""
    connection = database.conn
    assert connection is not None
    rebuild(connection, "steps", (_ROUTE, *_SIZES))
    rebuild(connection, "attempts", (_ROUTE_OF_TRY,))
    rebuild(connection, "approvals", _QUESTIONS)
    for statement in statements(_ANSWERED):
        connection.execute(statement)
    for statement in statements(_BRAKES):
        connection.execute(statement)


_ROUTE = (
    r"  provider TEXT,\n",
    "  provider TEXT,\n"
    '  route TEXT, -- JSON: {"rule", "reason", "model", "instead_of"} where a rule chose who is '
    "asked\n",
)
_ROUTE_OF_TRY = (r"  provider TEXT,\n", "  provider TEXT,\n  route TEXT, -- as in steps\n")
_QUESTIONS = (
    (
        r"kind TEXT NOT NULL, -- such as unknown_outcome\n",
        "kind TEXT NOT NULL, -- tool, task_output, budget, guard, human_input, feedback, question "
        "or\n    -- unknown_outcome\n",
    ),
    (
        r"status TEXT NOT NULL, -- open or answered\n",
        "status TEXT NOT NULL, -- open, answered, expired (its default counts) or closed (its run"
        " ended)\n",
    ),
    (
        r"  answered_at REAL,\n",
        """  answered_at REAL,
  scope TEXT, -- where in the run
  task TEXT, -- name
  agent TEXT, -- role
  why TEXT, -- what made it a question: declared, amount, taint, first_use, guard, budget ...
  about TEXT, -- digest of what is asked; with run, scope and kind the question's identity
  who TEXT, -- JSON: the names that may answer; NULL: anybody
  on_expiry TEXT, -- approved or rejected
  verdict TEXT, -- approved or rejected; of an unknown outcome done, rerun or fail
  answered_by TEXT,
  holds TEXT, -- what it covers besides this question: run, or tool until holds_until; NULL: nothing
  holds_until REAL,
  notified_at REAL, -- when somebody was told of it, or was about to be
""",
    ),
    (
        r"arguments TEXT, -- JSON: what the tool would be called with\n",
        "arguments TEXT, -- JSON: what is asked about, without secrets\n",
    ),
    (
        r"  answer TEXT -- JSON.*\n",
        """  answer TEXT, -- JSON: {"decision", "edited", "note", "result"}
  form TEXT, -- JSON schema of the arguments
  remark TEXT -- what a person should know besides
""",
    ),
)
_ANSWERED = """
UPDATE approvals SET why = 'unknown', about = step_id;
CREATE INDEX approvals_granted ON approvals (tool) WHERE holds IS NOT NULL;
"""
_SIZES = (
    (
        r"  duration_ms REAL,\n",
        "  duration_ms REAL,\n"
        "  output_size INTEGER, -- of a tool's result: characters, as a model reads it\n"
        "  output_cut INTEGER, -- how many of these it was not shown; NULL: the tool has no "
        "max_output\n",
    ),
)
_BRAKES = """
CREATE TABLE cancellations (
  run INTEGER PRIMARY KEY REFERENCES runs (run) ON DELETE CASCADE,
  epoch INTEGER NOT NULL,
  asked_at REAL NOT NULL
);
CREATE TABLE shared_usage (
  label TEXT NOT NULL,
  hour INTEGER NOT NULL,
  cost_picousd INTEGER NOT NULL,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  llm_calls INTEGER NOT NULL,
  tool_calls INTEGER NOT NULL,
  PRIMARY KEY (label, hour)
) WITHOUT ROWID;
CREATE TABLE reservations (
  run INTEGER NOT NULL REFERENCES runs (run) ON DELETE CASCADE,
  step_id TEXT NOT NULL,
  label TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  cost_picousd INTEGER NOT NULL,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  llm_calls INTEGER NOT NULL,
  tool_calls INTEGER NOT NULL,
  PRIMARY KEY (run, step_id, label)
) WITHOUT ROWID;
CREATE INDEX reservations_by_label ON reservations (label);
CREATE TABLE verdicts (
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES runs (run) ON DELETE CASCADE,
  epoch INTEGER NOT NULL,
  scope TEXT NOT NULL,
  step_id TEXT,
  place TEXT NOT NULL,
  tool TEXT,
  guard TEXT NOT NULL,
  version TEXT NOT NULL,
  verdict TEXT NOT NULL CHECK (verdict = 'allow' OR verdict = 'modify' OR verdict = 'reject'
    OR verdict = 'escalate' OR verdict = 'unavailable' OR verdict = 'taint'),
  judged TEXT NOT NULL,
  at REAL NOT NULL,
  duration_ms REAL,
  reason TEXT,
  value TEXT
);
CREATE INDEX verdicts_by_run ON verdicts (run, id);
"""


def _killed(database: Database) -> None:
    """Version 4: calls that a kill has cut off, which count in budgets."""
    connection = database.conn
    assert connection is not None
    for statement in statements(_UNDER_WAY):
        connection.execute(statement)


_UNDER_WAY = """
CREATE TABLE calls_under_way (
  run INTEGER NOT NULL REFERENCES runs (run) ON DELETE CASCADE,
  epoch INTEGER NOT NULL,
  step_id TEXT NOT NULL,
  scope TEXT NOT NULL,
  agent TEXT,
  at REAL NOT NULL,
  cost_picousd INTEGER NOT NULL,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  llm_calls INTEGER NOT NULL,
  tool_calls INTEGER NOT NULL,
  PRIMARY KEY (run, epoch, step_id)
) WITHOUT ROWID;
"""

MIGRATIONS: tuple[Migration, ...] = (
    Migration(2, _money),
    Migration(3, _brakes),
    Migration(4, _killed),
)


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


def rebuild(connection: sqlite3.Connection, table: str, changes: Sequence[tuple[str, str]]) -> None:
    """Make a table anew with some of its columns changed; what it holds in the others is kept.

    SQLite's ALTER TABLE can add a column at the end only, behind payloads that then have to be read
    to reach it, and `transform` of sqlite-utils loses CHECKs, UNIQUEs and comments. A column whose
    name stays keeps its values. No foreign key may point at the table.

    Args:
        connection: In a transaction, views dropped.
        table: Its name.
        changes: Patterns in its CREATE TABLE, one match each, and what stands there instead.
    """
    named = (table,)
    ((sql,),) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", named)
    indexes = connection.execute(
        "SELECT sql FROM sqlite_master WHERE tbl_name = ? AND type = 'index' AND sql IS NOT NULL",
        named,
    ).fetchall()
    before = _columns(connection, table)
    renamed = (rf'CREATE TABLE "?{table}"?', f"CREATE TABLE new_{table}")
    for pattern, replacement in (renamed, *changes):
        sql, found = re.subn(pattern, replacement, sql)
        assert found == 1, (table, pattern, found)
    connection.execute(sql)
    kept = ", ".join(name for name in _columns(connection, f"new_{table}") if name in before)
    connection.execute(f"INSERT INTO new_{table} ({kept}) SELECT {kept} FROM {table} ORDER BY id")
    connection.execute(f"DROP TABLE {table}")
    connection.execute(f"ALTER TABLE new_{table} RENAME TO {table}")
    for (index,) in indexes:
        connection.execute(index)


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]


def _drop_views(connection: sqlite3.Connection) -> None:
    for (name,) in connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'view'"
    ).fetchall():
        connection.execute(f'DROP VIEW "{name}"')
