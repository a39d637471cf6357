"""What is printed is harmless and readable."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from crewai_prod.cli._errors import exit_status, program, resume_command
from crewai_prod.cli._output import duration, iso, print_json, safe, short
from crewai_prod.errors import (
    BudgetExceeded,
    BudgetPaused,
    CrewProdError,
    JournalUnavailable,
    RunCancelled,
    RunInterrupted,
    RunInUse,
    RunPaused,
    ToolOutcomeUnknown,
    UsageError,
)


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("\x9b31m", "\\x9b31m"),
        ("a\x07b\x7f", "a\\x07b\\x7f"),
        ("two\nlines\tand a tab", "two lines and a tab"),
        ("\u202eevil", "\\u202eevil"),
        ("\ud800", "\\ud800"),
        ("naïve ✓", "naïve ✓"),
    ],
)
def test_stored_text_cannot_command_a_terminal(stored: str, shown: str) -> None:
    """Control characters, changes of direction and lone surrogates are shown, not sent."""
    assert safe(stored) == shown


def test_outputs_keep_their_lines() -> None:
    """A crew's output may have lines, but no carriage return that would write over them."""
    assert safe("one\r\ntwo\rthree\x1b[0m", lines=True) == "one\ntwo\\x0dthree\\x1b[0m"


def test_long_text_is_cut() -> None:
    """A cut text says so."""
    assert short("abcdef", 4) == "abc…"


def test_json_is_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON carries any text through any terminal, and reads back as it was."""
    text = "\x1b[31m\x7f\x9b\u202e\ud800ü"
    print_json({"text": text})
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert all(character.isprintable() or character == "\n" for character in printed)
    assert json.loads(printed) == {"text": text}


def test_durations_and_times() -> None:
    """Times fit their size; JSON times are UTC."""
    assert [duration(s) for s in (None, 0.0123, 2.5, 75, 7260)] == [
        "",
        "12 ms",
        "2.50 s",
        "1 min 15 s",
        "2 h 01 min",
    ]
    assert iso(0.25) == "1970-01-01T00:00:00.250Z"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError(), 2),
        (RunPaused(), 3),
        (ToolOutcomeUnknown(), 3),
        (BudgetPaused(), 3),
        (BudgetExceeded(), 1),
        (RunCancelled(), 1),
        (RunInUse(), 4),
        (RunInterrupted(signal=15), 143),
        (RunInterrupted(signal=2), 130),
        (JournalUnavailable(), 1),
        (CrewProdError(), 1),
        (ValueError(), 1),
    ],
)
def test_exit_statuses(error: Exception, status: int) -> None:
    """Scripts can tell from the status what became of a run."""
    assert exit_status(error) == status


def test_the_command_that_continues_is_quoted() -> None:
    """It can be pasted into a shell whatever the run is called."""
    assert resume_command("a; rm", "/x y.db", "m:c") == (
        "crewai-prod resume 'a; rm' m:c --journal '/x y.db'"
    )


def test_the_program_as_it_can_be_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Called from a virtual environment that is not activated, it is named by that path."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [".venv/bin/crewai-prod", "demo"])
    assert program() == ".venv/bin/crewai-prod"
    assert resume_command("a", "j.db").startswith(".venv/bin/crewai-prod resume a ")
    (tmp_path / "crewai-prod").touch(mode=0o755)
    assert program() == "crewai-prod"
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pytest"])
    (tmp_path / "crewai-prod").unlink()
    assert program() == "crewai-prod"
