"""A crew's copy for one run: its agents, tasks, models and tools behind their seams, linked anew.

Every object of the user's is copied at most once, so that what was shared stays shared (one model
of two agents, one task in two contexts). State that CrewAI keeps on an object from one kickoff to
the next and that would mix runs (executors, counters, retries) starts afresh.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from crewai import Crew, Task
from crewai.agents.tools_handler import ToolsHandler
from crewai.llms.base_llm import BaseLLM
from crewai.tools.agent_tools.agent_tools import AgentTools
from crewai.utilities.llm_utils import create_llm

from crewai_prod._crewai.agents import AgentSeam, RunAgent
from crewai_prod._crewai.definition import task_name
from crewai_prod._crewai.llm import ModelSeam, take_over_llm
from crewai_prod._crewai.takeover import give_back, original_of, put, put_private, take_over
from crewai_prod._crewai.tasks import NestedTaskSeam, RunTask, TaskSeam
from crewai_prod._crewai.tools import ToolBench
from crewai_prod.run import Run
from crewai_prod.steps import Scope
from crewai_prod.tooling import ToolOptions

_SHOWN = "crewai_prod_shown"
CREW_LLMS = ("manager_llm", "planning_llm", "function_calling_llm", "chat_llm")
_AGENT_LLMS = ("llm", "function_calling_llm")
_KEPT_OF_CREW = frozenset({"id", "agents", "tasks", "manager_agent", "stream", *CREW_LLMS})
_KEPT_OF_AGENT = frozenset(
    {"crew", "tools", "agent_executor", "tools_handler", "planning_config", *_AGENT_LLMS}
)
_KEPT_OF_TASK = frozenset(
    {"id", "agent", "context", "tools", "_guardrail", "_guardrails", "_thread"}
)


class Workshop:
    """Takes over the objects of one crew for one run.

    Args:
        run: The run.
        options: What is declared about tools, by name.
        base: The scope of the kickoff, for a crew that is kicked off within a run.
        within: The same, for a kickoff that CrewAI gives no context of its own.
    """

    def __init__(
        self,
        run: Run,
        options: Mapping[str, ToolOptions],
        base: Scope | None = None,
        *,
        within: Scope | None = None,
    ) -> None:
        self._run = run
        self._base = base
        self._within = within
        self.bench = ToolBench(run, options, within)
        self._taken: dict[int, tuple[Any, Any]] = {}

    def llm(self, llm: Any) -> Any:
        """A model behind its seam; names of models and None stay as they are."""
        if not isinstance(llm, BaseLLM):
            return llm
        return self._once(llm, lambda: take_over_llm(llm, ModelSeam(self._run, self._within)))

    def config(self, config: Any) -> Any:
        """A planning configuration with its model behind its seam; CrewAI makes one of a name."""
        llm = getattr(config, "llm", None)
        if llm is None:
            return config
        return config.model_copy(update={"llm": self.llm(create_llm(llm))})

    def agent(self, agent: Any) -> Any:
        """An agent with its models and tools behind their seams."""
        if agent is None:
            return None
        return self._once(agent, lambda: self._agent(agent))

    def fill(self, crew: Any, held: Sequence[Any] | None) -> None:
        """Put taken-over agents, tasks and models into a copy of a crew.

        Args:
            crew: The copy.
            held: The user's tasks, if they are to show the run while it goes on.
        """
        if _SHOWN in getattr(crew.manager_agent, "__dict__", {}):
            put(crew, manager_agent=None)
        put(
            crew,
            agents=[self.agent(agent) for agent in crew.agents],
            manager_agent=self.agent(crew.manager_agent),
            **{name: self.llm(crew.__dict__.get(name)) for name in CREW_LLMS},
        )
        shown = held if held is not None else [None] * len(crew.tasks)
        taken = [
            self._task(position, task, one)
            for position, (task, one) in enumerate(zip(crew.tasks, shown, strict=True))
        ]
        for original, task in zip(crew.tasks, taken, strict=True):
            if isinstance(original.context, list):
                put(task, context=[self._same(one) for one in original.context])
        put(crew, tasks=taken)

    def _once(self, original: Any, make: Any) -> Any:
        if id(original) not in self._taken:
            self._taken[id(original)] = (original, make())
        return self._taken[id(original)][1]

    def _same(self, original: Any) -> Any:
        """The copy of an object, or the object itself if it belongs to no one here."""
        return self._taken.get(id(original), (None, original))[1]

    def _agent(self, agent: Any) -> Any:
        values = agent.__dict__
        taken = take_over(agent, RunAgent, AgentSeam(self._run, self.bench))
        put(taken, **{name: self.llm(values.get(name)) for name in _AGENT_LLMS if name in values})
        put(
            taken,
            tools=self.bench.take(values.get("tools")),
            agent_executor=None,
            tools_results=[],
        )
        handler = values.get("tools_handler")
        if isinstance(handler, ToolsHandler):
            put(taken, tools_handler=ToolsHandler(cache=handler.cache))
        put(taken, planning_config=self.config(values.get("planning_config")))
        put_private(
            taken,
            _times_executed=0,
            _last_messages=[],
            _tool_failures=[],
            _mcp_resolver=None,
            _mcp_clients=[],
        )
        return taken

    def _task(self, position: int, task: Task, held: Any) -> Any:
        taken = self._once(task, lambda: take_over(task, RunTask, self._seam(position, task, held)))
        put(
            taken,
            agent=self.agent(task.agent),
            tools=self.bench.take(task.tools),
            output=None,
            retry_count=0,
            processed_by_agents=set(),
        )
        private = task.__pydantic_private__ or {}
        put_private(
            taken,
            _guardrail_retry_counts={},
            _thread=None,
            _guardrail=self._guardrail(private.get("_guardrail")),
            _guardrails=[self._guardrail(one) for one in private.get("_guardrails") or []],
        )
        return taken

    def _seam(self, position: int, task: Task, held: Any) -> TaskSeam:
        if self._base is None:
            return TaskSeam(run=self._run, bench=self.bench, position=position, held=held)
        return NestedTaskSeam(
            run=self._run,
            bench=self.bench,
            position=position,
            held=held,
            base=self._base,
            name=task_name(task, position),
        )

    def _guardrail(self, guardrail: Any) -> Any:
        """A guardrail that asks a model asks the run's."""
        llm = getattr(guardrail, "llm", None)
        if not isinstance(llm, BaseLLM):
            return guardrail
        taken = copy.copy(guardrail)
        taken.llm = self.llm(llm)
        return taken


def show_manager(manager: Any, held: Crew) -> None:
    """Let a held crew show the manager CrewAI made, as after a bare kickoff.

    It is marked: to the next run this crew is one whose manager is still to be made.
    """
    if held.manager_agent is not None:
        return
    llm = original_of(manager.llm)
    put(manager, llm=llm, tools=AgentTools(agents=held.agents).tools(), crew=held)
    manager.__dict__[_SHOWN] = True
    put(held, manager_agent=manager, manager_llm=original_of(held.manager_llm))


def give_back_agent(taken: Any, held: Any) -> None:
    """Let an agent a user holds show what the run left, as after a bare kickoff."""
    give_back(taken, held, keep=_KEPT_OF_AGENT)


def give_back_crew(taken: Any, held: Crew) -> None:
    """Let the crew a user holds show what the run left, as after a bare kickoff."""
    give_back(taken, held, keep=_KEPT_OF_CREW)
    for agent, original in zip(taken.agents, held.agents, strict=False):
        give_back_agent(agent, original)
        put(original, crew=held)
    if taken.manager_agent is not None and held.manager_agent is not None:
        give_back_agent(taken.manager_agent, held.manager_agent)
    # A plan is appended to the descriptions: given back, it would be part of the next definition.
    kept = _KEPT_OF_TASK | {"description"} if taken.planning else _KEPT_OF_TASK
    for task, shown in zip(taken.tasks, held.tasks, strict=False):
        give_back(task, shown, keep=kept)
