"""JSON schemas of a tool's arguments: as OpenAI's strict mode takes them, and back.

In strict mode a model must give every property, an object has no others, and a few keywords are all
there is. So what has a default may be null; a mapping is a list of keys and values; a recursive
type is written out a few levels deep; and what a keyword cannot say stands in the description.
`fit` undoes it: it turns what the model gave back into what the schema means, and finds what the
schema does not know, at any depth.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Node = dict[str, Any]

_LEVELS = 2
"""How often a recursive type is written out within itself."""

_KEPT: Mapping[str, frozenset[str]] = {
    "string": frozenset({"pattern", "format"}),
    "number": frozenset(
        {"multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
    ),
    "array": frozenset({"minItems", "maxItems"}),
}
_FORMATS = frozenset({"date-time", "date", "time", "duration"})
"""Those that CrewAI lets through; OpenAI takes a few more."""

_NOTES = {
    "minLength": "At least {} characters.",
    "maxLength": "At most {} characters.",
    "minProperties": "At least {} entries.",
    "maxProperties": "At most {} entries.",
}
_LOOKAROUND = re.compile(r"\(\?[=!<]")
_PLAIN = ("string", "number", "boolean", "null")
_KEY, _VALUE = "key", "value"
_UNWRITTEN = frozenset({"password", "binary"})


def strict_schema(schema: Mapping[str, Any]) -> Node:
    """A schema for OpenAI's strict mode that means the same as pydantic's.

    Args:
        schema: Of an object, with its `$defs`.

    Raises:
        ValueError: No value fits it: a type that contains itself without an end.
    """
    converted = _Converter(schema.get("$defs", {})).convert(schema, ())
    if converted is None:
        raise ValueError("No finite value fits this type: it always contains itself.")
    return converted


def fit(value: Any, schema: Mapping[str, Any]) -> tuple[Any, list[tuple[Any, ...]]]:
    """What a model gave for a strict schema, as the original schema means it.

    Null for a property that has a default and takes no null is left out, a list of keys and values
    where a mapping is meant becomes one.

    Returns:
        The value, and the paths of properties that the schema does not know; they are still there.
    """
    fitter = _Fitter(schema.get("$defs", {}))
    return fitter.fit(value, schema, ()), fitter.unknown


def fitting_names(schema: Mapping[str, Any]) -> frozenset[str]:
    """Names of which `fit` leaves a value as it is, if that is no list, no object and no null."""
    combined = {"$ref", "allOf", "anyOf", "oneOf"} & schema.keys()
    plain = schema.get("type") == "object" and not combined
    return frozenset(schema.get("properties", ())) if plain else frozenset()


def hidden_names(schema: Mapping[str, Any]) -> frozenset[str]:
    """Names of the properties, at any depth, that hold secrets."""
    found: set[str] = set()
    for node in _nodes(schema):
        properties = node.get("properties")
        if isinstance(properties, dict):
            found |= {name for name, one in properties.items() if _secret(one, schema)}
    return frozenset(found)


def _nodes(value: Any) -> Iterator[Node]:
    if isinstance(value, dict):
        yield value
        for one in value.values():
            yield from _nodes(one)
    elif isinstance(value, list):
        for one in value:
            yield from _nodes(one)


def _secret(node: Any, schema: Mapping[str, Any]) -> bool:
    defined = {f"#/$defs/{name}" for name in schema.get("$defs", {})}
    return any(
        one.get("format") == "password" or one.get("writeOnly") is True
        for one in _nodes(node)
        if one.get("$ref") not in defined
    )


# -- what a node means ----------------------------------------------------------------------------


@dataclass(slots=True)
class _Reader:
    """Reads nodes whose parts may be defined elsewhere."""

    defs: Mapping[str, Any]

    def merged(self, node: Mapping[str, Any]) -> Node:
        """The node with what it refers to."""
        while "$ref" in node or "allOf" in node:
            siblings = {key: node[key] for key in node if key not in ("$ref", "allOf", "$defs")}
            parts = [self.defs.get(_name(node["$ref"]), {})] if "$ref" in node else []
            node = _together([*parts, *node.get("allOf", ()), siblings])
        return dict(node)


def _name(ref: str) -> str:
    return ref.removeprefix("#/$defs/")


def _together(parts: Sequence[Mapping[str, Any]]) -> Node:
    made: Node = {}
    for part in parts:
        for key, value in part.items():
            if key == "properties":
                made[key] = {**made.get(key, {}), **value}
            elif key == "required":
                made[key] = [*made.get(key, ()), *value]
            else:
                made[key] = value
    return made


def _alternatives(node: Mapping[str, Any]) -> list[Any] | None:
    found: list[Any] | None = node.get("anyOf", node.get("oneOf"))
    if found is None and isinstance(node.get("type"), list):
        return [{**node, "type": kind} for kind in node["type"]]
    return found


def _map_value(node: Mapping[str, Any]) -> Any:
    """The schema of a mapping's values; None: the node is no mapping."""
    if node.get("type") != "object" or "properties" in node:
        return None
    patterns = list(node.get("patternProperties", {}).values())
    if patterns:
        return patterns[0] if len(patterns) == 1 else {"anyOf": patterns}
    values = node.get("additionalProperties", True)
    return None if values is False else values if isinstance(values, dict) else {}


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    return "number" if isinstance(value, float) else "string"


# -- to the model ---------------------------------------------------------------------------------


class _Converter(_Reader):
    """Writes a schema out for strict mode; a node that no finite value fits is None."""

    def convert(self, node: Any, within: tuple[str, ...]) -> Node | None:
        if not isinstance(node, dict):
            node = {}
        for name in _refs(node):
            if within.count(name) > _LEVELS:
                return None
            within = (*within, name)
        node = self.merged(node)
        if "const" in node or "enum" in node:
            made = _enumerated(node)
        elif (choices := _alternatives(node)) is not None:
            made = self._any_of(choices, within)
        elif node.get("type") == "object":
            made = self._object(node, within)
        elif node.get("type") == "array":
            made = self._array(node, within)
        elif "type" in node:
            made = _plain(node)
        else:
            made = _anything()
        return None if made is None else _described(made, node)

    def _any_of(self, choices: Sequence[Any], within: tuple[str, ...]) -> Node | None:
        return _one_of([self.convert(choice, within) for choice in choices])

    def _object(self, node: Node, within: tuple[str, ...]) -> Node | None:
        value = _map_value(node)
        if value is not None:
            return self._pairs(node, value, within)
        made: Node = {}
        for name, one in node.get("properties", {}).items():
            needed = name in node.get("required", ())
            converted = self.convert(one, within)
            if converted is None and needed:
                return None
            made[name] = converted if needed else _or_null(converted, self.merged(one))
        return _closed(made)

    def _pairs(self, node: Node, value: Any, within: tuple[str, ...]) -> Node:
        key = self.convert(node.get("propertyNames", {"type": "string"}), within)
        item = self.convert(value, within)
        note = "A mapping, as a list of its keys and values."
        pair = None if item is None else _closed({_KEY: key or {"type": "string"}, _VALUE: item})
        return {**_list_of(pair), "description": note}

    def _array(self, node: Node, within: tuple[str, ...]) -> Node | None:
        first = [self.convert(one, within) for one in node.get("prefixItems", ())]
        if first:
            note = "In this order: " + ", ".join(_said(one) for one in first) + "."
            items = _one_of(first)
        else:
            note = "Each item once." if node.get("uniqueItems") else ""
            items = self.convert(node.get("items", {}), within)
        if items is None:
            return None if node.get("minItems") else _list_of(None)
        kept = {key: node[key] for key in _KEPT["array"] if key in node}
        return {**_list_of(items), **kept, **({"description": note} if note else {})}


def _refs(node: Mapping[str, Any]) -> list[str]:
    found = [_name(node["$ref"])] if "$ref" in node else []
    for part in node.get("allOf", ()):
        found += _refs(part)
    return found


def _closed(properties: Mapping[str, Any]) -> Node:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _list_of(items: Node | None) -> Node:
    if items is None:
        return {"type": "array", "items": {"type": "null"}, "maxItems": 0}
    return {"type": "array", "items": items}


def _one_of(choices: Sequence[Node | None]) -> Node | None:
    flat: list[Node] = []
    for choice in choices:
        if choice is None:
            continue
        inner = choice["anyOf"] if choice.keys() == {"anyOf"} else [choice]
        flat += [one for one in inner if one not in flat]
    if not flat:
        return None
    return flat[0] if len(flat) == 1 else {"anyOf": flat}


def _anything() -> Node:
    """Strict mode knows no free-form values: these are what can be said without a schema."""
    plain = [{"type": kind} for kind in _PLAIN]
    return {"anyOf": [*plain, {"type": "array", "items": {"anyOf": plain}}]}


def _enumerated(node: Node) -> Node | None:
    values = [node["const"]] if "const" in node else node["enum"]
    kinds: dict[str, list[Any]] = {}
    for value in values:
        kinds.setdefault(_kind_of(value), []).append(value)
    return _one_of([_enum(kind, values) for kind, values in kinds.items()])


def _enum(kind: str, values: list[Any]) -> Node:
    return {"type": "null"} if kind == "null" else {"type": kind, "enum": values}


def _plain(node: Node) -> Node:
    kind = node["type"]
    kept = _KEPT.get("number" if kind == "integer" else kind, frozenset())
    made = {"type": kind, **{key: node[key] for key in node if key in kept}}
    if made.get("format") not in _FORMATS:
        made.pop("format", None)
    if _LOOKAROUND.search(str(made.get("pattern", ""))):  # OpenAI's patterns know no lookaround
        del made["pattern"]
    return made


def _or_null(made: Node | None, node: Node) -> Node:
    """What has a default: null stands for it."""
    described = {} if made is None else {k: v for k, v in made.items() if k == "description"}
    bare = None if made is None else {k: v for k, v in made.items() if k != "description"}
    if "default" in node and node["default"] is not None and not _is_secret(node):
        default = f"Default: {_short(node['default'])}."
        described["description"] = _sentences((described.get("description"), default))
    joined = _one_of([bare, {"type": "null"}])
    return {**(joined or {}), **described}


def _is_secret(node: Mapping[str, Any]) -> bool:
    return any(one.get("format") in _UNWRITTEN for one in _nodes(dict(node)))


def _described(made: Node, node: Node) -> Node:
    """With the text of the original, and what its keywords said that are gone."""
    said = [node.get("description"), made.get("description")]
    said += [text.format(node[key]) for key, text in _NOTES.items() if key in node]
    kind, form = node.get("type"), node.get("format")
    if kind == "string" and form and "format" not in made and form not in _UNWRITTEN:
        said.append(f"Format: {form}.")
    text = _sentences(said)
    return {**made, **({"description": text} if text else {})}


def _sentences(parts: Sequence[Any]) -> str:
    texts = [str(part).strip() for part in parts if part]
    ended = [text if text[-1:] in ".!?:;" else f"{text}." for text in texts[:-1]]
    return " ".join([*ended, *texts[-1:]])


def _said(node: Node | None) -> str:
    if node is None:
        return "nothing"
    if "anyOf" in node:
        return " or ".join(_said(one) for one in node["anyOf"])
    if "enum" in node:
        return " or ".join(_short(value) for value in node["enum"])
    return str(node["type"])


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


# -- from the model -------------------------------------------------------------------------------


@dataclass(slots=True)
class _Fitter(_Reader):
    """Walks a value along the schema that it is meant for."""

    unknown: list[tuple[Any, ...]] = field(default_factory=list)

    def fit(self, value: Any, node: Any, path: tuple[Any, ...]) -> Any:
        if not isinstance(value, (dict, list)) or not isinstance(node, dict):
            return value
        node = self.merged(node)
        choices = _alternatives(node)
        if choices is not None:
            chosen = self._choose(value, choices)
            return value if chosen is None else self.fit(value, chosen, path)
        if isinstance(value, list):
            return self._list(value, node, path)
        return self._object(value, node, path)

    def _object(self, value: dict[str, Any], node: Node, path: tuple[Any, ...]) -> Any:
        inner = _map_value(node)
        if inner is not None:
            return {key: self.fit(one, inner, (*path, key)) for key, one in value.items()}
        if node.get("type") != "object":
            return value
        properties, more = node.get("properties", {}), node.get("additionalProperties", False)
        made = {}
        for key, one in value.items():
            if key not in properties:
                if more is False:
                    self.unknown.append((*path, key))
                made[key] = self.fit(one, more, (*path, key))
            elif one is not None or self._keeps_null(key, node):
                made[key] = self.fit(one, properties[key], (*path, key))
        return made

    def _keeps_null(self, key: str, node: Node) -> bool:
        return key in node.get("required", ()) or self._takes_null(node["properties"][key])

    def _takes_null(self, node: Any) -> bool:
        if not isinstance(node, dict):
            return True
        node = self.merged(node)
        if (choices := _alternatives(node)) is not None:
            return any(self._takes_null(choice) for choice in choices)
        if "const" in node or "enum" in node:
            return None in ([node["const"]] if "const" in node else node["enum"])
        return bool(node.get("type", "null") == "null")

    def _list(self, value: list[Any], node: Node, path: tuple[Any, ...]) -> Any:
        inner = _map_value(node)
        if inner is not None:
            pairs = _read_pairs(value)
            return value if pairs is None else self._object(pairs, node, path)
        first = node.get("prefixItems", ())
        rest = node.get("items", {})
        return [
            self.fit(one, first[at] if at < len(first) else rest, (*path, at))
            for at, one in enumerate(value)
        ]

    def _choose(self, value: Any, choices: Sequence[Any]) -> Node | None:
        """The alternative that a value was meant for, as far as its shape says so."""
        nodes = [self.merged(choice) for choice in choices if isinstance(choice, dict)]
        nested = [self._choose(value, inner) for n in nodes if (inner := _alternatives(n))]
        nodes = [n for n in nodes if _alternatives(n) is None] + [n for n in nested if n]
        if isinstance(value, list):
            lists = [n for n in nodes if n.get("type") == "array"]
            maps = [n for n in nodes if _map_value(n) is not None]
            return next(iter(lists or maps), None)
        objects = [node for node in nodes if node.get("type") == "object"]
        return min(objects, key=lambda node: self._strangeness(value, node), default=None)

    def _strangeness(self, value: dict[str, Any], node: Node) -> tuple[bool, int, int]:
        properties = node.get("properties", {})
        if _map_value(node) is not None:
            return False, 0, 0
        other = any(
            key in value and self._contradicts(value[key], one) for key, one in properties.items()
        )
        open_ended = node.get("additionalProperties", False) is not False
        strange = 0 if open_ended else len(value.keys() - properties.keys())
        return other, strange, len(set(node.get("required", ())) - value.keys())

    def _contradicts(self, value: Any, node: Any) -> bool:
        """Whether a value that tells alternatives apart is another one."""
        node = self.merged(node) if isinstance(node, dict) else {}
        if "const" in node:
            return bool(value != node["const"])
        return value not in node.get("enum", (value,))


def _read_pairs(value: Sequence[Any]) -> dict[str, Any] | None:
    """A list of keys and values as the mapping that it means; None: it is none."""
    made: dict[str, Any] = {}
    for one in value:
        if not isinstance(one, dict) or one.keys() != {_KEY, _VALUE}:
            return None
        key = one[_KEY] if isinstance(one[_KEY], str) else json.dumps(one[_KEY])
        if key in made:
            return None
        made[key] = one[_VALUE]
    return made
