"""The copy of a crew that advances one run, or one kickoff within a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from crewai import CrewOutput
from crewai.utilities.llm_utils import create_llm
from crewai.utilities.planning_handler import CrewPlanner

from crewai_prod import codec
from crewai_prod._crewai.agents import in_kickoff
from crewai_prod._crewai.build import Workshop, give_back_crew, show_manager
from crewai_prod._crewai.definition import define
from crewai_prod._crewai.guarded_ends import admitted, released
from crewai_prod._crewai.outputs import decode_kickoff, decode_output, encode_kickoff
from crewai_prod._crewai.stop import unwrapped
from crewai_prod._crewai.takeover import Seamed, original_of, put, put_private, seam_of
from crewai_prod._crewai.usage import read_metrics
from crewai_prod.kickoff import Kickoff, whatever_happens, with_cause
from crewai_prod.records import Opened, Usage
from crewai_prod.run import Run
from crewai_prod.run_core import recorded_usage
from crewai_prod.session import inputs_digest
from crewai_prod.steps import Scope, digest
from crewai_prod.threads import in_thread


class Shop(Protocol):
    """Who holds the crew objects that show what a run leaves."""

    def shut(self, kickoff: NestedCrewSeam) -> None:
        """A kickoff has not begun: there is nothing to show."""
        ...

    def show(self, crew: Any, kickoff: NestedCrewSeam, run_id: str | None) -> None:
        """A kickoff has ended: let the user's objects show what it left on its copy."""
        ...

    def show_memory(self, memory: Any) -> None:
        """Let them show the memory CrewAI made for the crew."""
        ...


@dataclass(slots=True, kw_only=True, eq=False, weakref_slot=True)
class NestedCrewSeam:
    """A kickoff within a run: its steps belong to that run, and so does its bill.

    Attributes:
        shop: Who shows what it leaves.
        run: The run around it.
        workshop: What took over the crew's objects.
        scope: Where its steps are recorded.
        manager: The manager CrewAI made for it, to be shown to those who hold the crew.
        made: The crew's output before any after-kickoff callback.
    """

    shop: Shop
    run: Run
    workshop: Workshop
    scope: Scope
    manager: Any = None
    made: Any = None

    @property
    def usage(self) -> Usage:
        """What this kickoff has cost."""
        return self.run.usage_within(self.scope)

    @property
    def path(self) -> str | None:
        """Whose guards judge what goes in and comes out; None: the run's own."""
        return self.scope.path

    def open(self, crew: Any, inputs: Any, files: Any) -> Any:
        """Nothing is to be opened; the run around it must still be going on."""
        self.run.check()
        return None

    def admitted(self, inputs: Any) -> Any:
        """The inputs as guards let them pass.

        Raises:
            CrewProdError: They do not; the run is stopped.
        """
        return admitted(self.run, self.scope, self.path, inputs)

    def finished(self, crew: Any, result: Any) -> Any:
        """Hand the result over, unless the run was stopped."""
        self.workshop.caches.publish()
        self.show(crew)
        self.run.check()
        return self.released(crew, result)

    def released(self, crew: Any, result: Any) -> Any:
        """The result as guards let it pass; what they have cost is on its bill.

        Raises:
            CrewProdError: They do not; the run is stopped.
        """
        if not self.run.guarding.on:
            return result
        passed = released(self.run, self.scope, self.path, result)
        usage = crew.calculate_usage_metrics()
        if isinstance(passed, CrewOutput):
            passed.token_usage = usage
        return passed

    def ended(self, crew: Any, error: BaseException) -> BaseException:
        """What the caller of a kickoff that did not return is to see."""
        if self.run.opened:
            return self.failed(crew, error)
        self.shop.shut(self)
        return error

    def show(self, crew: Any) -> None:
        """Let the user's objects show what the kickoff left."""
        self.shop.show(crew, self, None)

    def failed(self, crew: Any, error: BaseException) -> BaseException:
        """What the code around is to see: the run's refusal if it was stopped, else the failure."""
        crew.calculate_usage_metrics()
        self.show(crew)
        if self.run.stopped is not None and isinstance(error, Exception):
            return self.run.stopped
        return error


@dataclass(slots=True, kw_only=True, eq=False)
class CrewSeam(NestedCrewSeam):
    """A kickoff that is a run of its own."""

    kickoff: Kickoff
    run_id: str | None = None

    @property
    def usage(self) -> Usage:
        """What the run has cost, all sessions together."""
        return self.run.usage

    @property
    def path(self) -> str | None:
        """The run's own guards."""
        return None

    def open(self, crew: Any, inputs: Any, files: Any) -> Any:
        """Open the run; returns the stored result of a finished one, else None."""
        given = {**(inputs or {}), "input_files": files} if files else inputs
        opened = self.kickoff.open(given, define(crew, inputs_digest(given)))
        self.run_id = opened.run.run_id
        self.workshop.caches.restore()
        return self._stored(crew, opened) if opened.lease is None else None

    def finished(self, crew: Any, result: Any) -> Any:
        """Record the run's end; only then is its result handed over."""
        if self.run.stopped is not None:
            raise self.failed(crew, self.run.stopped)
        try:
            result = self.released(crew, result)
            stored = encode_kickoff(result, self.made)
        except BaseException as error:  # noqa: BLE001 - recorded, then raised
            seen = with_cause(self.failed(crew, error), error)
            raise seen from seen.__cause__
        self.kickoff.complete(stored)
        if self.made is not None:  # an answer may have come late, and is on the bill
            self.made.token_usage = crew.calculate_usage_metrics()
        self.workshop.caches.publish()
        self.show(crew)
        return result

    def failed(self, crew: Any, error: BaseException) -> BaseException:
        """Record how the run ended; returns what the caller of `kickoff` is to see."""
        seen = self.kickoff.fail(error, [t.output for t in crew.tasks if t.output is not None])
        crew.calculate_usage_metrics()
        self.show(crew)
        return seen

    def show(self, crew: Any) -> None:
        """Let the user's objects show what the run left, and its id."""
        self.shop.show(crew, self, self.run_id)

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
        result = _result(crew, opened, talks, usage)
        self.show(crew)
        return result


def _result(crew: Any, opened: Opened, talks: Mapping[int, Any], usage: Usage) -> Any:
    conversations = [talks.get(position, []) for position in range(len(crew.tasks))]
    stored = opened.run.result or "{}"
    result, complete = decode_kickoff(stored, crew.tasks, usage, conversations)
    if not complete:
        for callback in crew.after_kickoff_callbacks:
            result = callback(result)
    return result


class RunCrew(Seamed):
    """The copy of a crew that advances one run."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_memory":  # CrewAI makes it again when the crew first emits an event
            seam: NestedCrewSeam = seam_of(self)
            seam.shop.show_memory(original_of(value))  # callbacks use it
            value = seam.workshop.memory(value)
        super().__setattr__(name, value)

    def _memory_llm(self) -> Any:
        """The user's own model: the memory CrewAI makes stays with the user's crew."""
        return original_of(super()._memory_llm())  # type: ignore[misc]

    def kickoff(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """`Crew.kickoff` within the run. With `stream`, CrewAI calls this again for the work."""
        if self.stream:  # type: ignore[attr-defined]
            return super().kickoff(inputs, *args, **kwargs)  # type: ignore[misc]
        seam: NestedCrewSeam = seam_of(self)
        failure: BaseException
        try:
            stored = seam.open(self, inputs, given_files(args, kwargs))
            if stored is not None:
                return stored
            inputs = seam.admitted(inputs)
            with in_kickoff(seam.run, seam.scope):
                result = super().kickoff(inputs, *args, **kwargs)  # type: ignore[misc]
        except BaseException as error:  # noqa: BLE001 - whatever ends a run is recorded, then raised
            failure = unwrapped(error)
        else:
            return seam.finished(self, result)
        raise with_cause(seam.ended(self, failure), failure)

    async def akickoff(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """`Crew.akickoff` within the run."""
        if self.stream:  # type: ignore[attr-defined]
            return await super().akickoff(inputs, *args, **kwargs)  # type: ignore[misc]
        seam: NestedCrewSeam = seam_of(self)
        failure: BaseException
        try:
            stored = await in_thread(seam.open, self, inputs, given_files(args, kwargs))
            if stored is not None:
                return stored
            if seam.run.guarding.on:
                inputs = await seam.run.guarding.in_thread(seam.admitted, inputs)
            with in_kickoff(seam.run, seam.scope):
                result = await super().akickoff(inputs, *args, **kwargs)  # type: ignore[misc]
        except BaseException as error:  # noqa: BLE001 - as in `kickoff`
            failure = unwrapped(error)
        else:
            return await seam.run.guarding.in_thread(seam.finished, self, result)
        raise with_cause(await whatever_happens(seam.ended, self, failure), failure)

    def calculate_usage_metrics(self) -> Any:
        """The true total, all sessions together."""
        usage = read_metrics(seam_of(self).usage)
        put(self, usage_metrics=usage)
        return usage

    def _create_crew_output(self, task_outputs: Any) -> Any:
        output = super()._create_crew_output(task_outputs)  # type: ignore[misc]
        seam_of(self).made = output
        return output

    def _create_manager_agent(self) -> None:
        seam: NestedCrewSeam = seam_of(self)
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
        seam: NestedCrewSeam = seam_of(self)
        planner = CrewPlanner(tasks=self.tasks, planning_agent_llm=self.planning_llm)  # type: ignore[attr-defined]
        llm = create_llm(planner.planning_agent_llm)
        put(self, planning_llm=seam.workshop.llm(llm))
        super()._handle_crew_planning()  # type: ignore[misc]


def given_files(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The input files among a kickoff's arguments."""
    return kwargs.get("input_files") or (args[0] if args else None)


def show(crew: Any, manager: Any, holders: tuple[Any, ...]) -> None:
    """Let crew objects show what a run left, as after a bare kickoff."""
    for held in holders:
        give_back_crew(crew, held)
        if manager is not None:
            show_manager(manager, held)


def show_memory(memory: Any, holders: tuple[Any, ...]) -> None:
    """Let crew objects show the memory CrewAI made for a run's copy."""
    for held in holders:
        put_private(held, _memory=memory)


def nested_scope(run: Run, around: Scope, crew: Any, inputs: Any) -> Scope:
    """Where the steps of a crew kicked off within a run are recorded."""
    asked = inputs_digest(inputs)
    meant = digest(codec.meaning([one.fingerprint for one in define(crew, asked)]))
    return run.nest(around, crew.name or "crew", meant)
