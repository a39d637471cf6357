"""The seam in front of an agent's executor: an answer is looked at before it counts.

Three things send an answer back, with the reason, in the conversation in which it was given: it
tells of work for which the task requires a tool that the journal holds no successful call of, a
guard of task outputs rejects it, or it has not the form that was asked for. Each a bounded number
of times; then the run stops, and resuming it asks for the last answer anew. Every answer that was
sent back is recorded like any other.

The form is judged as CrewAI does it: what is no JSON at all is converted by a model call of its
own, once (CrewAI's own repetitions of that call, blind to what was wrong, are off). What CrewAI
made of an answer is kept, so that nothing is asked twice. Where a task has guardrails they come
first, and the form is judged behind them: see `tasks`.

The hold is where an executor runs through: `kickoff_async` of the one that is a flow (its `kickoff`
goes through it), `_invoke_loop` and its twin of the older one. What a person says of an answer, and
what is remembered of it, comes after it has been accepted.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from crewai.agents.parser import AgentFinish
from crewai.tools.agent_tools.base_agent_tools import BaseAgentTool
from crewai.utilities.converter import (
    Converter,
    ConverterError,
    convert_to_model,
    get_conversion_instructions,
)
from pydantic import BaseModel

from crewai_prod import complaints
from crewai_prod._crewai.guarded_tasks import guarded_output
from crewai_prod._crewai.metering import model_failures
from crewai_prod._crewai.places import scope_of
from crewai_prod._crewai.private import found_at_once
from crewai_prod._crewai.repeating import instead_of_crewais, uncounted, uncounted_in_steps
from crewai_prod._crewai.stop import Passing, StopRun, refusing
from crewai_prod._crewai.takeover import seam_of
from crewai_prod.codec import text_of
from crewai_prod.errors import CrewProdError, OutputInvalid, UnverifiedToolClaim
from crewai_prod.guarding import MOST_REJECTIONS, At, Refusal
from crewai_prod.owing import demand
from crewai_prod.run import Run
from crewai_prod.steps import Scope, task_around

MOST_CLAIMS = 2
"""How often an answer is sent back because a required tool was not called."""
MOST_TRIES = 3
"""How many answers there may be until one has the form that was asked for."""
_OBJECT = re.compile(r"{.*}", re.DOTALL)
_AFRESH: dict[str, Any] = {
    "current_answer": None,
    "is_finished": False,
    "iterations": 0,
    "use_native_tools": False,
    "plan": None,
    "plan_ready": False,
    "replan_count": 0,
    "last_replan_reason": None,
}
_classes: dict[type, type] = {}


class NotInForm(Exception):
    """An answer could not be made into what was asked for; its text says why."""


class Unfit(OutputInvalid):
    """An answer is not in the form that the task asks for."""


@dataclass(slots=True)
class _Review:
    """The answers of one piece of work, one after the other."""

    executor: Any
    run: Run
    scope: Scope
    claims: int = 0
    rejections: int = 0
    tries: int = 0

    @classmethod
    def of(cls, executor: Any) -> _Review:
        run: Run = seam_of(executor.agent).run
        return cls(executor, run, scope_of(run))

    def judge(self, answer: Any) -> str | None:
        """What the model is to be told of an answer; None: it counts.

        Raises:
            StopRun: There were enough of them.
        """
        if self.run.stopped is not None:
            raise StopRun(self.run.stopped)
        if not isinstance(answer, AgentFinish):
            return None
        missing, by_others = self._missing()
        if missing:
            return self._of_claim(missing, by_others)
        if (rejected := self._guarded(answer)) is not None:
            return rejected
        kind = self._kind()
        if kind is None or not isinstance(answer.output, str):
            return None
        try:
            with converting():
                converted = self._convert(answer.output, kind)
        except NotInForm as error:
            return self._of_form(text_of(error), answer.output, kind)
        self._keep(answer.output, converted)
        return None

    async def judge_later(self, answer: Any) -> str | None:
        """As `judge`, on a thread where a model may have to be asked."""
        if self.run.guarding.on:
            return await self.run.guarding.in_thread(self.judge, answer)
        if self._kind() is None:
            return self.judge(answer)
        return await asyncio.to_thread(self.judge, answer)

    def failed(self, error: Exception) -> str:
        """What the model is to be told of an answer that its own class could not read.

        Raises:
            Exception: The error itself, if it is any other one.
        """
        kind = self.executor.response_model
        if kind is None or not _is_misfit(error):
            raise error
        return self._of_form(text_of(error), text_of(error), kind)

    def say(self, complaint: str) -> None:
        """Put the answer and what is wrong with it into the conversation."""
        executor = self.executor
        messages = executor.state.messages if _is_flow(executor) else executor.messages
        answer = executor.state.current_answer if _is_flow(executor) else None
        said = answer.text if isinstance(answer, AgentFinish) else None
        if said and (not messages or messages[-1].get("content") != said):
            messages.append({"role": "assistant", "content": said})
        messages.append({"role": "user", "content": complaint})

    # -- tools that are required ------------------------------------------------------------------

    def _missing(self) -> tuple[list[str], bool]:
        """Required tools that were not called with success; whether any one of them would do."""
        tools = list(self.executor.original_tools or [])
        own, coworkers = _required(tools), self._coworkers(tools)
        theirs = sorted({name for one in coworkers for name in _required(one.tools or [])})
        if not own and not theirs:
            return [], False
        called = self.run.called(self._place())
        if missing := [name for name in own if not called.get(name)]:
            return missing, False
        missing = [name for name in theirs if not called.get(name)]
        any_would_do = len(coworkers) > 1 and len(missing) < len(theirs)
        return ([], True) if any_would_do else (missing, True)

    def _coworkers(self, tools: list[Any]) -> list[Any]:
        """Those to whom a manager may hand the task."""
        crew = self.executor.crew
        if crew is None or getattr(crew, "manager_agent", None) is not self.executor.agent:
            return []
        delegating = (seam_of(tool) for tool in tools)
        originals = [seam.original for seam in delegating if seam is not None]
        found = [one for one in originals if isinstance(one, BaseAgentTool)]
        return list({id(agent): agent for one in found for agent in one.agents}.values())

    def _place(self) -> str:
        """The scope of the whole task: it counts who called a tool in it, coworkers included."""
        found = task_around(self.scope.path) if self.executor.task is not None else None
        return found or self.scope.path

    def _of_claim(self, tools: list[str], by_others: bool) -> str:
        self.claims += 1
        self.run.setbacks.rejected(self.scope)
        if self.claims > MOST_CLAIMS:
            self._demand()
            self.run.distrust_last_answer(self.scope)
            error = UnverifiedToolClaim(
                f"The task requires a successful call of {', '.join(tools)}; {self.claims} answers "
                "were given without one.",
                tools=tools,
                attempts=self.claims,
                task=self.scope.task_name,
                agent=self.scope.agent,
            )
            raise StopRun(self.run.stop(error))
        self._log("claim", self.claims, f"No successful call of {', '.join(tools)} is on record.")
        return complaints.claim(tools, by_others=by_others)

    def _demand(self) -> None:
        """Where there were calls and they failed, that is what is wrong, not a claim.

        Raises:
            StopRun: The run is stopped with the failure.
        """
        tools = list(self.executor.original_tools or [])
        held = [*tools, *(one for other in self._coworkers(tools) for one in other.tools or [])]
        seams = [seam for seam in map(seam_of, held) if seam is not None]
        declared = {seam.original.name: seam.options for seam in seams}
        with refusing():
            demand(self.run, replace(self.scope, path=self._place()), None, declared, ())

    # -- guards -----------------------------------------------------------------------------------

    def _guarded(self, answer: AgentFinish) -> str | None:
        """Have guards judge an answer that is to be a task's output; it takes up what they change.

        Returns:
            What the model is to be told; None: it passes.

        Raises:
            StopRun: It was told often enough, or the run was stopped.
        """
        task = self.executor.task
        if task is not None and seam_of(task) is None:  # work that was handed on
            return None
        try:
            with refusing():
                answer.output = guarded_output(self.run, self.scope, task, answer.output)
        except Refusal as refusal:
            return self._of_guard(refusal)
        return None

    def _of_guard(self, refusal: Refusal) -> str:
        self.rejections += 1
        self.run.setbacks.rejected(self.scope)
        if self.rejections > MOST_REJECTIONS:
            self.run.distrust_last_answer(self.scope)
            error = self.run.guarding.rejected(refusal, At(scope=self.scope), self.rejections)
            raise StopRun(error)
        self._log("guard", self.rejections, f"Guard {refusal.guard} rejects it.")
        return complaints.rejected(refusal.reason)

    # -- the form of an answer --------------------------------------------------------------------

    def _kind(self) -> type[BaseModel] | None:
        """What the answer is to be an instance of, as far as that is judged here."""
        task = self.executor.task
        if task is None:
            kind = self.executor.response_model
        elif seam_of(task) is None or task._guardrails or task._guardrail:
            kind = None
        else:
            kind = task.output_pydantic or task.output_json
        return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None

    def _convert(self, text: str, kind: type[BaseModel]) -> Any:
        """What an answer says: read, or converted as CrewAI would. A mended one is only read."""
        task = self.executor.task
        as_dict = task is not None and bool(task.output_json)
        own = task is not None and task.converter_cls is not None
        if self.tries and not own:
            return parsed(text, kind, as_dict=as_dict)
        if task is None:
            return self._convert_alone(text, kind)
        if not own:
            with suppress(ValueError):
                return parsed(text, kind, as_dict=as_dict)
        asked = task.output_pydantic, task.output_json, self.executor.agent, task.converter_cls
        return in_form(convert_to_model(text, *asked), kind, as_dict=as_dict)

    def _convert_alone(self, text: str, kind: type[BaseModel]) -> Any:
        """For `Agent.kickoff`, where CrewAI takes no object out of the prose around it."""
        with suppress(ValueError):
            return kind.model_validate_json(text)
        llm = self.executor.agent.llm
        converter = Converter(
            llm=llm,
            text=text,
            model=kind,
            instructions=get_conversion_instructions(kind, llm),
            max_attempts=1,
        )
        return in_form(converter.to_pydantic(), kind, as_dict=False)

    def _keep(self, text: str, converted: Any) -> None:
        owner = self.executor.task if self.executor.task is not None else self.executor.agent
        seam_of(owner).converted[text] = converted

    def _of_form(self, wrong: str, text: str, kind: type[BaseModel]) -> str:
        if self.run.stopped is not None:  # by the failure of a call that was to convert it
            raise StopRun(self.run.stopped)
        self.tries += 1
        self.run.setbacks.rejected(self.scope)
        if self.tries >= MOST_TRIES:
            raise given_up(unfit(wrong, text), self.tries, self.scope, self.run)
        self._log("output", self.tries, f"The answer is no {kind.__name__}.")
        react = _writes_answers(self.executor)
        return complaints.misfit(complaints.faults(wrong), kind, react=react)

    def _log(self, why: str, attempt: int, message: str) -> None:
        where = {"task": self.scope.task_name, "agent": self.scope.agent}
        self.run.log.answer_rejected(why=why, attempt=attempt, message=message, **where)


class _OfEither:
    """What is the same in front of both kinds of executors."""

    def _handle_agent_action(self, formatted_answer: Any, tool_result: Any) -> Any:
        run: Run = seam_of(self.agent).run  # type: ignore[attr-defined]
        told = instead_of_crewais(run, tool_result, formatted_answer.tool)
        return super()._handle_agent_action(formatted_answer, told)  # type: ignore[misc]


class _OfFlow(_OfEither):
    """In front of an executor that is a flow."""

    def _ensure_step_executor(self) -> Any:
        made = super()._ensure_step_executor()  # type: ignore[misc]
        run: Run = seam_of(self.agent).run  # type: ignore[attr-defined]
        return uncounted_in_steps(made, run, self.original_tools)  # type: ignore[attr-defined]

    async def kickoff_async(self, *args: Any, **kwargs: Any) -> Any:
        review, told = _Review.of(self), None
        while True:
            with _going_on(self, told):
                try:
                    result = await super().kickoff_async(*args, **kwargs)  # type: ignore[misc]
                    told = await review.judge_later(self.state.current_answer)  # type: ignore[attr-defined]
                except Exception as error:  # noqa: BLE001 - any other goes on
                    told = review.failed(error)
            if told is None:
                return result
            review.say(told)


class _OfLoop(_OfEither):
    """In front of the older executor, which is a loop."""

    def _invoke_loop(self) -> Any:
        review = _Review.of(self)
        while True:
            try:
                answer = super()._invoke_loop()  # type: ignore[misc]
                told = review.judge(answer)
            except Exception as error:  # noqa: BLE001 - any other goes on
                told = review.failed(error)
            if told is None:
                return answer
            review.say(told)
            self.iterations = 0

    async def _ainvoke_loop(self) -> Any:
        review = _Review.of(self)
        while True:
            try:
                answer = await super()._ainvoke_loop()  # type: ignore[misc]
                told = await review.judge_later(answer)
            except Exception as error:  # noqa: BLE001 - any other goes on
                told = review.failed(error)
            if told is None:
                return answer
            review.say(told)
            self.iterations = 0


def reviewed(executor: Any) -> None:
    """Have an executor's answers looked at. It is CrewAI's own, made for an agent of a run."""
    kind = type(executor)
    if issubclass(kind, (_OfFlow, _OfLoop)):
        return
    front = _OfFlow if _is_flow(executor) else _OfLoop
    if front is _OfLoop and not hasattr(kind, "_invoke_loop"):
        return  # an adapter of another framework
    if kind not in _classes:
        namespace = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
        made: Any = type(kind)
        _classes[kind] = found_at_once(made(kind.__name__, (front, kind), namespace))
    object.__setattr__(executor, "__class__", _classes[kind])
    uncounted(executor, seam_of(executor.agent).run, executor.original_tools)


@contextmanager
def converting() -> Iterator[None]:
    """Where an answer is converted. A model that cannot be had does not make it a bad one.

    Raises:
        NotInForm: It cannot be converted.
        Exception: What the model's call failed of, which CrewAI hides in an error of its own.
    """
    failures: list[Exception] = []
    token = model_failures.set(failures)
    try:
        yield
    except (Passing, CrewProdError):
        raise
    except Exception as error:  # validators and converters are users' code too
        if failures:
            raise failures[-1] from None
        raise NotInForm(text_of(error)) from error
    finally:
        model_failures.reset(token)


def parsed(text: str, kind: type[BaseModel], *, as_dict: bool) -> Any:
    """What a text says by itself, read as CrewAI reads it: as JSON, or as an object within prose.

    Raises:
        ValueError: It is no such thing.
    """
    try:
        model = kind.model_validate_json(json.dumps(json.loads(text, strict=False)))
    except ValueError:
        found = _OBJECT.search(text)
        if found is None:
            raise
        model = kind.model_validate(json.loads(found.group(), strict=False))
    return model.model_dump() if as_dict else model


def in_form(converted: Any, kind: type[BaseModel], *, as_dict: bool) -> Any:
    """What CrewAI has converted an answer to, if it is what was asked for.

    Raises:
        ValueError: It gave the text back, or a text of a text.
    """
    if isinstance(converted, str):
        inner = json.loads(converted)
        if as_dict and isinstance(inner, dict):
            return inner
        return parsed(inner if isinstance(inner, str) else converted, kind, as_dict=as_dict)
    if isinstance(converted, BaseModel) or (as_dict and isinstance(converted, dict)):
        return converted
    raise ConverterError(f"a conversion gave a {type(converted).__name__}")


def unfit(wrong: str, text: str) -> Unfit:
    """The error for an answer that has not the form that was asked for.

    Args:
        wrong: Text of the error that says so.
        text: The answer.
    """
    told = "; ".join(complaints.faults(wrong))
    return Unfit(
        f"The answer is not in the form that was asked for: {told}.", text=text, attempts=1
    )


def given_up(last: Unfit, attempts: int, scope: Scope, run: Run) -> StopRun:
    """Stop the run on an answer that was not mended; resuming asks for it anew."""
    run.distrust_last_answer(scope)
    error = OutputInvalid(
        f"{last.message[:-1]} (after {attempts} tries).",
        task=scope.task_name,
        agent=scope.agent,
        attempts=attempts,
        text=last.fields["text"],
    )
    return StopRun(run.stop(error))


def _required(tools: Any) -> list[str]:
    """Names of those tools that a task may not be finished without."""
    seams = [seam for seam in map(seam_of, tools) if seam is not None]
    return sorted({seam.original.name for seam in seams if seam.options.required})


def _is_flow(executor: Any) -> bool:
    return hasattr(executor, "kickoff_async") and hasattr(executor, "state")


def _is_misfit(error: BaseException) -> bool:
    """Whether it says that an answer is not what was asked for, be it replayed."""
    return type(error).__name__ == "ValidationError"


def _writes_answers(executor: Any) -> bool:
    """Whether the model was told to mark its answers in the text."""
    messages = executor.state.messages if _is_flow(executor) else executor.messages
    told = (one.get("content") for one in messages if one.get("role") != "assistant")
    return any(isinstance(text, str) and "Final Answer:" in text for text in told)


@contextmanager
def _going_on(executor: Any, told: str | None) -> Iterator[None]:
    """Let an executor that is a flow go on in its conversation; it plans nothing anew."""
    if told is None:
        yield
        return
    before = getattr(executor, "_is_feedback_iteration", None)
    if before is None:  # 1.15.0 to before the release in which people can give feedback
        executor._finalize_called = False
        for name, value in _AFRESH.items():
            setattr(executor.state, name, value)
        executor.state.pending_tool_calls = []
        executor.state.todos = type(executor.state.todos)()
        yield
        return
    executor._prepare_feedback_iteration()
    try:
        yield
    finally:
        executor._is_feedback_iteration = before
