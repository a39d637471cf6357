"""The seams `doctor` proves on the installed CrewAI, each by a small crew that goes through it.

To add one: a function that takes a `Stage` and returns what is hardened, under `@probe`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

from crewai import Agent, Crew, Process, Task
from crewai.flow.flow import Flow, start
from crewai.tools import tool
from pydantic import BaseModel

from crewai_prod._crewai.harden import harden
from crewai_prod._crewai.probing import ANSWER, LOOK, Mode, Probe, Stage, say, use
from crewai_prod.records import StepKind

Make = Callable[[Stage], Any]
PROBES: list[Probe] = []
_MODES: tuple[Mode, ...] = ("kickoff", "kickoff_async", "akickoff")
_PLAN = '{"list_of_plans_per_task": [{"task_number": 1, "task": "t", "plan": "look closely"}]}'


def probe(name: str, **particular: Any) -> Callable[[Make], Make]:
    """Enter a probe into the table; `particular` are `Probe`'s fields."""

    def enter(make: Make) -> Make:
        PROBES.append(Probe(name=name, make=make, **particular))
        return make

    return enter


def run_probes(names: Collection[str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """Run them, all or those of these names; yields each one's name and what is wrong."""
    for one in PROBES:
        if names is not None and one.name not in names:
            continue
        try:
            # CrewAI prints panels, and warns about every single call of a model not its own.
            with _own_storage(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                wrong = one.run()
        except Exception as error:  # noqa: BLE001 - whatever this release of crewai does differently
            wrong = [f"{type(error).__name__}: {error}"]
        yield one.name, wrong


@contextmanager
def _own_storage() -> Iterator[None]:
    """CrewAI's data folder is another one: the outputs of the user's last kickoff stay there."""
    name = "CREWAI_STORAGE_DIR"
    before = os.environ.get(name)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ[name] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before


# -- models, tools and tasks ----------------------------------------------------------------------


def _model(stage: Stage) -> Crew:
    return stage.crew(stage.agent())


def _tool(stage: Stage) -> Crew:
    return stage.crew(stage.agent(LOOK, stage.look()))


for _mode in _MODES:
    probe(f"model call under {_mode}", mode=_mode)(_model)
for _native in (True, False):
    for _mode in _MODES:
        _path = "native" if _native else "text"
        probe(f"{_path} tool call under {_mode}", mode=_mode, native=_native, kind=StepKind.TOOL)(
            _tool
        )


@probe("tasks at the same time", within="tasks/1/Right", models=3)
def _at_once(stage: Stage) -> Crew:
    left, right, join = (stage.agent(role=role) for role in ("Left", "Right", "Join"))
    given = {"description": "Probe.", "expected_output": "o", "async_execution": True}
    tasks = [Task(agent=left, **given), Task(agent=right, **given)]
    joined = Task(description="Join.", expected_output="o", agent=join, context=list(tasks))
    return Crew(name="probe", agents=[left, right, join], tasks=[*tasks, joined])


# -- models that CrewAI brings in itself ----------------------------------------------------------


@probe("manager that CrewAI makes", within="tasks/0/Crew Manager")
def _manager(stage: Stage) -> Crew:
    return stage.crew(
        stage.agent(), task={"agent": None}, process=Process.hierarchical, manager_llm=stage.llm()
    )


@probe("delegation", within="/Helper", models=3)
def _delegation(stage: Stage) -> Crew:
    asked = '{"task": "Help.", "context": "none", "coworker": "Helper"}'
    lead = stage.agent(use("delegate_work_to_coworker", asked), allow_delegation=True)
    return stage.crew(lead, stage.agent(role="Helper"))


@probe("planner", within="run", models=2)
def _planner(stage: Stage) -> Crew:
    return stage.crew(stage.agent(), planning=True, planning_llm=stage.llm(_plan))


def _plan(messages: Any, tools: Any) -> str:
    return _PLAN


@probe("reasoning before a task", models=2)
def _reasoning(stage: Stage) -> Crew:
    ready = "Plan: look, then answer.\nREADY: I am ready to execute the task."
    return stage.crew(stage.agent(_first(ready, "reason", "plan"), reasoning=True))


class _Facts(BaseModel):
    height: int


@probe("converter of structured output", models=2)
def _converter(stage: Stage) -> Crew:
    def script(messages: Any, tools: Any) -> str:
        answered = any("plain words" in str(m.get("content")) for m in messages)
        return '{"height": 3}' if answered else say("plain words", messages, tools)

    # Without a tool CrewAI asks for the structure at once, and there is nothing to convert.
    return stage.crew(stage.agent(script, stage.look()), task={"output_pydantic": _Facts})


@probe("guardrail that asks a model", models=2)
def _guardrail(stage: Stage) -> Crew:
    def script(messages: Any, tools: Any) -> str:
        judges = any("guardrail" in str(m.get("content")).lower() for m in messages)
        return '{"valid": true, "feedback": null}' if judges else say(ANSWER, messages, tools)

    return stage.crew(stage.agent(script), task={"guardrail": "It must be polite."})


def _first(text: str, *marks: str) -> Callable[[Any, Any], Any]:
    """Say `text` to a prompt that has one of the marks in it, the answer to any other."""

    def script(messages: Any, tools: Any) -> str:
        asked = " ".join(str(m.get("content")) for m in messages).lower()
        return text if any(mark in asked for mark in marks) else say(ANSWER, messages, tools)

    return script


# -- other ways to run ----------------------------------------------------------------------------


@probe("streaming crew")
def _streaming(stage: Stage) -> Crew:
    return stage.crew(stage.agent(), stream=True)


@probe("crew kicked off in a tool", within="look~", kind=StepKind.MODEL)
def _nested(stage: Stage) -> Crew:
    def body(topic: str) -> str:
        return str(stage.crew(stage.agent(role="Inner")).kickoff())

    return stage.crew(stage.agent(LOOK, stage.look(body)))


@probe("flow and the crews in its methods", within="tasks/0", kind=StepKind.MODEL)
def _flow(stage: Stage) -> Flow[Any]:
    class Probed(Flow[dict[str, Any]]):
        @start()
        def begin(self) -> str:
            return str(stage.crew(stage.agent()).kickoff())

    return Probed()


@probe("single agent", inputs="Probe.", within="Clerk")
def _agent(stage: Stage) -> Agent:
    return stage.agent(LOOK, stage.look())


# -- models that users call themselves ------------------------------------------------------------


@probe("model of your own, hardened, in a tool", within="look~")
def _own_model(stage: Stage) -> Crew:
    llm = harden(stage.llm())
    return stage.crew(stage.agent(LOOK, stage.look(lambda topic: str(llm.call(topic)))))


@probe("model of your own, hardened, awaited in a tool", within="look~")
def _own_model_awaited(stage: Stage) -> Crew:
    llm = harden(stage.llm())

    @tool
    async def look(topic: str) -> str:
        """Look at a topic."""
        stage.acted.append("look")
        return str(await llm.acall(topic))

    return stage.crew(stage.agent(LOOK, look))


@probe("model of your own, not hardened, on the bill", within="look~", direct=1)
def _second_line(stage: Stage) -> Crew:
    llm = stage.llm()
    return stage.crew(stage.agent(LOOK, stage.look(lambda topic: str(llm.call(topic)))))
