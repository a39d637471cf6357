"""What `doctor` looks at without importing crewai: quick, and each finding with its way out."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from crewai_prod.errors import CrewProdError
from crewai_prod.journal import default_location, open_journal

PYTHON = ((3, 11), (3, 14))
CREWAI = ((1, 15), (2,))
SQLITE = (3, 31)
_ENOUGH_BYTES = 200_000_000
_LITTLE_BYTES = 20_000_000
_LOCK_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `fix` says what to do unless it is ok."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    fix: str | None = None


def surroundings(journal: str | None) -> Iterator[Check]:
    """Check everything a run needs before any crew is loaded."""
    yield _python()
    yield _crewai()
    yield _sqlite()
    yield from _journal(str(default_location()) if journal is None else journal)
    yield _home()
    yield _storage()
    yield _telemetry()
    yield _terminal()


def numbers(text: str) -> tuple[int, ...]:
    """A version's leading numbers: `1.15.3rc1` is (1, 15, 3)."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else ()


def _python() -> Check:
    low, high = PYTHON
    found = ".".join(map(str, sys.version_info[:3]))
    if low <= sys.version_info[:2] < high:
        return Check("python", "ok", found)
    fits = f"{low[0]}.{low[1]} up to but not {high[0]}.{high[1]}"
    return Check("python", "fail", f"{found} does not fit", f"Use Python {fits}.")


def _crewai() -> Check:
    try:
        found = version("crewai")
    except PackageNotFoundError:
        return Check("crewai", "fail", "not installed", "Install crewai beside crewai-prod.")
    low, high = CREWAI
    if numbers(found) < low:
        return Check("crewai", "fail", f"{found} is too old", "Upgrade crewai to 1.15 or newer.")
    if numbers(found) >= high:
        return Check(
            "crewai", "warn", f"{found} is newer than any tested", "Run `doctor MODULE:CREW`."
        )
    return Check("crewai", "ok", found)


def _sqlite() -> Check:
    found = str(import_module("sqlite3").sqlite_version)
    if numbers(found) >= SQLITE:
        return Check("sqlite", "ok", found)
    return Check("sqlite", "fail", f"{found} is too old", "Use a Python with SQLite 3.31 or newer.")


# -- the journal ----------------------------------------------------------------------------------


def _journal(location: str) -> Iterator[Check]:
    path = Path(location).expanduser().absolute()
    if "://" in location:
        yield _attempt("journal", lambda: open_journal(location, create=False).close(), location)
        return
    folder = _nearest(path.parent)
    yield _space(folder)
    yield _attempt("journal folder", lambda: _new_journal_in(folder), str(folder))
    if path.exists():
        yield _attempt("journal", lambda: _existing_journal(path), str(path))
    else:
        yield Check("journal", "ok", f"{path} will be made by the first run")


def _nearest(folder: Path) -> Path:
    """The folder, or the closest one above it that exists."""
    while not folder.exists():
        folder = folder.parent
    return folder


def _space(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1e9:,.1f} GB free"
    if free < _LITTLE_BYTES:
        return Check("disk", "fail", detail, "A full disk stops runs: free some space.")
    if free < _ENOUGH_BYTES:
        return Check("disk", "warn", detail, "A full disk stops runs: free some space soon.")
    return Check("disk", "ok", detail)


def _attempt(name: str, attempt: Callable[[], None], place: str) -> Check:
    try:
        attempt()
    except (CrewProdError, OSError) as error:
        fix = (
            "Mend its permissions, end the process that holds the lock, or name another journal "
            "with --journal or CREWAI_PROD_JOURNAL."
        )
        text = error.message if isinstance(error, CrewProdError) else str(error)
        return Check(name, "fail", text, fix)
    return Check(name, "ok", place)


def _new_journal_in(folder: Path) -> None:
    """Make a journal with write-ahead log, write to it, and take it away again."""
    path = folder / f".crewai-prod-doctor-{uuid.uuid4().hex[:8]}.db"
    try:
        with closing(open_journal(path, busy_seconds=_LOCK_SECONDS)) as journal:
            journal.heartbeat([], lease_seconds=1.0)
    finally:
        for companion in ("", "-wal", "-shm"):
            Path(f"{path}{companion}").unlink(missing_ok=True)


def _existing_journal(path: Path) -> None:
    """Read it, then take and give back the lock that every write takes. Nothing is changed."""
    with closing(open_journal(path, create=False, busy_seconds=_LOCK_SECONDS)) as journal:
        journal.runs(limit=1)
        journal.heartbeat([], lease_seconds=1.0)


# -- what crewai wants ----------------------------------------------------------------------------


def _home() -> Check:
    home = Path(os.path.expanduser("~"))
    try:
        with tempfile.TemporaryFile(dir=home):
            return Check("home", "ok", str(home))
    except OSError as error:
        fix = "`import crewai` fails like this: set HOME to a folder that can be written to."
        return Check("home", "fail", f"{home} cannot be written to ({error.strerror})", fix)


def _storage() -> Check:
    """CrewAI's data folder, as `crewai_core.paths` names it."""
    name = os.environ.get("CREWAI_STORAGE_DIR", Path.cwd().name)
    if sys.platform in ("win32", "darwin"):
        return Check("crewai storage", "ok", f"named {name}")
    base = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    folder = Path(base, name)
    if os.access(_nearest(folder), os.W_OK):
        return Check("crewai storage", "ok", str(folder))
    fix = "Set CREWAI_STORAGE_DIR to the path of a folder that can be written to."
    return Check("crewai storage", "fail", f"{folder} cannot be written to", fix)


def _telemetry() -> Check:
    off = ("CREWAI_DISABLE_TELEMETRY", "CREWAI_DISABLE_TRACKING", "OTEL_SDK_DISABLED")
    if any(os.environ.get(name, "").lower() == "true" for name in off):
        return Check("telemetry", "ok", "crewai's telemetry is off")
    return Check(
        "telemetry",
        "warn",
        f"crewai's telemetry is on: its {signal.SIGTERM.name} handler ends a process with status 0",
        "`crewai-prod run` puts its own handler before it; in programs of your own set "
        "CREWAI_DISABLE_TELEMETRY=true.",
    )


def _terminal() -> Check:
    if sys.stdin is not None and sys.stdin.isatty():
        return Check("terminal", "ok", "standard input is a terminal")
    return Check("terminal", "ok", "standard input is no terminal: no task can ask a person here")
