"""Between a run and its loops: what its agents have called, and a call that is not made again.

Rule: what is counted is what a session meets as it goes, answered from the journal or made, and a
resumed run walks an unfinished piece of work from its beginning: no kill forgets a call or counts
it twice. A refusal is a step, and on resume what it said holds. Knows nothing of crewai.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from contextvars import ContextVar
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from crewai_prod.errors import CrewProdError, LoopDetected, ToolRejected
from crewai_prod.failures import describe
from crewai_prod.loops import Call, Finding, Loops, Rung, Trail, plain
from crewai_prod.records import StepRecord, StepStatus
from crewai_prod.replay import decided_again
from crewai_prod.required import reports_failure
from crewai_prod.steps import Scope, lies_in
from crewai_prod.tooling import ToolOptions
from crewai_prod.walk import Ticket

if TYPE_CHECKING:
    from crewai_prod.run import Run

_LOOP = "loop"
"""In the facts of a refusal: what was found."""


class LookedUp(NamedTuple):
    """A call that a cache was asked for: where, of which tool, with what."""

    scope: str
    tool: str
    given: str


looked_up: ContextVar[LookedUp | None] = ContextVar("crewai_prod_looked_up", default=None)
"""The last one here. A call that follows is the same as a later hit, however its arguments were
completed on the way."""


class Looping:
    """What the agents of a run have called. Any thread may ask.

    Args:
        run: The run.

    Attributes:
        rules: When calls are taken for a loop; None: never.
    """

    def __init__(self, run: Run) -> None:
        self.rules: Loops | None = None
        self._run = run
        self._trails: dict[str, Trail] = defaultdict(Trail)
        self._open: dict[str, Call] = {}
        self._after: dict[str, int] = {}
        self._lock = threading.Lock()

    def decided(self, scope: Scope) -> None:
        """A model is asked in a scope: what is called there next is another decision of it."""
        if self.rules is not None:
            with self._lock:
                self._trails[scope.path].decision += 1

    def forget(self, path: str) -> None:
        """A scope is begun anew, or done with."""
        with self._lock:
            for one in [one for one in self._trails if lies_in(one, path)]:
                del self._trails[one]

    def refusal(self, ticket: Ticket, options: ToolOptions) -> dict[str, Any] | None:
        """Facts of why a call is not made: it is one of a loop. Else it is counted.

        Raises:
            LoopDetected: It is, and the model does not stop; the run is stopped.
        """
        if self.rules is None or options.polling:
            return None
        call = self._call(ticket, options)
        found = self._judge(ticket.scope, call)
        if found is None:
            with self._lock:
                self._trails[ticket.scope.path].enter(call)
                self._open[ticket.step_id] = call
            return None
        self._note(found, ticket.scope, ticket.step_id)
        return _facts(found)

    def met(self, ticket: Ticket, options: ToolOptions) -> None:
        """A call is answered from the journal, or was admitted before: what held then holds."""
        if self.rules is None or options.polling:
            return
        call, record = self._call(ticket, options), ticket.recorded
        found = _found(None if record is None else record.error)
        with self._lock:
            self._trails[ticket.scope.path].take_up(call, found)
            if found is None:
                self._open[ticket.step_id] = call
        if record is not None:
            self.ended(record)

    def ended(self, step: StepRecord) -> None:
        """A call has come to something."""
        if step.step_id not in self._open or decided_again(step.error):
            return
        call = self._open.pop(step.step_id)
        call.failed = step.status is StepStatus.FAILED or reports_failure(step.result)
        call.outcome = hash(step.error if step.status is StepStatus.FAILED else step.result)

    def repeated(self, scope: Scope, tool: str, given: str, result: str) -> dict[str, Any] | None:
        """Facts of why a call that a cache has an answer to is not answered so: see `refusal`.

        Args:
            scope: Where it is made.
            tool: Which is called.
            given: With what, as the cache is asked.
            result: The answer, as it is recorded.

        Raises:
            LoopDetected: The model goes on in a loop; the run is stopped.
        """
        return self._again(scope, Call(tool, given, acts=False, outcome=hash(result)))

    def repeated_at_once(self, scope: Scope, tool: str) -> dict[str, Any] | None:
        """The same for a call that is the last one of its tool, made again.

        CrewAI answers it itself, where a model calls tools in its text.
        """
        with self._lock:
            last = self._trails[scope.path].last_of(tool)
        if last is None:
            return None
        return self._again(scope, Call(tool, last.meant, acts=False, outcome=last.outcome))

    def met_again(self, scope: Scope, tool: str, given: str, record: StepRecord) -> None:
        """What a cache answered, or did not, is on record."""
        if self.rules is None:
            return
        call = Call(tool, given, acts=False, outcome=hash(record.result))
        with self._lock:
            self._trails[scope.path].take_up(call, _found(record.error))

    def _again(self, scope: Scope, call: Call) -> dict[str, Any] | None:
        if self.rules is None:
            return None
        found = self._judge(scope, call)
        if found is not None:
            self._note(found, scope, None)
            return _facts(found)
        with self._lock:
            self._trails[scope.path].enter(call)
        return None

    def _call(self, ticket: Ticket, options: ToolOptions) -> Call:
        last, meant = looked_up.get(), ticket.digest
        here = ticket.scope.path, plain(ticket.name)
        if last is not None and (last.scope, plain(last.tool)) == here:
            meant = last.given
        if options.loop_after is not None:
            self._after[here[1]] = options.loop_after
        return Call(ticket.name, meant, acts=ticket.effect != "read")

    def _judge(self, scope: Scope, call: Call) -> Finding | None:
        assert self.rules is not None
        limits = self.rules.after(self._after.get(call.id))
        with self._lock:
            found = self._trails[scope.path].judge(call, limits)
        if found is None or found.rung < Rung.STOPPED:
            return found
        self._note(found, scope, None)
        with self._lock:
            decision = self._trails[scope.path].decision
        if not self._run.escalating.goes_on(found, scope, decision):
            raise self._last_resort(found, scope)
        with self._lock:
            self._trails[scope.path].excuse(call)
        return None

    def _last_resort(self, found: Finding, scope: Scope) -> CrewProdError:
        """Stop the run, before the call."""
        return self._run.stop(
            LoopDetected(
                f"{found.tool} is called in a loop ({found.kind}), and the model went on with it "
                "after it was told and the tool was withheld. If it makes sense, resume with "
                f"tools={{{found.tool!r}: {{'polling': True}}}}, or with other loops=Loops(...).",
                task=scope.task_name,
                agent=scope.agent,
                kind=found.kind,
                tool=found.tool,
                calls=found.calls,
            )
        )

    def _note(self, found: Finding, scope: Scope, step_id: str | None) -> None:
        self._run.log.loop_detected(found, step_id=step_id, task=scope.task_name, agent=scope.agent)


def _facts(found: Finding) -> dict[str, Any]:
    """Of the refusal, as it is recorded."""
    told = describe(ToolRejected(found.message))
    return {**told, _LOOP: {**asdict(found), "rung": int(found.rung)}}


def _found(error: str | None) -> Finding | None:
    """What a recorded refusal was for."""
    facts = None if error is None else orjson.loads(error).get(_LOOP)
    return None if facts is None else Finding(**{**facts, "rung": Rung(facts["rung"])})
