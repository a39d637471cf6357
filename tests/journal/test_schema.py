"""The schema: one way to make it, migrations that end in it, and SQL anyone can read."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crewai_prod.errors import JournalUnavailable, StaleOwner
from crewai_prod.journal import SqliteJournal, _migrations, _sql, forget_owner, open_journal
from crewai_prod.journal._migrations import (
    APPLICATION_ID,
    FIRST_VERSION,
    Migration,
    current_version,
)
from crewai_prod.journal._sql import run_page
from crewai_prod.records import (
    Cost,
    CostStatus,
    RunStatus,
    Spending,
    StepKind,
    StepStatus,
    Usage,
)
from tests.journal.support import (
    attempt,
    child,
    finished,
    message,
    model_step,
    rows,
    step,
    take,
    task,
)

if TYPE_CHECKING:
    from sqlite_utils import Database

RELEASED = Path(__file__).with_name("released")
TABLES = [
    "approvals",
    "attempts",
    "calls_under_way",
    "cancellations",
    "journal_info",
    "messages",
    "reservations",
    "run_usage",
    "runs",
    "shared_usage",
    "steps",
    "tasks",
    "verdicts",
]
VIEWS = [
    "crew_usage",
    "model_usage",
    "usage",
    "agent_usage",
    "daily_cost",
    "run_summary",
    "step_usage",
    "task_usage",
    "tool_latency",
]


def schema_of(path: Path) -> set[tuple[str, str, str]]:
    """Type, name and columns or SQL of everything in the file, comments left out."""
    connection = sqlite3.connect(path)
    found = set()
    for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_master"):
        columns = connection.execute(f'PRAGMA table_info("{name}")').fetchall()
        keys = connection.execute(f'PRAGMA foreign_key_list("{name}")').fetchall()
        shape = repr((sorted(columns), sorted(keys))) if kind == "table" else str(sql)
        found.add((kind, name, shape))
    connection.close()
    return found


def released(version: int, path: Path) -> None:
    """Make a file as that released version made it."""
    connection = sqlite3.connect(path)
    connection.executescript((RELEASED / f"v{version}.sql").read_text())
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


@pytest.mark.parametrize("version", range(FIRST_VERSION, current_version() + 1))
def test_migrating_ends_in_the_schema(tmp_path: Path, version: int) -> None:
    """A file of any released version, opened, has exactly the schema of a new file.

    When this fails for the newest version: the schema was edited without a migration.
    """
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    released(version, old)
    open_journal(old).close()
    open_journal(new).close()
    assert schema_of(old) == schema_of(new)
    assert rows(old, "PRAGMA user_version") == [(current_version(),)]


def _add_column(database: Database) -> None:
    database.table("runs").add_column("colour", str)


def _fail(database: Database) -> None:
    database.table("steps").add_column("colour", str)
    raise RuntimeError("half way")


def test_a_migration_keeps_the_rows_and_is_done_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened for writing, an older file is brought up to date, its runs and views intact."""
    journal = open_journal(path)
    journal.finish_step(take(journal), model_step(), messages=[message()])
    journal.close()
    newer = current_version() + 1
    migrations = (*_migrations.MIGRATIONS, Migration(newer, _add_column))
    monkeypatch.setattr(_migrations, "MIGRATIONS", migrations)
    with pytest.raises(JournalUnavailable, match="opened for writing once"):
        open_journal(path, create=False)
    for _ in range(2):
        journal = open_journal(path)
        assert len(journal.steps("r")) == 1
        journal.close()
    assert rows(path, "PRAGMA user_version") == [(newer,)]
    assert rows(path, "SELECT colour FROM runs") == [(None,)]
    assert rows(path, "SELECT llm_calls FROM run_summary") == [(1,)]


def test_a_migration_that_fails_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ones before it stay, the failing one leaves neither a column nor a version."""
    open_journal(path).close()
    newer = current_version() + 1
    added = (Migration(newer, _add_column), Migration(newer + 1, _fail))
    monkeypatch.setattr(_migrations, "MIGRATIONS", (*_migrations.MIGRATIONS, *added))
    with pytest.raises(RuntimeError, match="half way"):
        open_journal(path)
    assert rows(path, "PRAGMA user_version") == [(newer,)]
    names = [row[1] for row in rows(path, "PRAGMA table_info(steps)")]
    assert "colour" not in names
    assert rows(path, "SELECT count(*) FROM run_summary") == [(0,)]


def test_an_empty_file_becomes_a_journal(path: Path) -> None:
    """What a process that was killed while it made the file leaves behind is made whole."""
    path.touch()
    journal = open_journal(path)
    take(journal)
    assert rows(path, "SELECT count(*) FROM runs") == [(1,)]


def test_every_column_is_documented_in_the_file_itself(journal: SqliteJournal, path: Path) -> None:
    """`.schema` shows what a column means wherever its name does not say it."""
    take(journal)
    ((sql,),) = rows(path, "SELECT sql FROM sqlite_master WHERE name = 'steps'")
    assert "-- order of starting within the run, from 1" in sql
    names = {name for (name,) in rows(path, "SELECT name FROM sqlite_master")}
    assert {*TABLES, *VIEWS, "transitions", "transcripts"} <= names


def test_no_column_is_binary(journal: SqliteJournal, path: Path) -> None:
    """Text, integers and reals only: any SQL browser can show every row."""
    _two_agents(journal)
    for (table,) in rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'"):
        for record in rows(path, f'SELECT * FROM "{table}"'):
            assert not any(isinstance(value, bytes) for value in record)


def _two_agents(journal: SqliteJournal) -> None:
    """Two tasks by two agents; one model call was tried twice; a tool failed."""
    lease = take(journal)
    cost = Usage(input_tokens=7, output_tokens=1, calls=1)
    journal.finish_step(
        lease, model_step(1, attempts=2), messages=[message()], attempt=attempt(usage=cost)
    )
    journal.finish_step(lease, step(2, duration_ms=100.0))
    journal.finish_step(
        lease,
        step(3, status=StepStatus.FAILED, result=None, error="{}", duration_ms=300.0),
    )
    journal.save_task(lease, task(0))
    journal.finish_step(lease, model_step(4, agent="Editor", task=1, params=None))
    journal.finish_step(lease, step(5, kind=StepKind.FUNCTION, agent=None, task=None))
    journal.save_task(lease, task(1, agent="Editor"))
    journal.finish_run(lease, RunStatus.FAILED, reason="x")


def test_the_views_answer_in_plain_sql(journal: SqliteJournal, path: Path) -> None:
    """Usage by step, agent, task and run, tool latency and daily cost, failed tries counted in."""
    _two_agents(journal)
    assert rows(path, "SELECT seq, requests, input_tokens + output_tokens FROM step_usage") == [
        (1, 2, 23),
        (2, 1, 0),
        (3, 1, 0),
        (4, 1, 15),
        (5, 1, 0),
    ]
    usage = "llm_calls, tool_calls, input_tokens, output_tokens, total_tokens, cost_usd"
    assert rows(path, f"SELECT agent, {usage} FROM agent_usage ORDER BY agent") == [
        (None, 0, 0, 0, 0, 0, None),
        ("Editor", 1, 0, 10, 5, 15, None),
        ("Writer", 2, 2, 17, 6, 23, None),
    ]
    assert rows(path, f"SELECT task, {usage} FROM task_usage ORDER BY task") == [
        (None, 0, 0, 0, 0, 0, None),
        (0, 2, 2, 17, 6, 23, None),
        (1, 1, 0, 10, 5, 15, None),
    ]
    assert rows(path, f"SELECT run_id, status, {usage} FROM run_summary") == [
        ("r", "failed", 3, 2, 27, 11, 38, None)
    ]
    assert rows(path, "SELECT tool, tries, failed, mean_ms, max_ms FROM tool_latency") == [
        ("search", 2, 1, 200.0, 300.0)
    ]
    assert rows(path, "SELECT day, model, llm_calls, input_tokens FROM daily_cost") == [
        ("1970-01-01", "gpt-1", 3, 27)
    ]
    summary = journal.runs()[0]
    assert (summary.llm_calls, summary.tool_calls, summary.total_tokens) == (3, 2, 38)
    assert summary.updated_at == journal.run("r").updated_at


def _priced(picousd: int) -> Cost:
    return Cost(status=CostStatus.PRICED, picousd=picousd, source="prices")


_UNPRICED = Cost(status=CostStatus.UNPRICED)


def _bills(journal: SqliteJournal) -> None:
    """A run of two tasks: a priced step with a priced failed try, an unpriced one, and a tool."""
    lease = take(journal)
    journal.finish_step(
        lease,
        model_step(1, attempts=2, cost=_priced(250_000_000_001)),
        messages=[message()],
        attempt=attempt(cost=_priced(500_000_000_002)),
    )
    journal.finish_step(lease, model_step(2, agent="Editor", task=1, cost=_UNPRICED))
    journal.finish_step(lease, step(3))
    journal.finish_run(lease, RunStatus.FAILED)


def test_money_is_added_exactly_where_it_is_known(journal: SqliteJournal, path: Path) -> None:
    """Integers per try and in sums, NULL where nothing is priced, and what lacks is counted."""
    _bills(journal)
    known = 750_000_000_003
    money = "cost_picousd, unpriced"
    assert rows(path, f"SELECT {money}, cost_usd FROM run_summary") == [(known, 1, known / 1e12)]
    for view, where in (("agent_usage", "agent = 'Editor'"), ("task_usage", "task = 1")):
        assert rows(path, f"SELECT {money} FROM {view} WHERE {where}") == [(None, 1)]
    assert rows(path, f"SELECT {money} FROM task_usage WHERE task = 0") == [(known, 0)]
    assert rows(path, f"SELECT seq, {money}, cost_status, cost_source FROM step_usage") == [
        (1, known, 0, "priced", "prices"),
        (2, None, 1, "unpriced", None),
        (3, None, 0, None, None),
    ]
    for view in ("daily_cost", "model_usage", "crew_usage"):
        assert rows(path, f"SELECT sum(cost_picousd), sum(unpriced) FROM {view}") == [(known, 1)]
    summary = journal.runs()[0]
    assert (summary.spent, summary.cost_usd) == (Spending(picousd=known, unpriced=1), None)
    assert journal.steps("r")[0].cost == _priced(250_000_000_001)
    assert journal.attempts("r")[0].cost == _priced(500_000_000_002)


@given(st.lists(st.integers(0, 10**15), min_size=1, max_size=30))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_sums_are_those_of_integers(tmp_path: Path, amounts: list[int]) -> None:
    """No sum in SQL is a float: the last trillionth of a dollar is there, whatever is added."""
    path = tmp_path / f"{uuid4().hex}.db"
    journal = open_journal(path, durability="process")
    lease = take(journal)
    for number, amount in enumerate(amounts, 1):
        journal.finish_step(lease, model_step(number, cost=_priced(amount)))
    for view in ("run_summary", "agent_usage", "task_usage", "daily_cost", "usage"):
        assert rows(path, f"SELECT sum(cost_picousd) FROM {view}") == [(sum(amounts),)]
    (total,) = journal.usage()
    assert total.spent.usd == Decimal(sum(amounts)) / 10**12
    journal.close()


def test_what_finished_runs_took_is_what_their_steps_say(
    journal: SqliteJournal, path: Path
) -> None:
    """The sums that a session's end writes equal those over steps, after a resume too."""
    _bills(journal)
    sums = ", ".join(f"sum({one})" for one in _sql.SPENT)

    def same() -> bool:
        """Whether run_usage and day_usage say what steps and attempts say."""
        keys = ", ".join(_sql.SPENT_ON)
        live = rows(path, f"SELECT {keys}, {sums} FROM spending GROUP BY run, {keys}")
        stored = rows(path, f"SELECT {keys}, {', '.join(_sql.SPENT)} FROM run_usage")
        days = rows(path, f"SELECT {sums} FROM day_usage")
        steps = rows(path, f"SELECT {sums} FROM spending")
        return sorted(stored, key=str) == sorted(live, key=str) and days == steps

    def seen() -> bool:
        """Whether the views say it, too, whatever the tables hold."""
        expected = rows(path, f"SELECT {sums} FROM spending")
        views = ("usage", "run_spending")
        return all(rows(path, f"SELECT {sums} FROM {view}") == expected for view in views)

    assert same()
    lease = take(journal)
    journal.finish_step(lease, model_step(4, cost=_priced(7)))
    assert not same()
    assert seen()
    journal.finish_run(lease, RunStatus.PAUSED)
    assert same()
    journal.finish_run(take(journal), RunStatus.COMPLETED)
    other = take(journal, "s")
    journal.finish_step(other, model_step(1, cost=_priced(8)))
    assert seen()
    journal.finish_run(other, RunStatus.COMPLETED)
    assert same()
    assert seen()
    assert journal.usage()[0].llm_calls == 5
    journal.finish_step(other, model_step(2, cost=_priced(9)))  # it was in flight for long
    assert not same()
    journal.sum_up(other)
    assert same()
    assert seen()
    with pytest.raises(StaleOwner):
        journal.sum_up(replace(other, epoch=7))


def test_a_try_is_of_the_model_that_was_asked(journal: SqliteJournal, path: Path) -> None:
    """Where another model has stood in, each has what its own tries took."""
    lease = take(journal)
    first = attempt(model="small", provider="acme", cost=_priced(3))
    journal.finish_step(
        lease, model_step(1, attempts=2, cost=_priced(5)), messages=[message()], attempt=first
    )
    for _ in range(2):
        assert rows(path, "SELECT provider, model, llm_calls, cost_picousd FROM model_usage") == [
            ("acme", "small", 1, 3),
            ("openai", "gpt-1", 1, 5),
        ]
        if journal.run("r").status is RunStatus.RUNNING:
            journal.finish_run(lease, RunStatus.COMPLETED)
    assert journal.attempts("r") == [first]


def test_an_old_journal_is_brought_to_money(tmp_path: Path) -> None:
    """Version 1's runs stay as they were; their model calls are unpriced, and summed up."""
    path = tmp_path / "old.db"
    released(1, path)
    connection = sqlite3.connect(path)
    connection.execute(
        "INSERT INTO runs (run_id, epoch, status, kind, crew, created_at, updated_at, "
        "inputs_digest, versions) VALUES ('r', 1, 'failed', 'crew', 'writers', 1, 1, 'd1', '{}')"
    )
    for number, kind, calls in ((1, "model", 1), (2, "tool", None)):
        connection.execute(
            "INSERT INTO steps (run, epoch, seq, step_id, scope, kind, name, digest, occurrence, "
            "status, attempts, started_at, input_tokens, output_tokens, cache_read_tokens, "
            "cache_write_tokens, reasoning_tokens, calls, result) VALUES (1, 1, ?, ?, 's', ?, 'n', "
            "'d', 0, 'done', 1, 7200.5, ?, ?, ?, ?, ?, ?, '\"said\"')",
            (number, f"{number:016x}", kind, *(calls and n for n in (10, 5, 0, 0, 0, 1))),
        )
    connection.execute(
        "INSERT INTO attempts (run, epoch, step_id, attempt, status, started_at, input_tokens, "
        "output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, calls) "
        "VALUES (1, 1, ?, 1, 'failed', 7000.0, 3, 1, 0, 0, 0, 1)",
        (f"{1:016x}",),
    )
    connection.commit()
    connection.close()
    journal = open_journal(path)
    model, tool = journal.steps("r")
    assert (model.result, model.cost, tool.cost) == ('"said"', _UNPRICED, None)
    assert model.usage == Usage(input_tokens=10, output_tokens=5, calls=1)
    assert [one.cost for one in journal.attempts("r")] == [_UNPRICED]
    (row,) = journal.usage(["crew"])
    assert (row.key["crew"], row.llm_calls, row.tool_calls) == ("writers", 2, 1)
    assert (row.usage.total_tokens, row.spent) == (19, Spending(unpriced=2))
    live = "SELECT hour, sum(steps), sum(llm_calls), sum(input_tokens), sum(unpriced) FROM {} "
    grouped = "GROUP BY hour, model"
    stored = rows(path, live.format("run_usage") + grouped)
    assert sorted(stored, key=str) == sorted(rows(path, live.format("spending") + grouped), key=str)
    lease = take(journal)  # and it goes on, its constraints as they were
    journal.finish_step(lease, model_step(1, attempts=2, status=StepStatus.DONE))
    assert [one.attempts for one in journal.steps("r")] == [2, 1]
    with pytest.raises(sqlite3.IntegrityError):
        rows(path, "UPDATE steps SET kind = 'magic'")
    journal.close()


def test_replayed_steps_are_those_of_earlier_sessions(journal: SqliteJournal, path: Path) -> None:
    """After a resume the steps recorded before it count as replayed, new ones do not."""
    _two_agents(journal)
    lease = take(journal)
    journal.finish_step(lease, model_step(6))
    replayed = "SELECT replayed_llm_calls, replayed_tool_calls FROM run_summary"
    assert rows(path, replayed) == [(2, 2)]
    assert [record.epoch for record in journal.steps("r")] == [1, 1, 1, 1, 1, 2]


def test_a_transcript_can_be_read_in_sql(journal: SqliteJournal, path: Path) -> None:
    """One row per model step with the whole conversation as JSON, shared contents filled in."""
    lease = take(journal)
    journal.finish_step(lease, step(1, result='"the tide rises"'))
    chain = [
        message("m1"),
        message("m2", "m1", role="tool", body='{"role":"tool"}', content_step=step(1).step_id),
    ]
    journal.finish_step(lease, model_step(2, request="m2"), messages=chain)
    ((asked, answered),) = rows(path, "SELECT asked, answered FROM transcripts WHERE seq = 2")
    assert json.loads(asked) == journal.conversation("r", "m2")
    assert json.loads(asked)[1] == {"role": "tool", "content": "the tide rises"}
    assert answered == '"said"'


def test_sqlite_utils_opens_it_as_it_is(journal: SqliteJournal) -> None:
    """`Journal.database()` is a sqlite-utils database that can ask anything and change nothing."""
    _two_agents(journal)
    database = journal.database()
    assert {"runs", "steps"} <= set(database.table_names())
    assert [row["agent"] for row in database.query("SELECT agent FROM agent_usage")]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        database.table("runs").insert({"run_id": "x"})


def test_runs_are_listed_newest_first_by_page_and_status(journal: SqliteJournal) -> None:
    """The newest come first; limits and statuses hold across pages; dead owners are interrupted."""
    leases = [take(journal, f"r{number}") for number in range(120)]
    for number, lease in enumerate(leases):
        if number % 3 == 0:
            journal.finish_run(lease, RunStatus.FAILED)
        elif number % 3 == 1:
            forget_owner(lease.owner)
    assert [summary.run_id for summary in journal.runs(limit=3)] == ["r119", "r118", "r117"]
    assert len(journal.runs()) == 50
    assert len(journal.runs(limit=None)) == 120
    for status, remainder in (
        (RunStatus.FAILED, 0),
        (RunStatus.INTERRUPTED, 1),
        (RunStatus.RUNNING, 2),
    ):
        listed = [summary.run_id for summary in journal.runs(status=status, limit=30)]
        assert listed == [f"r{n}" for n in reversed(range(120)) if n % 3 == remainder][:30]
        assert all(summary.status is status for summary in journal.runs(status=status))
    assert journal.runs(status=RunStatus.PAUSED) == []
    assert journal.runs(limit=0) == []


@pytest.mark.parametrize("statuses", [0, 1])
def test_listing_uses_indexes(journal: SqliteJournal, path: Path, statuses: int) -> None:
    """No query of a page looks at more than the page's runs and their steps."""
    take(journal)
    values = (2**62, *["failed"] * statuses, 50)
    connection = sqlite3.connect(path)
    plan = connection.execute("EXPLAIN QUERY PLAN " + run_page(statuses), values).fetchall()
    scanned = {word for row in plan if row[3].startswith("SCAN") for word in row[3].split()}
    assert not scanned & {"runs", "steps", "attempts", "r", "s", "a"}, plan
    connection.close()


def test_reading_needs_neither_crewai_nor_sqlite_utils(journal: SqliteJournal, path: Path) -> None:
    """The modules that make a command line slow are not loaded to list and show runs."""
    _two_agents(journal)
    program = """
    journal = open_journal(sys.argv[1], create=False)
    journal.runs(), journal.run("r"), journal.steps("r"), journal.conversation("r", "m1")
    print(sorted({"crewai", "sqlite_utils", "pydantic", "cryptography"} & set(sys.modules)))
    """
    assert finished(child(program, str(path))) == "[]"
