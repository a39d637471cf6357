"""The hardened flow: every kickoff becomes a run, or a part of the run it is made in."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from crewai.flow.flow import Flow
from crewai.llms.base_llm import BaseLLM
from crewai.tools.base_tool import BaseTool

from crewai_prod import codec
from crewai_prod._crewai.adoption import listen
from crewai_prod._crewai.asked import Asked
from crewai_prod._crewai.build import Workshop
from crewai_prod._crewai.cancellable import Cancellable
from crewai_prod._crewai.definition import define_flow
from crewai_prod._crewai.flow_run import FlowSeam, RunFlow
from crewai_prod._crewai.memory import is_memory
from crewai_prod._crewai.side_by_side import AtWork, undisturbed
from crewai_prod._crewai.takeover import (
    give_back,
    put,
    put_private,
    really_a,
    seam_of,
    take_over,
)
from crewai_prod.answering import approve
from crewai_prod.approval import FEEDBACK, QUESTION
from crewai_prod.errors import UsageError
from crewai_prod.kickoff import Kickoff, place_around
from crewai_prod.options import Options
from crewai_prod.outcomes import UnknownPolicy
from crewai_prod.run import Run
from crewai_prod.session import inputs_digest
from crewai_prod.steps import digest
from crewai_prod.terminating import SIGTERM
from crewai_prod.threads import in_thread

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
        began_with: A copy of the flow's state when the first of the runs at work now began. That
            one works on the state itself; those that begin beside it start from the copy.
    """

    options: Options
    original: Any
    at_work: AtWork = field(default_factory=AtWork)
    began_with: Any = None
    last_run: str | None = None


@dataclass(slots=True)
class _Holder:
    """Who shows what one kickoff of a hardened flow leaves."""

    facade: Any
    seam: FacadeSeam

    def shut(self, kickoff: FlowSeam) -> None:
        self.seam.at_work.end(kickoff)

    def show_state(self, state: Any) -> None:
        for shown in (self.facade, self.seam.original):
            put_private(shown, _state=state)

    def show(self, flow: Any, kickoff: FlowSeam) -> None:
        with undisturbed():
            self.seam.at_work.end(kickoff)
            self.seam.last_run = kickoff.run_id or self.seam.last_run
            held = {name for name, value in flow.__dict__.items() if seam_of(value) is not None}
            for shown in (self.facade, self.seam.original):
                give_back(flow, shown, keep=_KEPT | held)


class HardenedFlow(Cancellable):
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
        asked = Asked(run_id, on_change, unknown, inputs, args, kwargs)
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
        asked = Asked(run_id, on_change, unknown, inputs, args, kwargs)
        SIGTERM.heed(seam_of(self).options.settings)
        working = await in_thread(_working, self, asked)
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
        SIGTERM.heed(seam_of(self).options.settings)
        working, inputs = await in_thread(self._answered, feedback, run_id)
        return await working.kickoff_async(inputs)

    def _answered(self, feedback: str, run_id: str | None) -> tuple[Any, Any]:
        seam: FacadeSeam = seam_of(self)
        name = run_id or seam.last_run
        if name is None:
            raise UsageError("resume() needs the run_id of the kickoff that waits for an answer.")
        journal = seam.options.open_journal()
        asked = journal.approvals(name, status="open")
        open_ = [one for one in asked if one.kind in (FEEDBACK, QUESTION)]
        if open_:
            approve(open_[0].id, journal, note=feedback)
        stored = journal.run(name).inputs
        inputs = None if stored is None else codec.decode(stored)
        working = _working(self, Asked(name, None, None, inputs))
        seam_of(working).feedback = None if open_ else feedback
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


def _working(facade: Any, asked: Asked) -> Any:
    """The copy of a hardened flow for one kickoff, not opened yet."""
    listen()
    seam: FacadeSeam = seam_of(facade)
    working = _seam(facade, seam, asked)
    with undisturbed():
        working.alone = seam.at_work.begin(working)
        flow: Any = take_over(facade, RunFlow, working)
        if working.alone:
            seam.began_with = flow._copy_state()
        else:
            put_private(flow, _state=seam.began_with)
            put_private(flow, _state=flow._copy_state())
        again = asked.run_id is not None and seam.last_run is not None
        _reset(flow, None if again or not working.alone else facade)
    flow._methods.update(_bound_methods(facade, flow))
    _take_over_held(flow, working.workshop)
    return flow


_PROGRESS: dict[str, Any] = {
    "_method_outputs": list,
    "_completed_methods": set,
    "_pending_events": dict,
    "_fired_or_listeners": set,
    "_method_call_counts": dict,
    "_method_execution_counts": dict,
    "_human_feedback_method_outputs": dict,
    "_input_history": list,
}
"""Private names under which CrewAI keeps how far a flow has come, and what they hold."""


def _reset(flow: Any, goes_on_from: Any) -> None:
    """Make a copy of a flow ready to be kicked off.

    Args:
        flow: The copy.
        goes_on_from: The flow whose progress it takes over, for CrewAI to make of it what it does
            when a bare flow is kicked off again; None: it begins anew, because the journal says how
            far its run has come.
    """
    before = {} if goes_on_from is None else goes_on_from.__pydantic_private__
    progress = {name: made(before.get(name) or ()) for name, made in _PROGRESS.items()}
    put_private(
        flow,
        **progress,
        _methods={},
        _racing_groups_cache=None,
        _event_futures=[],
        _usage_aggregation_handler=None,
        _or_listeners_lock=threading.Lock(),
        _usage_metrics_lock=threading.Lock(),
    )
    if goes_on_from is None:
        put(flow, human_feedback_history=[], last_human_feedback=None)


def _bound_methods(facade: Any, flow: Any) -> dict[Any, Any]:
    """The flow's methods, bound to the copy; those of a declared flow are built for it."""
    owned = any(hasattr(method, "__self__") for method in facade._methods.values())
    if owned:
        made: dict[Any, Any] = flow._class_bound_methods()
        return made
    if "_tool_action_tools" in flow.__dict__:  # each build adds its own to the list
        put(flow, _tool_action_tools=[])
    return dict(flow._action_bound_methods())


def _take_over_held(flow: Any, workshop: Workshop) -> None:
    """Models, tools and memories that the user keeps on the flow."""
    for name, value in list(flow.__dict__.items()):
        if really_a(BaseLLM, value):
            put(flow, **{name: workshop.llm(value)})
        elif really_a(BaseTool, value):
            (taken,) = workshop.bench.take([value]) or [value]
            put(flow, **{name: taken})
        elif is_memory(value):
            put(flow, **{name: workshop.memory(value)})


def _seam(facade: Any, seam: FacadeSeam, asked: Asked) -> FlowSeam:
    holder = _Holder(facade, seam)
    around = place_around()
    if around is not None and asked.run_id is None:
        run, place = around
        definition = define_flow(facade, inputs_digest(asked.inputs))
        meant = digest(codec.meaning([definition.fingerprint]))
        nested = run.nest(place, definition.name, meant)
        run.braking.brakes.join(
            seam.options.budgets, of=f"flow/{definition.name}", path=nested.path
        )
        run.routing.join(seam.options.routes, nested.path)
        run.escalating.join(seam.options.escalation, nested.path)
        run.guarding.join(seam.options.guards, name=definition.name, path=nested.path)
        return FlowSeam(
            holder=holder, run=run, workshop=Workshop(run, seam.options.tools), nested=nested
        )
    options = seam.options.for_kickoff(asked.on_change, asked.unknown)
    run = Run(options.open_journal(), options.tools, options.retry)
    name = facade.name or type(seam.original).__name__
    return FlowSeam(
        holder=holder,
        run=run,
        workshop=Workshop(run, options.tools),
        kickoff=Kickoff(run=run, options=options, kind="flow", name=name, run_id=asked.run_id),
    )
