"""Names that are commands: to a terminal, to SQL, to a shell, to whoever reads lines.

Every name that a run has (its own, those of its crew, agent, task and tool, and its error) is the
same hostile text, put into a journal; then people look at it.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import sqlite3
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from unittest.mock import patch

from click.testing import CliRunner

from crewai_prod.cli import main
from crewai_prod.cli._errors import describe_error
from crewai_prod.cli._output import print_table
from crewai_prod.errors import CrewProdError
from crewai_prod.journal import SqliteJournal, new_owner, open_journal
from crewai_prod.records import (
    ApprovalRecord,
    NewRun,
    RunStatus,
    StepKind,
    StepRecord,
    StepStatus,
    TaskRecord,
    TaskStatus,
    Usage,
)
from tests.attack.case import Case

TERMINAL = {
    "clears the screen": "ok\x1b[2J\x1b[H",
    "colours a lie": "\x1b[32mcompleted\x1b[0m",
    "names the window": "\x1b]0;root@prod\x07",
    "writes the clipboard": "\x1b]52;c;cm0gLXJmIH4=\x07",
    "hides a link": "\x1b]8;;https://evil.example\x07click\x1b]8;;\x07",
    "uses one-byte sequences": "\x9b31mred\x9b0m",
    "asks the terminal to answer": "\x1b[6n\x1b[c\x05",
    "goes back over itself": "rejected\b\b\b\b\b\b\b\bapproved",
    "goes back to the line's begin": "rejected\rapproved",
    "turns the text around": "\u202edevorppa\u202c ok",
    "isolates directions": "\u2066ok\u2069 \u200fno",
    "begins another line": "x\ny  completed  100 calls",
    "begins another line in Unicode": "x\u2028y\u2029z\x85w",
    "is half a character": "x\udce9y",
    "marks up": "[bold red]failed[/bold red][link=https://evil.example]x[/link]",
    "ends a string": "x\x00y",
}
SQL = {
    "drops the table": "x'; DROP TABLE runs; --",
    "is always true": "x' OR '1'='1",
    "joins another table": "x' UNION SELECT value FROM journal_info --",
    "is a pattern": "%",
    "is a number": "1",
    "is a list": "x','y",
    "is a comment": "x/*",
    "is an identifier": 'x"; DROP VIEW run_summary; --',
    "is a script for the shell of sqlite3": "x\n.shell touch pwned",
}
SHELL = {
    "is another command": "x; touch pwned",
    "is put in": "$(touch pwned)",
    "is put in by backticks": "`touch pwned`",
    "ends the quotes": "x' ; touch pwned ; '",
    "is an option": "--journal=/tmp/x",
    "is a pipe": "x | sh",
}

_HARMFUL = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_KNOWN = "innocent"


def _fill(path: Path, name: str) -> SqliteJournal:
    """Two runs: one of that name, with that name everywhere, and an innocent one."""
    journal = open_journal(path, durability="process")
    for run_id in (name, _KNOWN):
        new = NewRun(
            run_id=run_id,
            kind="crew",
            crew=run_id,
            inputs=json.dumps({run_id: run_id}),
            inputs_digest="d",
            versions="{}",
        )
        opened = journal.open_run(new, new_owner(), lease_seconds=60.0)
        assert opened.lease is not None
        lease = opened.lease
        error = json.dumps({"type": run_id, "message": run_id})
        task = TaskRecord(
            position=0,
            name=run_id,
            agent=run_id,
            fingerprint="f",
            parts="{}",
            status=TaskStatus.FAILED,
            started_at=1_700_000_000.0,
            error=error,
        )
        journal.save_task(lease, task)
        for seq, kind in enumerate((StepKind.MODEL, StepKind.TOOL), 1):
            step = StepRecord(
                seq=seq,
                step_id=f"{seq:016x}",
                scope=f"tasks/0/{run_id}",
                kind=kind,
                name=run_id,
                digest=run_id,
                occurrence=0,
                agent=run_id,
                task=0,
                status=StepStatus.FAILED,
                error=error,
                model=run_id,
                provider=run_id,
                usage=Usage(input_tokens=10, output_tokens=2, calls=1),
                started_at=1_700_000_000.0,
                duration_ms=1.0,
                epoch=lease.epoch,
            )
            journal.finish_step(lease, step)
        journal.ask(
            lease,
            ApprovalRecord(
                id=0,
                run_id=run_id,
                step_id=None,
                kind="tool",
                tool=run_id,
                task=run_id,
                agent=run_id,
                why="declared",
                remark=run_id,
                arguments=json.dumps({run_id: run_id}),
                status="open",
                asked_at=1_700_000_000.0,
                about="a",
            ),
        )
        journal.finish_run(lease, RunStatus.FAILED, reason=run_id, error=error)
    return journal


def _printed(path: Path, *arguments: str) -> str:
    """What a command prints, and its status is nothing else than usual."""
    given = [*arguments[:1], "--journal", str(path), "--", *arguments[1:]]
    result = CliRunner().invoke(main, given, color=False)
    assert result.exit_code in (0, 1, 3), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.stdout + result.stderr


def _storable(name: str) -> bool:
    return not re.search("[\x00\ud800-\udfff]", name)


def _harmless(name: str, folder: Path) -> bool:
    """No command prints what a terminal obeys, or what passes for a line of its own."""
    path = folder / "runs.db"
    if not _storable(name):
        return _refused_or_shown(path, name)
    _fill(path, name).close()
    commands = (("runs",), ("show", name), ("usage",), ("approvals",))
    shown = [_printed(path, *one) for one in commands]
    by = [_printed_by(path, one) for one in ("run", "crew", "agent", "model")]
    printed = "".join((*shown, *by))
    rows = [line for line in shown[0].splitlines() if "failed" in line or "completed" in line]
    return not _HARMFUL.search(printed) and len(rows) == 2


def _printed_by(path: Path, by: str) -> str:
    result = CliRunner().invoke(main, ["usage", "--by", by, "--journal", str(path)], color=False)
    return result.stdout


def _refused_or_shown(path: Path, name: str) -> bool:
    """What no database can hold is refused with an error of ours, which is harmless, too."""
    try:
        _fill(path, name).close()
    except CrewProdError as error:
        return not _HARMFUL.search(describe_error(error))
    return not _HARMFUL.search(_printed(path, "runs"))


def _drawn(name: str, _: Path) -> bool:
    """In a table that is drawn on a terminal it stands as it is."""
    printed = io.StringIO()
    with redirect_stdout(printed), patch.object(printed, "isatty", return_value=True):
        print_table(("RUN", "STATUS"), [(name, "failed")])
    return name in re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue()).replace("\n", "")


def _only_text(name: str, folder: Path) -> bool:
    """The name finds its run and no other, and the journal is whole."""
    path = folder / "runs.db"
    journal = _fill(path, name)
    before = [one.run_id for one in journal.runs(limit=None)]
    found = journal.run(name), journal.steps(name), journal.attempts(name)
    rows = journal.usage(["run"], crew=name)
    journal.close()
    _printed(path, "show", name)
    _printed(path, "usage")
    connection = sqlite3.connect(path)
    whole = connection.execute("PRAGMA integrity_check").fetchone()[0]
    runs = [one for (one,) in connection.execute("SELECT run_id FROM runs")]
    connection.execute("SELECT * FROM run_summary").fetchall()
    connection.close()
    alone = found[0].run_id == name and len(found[1]) == 2 and len(rows) == 1
    return whole == "ok" and sorted(runs) == sorted(before) and alone


def _one_word(name: str, folder: Path) -> bool:
    """The command that is offered has the name as one word that is no option."""
    path = folder / "runs.db"
    _fill(path, name).close()
    shown = _printed(path, "show", name)
    lines = [line for line in shown.splitlines() if " resume " in line]
    words = [shlex.split(line.partition("crewai-prod ")[2]) for line in lines]
    return bool(words) and all(one[0] == "resume" and _is_a_name(one, name) for one in words)


def _is_a_name(words: list[str], name: str) -> bool:
    at = words.index(name) if name in words else -1
    return at > 0 and (not name.startswith("-") or "--" in words[:at])


def _cases() -> tuple[Case, ...]:
    return (
        *(
            Case(
                family="escape sequences and SQL in names",
                name=f"terminal: {name}",
                tried=f"all names of a run are {text!r}",
                blocked="no command prints it as it is, and it is one row",
                attempt=partial(_harmless, text),
            )
            for name, text in TERMINAL.items()
        ),
        Case(
            family="escape sequences and SQL in names",
            name="terminal: marks up, in a table that is drawn",
            tried="all names of a run are markup of rich",
            blocked="it stands there as text",
            attempt=partial(_drawn, TERMINAL["marks up"]),
        ),
        *(
            Case(
                family="escape sequences and SQL in names",
                name=f"SQL: {name}",
                tried=f"all names of a run are {text!r}",
                blocked="it finds its run and no other; nothing is changed",
                attempt=partial(_only_text, text),
            )
            for name, text in SQL.items()
        ),
        *(
            Case(
                family="escape sequences and SQL in names",
                name=f"shell: {name}",
                tried=f"a run is called {text!r}",
                blocked="the command that continues it has it as one word",
                attempt=partial(_one_word, text),
            )
            for name, text in SHELL.items()
        ),
    )


CASES = _cases()
