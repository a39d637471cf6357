"""The hardened flow: every kickoff becomes a run, or a part of the run it is made in."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from typing import Any

from crewai.flow.flow import Flow
from crewai.llms.base_llm import BaseLLM
from crewai.tools.base_tool import BaseTool
from crewai.types.usage_metrics import UsageMetrics

from crewai_prod import codec
from crewai_prod._crewai.build import Workshop
from crewai_prod._crewai.definition import define_flow
from crewai_prod._crewai.flow_run import FlowSeam, RunFlow
from crewai_prod._crewai.takeover import Seamed, give_back, put, put_private, seam_of, take_over
from crewai_prod.errors import UsageError
from crewai_prod.kickoff import Kickoff, place_around
from crewai_prod.options import Options
from crewai_prod.outcomes import UnknownPolicy
from crewai_prod.run import Run
from crewai_prod.session import inputs_digest
from crewai_prod.steps import digest

_KEPT = frozenset(
    {
        "_methods",
        "_event_futures",
        "_or_listeners_lock",
        "_usage_aggregation_handler",
        "_usage_metrics_lock",
        "stream",
    }
)
"""What belongs to the copy that worked, not to the user's flow."""


@dataclass(slots=True)
class FacadeSeam:
    """What a hardened flow knows.

    Attributes:
        began_with: The state of the flow when the first of the runs at work now began: those that
            begin beside it start from there, not from what another has made of it.
    """

    options: Options
    original: Any
    lock: threading.Lock = field(default_factory=threading.Lock)
    running: int = 0
    began_with: Any = None
    last_run: str | None = None


@dataclass(slots=True)
class _Holder:
    """Who shows what one kickoff of a hardened flow leaves."""

    facade: Any
    seam: FacadeSeam

    @property
    def last_run(self) -> str | None:
        return self.seam.last_run

    @last_run.setter
    def last_run(self, run_id: str | None) -> None:
        self.seam.last_run = run_id

    def show(self, flow: Any) -> None:
        with self.seam.lock:
            self.seam.running -= 1
            held = {name for name, value in flow.__dict__.items() if seam_of(value) is not None}
            for shown in (self.facade, self.seam.original):
                give_back(flow, shown, keep=_KEPT | held)


class HardenedFlow(Seamed):
    """A flow whose every kickoff is a durable run, and every method of it a step.

    `kickoff`, `kickoff_async` and `akickoff` take `run_id`, `on_change` and `unknown`, as those of
    a hardened crew do, and raise the same errors. A method that was finished is not executed again:
    its result and what it did to the state come from the journal. Crews, agents and tools used in a
    method belong to the run, so a method that was interrupted repeats nothing that they had done.
    """

    def kickoff(
        self,
        inputs: Any = None,
        *args: Any,
        run_id: str | None = None,
        on_change: str | None = None,
        unknown: UnknownPolicy | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run, resume, or return what the finished run returned."""
        asked = _Asked(run_id, on_change, unknown, inputs)
        return _working(self, asked).kickoff(inputs, *args, **kwargs)

    async def kickoff_async(
        self,
        inputs: Any = None,
        *args: Any,
        run_id: str | None = None,
        on_change: str | None = None,
        unknown: UnknownPolicy | None = None,
        **kwargs: Any,
    ) -> Any:
        """`kickoff` on the event loop; commits are made on worker threads."""
        asked = _Asked(run_id, on_change, unknown, inputs)
        working = await asyncio.to_thread(_working, self, asked)
        return await working.kickoff_async(inputs, *args, **kwargs)

    async def akickoff(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """The same as `kickoff_async`."""
        return await self.kickoff_async(inputs, *args, **kwargs)

    def resume(self, feedback: str = "", *, run_id: str | None = None) -> Any:
        """Answer the person's question that a run waits for, and go on.

        Args:
            feedback: The answer.
            run_id: The run; default: the one that this object made last.

        Raises:
            UsageError: There is no such run.
        """
        working, inputs = self._answered(feedback, run_id)
        return working.kickoff(inputs)

    async def resume_async(self, feedback: str = "", *, run_id: str | None = None) -> Any:
        """`resume` on the event loop."""
        working, inputs = await asyncio.to_thread(self._answered, feedback, run_id)
        return await working.kickoff_async(inputs)

    def _answered(self, feedback: str, run_id: str | None) -> tuple[Any, Any]:
        seam: FacadeSeam = seam_of(self)
        name = run_id or seam.last_run
        if name is None:
            raise UsageError("resume() needs the run_id of the kickoff that waits for an answer.")
        stored = seam.options.open_journal().run(name).inputs
        inputs = None if stored is None else codec.decode(stored)
        working = _working(self, _Asked(name, None, None, inputs))
        seam_of(working).feedback = feedback
        return working, inputs

    @property
    def last_run(self) -> str | None:
        """Id of the run that was made last on this object."""
        seam: FacadeSeam = seam_of(self)
        return seam.last_run


def harden_flow(flow: Any, options: Options) -> Any:
    """A hardened flow; the one given shows what its runs leave."""
    return take_over(flow, HardenedFlow, FacadeSeam(options, flow))


def harden_flow_class(kind: type[Flow[Any]], options: Options) -> type[Flow[Any]]:
    """A subclass whose instances are hardened flows; the class itself stays as it is."""

    def make(cls: Any, *args: Any, **kwargs: Any) -> Any:
        return harden_flow(super(meta, cls).__call__(*args, **kwargs), options)

    meta: Any = type("HardeningMeta", (type(kind),), {"__call__": make})
    names = ("__module__", "__qualname__", "__doc__")
    made: Any = meta(kind.__name__, (kind,), {n: getattr(kind, n) for n in names})
    made._flow_definition = kind.flow_definition()  # CrewAI reads a class's own methods only
    hardened: type[Flow[Any]] = made
    return hardened


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a kickoff was asked for."""

    run_id: str | None
    on_change: str | None
    unknown: UnknownPolicy | None
    inputs: Any


def _working(facade: Any, asked: _Asked) -> Any:
    """The copy of a hardened flow for one kickoff, not opened yet."""
    seam: FacadeSeam = seam_of(facade)
    working = _seam(facade, seam, asked)
    flow: Any = take_over(facade, RunFlow, working)
    with seam.lock:
        seam.running += 1
        if seam.running == 1:
            seam.began_with = facade._state
            facade_state = flow._copy_state()
        else:
            put_private(flow, _state=seam.began_with)
            facade_state = flow._copy_state()
    put_private(
        flow,
        _state=facade_state,
        _methods={},
        _method_outputs=[],
        _completed_methods=set(),
        _pending_events={},
        _fired_or_listeners=set(),
        _method_call_counts={},
        _method_execution_counts={},
        _racing_groups_cache=None,
        _event_futures=[],
        _usage_aggregation_handler=None,
        _aggregated_usage_metrics=UsageMetrics(),
        _or_listeners_lock=threading.Lock(),
        _usage_metrics_lock=threading.Lock(),
        _human_feedback_method_outputs={},
        _input_history=[],
    )
    flow._methods.update(_bound_methods(facade, flow))
    put(flow, human_feedback_history=[], last_human_feedback=None)
    _take_over_held(flow, working.workshop)
    return flow


def _bound_methods(facade: Any, flow: Any) -> dict[Any, Any]:
    """The flow's methods, bound to the copy; those of a declared flow are built for it."""
    owned = any(hasattr(method, "__self__") for method in facade._methods.values())
    made: dict[Any, Any] = flow._class_bound_methods() if owned else flow._action_bound_methods()
    return made


def _take_over_held(flow: Any, workshop: Workshop) -> None:
    """Models and tools that the user keeps on the flow."""
    for name, value in list(flow.__dict__.items()):
        if isinstance(value, BaseLLM):
            put(flow, **{name: workshop.llm(value)})
        elif isinstance(value, BaseTool):
            (taken,) = workshop.bench.take([value]) or [value]
            put(flow, **{name: taken})


def _seam(facade: Any, seam: FacadeSeam, asked: _Asked) -> FlowSeam:
    holder = _Holder(facade, seam)
    around = place_around()
    if around is not None and asked.run_id is None:
        run, place = around
        definition = define_flow(facade, inputs_digest(asked.inputs))
        meant = digest(codec.meaning([definition.fingerprint]))
        return FlowSeam(
            holder=holder,
            run=run,
            workshop=Workshop(run, seam.options.tools),
            nested=run.nest(place, definition.name, meant),
        )
    options = seam.options.for_kickoff(asked.on_change, asked.unknown)
    run = Run(options.open_journal(), options.tools)
    name = facade.name or type(seam.original).__name__
    return FlowSeam(
        holder=holder,
        run=run,
        workshop=Workshop(run, options.tools),
        kickoff=Kickoff(run=run, options=options, kind="flow", name=name, run_id=asked.run_id),
    )
