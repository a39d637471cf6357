"""One trial: kill a run as its plan says, answer as a person would, resume until it is done."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from crewai_prod.crashtest.evidence import (
    Effect,
    Recorded,
    Requests,
    Sent,
    read_effects,
    read_journal,
)
from crewai_prod.crashtest.people import CANCELS, PEOPLE
from crewai_prod.crashtest.plans import Kill, Plan, SoFar
from crewai_prod.crashtest.sessions import DONE, EFFECTS, EXITED_AT_POINT, PAUSED, Session
from crewai_prod.crashtest.zygote import Child, Zygote

End = Literal["done", "paused", "asked", "answered", "cancelled", "failed", "killed", "hung"]
"""`paused`: for what became of a tool call; `asked`: for another answer; `answered`: a person's."""

_MOST_SESSIONS = 400
_PATIENCE = 90.0
_ASKS = ("ApprovalRequired", "BudgetPaused")
_STOPPED = "RunCancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSeen:
    """One session of a trial, as seen from outside.

    Attributes:
        end: How it ended.
        points: The boundaries it passed; the last one is where it ended, if it was killed at one.
        before: The journal before it.
        after: The journal after it.
        sent: The model requests it made.
        answered: Open steps whose outcome it was told, as a person would have.
        step: The step it paused on.
        error: What it raised: type, message and traceback.
        output: What it printed.
        at_point: Whether it ended itself at the last of its boundaries.
        seconds: How long it ran, from the kickoff on if it came to that.
    """

    end: End
    points: tuple[str, ...]
    before: Recorded
    after: Recorded
    sent: tuple[Sent, ...]
    answered: frozenset[str] = frozenset()
    step: str | None = None
    error: Mapping[str, Any] | None = None
    output: str = ""
    at_point: bool = False
    seconds: float = 0.0

    @property
    def recorded(self) -> int:
        """Model calls whose outcome this session recorded."""
        opened = self.after.epoch > self.before.epoch
        return self.after.calls.get(self.after.epoch, 0) if opened else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSeen:
    """A whole trial, as seen from outside."""

    label: str
    sessions: tuple[SessionSeen, ...]
    result: Any
    notes: tuple[str, ...]
    effects: tuple[Effect, ...]
    folder: Path

    @property
    def done(self) -> bool:
        """Whether the run was brought to its end."""
        return bool(self.sessions) and self.sessions[-1].end == "done"

    @property
    def sent(self) -> list[Sent]:
        """All model requests of the trial."""
        return [sent for session in self.sessions for sent in session.sent]

    @property
    def points(self) -> tuple[str, ...]:
        """The boundaries that were passed, in all sessions."""
        return tuple(point for session in self.sessions for point in session.points)

    @property
    def seconds(self) -> float:
        """How long the sessions took."""
        return sum(session.seconds for session in self.sessions)

    @property
    def kills(self) -> int:
        """How many sessions were killed."""
        return sum(session.end == "killed" for session in self.sessions)

    @property
    def pauses(self) -> int:
        """How many sessions paused for an unknown outcome."""
        return sum(session.end == "paused" for session in self.sessions)


@dataclass(slots=True)
class Trial:
    """Runs the sessions of one plan.

    Args:
        zygote: Where processes come from.
        template: What every session is told; folder, kill and answers are filled in.
        requests: Where model requests are counted.
        folder: A folder of the trial's own.
        people: Who answers what the run asks, in processes of their own.
    """

    zygote: Zygote
    template: Session
    requests: Requests
    folder: Path
    people: str = PEOPLE
    _seen: list[SessionSeen] = field(default_factory=list)
    _asked: str | None = None
    _waits: bool = False
    _result: Any = None
    _notes: tuple[str, ...] = ()

    def run(self, plan: Plan | None) -> TrialSeen:
        """Go through the sessions until one of them is done, fails, or none gets anywhere."""
        self.folder.mkdir(parents=True)
        env = {**self.template.env, EFFECTS: str(self._effects_file)}
        env |= self.requests.begin(self.folder)
        self.template = replace(self.template, env=env, journal=str(self.folder / "runs.db"))
        before = Recorded()
        for number in range(1, _MOST_SESSIONS + 1):
            kill = plan.next(self._so_far(before)) if plan else None
            answer = self._person if self._waits else self._session
            seen = answer(number, kill, before)
            self._waits = seen.end == "asked"
            self._seen.append(seen)
            before = seen.after
            if seen.end in ("done", "failed", "hung"):
                break
        return TrialSeen(
            label=plan.label if plan else "not killed",
            sessions=tuple(self._seen),
            result=self._result,
            notes=self._notes,
            effects=tuple(read_effects(self._effects_file)),
            folder=self.folder,
        )

    @property
    def _effects_file(self) -> Path:
        return self.folder / "effects.jsonl"

    def _so_far(self, before: Recorded) -> SoFar:
        return SoFar(
            progress=before.ended,
            points=sum(len(seen.points) for seen in self._seen),
            seconds=sum(seen.seconds for seen in self._seen),
            opens=not self._waits,
        )

    def _person(self, number: int, kill: Kill | None, before: Recorded) -> SessionSeen:
        """A session in which a person answers what is open."""
        session = self._helper(self.people, f"{number:03}")
        session = replace(session, kill_at=kill.point if kill else None)
        end, status, seconds = self._process(session, kill)
        return SessionSeen(
            end="answered" if end == "done" else end,
            points=_points(session),
            before=before,
            after=read_journal(Path(session.journal), session.run_id),
            sent=(),
            error=_said(session).get("error"),
            output=_text(session.output_file),
            at_point=status == EXITED_AT_POINT,
            seconds=seconds,
        )

    def _helper(self, target: str, folder: str) -> Session:
        """A session that is none of the run's, but has to do with it."""
        about = {"journal": self.template.journal, "run_id": self.template.run_id}
        return replace(
            self.template,
            target=target,
            folder=str(self.folder / folder),
            inputs=about,
            how="kickoff",
            bare=True,
        )

    def _session(self, number: int, kill: Kill | None, before: Recorded) -> SessionSeen:
        answers = self._answers(before)
        session = replace(
            self.template,
            folder=str(self.folder / f"{number:03}"),
            answers=answers,
            kill_at=kill.point if kill else None,
        )
        already = sum(len(seen.sent) for seen in self._seen)
        end, status, seconds = self._process(session, kill)
        said = _said(session)
        if end == "done":
            self._result, self._notes = said.get("result"), tuple(said.get("notes", ()))
        self._asked = said.get("step") if end == "paused" else None
        return SessionSeen(
            end=end,
            points=_points(session),
            before=before,
            after=read_journal(Path(session.journal), session.run_id),
            sent=tuple(self.requests.sent()[already:]),
            answered=frozenset(answers),
            step=self._asked,
            error=said.get("error"),
            output=_text(session.output_file),
            at_point=status == EXITED_AT_POINT,
            seconds=seconds,
        )

    def _process(self, session: Session, kill: Kill | None) -> tuple[End, int, float]:
        """Run one child process to its end, natural or not; that, its status and its time."""
        child = self.zygote.start(session)
        try:
            child.wait_for("kickoff", seconds=_PATIENCE)
            began = time.monotonic()
            if kill is not None and kill.seconds is not None:
                end_it = partial(self._cancel, session) if kill.cancel else child.kill
                _after(child, kill.seconds, end_it)
            status = child.wait_for(seconds=_PATIENCE).get("status", 1)
        except TimeoutError:
            child.kill()
            child.wait_for(seconds=_PATIENCE)
            return "hung", -signal.SIGKILL, _PATIENCE
        ends: dict[int, End] = {
            DONE: "done",
            PAUSED: "paused",
            EXITED_AT_POINT: "killed",
            -signal.SIGKILL: "killed",
        }
        end = ends.get(status, "failed")
        return _told_apart(end, _said(session)), status, time.monotonic() - began

    def _cancel(self, session: Session) -> None:
        """Cancel the run from a process of its own."""
        helper = self._helper(CANCELS, f"{Path(session.folder).name}-cancel")
        self.zygote.start(helper).wait_for(seconds=_PATIENCE)

    def _answers(self, before: Recorded) -> dict[str, dict[str, Any]]:
        """What a person who looked at the world answers to the question of the last session."""
        if self._asked is None:
            return {}
        effects = read_effects(self._effects_file)
        return {self._asked: truth(self._asked, effects)}


def _after(child: Child, seconds: float, end_it: Callable[[], None]) -> None:
    """End it so long after the kickoff began, unless the session has ended by then."""
    try:
        child.wait_for(seconds=seconds)
    except TimeoutError:
        end_it()


def _told_apart(end: End, said: Mapping[str, Any]) -> End:
    """How a session ended, by what it raised."""
    kind = (said.get("error") or {}).get("type")
    if end == "paused" and kind in _ASKS:
        return "asked"
    return "cancelled" if end == "failed" and kind == _STOPPED else end


def truth(step: str, effects: Iterable[Effect]) -> dict[str, Any]:
    """Whether a step acted, and with what result, as the outside world knows it.

    Of a tool that began and did not end nobody can tell; the safe answer is that it failed.
    """
    acted = [effect for effect in effects if effect.step == step]
    if not acted:
        return {"kind": "not_done"}
    if not acted[-1].complete:
        return {"kind": "failed"}
    return {"kind": "done", "result": acted[-1].result}


def _said(session: Session) -> dict[str, Any]:
    text = _text(session.result_file)
    said: dict[str, Any] = json.loads(text) if text else {}
    return said


def _points(session: Session) -> tuple[str, ...]:
    return tuple(_text(session.points_file).split())


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
