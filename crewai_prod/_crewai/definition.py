"""What a crew's tasks are, as digests that say whether a stored output still holds.

A part that is a function is known by its name and source; what it calls is not looked into.
Callbacks, verbosity, rate limits, keys and addresses are no part of a definition.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from crewai import Crew, Process, Task
from crewai.llms.base_llm import BaseLLM
from crewai.tools.base_tool import BaseTool

from crewai_prod import codec
from crewai_prod._crewai.model_call import model_params
from crewai_prod._crewai.takeover import original_of, really_a
from crewai_prod.replay import TaskDefinition
from crewai_prod.steps import digest

_AGENT = ("system_template", "prompt_template", "response_template", "max_iter", "allow_delegation")


def define(crew: Crew, inputs_digest: str) -> list[TaskDefinition]:
    """The crew's tasks before their inputs are filled in, in order."""
    definitions: list[TaskDefinition] = []
    by_task: dict[int, int] = {}
    for position, task in enumerate(crew.tasks):
        parts = _parts(crew, task)
        parts["inputs"] = inputs_digest
        read = _upstream(task, position, by_task)
        parts["context"] = _digest(
            [one if isinstance(one, str) else definitions[one].fingerprint for one in read]
        )
        fingerprint = _digest(parts)
        by_task[id(task)] = position
        definitions.append(
            TaskDefinition(
                position=position,
                name=task_name(task, position),
                fingerprint=fingerprint,
                parts=parts,
                reads=tuple(one for one in read if isinstance(one, int)),
            )
        )
    return definitions


def define_agent(agent: Any, inputs_digest: str, output: Any) -> TaskDefinition:
    """An agent that is kicked off by itself, as the one task of its run."""
    described: dict[str, Any] = {
        "agent": _agent(agent),
        "model": _model(agent.llm),
        "tools": sorted(_tool(tool) for tool in agent.tools or []),
        "guardrails": [_function(agent.guardrail)],
        "output": output,
    }
    parts = {name: _digest(value) for name, value in described.items()}
    parts["inputs"] = inputs_digest
    return TaskDefinition(position=0, name=agent.role, fingerprint=_digest(parts), parts=parts)


def define_flow(flow: Any, inputs_digest: str) -> TaskDefinition:
    """A flow as the one task of its run; its parts are its methods, by name."""
    name = flow.name or original_of(flow).__class__.__name__
    parts = {
        str(method): _digest([_function(bound), flow._definition.methods.get(str(method))])
        for method, bound in flow._methods.items()
    }
    parts["inputs"] = inputs_digest
    return TaskDefinition(position=0, name=name, fingerprint=_digest(parts), parts=parts)


def task_name(task: Task, position: int) -> str:
    """What a task is called in the journal, logs and errors."""
    return task.name or f"task {position}"


def _digest(value: Any) -> str:
    return digest(codec.meaning(value))


def _parts(crew: Crew, task: Task) -> dict[str, str]:
    hierarchical = crew.process is Process.hierarchical
    agent = crew.manager_agent if hierarchical and crew.manager_agent is not None else task.agent
    tools = list(task.tools or getattr(agent, "tools", None) or [])
    model = crew.manager_llm if hierarchical and crew.manager_agent is None else None
    described: dict[str, Any] = {
        "description": getattr(task, "_original_description", None) or task.description,
        "expected_output": getattr(task, "_original_expected_output", None) or task.expected_output,
        "agent": _agent(agent),
        "coworkers": [_agent(one) for one in crew.agents] if hierarchical else None,
        "model": _model(model if model is not None else getattr(agent, "llm", None)),
        "tools": sorted(_tool(tool) for tool in tools),
        "guardrails": [_function(g) for g in _guardrails(task)],
        "output": [task.output_pydantic, task.output_json, getattr(task, "response_model", None)],
    }
    return {name: _digest(value) for name, value in described.items()}


def _upstream(task: Task, position: int, by_task: Mapping[int, int]) -> list[int | str]:
    """The tasks whose output this one reads: those it names, else all before it.

    Returns:
        Positions; of a task that is not the crew's, its key.
    """
    context = task.context
    if not context:
        return []
    if isinstance(context, list):
        return [by_task.get(id(one), one.key) for one in context]
    return list(range(position))


def _agent(agent: Any) -> dict[str, Any]:
    if agent is None:
        return {}
    private = getattr(agent, "__pydantic_private__", None) or {}
    described = {
        name: private.get(f"_original_{name}") or getattr(agent, name, None)
        for name in ("role", "goal", "backstory")
    }
    values = agent.__dict__
    return described | {name: values.get(name) for name in _AGENT if name in values}


def _model(llm: Any) -> Any:
    return (
        model_params(llm, None, None, llm.__dict__.get("response_format"))
        if really_a(BaseLLM, llm)
        else llm
    )


def _tool(tool: Any) -> str:
    """As the user made it: what is declared about it is no part of what it is."""
    tool = original_of(tool)
    if not really_a(BaseTool, tool):
        return str(getattr(tool, "name", type(tool).__qualname__))
    schema = tool.args_schema.model_json_schema() if tool.args_schema else {}
    return f"{tool.name} {_digest([tool.description, schema])}"


def _guardrails(task: Task) -> list[Any]:
    several = getattr(task, "guardrails", None) or []
    one = getattr(task, "guardrail", None)
    listed = list(several) if isinstance(several, (list, tuple)) else [several]
    return ([one] if one is not None else []) + listed


def _function(value: Any) -> Any:
    if isinstance(value, str) or not callable(value):
        return value
    value = inspect.unwrap(value)
    try:
        source = inspect.getsource(value)
    except (OSError, TypeError):
        source = ""
    return [getattr(value, "__qualname__", type(value).__qualname__), source]
