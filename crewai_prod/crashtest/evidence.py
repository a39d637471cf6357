"""What a crash test goes by: requests, effects and the journal, all read from outside the crew.

Requests are counted where they arrive, effects in a file that the tools append to, what the run
recorded in its journal. Nothing here trusts what a session says about itself.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from crewai_prod.approval import UNKNOWN
from crewai_prod.crashtest.sessions import NOTICE, REQUESTS
from crewai_prod.errors import JournalUnavailable, RunNotFound
from crewai_prod.journal import open_journal
from crewai_prod.records import (
    ApprovalRecord,
    AttemptRecord,
    GuardRecord,
    RunStatus,
    StepKind,
    StepRecord,
    StepStatus,
    TaskStatus,
    Usage,
)


@dataclass(frozen=True, slots=True)
class Sent:
    """A model request as it arrived.

    Attributes:
        digest: The same for the same request, whoever sends it.
        answered: Whether the whole answer was handed over; an error is none.
        tokens: What the answer cost.
    """

    digest: str
    answered: bool
    tokens: int = 0


class Requests(Protocol):
    """Where model requests are counted. One object serves one trial at a time."""

    def begin(self, folder: Path) -> Mapping[str, str]:
        """Forget what was; returns what the sessions need in their environment."""
        ...

    def sent(self) -> list[Sent]:
        """All requests since `begin`, in order of arrival, none of them under way any more."""
        ...


class FileRequests:
    """Requests that the models themselves write into a file, before and after."""

    def begin(self, folder: Path) -> Mapping[str, str]:
        """See `Requests.begin`."""
        self._file = folder / "requests.jsonl"
        return {REQUESTS: str(self._file)}

    def sent(self) -> list[Sent]:
        """See `Requests.sent`."""
        found: dict[str, Sent] = {}
        for line in read_lines(self._file):
            before = found.get(line["call"])
            found[line["call"]] = Sent(
                line["digest"],
                answered=line["answered"] or (before is not None and before.answered),
                tokens=line["tokens"],
            )
        return list(found.values())


@dataclass(frozen=True, slots=True)
class Effect:
    """What a tool did to the world.

    Attributes:
        step: The step in whose body it happened, None outside a hardened run.
        tool: The tool's name.
        arguments: JSON of its arguments.
        result: What the tool returned (or was about to).
        complete: False for a tool that began to act and did not say that it had.
    """

    step: str | None
    tool: str
    arguments: str
    result: Any = None
    complete: bool = True

    @property
    def is_notice(self) -> bool:
        """Whether a person was told of a question."""
        return self.tool == NOTICE

    @property
    def is_of_a_kill(self) -> bool:
        """Whether they were told of a question that only a kill can make: what became of a call."""
        return self.is_notice and json.loads(self.arguments)["kind"] == UNKNOWN

    @property
    def what(self) -> str:
        """The effect itself, whichever step made it."""
        return f"{self.tool}({self.arguments})"


def read_effects(path: Path) -> list[Effect]:
    """The effects in the order in which they began."""
    found: dict[Any, Effect] = {}
    for number, line in enumerate(read_lines(path)):
        found[line.get("call", number)] = Effect(
            step=line["step"],
            tool=line["tool"],
            arguments=json.dumps(line["arguments"], sort_keys=True),
            result=line.get("result"),
            complete=line.get("complete", True),
        )
    return list(found.values())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSON-lines file; a line that a kill cut short is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.split("\n")[:-1] if line]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What the journal holds of a run.

    Attributes:
        epoch: Sessions that opened the run so far.
        status: Where the run stands; None before it was created.
        calls: Model calls that were answered, by the session that recorded it. How often one failed
            depends on when it is made: a resumed run tries it anew, with all its tries.
        open_steps: Steps that were started and have no outcome, with what is known of them.
        usage: What all recorded model calls cost.
        ended: Steps and tasks with an outcome, questions asked and answered: the run's progress.
            What became of a call is asked because of a kill, as often as there are kills: none.
        picousd: What all recorded model calls cost in money.
        questions: What people were asked and have said, but for what became of calls.
        verdicts: What guards have said.
        choices: Who was asked instead of whom, and why.
    """

    epoch: int = 0
    status: RunStatus | None = None
    calls: Mapping[int, int] = field(default_factory=dict)
    open_steps: Mapping[str, StepRecord] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    ended: int = 0
    picousd: int = 0
    questions: Mapping[str, int] = field(default_factory=dict)
    verdicts: Mapping[str, int] = field(default_factory=dict)
    choices: Mapping[str, int] = field(default_factory=dict)


def read_journal(path: Path, run_id: str) -> Recorded:
    """What the journal holds of a run now."""
    try:
        journal = open_journal(path, create=False)
        run = journal.run(run_id)
    except (JournalUnavailable, RunNotFound):  # killed before it was made
        return Recorded()
    steps, attempts = journal.steps(run_id), journal.attempts(run_id)
    tasks = journal.tasks(run_id)
    asked = [one for one in journal.approvals(run_id) if one.kind != UNKNOWN]
    verdicts = journal.verdicts(run_id)
    journal.close()
    models = {step.step_id for step in steps if step.kind is StepKind.MODEL}
    entries: list[StepRecord | AttemptRecord] = [*steps, *attempts]
    return Recorded(
        epoch=run.epoch,
        status=run.status,
        calls=Counter(one.epoch for one in entries if one.step_id in models and _answered(one)),
        open_steps={s.step_id: s for s in steps if s.status is StepStatus.STARTED},
        usage=_total(one.usage for one in entries),
        ended=sum(step.status is not StepStatus.STARTED for step in steps)
        + sum(task.status is not TaskStatus.RUNNING for task in tasks)
        + len(asked)
        + sum(one.verdict is not None for one in asked)
        + (run.status is RunStatus.COMPLETED),
        picousd=sum(one.cost.picousd or 0 for one in entries if one.cost is not None),
        questions=Counter(_question(one) for one in asked),
        verdicts=Counter(_verdict(one) for one in verdicts),
        choices=Counter(_choice(one) for one in steps if one.route),
    )


def _answered(one: StepRecord | AttemptRecord) -> bool:
    return one.status == StepStatus.DONE or one.usage is not None


def _choice(one: StepRecord) -> str:
    """Who was asked by which rule; its reason may name how many tries have failed."""
    said = json.loads(one.route or "{}")
    return f"{one.step_id} {said['rule']} {said['model']} {said['instead_of']}"


def _question(one: ApprovalRecord) -> str:
    what = (one.kind, one.scope, one.why, one.tool, one.arguments, one.remark)
    return " ".join(map(str, (*what, one.status, one.verdict, one.answer)))


def _verdict(one: GuardRecord) -> str:
    where = (one.step_id or one.scope, one.place, one.guard, one.version, one.judged)
    return " ".join(map(str, (*where, one.verdict, one.reason, one.value)))


def _total(usages: Iterable[Usage | None]) -> Usage:
    return sum((usage for usage in usages if usage is not None), Usage())
