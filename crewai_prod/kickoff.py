"""One kickoff: a run is opened, and whatever ends it is recorded before its caller hears of it.

The same for crews, flows, agents and plain code; what they return and show is theirs. Knows nothing
of crewai.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import orjson

from crewai_prod.alerting import tell
from crewai_prod.bodies import current_scope
from crewai_prod.budget import seconds_at_work
from crewai_prod.deadlines import left
from crewai_prod.errors import CrewProdError, JournalError, ReplayOnly, UsageError
from crewai_prod.failures import describe
from crewai_prod.notices import teller
from crewai_prod.options import Options
from crewai_prod.records import Opened, RunStatus
from crewai_prod.redact import redact_text
from crewai_prod.replay import TaskDefinition, plan_tasks
from crewai_prod.run import Run, status_of
from crewai_prod.session import RunRequest, open_session
from crewai_prod.steps import Scope
from crewai_prod.terminating import SIGTERM
from crewai_prod.threads import in_thread

_LANDING_SECONDS = 60.0
"""How long the end of a failed run waits for calls of other tasks that are being paid for."""
_LANDING_SECONDS_CANCELLED = 5.0
"""The same for a run that is cancelled: a tool's body on a thread cannot be, and may be acting."""


@dataclass(slots=True, kw_only=True)
class Kickoff:
    """From a run id to a recorded end.

    Attributes:
        run: The run, not opened yet.
        options: Of the hardened target, with what this kickoff says otherwise.
        kind: `crew`, `flow`, `agent` or `function`.
        name: The target's name, for people.
        run_id: As the caller gave it; None: one is made.
    """

    run: Run
    options: Options
    kind: str
    name: str | None
    run_id: str | None

    def __post_init__(self) -> None:
        SIGTERM.heed(self.options.settings)

    def open(self, inputs: Any, definitions: Sequence[TaskDefinition] = ()) -> Opened:
        """Create the run or take it over; `lease` is None if it has finished before.

        Raises:
            RunInUse: A live owner has it.
            RunMismatch: It was started with other inputs, or is of another kind.
            DefinitionChanged: The target is not the one it was started with.
            JournalError: The journal could not be read or written.
        """
        journal = self.run.journal
        self.run.bill.prices = self.options.prices
        self._approve([one.name for one in definitions])
        self.run.looping.rules = self.options.loops
        request = RunRequest(
            run_id=self.run_id,
            kind=self.kind,
            name=self.name,
            inputs=inputs,
            on_change=self.options.on_change,
            unknown=self.options.unknown,
            lease_seconds=self.options.settings.lease_seconds,
            open_log=lambda run_id: self.options.open_log(journal, run_id, self.name),
        )
        opened = open_session(self.run, request, definitions)
        if opened.lease is not None and self.options.budgets:
            self._brake(opened)
        self.run.escalating.join(self.options.escalation)
        self.run.routing.join(self.options.routes)
        self.run.guarding.join(self.options.guards, name=self.name)
        _watch(self.run)
        if opened.lease is not None:
            SIGTERM.enter(self.run)
        return opened

    def _approve(self, tasks: Sequence[str]) -> None:
        """Have people asked as the options say.

        Raises:
            UsageError: The output of a task needs approval that is not there: a name is wrong.
        """
        approving, options = self.run.approving, self.options
        wrong = sorted(set(options.approvals) - set(tasks))
        if wrong and self.kind in ("crew", "agent"):
            raise UsageError(f"approvals={wrong}: there are no such tasks, but {sorted(tasks)}.")
        approving.terminal = options.human == "terminal"
        approving.outputs = options.approvals
        if options.notify is not None:
            approving.tell = teller(options.notify)

    def _brake(self, opened: Opened) -> None:
        """Hold the run to its budgets, all its sessions together."""
        brakes, plans = self.run.braking.brakes, self.run.plans.values()
        crew = self.kind == "crew"
        tasks = {one.definition.name: f"tasks/{one.definition.position}" for one in plans}
        if not opened.created:
            self.run.braking.take_up(self.run.journal.approvals(self.run.run_id))
            before = self.run.lease.epoch - 1
            self.run.braking.say_cut_off([one for one in opened.cut_off if one.epoch == before])
        brakes.join(
            self.options.budgets,
            of=f"{self.kind}/{self.name or ''}",
            tasks=tasks if crew else None,
        )
        if self.options.budgets.seconds is not None:
            changes = self.run.journal.transitions(self.run.run_id)
            brakes.began(seconds_at_work(changes, opened.steps, self.run.lease.epoch))

    def complete(self, result: str) -> None:
        """Record that the run is done, with its result as JSON.

        Raises:
            JournalError: It could not be recorded.
        """
        for name in self.run.braking.brakes.unmet():
            self.run.log.warning(
                f"A budget is on agent {name!r}, and none of that role was at work."
            )
        for name in self.run.routing.unmet():
            self.run.log.warning(
                f"A route is for {name!r}, and no task or agent of that name asked."
            )
        try:
            self.run.end(RunStatus.COMPLETED, result=result)
            tell(self.run, self.options.on_alert)
        finally:
            SIGTERM.leave(self.run)

    def fail(self, error: BaseException, outputs: Sequence[Any] = ()) -> BaseException:
        """Record what ended the run; returns what the caller of the kickoff is to see.

        Args:
            error: What came out of it. If the run was stopped, the stored refusal is seen instead.
            outputs: What is finished, to be handed to the caller with an error of ours.
        """
        seen: BaseException = error
        if self.run.stopped is not None and isinstance(error, Exception):
            seen = self.run.stopped
        if isinstance(seen, CrewProdError):
            seen.outputs = tuple(outputs)
            call = "open_run" if self.kind == "function" else "kickoff"
            seen.resume = seen.resume or f"{call}(run_id={self.run.run_id!r})"
            facts = {**seen.facts(), "message": redact_text(seen.message)}
        else:
            facts = describe(seen)
            seen.add_note(f"crewai-prod: resume with run_id={self.run.run_id!r}")
        self.run.land(_landing_seconds(error))
        with suppress(JournalError):  # what cannot be recorded stays `running`, without an owner
            self.run.end(status_of(seen), error=orjson.dumps(facts).decode())
            tell(self.run, self.options.on_alert)
        SIGTERM.leave(self.run)
        return seen


def _landing_seconds(error: BaseException) -> float:
    if isinstance(error, asyncio.CancelledError):
        return _LANDING_SECONDS_CANCELLED
    return _LANDING_SECONDS if isinstance(error, Exception) else 0.0


async def whatever_happens(
    ended: Callable[..., BaseException], target: Any, failure: BaseException
) -> BaseException:
    """`ended(target, failure)` on a thread, or here if the loop itself is going down.

    Args:
        ended: Records what ended a kickoff; returns what its caller is to see.
        target: What was kicked off.
        failure: What ended it.
    """
    if isinstance(failure, (Exception, asyncio.CancelledError)):
        return await in_thread(ended, target, failure)
    return ended(target, failure)


def attach_finished(
    run: Run, opened: Opened, options: Options, definitions: Sequence[TaskDefinition] = ()
) -> None:
    """Let a finished run answer what it holds; nothing new can be done in it."""
    journal, run_id = run.journal, opened.run.run_id
    run.replay_only = ReplayOnly(run_id=run_id)
    run.attach(
        Opened(
            lease=None,
            run=opened.run,
            created=False,
            steps=tuple(journal.steps(run_id)),
            attempts=tuple(journal.attempts(run_id)),
            verdicts=tuple(journal.verdicts(run_id)),
        ),
        log=options.open_log(journal, run_id, opened.run.crew),
        plans=plan_tasks(definitions, opened.tasks, "keep"),
    )


def _watch(run: Run) -> None:
    """Have what passes the seams heard of, where there is a crewai to do it: calls and kickoffs."""
    if "crewai" in sys.modules:
        import_module("crewai_prod._crewai.second_line").watch(run)
        import_module("crewai_prod._crewai.adoption").listen()


def place_around() -> tuple[Run, Scope] | None:
    """The run this code is executed in and where in it: a kickoff here belongs to it.

    A context may outlive its run, in a thread or asyncio task that a tool left behind. If the run
    is done that is nothing of its business; one that was stopped refuses whatever still goes on,
    and so does any run what goes on in a call that was left at its deadline.
    """
    current = current_scope.get()
    if current is None or left():
        return current
    return None if current[0].ended and current[0].stopped is None else current


def with_cause(seen: BaseException, error: BaseException) -> BaseException:
    """The exception to raise: the caller's own as it was, ours with what caused it."""
    if seen is error:
        return error.with_traceback(error.__traceback__)
    seen.__cause__ = seen.__cause__ or getattr(error, "__cause__", None)
    return seen
