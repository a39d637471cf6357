"""A flow's methods as steps: what each returned, and what it did to the flow's state.

A method is known by its name and by how often it was executed in this run, not by what it is given:
which of several triggers came first may differ from session to session, and history wins. A method
whose result or state cannot be restored from JSON is called again on resume; what is hardened in it
is answered from the journal.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from crewai import CrewOutput
from crewai.flow.human_feedback import HumanFeedbackResult
from crewai.lite_agent_output import LiteAgentOutput
from crewai.tasks.task_output import TaskOutput
from pydantic import BaseModel

from crewai_prod import codec
from crewai_prod._crewai.answers import as_text
from crewai_prod.approval import Approval
from crewai_prod.bodies import in_body
from crewai_prod.failures import describe
from crewai_prod.records import StepKind, StepRecord, StepStatus
from crewai_prod.run import Run
from crewai_prod.steps import Scope
from crewai_prod.stored import UNFAITHFUL, Kinds, kinds_of_model, kinds_seen_by, pack, unpack
from crewai_prod.threads import in_thread
from crewai_prod.tooling import ToolOptions
from crewai_prod.walk import Ticket

_METHOD = ToolOptions(effect="nested")
_ASKING = ToolOptions(effect="read")
_STATE = "state"
_SHORTEST = 0.001
"""Seconds that an answer is waited for at least."""
_CREWAIS = {
    kind.__qualname__: kind
    for kind in (CrewOutput, HumanFeedbackResult, LiteAgentOutput, TaskOutput)
}
"""What methods return that kick off crews and agents, or ask a person."""


@dataclass(slots=True)
class StateBefore:
    """A flow's state at one moment, member by member, to tell what has changed since."""

    members: dict[str, str]

    @classmethod
    def of(cls, state: Any, kinds: Kinds) -> StateBefore:
        return cls({name: pack(value, kinds)[0] for name, value in _members(state).items()})

    def changes(self, state: Any, kinds: Kinds) -> tuple[dict[str, Any], list[str]]:
        """The members that are others now, as JSON text, and which of them cannot be restored."""
        now = _members(state)
        packed = {name: pack(value, kinds) for name, value in now.items()}
        changed = {n: one for n, one in packed.items() if one[0] != self.members.get(n)}
        texts = {name: text for name, (text, _) in changed.items()}
        gone = sorted(self.members.keys() - now.keys())
        lost = sorted(name for name, (_, faithful) in changed.items() if not faithful)
        return {"set": texts, "gone": gone}, lost


def apply_changes(state: Any, changes: Mapping[str, Any], kinds: Kinds) -> None:
    """Do to a state what a recorded method did to it."""
    for name, text in changes["set"].items():
        value = unpack(text, kinds)
        if isinstance(state, dict):
            state[name] = value
        else:
            setattr(state, name, value)
    for name in changes["gone"]:
        if isinstance(state, dict):
            state.pop(name, None)


class StateHistory:
    """The order in which the methods of a flow have changed its state, and what is done of it.

    Methods that run side by side are replayed in whatever order threads take; each member of the
    state must end as the one that ended last has left it, and a method that is executed for the
    first time must find what all the recorded ones have done.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recorded: list[Mapping[str, Any]] = []
        self._order = 0
        self._done: dict[str, int] = {}

    def read(self, steps: Iterable[StepRecord], scope: Scope) -> None:
        """Take up what earlier sessions have recorded of the flow's methods."""
        found = [orjson.loads(s.result) for s in steps if s.result and _is_method(s, scope)]
        self._recorded = sorted((one for one in found if "order" in one), key=lambda r: r["order"])
        self._order = max((one["order"] for one in self._recorded), default=0)

    def replay(self, flow: Any, recorded: Mapping[str, Any], kinds: Kinds) -> None:
        """Do what a recorded method did, as far as no later one has done it over."""
        with self._lock:
            self._apply(flow, recorded, kinds)

    def catch_up(self, flow: Any, kinds: Kinds) -> StateBefore:
        """Do all that is recorded; returns the state that a new method finds."""
        with self._lock:
            for recorded in self._recorded:
                self._apply(flow, recorded, kinds)
            self._recorded = []
            return StateBefore.of(flow._state, kinds)

    def changes(
        self, flow: Any, before: StateBefore, kinds: Kinds
    ) -> tuple[dict[str, Any], int, list[str]]:
        """What a method that ends here has changed, its place in the order, what is lost of it."""
        with self._lock:
            changed, lost = before.changes(flow._state, kinds)
            self._order += 1
            for name in (*changed["set"], *changed["gone"]):
                self._done[name] = self._order
            return changed, self._order, lost

    def _apply(self, flow: Any, recorded: Mapping[str, Any], kinds: Kinds) -> None:
        order, state = recorded["order"], recorded["state"]

        def due(name: str) -> bool:
            return self._done.get(name, 0) <= int(order)

        texts = {name: text for name, text in state["set"].items() if due(name)}
        gone = [name for name in state["gone"] if due(name)]
        apply_changes(flow._state, {"set": texts, "gone": gone}, kinds)
        self._done |= dict.fromkeys((*texts, *gone), order)


def _is_method(step: StepRecord, scope: Scope) -> bool:
    done = step.kind is StepKind.FUNCTION and step.status is StepStatus.DONE
    return done and step.scope == scope.of_method(step.name).path


def _members(state: Any) -> dict[str, Any]:
    if isinstance(state, dict):
        return state
    return {**state.__dict__, **(getattr(state, "__pydantic_extra__", None) or {})}


def kinds_of(flow: Any, method: Callable[..., Any]) -> dict[str, type]:
    """The classes that a method's result and the flow's state may hold."""
    state = flow._state
    of_state = kinds_of_model(type(state)) if isinstance(state, BaseModel) else {}
    return {**_CREWAIS, **kinds_seen_by(method), **of_state}


@dataclass(slots=True, kw_only=True)
class MethodStep:
    """One execution of a flow's method."""

    run: Run
    ticket: Ticket
    flow: Any
    method: Callable[..., Any]
    kinds: Kinds
    states: StateHistory
    before: StateBefore | None = None

    @classmethod
    def begin(
        cls, run: Run, scope: Scope, states: StateHistory, flow: Any, name: str, method: Any
    ) -> MethodStep:
        """Look it up.

        Raises:
            CrewProdError: The run was stopped.
        """
        place = scope.of_method(name)
        ticket = run.begin_tool(place, name, {}, _METHOD, StepKind.FUNCTION)
        kinds = kinds_of(flow, flow._methods.get(name, method))
        return cls(run=run, ticket=ticket, flow=flow, method=method, kinds=kinds, states=states)

    @property
    def recorded(self) -> dict[str, Any] | None:
        """What it returned and did, if that is in the journal and can be restored."""
        record = self.ticket.recorded
        if record is None or record.status is not StepStatus.DONE or record.result == UNFAITHFUL:
            return None
        found: dict[str, Any] = orjson.loads(record.result or "{}")
        return found

    def callable(self) -> Callable[..., Any]:
        """What CrewAI is to execute in the method's place."""
        recorded = self.recorded
        if recorded is not None:
            return functools.partial(self._replay, recorded)
        if inspect.iscoroutinefunction(self.method):

            async def live_async(*args: Any, **kwargs: Any) -> Any:
                return await self._alive(lambda: self.method(*args, **kwargs))

            return live_async
        return self._live

    def _replay(self, recorded: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        self.states.replay(self.flow, recorded, self.kinds)
        return unpack(recorded["result"], self.kinds)

    def _live(self, *args: Any, **kwargs: Any) -> Any:
        """On a worker thread; a method may also return a coroutine, which CrewAI awaits."""
        self._look()
        with self.run.in_flight():
            try:
                with in_body(self.run, self.ticket):
                    result = self.method(*args, **kwargs)
            except Exception as error:
                self._failed(error)
                raise
            if not inspect.iscoroutine(result):
                return self._finish(result)
        return self._alive(lambda: result)

    async def _alive(self, work: Callable[[], Awaitable[Any]]) -> Any:
        if self.before is None:
            await in_thread(self._look)
        with self.run.in_flight():
            try:
                with in_body(self.run, self.ticket):
                    result = await work()
            except Exception as error:
                await in_thread(self._failed, error)
                raise
            return await in_thread(self._finish, result)

    def _look(self) -> None:
        """Note the state it finds. Called again, it finds what it found then."""
        if self.ticket.recorded is None:
            self.before = self.states.catch_up(self.flow, self.kinds)
        else:
            self.before = StateBefore({})

    def _finish(self, result: Any) -> Any:
        """Commit what it returned and did; only then does the flow go on."""
        if self.ticket.recorded is not None:  # called again, because it could not be restored
            return result
        text, faithful = pack(result, self.kinds)
        assert self.before is not None
        changed, order, lost = self.states.changes(self.flow, self.before, self.kinds)
        stored = orjson.dumps({"result": text, "state": changed, "order": order}).decode()
        if not faithful:
            self.run.note_unfaithful(self.ticket, f"returned a {type(result).__qualname__}")
        elif lost:
            self.run.note_unfaithful(self.ticket, f"changed the state's {', '.join(lost)}")
        stored = stored if faithful and not lost else UNFAITHFUL
        self.run.finish_tool(self.ticket, stored, None)
        return result

    def _failed(self, error: Exception) -> None:
        """Record the failure. A method that failed ends its flow: resuming calls it again."""
        if not self.run.refused(error) and self.ticket.recorded is None:
            self.run.fail_tool(self.ticket, describe(error))


def begin_state(run: Run, scope: Scope, flow: Any, states: StateHistory) -> None:
    """Restore the state the run began with, or record it before the first method is executed.

    Persistence may hold a later one by now, and a new object has a new id.
    """
    states.read(run.recorded(scope), scope)
    ticket = run.begin_tool(scope, _STATE, {}, _METHOD, StepKind.FUNCTION)
    kinds = kinds_of(flow, begin_state)
    if ticket.recorded is not None:
        recorded = orjson.loads(ticket.recorded.result or "{}")
        later = sorted(_members(flow._state).keys() - set(recorded["members"]))
        apply_changes(flow._state, {"set": recorded["set"], "gone": later}, kinds)
        return
    run.finish_tool(ticket, orjson.dumps(whole_state(flow, kinds)).decode(), None)


def whole_state(flow: Any, kinds: Kinds) -> dict[str, Any]:
    """All of a flow's state that can be restored, and the names of all its members."""
    packed = {name: pack(value, kinds) for name, value in _members(flow._state).items()}
    texts = {name: text for name, (text, faithful) in packed.items() if faithful}
    return {"set": texts, "gone": [], "members": sorted(packed)}


def ask_person(
    run: Run, scope: Scope, name: str, question: Mapping[str, Any], ask: Callable[[Ticket], Any]
) -> Any:
    """A person's answer as a step: asked once, answered from the journal afterwards.

    Raises:
        CrewProdError: The run was stopped, or the answer could not be recorded.
    """
    ticket = run.begin_tool(scope, name, question, _ASKING, StepKind.HUMAN)
    if ticket.recorded is not None and ticket.recorded.status is StepStatus.DONE:
        return unpack(ticket.recorded.result or "null", {})
    answer = ask(ticket)
    run.finish_tool(ticket, pack(answer, {})[0], answer if isinstance(answer, str) else None)
    return answer


def wait_for_person(
    run: Run, ticket: Ticket, kind: str, shown: Mapping[str, Any], seconds: float | None = None
) -> str | None:
    """What a person has answered to a question that the run waits on.

    Returns:
        Their words; nothing if they approved without any; None if they rejected without any, or
        nobody has answered in time.

    Raises:
        ApprovalRequired: Nobody has answered yet; the run is stopped.
        CrewProdError: The run was stopped before, or the question could not be committed.
    """
    decision = run.approving.ask(
        ticket.scope,
        kind=kind,
        why="declared",
        about=ticket.step_id,
        step_id=ticket.step_id,
        arguments=orjson.dumps(codec.to_tree(dict(shown))).decode(),
        approval=Approval(expires=None if seconds is None else max(seconds, _SHORTEST)),
    )
    if decision.edited is not None:
        return as_text(decision.edited)
    if decision.approved:
        return decision.note or ""
    return None if decision.by is None else decision.note
