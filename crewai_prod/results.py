"""What a tool says it returns, checked against what it returned, and told to a model."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Coroutine
from typing import Any, get_args, get_origin

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from crewai_prod.arguments import is_json
from crewai_prod.errors import UsageError
from crewai_prod.misfits import Misfit, misfits_of


class Results:
    """The results of one tool.

    Args:
        kind: What they are: any type that pydantic knows, or a class.
        tool: Its name.
        strict: Whether they must have their types. False: `"5"` will do for 5.

    Raises:
        UsageError: pydantic cannot validate this type.
    """

    def __init__(self, kind: Any, tool: str, *, strict: bool) -> None:
        self.kind = kind
        self._strict = True if strict else None
        self._adapter = _adapter(kind, tool)

    def misfits(self, value: Any) -> list[Misfit]:
        """What is wrong with a result."""
        try:
            self._read(value, self._strict)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            return misfits_of(found, value)
        except RecursionError:
            return [Misfit((), "a value that is not nested as deep", "a deeper one")]
        return []

    def say(self, value: Any) -> str:
        """A result as a model reads it: text as it is, what has a structure as compact JSON.

        What a journal gave back is a mapping where the tool returned an object; it is told in the
        same words.
        """
        if isinstance(value, str):
            return str(value)
        try:
            read = self._read(value, None)
            data = self._adapter.dump_python(read, mode="json")
        except (ValueError, TypeError, RecursionError):  # pydantic's own errors are ValueErrors
            return str(value)
        if isinstance(data, (dict, list)):
            return json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        return data if isinstance(data, str) else str(value)

    def __deepcopy__(self, memo: object = None) -> Results:
        """What is known of a type is not copied."""
        return self

    def _read(self, value: Any, strict: bool | None) -> Any:
        if isinstance(value, (dict, list)) and is_json(value):
            return self._adapter.validate_json(json.dumps(value), strict=strict)
        return self._adapter.validate_python(value, strict=strict)


def awaited(kind: Any) -> Any:
    """The type of what comes out in the end, if this is one of something to be awaited."""
    return get_args(kind)[-1] if get_origin(kind) in (Awaitable, Coroutine) else kind


def _adapter(kind: Any, tool: str) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(kind)
    except PydanticUserError as error:
        if error.code == "typed-dict-version":
            raise UsageError(
                f"Tool {tool!r}: {str(error).splitlines()[0]} (for the type of its result)"
            ) from error
    try:  # a class that pydantic knows nothing of: what is returned must be one
        return TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticUserError, NameError) as error:
        raise UsageError(
            f"Tool {tool!r} says that it returns {kind!r}, which cannot be validated: "
            f"{str(error).splitlines()[0]}"
        ) from error
