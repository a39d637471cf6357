"""The seam in front of an agent: what it does is recorded as its own.

CrewAI gives an agent one executor, which refuses to do two things at once. Two delegations to one
coworker in one reply, or a delegation back to whoever delegated, would fail by it: an agent that is
at work already is stood in for by a copy of it.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from crewai.agents.tools_handler import ToolsHandler
from crewai.utilities.agent_utils import parse_tools

from crewai_prod._crewai.converting import RunConverter
from crewai_prod._crewai.event_scope import events_ended
from crewai_prod._crewai.guarded_tasks import last_judged
from crewai_prod._crewai.guardrails import judging
from crewai_prod._crewai.places import scope_of
from crewai_prod._crewai.repeating import RunToolsHandler
from crewai_prod._crewai.reviewing import reviewed
from crewai_prod._crewai.saves import Saves
from crewai_prod._crewai.stop import StopRun
from crewai_prod._crewai.takeover import Seamed, original_of, put, put_private, seam_of, take_over
from crewai_prod._crewai.tool_call import worker_failures
from crewai_prod._crewai.tools import ToolBench
from crewai_prod.bodies import current_scope, in_users_code
from crewai_prod.deadlines import ends_within, seconds_left
from crewai_prod.errors import ContextOverflow, CrewProdError, DeadlineExceeded, EmptyResponse
from crewai_prod.run import Run
from crewai_prod.steps import Scope, path_part

FRESH: dict[str, Any] = {"agent_executor": None, "tools_results": []}
FRESH_PRIVATE: dict[str, Any] = {
    "_times_executed": 0,
    "_last_messages": [],
    "_tool_failures": [],
    "_mcp_resolver": None,
    "_mcp_clients": [],
}
"""What CrewAI keeps on an agent and what would mix one piece of work with another."""


_NO_ANSWER = "Agent completed execution but produced no final output."
_ABOUT = 0.1
"""Seconds by which CrewAI's clock and ours may differ."""


@dataclass(frozen=True, slots=True)
class AgentSeam:
    """What an agent needs to know of its run."""

    run: Run
    bench: ToolBench
    saves: Saves
    converted: dict[str, Any] = field(default_factory=dict)
    """Answers whose form has been judged, and what was made of each."""
    busy: threading.Lock = field(default_factory=threading.Lock)
    """Held while it is at work."""


class RunAgent(Seamed):
    """An agent of a hardened run."""

    def execute_task(self, task: Any, context: Any = None, tools: Any = None) -> Any:
        """The original's, within the agent's scope."""
        with _at_work(self) as worker:
            given, run = _equipped(worker, tools), seam_of(self).run
            result = super(RunAgent, worker).execute_task(task, context, given)  # type: ignore[misc]
            return last_judged(run, scope_of(run), task, _answered(run, worker, result))

    async def aexecute_task(self, task: Any, context: Any = None, tools: Any = None) -> Any:
        """The original's, within the agent's scope."""
        with _at_work(self) as worker:
            given, run = _equipped(worker, tools), seam_of(self).run
            result = await super(RunAgent, worker).aexecute_task(task, context, given)  # type: ignore[misc]
            answer, scope = _answered(run, worker, result), scope_of(run)
            if not run.guarding.on:
                return answer
            return await run.guarding.in_thread(last_judged, run, scope, task, answer)

    def set_cache_handler(self, cache_handler: Any) -> None:
        """The original's, which begins without a last call; some releases do so within a run."""
        super().set_cache_handler(cache_handler)  # type: ignore[misc]
        _watch_calls(self)

    def get_output_converter(self, *args: Any, **kwargs: Any) -> Any:
        """The original's, behind its seam; it asks once, what it cannot read is sent back."""
        made = super().get_output_converter(*args, **kwargs)  # type: ignore[misc]
        taken = take_over(made, RunConverter, seam_of(self).run)
        put(taken, max_attempts=1)
        return taken

    def create_agent_executor(self, *args: Any, **kwargs: Any) -> Any:
        """The original's; the answers it comes to are looked at."""
        super().create_agent_executor(*args, **kwargs)  # type: ignore[misc]
        reviewed(self.agent_executor)  # type: ignore[attr-defined]

    def _build_output_from_result(
        self, result: Any, executor: Any, response_format: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """For `Agent.kickoff`: what was made of an answer when it was judged is not made again."""
        said = result.get("output")
        converted = seam_of(self).converted.get(said) if isinstance(said, str) else None
        asked = response_format if converted is None else None
        output = super()._build_output_from_result(result, executor, asked, *args, **kwargs)  # type: ignore[misc]
        output.pydantic = output.pydantic if converted is None else converted
        return output

    def _save_kickoff_to_memory(self, *args: Any, **kwargs: Any) -> None:
        """For `Agent.kickoff`: it ends when what it remembers is saved."""
        super()._save_kickoff_to_memory(*args, **kwargs)  # type: ignore[misc]
        seam: AgentSeam = seam_of(self)
        seam.saves.wait(scope_of(seam.run))

    def _execute_and_build_output(self, *args: Any, **kwargs: Any) -> Any:
        """For `Agent.kickoff`; a guardrail's complaint leads here again."""
        begin_again(seam_of(self).run)
        with in_time(seam_of(self).run, self):
            return super()._execute_and_build_output(*args, **kwargs)  # type: ignore[misc]

    async def _execute_and_build_output_async(self, *args: Any, **kwargs: Any) -> Any:
        """The asynchronous twin."""
        begin_again(seam_of(self).run)
        with in_time(seam_of(self).run, self):
            return await super()._execute_and_build_output_async(*args, **kwargs)  # type: ignore[misc]

    def _process_kickoff_guardrail(self, *args: Any, **kwargs: Any) -> Any:
        """For `Agent.kickoff`; it calls itself with each complaint."""
        if kwargs.get("retry_count"):
            return super()._process_kickoff_guardrail(*args, **kwargs)  # type: ignore[misc]
        with judging(None, self, self.guardrail_max_retries):  # type: ignore[attr-defined]
            return super()._process_kickoff_guardrail(*args, **kwargs)  # type: ignore[misc]

    def _prepare_kickoff(self, *args: Any, **kwargs: Any) -> Any:
        """For `Agent.kickoff`: also the tools CrewAI adds there are taken over."""
        executor, inputs, info, parsed = super()._prepare_kickoff(*args, **kwargs)  # type: ignore[misc]
        seam: AgentSeam = seam_of(self)
        tools, before = seam.bench.equip(executor.original_tools) or [], executor.original_tools
        if [id(one) for one in tools] != [id(one) for one in before]:
            parsed = parse_tools(tools)
            put(executor, original_tools=tools, tools=parsed)
        reviewed(executor)
        return executor, inputs, info, parsed


def fresh(agent: Any) -> None:
    """Let an agent begin without what other pieces of work left on it."""
    put(agent, **{name: copy.copy(value) for name, value in FRESH.items()})
    put_private(agent, **{name: copy.copy(value) for name, value in FRESH_PRIVATE.items()})
    _watch_calls(agent)


def _watch_calls(agent: Any) -> None:
    """Let an agent begin without a last call, which keeps it from calling its tool again."""
    handler = agent.__dict__.get("tools_handler")
    if isinstance(handler, ToolsHandler):
        put(agent, tools_handler=RunToolsHandler.of(handler.cache, seam_of(agent).bench.polls))


def begin_again(run: Run) -> None:
    """The agent of this scope is sent to work, perhaps not for the first time."""
    current = current_scope.get()
    if current is not None and current[0] is run:
        run.enter(current[1], retry=False)


@contextmanager
def in_scope(run: Run, scope: Scope) -> Iterator[None]:
    """Make the steps of this block belong to `scope`."""
    token = current_scope.set((run, scope))
    try:
        yield
    finally:
        current_scope.reset(token)


@contextmanager
def in_kickoff(run: Run, scope: Scope) -> Iterator[None]:
    """Make the steps of a kickoff belong to `scope`, and leave none of its events begun."""
    with events_ended(), in_scope(run, scope), ends_within(run.braking.brakes.seconds_left()):
        yield


@contextmanager
def _at_work(agent: Any) -> Iterator[Any]:
    """The agent's scope, and who is to work in it.

    After an error CrewAI calls an agent within itself: it stays there.
    """
    seam: AgentSeam = seam_of(agent)
    run, current = seam.run, current_scope.get()
    scope = current[1] if current is not None and current[0] is run else Scope()
    if scope.agent == agent.role and scope.path.endswith("/" + path_part(agent.role)):
        run.enter(scope, retry=True)
        yield agent
        return
    inner = scope.of_agent(agent.role)
    run.enter(inner, retry=False)
    with in_scope(run, inner), _whoever_is_free(agent, seam) as worker:
        try:
            with in_time(run, agent):
                yield worker
        except Exception as error:
            failures = worker_failures.get()
            if failures is not None and not isinstance(error, StopRun):
                failures.append((agent.role, error))
            raise


@contextmanager
def in_time(run: Run, agent: Any) -> Iterator[None]:
    """Hold an agent to its `max_execution_time`, and say typed that it is over.

    CrewAI waits for what an agent does when its time is over; here each call is left then.
    """
    limit = getattr(agent, "max_execution_time", None)
    with ends_within(limit if isinstance(limit, (int, float)) and limit > 0 else None):
        try:
            yield
        except TimeoutError as error:
            left = seconds_left(None)
            if isinstance(error, CrewProdError) or limit is None or left is None or left > _ABOUT:
                raise
            text = f"Agent {agent.role!r} may take {limit} s for a task, and they are over."
            raise _final(run, DeadlineExceeded(text, agent=agent.role)) from error


def _equipped(agent: Any, tools: Any) -> Any:
    """The tools an agent works with: those of the task, or its own."""
    return seam_of(agent).bench.equip(tools or agent.tools) or tools


def _answered(run: Run, agent: Any, result: Any) -> Any:
    """What an agent has answered.

    CrewAI's executor says a sentence of its own where it has come to no answer, which happens when
    it has shortened a conversation that was too long: that is no answer.
    """
    if result != _NO_ANSWER:
        return result
    overflowed = run.has_overflowed(scope_of(run))
    error: CrewProdError = ContextOverflow() if overflowed else EmptyResponse()
    error.agent = agent.role
    raise _final(run, error)


def _final(run: Run, error: CrewProdError) -> Exception:
    """What the layers above are to see: the end of the run, or what the user's code asked for."""
    return error if in_users_code() else StopRun(run.stop(error))


@contextmanager
def _whoever_is_free(agent: Any, seam: AgentSeam) -> Iterator[Any]:
    """The agent, or a copy of it while it is at work; the agent shows what its copy did last."""
    if seam.busy.acquire(blocking=False):
        try:
            yield agent
        finally:
            seam.busy.release()
        return
    other = take_over(agent, RunAgent, AgentSeam(seam.run, seam.bench, seam.saves))
    fresh(other)
    assert original_of(other) is original_of(agent)
    try:
        yield other
    finally:
        put_private(agent, _last_messages=other.last_messages)
