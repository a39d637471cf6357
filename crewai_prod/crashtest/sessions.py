"""One session of a crash test: what a child process is told, what it does, what it leaves behind.

A session is one `kickoff` in a process of its own. It ends as the command line would (0 done, 1
failed, 3 paused), or is killed: by itself at a fault point, or from outside. Its result is a file
that appears whole or not at all.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from crewai_prod import _faults, codec
from crewai_prod.errors import RunPaused
from crewai_prod.tooling import Outcome

DONE, FAILED, PAUSED = 0, 1, 3
EXITED_AT_POINT = 137
EFFECTS = "CREWAI_PROD_CRASH_EFFECTS"
REQUESTS = "CREWAI_PROD_CRASH_REQUESTS"
NOTICE = "(notice)"
"""What stands for a tool where a person was told of a question."""

How = Literal["kickoff", "kickoff_async", "akickoff"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What one child process is to do; plain values, sent as JSON.

    Attributes:
        target: The crew, flow or agent, as `module:attribute`.
        folder: Where the session writes its result, output and log of fault points.
        journal: The journal's file.
        how: The method that is called.
        stand_in_model: Replace the crew's models by a scripted one.
        stand_in_tools: Replace the bodies of its tools by recorders.
        record: Count requests and effects in the files that the environment names. Off for a crew
            that is counted in another way.
        bare: Run the crew as it is, not hardened: to show that the harness notices.
        answers: For steps whose outcome is open: `{"kind": "done", "result": ...}` by step id.
        kill_at: End the process at this point, counted from 1.
        at: Count only points of this name.
        stop: Stop the process there (SIGSTOP) instead of ending it.
    """

    target: str
    folder: str
    journal: str
    run_id: str = "crash"
    inputs: Mapping[str, Any] | None = None
    how: How = "kickoff"
    durability: Literal["process", "power"] = "process"
    stand_in_model: bool = False
    stand_in_tools: bool = False
    record: bool = False
    bare: bool = False
    answers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    kill_at: int | None = None
    at: str | None = None
    stop: bool = False
    lease_seconds: float | None = None
    env: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The session as JSON values."""
        return asdict(self)

    @property
    def result_file(self) -> Path:
        """Where the session's end is described, unless it was killed."""
        return Path(self.folder, "result.json")

    @property
    def output_file(self) -> Path:
        """What the process printed."""
        return Path(self.folder, "output.txt")

    @property
    def points_file(self) -> Path:
        """The names of the fault points it passed."""
        return Path(self.folder, "points.txt")


def run_session(session: Session, tell: Callable[[str], None]) -> int:
    """Do what the session says, in the child process; returns its exit status.

    Args:
        session: What to do.
        tell: Reports an event to the harness; `kickoff` when everything is built.
    """
    os.environ.update(session.env)
    try:
        crew, notes = _prepare(session)
        _arm(session)
        tell("kickoff")
        output = _shown(crew, _kickoff(crew, session))
    except RunPaused as error:
        return _leave(session, PAUSED, step=error.step_id, error=_told(error))
    except BaseException as error:  # noqa: BLE001 - whatever it is, the harness must hear of it
        return _leave(session, FAILED, error=_told(error))
    return _leave(session, DONE, result=describe(output), notes=notes)


def describe(output: Any) -> Any:
    """What a kickoff returned, as JSON values that can be compared."""
    if isinstance(output, dict):
        return {name: describe(value) for name, value in output.items()}
    if not hasattr(output, "model_dump"):
        return repr(output)
    values = output.model_dump(mode="json", serialize_as_any=True)
    for task in values.get("tasks_output") or ():
        for failure in task.get("tool_failures") or ():
            failure.pop("task_id", None)  # made up anew by every process that builds the crew
    return json.loads(json.dumps(values, default=repr))


def _prepare(session: Session) -> tuple[Any, list[str]]:
    """The crew to be run, and what was left out of it."""
    from crewai_prod._crewai.rehearsal import Rehearsal
    from crewai_prod.cli._target import find_crew

    if session.stand_in_model:  # without a key CrewAI builds no agent, and it will not be used
        os.environ.setdefault("OPENAI_API_KEY", "sk-crash-test")
    crew = find_crew(session.target)
    if session.bare:
        return crew, []
    rehearsal = Rehearsal(
        journal=session.journal,
        durability=session.durability,
        unknown={step: _outcome(said) for step, said in session.answers.items()},
        lease_seconds=session.lease_seconds,
        stand_in_model=session.stand_in_model,
        stand_in_tools=session.stand_in_tools,
        requests=Path(os.environ[REQUESTS]) if session.record else None,
        effects=Path(os.environ[EFFECTS]) if session.record else None,
        notify=_note,
    )
    return rehearsal.prepare(crew), rehearsal.notes


def _note(told: Mapping[str, Any]) -> None:
    """Write down that people were told of a question, as an effect of the question's own."""
    from crewai_prod._crewai.counting import write_line

    said = {name: told[name] for name in ("kind", "why", "tool", "task", "arguments")}
    file = Path(os.environ[EFFECTS])
    write_line(file, step=f"question {told['id']}", tool=NOTICE, arguments=said)


def _outcome(said: Mapping[str, Any]) -> Outcome:
    return Outcome(said["kind"], codec.from_tree(said.get("result")))


def _arm(session: Session) -> None:
    log = str(session.points_file)
    action: dict[str, Any] = {"action": _stop} if session.stop else {}
    if session.at is not None:
        _faults.arm(at=session.at, k=session.kill_at or 1, log=log, **action)
    else:
        _faults.arm(n=session.kill_at, log=log, **action)


def _stop() -> None:
    """Stop the process, this thread before it goes on: a signal to the process may find another."""
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def _kickoff(crew: Any, session: Session) -> Any:
    from crewai_prod._crewai.targets import asked_of

    asked = asked_of(crew, session.inputs)
    if not session.bare:
        asked["run_id"] = session.run_id
    if session.how == "kickoff":
        return crew.kickoff(**asked)
    return asyncio.run(getattr(crew, session.how)(**asked))


def _shown(crew: Any, output: Any) -> Any:
    from crewai_prod._crewai.targets import shown_by

    return shown_by(crew, output)


def _told(error: BaseException) -> dict[str, Any]:
    text = "".join(traceback.format_exception(error))
    return {"type": type(error).__name__, "message": str(error), "traceback": text}


def _leave(session: Session, status: int, **said: Any) -> int:
    _faults.disarm()
    temporary = Path(session.folder, f"result.{os.getpid()}")
    temporary.write_text(json.dumps({"status": status, **said}), encoding="utf-8")
    temporary.replace(session.result_file)
    sys.stdout.flush()
    sys.stderr.flush()
    return status
