"""The copy of a crew that advances one run, or one kickoff within a run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from crewai.utilities.llm_utils import create_llm
from crewai.utilities.planning_handler import CrewPlanner

from crewai_prod import codec
from crewai_prod._crewai.agents import in_scope
from crewai_prod._crewai.build import Workshop, give_back_crew, show_manager
from crewai_prod._crewai.definition import define
from crewai_prod._crewai.llm import read_metrics
from crewai_prod._crewai.outputs import decode_kickoff, decode_output, encode_kickoff
from crewai_prod._crewai.stop import unwrapped
from crewai_prod._crewai.takeover import Seamed, put, put_private, seam_of
from crewai_prod.kickoff import Kickoff, with_cause
from crewai_prod.records import Opened, Usage
from crewai_prod.run import Run, recorded_usage
from crewai_prod.session import inputs_digest
from crewai_prod.steps import Scope, digest


class Shop(Protocol):
    """Who holds the crew objects that show what a run leaves."""

    last_run: str | None

    def show(self, crew: Any, manager: Any) -> None:
        """Let the user's objects show what the run left on its copy."""
        ...

    def show_memory(self, memory: Any) -> None:
        """Let them show the memory CrewAI made for the crew."""
        ...


@dataclass(slots=True, kw_only=True)
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

    def open(self, crew: Any, inputs: Any, files: Any) -> Any:
        """Nothing is to be opened; the run around it must still be going on.

        Raises:
            CrewProdError: It was stopped.
        """
        self.run.check()
        return None

    def finished(self, crew: Any, result: Any) -> Any:
        """Hand the result over, unless the run was stopped."""
        self.shop.show(crew, self.manager)
        self.run.check()
        return result

    def failed(self, crew: Any, error: BaseException) -> BaseException:
        """What the code around is to see: the run's refusal if it was stopped, else the failure."""
        self.shop.show(crew, self.manager)
        if self.run.stopped is not None and isinstance(error, Exception):
            return self.run.stopped
        return error


@dataclass(slots=True, kw_only=True)
class CrewSeam(NestedCrewSeam):
    """A kickoff that is a run of its own."""

    kickoff: Kickoff

    @property
    def usage(self) -> Usage:
        """What the run has cost, all sessions together."""
        return self.run.usage

    def open(self, crew: Any, inputs: Any, files: Any) -> Any:
        """Open the run; returns the stored result of a finished one, else None."""
        given = {**(inputs or {}), "input_files": files} if files else inputs
        opened = self.kickoff.open(given, define(crew, inputs_digest(given)))
        self.shop.last_run = opened.run.run_id
        return self._stored(crew, opened) if opened.lease is None else None

    def finished(self, crew: Any, result: Any) -> Any:
        """Record the run's end; only then is its result handed over."""
        if self.run.stopped is not None:
            raise self.failed(crew, self.run.stopped)
        self.kickoff.complete(encode_kickoff(result, self.made))
        self.shop.show(crew, self.manager)
        return result

    def failed(self, crew: Any, error: BaseException) -> BaseException:
        """Record how the run ended; returns what the caller of `kickoff` is to see."""
        seen = self.kickoff.fail(error, [t.output for t in crew.tasks if t.output is not None])
        self.shop.show(crew, self.manager)
        return seen

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
        self.shop.show(crew, self.manager)
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
        super().__setattr__(name, value)
        if name == "_memory":  # made when the crew first emits an event; callbacks use it
            seam: NestedCrewSeam = seam_of(self)
            seam.shop.show_memory(value)

    def kickoff(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """`Crew.kickoff` within the run. With `stream`, CrewAI calls this again for the work."""
        if self.stream:  # type: ignore[attr-defined]
            return super().kickoff(inputs, *args, **kwargs)  # type: ignore[misc]
        seam: NestedCrewSeam = seam_of(self)
        stored = seam.open(self, inputs, given_files(args, kwargs))
        if stored is not None:
            return stored
        failure: BaseException
        try:
            with in_scope(seam.run, seam.scope):
                result = super().kickoff(inputs, *args, **kwargs)  # type: ignore[misc]
        except BaseException as error:  # noqa: BLE001 - whatever ends a run is recorded, then raised
            failure = unwrapped(error)
        else:
            return seam.finished(self, result)
        raise with_cause(seam.failed(self, failure), failure)

    async def akickoff(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """`Crew.akickoff` within the run."""
        if self.stream:  # type: ignore[attr-defined]
            return await super().akickoff(inputs, *args, **kwargs)  # type: ignore[misc]
        seam: NestedCrewSeam = seam_of(self)
        stored = await asyncio.to_thread(seam.open, self, inputs, given_files(args, kwargs))
        if stored is not None:
            return stored
        failure: BaseException
        try:
            with in_scope(seam.run, seam.scope):
                result = await super().akickoff(inputs, *args, **kwargs)  # type: ignore[misc]
        except BaseException as error:  # noqa: BLE001 - as in `kickoff`
            failure = unwrapped(error)
        else:
            return await asyncio.to_thread(seam.finished, self, result)
        if isinstance(failure, Exception):
            seen = await asyncio.to_thread(seam.failed, self, failure)
        else:  # cancelled: nothing may be awaited any more
            seen = seam.failed(self, failure)
        raise with_cause(seen, failure)

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
