"""`runs`, `show` and `logs` on journals made by hand."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from crewai_prod import fields, logfile
from crewai_prod.cli import _output
from crewai_prod.logs import open_log
from crewai_prod.records import ApprovalRecord, Lease, RunStatus, StepKind, StepStatus, TaskStatus
from tests.cli.conftest import Book, Cli

RUN_KEYS = {
    *("run_id", "status", "reason", "crew", "created_at", "updated_at", "llm_calls"),
    *("tool_calls", "total_tokens", "cost_usd", "error"),
}
SHOW_KEYS = {
    "run_id",
    "status",
    "reason",
    "crew",
    "inputs",
    "error",
    "usage",
    "tasks",
    "steps",
    "verdicts",
}
STEP_KEYS = {
    *("step_id", "seq", "scope", "kind", "name", "agent", "task", "status", "replayed"),
    *("attempts", "duration_ms", "model", "route", "input_tokens", "output_tokens", "cost_usd"),
}


def _shown(cli: Cli, book: Book, run_id: str) -> Any:
    return json.loads(cli("show", run_id, "--journal", book.path, "--json").stdout)


# -- runs -----------------------------------------------------------------------------------------


def test_runs_json_has_the_documented_shape(cli: Cli, resumed: Book) -> None:
    """Every name of DESIGN's list is there, and no other."""
    (run,) = json.loads(cli("runs", "--journal", resumed.path, "--json").stdout)
    assert set(run) == RUN_KEYS
    assert (run["run_id"], run["status"], run["crew"]) == ("order-1", "completed", "desk")
    assert (run["llm_calls"], run["tool_calls"], run["total_tokens"]) == (2, 1, 240)
    assert run["created_at"].endswith("Z")


def test_runs_are_filtered_limited_and_newest_first(cli: Cli, book: Book) -> None:
    """`--status` and `--limit` narrow the list; 0 lifts the limit of 50."""
    for number in range(60):
        lease = book.start(f"r{number}")
        book.end(lease, RunStatus.FAILED if number % 10 == 0 else RunStatus.COMPLETED)

    def ids(*options: object) -> list[str]:
        printed = cli("runs", "--journal", book.path, "--json", *options).stdout
        return [run["run_id"] for run in json.loads(printed)]

    assert len(ids()) == 50
    assert len(ids("--limit", 0)) == 60
    assert ids("--limit", 2) == ["r59", "r58"]
    assert ids("--status", "failed", "--limit", 3) == ["r50", "r40", "r30"]
    assert ids("--status", "paused") == []


def test_runs_is_a_plain_table_where_there_is_no_terminal(cli: Cli, resumed: Book) -> None:
    """Columns are aligned and nothing is coloured or drawn."""
    head, row = cli("runs", "--journal", resumed.path).stdout.splitlines()
    assert head.split()[:3] == ["RUN", "STATUS", "CREW"]
    assert row.split()[:3] == ["order-1", "completed", "desk"]
    assert head.index("CREW") == row.index("desk")


def test_tables_are_drawn_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal gets rich's table, with stored markup and escapes as text."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    _output.print_table(("RUN", "WHY"), [("[red]x[/red]", "\x1b[2J")])
    printed = capsys.readouterr().out
    assert "[red]x[/red]" in printed
    assert "\\x1b[2J" in printed
    assert "──" in printed


def test_no_runs_yet(cli: Cli, book: Book) -> None:
    """An empty journal is no error."""
    assert cli("runs", "--journal", book.path).stdout == "No runs yet.\n"
    assert cli("runs", "--journal", book.path, "--json").stdout == "[]\n"


def test_the_journal_of_the_environment(
    cli: Cli, resumed: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CREWAI_PROD_JOURNAL names the journal where no option does."""
    monkeypatch.setenv("CREWAI_PROD_JOURNAL", str(resumed.path))
    assert "order-1" in cli("runs").stdout


def test_a_journal_that_is_not_there_is_not_made(cli: Cli, tmp_path: Path) -> None:
    """Reading creates nothing, and says what can be done."""
    result = cli("runs", status=1)
    assert "There is no journal" in result.stderr
    assert "crewai-prod doctor" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_errors_are_json_when_asked_for(cli: Cli, book: Book) -> None:
    """With --json an error is an object too, on stderr; stdout stays empty."""
    result = cli("show", "nope", "--journal", book.path, "--json", status=1)
    error = json.loads(result.stderr)["error"]
    assert result.stdout == ""
    assert error["type"] == "RunNotFound"
    assert "crewai-prod runs" in error["way_out"]


# -- show -----------------------------------------------------------------------------------------


def test_show_json_has_the_documented_shape(cli: Cli, resumed: Book) -> None:
    """Names are DESIGN's; what an earlier session recorded counts as replayed."""
    run = _shown(cli, resumed, "order-1")
    assert set(run) == SHOW_KEYS
    assert all(set(step) == STEP_KEYS for step in run["steps"])
    assert run["inputs"] == {"order": "A-1001"}
    assert run["usage"] == {
        "llm_calls": 2,
        "tool_calls": 1,
        "input_tokens": 200,
        "output_tokens": 40,
        "total_tokens": 240,
        "cost_usd": None,
        "replayed_llm_calls": 1,
        "replayed_tool_calls": 1,
    }
    assert [step["replayed"] for step in run["steps"]] == [True, True, False]
    assert [step["input_tokens"] for step in run["steps"]] == [100, None, 100]
    (task,) = run["tasks"]
    assert (task["name"], task["status"], task["total_tokens"]) == ("find the order", "done", 240)


def test_show_for_people(cli: Cli, resumed: Book) -> None:
    """Task, steps, tokens and the bill in plain text."""
    printed = cli("show", "order-1", "--journal", resumed.path).stdout
    assert "2 model calls (1 replayed), 1 tool call (1 replayed), 240 tokens" in printed
    assert "1. find the order" in printed
    assert "└ tool look_up" in printed
    assert "resume" not in printed


def test_show_tells_who_was_asked_and_why(cli: Cli, book: Book) -> None:
    """A call that a rule has sent to another model says so, as JSON and for people."""
    lease, route = book.start("routed"), '{"rule": "thrift", "reason": "71%", "model": "small"}'
    book.step(lease, 1, StepKind.MODEL, "strong", model="small", route=route)
    (step,) = _shown(cli, book, "routed")["steps"]
    assert (step["name"], step["model"], step["route"]["rule"]) == ("strong", "small", "thrift")
    printed = cli("show", "routed", "--journal", book.path).stdout
    assert "small by route thrift: 71%" in printed


def test_show_names_the_error_and_the_command_that_continues(cli: Cli, book: Book) -> None:
    """A failed run ends with a line that can be pasted."""
    lease = book.start("bad")
    book.end(lease, RunStatus.FAILED, error='{"type": "ModelError", "message": "no answer"}')
    printed = cli("show", "bad", "--journal", book.path).stdout
    assert "ModelError: no answer" in printed
    assert f"crewai-prod resume bad MODULE:CREW --journal {book.path}" in printed
    assert _shown(cli, book, "bad")["error"]["message"] == "no answer"


def test_show_asks_about_an_unknown_outcome(cli: Cli, book: Book) -> None:
    """A run that waits for a person names the call and the three possible answers."""
    lease = book.start("open")
    step = book.step(lease, 1, StepKind.TOOL, "charge", status=StepStatus.STARTED, effect="write")
    question = ApprovalRecord(
        id=0,
        run_id="open",
        step_id=step.step_id,
        kind="unknown_outcome",
        tool="charge",
        arguments='{"amount": 5, "api_key": "sk-123"}',
        status="open",
        asked_at=1_700_000_000.0,
    )
    book.journal.ask(lease, question)
    book.end(lease, RunStatus.PAUSED, reason="unknown outcome")
    printed = cli("show", "open", "--journal", book.path).stdout
    assert "paused (unknown outcome)" in printed
    assert 'did charge with {"amount": 5, "api_key": "[redacted]"} happen?' in printed
    assert all(f"--unknown {answer}" in printed for answer in ("RESULT", "rerun", "fail"))


def test_a_settled_question_is_not_asked_again(cli: Cli, book: Book) -> None:
    """Once the call has its outcome, a run that failed later is simply continued."""
    lease = book.start("open")
    book.step(lease, 1, StepKind.TOOL, "charge", effect="write")
    question = ApprovalRecord(
        id=0,
        run_id="open",
        step_id=f"{1:016x}",
        kind="unknown_outcome",
        tool="charge",
        arguments="{}",
        status="open",
        asked_at=1_700_000_000.0,
    )
    book.journal.ask(lease, question)
    book.end(lease, RunStatus.FAILED)
    printed = cli("show", "open", "--journal", book.path).stdout
    assert "Continue it with" in printed
    assert "Waits for an answer" not in printed


def test_show_says_who_advances_a_running_run(cli: Cli, book: Book) -> None:
    """A run in other hands is not to be resumed."""
    book.task(book.start("busy"), TaskStatus.RUNNING)
    printed = cli("show", "busy", "--journal", book.path).stdout
    assert "is advancing it" in printed
    assert "resume" not in printed


def test_show_hides_secrets_and_escapes(cli: Cli, book: Book) -> None:
    """Inputs are redacted; names someone chose cannot reach the terminal's controls."""
    lease = book.start("evil", inputs={"api_key": "sk-1", "q": "\x1b[2J"}, crew="\x1b]0;x\x07")
    book.step(lease, 1, StepKind.TOOL, "t\x9b31m")
    book.end(lease, RunStatus.COMPLETED)
    for printed in (
        cli("show", "evil", "--journal", book.path).stdout,
        cli("runs", "--journal", book.path).stdout,
    ):
        assert "\x1b" not in printed
        assert "\x9b" not in printed
        assert "sk-1" not in printed
    assert _shown(cli, book, "evil")["inputs"] == {"api_key": "[redacted]", "q": "\x1b[2J"}


# -- logs -----------------------------------------------------------------------------------------


def _log(book: Book, run_id: str) -> None:
    log = open_log(logfile.beside(book.path), run_id=run_id)
    log.run_started()
    log.task_started(task="find\x1b[2J", position=0, agent="Clerk")
    for step in book.journal.steps(run_id):
        log.step_finished(step, task="find")
    log.run_finished(status="completed")
    log.close()


def test_logs_of_one_run(cli: Cli, resumed: Book) -> None:
    """People get a line per event with tokens; --json gives the lines as they are."""
    _log(resumed, "order-1")
    _log(resumed, "order-1")
    printed = cli("logs", "order-1", "--journal", resumed.path).stdout
    assert "model gpt-4o-mini" in printed
    assert "100 + 20 tokens" in printed
    assert "\x1b" not in printed
    lines = cli("logs", "order-1", "--journal", resumed.path, "--json").stdout.splitlines()
    events = [json.loads(line)[fields.EVENT] for line in lines]
    assert events[:3] == [fields.RUN_STARTED, fields.TASK_STARTED, fields.LLM_CALL]
    assert len(events) == 12


def test_following_ends_with_the_last_session(cli: Cli, resumed: Book) -> None:
    """`-f` returns once the run's last session has ended."""
    _log(resumed, "order-1")
    printed = cli("logs", "order-1", "-f", "--journal", resumed.path).stdout
    assert "run completed" in printed.splitlines()[-1]


def test_following_a_run_that_goes_on(cli: Cli, book: Book) -> None:
    """`-f` passes over the end of a session that was resumed since, and waits for more."""
    _log(book, book.start("live").run_id)
    resumed = threading.Thread(target=_finish_later, args=(book,))
    resumed.start()
    printed = cli("logs", "live", "-f", "--journal", book.path, "--json").stdout
    resumed.join()
    statuses = [json.loads(line).get(fields.STATUS) for line in printed.splitlines()]
    assert statuses == [None, None, "completed", None, "failed"]


def _finish_later(book: Book) -> None:
    """End the run that the test follows, as its own process would."""
    time.sleep(0.5)
    lease = Lease(run=1, run_id="live", epoch=1, owner=book.owner("live"))
    book.end(lease, RunStatus.FAILED)
    log = open_log(logfile.beside(book.path), run_id="live")
    log.run_resumed(epoch=2)
    log.run_finished(status="failed")
    log.close()


def test_logs_of_an_unknown_run(cli: Cli, book: Book) -> None:
    """A run the journal does not hold is an error, not an empty log."""
    assert "no run of this id" in cli("logs", "nope", "--journal", book.path, status=1).stderr


def test_no_log_file(cli: Cli, resumed: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a log there is a sentence; a setting that sends it elsewhere is named."""
    assert "holds no line" in cli("logs", "order-1", "--journal", resumed.path).stderr
    monkeypatch.setenv("CREWAI_PROD_LOG", "stderr")
    result = cli("logs", "order-1", "--journal", resumed.path, status=2)
    assert "CREWAI_PROD_LOG=stderr" in result.stderr
