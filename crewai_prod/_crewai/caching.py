"""The seam in front of CrewAI's cache of tool results: a resumed run sees the same hits.

A hit is a tool that was not called, so nothing of it would be recorded: a resumed run, whose
process begins with an empty cache, would call the tool after all. Three rules make it the same:

- A hit is a step, replayed like any other.
- What a finished task put into the cache is stored with it, and is there again on resume.
- A run's own results are handed to the cache that the user's crew keeps when the run is completed.
  Until then no other run sees them, nor does its own next session before their time. Those of a
  crew that is kicked off within a run are handed over when that kickoff ends, for its next one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson
from crewai.agents.cache.cache_handler import CacheHandler

from crewai_prod._crewai.places import scope_of
from crewai_prod._crewai.stop import is_tool_failure
from crewai_prod._crewai.takeover import Seamed, original_of, seam_of, take_over
from crewai_prod._crewai.tool_results import decode_result, encode_result, revived, told
from crewai_prod.errors import CrewProdError
from crewai_prod.looping import LookedUp, looked_up
from crewai_prod.records import StepKind, StepStatus, TaskRecord
from crewai_prod.replay import CACHED, Verdict
from crewai_prod.run import Run
from crewai_prod.tooling import ToolOptions

_HIT = ToolOptions(effect="read")
_HIDDEN_HIT = ToolOptions(effect="read", sensitive=frozenset({"input"}))
_STORED = "cached"

Call = tuple[str, str]
"""A tool's name and its input, as CrewAI writes them."""


@dataclass(slots=True)
class CacheSeam:
    """One cache in one run.

    Attributes:
        run: The run.
        polls: Whether a tool is one whose every call is to be made.
        own: What the run has put in.
        by_task: The calls of each task among these.
    """

    run: Run
    polls: Callable[[str], bool]
    own: dict[Call, Any] = field(default_factory=dict)
    by_task: dict[int | None, list[Call]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, call: Call, result: Any) -> None:
        """Keep a result for the rest of the run."""
        with self.lock:
            self.own[call] = result
            calls = self.by_task.setdefault(scope_of(self.run).task, [])
            if call not in calls:
                calls.append(call)


class RunCache(Seamed):
    """A cache of a hardened run."""

    def add(self, tool: str, input: str, output: Any) -> None:
        """Keep a result, unless it is a failure."""
        if not is_tool_failure(output):
            seam_of(self).put((tool, input), output)

    def read(self, tool: str, input: str) -> Any:
        """What is kept of this call, or was when it was made first; None if nothing is.

        In a run that was stopped nothing is: the tool itself then refuses.
        """
        seam: CacheSeam = seam_of(self)
        if seam.polls(tool):
            return None
        try:
            return _read(seam, original_of(self), (tool, input))
        except CrewProdError:
            return None


def _read(seam: CacheSeam, shared: CacheHandler, call: Call) -> Any:
    run, scope = seam.run, scope_of(seam.run)
    looked_up.set(LookedUp(scope.path, *call))
    ticket = run.begin_tool(
        scope, f"cached {call[0]}", {"input": call[1]}, _hit(run), StepKind.FUNCTION
    )
    ticket.effect = CACHED
    known = call in seam.own
    if ticket.recorded is not None:
        run.looping.met_again(scope, *call, ticket.recorded)
        if ticket.recorded.status is StepStatus.FAILED:  # it was one of a loop
            return told(revived(orjson.loads(ticket.recorded.error or "{}")))
        value = decode_result(ticket.recorded.result or "null")
    else:
        value = seam.own[call] if known else shared.read(tool=call[0], input=call[1])
        if value is None:
            run.withdraw(ticket)
            return None
        result, text = encode_result(value)
        in_a_loop = run.looping.repeated(scope, *call, result)
        if in_a_loop is not None:
            run.fail_tool(ticket, in_a_loop)
            return told(revived(in_a_loop))
        run.finish_tool(ticket, result, text)
    run.paging.note(encode_result(value)[0], ticket.step_id)
    if not known:  # a later task of the run is to see it too, in whichever process
        seam.put(call, value)
    return value


def _hit(run: Run) -> ToolOptions:
    """A call's arguments are one text here, not to be shown where one may be sensitive."""
    return _HIDDEN_HIT if any(tool.sensitive for tool in run.tools.values()) else _HIT


class Caches:
    """The caches of one run, in the order in which they were taken over."""

    def __init__(self, run: Run, polls: Callable[[str], bool]) -> None:
        self._run = run
        self._polls = polls
        self._taken: list[Any] = []

    def take(self, cache: Any) -> Any:
        """A cache behind its seam; None and what is behind one already as they are."""
        if not isinstance(cache, CacheHandler) or isinstance(cache, RunCache):
            return cache
        for taken in self._taken:
            if original_of(taken) is cache:
                return taken
        taken = take_over(cache, RunCache, CacheSeam(self._run, self._polls))
        self._taken.append(taken)
        return taken

    def of_task(self, position: int) -> list[Any]:
        """What a finished task has put in, as it is stored with the task."""
        return [
            [number, *call, _stored(self._run, seam.own[call])]
            for number, seam in enumerate(map(seam_of, self._taken))
            for call in seam.by_task.get(position, ())
        ]

    def restore(self) -> None:
        """Put in what finished tasks of earlier sessions have put in."""
        kept = [entry for record in _kept(self._run) for entry in _of_record(record)]
        said = _results_of(self._run, {stored["step"] for *_, stored in kept if "step" in stored})
        for number, tool, given, stored in kept:
            if number < len(self._taken):
                result = stored.get("value") or said.get(stored.get("step"), "null")
                seam_of(self._taken[number]).own[tool, given] = decode_result(result)

    def publish(self) -> None:
        """The run is completed: what it has cached is there for the ones after it."""
        for taken in self._taken:
            for call, value in seam_of(taken).own.items():
                original_of(taken).add(tool=call[0], input=call[1], output=value)


def _kept(run: Run) -> list[TaskRecord]:
    plans = [plan for plan in run.plans.values() if plan.verdict is Verdict.KEEP]
    return [plan.record for plan in plans if plan.record is not None]


def _of_record(record: TaskRecord) -> Iterable[Any]:
    return orjson.loads(record.output or "{}").get(_STORED) or ()


def _results_of(run: Run, wanted: set[str]) -> dict[str | None, str]:
    """Results of steps, as JSON. A resumed run does not hold those of finished tasks."""
    if not wanted:
        return {}
    steps = run.journal.steps(run.run_id)
    return {step.step_id: step.result or "null" for step in steps if step.step_id in wanted}


def _stored(run: Run, value: Any) -> dict[str, str]:
    """A result as it is stored with a task: where it stands already, else itself."""
    result, text = encode_result(value)
    step = run.step_that_said(text)
    return {"value": result} if step is None else {"step": step}
