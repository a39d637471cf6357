"""The log as a file: appending to it from many processes, and reading it back.

Rule: a line is one `write` to a file opened for appending, so lines of several processes never mix
and a killed process never leaves half of one. A full file is renamed to `<name>.1`, older ones move
on to `.2` and so forth, and the oldest is deleted. Whoever finds the file full renames it under an
advisory lock, looking again once it has the lock; all others notice by the file's identity that the
path leads elsewhere now. Nobody waits for the lock: the line is then appended to the file at hand.

On Windows open files cannot be renamed: the file is appended to and not rotated. Knows nothing of
structlog, so that reading a log is cheap.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from crewai_prod import fields

if sys.platform != "win32":
    import fcntl

SUFFIX: Final = ".log.jsonl"
"""What the default log's name adds to the journal's."""
MAX_BYTES: Final = 10_000_000
FILES: Final = 5

_POLL_SECONDS: Final = 0.2
_LOOK_SECONDS: Final = 0.02
_LINE_START: Final = b'{"' + fields.TS.encode() + b'":'


def beside(journal: Path) -> Path:
    """Path of the default log of a journal: `runs.db` has `runs.db.log.jsonl`."""
    return journal.with_name(journal.name + SUFFIX)


class RotatingFile:
    """A file of lines, rotated by size. One thread at a time, any number of objects and processes.

    Args:
        path: The file; made with mode 0600, its folder too, when the first line is written.
        max_bytes: Size from which on it is rotated; 0 means never.
        files: How many files there may be, the one written to included; at least 2.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, files: int = FILES) -> None:
        self.path = path
        self._name = os.fspath(path)
        self._max_bytes = max_bytes
        self._files = max(files, 2)
        self._fd: int | None = None
        self._opened: tuple[int, int] | None = None
        self._looked = 0.0
        self._pid = 0

    def write(self, line: bytes) -> None:
        """Append a line, its newline included. It is with the operating system on return.

        Raises:
            OSError: It could not be written whole. The next call starts afresh.
        """
        try:
            written = os.write(self._ready(), line)
            if written != len(line):
                raise OSError(errno.ENOSPC, "only part of a log line could be written")
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file. Writing opens it again."""
        fd, self._fd = self._fd, None
        if fd is not None and _identity(fd) == self._opened:
            os.close(fd)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self.close()

    def _ready(self) -> int:
        """A descriptor of the file the path leads to now, not full unless it cannot be rotated."""
        state = self._live() or self._open()
        if state.st_size >= self._max_bytes > 0 and stat.S_ISREG(state.st_mode):
            with contextlib.suppress(OSError):  # a line in a file too long beats a lost line
                self._rotate()
            self._looked = 0.0
            if self._live() is None:
                self._open()
        assert self._fd is not None
        return self._fd

    def _live(self) -> os.stat_result | None:
        """State of our file, if the descriptor still is ours and the path still leads to it."""
        if self._fd is None:
            return None
        # A forked child shares the lock of its parent's descriptor and so needs one of its own;
        # a descriptor that somebody closed may meanwhile be a stranger's file, such as a database.
        if self._pid == os.getpid():
            try:
                state = os.fstat(self._fd)
            except OSError:
                pass  # somebody closed it
            else:
                ours = (state.st_dev, state.st_ino) == self._opened and state.st_nlink
                if ours and (self._has_just_looked() or _identity(self._name) == self._opened):
                    return state
        self.close()
        return None

    def _has_just_looked(self) -> bool:
        """Whether the path led here a moment ago: a line more in a file just rotated is no loss."""
        now = time.monotonic()
        just = now - self._looked < _LOOK_SECONDS
        if not just:
            self._looked = now
        return just

    def _open(self) -> os.stat_result:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        try:
            fd = os.open(self.path, flags, 0o600)
        except FileNotFoundError:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self.path, flags, 0o600)
        self._fd, self._opened, self._pid = fd, _identity(fd), os.getpid()
        if _ends_within_a_line(self.path):
            os.write(fd, b"\n")
        return os.fstat(fd)

    def _rotate(self) -> None:
        """Rename the full file, unless another process is doing so or has just done so."""
        if sys.platform == "win32" or self._fd is None:
            return
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            if _identity(self.path) == self._opened:
                self._shift()
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _shift(self) -> None:
        oldest = 1
        while oldest < self._files - 1 and os.path.exists(f"{self._name}.{oldest}"):
            oldest += 1
        # The live file goes last: until then every other process sees it in place and locked.
        for number in range(oldest, 1, -1):
            os.replace(f"{self._name}.{number - 1}", f"{self._name}.{number}")
        os.replace(self._name, f"{self._name}.1")


def _identity(file: int | str | Path) -> tuple[int, int] | None:
    """Device and inode of a descriptor's file or of what a path leads to; None if there is none."""
    try:
        state = os.stat(file)
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _ends_within_a_line(path: Path) -> bool:
    """Whether a full disk or a power cut has left half a line at the end."""
    if not path.is_file():
        return False
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    return False


# -- reading --------------------------------------------------------------------------------------


def read_log(
    path: Path, run_id: str | None = None, *, follow: bool = False, poll: float = _POLL_SECONDS
) -> Iterator[dict[str, Any]]:
    """The lines of a log and of its rotated files, oldest first, as dicts.

    What is no line of a log (foreign text, half a line) is passed over. A missing file is empty.

    Args:
        path: The file that is written to, as `beside(journal)` names it.
        run_id: Only lines of this run.
        follow: At the end wait for more, across rotations, until the caller stops asking.
        poll: Seconds between two looks while following.
    """
    needle = None if run_id is None else _needle(run_id)
    for raw in _followed(path, poll) if follow else _stored(path):
        if needle is None or needle in raw:
            line = _parse(raw)
            if line is not None and (run_id is None or line.get(fields.RUN_ID) == run_id):
                yield line


def _needle(run_id: str) -> bytes:
    """What every line of the run contains: its id where JSON leaves that as it is, else nothing."""
    return run_id.encode() if re.fullmatch(r"[\w.:/@ -]+", run_id, re.ASCII) else b""


def _parse(raw: bytes) -> dict[str, Any] | None:
    try:
        line = orjson.loads(raw)
    except orjson.JSONDecodeError:
        # Half a line of another process, glued to the front of a whole one by a full disk.
        start = raw.rfind(_LINE_START)
        return _parse(raw[start:]) if start > 0 else None
    is_ours = isinstance(line, dict) and fields.TS in line and fields.EVENT in line
    return line if is_ours else None


def _stored(path: Path) -> Iterator[bytes]:
    with contextlib.ExitStack() as stack:
        files = _open_all(path)
        for file in files:
            stack.callback(file.close)
        for file in files:
            yield from file


def _followed(path: Path, poll: float) -> Iterator[bytes]:
    """Lines as they come. A file is left only when it is complete and a newer one exists."""
    seen: tuple[int, int] | None = None
    while True:
        files = _open_all(path)
        with contextlib.ExitStack() as stack:
            for file in files:
                stack.callback(file.close)
            known = [_identity(file.fileno()) for file in files]
            for file in files[known.index(seen) + 1 if seen in known else 0 :]:
                yield from _until_left(file, path, poll)
                seen = _identity(file.fileno())
        if not files:
            time.sleep(poll)


def _until_left(file: BinaryIO, path: Path, poll: float) -> Iterator[bytes]:
    """Whole lines of one file, until the path leads elsewhere and nobody writes to it any more."""
    half = b""
    left = False
    while not left:
        left = _is_left(
            file, path, poll
        )  # before reading, so that what was added until then is read
        for line in file:
            half += line
            if half.endswith(b"\n"):
                yield half
                half = b""
        if not left:
            time.sleep(poll)


def _is_left(file: BinaryIO, path: Path, poll: float) -> bool:
    state = os.fstat(file.fileno())
    if state.st_size < file.tell():
        file.seek(0)  # emptied in place by another tool
    replaced = _identity(path) not in (None, (state.st_dev, state.st_ino))
    return replaced and time.time() - state.st_mtime > poll


def _open_all(path: Path) -> list[BinaryIO]:
    """The log's files, oldest first. Opened newest first: one that moves meanwhile is met twice."""
    rotated = re.compile(re.escape(path.name) + r"\.([1-9]\d*)")
    try:
        names = [match for name in os.listdir(path.parent) if (match := rotated.fullmatch(name))]
    except OSError:
        names = []
    older = sorted(int(match[1]) for match in names)
    files: list[BinaryIO] = []
    for name in (path, *(path.with_name(f"{path.name}.{number}") for number in older)):
        with contextlib.suppress(OSError):
            file = name.open("rb")
            if _identity(file.fileno()) in [_identity(other.fileno()) for other in files]:
                file.close()
            else:
                files.append(file)
    return files[::-1]
