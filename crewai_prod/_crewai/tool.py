"""`tool`: CrewAI's decorator with types that hold, and a declaration for tools that exist."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypedDict, Unpack, overload

import orjson
from crewai.tools.base_tool import BaseTool
from crewai.utilities.pydantic_schema_utils import create_model_from_schema
from crewai.utilities.string_utils import sanitize_tool_name
from pydantic import BaseModel

from crewai_prod._crewai.takeover import put
from crewai_prod._crewai.typed import (
    Declared,
    ForeignTool,
    ForeignWork,
    FunctionTool,
    FunctionWork,
    as_declared,
    check_options,
    declared_options,
)
from crewai_prod.approval import Approval
from crewai_prod.arguments import Arguments, closed_model, read_signature
from crewai_prod.errors import UsageError
from crewai_prod.results import Results, awaited
from crewai_prod.retry import Retry
from crewai_prod.tooling import Effect, Reconcile, ToolOptions


class Options(TypedDict, total=False):
    """What can be declared about a tool: CrewAI's own options, and those of `ToolOptions`."""

    result_as_answer: bool
    max_usage_count: int | None
    effect: Effect | None
    idempotent: bool
    reconcile: Reconcile | None
    required: bool
    timeout: float | None
    retry: Retry | None
    max_calls: int | None
    max_output: int | None
    polling: bool
    loop_after: int | None
    sensitive: Collection[str]
    result_schema: Any
    strict: bool
    untrusted: bool
    approval: bool | Approval | None


_CREWAIS = ("result_as_answer", "max_usage_count")


@overload
def tool(target: str, /, **options: Unpack[Options]) -> Callable[[Any], BaseTool]: ...


@overload
def tool(**options: Unpack[Options]) -> Callable[[Any], BaseTool]: ...


@overload
def tool(target: Any, /, **options: Unpack[Options]) -> BaseTool: ...


def tool(target: Any = None, /, **options: Unpack[Options]) -> Any:
    """Make a tool whose arguments and results have types that hold, or declare one that exists.

    It is called like `crewai.tools.tool` (`@tool`, `@tool("Name")`, `@tool(effect="read")`), and
    with something that is a tool already: `tool(existing, effect="write")` gives a copy of it.

    Arguments must have the types of their annotations, at any depth, and none may be given that the
    function does not take; it is called with what is annotated (a model, not a mapping). The texts
    of the parameters come from `Field`, else from the docstring. What a model gets wrong it is told
    in a line, and may correct three times in a row. A result that is not of the annotated type is
    a `ToolOutputInvalid`.

    Args:
        target: A function or method, the name that one is to have, or a tool: of CrewAI, of an MCP
            server, or of LangChain. Of the latter the results are checked if there is a
            `result_schema`.
        **options: What `ToolOptions` says. `sensitive` takes any collection of names,
            `result_schema` any type, or a JSON schema of an object. `result_as_answer` and
            `max_usage_count` are CrewAI's.

    Returns:
        A tool of CrewAI, or the decorator that makes one.

    Raises:
        UsageError: An option that does not exist, a parameter without a type, a type that no model
            can be told of, or no docstring.
    """
    names = sys._getframe(1).f_locals
    if target is None or isinstance(target, str):
        return lambda made: _declare(made, target, dict(options), names)
    return _declare(target, None, dict(options), names)


def _declare(
    target: Any, name: str | None, options: dict[str, Any], names: Mapping[str, Any]
) -> BaseTool:
    fields = {key: options.pop(key) for key in _CREWAIS if key in options}
    called = name or getattr(target, "name", None) or getattr(target, "__name__", None)
    if not isinstance(called, str):
        raise UsageError(f"{target!r} has no name; give one: tool('Name')(...).")
    read = _options(called, options)
    if isinstance(target, BaseTool):
        return _existing(target, read, fields, name)
    if _is_foreign(target):
        return _foreign(target, called, read, fields)
    if not callable(target):
        raise UsageError(f"{target!r} is neither a function nor a tool.")
    return _function(target, called, read, fields, names)


def _options(name: str, given: dict[str, Any]) -> ToolOptions:
    if "sensitive" in given:
        sensitive = given["sensitive"]
        if isinstance(sensitive, str):
            raise UsageError(f"Tool {name!r}: `sensitive` takes a collection of names.")
        given["sensitive"] = frozenset(sensitive)
    if isinstance(given.get("result_schema"), dict):
        given["result_schema"] = create_model_from_schema(given["result_schema"])
    return ToolOptions.read(name, given)


def _existing(
    target: BaseTool, options: ToolOptions, fields: Mapping[str, Any], name: str | None
) -> BaseTool:
    before = declared_options(target)
    made = as_declared(target, options if before is None else options.over(before))
    put(made, **fields, **({"name": name} if name else {}))
    return made


def _function(
    func: Callable[..., Any],
    name: str,
    options: ToolOptions,
    fields: Mapping[str, Any],
    names: Mapping[str, Any],
) -> BaseTool:
    method = _is_method(func)
    signature = read_signature(func, name, strict=options.strict, bound=method, names=names)
    if not signature.told.text:
        raise UsageError(f"Tool {name!r} has no docstring: nothing tells a model what it does.")
    kind = options.result_schema or awaited(signature.returns)
    known = kind is not inspect.Parameter.empty
    results = Results(kind, name, strict=options.strict) if known else None
    declared = Declared(options, signature.kind, results, FunctionWork(func, signature))
    check_options(declared, name)
    made = FunctionTool(
        name=name,
        description=signature.told.text,
        func=func,
        args_schema=signature.kind,
        result_schema=kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None,
        **fields,
    )
    made._declared, made._belongs = declared, method
    return made


def _is_method(func: Callable[..., Any]) -> bool:
    """Whether this is a function in the body of a class, which will be given its object."""
    if not inspect.isfunction(func):
        return False
    parameters = list(inspect.signature(func).parameters.values())
    return bool(parameters) and parameters[0].name == "self" and "self" not in func.__annotations__


def _is_foreign(target: Any) -> bool:
    """Whether it looks like a tool of LangChain."""
    if isinstance(target, type):
        return False
    return callable(getattr(target, "invoke", None)) and isinstance(
        getattr(target, "name", None), str
    )


def _foreign(target: Any, name: str, options: ToolOptions, fields: Mapping[str, Any]) -> BaseTool:
    inputs = _foreign_inputs(target, sanitize_tool_name(name))
    kind = options.result_schema
    results = None if kind is None else Results(kind, name, strict=options.strict)
    declared = Declared(options, inputs, results, ForeignWork(target))
    check_options(declared, name)
    made = ForeignTool(
        name=name,
        description=getattr(target, "description", "") or name,
        args_schema=inputs,
        result_schema=None,
        **fields,
    )
    made._declared = declared
    return made


def _foreign_inputs(target: Any, name: str) -> type[Arguments]:
    """LangChain describes arguments by a model (of pydantic 1 or 2) or by a JSON schema."""
    schema = getattr(target, "args_schema", None)
    if isinstance(schema, type) and not issubclass(schema, BaseModel):
        describe = getattr(schema, "schema", None)
        schema = describe() if callable(describe) else None
    if isinstance(schema, dict):
        meant = orjson.loads(orjson.dumps(schema).replace(b"#/definitions/", b"#/$defs/"))
        meant["$defs"] = {**meant.pop("definitions", {}), **meant.get("$defs", {})}
        made = create_model_from_schema(meant, model_name=f"{name}_input")
        return closed_model(made, name, meant=meant)
    if schema is None:
        raise UsageError(f"Tool {name!r} does not say what its arguments are (`args_schema`).")
    return closed_model(schema, name)
