"""What OpenAI's strict mode asks of a function's schema, from its guide on structured outputs.

Written from the documented rules alone, so that it shares nothing with what it checks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_EVERYWHERE = {"type", "description", "enum", "const", "anyOf", "$ref", "$defs"}
_OF_TYPE = {
    "string": {"pattern", "format"},
    "number": {"multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"},
    "integer": {"multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"},
    "boolean": set(),
    "null": set(),
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
}
_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
_MOST_PROPERTIES, _MOST_LEVELS, _MOST_VALUES, _MOST_TEXT = 5000, 10, 1000, 120_000


def violations(schema: dict[str, Any]) -> list[str]:
    """Everything about a schema that strict mode would refuse."""
    found = list(_check(schema, "$"))
    if schema.get("type") != "object" or "anyOf" in schema:
        found.append("$: the root must be an object, and no anyOf")
    names, values = list(_names(schema)), list(_values(schema))
    if len(names) > _MOST_PROPERTIES:
        found.append(f"{len(names)} properties")
    if len(values) > _MOST_VALUES:
        found.append(f"{len(values)} enum values")
    if sum(map(len, names)) + sum(len(str(v)) for v in values) > _MOST_TEXT:
        found.append("too much text")
    if _levels(schema) > _MOST_LEVELS:
        found.append(f"{_levels(schema)} levels of objects")
    return found


def _check(node: Any, at: str) -> Iterator[str]:
    if not isinstance(node, dict):
        yield f"{at}: not a schema"
        return
    if "anyOf" in node:
        if not node["anyOf"]:
            yield f"{at}: anyOf of nothing"
        for number, one in enumerate(node["anyOf"]):
            yield from _check(one, f"{at}|{number}")
        allowed = _EVERYWHERE
    else:
        kind = node.get("type")
        if kind not in _OF_TYPE:
            yield f"{at}: type {kind!r}"
            return
        allowed = _EVERYWHERE | _OF_TYPE[kind]
        yield from _CHECKS.get(kind, lambda *_: iter(()))(node, at)
    yield from (f"{at}: keyword {key!r}" for key in node.keys() - allowed)
    if not isinstance(node.get("description", ""), str):
        yield f"{at}: description"


def _object(node: dict[str, Any], at: str) -> Iterator[str]:
    if node.get("additionalProperties") is not False:
        yield f"{at}: additionalProperties must be false"
    properties = node.get("properties")
    if not isinstance(properties, dict):
        yield f"{at}: no properties"
        return
    if sorted(node.get("required", ())) != sorted(properties):
        yield f"{at}: every property must be required, and no other"
    for name, one in properties.items():
        yield from _check(one, f"{at}.{name}")


def _array(node: dict[str, Any], at: str) -> Iterator[str]:
    yield from _check(node.get("items"), f"{at}[]")


def _string(node: dict[str, Any], at: str) -> Iterator[str]:
    if "format" in node and node["format"] not in _FORMATS:
        yield f"{at}: format {node['format']!r}"
    if re.search(r"\(\?[=!<]", node.get("pattern", "")):
        yield f"{at}: lookaround in a pattern"


_CHECKS: dict[str, Any] = {"object": _object, "array": _array, "string": _string}


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    yield node
    inner = [*node.get("properties", {}).values(), *node.get("anyOf", ())]
    for one in [*inner, *([node["items"]] if "items" in node else [])]:
        yield from _nodes(one)


def _names(schema: dict[str, Any]) -> Iterator[str]:
    for node in _nodes(schema):
        yield from node.get("properties", {})


def _values(schema: dict[str, Any]) -> Iterator[Any]:
    for node in _nodes(schema):
        yield from node.get("enum", ())


def _levels(node: dict[str, Any]) -> int:
    inner = [*node.get("properties", {}).values(), *node.get("anyOf", ())]
    inner += [node["items"]] if "items" in node else []
    return (node.get("type") == "object") + max(map(_levels, inner), default=0)
