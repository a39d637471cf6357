"""The seam in front of a task: finished once, its output is not made again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from crewai.tasks.conditional_task import ConditionalTask
from crewai.tasks.task_output import TaskOutput
from crewai.utilities.i18n import I18N_DEFAULT
from pydantic import BaseModel

from crewai_prod._crewai.agents import in_scope
from crewai_prod._crewai.approved_outputs import approve_output
from crewai_prod._crewai.asking import asking
from crewai_prod._crewai.caching import Caches
from crewai_prod._crewai.guarded_tasks import last_judged
from crewai_prod._crewai.guardrails import judging
from crewai_prod._crewai.outputs import decode_output, encode_output
from crewai_prod._crewai.reviewing import (
    MOST_TRIES,
    NotInForm,
    Unfit,
    converting,
    given_up,
    unfit,
)
from crewai_prod._crewai.saves import Saves
from crewai_prod._crewai.stop import StopRun, refusing
from crewai_prod._crewai.takeover import Seamed, put, seam_of
from crewai_prod._crewai.tools import ToolBench
from crewai_prod.codec import text_of
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
    converted: dict[str, Any] = field(default_factory=dict)
    """Answers whose form has been judged, and what was made of each."""
    passed: set[str] = field(default_factory=set)
    """Texts that the guards of task outputs have let pass."""
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
        approve_output(self, worker, seam.run, seam.scope)
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
        approve_output(self, worker, seam.run, seam.scope)
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

    def _invoke_guardrail_function(self, *args: Any, **kwargs: Any) -> Any:
        mending = _Mending(self, kwargs)
        while True:
            try:
                with mending.judging():
                    output = super()._invoke_guardrail_function(*args, **kwargs)  # type: ignore[misc]
                    return mending.formed(output)
            except Unfit as unfit_answer:
                context = mending.sent_back(unfit_answer)
            mending.answered(mending.agent.execute_task(self, context, kwargs.get("tools")))

    async def _ainvoke_guardrail_function(self, *args: Any, **kwargs: Any) -> Any:
        mending = _Mending(self, kwargs)
        while True:
            try:
                with mending.judging():
                    output = await super()._ainvoke_guardrail_function(*args, **kwargs)  # type: ignore[misc]
                    return await mending.formed_later(output)
            except Unfit as unfit_answer:
                context = mending.sent_back(unfit_answer)
            mending.answered(await mending.agent.aexecute_task(self, context, kwargs.get("tools")))

    def _export_output(self, result: Any) -> Any:
        kept = self._converted(result)
        if kept is not None:
            return kept
        with self._fitting(result) as found:
            found += super()._export_output(result)  # type: ignore[misc]
        return tuple(found)

    async def _aexport_output(self, result: Any) -> Any:
        kept = self._converted(result)
        if kept is not None:
            return kept
        with self._fitting(result) as found:
            found += await super()._aexport_output(result)  # type: ignore[misc]
        return tuple(found)

    def _converted(self, result: Any) -> Any:
        """What was made of an answer when it was judged, as CrewAI hands it on."""
        kept = seam_of(self).converted.get(result) if isinstance(result, str) else None
        return None if kept is None else self._unpack_model_output(kept)  # type: ignore[attr-defined]

    @contextmanager
    def _fitting(self, result: Any) -> Iterator[list[Any]]:
        """Where an answer is converted; a task that asks for a form never goes without it.

        Raises:
            Unfit: It has not that form.
        """
        found: list[Any] = []
        try:
            with converting():
                yield found
        except NotInForm as error:
            raise unfit(text_of(error), text_of(result)) from error.__cause__
        if self.lacks_form(*found):
            raise unfit("", text_of(result))

    def lacks_form(self, pydantic: Any, json_dict: Any) -> bool:
        """Whether an output is not in the form that the task asks for."""
        if self.output_pydantic:  # type: ignore[attr-defined]
            return pydantic is None
        return bool(self.output_json) and pydantic is None and json_dict is None  # type: ignore[attr-defined]


@dataclass(slots=True)
class _Mending:
    """The answers of a task that are not in form, behind its guardrails.

    They are sent back as guardrails send theirs, and what comes is judged by the guardrail again.
    CrewAI leaves an output without its form where a guardrail returns the output itself.
    """

    task: Any
    given: dict[str, Any]
    tries: int = 0

    @property
    def agent(self) -> Any:
        return self.given["agent"]

    @property
    def scope(self) -> Scope:
        place: Scope = seam_of(self.task).scope
        return place.of_agent(self.agent.role)

    def judging(self) -> AbstractContextManager[None]:
        return judging(self.scope.task_name, self.agent, self.task.guardrail_max_retries)

    def formed(self, output: Any) -> Any:
        """The output with its form, behind the last guardrail."""
        index = self.given.get("guardrail_index")
        last = index is None or index == len(self.task._guardrails) - 1
        if last and self.task.lacks_form(output.pydantic, output.json_dict):
            output.pydantic, output.json_dict = self.task._export_output(output.raw)
        return self._guarded(output) if last else output

    async def formed_later(self, output: Any) -> Any:
        """`formed` on a thread: models may be asked in it, and guards judge."""
        guarding = seam_of(self.task).run.guarding
        if guarding.on:
            return await guarding.in_thread(self.formed, output)
        return await asyncio.to_thread(self.formed, output)

    def _guarded(self, output: Any) -> Any:
        """The output as guards let it pass: the guardrails may have made something else of it."""
        run: Run = seam_of(self.task).run
        passed = last_judged(run, self.scope, self.task, output.raw)
        if passed is not output.raw:
            output.raw = passed
            output.pydantic, output.json_dict = self.task._export_output(passed)
        return output

    def sent_back(self, answer: Unfit) -> str:
        """What the agent is told.

        Raises:
            StopRun: It was told often enough.
        """
        self.tries += 1
        run, text = seam_of(self.task).run, answer.fields["text"]
        if run.stopped is not None:
            raise StopRun(run.stopped)
        run.routing.rejected(self.scope)
        if self.tries >= MOST_TRIES:
            raise given_up(answer, self.tries, self.scope, run)
        run.log.answer_rejected(
            why="output",
            attempt=self.tries,
            message="The answer has not the form that the task asks for.",
            task=self.scope.task_name,
            agent=self.scope.agent,
        )
        return I18N_DEFAULT.errors("validation_error").format(
            guardrail_result_error=answer.message, task_output=text
        )

    def answered(self, result: Any) -> None:
        """Take up what the agent says now."""
        model = result if isinstance(result, BaseModel) else None
        update = {
            "raw": str(result) if model is None else model.model_dump_json(),
            "pydantic": model if self.task.output_pydantic else None,
            "json_dict": model.model_dump() if model and self.task.output_json else None,
            "messages": getattr(self.agent, "last_messages", None) or [],
        }
        self.given["task_output"] = self.given["task_output"].model_copy(update=update)


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
