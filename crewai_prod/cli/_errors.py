"""Errors for people: one clear line, the way out, and an exit status that scripts can use."""

from __future__ import annotations

import functools
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from crewai_prod.cli._output import print_json, safe
from crewai_prod.errors import (
    AnswerNotAllowed,
    ApprovalClosed,
    ApprovalNotFound,
    ApprovalRequired,
    BudgetExceeded,
    BudgetPaused,
    Corrupt,
    CrewProdError,
    DefinitionChanged,
    JournalUnavailable,
    RunInterrupted,
    RunInUse,
    RunMismatch,
    RunNotFound,
    RunPaused,
    SchemaTooNew,
    StaleOwner,
    ToolOutcomeUnknown,
    UsageError,
)
from crewai_prod.redact import redact_text

_PROGRAM = "crewai-prod"

DONE, FAILED, WRONG_USAGE, PAUSED, IN_USE = range(5)

_STATUSES: tuple[tuple[type[CrewProdError], int], ...] = (
    (UsageError, WRONG_USAGE),
    (RunPaused, PAUSED),
    (RunInUse, IN_USE),
)
_WAYS_OUT: tuple[tuple[type[CrewProdError], str], ...] = (
    (ApprovalNotFound, "`crewai-prod approvals` lists the questions of a journal."),
    (ApprovalClosed, "Nothing was changed. `crewai-prod approvals --all` says what was decided."),
    (AnswerNotAllowed, "Say who answers with --by NAME, or leave it to those who may."),
    (
        ApprovalRequired,
        "Answer with `crewai-prod approve ID` or `crewai-prod reject ID --reason TEXT`, then "
        "resume the run.",
    ),
    (
        BudgetPaused,
        "Raise the limit with `crewai-prod approve ID --edit JSON`, then resume the run.",
    ),
    (RunNotFound, "`crewai-prod runs` lists the runs of a journal; --journal names another one."),
    (
        RunMismatch,
        "`crewai-prod resume RUN MODULE:CREW` takes the inputs the run was started with.",
    ),
    (DefinitionChanged, "On the command line: --on-change rerun, or --on-change keep."),
    (RunInUse, "`crewai-prod logs RUN -f` shows what it is doing."),
    (
        ToolOutcomeUnknown,
        "Look whether the effect happened, then resume with `--unknown RESULT` (it did; RESULT is "
        "what the tool returned), `--unknown rerun` (it did not) or `--unknown fail` (tell the "
        "model that it failed).",
    ),
    (
        BudgetExceeded,
        "Raise the limit where the crew is hardened, then resume the run: nothing is repeated.",
    ),
    (JournalUnavailable, "`crewai-prod doctor` looks at the journal, its folder and the disk."),
    (SchemaTooNew, "Upgrade crewai-prod, or name another file with --journal."),
    (Corrupt, "Restore the file from a backup, or name another one with --journal."),
    (StaleOwner, "`crewai-prod show RUN` says how far the other process is."),
)


def exit_status(error: BaseException) -> int:
    """The exit status an error ends a command with."""
    if isinstance(error, RunInterrupted):
        return 128 + int(error.fields.get("signal", 15))
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), FAILED)


def way_out(error: BaseException) -> str | None:
    """What someone at the command line can do about an error."""
    return next((text for kind, text in _WAYS_OUT if isinstance(error, kind)), None)


def error_facts(error: BaseException) -> dict[str, Any]:
    """An error for `--json`."""
    if not isinstance(error, CrewProdError):
        return {"type": type(error).__name__, "message": redact_text(str(error)), "way_out": None}
    return {**error.facts(), "message": redact_text(error.message), "way_out": way_out(error)}


def print_error(error: BaseException, *, as_json: bool) -> None:
    """Say on stderr what went wrong and what can be done about it."""
    if as_json:
        run_id = getattr(error, "run_id", None)
        print_json({"run_id": run_id, "error": error_facts(error)}, err=True)
        return
    click.echo(f"{click.style('Error:', fg='red')} {describe_error(error)}", err=True)
    hint = way_out(error)
    if hint:
        click.echo(safe(hint), err=True)


def describe_error(error: BaseException) -> str:
    """An error on one line, where it happened included."""
    if not isinstance(error, CrewProdError):
        return safe(redact_text(f"{type(error).__name__}: {error}"))
    places = (("run", error.run_id), ("task", error.task), ("agent", error.agent))
    where = ", ".join(f"{name} {value!r}" for name, value in places if value is not None)
    return safe(redact_text(f"{error.message} ({where})" if where else error.message))


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose package errors end it with a line and a status, never with a traceback."""

    @functools.wraps(function)
    def command(*args: Any, as_json: bool, **kwargs: Any) -> Any:
        try:
            return function(*args, as_json=as_json, **kwargs)
        except CrewProdError as error:
            print_error(error, as_json=as_json)
            leave(exit_status(error))
        except KeyboardInterrupt:
            leave(128 + signal.SIGINT)
        except BrokenPipeError:  # `crewai-prod runs | head`
            sys.stderr.close()
            leave(FAILED)

    return command


def leave(status: int) -> NoReturn:
    """End the command."""
    raise click.exceptions.Exit(status)


def program() -> str:
    """This program as its user can call it: by the path it was called by, if it is not on PATH."""
    called = sys.argv[0]
    by_name = shutil.which(_PROGRAM) is not None or Path(called).name != _PROGRAM
    return _PROGRAM if by_name else shlex.quote(called)


def resume_command(run_id: str, journal: str, target: str | None = None, more: str = "") -> str:
    """The command that continues a run. The target is only ever what a person has named.

    Args:
        run_id: The run. A name that begins like an option is put behind `--`.
        journal: Where its journal lies.
        target: MODULE:CREW.
        more: Further options.
    """
    known = shlex.quote(target) if target else "MODULE:CREW"
    quoted = shlex.quote(safe(run_id))
    options = f"--journal {shlex.quote(safe(journal))}{f' {more}' if more else ''}"
    if run_id.startswith("-"):
        return f"{program()} resume {options} -- {quoted} {known}"
    return f"{program()} resume {quoted} {known} {options}"
