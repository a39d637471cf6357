"""What a model says in a crash test: each tool once, its arguments made from its schema, then done.

A function of the conversation alone, so that a killed run and its resume are told the same. The
first tool is called alone, the others, where tools are called natively, all in one reply: both ways
break differently. Work is handed to coworkers in replies of their own, because CrewAI cannot have
one agent do two things at once; what was handed on is not handed on again, or it would never end.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]

ANSWER = "The crash test's scripted answer."
_HANDED_ON = "Work handed on by the crash test"
_TASK = "Current Task:"
_TOOL_IN_TEXT = re.compile(r"Tool Name: (.+)\nTool Arguments: (\{.*\})\nTool Description: (.*)")
_ACTION = re.compile(r"^Action: *(.+?) *$", re.MULTILINE)
_COWORKERS = re.compile(r"coworkers: *([^,\n]+)")
_SCHEMA_FOLLOWS = "schema"
_FORM = "Final Answer:"
_DEEP = 3
_DEEPEST = 8


def converse(
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    schema: Mapping[str, Any] | None = None,
) -> Any:
    """The scripted model's answer: a list of native tool calls, or text.

    Args:
        messages: The conversation.
        tools: Native tools, as the provider is given them; none on the text path.
        schema: JSON schema that the answer must follow, if the provider is given one.
    """
    start = _task_position(messages)
    asked, said = _text(messages[start]), messages[start + 1 :]
    if tools:
        return _native(asked, said, tools) or _answer(messages, schema)
    offered = _offered_in_text(messages)
    called = {name for m in said if m["role"] == "assistant" for name in _ACTION.findall(_text(m))}
    for name, (parameters, description) in offered.items():
        if name not in called and _may_call(parameters, asked):
            wanted = json.dumps(arguments(parameters, description))
            return f"Thought: I should use {name}\nAction: {name}\nAction Input: {wanted}"
    answer = _answer(messages, schema)
    in_form = any(_FORM in _text(m) for m in messages if m["role"] != "assistant")
    return f"Thought: I know enough\n{_FORM} {answer}" if in_form and not schema else answer


def arguments(parameters: Mapping[str, Any], description: str = "") -> dict[str, Any]:
    """Arguments that a tool's JSON schema accepts: the required ones.

    Args:
        parameters: The schema.
        description: The tool's; those that hand on work name the coworkers there.
    """
    made = _object(parameters, parameters, 0)
    coworkers = _COWORKERS.search(description)
    if "coworker" in made and coworkers:
        made["coworker"] = coworkers[1].strip()
        for name in made.keys() & {"task", "question"}:
            made[name] = _HANDED_ON
    return made


def synthesize(
    schema: Mapping[str, Any],
    *,
    name: str = "value",
    root: Mapping[str, Any] | None = None,
    depth: int = 0,
) -> Any:
    """The plainest value that a JSON schema accepts. Patterns are not followed."""
    root = schema if root is None else root
    if "$ref" in schema:
        return synthesize(_resolve(schema["$ref"], root), name=name, root=root, depth=depth)
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    kind, schema = _kind(schema, root, prefer_null=depth >= _DEEP)
    if kind == "object":
        return _object(schema, root, depth)
    if kind == "array":
        return _array(schema, name, root, depth)
    return _number(schema, kind) if kind in ("integer", "number") else _plain(schema, kind, name)


def _native(
    asked: str, said: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    called = [
        call["function"]["name"]
        for message in said
        if message["role"] == "assistant"
        for call in message.get("tool_calls") or ()
    ]
    plain: list[dict[str, Any]] = []
    handing_on: list[dict[str, Any]] = []
    for tool in tools:
        function = tool.get("function", tool)
        name, parameters = function["name"], function.get("parameters") or {}
        if name not in called and _may_call(parameters, asked):
            made = json.dumps(arguments(parameters, function.get("description") or ""))
            (handing_on if _hands_on(parameters) else plain).append(_call(name, made))
    if not plain:
        return handing_on[:1]
    return plain if called else plain[:1]


def _call(name: str, made: str) -> dict[str, Any]:
    return {"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": made}}


def _may_call(parameters: Mapping[str, Any], asked: str) -> bool:
    """Whether this is no handing on of work that was handed on before."""
    return _HANDED_ON not in asked or not _hands_on(parameters)


def _hands_on(parameters: Mapping[str, Any]) -> bool:
    return "coworker" in parameters.get("properties", {})


def _answer(messages: Sequence[Message], schema: Mapping[str, Any] | None) -> str:
    wanted = schema or _schema_in_text(messages)
    return ANSWER if wanted is None else json.dumps(synthesize(wanted))


def _schema_in_text(messages: Sequence[Message]) -> Mapping[str, Any] | None:
    """The schema that CrewAI writes into a prompt when it wants JSON, if it did."""
    for message in reversed(messages):
        text = _text(message)
        if message["role"] != "assistant" and _SCHEMA_FOLLOWS in text:
            for found in _objects(text[text.index(_SCHEMA_FOLLOWS) :]):
                inner = found.get("json_schema", {}).get("schema", found)
                if "properties" in inner:
                    return dict(inner)
    return None


def _objects(text: str) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder()
    position = text.find("{")
    while position >= 0:
        try:
            found, end = decoder.raw_decode(text, position)
        except ValueError:
            end = position + 1
        else:
            yield found
        position = text.find("{", end)


def _offered_in_text(messages: Sequence[Message]) -> dict[str, tuple[dict[str, Any], str]]:
    """Tools that are described in the prompt: name to parameters and description."""
    text = "\n".join(_text(message) for message in messages if message["role"] != "assistant")
    offered = {}
    for name, parameters, description in _TOOL_IN_TEXT.findall(text):
        for schema in _objects(parameters):
            offered[name] = (schema, description)
            break
    return offered


def _task_position(messages: Sequence[Message]) -> int:
    """Where the last task prompt stands; CrewAI adds user messages of its own after it."""
    asked = [n for n, message in enumerate(messages) if message["role"] == "user"]
    tasks = [n for n in asked if _TASK in _text(messages[n])]
    return (tasks or asked or [len(messages) - 1])[-1]


def _text(message: Message) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content)
    return content or ""


def _resolve(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = root
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)


def _kind(
    schema: Mapping[str, Any], root: Mapping[str, Any], *, prefer_null: bool
) -> tuple[str, Mapping[str, Any]]:
    """The JSON type to make, and the part of the schema that describes it."""
    for key in ("anyOf", "oneOf", "allOf"):
        options = [_resolve(o["$ref"], root) if "$ref" in o else o for o in schema.get(key, ())]
        for option in options:
            if (option.get("type") == "null") is prefer_null:
                return _kind(option, root, prefer_null=prefer_null)
        if options:
            return _kind(options[0], root, prefer_null=prefer_null)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if schema.get("enum"):
        kind = "enum"
    return kind, schema


def _object(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> dict[str, Any]:
    properties = schema.get("properties", {})
    required = schema.get("required", ()) if depth < _DEEPEST else ()
    return {
        name: synthesize(properties.get(name, {}), name=name, root=root, depth=depth + 1)
        for name in required
    }


def _array(schema: Mapping[str, Any], name: str, root: Mapping[str, Any], depth: int) -> list[Any]:
    least = max(schema.get("minItems", 1), 0 if depth >= _DEEPEST else 1)
    items = schema.get("prefixItems")
    if items:
        return [synthesize(item, name=name, root=root, depth=depth + 1) for item in items]
    item = schema.get("items") or {}
    return [synthesize(item, name=name, root=root, depth=depth + 1) for _ in range(least)]


def _number(schema: Mapping[str, Any], kind: str) -> float:
    """One step above the lowest, or the middle of a narrower range."""
    step = schema.get("multipleOf", 1)
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    value = step if low is None else max(step, math.ceil(low / step) * step)
    if low is not None and value == schema.get("exclusiveMinimum"):
        value += step
    if high is not None and (value > high or value == schema.get("exclusiveMaximum")):
        value = (high - step if low is None else low) if kind == "integer" else _middle(low, high)
    return int(value) if kind == "integer" else float(value)


def _middle(low: float | None, high: float) -> float:
    return high - 1 if low is None else (low + high) / 2


_FORMATS = {
    "date": "2026-01-02",
    "date-time": "2026-01-02T03:04:05Z",
    "time": "03:04:05Z",
    "duration": "PT1H",
    "email": "crash@test.example",
    "uri": "https://crash.test.example/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "192.0.2.1",
}


def _plain(schema: Mapping[str, Any], kind: str, name: str) -> Any:
    if kind == "enum":
        return schema["enum"][0]
    if kind in ("boolean", "null"):
        return True if kind == "boolean" else None
    text = _FORMATS.get(schema.get("format", ""), f"crash test {name}")
    return text.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength")]
