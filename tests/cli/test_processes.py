"""The command as a process of its own: signals, what it imports, how fast it answers."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crewai_prod.journal import open_journal
from crewai_prod.journal._sql import SUM_UP_USAGE
from tests.cli.conftest import Book
from tests.cli.crew_files import write_crew

_ROOT = Path(__file__).parents[2]
_HEAVY = (
    "crewai",
    "genai_prices",
    "pydantic",
    "pydantic_settings",
    "structlog",
    "sqlite_utils",
    "rich",
)
_SECONDS = 90.0


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(_ROOT), **more}


def _start(folder: Path, *arguments: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "crewai_prod", *arguments],
        cwd=folder,
        env=_environment(**env),
        stdout=subprocess.PIPE,
        stderr=(folder / "err").open("w"),
        text=True,
    )


def _wait_for(folder: Path, text: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + _SECONDS
    while text not in (folder / "err").read_text():
        assert process.poll() is None, (folder / "err").read_text()
        assert time.monotonic() < deadline, (folder / "err").read_text()
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_a_signal_stops_a_run_after_its_step(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    """Also with telemetry on, whose own handler exits 0; the answer under way is not lost."""
    target = f"{write_crew(tmp_path, 'desk')}:make"
    telemetry = {
        "CREWAI_DISABLE_TELEMETRY": "false",
        "OTEL_SDK_DISABLED": "false",
        "CREWAI_TRACING_ENABLED": "false",
    }
    delay = {"CREW_DELAY": "1.5"}
    run = _start(tmp_path, "run", target, "-i", "who=ann", "--run-id", "r1", **telemetry, **delay)
    _wait_for(tmp_path, "task started", run)
    time.sleep(0.3)
    run.send_signal(number)
    assert run.wait(_SECONDS) == status
    said = (tmp_path / "err").read_text()
    assert f"{number.name}: stopping once the current step is safe" in said
    assert f"crewai-prod resume r1 {target} --journal " in said
    journal = open_journal(tmp_path / ".crewai_prod" / "journal.db", create=False)
    assert journal.run("r1").status == "interrupted"
    assert [step.status for step in journal.steps("r1")] == ["done"]
    journal.close()


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """Whoever asks twice does not wait for the step; the run is resumable all the same."""
    target = f"{write_crew(tmp_path, 'desk')}:make"
    run = _start(tmp_path, "run", target, "-i", "who=ann", "--run-id", "r1", CREW_DELAY="60")
    _wait_for(tmp_path, "task started", run)
    run.terminate()
    _wait_for(tmp_path, "stopping once", run)
    began = time.monotonic()
    run.terminate()
    assert run.wait(_SECONDS) == 143
    assert time.monotonic() - began < 5
    assert f"crewai-prod resume r1 {target} --journal " in (tmp_path / "err").read_text()
    journal = open_journal(tmp_path / ".crewai_prod" / "journal.db", create=False)
    assert journal.run("r1").status == "interrupted"
    journal.close()


def test_a_signal_before_the_kickoff(tmp_path: Path) -> None:
    """While the crew is still being imported there is nothing to save: the status is the same."""
    (tmp_path / "slow.py").write_text(
        "import sys, time; print('importing', file=sys.stderr, flush=True); time.sleep(60)"
    )
    run = _start(tmp_path, "run", "slow:crew")
    _wait_for(tmp_path, "importing", run)
    run.terminate()
    assert run.wait(_SECONDS) == 143


@pytest.mark.parametrize(
    "arguments",
    [
        *(["runs"], ["show", "order-1"], ["logs", "order-1"], ["doctor"]),
        *(["usage"], ["usage", "--check"]),
    ],
)
def test_reading_commands_are_light(resumed: Book, arguments: list[str]) -> None:
    """Neither crewai nor anything else that takes long to import is loaded."""
    code = (
        "import sys\n"
        "from crewai_prod.cli import main\n"
        "try: main()\n"
        f"finally: print(*({set(_HEAVY)!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--journal", str(resumed.path), "--json"],
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.strip()) == (0, "")


def _fill(path: Path, runs: int) -> None:
    """Many runs with six steps each, faster than the journal's own API could write them."""
    open_journal(path).close()
    count = f"WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {runs})"
    with sqlite3.connect(path) as connection:
        connection.execute(
            f"""{count} INSERT INTO runs (run, run_id, epoch, status, kind, crew, created_at,
            updated_at, inputs_digest, versions, inputs, result)
            SELECT i, 'run-' || i, 1, 'completed', 'crew', 'desk', i, i, 'd', '{{}}', '{{}}',
            '{{"output": "' || hex(zeroblob(200)) || '"}}' FROM n"""
        )
        connection.execute(
            """INSERT INTO steps (run, epoch, seq, step_id, scope, kind, name, digest, occurrence,
            status, attempts, started_at, duration_ms, input_tokens, output_tokens,
            cache_read_tokens, cache_write_tokens, reasoning_tokens, calls, result)
            SELECT run, 1, k.value, k.value, 'tasks/0', iif(k.value % 2, 'model', 'tool'), 'm',
            'd' || k.value, 0, 'done', 1, run, 5, 100, 20, 0, 0, 0, 1, hex(zeroblob(100))
            FROM runs, json_each('[1,2,3,4,5,6]') k"""
        )
        # What ends of runs would have left: one row for each of its two tasks.
        connection.execute(
            """INSERT INTO run_usage SELECT run, 'desk', 'crew', 470000 + run / 40, task, 'Clerk',
            'acme', 'm', 3, 2, 1, 300, 60, 0, 0, 0, run, 3, 0
            FROM runs, (SELECT 0 AS task UNION SELECT 1)"""
        )
        connection.execute(SUM_UP_USAGE[-1].replace("WHERE run = ?", "WHERE true"))
    connection.close()


def test_answers_at_once_on_a_journal_of_100000_runs(tmp_path: Path) -> None:
    """The best of five is well under half a second, process start included."""
    _fill(tmp_path / "big.db", 100_000)
    for arguments in (["runs"], ["show", "run-50000"], ["runs", "--status", "completed", "--json"]):
        command = [sys.executable, "-m", "crewai_prod", *arguments, "--journal", "big.db"]
        took = []
        for _ in range(5):
            began = time.perf_counter()
            subprocess.run(
                command, cwd=tmp_path, env=_environment(), check=True, stdout=subprocess.DEVNULL
            )
            took.append(time.perf_counter() - began)
        assert min(took) < 0.5, (arguments, took)


def test_a_closed_pipe_is_no_traceback(resumed: Book) -> None:
    """`crewai-prod runs | head -c0` ends quietly."""
    command = f"{sys.executable} -m crewai_prod runs --journal {resumed.path} | true"
    done = subprocess.run(
        ["sh", "-c", command], env=_environment(), capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_any_encoding_will_do(resumed: Book, encoding: str) -> None:
    """Neither JSON nor a table breaks where the output cannot show every character."""
    for options in ([], ["--json"]):
        command = [sys.executable, "-m", "crewai_prod", "show", "order-1", *options]
        done = subprocess.run(
            [*command, "--journal", str(resumed.path)],
            env=_environment(PYTHONIOENCODING=encoding, PYTHONUTF8="0"),
            capture_output=True,
            check=True,
        )
    assert done.stdout.isascii()
    assert json.loads(done.stdout)["run_id"] == "order-1"
