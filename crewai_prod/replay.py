"""What to do with a step or a task that may have been recorded: pure decisions, no I/O.

Rules (DESIGN section 4): a recorded answer is replayed; a failure that the crew saw and went on
from is replayed as it was; the failure that stopped the run is tried anew; a tool that was started
and has no outcome is unknown; a model call whose prompt drifted follows the history of its scope.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from crewai_prod.records import StepKind, StepRecord, StepStatus, TaskRecord, TaskStatus
from crewai_prod.required import settles
from crewai_prod.steps import Scope, lies_beside, lies_in, related, task_path, works_on

OnChange = Literal["stop", "rerun", "keep"]
CACHED = "cached"
"""The effect of a step that handed out what an earlier one had got. It is no sign that the run went
on: when CrewAI tries a task again, it is there before the call that had failed is made again."""


AGAIN = "again"
"""In the facts of a failure: the call was to be made again. Who finds it so does that, whoever else
has seen it."""


def decided_again(error: str | None) -> bool:
    """Whether a recorded failure is of a try that another one was to follow."""
    return error is not None and bool(json.loads(error).get(AGAIN))


class History:
    """The recorded steps of a run, this session's included, and which of them it has met.

    Not thread-safe: the run that owns it holds a lock.
    """

    def __init__(self, steps: Iterable[StepRecord]) -> None:
        self._steps: dict[str, StepRecord] = {}
        self._models: dict[str, list[str]] = defaultdict(list)
        self._unmet: dict[str, dict[str, None]] = {}
        self._last_seq: dict[str, int] = {}
        self._met: set[str] = set()
        self._anew: set[str] = set()
        for step in sorted(steps, key=lambda s: s.seq):
            self._put(step)
        for scope, models in self._models.items():
            self._unmet[scope] = dict.fromkeys(models)

    def add(self, step: StepRecord) -> None:
        """Take up a step of this session; it counts as met."""
        self._anew.discard(step.step_id)
        self._put(step)
        self._meet(step)

    def take(self, step_id: str) -> StepRecord | None:
        """The record of exactly this step, if there is one; it counts as met."""
        step = self._steps.get(step_id)
        if step is not None:
            self._meet(step)
        return step

    def get(self, step_id: str) -> StepRecord | None:
        """The record of exactly this step, if there is one; whether it was met is left alone."""
        return self._steps.get(step_id)

    def last_within(self, scope: str) -> StepRecord | None:
        """The step that was begun last within a scope, not beside its conversation."""
        told = [
            step
            for step in self.within(scope)
            if step.effect != CACHED and not step.direct and not lies_beside(step.scope)
        ]
        return max(told, key=lambda step: step.seq, default=None)

    def failed(self, step_id: str) -> bool:
        """Whether exactly this step is recorded as failed."""
        step = self._steps.get(step_id)
        return step is not None and step.status is StepStatus.FAILED

    def follow(self, scope: str, params: str) -> StepRecord | None:
        """The next model call of this scope that was recorded and not met, if it asked alike.

        Alike means the same model, tools and sampling: only the words of the prompt may drift. What
        was answered before a tool of this scope was called anew is no answer to what it gave now.
        """
        unmet = self._unmet.get(scope)
        if not unmet:
            return None  # nearly always
        waiting = map(self._steps.__getitem__, unmet)
        step = next((one for one in waiting if not self._is_stale(one)), None)
        if step is None or step.params != params:
            return None
        self._meet(step)
        return step

    def _is_stale(self, answer: StepRecord) -> bool:
        """Whether a tool that was called before this answer has been called anew after it."""
        return any(
            step.seq < answer.seq and step.epoch > answer.epoch
            for step in self._steps.values()
            if step.scope == answer.scope and step.kind is StepKind.TOOL
        )

    def redo(self, step_id: str) -> None:
        """Have a step tried anew, whatever came of it, and the steps in whose bodies it was made.

        A body that acts by itself is not run again: what it made is then out of reach.
        """
        step = self._steps.get(step_id)
        if step is None:
            return
        around = [one for one in self._steps.values() if lies_in(step.scope, _body(one))]
        if all(one.effect == "nested" for one in around):
            self._anew |= {step_id, *(one.step_id for one in around)}

    def to_redo(self, step_id: str) -> bool:
        """Whether exactly this step is to be tried anew."""
        return step_id in self._anew

    def rewind(self, scope: str) -> None:
        """Begin a scope and all within it again: nothing there has been met."""
        self._met -= {one for one in self._met if lies_in(self._steps[one].scope, scope)}
        for path in [path for path in self._models if lies_in(path, scope)]:
            self._unmet[path] = dict.fromkeys(self._models[path])

    def within(self, scope: str) -> list[StepRecord]:
        """The steps of a scope and all within it."""
        return [step for step in self._steps.values() if lies_in(step.scope, scope)]

    def called(self, scope: str) -> dict[str, bool]:
        """Tools that were called within a scope, as far as this session has come: is that enough?

        What an earlier session did later than that is on record, but has not happened yet. A call
        that was answered from the journal is not walked: what was called within it was.
        """
        calls = [step for step in self.within(scope) if step.kind is StepKind.TOOL]
        met = [step for step in calls if step.step_id in self._met]
        bodies = [Scope(path=step.scope).inside(step.name, step.step_id).path for step in met]
        within = [one for one in calls if any(lies_in(one.scope, body) for body in bodies)]
        found: dict[str, bool] = {}
        for step in (*met, *within):
            found[step.name] = found.get(step.name, False) or settles(step)
        return found

    def distrust(self, scope: str) -> None:
        """Have the last step of a scope tried anew if it is a model's answer.

        CrewAI could do nothing with it: to hand it over again would fail the task again. What was
        asked beside the conversation (to remember the answer, say) did not fail it.
        """
        last = self.last_within(scope)
        answered = last is not None and last.status is StepStatus.DONE
        if last is not None and answered and last.kind is StepKind.MODEL:
            self._steps[last.step_id] = last._replace(status=StepStatus.FAILED)
            self._anew.add(last.step_id)

    def forget(self, scope: str) -> None:
        """Let go of a scope that is finished and will not be entered again."""
        for one in [one for one, step in self._steps.items() if lies_in(step.scope, scope)]:
            self._met.discard(one)
            del self._steps[one]
        for path in [path for path in self._models if lies_in(path, scope)]:
            del self._models[path]
            self._unmet.pop(path, None)

    def went_on(self, step: StepRecord) -> bool:
        """Whether the run did anything in or around the step's scope after it.

        What happened in the step's own body happened before it failed; what is done beside a
        conversation may come before its next step as well as after it.
        """
        body = _body(step)

        def tells(scope: str) -> bool:
            if works_on(scope, step.scope):
                return not lies_beside(scope)
            if not related(scope, step.scope) or lies_in(scope, body):
                return False
            return not lies_beside(scope) or lies_in(step.scope, scope)

        return any(seq > step.seq and tells(scope) for scope, seq in self._last_seq.items())

    def _meet(self, step: StepRecord) -> None:
        self._met.add(step.step_id)
        unmet = self._unmet.get(step.scope)
        if unmet:
            unmet.pop(step.step_id, None)

    def _put(self, step: StepRecord) -> None:
        is_model = step.kind is StepKind.MODEL and not step.direct
        if step.step_id not in self._steps and is_model:
            self._models[step.scope].append(step.step_id)
        self._steps[step.step_id] = step
        if step.effect != CACHED:
            self._last_seq[step.scope] = max(step.seq, self._last_seq.get(step.scope, 0))


def _body(step: StepRecord) -> str:
    """The scope of what happened in a step's own body."""
    return Scope(path=step.scope).inside(step.name, step.step_id).path


class Verdict(Enum):
    """What a task's record says about executing it."""

    EXECUTE = auto()
    """Never finished, or never begun: walk it, answering recorded steps from the journal."""
    KEEP = auto()
    """Finished and unchanged, or its stored output is accepted: hand the output back."""
    AGAIN = auto()
    """Changed: execute it in a new generation, with no recorded step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDefinition:
    """A task of the crew as it is now: its fingerprint and the digests it is made of.

    `reads` are the positions of the tasks whose output it is given.
    """

    position: int
    name: str
    fingerprint: str
    parts: Mapping[str, str]
    reads: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPlan:
    """What to do with one task. `follow` allows drifted prompts to follow the history."""

    definition: TaskDefinition
    verdict: Verdict
    generation: int = 0
    record: TaskRecord | None = None
    follow: bool = True

    @property
    def path(self) -> str:
        """Of the scope in which it is executed."""
        return task_path(self.definition.position, self.generation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A task whose definition is not the recorded one, and the parts that differ."""

    task: str
    parts: tuple[str, ...]


def plan_tasks(
    definitions: Sequence[TaskDefinition], records: Iterable[TaskRecord], on_change: OnChange
) -> list[TaskPlan]:
    """Decide for each task of the crew whether it is kept, walked or executed again."""
    by_position = {record.position: record for record in records}
    return [_plan(d, by_position.get(d.position), on_change) for d in definitions]


def _plan(definition: TaskDefinition, record: TaskRecord | None, on_change: OnChange) -> TaskPlan:
    if record is None:
        return TaskPlan(definition=definition, verdict=Verdict.EXECUTE)
    same = record.fingerprint == definition.fingerprint
    if not same and on_change == "rerun":
        return TaskPlan(
            definition=definition,
            verdict=Verdict.AGAIN,
            generation=record.generation + 1,
            record=record,
        )
    verdict = Verdict.KEEP if record.status is TaskStatus.DONE else Verdict.EXECUTE
    return TaskPlan(
        definition=definition,
        verdict=verdict,
        generation=record.generation,
        record=record,
        follow=same,
    )


def changes(
    definitions: Sequence[TaskDefinition], records: Iterable[TaskRecord]
) -> tuple[Change, ...]:
    """The recorded tasks whose definition is another one now, and those that are gone."""
    by_position = {definition.position: definition for definition in definitions}
    found = []
    for record in sorted(records, key=lambda r: r.position):
        definition = by_position.get(record.position)
        if definition is None:
            found.append(Change(task=record.name, parts=("removed",)))
        elif definition.fingerprint != record.fingerprint:
            found.append(Change(task=record.name, parts=_different(record, definition)))
    return tuple(found)


def _different(record: TaskRecord, definition: TaskDefinition) -> tuple[str, ...]:
    before: dict[str, str] = json.loads(record.parts)
    names = sorted(before.keys() | definition.parts.keys())
    return tuple(name for name in names if before.get(name) != definition.parts.get(name))
