"""The seam in front of a task: finished once, its output is not made again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from crewai.tasks.conditional_task import ConditionalTask
from crewai.tasks.task_output import TaskOutput

from crewai_prod._crewai.agents import in_scope
from crewai_prod._crewai.asking import asking
from crewai_prod._crewai.caching import Caches
from crewai_prod._crewai.outputs import decode_output, encode_output
from crewai_prod._crewai.saves import Saves
from crewai_prod._crewai.stop import StopRun, refusing
from crewai_prod._crewai.takeover import Seamed, put, seam_of
from crewai_prod._crewai.tools import ToolBench
from crewai_prod.errors import CrewProdError
from crewai_prod.owing import demand
from crewai_prod.records import StepKind, TaskRecord
from crewai_prod.replay import Verdict
from crewai_prod.run import Run
from crewai_prod.steps import Scope
from crewai_prod.threads import in_thread
from crewai_prod.tooling import ToolOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSeam:
    """What a task needs to know of its run."""

    run: Run
    bench: ToolBench
    saves: Saves
    caches: Caches
    position: int
    held: Any = None
    """The user's task that shows this one's progress; None where several runs go side by side."""

    @property
    def scope(self) -> Scope:
        """Where the task's steps are recorded."""
        return self.run.scope_of_task(self.position)

    @property
    def kept(self) -> bool:
        """Whether the task's stored output is handed back."""
        return self.run.plans[self.position].verdict is Verdict.KEEP

    def stored(self, task: Any) -> TaskOutput:
        """The output of an earlier session, in the task's own classes."""
        try:
            record: TaskRecord = self.run.keep_task(self.position)
            talk = (
                self.run.journal.conversation(self.run.run_id, record.messages)
                if record.messages
                else []
            )
        except CrewProdError as refusal:
            raise StopRun(refusal) from refusal
        output = decode_output(record.output or "{}", task, talk)
        task.output = output
        return output

    def begin(self, agent: Any) -> None:
        """Record that the task begins."""
        with refusing():
            self.run.begin_task(self.position, _role(agent))

    def finish(self, agent: Any, output: Any, tools: Any) -> None:
        """Commit the output before the crew goes on to the next task, if nothing is owed in it."""
        with refusing():
            self.demand(agent, tools)
            self.run.finish_task(
                self.position,
                _role(agent),
                encode_output(output, self.caches.of_task(self.position)),
                getattr(output, "messages", None) or [],
            )

    def demand(self, agent: Any, tools: Any) -> None:
        """Refuse to finish while a tool that had to succeed in the task has not.

        Raises:
            ToolFailed: It has not; the run is stopped.
        """
        names = self.bench.names(tools)
        demand(self.run, self.scope, _role(agent), self.bench.declared, names)

    def fail(self, task: Any, agent: Any, error: BaseException) -> None:
        """Record what ended the task, unless it is the run's own refusal.

        A task that already has its output was ended by a callback or a file, not by an answer.
        """
        if not isinstance(error, StopRun):
            with refusing():
                self.run.fail_task(
                    self.position, _role(agent), error, of_last_answer=task.output is None
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class NestedTaskSeam(TaskSeam):
    """A task of a crew that is kicked off within a run: its steps are recorded, it is not.

    When the body around the kickoff is run again, the crew is walked again and its steps are
    answered from the journal.
    """

    base: Scope
    name: str

    @property
    def scope(self) -> Scope:
        """Below that of the kickoff."""
        return self.base.of_nested_task(self.position, self.name)

    @property
    def kept(self) -> bool:
        """Never: it is walked."""
        return False

    def begin(self, agent: Any) -> None:
        """Nothing begins in a run that was stopped."""
        with refusing():
            self.run.check()

    def finish(self, agent: Any, output: Any, tools: Any) -> None:
        """Nothing goes on in a run that was stopped, or after a task that owes a tool."""
        with refusing():
            self.run.check()
            self.demand(agent, tools)

    def fail(self, task: Any, agent: Any, error: BaseException) -> None:
        """An answer that came to nothing is asked for anew when the body around is run again."""
        if not isinstance(error, StopRun) and task.output is None:
            self.run.distrust_last_answer(self.scope)


_DECIDED = ToolOptions(effect="read")
_NOT_SHOWN = frozenset(
    {"id", "agent", "context", "tools", "description", "expected_output", "output_file"}
)
"""Links of the copy, and texts with this run's inputs in them: a run that starts meanwhile copies
the task, and would take those texts for what they were before."""


class RunTask(Seamed):
    """A task of a hardened run."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        seam: TaskSeam | None = seam_of(self)
        held = seam.held if seam is not None and name not in _NOT_SHOWN else None
        if held is not None and name in held.__dict__:
            # Callbacks and guardrails read the tasks they hold while the crew is still running.
            put(held, **{name: value})

    def _execute_core(self, agent: Any, context: Any, tools: Any) -> Any:
        seam: TaskSeam = seam_of(self)
        if seam.kept:
            return seam.stored(self)
        worker = agent or self.agent  # type: ignore[attr-defined]
        seam.begin(worker)
        with in_scope(seam.run, seam.scope), asking(seam.run):
            try:
                output = super()._execute_core(agent, context, seam.bench.take(tools))  # type: ignore[misc]
            except Exception as error:
                seam.saves.wait(seam.scope)
                seam.fail(self, worker, error)
                raise
        seam.saves.wait(seam.scope)
        seam.finish(worker, output, tools)
        return output

    async def _aexecute_core(self, agent: Any, context: Any, tools: Any) -> Any:
        seam: TaskSeam = seam_of(self)
        if seam.kept:
            return await in_thread(seam.stored, self)
        worker = agent or self.agent  # type: ignore[attr-defined]
        await in_thread(seam.begin, worker)
        with in_scope(seam.run, seam.scope), asking(seam.run):
            try:
                output = await super()._aexecute_core(agent, context, seam.bench.take(tools))  # type: ignore[misc]
            except Exception as error:
                await asyncio.to_thread(seam.saves.wait, seam.scope)
                await in_thread(seam.fail, self, worker, error)
                raise
        await asyncio.to_thread(seam.saves.wait, seam.scope)
        await in_thread(seam.finish, worker, output, tools)
        return output


class RunConditionalTask(RunTask):
    """A conditional task of a hardened run: a decision that was made once stands."""

    def should_execute(self, context: Any) -> bool:
        """The original's, asked once for one output of the task before."""
        seam: TaskSeam = seam_of(self)
        if seam.kept:
            return True
        asked = {"output": context.raw}
        with refusing():
            ticket = seam.run.begin_tool(
                seam.scope, "condition", asked, _DECIDED, StepKind.FUNCTION
            )
        if ticket.recorded is not None:
            return ticket.recorded.result == "true"
        decision = bool(super().should_execute(context))  # type: ignore[misc]
        with refusing():
            seam.run.finish_tool(ticket, "true" if decision else "false", None)
        return decision


def mixin_for(task: Any) -> type[RunTask]:
    """The seam in front of a task of this class."""
    return RunConditionalTask if isinstance(task, ConditionalTask) else RunTask


def _role(agent: Any) -> str | None:
    return getattr(agent, "role", None)
