"""Starts the crew in a child process, kills it in mid-task, has another one resume the run.

Both children are started at once, because importing crewai takes seconds; the second one does
nothing until the first is dead. This process imports no crewai: all it knows, it reads from the
journal, the log, the ledger and the children's words.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from crewai_prod.cli._report import Report
from crewai_prod.demo.child import Orders
from crewai_prod.errors import CrewProdError
from crewai_prod.journal import open_journal

Tell = Callable[[str], None]
_READY_SECONDS = 180.0
_WORK_SECONDS = 600.0
_QUIET = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "OTEL_SDK_DISABLED": "true",
}


class DemoFailed(CrewProdError):
    """The demonstration could not be given. Nothing it would have shown was shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What happened.

    Attributes:
        orders: What the children were told.
        exit_status: Of the child that was killed.
        at_kill: The run as the journal held it when the child was dead.
        end: The run as it ended.
        output: What the resumed crew returned.
        tokens: What `output.token_usage` said.
    """

    orders: Orders
    exit_status: int
    at_kill: Report
    end: Report
    output: str
    tokens: int


def perform(orders: Orders, tell: Tell) -> Story:
    """Give the demonstration.

    Raises:
        DemoFailed: A child failed, or the model never charged the card.
    """
    folder = Path(orders.folder)
    with (
        _child(replace(orders, hold=True), folder / "first.err") as first,
        _child(orders, folder / "second.err") as second,
    ):
        tell("starting two processes; importing crewai takes each of them some seconds")
        first.wait_for("ready", _READY_SECONDS)
        tell(f"process {first.pid} runs the crew")
        first.go()
        first.wait_for("held", _WORK_SECONDS)
        tell(
            f"process {first.pid} has charged the card; it is held before it asks the model again, "
            "so that the kill cannot miss"
        )
        os.kill(first.pid, signal.SIGKILL)
        status = first.process.wait()
        at_kill = _read(orders)
        tell(f"process {first.pid} was killed with SIGKILL")
        second.wait_for("ready", _READY_SECONDS)
        tell(f"process {second.pid} resumes run {orders.run_id}")
        second.go()
        finished = second.wait_for("finished", _WORK_SECONDS)
    return Story(
        orders=orders,
        exit_status=status,
        at_kill=at_kill,
        end=_read(orders),
        output=finished["output"],
        tokens=finished["tokens"],
    )


@dataclass(frozen=True, slots=True)
class _Child:
    process: subprocess.Popen[str]
    words: queue.SimpleQueue[dict[str, Any] | None]
    errors: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def wait_for(self, event: str, seconds: float) -> dict[str, Any]:
        """The child's next words, which must be these."""
        try:
            said = self.words.get(timeout=seconds)
        except queue.Empty:
            raise DemoFailed(f"A child process said nothing for {seconds:.0f} s.") from None
        if said is not None and said["event"] == event:
            return said
        if said is None:
            raise DemoFailed(f"A child process ended by itself: {self._last_words()}")
        if said["event"] == "finished":
            raise DemoFailed(
                "The model finished without charging the card, so there was no moment to kill it "
                f"in. It said: {said['output'][:500]}"
            )
        raise DemoFailed(f"The crew failed: {said.get('error', said['event'])}")

    def _last_words(self) -> str:
        lines = self.errors.read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")


@contextmanager
def _child(orders: Orders, errors: Path) -> Iterator[_Child]:
    with errors.open("w", encoding="utf-8") as err:
        process = subprocess.Popen(
            orders.command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            env=_environment(),
        )
    words: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    assert process.stdout is not None
    threading.Thread(target=_listen, args=(process.stdout, words), daemon=True).start()
    try:
        yield _Child(process, words, errors)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _listen(stream: IO[str], words: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    for line in stream:
        words.put(json.loads(line))
    words.put(None)


def _environment() -> dict[str, str]:
    """The children's: no telemetry, and no setting that would make this another demonstration."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("CREWAI_PROD_") or name == "CREWAI_PROD_ENCRYPTION_KEY"
    }
    return {**kept, **_QUIET}


def _read(orders: Orders) -> Report:
    return Report.read(open_journal(orders.journal, create=False), orders.run_id)
