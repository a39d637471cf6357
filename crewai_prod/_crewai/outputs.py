"""Outputs of tasks and crews as JSON and back, with the caller's own classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from crewai import CrewOutput, Task
from crewai.tasks.output_format import OutputFormat
from crewai.tasks.task_output import TaskOutput
from pydantic import BaseModel

from crewai_prod import codec
from crewai_prod._crewai.usage import read_metrics
from crewai_prod.records import Usage

_PLAIN = ("name", "description", "expected_output", "summary", "raw", "agent")


def encode_output(output: TaskOutput, cached: Sequence[Any] = ()) -> str:
    """A task's output without its messages, which the journal stores as a conversation.

    Args:
        output: The output.
        cached: What the task has put into CrewAI's caches, as JSON values.
    """
    data: dict[str, Any] = {name: getattr(output, name, None) for name in _PLAIN}
    data["json_dict"] = output.json_dict
    data["output_format"] = OutputFormat(output.output_format).value
    data["pydantic"] = None if output.pydantic is None else _dump(output.pydantic)
    failures = getattr(output, "tool_failures", None) or []
    data["tool_failures"] = [failure.model_dump(mode="json") for failure in failures]
    if cached:
        data["cached"] = list(cached)
    return orjson.dumps(codec.to_tree(data)).decode()


def decode_output(
    text: str, task: Task | None, messages: Sequence[Mapping[str, Any]] = ()
) -> TaskOutput:
    """The output as the task gave it; its pydantic form is an instance of the task's own class."""
    data = codec.from_tree(orjson.loads(text))
    model = data.pop("pydantic")
    failures = data.pop("tool_failures", [])
    data.pop("cached", None)
    if failures:
        data["tool_failures"] = failures
    output = TaskOutput(**{**data, "messages": [_finished(message) for message in messages]})
    output.pydantic = _load(model, task)
    return output


def _finished(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as a finished task shows it: without content it says "", not None."""
    return {**message, "content": message.get("content") or ""}


def encode_result(result: Any) -> str | None:
    """What `kickoff` returned; None if a callback made something of another class of it."""
    if type(result) is not CrewOutput:
        return None
    data = {
        "raw": result.raw,
        "json_dict": result.json_dict,
        "pydantic": None if result.pydantic is None else _dump(result.pydantic),
        "tasks": [orjson.loads(encode_output(output)) for output in result.tasks_output],
    }
    return orjson.dumps(codec.to_tree(data)).decode()


def decode_result(
    text: str,
    tasks: Sequence[Task],
    usage: Usage,
    conversations: Sequence[Sequence[Mapping[str, Any]]],
) -> CrewOutput:
    """The crew's output as `kickoff` returned it when the run finished."""
    data = codec.from_tree(orjson.loads(text))
    outputs = []
    for position, entry in enumerate(data["tasks"]):
        task = tasks[position] if position < len(tasks) else None
        talk = conversations[position] if position < len(conversations) else ()
        outputs.append(decode_output(orjson.dumps(entry).decode(), task, talk))
    result = CrewOutput(
        raw=data["raw"],
        json_dict=data["json_dict"],
        tasks_output=outputs,
        token_usage=read_metrics(usage),
    )
    result.pydantic = _load(data["pydantic"], *tasks)
    return result


def encode_kickoff(result: Any, made: Any) -> str:
    """What `kickoff` returned.

    An after-kickoff callback may make something of another class of it: then the output it was
    `made` of is stored, and the callbacks are applied to it again. Where a crew of a class of its
    own returns no CrewOutput at all, its value is stored.
    """
    for output, complete in ((result, True), (made, False)):
        text = encode_result(output)
        if text is not None:
            return orjson.dumps({"complete": complete, "output": orjson.loads(text)}).decode()
    return orjson.dumps({"complete": True, "value": codec.to_tree(result)}).decode()


def decode_kickoff(
    text: str,
    tasks: Sequence[Task],
    usage: Usage,
    conversations: Sequence[Sequence[Mapping[str, Any]]],
) -> tuple[Any, bool]:
    """What was returned, and whether after-kickoff callbacks have been applied to it."""
    stored = orjson.loads(text)
    if "output" not in stored:
        return codec.from_tree(stored.get("value")), True
    output = orjson.dumps(stored["output"]).decode()
    return decode_result(output, tasks, usage, conversations), stored["complete"]


def dump_model(model: BaseModel) -> dict[str, Any]:
    """A model's fields as JSON values; as they are, for `codec`, where JSON cannot say them."""
    try:
        return model.model_dump(mode="json")
    except ValueError:  # bytes that are no text, or a class of which pydantic knows no JSON
        return model.model_dump()


def _dump(model: BaseModel) -> dict[str, Any]:
    return {"type": type(model).__qualname__, "data": dump_model(model)}


def _load(stored: Mapping[str, Any] | None, *tasks: Task | None) -> BaseModel | None:
    """An instance of one of the tasks' output classes: the one of that name, else the first."""
    if stored is None:
        return None
    kinds = [
        kind
        for task in tasks
        if task is not None
        for kind in (task.output_pydantic, getattr(task, "response_model", None), task.output_json)
        if kind is not None
    ]
    named = [kind for kind in kinds if kind.__qualname__ == stored["type"]]
    for kind in named or kinds:
        return kind.model_validate(stored["data"])
    return None
