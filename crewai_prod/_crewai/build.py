"""A crew's copy for one run: its agents, tasks, models and tools behind their seams, linked anew.

Every object of the user's is copied at most once, so that what was shared stays shared (one model
of two agents, one task in two contexts). State that CrewAI keeps on an object from one kickoff to
the next and that would mix runs (executors, counters, retries) starts afresh.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crewai import Crew, Task
from crewai.agents.tools_handler import ToolsHandler
from crewai.llms.base_llm import BaseLLM
from crewai.tools.agent_tools.agent_tools import AgentTools
from crewai.utilities.llm_utils import create_llm

from crewai_prod._crewai.agents import AgentSeam, RunAgent, fresh
from crewai_prod._crewai.caching import Caches
from crewai_prod._crewai.callbacks import observing, plain
from crewai_prod._crewai.converting import converter_class
from crewai_prod._crewai.definition import task_name
from crewai_prod._crewai.guardrails import checked, in_words, take_over_guardrail
from crewai_prod._crewai.llm import ModelSeam, take_over_llm
from crewai_prod._crewai.memory import MemorySeam, is_memory, take_over_memory
from crewai_prod._crewai.saves import Saves
from crewai_prod._crewai.takeover import (
    give_back,
    original_of,
    put,
    put_private,
    really_a,
    take_over,
)
from crewai_prod._crewai.tasks import NestedTaskSeam, TaskSeam, mixin_for
from crewai_prod._crewai.tools import ToolBench
from crewai_prod.run import Run
from crewai_prod.steps import Scope
from crewai_prod.tooling import ToolOptions

_SHOWN = "crewai_prod_shown"
CREW_LLMS = ("manager_llm", "planning_llm", "function_calling_llm", "chat_llm")
_AGENT_LLMS = ("llm", "function_calling_llm")
_KEPT_OF_CREW = frozenset(
    {
        "id",
        "agents",
        "tasks",
        "manager_agent",
        "stream",
        "step_callback",
        "task_callback",
        "memory",
        "_memory",
        "_cache_handler",
        *CREW_LLMS,
    }
)
_KEPT_OF_AGENT = frozenset(
    {
        "crew",
        "tools",
        "agent_executor",
        "tools_handler",
        "cache_handler",
        "planning_config",
        "guardrail",
        "step_callback",
        "memory",
        *_AGENT_LLMS,
    }
)
_KEPT_OF_TASK = frozenset(
    {
        "id",
        "agent",
        "context",
        "tools",
        "callback",
        "converter_cls",
        "_guardrail",
        "_guardrails",
        "_thread",
    }
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
        self._taken: dict[int, tuple[Any, Any]] = {}
        self._saves = Saves()
        self._memories = MemorySeam(run, self.llm, self._saves, within)
        self.bench = ToolBench(run, options, self.memory, within, base)
        self.caches = Caches(run, self.bench.polls)

    def llm(self, llm: Any) -> Any:
        """A model behind its seam; names of models and None stay as they are."""
        if not really_a(BaseLLM, llm):
            return llm
        return self._once(llm, lambda: take_over_llm(llm, ModelSeam(self._run, self._within)))

    def memory(self, memory: Any) -> Any:
        """A memory, or a view of one, behind its seam; True, False and None stay as they are."""
        if not is_memory(memory):
            return memory
        return self._once(memory, lambda: take_over_memory(memory, self._memories, self.memory))

    def model(self, named: Any) -> Any:
        """A model behind its seam, made first if only its name or settings are given."""
        return None if named is None else self.llm(create_llm(named))

    def guardrail(self, guardrail: Any) -> Any:
        """A guardrail behind its seam."""
        return checked(take_over_guardrail(guardrail, self.llm), self._run)

    def config(self, config: Any) -> Any:
        """A planning configuration with its model behind its seam."""
        if config is None:
            return None
        return config.model_copy(update={"llm": self.model(getattr(config, "llm", None))})

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
            memory=self.memory(crew.__dict__.get("memory")),
            step_callback=observing(crew.step_callback, "step", self._run),
            task_callback=observing(crew.task_callback, "any task", self._run),
            **{name: self.llm(crew.__dict__.get(name)) for name in CREW_LLMS},
        )
        private = crew.__pydantic_private__ or {}
        put_private(
            crew,
            _memory=self.memory(private.get("_memory")),
            _cache_handler=self.caches.take(crew._cache_handler),
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
        taken = take_over(agent, RunAgent, AgentSeam(self._run, self.bench, self._saves))
        fresh(taken)
        put(
            taken,
            tools=self.bench.take(values.get("tools")),
            memory=self.memory(values.get("memory")),
            **{name: self.model(values[name]) for name in _AGENT_LLMS if name in values},
        )
        handler = taken.__dict__.get("tools_handler")
        if isinstance(handler, ToolsHandler):
            handler.cache = self.caches.take(handler.cache)
        if "cache_handler" in values:
            put(taken, cache_handler=self.caches.take(values["cache_handler"]))
        put(taken, planning_config=self.config(values.get("planning_config")))
        guardrail = values.get("guardrail")
        if isinstance(guardrail, str):
            put(taken, guardrail=in_words(guardrail, taken.llm, self.llm))
        elif guardrail is not None:
            put(taken, guardrail=self.guardrail(guardrail))
        if values.get("step_callback") is not None:
            put(taken, step_callback=observing(values["step_callback"], "step", self._run))
        return taken

    def _task(self, position: int, task: Task, held: Any) -> Any:
        taken = self._once(
            task, lambda: take_over(task, mixin_for(task), self._seam(position, task, held))
        )
        put(
            taken,
            agent=self.agent(task.agent),
            tools=self.bench.take(task.tools),
            output=None,
            retry_count=0,
            processed_by_agents=set(),
            converter_cls=converter_class(task.converter_cls),
            callback=observing(task.callback, "task", self._run),
        )
        private = task.__pydantic_private__ or {}
        put_private(
            taken,
            _guardrail_retry_counts={},
            _thread=None,
            _guardrail=self.guardrail(private.get("_guardrail")),
            _guardrails=[self.guardrail(one) for one in private.get("_guardrails") or []],
        )
        return taken

    def _seam(self, position: int, task: Task, held: Any) -> TaskSeam:
        given = {
            "run": self._run,
            "bench": self.bench,
            "caches": self.caches,
            "saves": self._saves,
            "position": position,
            "held": held,
        }
        if self._base is None:
            return TaskSeam(**given)
        return NestedTaskSeam(**given, base=self._base, name=task_name(task, position))


def show_manager(manager: Any, held: Crew) -> None:
    """Let a held crew show the manager CrewAI made, as after a bare kickoff.

    It is marked: to the next run this crew is one whose manager is still to be made.
    """
    if held.manager_agent is not None:
        return
    llm = original_of(manager.llm)
    put(manager, llm=llm, tools=AgentTools(agents=held.agents).tools(), crew=held)
    put(manager, cache_handler=original_of(manager.cache_handler))
    manager.tools_handler.cache = original_of(manager.tools_handler.cache)
    manager.__dict__[_SHOWN] = True
    put(held, manager_agent=manager, manager_llm=original_of(held.manager_llm))


def give_back_agent(taken: Any, held: Any) -> None:
    """Let an agent a user holds show what the run left, as after a bare kickoff."""
    give_back(taken, held, keep=_KEPT_OF_AGENT)
    if getattr(taken, "step_callback", None) is not None and held.step_callback is None:
        put(held, step_callback=plain(taken.step_callback))  # a crew lends its own to its agents


def give_back_crew(taken: Any, held: Crew) -> None:
    """Let the crew a user holds show what the run left, as after a bare kickoff.

    To be called `undisturbed`.
    """
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
