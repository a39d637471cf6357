"""The seam in front of a crew: the hardened crew, and the copy of it that advances one run."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import orjson
from crewai import Crew
from crewai.utilities.llm_utils import create_llm
from crewai.utilities.planning_handler import CrewPlanner

from crewai_prod._crewai.agents import in_scope
from crewai_prod._crewai.build import CREW_LLMS, Workshop, give_back_crew, show_manager
from crewai_prod._crewai.definition import define
from crewai_prod._crewai.failures import describe
from crewai_prod._crewai.llm import read_metrics
from crewai_prod._crewai.options import Options
from crewai_prod._crewai.outputs import decode_kickoff, decode_output, encode_kickoff
from crewai_prod._crewai.side_by_side import AtWork, undisturbed
from crewai_prod._crewai.stop import StopRun
from crewai_prod._crewai.takeover import Seamed, put, put_private, seam_of, take_over
from crewai_prod._crewai.threads import in_thread
from crewai_prod.errors import CrewProdError, JournalError, UsageError
from crewai_prod.outcomes import UnknownPolicy
from crewai_prod.records import Opened, RunStatus, Usage
from crewai_prod.run import Run, current_step, recorded_usage, status_of
from crewai_prod.session import RunRequest, inputs_digest, open_session
from crewai_prod.steps import Scope

_LANDING_SECONDS = 60.0
"""How long the end of a failed run waits for calls of other tasks that are being paid for."""
_LANDING_SECONDS_CANCELLED = 5.0
"""The same for a run that is cancelled: a tool's body on a thread cannot be, and may be acting."""


@dataclass(slots=True)
class CrewSeam:
    """What a hardened crew knows: how to run, how to be built anew, and who holds it.

    Attributes:
        build: Makes a fresh crew for each run; None to copy the hardened crew itself.
        held: The crew objects a user may hold besides the hardened one.
        built_with: The crew's fields as `build` left them, to tell what the user has set since.
        at_work: The kickoffs on this object that have not ended.
    """

    options: Options
    build: Callable[[], Crew] | None = None
    held: tuple[Crew, ...] = ()
    built_with: dict[str, Any] = field(default_factory=dict)
    at_work: AtWork = field(default_factory=AtWork)
    last_run: str | None = None


class HardenedCrew(Seamed):
    """A crew whose every kickoff is a durable run.

    `kickoff`, `kickoff_async` and `akickoff` take three more arguments:

    Args:
        run_id: Name of the run. An unknown one starts; a finished one returns the stored result
            without any call; a failed, interrupted or paused one resumes. None: one is made.
        on_change: `stop`, `rerun` or `keep`, for this kickoff.
        unknown: `pause`, `rerun`, `fail`, an `Outcome`, or outcomes by step id, for this kickoff.

    Raises:
        RunInUse: Another process or thread is advancing the run.
        RunMismatch: The run was started with other inputs.
        DefinitionChanged: The crew is not the one the run was started with.
        RunPaused: The run waits for a person.
        JournalError: The journal could not be opened, read or written.
    """

    def kickoff(
        self,
        inputs: dict[str, Any] | None = None,
        *args: Any,
        run_id: str | None = None,
        on_change: str | None = None,
        unknown: UnknownPolicy | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run, resume, or return what the finished run returned."""
        working = _working(self, run_id, on_change, unknown, args, kwargs)
        return working.kickoff(inputs, *args, **kwargs)

    async def kickoff_async(
        self,
        inputs: dict[str, Any] | None = None,
        *args: Any,
        run_id: str | None = None,
        on_change: str | None = None,
        unknown: UnknownPolicy | None = None,
        **kwargs: Any,
    ) -> Any:
        """`kickoff` on a worker thread."""
        working = await in_thread(_working, self, run_id, on_change, unknown, args, kwargs)
        return await working.kickoff_async(inputs, *args, **kwargs)

    async def akickoff(
        self,
        inputs: dict[str, Any] | None = None,
        *args: Any,
        run_id: str | None = None,
        on_change: str | None = None,
        unknown: UnknownPolicy | None = None,
        **kwargs: Any,
    ) -> Any:
        """`kickoff` on the event loop; commits are made on worker threads."""
        working = await in_thread(_working, self, run_id, on_change, unknown, args, kwargs)
        return await working.akickoff(inputs, *args, **kwargs)

    def copy(self) -> Any:
        """A hardened copy; CrewAI's own would be a bare crew."""
        return harden_crew(super().copy(), seam_of(self).options)  # type: ignore[misc]

    @property
    def last_run(self) -> str | None:
        """Id of the run that finished last on this object."""
        seam: CrewSeam = seam_of(self)
        return seam.last_run


@dataclass(slots=True, kw_only=True, eq=False, weakref_slot=True)
class RunSeam:
    """One run of a hardened crew."""

    facade: Any
    seam: CrewSeam
    run: Run
    workshop: Workshop
    options: Options
    run_id: str | None
    manager: Any = None
    """The manager CrewAI made for this run, to be shown to those who hold the crew."""
    made: Any = None
    """The crew's output before any after-kickoff callback."""
    opened: str | None = None
    """The run's id, once the journal has given this kickoff the run or its stored result."""

    def open(self, crew: Any, inputs: Any, files: Any) -> Any:
        """Open the run; returns the stored result of a finished one, else None."""
        given = {**(inputs or {}), "input_files": files} if files else inputs
        journal = self.run.journal
        request = RunRequest(
            run_id=self.run_id,
            kind="crew",
            name=crew.name,
            inputs=given,
            on_change=self.options.on_change,
            unknown=self.options.unknown,
            lease_seconds=self.options.settings.lease_seconds,
            open_log=lambda run_id: self.options.open_log(journal, run_id, crew.name),
        )
        opened = open_session(self.run, request, define(crew, inputs_digest(given)))
        self.opened = opened.run.run_id
        return self._stored(crew, opened) if opened.lease is None else None

    def _stored(self, crew: Any, opened: Opened) -> Any:
        journal, run_id = self.run.journal, opened.run.run_id
        talks = {
            task.position: journal.conversation(run_id, task.messages)
            for task in opened.tasks
            if task.messages
        }
        for record in opened.tasks:
            if record.position < len(crew.tasks) and record.output is not None:
                task = crew.tasks[record.position]
                talk = talks.get(record.position, [])
                put(task, output=decode_output(record.output, task, talk))
        usage = recorded_usage(journal.steps(run_id), journal.attempts(run_id))
        put(crew, usage_metrics=read_metrics(usage), token_usage=read_metrics(usage))
        result = self._result(crew, opened, talks, usage)
        self._show(crew)
        return result

    def _result(self, crew: Any, opened: Opened, talks: Mapping[int, Any], usage: Usage) -> Any:
        conversations = [talks.get(position, []) for position in range(len(crew.tasks))]
        stored = opened.run.result or "{}"
        result, complete = decode_kickoff(stored, crew.tasks, usage, conversations)
        if not complete:
            for callback in crew.after_kickoff_callbacks:
                result = callback(result)
        return result

    def finished(self, crew: Any, result: Any) -> Any:
        """Record the run's end; only then is its result handed over."""
        if self.run.stopped is not None:
            raise self.failed(crew, self.run.stopped)
        self.run.end(RunStatus.COMPLETED, result=encode_kickoff(result, self.made))
        self._show(crew)
        return result

    def failed(self, crew: Any, error: BaseException) -> BaseException:
        """Record how the run ended; returns what the caller of `kickoff` is to see."""
        seen: BaseException = error.error if isinstance(error, StopRun) else error
        if self.run.stopped is not None and isinstance(error, Exception):
            seen = self.run.stopped
        if isinstance(seen, CrewProdError):
            seen.outputs = tuple(t.output for t in crew.tasks if t.output is not None)
            seen.resume = seen.resume or f"kickoff(run_id={self.run.run_id!r})"
            facts = seen.facts()
        else:
            facts = describe(seen)
            seen.add_note(f"crewai-prod: resume with run_id={self.run.run_id!r}")
        self.run.land(_landing_seconds(error))
        self._record_end(seen, orjson.dumps(facts).decode())
        self._show(crew)
        return seen

    def shut(self, error: BaseException) -> BaseException:
        """Let go of a run that could not be opened; returns what the caller is to see."""
        self.seam.at_work.end(self)
        return error.with_traceback(error.__traceback__)

    def _record_end(self, error: BaseException, facts: str) -> None:
        """A run whose end cannot be recorded stays `running`, without an owner: it resumes."""
        with suppress(JournalError):
            self.run.end(status_of(error), error=facts)

    def _show(self, crew: Any) -> None:
        with undisturbed():
            self.seam.at_work.end(self)
            self.seam.last_run = self.opened
            for held in (self.facade, *self.seam.held):
                give_back_crew(crew, held)
                if self.manager is not None:
                    show_manager(self.manager, held)


class RunCrew(Seamed):
    """The copy of a crew that advances one run."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if (
            name == "_memory"
        ):  # CrewAI makes it when the crew first emits an event; callbacks use it
            seam: RunSeam = seam_of(self)
            for held in (seam.facade, *seam.seam.held):
                put_private(held, _memory=value)

    def kickoff(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """`Crew.kickoff` within the run. With `stream`, CrewAI calls this again for the work."""
        if self.stream:  # type: ignore[attr-defined]
            return super().kickoff(inputs, *args, **kwargs)  # type: ignore[misc]
        seam: RunSeam = seam_of(self)
        failure: BaseException
        try:
            stored = seam.open(self, inputs, _files(args, kwargs))
            if stored is not None:
                return stored
            with in_scope(seam.run, Scope()):
                result = super().kickoff(inputs, *args, **kwargs)  # type: ignore[misc]
        except BaseException as error:  # noqa: BLE001 - whatever ends a run is recorded, then raised
            failure = error
        else:
            return seam.finished(self, result)
        raise _seen(seam.failed(self, failure), failure) if seam.run.opened else seam.shut(failure)

    async def akickoff(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """`Crew.akickoff` within the run."""
        if self.stream:  # type: ignore[attr-defined]
            return await super().akickoff(inputs, *args, **kwargs)  # type: ignore[misc]
        seam: RunSeam = seam_of(self)
        failure: BaseException
        try:
            stored = await in_thread(seam.open, self, inputs, _files(args, kwargs))
            if stored is not None:
                return stored
            with in_scope(seam.run, Scope()):
                result = await super().akickoff(inputs, *args, **kwargs)  # type: ignore[misc]
        except BaseException as error:  # noqa: BLE001 - as in `kickoff`
            failure = error
        else:
            return await in_thread(seam.finished, self, result)
        if not seam.run.opened:
            raise seam.shut(failure)
        if isinstance(failure, (Exception, asyncio.CancelledError)):
            seen = await in_thread(seam.failed, self, failure)
        else:  # the loop itself is going down: nothing may be awaited any more
            seen = seam.failed(self, failure)
        raise _seen(seen, failure)

    def calculate_usage_metrics(self) -> Any:
        """The run's true total, all sessions together."""
        usage = read_metrics(seam_of(self).run.usage)
        put(self, usage_metrics=usage)
        return usage

    def _create_crew_output(self, task_outputs: Any) -> Any:
        output = super()._create_crew_output(task_outputs)  # type: ignore[misc]
        seam_of(self).made = output
        return output

    def _create_manager_agent(self) -> None:
        seam: RunSeam = seam_of(self)
        given = self.manager_agent  # type: ignore[attr-defined]
        if given is None:
            put(self, manager_llm=seam.workshop.llm(create_llm(self.manager_llm)))  # type: ignore[attr-defined]
        super()._create_manager_agent()  # type: ignore[misc]
        if given is None:
            seam.manager = self.manager_agent  # type: ignore[attr-defined]
            manager = seam.workshop.agent(seam.manager)
            manager.crew = self
            put(self, manager_agent=manager)

    def _handle_crew_planning(self) -> None:
        seam: RunSeam = seam_of(self)
        planner = CrewPlanner(tasks=self.tasks, planning_agent_llm=self.planning_llm)  # type: ignore[attr-defined]
        llm = create_llm(planner.planning_agent_llm)
        put(self, planning_llm=seam.workshop.llm(llm))
        super()._handle_crew_planning()  # type: ignore[misc]


def harden_crew(crew: Crew, options: Options, build: Callable[[], Crew] | None = None) -> Crew:
    """A hardened crew that shares its agents and tasks with the one given."""
    held = (crew, *seam_of(crew).held) if isinstance(crew, HardenedCrew) else (crew,)
    seam = CrewSeam(options, build, held, {k: _snapshot(v) for k, v in crew.__dict__.items()})
    return take_over(crew, HardenedCrew, seam)


def _working(
    facade: Any,
    run_id: str | None,
    on_change: str | None,
    unknown: UnknownPolicy | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """The copy of a hardened crew for one run, not opened yet."""
    checkpoint = kwargs.get("from_checkpoint") or (args[1] if len(args) > 1 else None)
    if checkpoint is not None and getattr(checkpoint, "restore_from", None):
        raise UsageError(
            "A hardened crew resumes from its journal: pass run_id, not from_checkpoint."
        )
    seam: CrewSeam = seam_of(facade)
    options = seam.options.for_kickoff(on_change, unknown)
    run = Run(options.open_journal())
    workshop = Workshop(run, options.tools)
    working = RunSeam(
        facade=facade,
        seam=seam,
        run=run,
        workshop=workshop,
        options=options,
        run_id=run_id or _nested_run_id(),
    )
    source = _source(facade, seam)
    with undisturbed():
        alone = seam.at_work.begin(working)
        crew = take_over(source, RunCrew, working)
        shown = facade.tasks if alone and len(facade.tasks) == len(crew.tasks) else None
        workshop.fill(crew, shown)
    if not alone:
        # CrewAI keeps input files and streams by these ids: runs side by side need their own.
        for one in (crew, *crew.tasks):
            put(one, id=uuid4())
    return crew


def _source(facade: Any, seam: CrewSeam) -> Any:
    """What to copy: the hardened crew, or one built anew with what the user has set since."""
    if seam.build is None:
        return facade
    crew: Any = seam.build()
    for name, value in facade.__dict__.items():
        untouched = name not in seam.built_with or _is_same(value, seam.built_with[name])
        if not untouched and name not in ("agents", "tasks", "id", *CREW_LLMS):
            put(crew, **{name: value})
    return crew


def _landing_seconds(error: BaseException) -> float:
    if isinstance(error, asyncio.CancelledError):
        return _LANDING_SECONDS_CANCELLED
    return _LANDING_SECONDS if isinstance(error, Exception) else 0.0


def _snapshot(value: Any) -> Any:
    """A value to compare with later; a list by its items: callbacks are appended to it.

    Kept itself, not its `id`: that is given to another object once this one is gone.
    """
    return list(value) if isinstance(value, list) else value


def _is_same(value: Any, before: Any) -> bool:
    if not isinstance(value, list) or not isinstance(before, list):
        return value is before
    return len(value) == len(before) and all(map(operator.is_, value, before))


def _nested_run_id() -> str | None:
    """A crew kicked off in a tool's body gets the same run id when that body runs again."""
    step = current_step()
    return f"{step.run_id}.{step.step_id}" if step is not None else None


def _files(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return kwargs.get("input_files") or (args[0] if args else None)


def _seen(seen: BaseException, error: BaseException) -> BaseException:
    """The exception to raise: the caller's own as it was, ours with what caused it."""
    if seen is error:
        return error.with_traceback(error.__traceback__)
    seen.__cause__ = seen.__cause__ or getattr(error, "__cause__", None)
    return seen
