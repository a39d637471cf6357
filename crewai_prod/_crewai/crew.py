"""The hardened crew: every kickoff becomes a run, or a part of the run it is made in."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from crewai import Crew

from crewai_prod._crewai import crew_run
from crewai_prod._crewai.adoption import listen
from crewai_prod._crewai.asked import Asked
from crewai_prod._crewai.asking import provided, provider_here
from crewai_prod._crewai.batch import BatchKickoffs
from crewai_prod._crewai.build import CREW_LLMS, Workshop
from crewai_prod._crewai.cancellable import Cancellable
from crewai_prod._crewai.crew_run import CrewSeam, NestedCrewSeam, RunCrew, nested_scope
from crewai_prod._crewai.definition import task_name
from crewai_prod._crewai.side_by_side import AtWork, undisturbed
from crewai_prod._crewai.takeover import put, seam_of, take_over
from crewai_prod.kickoff import Kickoff, place_around
from crewai_prod.options import Options
from crewai_prod.outcomes import UnknownPolicy
from crewai_prod.run import Run
from crewai_prod.steps import Scope
from crewai_prod.terminating import SIGTERM
from crewai_prod.threads import in_thread


@dataclass(slots=True)
class FacadeSeam:
    """What a hardened crew knows: how to run, how to be built anew, and who holds it.

    Attributes:
        build: Makes a fresh crew for each run; None to copy the hardened crew itself.
        held: The crew objects a user may hold besides the hardened one.
        built_with: The crew's fields as `build` left them, to tell what the user has set since.
        at_work: The kickoffs on this object that have not ended.
        asks: The human input provider that was set where the crew was hardened.
        one_of_many: Whether this crew is there for one item of a batch: the objects the user holds
            do not show its run.
    """

    options: Options
    build: Callable[[], Crew] | None = None
    held: tuple[Crew, ...] = ()
    built_with: dict[str, Any] = field(default_factory=dict)
    at_work: AtWork = field(default_factory=AtWork)
    asks: Any = field(default_factory=provider_here)
    last_run: str | None = None
    one_of_many: bool = False


@dataclass(slots=True)
class _Shop:
    """Who shows what one kickoff of a hardened crew leaves."""

    facade: Any
    seam: FacadeSeam

    def shut(self, kickoff: NestedCrewSeam) -> None:
        self.seam.at_work.end(kickoff)

    def show(self, crew: Any, kickoff: NestedCrewSeam, run_id: str | None) -> None:
        with undisturbed():
            self.seam.at_work.end(kickoff)
            self.seam.last_run = run_id or self.seam.last_run
            if self.seam.one_of_many:
                put(self.facade, usage_metrics=crew.usage_metrics)
                return
            crew_run.show(crew, kickoff.manager, (self.facade, *self.seam.held))

    def show_memory(self, memory: Any) -> None:
        crew_run.show_memory(memory, (self.facade, *self.seam.held))


class HardenedCrew(BatchKickoffs, Cancellable):
    """A crew whose every kickoff is a durable run.

    The batch methods are described in `BatchKickoffs`. `kickoff`, `kickoff_async` and `akickoff`
    take three more arguments:

    Args:
        run_id: Name of the run. An unknown one starts; a finished one returns the stored result
            without any call; a failed, interrupted or paused one resumes. None: one is made, unless
            the kickoff is made within a run (in the body of a tool, a step or a flow's method): it
            then belongs to that run.
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
        asked = Asked(run_id, on_change, unknown, inputs, args, kwargs)
        with provided(seam_of(self).asks):
            return _working(self, asked).kickoff(inputs, *args, **kwargs)

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
        asked = Asked(run_id, on_change, unknown, inputs, args, kwargs)
        SIGTERM.heed(seam_of(self).options.settings)
        working = await in_thread(_working, self, asked)
        with provided(seam_of(self).asks):
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
        asked = Asked(run_id, on_change, unknown, inputs, args, kwargs)
        SIGTERM.heed(seam_of(self).options.settings)
        working = await in_thread(_working, self, asked)
        with provided(seam_of(self).asks):
            return await working.akickoff(inputs, *args, **kwargs)

    def copy(self) -> Any:
        """A hardened copy; CrewAI's own would be a bare crew."""
        return harden_crew(super().copy(), seam_of(self).options)  # type: ignore[misc]

    def _one_of_many(self) -> Any:
        """This crew for one item of a batch: run by itself, and shown nowhere but on itself."""
        seam = replace(
            seam_of(self),
            held=(),
            at_work=AtWork(),
            last_run=None,
            one_of_many=True,
        )
        crew = take_over(self, HardenedCrew, seam)
        put(crew, usage_metrics=None, token_usage=None)
        return crew

    @property
    def last_run(self) -> str | None:
        """Id of the run that finished last on this object."""
        seam: FacadeSeam = seam_of(self)
        return seam.last_run


def harden_crew(crew: Crew, options: Options, build: Callable[[], Crew] | None = None) -> Crew:
    """A hardened crew that shares its agents and tasks with the one given."""
    held = (crew, *seam_of(crew).held) if isinstance(crew, HardenedCrew) else (crew,)
    seam = FacadeSeam(options, build, held, {k: _snapshot(v) for k, v in crew.__dict__.items()})
    return take_over(crew, HardenedCrew, seam)


def _working(facade: Any, asked: Asked) -> Any:
    """The copy of a hardened crew for one kickoff, not opened yet."""
    listen()
    seam: FacadeSeam = seam_of(facade)
    source = _source(facade, seam)
    around = place_around()
    if around is not None and asked.run_id is None:
        working = _within(around[0], around[1], source, _Shop(facade, seam), asked)
    else:
        working = _alone(source, _Shop(facade, seam), asked)
    with undisturbed():
        alone = seam.at_work.begin(working) and not seam.one_of_many
        crew = take_over(source, RunCrew, working)
        shown = facade.tasks if alone and len(facade.tasks) == len(crew.tasks) else None
        working.workshop.fill(crew, shown)
    if not alone:
        # CrewAI keeps input files and streams by these ids: runs side by side need their own.
        for one in (crew, *crew.tasks):
            put(one, id=uuid4())
    return crew


def _alone(crew: Any, shop: _Shop, asked: Asked) -> CrewSeam:
    """A kickoff that is a run."""
    options = shop.seam.options.for_kickoff(asked.on_change, asked.unknown)
    run = Run(options.open_journal(), options.tools, options.retry)
    return CrewSeam(
        shop=shop,
        run=run,
        workshop=Workshop(run, options.tools),
        scope=Scope(),
        kickoff=Kickoff(run=run, options=options, kind="crew", name=crew.name, run_id=asked.run_id),
    )


def _within(run: Run, around: Scope, crew: Any, shop: _Shop, asked: Asked) -> NestedCrewSeam:
    """A kickoff that belongs to the run it is made in."""
    files = crew_run.given_files(asked.args, asked.kwargs)
    run.approving.outputs = {**shop.seam.options.approvals, **run.approving.outputs}
    scope = nested_scope(run, around, crew, [asked.inputs, files])
    if shop.seam.options.budgets:
        names = [task_name(task, position) for position, task in enumerate(crew.tasks)]
        run.braking.brakes.join(
            shop.seam.options.budgets,
            of=f"crew/{crew.name or ''}",
            path=scope.path,
            tasks={name: f"{scope.path}/tasks/{n}" for n, name in enumerate(names)},
        )
    run.routing.join(shop.seam.options.routes, scope.path)
    run.escalating.join(shop.seam.options.escalation, scope.path)
    run.guarding.join(shop.seam.options.guards, name=crew.name, path=scope.path)
    workshop = Workshop(run, shop.seam.options.tools, scope)
    return NestedCrewSeam(shop=shop, run=run, workshop=workshop, scope=scope)


def _source(facade: Any, seam: FacadeSeam) -> Any:
    """What to copy: the hardened crew, or one built anew with what the user has set since."""
    if seam.build is None:
        return facade
    crew: Any = seam.build()
    for name, value in facade.__dict__.items():
        untouched = name not in seam.built_with or _is_same(value, seam.built_with[name])
        if not untouched and name not in ("agents", "tasks", "id", *CREW_LLMS):
            put(crew, **{name: value})
    return crew


def _snapshot(value: Any) -> Any:
    """A value to compare with later; a list by its items: callbacks are appended to it.

    Kept itself, not its `id`: that is given to another object once this one is gone.
    """
    return list(value) if isinstance(value, list) else value


def _is_same(value: Any, before: Any) -> bool:
    if not isinstance(value, list) or not isinstance(before, list):
        return value is before
    return len(value) == len(before) and all(map(operator.is_, value, before))
