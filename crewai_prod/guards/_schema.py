"""`output_schema`: what a task or crew puts out has the form that whoever reads it counts on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from crewai_prod.errors import UsageError
from crewai_prod.guards._types import Allow, Guard, GuardContext, Modify, Place, Reject, Verdict
from crewai_prod.guards._versions import version_of
from crewai_prod.misfits import Misfit, misfits_of, shown, told

_PLACES: Final[tuple[Place, ...]] = ("task_output",)
_FENCED: Final = re.compile(
    r"\s*```[ \t]*(?:json)?[ \t]*\n(?P<inner>.*?)\n?[ \t]*```\s*", re.DOTALL
)
_MOST: Final = 8
_LONGEST: Final = 4_000_000

_Judge = Callable[[Any, str], str | None]
"""Why a value does not fit, given also the text of it; None if it does."""


def output_schema(
    schema: Any,
    *,
    tasks: Collection[str] | None = None,
    places: Collection[Place] = _PLACES,
    strict: bool = False,
    name: str = "output_schema",
    order: int = 0,
) -> Guard:
    """A guard that rejects output which is not JSON of this form; the model is told what is wrong.

    JSON in one Markdown fence is taken out of it. Names that occur twice, NaN and Infinity are no
    JSON here.

    Args:
        schema: A type that pydantic knows (a model, `list[int]`, a union ...), or a JSON schema as
            a mapping. What a schema refers to is not fetched.
        tasks: Names of the tasks that it is about; default all.
        places: Where; default `task_output`.
        strict: With a type: `"5"` is no 5.
        name: Of the guard.
        order: Of the guard.

    Raises:
        UsageError: It is neither.
    """
    judge = _by_schema(schema) if isinstance(schema, Mapping) else _by_type(schema, strict)
    about = None if tasks is None else frozenset(tasks)

    def check(value: Any, context: GuardContext) -> Verdict:
        if about is not None and context.task not in about:
            return Allow()
        text = value if isinstance(value, str) else json.dumps(value)
        fenced = _FENCED.fullmatch(text)
        bare = fenced["inner"] if fenced else text
        try:
            tree = _read(bare)
        except (ValueError, RecursionError) as error:
            return Reject(f"It must be JSON and nothing else: {_said(error)}.")
        why = judge(tree, bare)
        if why is not None:
            return Reject(f"It does not have the form that is asked for. {why}")
        return Modify(bare, "taken out of its fence") if fenced else Allow()

    return Guard(
        name, check, frozenset(places), version_of("1", _described(schema), about, strict), order
    )


def _described(schema: Any) -> Any:
    """What a form is made of: a class of the same name may have other fields tomorrow."""
    if isinstance(schema, Mapping):
        return schema
    try:
        return TypeAdapter(schema).json_schema()
    except PydanticInvalidForJsonSchema:
        return repr(schema)


def _read(text: str) -> Any:
    """A text as the one JSON value that it is.

    Raises:
        ValueError: It is none, or may be read in two ways.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"it has more than {_LONGEST} characters")
    return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {json.dumps(twice)[:60]} occurs twice in one object")
    return made


def _no_number(said: str) -> Any:
    raise ValueError(f"{said} is no number")


def _said(error: Exception) -> str:
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error)


def _by_type(kind: Any, strict: bool) -> _Judge:
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
    except (PydanticSchemaGenerationError, TypeError) as error:
        raise UsageError(f"output_schema: {kind!r} is neither a type nor a JSON schema.") from error

    def judge(tree: Any, text: str) -> str | None:
        try:
            adapter.validate_json(text, strict=strict)
        except ValidationError as error:
            return told(misfits_of(error.errors(), tree))
        return None

    return judge


def _by_schema(schema: Mapping[str, Any]) -> _Judge:
    try:
        jsonschema = import_module("jsonschema")
        registry = import_module("referencing").Registry()  # one of our own: nothing is fetched
    except ImportError as error:
        raise UsageError("A JSON schema needs the package `jsonschema`. Install it.") from error
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise UsageError(f"output_schema: it is no JSON schema: {error.message}.") from error
    validator = kind(schema, registry=registry)

    def judge(tree: Any, text: str) -> str | None:
        faults = sorted(validator.iter_errors(tree), key=lambda one: list(map(str, one.path)))
        return told([_misfit(one) for one in faults[: _MOST + 1]]) if faults else None

    return judge


def _misfit(fault: Any) -> Misfit:
    rule = f"{fault.validator} {json.dumps(fault.validator_value, default=str)[:120]}"
    return Misfit(tuple(fault.absolute_path), rule, shown(fault.instance))
