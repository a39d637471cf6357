"""How a line of the log is stamped, redacted, rendered and written.

Rule: a line is written under one lock on the calling thread, so the lines of a run stand in the
order in which things happened, and none leaves unredacted. Writing never fails the run: a line that
cannot be written is counted, said once as a warning, and the next one is tried again.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterable, Mapping, MutableMapping, Set
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import orjson

from crewai_prod import fields, logfile
from crewai_prod.redact import redact_fields, redact_text

if TYPE_CHECKING:
    from structlog.typing import BindableLogger, Processor

from crewai_prod.logfields import Level, facts, tree

_Line: TypeAlias = MutableMapping[str, Any]


class LogCore:
    """The log of one run, without its events: where it goes, and how a line gets there."""

    __slots__ = ("_logger", "_state")

    def __init__(self, logger: Any, state: State) -> None:
        self._logger = logger
        self._state = state

    @property
    def dropped(self) -> int:
        """How many lines could not be written."""
        return self._state.dropped

    @property
    def content(self) -> bool:
        """Whether prompts, arguments and results are logged."""
        return self._state.content

    @property
    def path(self) -> Path | None:
        """The file that is written to, if it is a file."""
        return self._state.file.path if self._state.file is not None else None

    def bind(self, **new: Any) -> Self:
        """A log with further fields on every line, written to the same place."""
        if self._logger is None or not new:
            return self
        new.pop(fields.EVENT, None)
        return type(self)(self._logger.bind(**new), self._state)

    def close(self) -> None:
        """Close the file, if it is one of ours. A later line opens it again."""
        if self._state.file is not None:
            with self._state.locked():
                self._state.file.close()

    def emit(self, event: str, level: Level = "info", /, **more: Any) -> None:
        """Write one line. Never raises; a line that could not be written counts as dropped.

        Fields that are None are left out. `ts`, `level`, `event`, `schema_version` and `run_id` are
        ours: fields so named are ignored.
        """
        more.pop(fields.EVENT, None)
        self._write(event, level, more)

    def _write(self, event: str, level: Level, line: dict[str, Any]) -> None:
        """The same, of fields that are known not to name the event."""
        if self._logger is None:
            return
        with self._state.locked():
            try:
                self._logger.write(level, event, line)
            except Exception as error:  # noqa: BLE001 - a log must not end the run it describes
                self._state.drop(error)

    def _shown(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Content as fields, JSON text as what it says so that its keys are seen by redaction."""
        if self._logger is None or not self._state.content:
            return {}
        return {key: tree(item) for key, item in content.items() if item is not None}

    def _error(self, error: str | BaseException | None) -> dict[str, Any]:
        """Fields of an error: an exception, or JSON of its facts as the journal holds them."""
        if error is None:
            return {}
        kind, message = facts(error)
        return {
            fields.ERROR_TYPE: kind,
            **({fields.ERROR_MESSAGE: message} if self.content else {}),
        }


def merged() -> Processor:
    """What the application has bound with `structlog.contextvars` stands on our lines too."""
    from structlog import contextvars

    bound = getattr(contextvars, "_CONTEXT_VARS", None)  # the name of each one that ever was

    def merge(logger: Any, method: str, line: _Line) -> _Line:
        # CrewAI's contexts are large, and merging looks through all of them.
        return line if bound == {} else contextvars.merge_contextvars(logger, method, line)

    return merge


def wrap(sink: Any, chain: Iterable[Processor]) -> Any:
    """A logger of our own around a sink; nothing of structlog is configured."""
    import structlog

    return structlog.wrap_logger(
        sink, processors=list(chain), wrapper_class=_wrapper(), context_class=dict
    ).bind()


@functools.cache
def _wrapper() -> type[BindableLogger]:
    """A bound logger of structlog with one method, which takes fields of any name."""
    from structlog import BoundLoggerBase

    class Wrapper(BoundLoggerBase):
        def write(self, level: Level, event: str, more: dict[str, Any]) -> None:
            args, kwargs = self._process_event(level, event, more)
            getattr(self._logger, level)(*args, **kwargs)

    return Wrapper


class Redactor:
    """Sees all that anyone has put into the line; only `Stamp` comes after it."""

    __slots__ = ("_sensitive",)

    def __init__(self, sensitive: Set[str]) -> None:
        self._sensitive = frozenset(sensitive)

    def __call__(self, _: Any, __: str, line: _Line) -> _Line:
        """The line without secrets."""
        return redact_fields(line, sensitive=self._sensitive)


class Stamp:
    """Puts what every line begins with in front, whatever fields are called."""

    __slots__ = ("_run",)

    def __init__(self, run_id: str | None) -> None:
        self._run = {} if run_id is None else {fields.RUN_ID: redact_text(run_id)}

    def __call__(self, _: Any, method: str, line: _Line) -> _Line:
        """The line behind its head."""
        head = {
            fields.TS: datetime.now(UTC).isoformat(timespec="microseconds")[:-6] + "Z",
            fields.LEVEL: method,
            fields.EVENT: line[fields.EVENT],
            fields.SCHEMA: fields.SCHEMA_VERSION,
            **self._run,
        }
        return {**head, **line, **head}


def render(_: Any, __: str, line: _Line) -> bytes:
    """The line as JSON without any control character, also those that JSON itself lets pass."""
    try:
        raw = orjson.dumps(line)
    except TypeError:
        raw = orjson.dumps(_representable(line))
    if not raw.isascii() or b"\x7f" in raw:
        raw = _UNSAFE.sub(lambda match: b"\\u%04x" % ord(match[0].decode()), raw)
    return raw + b"\n"


# DEL, C1 (U+009B begins a terminal's escape sequence), line separators and changes of direction.
_UNSAFE = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xae]|\xe2\x81[\xa6-\xa9]")


def _representable(value: Any) -> Any:
    """Plain values without what JSON writers refuse: lone surrogates and integers over 64 bits."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_representable(key): _representable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_representable(item) for item in value]
    if isinstance(value, int) and value.bit_length() >= _INT_BITS:
        # Python refuses to write out integers of thousands of digits.
        return str(value) if value.bit_length() < _LONG_BITS else f"<{value.bit_length()} bits>"
    return value


_INT_BITS: Final = 63
_LONG_BITS: Final = 1024


def render_text(logger: Any, method: str, line: _Line) -> str:
    """The same as text, without the line's end."""
    return render(logger, method, line)[:-1].decode()


def for_logging(logger: Any, method: str, line: _Line) -> tuple[tuple[str], dict[str, Any]]:
    """Message and `extra` of a `logging` record; its handlers decide what becomes of it."""
    return (render_text(logger, method, line),), {"extra": {"crewai_prod": line}}


def for_structlog(_: Any, __: str, line: _Line) -> tuple[tuple[str], _Line]:
    """Event and fields for a logger of the user, whose own processors set the level."""
    event = line.pop(fields.EVENT)
    line.pop(fields.LEVEL)
    return (event,), line


# -- where lines go -------------------------------------------------------------------------------


class File:
    """A sink: our own file."""

    __slots__ = ("debug", "error", "info", "warning")

    def __init__(self, file: logfile.RotatingFile) -> None:
        self.debug = self.info = self.warning = self.error = file.write


class Stderr:
    """A sink: the standard error stream."""

    __slots__ = ()

    def info(self, line: bytes) -> None:
        """Write a line."""
        # Looked up each time: applications replace the stream.
        sys.stderr.write(line.decode())
        sys.stderr.flush()

    debug = warning = error = info


class State:
    """What a log shares with its children."""

    __slots__ = ("_lock", "_pid", "content", "dropped", "file")

    def __init__(self, *, content: bool) -> None:
        self.content = content
        self.dropped = 0
        self.file: logfile.RotatingFile | None = None
        self._lock = threading.RLock()
        self._pid = os.getpid()

    def locked(self) -> threading.RLock:
        """The lock that orders lines. Reentrant, as a signal handler may log, too."""
        if self._pid != os.getpid():  # forked while another thread held it: nobody would let go
            self._lock = threading.RLock()
            self._pid = os.getpid()
        return self._lock

    def drop(self, error: Exception) -> None:
        """Count a lost line, and say so the first time."""
        self.dropped += 1
        if self.dropped > 1:
            return
        with contextlib.suppress(Exception):  # warnings may be errors, stderr may be closed
            warnings.warn(
                "crewai-prod: a log line could not be written and is lost "
                f"({type(error).__name__}: {redact_text(str(error))}). The run goes on; "
                "further losses are counted in RunLog.dropped.",
                RuntimeWarning,
                stacklevel=2,
            )
