"""A crew, flow or agent as a crash test runs it: over its own journal, if asked at no cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from crewai import Agent, Crew, Task
from crewai.flow.flow import Flow
from crewai.llms.base_llm import BaseLLM
from crewai.tools.base_tool import BaseTool

from crewai_prod._crewai.adoption import listen
from crewai_prod._crewai.agent_run import HardenedAgent, harden_agent
from crewai_prod._crewai.agents import RunAgent
from crewai_prod._crewai.build import CREW_LLMS
from crewai_prod._crewai.counting import StandInLLM, count_requests, record_effects
from crewai_prod._crewai.crew import HardenedCrew, harden_crew
from crewai_prod._crewai.crew_run import RunCrew
from crewai_prod._crewai.flow import harden_flow
from crewai_prod._crewai.takeover import put, put_private, seam_class, seam_of
from crewai_prod._crewai.targets import is_hardened, kind_of, without_streaming
from crewai_prod._crewai.tasks import RunTask
from crewai_prod.errors import UsageError
from crewai_prod.options import Options
from crewai_prod.tooling import Outcome

_HARDENINGS: Mapping[str, Callable[..., Any]] = {
    "crew": harden_crew,
    "flow": harden_flow,
    "agent": harden_agent,
}
_LEFT_OUT: Mapping[str, Any] = {
    "memory": False,
    "knowledge": None,
    "knowledge_sources": None,
    "mcps": None,
    "apps": None,
}
"""What reaches for the network on its own."""


@dataclass(slots=True, kw_only=True)
class Rehearsal:
    """How a crew is rehearsed.

    Attributes:
        journal: The file of its runs.
        durability: As for `harden`.
        unknown: Outcomes of open steps, by step id.
        lease_seconds: As in `Settings`; None: the default.
        stand_in_model: Replace its models by a scripted one, and leave out what asks others.
        stand_in_tools: Replace the bodies of its tools by recorders.
        requests: Where to count model requests; None: nowhere.
        effects: Where to record what tools do; None: nowhere.
        notify: Is told of questions in place of the people who would be.
        notes: What was left out of the crew.
    """

    journal: str
    durability: Literal["process", "power"]
    unknown: Mapping[str, Outcome]
    lease_seconds: float | None = None
    stand_in_model: bool = False
    stand_in_tools: bool = False
    requests: Path | None = None
    effects: Path | None = None
    notify: Callable[[dict[str, Any]], object] = lambda told: None
    notes: list[str] = field(default_factory=list)
    _replaced: dict[int, tuple[Any, Any]] = field(default_factory=dict)

    def prepare(self, target: Any) -> Any:
        """The target over this journal; its options for tools are kept. The target is changed.

        Raises:
            UsageError: It is a flow and was to be spared its models or tools: they are made by its
                methods, and cannot be replaced from here.
        """
        base = seam_of(target).options if is_hardened(target) else Options.read()
        self._dress(target)
        without_streaming(target)  # nobody reads the pieces, and without a reader nothing runs
        changed: dict[str, Any] = {"durability": self.durability}
        if self.lease_seconds is not None:
            changed["lease_seconds"] = self.lease_seconds
        settings = base.settings.model_copy(update=changed)
        options = replace(base, settings=settings, journal=self.journal, unknown=self.unknown)
        if options.notify is not None:  # nobody is to be bothered by a rehearsal
            options = replace(options, notify=self.notify)
        listen()
        return _HARDENINGS[kind_of(target) or "crew"](target, options)

    def _dress(self, target: Any) -> None:
        if isinstance(target, Flow):
            if self.stand_in_model or self.stand_in_tools:
                raise UsageError(
                    "A flow's methods make its crews: nothing can stand in for their models and "
                    "tools. Crash-test it with --real-model --real-tools, against a test endpoint."
                )
        elif isinstance(target, Agent):
            self._dress_agent(target)
        else:
            self._dress_crew(target)

    def _dress_crew(self, crew: Crew) -> None:
        if self.stand_in_model:
            self._leave_out(crew)
            if getattr(crew, "planning", False) and crew.planning_llm is None:
                put(crew, planning_llm=StandInLLM(native=True, requests=self.requests))
        self._models(crew, CREW_LLMS)
        for agent in _agents(crew):
            self._dress_agent(agent)
        for task in crew.tasks:
            put(task, tools=self._tools(task.tools))
            self._guardrails(task)

    def _dress_agent(self, agent: Any) -> None:
        if self.stand_in_model:
            self._leave_out(agent)
        self._models(agent, ("llm", "function_calling_llm"))
        config = agent.__dict__.get("planning_config")
        if config is not None and getattr(config, "llm", None) is not None:
            llm = self._model(config.llm)
            put(agent, planning_config=config.model_copy(update={"llm": llm}))
        put(agent, tools=self._tools(agent.tools))

    def _models(self, holder: Any, names: tuple[str, ...]) -> None:
        for name in names:
            if holder.__dict__.get(name) is not None:
                put(holder, **{name: self._model(holder.__dict__[name])})

    def _model(self, llm: Any) -> Any:
        """What stands in for a model, or counts its requests. A name is left to CrewAI."""
        if self.stand_in_model and not isinstance(llm, StandInLLM):
            return self._once(llm, self._stand_in)
        if self.requests is None or not isinstance(llm, BaseLLM) or isinstance(llm, StandInLLM):
            return llm
        return self._once(llm, lambda real: count_requests(real, self.requests or Path()))

    def _stand_in(self, llm: Any) -> StandInLLM:
        asks = getattr(llm, "supports_function_calling", None)  # not every kind of model has it
        native = not isinstance(llm, BaseLLM) or bool(asks and asks())
        return StandInLLM(native=native, requests=self.requests)

    def _tools(self, tools: Any) -> Any:
        if not tools or not (self.stand_in_tools or self.effects):
            return tools
        return [self._tool(tool) if isinstance(tool, BaseTool) else tool for tool in tools]

    def _tool(self, tool: BaseTool) -> Any:
        acts = not self.stand_in_tools
        return self._once(tool, lambda real: record_effects(real, self.effects, acts=acts))

    def _guardrails(self, task: Task) -> None:
        """Guardrails that ask a model ask the one that stands in for it."""
        private = task.__pydantic_private__ or {}
        found = [private.get("_guardrail"), *(private.get("_guardrails") or [])]
        for guardrail in found:
            if isinstance(getattr(guardrail, "llm", None), BaseLLM):
                guardrail.llm = self._model(guardrail.llm)

    def _leave_out(self, holder: Any) -> None:
        for name, nothing in _LEFT_OUT.items():
            if holder.__dict__.get(name):
                put(holder, **{name: nothing})
                whose = getattr(holder, "role", None) or "the crew"
                self.notes.append(f"{name} of {whose} was left out: it asks models of its own.")
        put_private(holder, _memory=None)

    def _once(self, original: Any, make: Callable[[Any], Any]) -> Any:
        """What was shared stays shared."""
        if id(original) not in self._replaced:
            self._replaced[id(original)] = (original, make(original))
        return self._replaced[id(original)][1]


def _agents(crew: Crew) -> Iterator[Any]:
    """Every agent of the crew once, a task's own and the manager included."""
    found = [*crew.agents, *(task.agent for task in crew.tasks), crew.manager_agent]
    yield from {id(agent): agent for agent in found if agent is not None}.values()


def warm_up() -> None:
    """Make the classes that every hardened crew needs, so that a fork finds them made."""
    for mixin, original in (
        (HardenedCrew, Crew),
        (HardenedAgent, Agent),
        (RunCrew, Crew),
        (RunAgent, Agent),
        (RunTask, Task),
    ):
        seam_class(mixin, original)
