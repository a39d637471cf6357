"""The copy of a flow that advances one run, or one kickoff within a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson
from crewai.flow.async_feedback import ConsoleProvider, HumanFeedbackPending
from crewai.flow.human_feedback import _resolve_llm_instance

from crewai_prod._crewai.agents import in_kickoff
from crewai_prod._crewai.build import Workshop
from crewai_prod._crewai.definition import define_flow
from crewai_prod._crewai.flow_steps import (
    MethodStep,
    StateHistory,
    apply_changes,
    ask_person,
    begin_state,
    kinds_of,
    wait_for_person,
    whole_state,
)
from crewai_prod._crewai.guarded_ends import admitted, released
from crewai_prod._crewai.places import scope_of
from crewai_prod._crewai.stop import unwrapped
from crewai_prod._crewai.takeover import Seamed, put_private, seam_of
from crewai_prod._crewai.usage import read_metrics
from crewai_prod.approval import FEEDBACK, QUESTION
from crewai_prod.errors import RunPaused
from crewai_prod.kickoff import Kickoff, attach_finished, whatever_happens, with_cause
from crewai_prod.records import Usage
from crewai_prod.run import Run
from crewai_prod.session import inputs_digest
from crewai_prod.steps import Scope
from crewai_prod.stored import UNFAITHFUL, pack, unpack
from crewai_prod.threads import in_thread
from crewai_prod.walk import Ticket

_THE_FLOW = 0
"""A flow's run has one task: the flow."""


class Holder(Protocol):
    """Who holds the flow objects that show what a run leaves."""

    def shut(self, kickoff: FlowSeam) -> None:
        """A kickoff has not begun: there is nothing to show."""
        ...

    def show(self, flow: Any, kickoff: FlowSeam) -> None:
        """A kickoff has ended: let the user's objects show what it left on its copy."""
        ...

    def show_state(self, state: Any) -> None:
        """Let them show the state that the run goes on with."""
        ...


@dataclass(slots=True, kw_only=True, eq=False, weakref_slot=True)
class FlowSeam:
    """One kickoff of a hardened flow.

    Attributes:
        holder: Who shows what it leaves.
        run: The run.
        workshop: What takes over the models and tools the flow holds.
        nested: The scope of a kickoff that belongs to the run around it.
        kickoff: Otherwise what opens and ends the run.
        alone: No other run of this flow was at work when it began: the user's object shows its
            state while it is at work, as that of a bare flow does.
        feedback: What a person has answered to the question the run waits for.
        run_id: The run's, once it is opened.
        opened: A kickoff is at work: one that the flow makes of itself meanwhile is a part of it.
        ready: Set once the run's initial state has been restored or recorded.
        states: What its methods have done to its state.
    """

    holder: Holder
    run: Run
    workshop: Workshop
    nested: Scope | None = None
    kickoff: Kickoff | None = None
    alone: bool = False
    feedback: str | None = None
    run_id: str | None = None
    opened: bool = False
    ready: bool = False
    states: StateHistory = field(default_factory=StateHistory)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def scope(self) -> Scope:
        """Where the flow's steps are recorded."""
        return self.nested or self.run.scope_of_task(_THE_FLOW)

    @property
    def usage(self) -> Usage:
        """What this kickoff has cost, all sessions together."""
        return self.run.usage_within(self.scope)

    def open(self, flow: Any, inputs: Any) -> str | None:
        """Open the run; the stored result of a finished one, else None."""
        if self.kickoff is None:
            self.run.check()
            return None
        definitions = [define_flow(flow, inputs_digest(inputs))]
        opened = self.kickoff.open(inputs, definitions)
        self.run_id = opened.run.run_id
        if opened.lease is None:
            attach_finished(self.run, opened, self.kickoff.options, definitions)
            return opened.run.result or UNFAITHFUL
        self.run.begin_task(_THE_FLOW, None)
        return None

    def admitted(self, inputs: Any) -> Any:
        """The inputs as guards let them pass.

        Raises:
            CrewProdError: They do not; the run is stopped.
        """
        return admitted(self.run, self.scope, self._path, inputs)

    @property
    def _path(self) -> str | None:
        return None if self.nested is None else self.nested.path

    def finished(self, flow: Any, result: Any) -> Any:
        """Record the end; only then is the result handed over, as guards let it pass."""
        if self.run.replay_only is not None and self.kickoff is not None:
            self.show(flow)
            self.run.ended = True
            return result
        if self.kickoff is None:
            self.show(flow)
            self.run.check()
            return released(self.run, self.scope, self._path, result)
        if self.run.stopped is not None:
            raise self.failed(flow, self.run.stopped)
        if isinstance(result, HumanFeedbackPending):
            waiting = RunPaused("The flow waits for a person.", reason="approval")
            self.failed(flow, self.run.stop(waiting))
            return result
        try:
            result = released(self.run, self.scope, self._path, result)
            stored = encode_end(flow, result)
        except BaseException as error:  # noqa: BLE001 - recorded, then raised
            seen = with_cause(self.failed(flow, error), error)
            raise seen from seen.__cause__
        self.run.finish_task(_THE_FLOW, None, stored)
        self.kickoff.complete(stored)
        self.show(flow)
        return result

    def ended(self, flow: Any, error: BaseException) -> BaseException:
        """What the caller of a kickoff that did not return is to see."""
        if self.run.opened or self.run.replay_only is not None:
            return self.failed(flow, error)
        self.holder.shut(self)
        return error

    def failed(self, flow: Any, error: BaseException) -> BaseException:
        """Record how it ended; returns what the caller is to see."""
        self.show(flow)
        if self.kickoff is None:
            refused = isinstance(error, Exception) and self.run.stopped is not None
            return self.run.stopped or error if refused else error
        if self.run.replay_only is not None:
            self.run.ended = True
            return error
        if isinstance(error, Exception) and not isinstance(error, RunPaused):
            self.run.fail_task(_THE_FLOW, None, error, of_last_answer=False)
        return self.kickoff.fail(error)

    def show(self, flow: Any) -> None:
        """Let the user's flow show what the run left, its usage included."""
        put_private(flow, _aggregated_usage_metrics=read_metrics(self.usage))
        self.holder.show(flow, self)


class RunFlow(Seamed):
    """A flow of a hardened run."""

    async def kickoff_async(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """`Flow.kickoff_async` within the run; `kickoff` and `akickoff` come here, too.

        With `stream`, CrewAI calls this again for the work; a method may kick off its own flow.
        """
        seam: FlowSeam = seam_of(self)
        if self.stream or seam.opened:  # type: ignore[attr-defined]
            return await super().kickoff_async(inputs, *args, **kwargs)  # type: ignore[misc]
        seam.opened = True
        failure: BaseException
        try:
            stored = await in_thread(seam.open, self, inputs)
            if stored is not None and stored != UNFAITHFUL:
                return await in_thread(_handed_back, self, seam, stored)
            if seam.run.guarding.on:
                inputs = await seam.run.guarding.in_thread(seam.admitted, inputs)
            with in_kickoff(seam.run, seam.scope):
                result = await super().kickoff_async(inputs, *args, **kwargs)  # type: ignore[misc]
        except BaseException as error:  # noqa: BLE001 - whatever ends a run is recorded, then raised
            failure = unwrapped(error)
        else:
            return await seam.run.guarding.in_thread(seam.finished, self, result)
        finally:
            seam.opened = False
        raise with_cause(await whatever_happens(seam.ended, self, failure), failure)

    async def _execute_method(self, method_name: Any, method: Any, *args: Any, **kw: Any) -> Any:
        seam: FlowSeam = seam_of(self)
        async with seam.lock:
            if not seam.ready:
                await in_thread(begin_state, seam.run, seam.scope, self, seam.states)
                seam.ready = True
        # Not on a worker thread: methods that begin together begin in CrewAI's order.
        name = str(method_name)
        step = MethodStep.begin(seam.run, seam.scope, seam.states, self, name, method)
        run = super()._execute_method  # type: ignore[misc]
        return await run(method_name, step.callable(), *args, **kw)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        seam: FlowSeam | None = seam_of(self)
        if name == "_state" and seam is not None and seam.alone:
            seam.holder.show_state(value)

    def ask(self, message: str, timeout: float | None = None, metadata: Any = None) -> Any:
        """`Flow.ask`, once per run for one question."""
        seam: FlowSeam = seam_of(self)
        on_terminal: Callable[..., Any] = super().ask  # type: ignore[misc]
        question, run = {"message": message}, seam.run
        waits = isinstance(self._resolve_input_provider(), ConsoleProvider)  # type: ignore[attr-defined]

        def ask(ticket: Ticket) -> Any:
            if run.approving.terminal or not waits:
                return on_terminal(message, timeout, metadata)
            return wait_for_person(run, ticket, QUESTION, question, timeout)

        return ask_person(run, scope_of(run), "ask", question, ask)

    async def _run_human_feedback_step(self, method_name: Any, definition: Any, output: Any) -> Any:
        """A person's feedback, with the model that reads it behind its seam."""
        seam: FlowSeam = seam_of(self)
        if definition.emit or getattr(definition, "learn", False):
            llm = seam.workshop.llm(_resolve_llm_instance(definition.llm))
            if seam_of(llm) is not None:
                definition = definition.model_copy(update={"llm": llm})
        run = super()._run_human_feedback_step  # type: ignore[misc]
        return await run(method_name, definition, output)

    def _request_human_feedback(self, **kwargs: Any) -> Any:
        seam: FlowSeam = seam_of(self)
        on_terminal: Callable[..., Any] = super()._request_human_feedback  # type: ignore[misc]

        def ask(ticket: Ticket) -> Any:
            if seam.run.approving.terminal:
                return on_terminal(**kwargs)
            shown = {name: kwargs[name] for name in ("message", "output", "emit") if kwargs[name]}
            said = wait_for_person(seam.run, ticket, FEEDBACK, shown)
            return "rejected" if said is None else said

        return ask_about(seam, kwargs["method_name"], kwargs["message"], ask)

    def _resolve_feedback_provider(self, definition: Any) -> Any:
        provider = super()._resolve_feedback_provider(definition)  # type: ignore[misc]
        return None if provider is None else RecordedFeedback(seam_of(self), provider)

    @property
    def usage_metrics(self) -> Any:
        """The kickoff's true total, all sessions together."""
        return read_metrics(seam_of(self).usage)


def ask_about(seam: FlowSeam, method: str, message: str, ask: Callable[[Ticket], Any]) -> Any:
    """What a person says about what a method returned."""
    scope, question = seam.scope.of_method(str(method)), {"message": message}
    return ask_person(seam.run, scope, "human_feedback", question, ask)


@dataclass(frozen=True, slots=True)
class RecordedFeedback:
    """In front of a user's feedback provider: what a person answered is not asked again."""

    seam: FlowSeam
    provider: Any

    def request_feedback(self, context: Any, flow: Any) -> Any:
        """The recorded answer, the one given to `resume`, or the provider's.

        Raises:
            HumanFeedbackPending: The provider answers later; the run waits.
        """
        name, message = context.method_name, context.message
        return ask_about(self.seam, name, message, lambda _: self._answer(context, flow))

    def _answer(self, context: Any, flow: Any) -> Any:
        given, self.seam.feedback = self.seam.feedback, None
        if given is not None:
            return given
        answer = self.provider.request_feedback(context, flow)
        return asyncio.run(answer) if asyncio.iscoroutine(answer) else answer


def encode_end(flow: Any, result: Any) -> str:
    """What a flow's kickoff returned and the state it ended with, as JSON."""
    kinds = _kinds_of_end(flow)
    text, faithful = pack(result, kinds)
    if not faithful:
        return UNFAITHFUL
    return orjson.dumps({"result": text, "state": whole_state(flow, kinds)}).decode()


def _handed_back(flow: Any, seam: FlowSeam, stored: str) -> Any:
    """The result of a finished run, and on the user's flow the state it ended with."""
    kinds, end = _kinds_of_end(flow), orjson.loads(stored)
    apply_changes(flow._state, end["state"], kinds)
    seam.show(flow)
    seam.run.ended = True
    return unpack(end["result"], kinds)


def _kinds_of_end(flow: Any) -> dict[str, type]:
    """The classes that a flow's result may be of: what any of its methods can see."""
    found: dict[str, type] = {}
    for method in flow._methods.values():
        found |= kinds_of(flow, method)
    return found
