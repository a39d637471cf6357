"""How the arguments of a tool have to be that a person changes before it is called."""

from __future__ import annotations

from typing import Any

import orjson
from crewai.tools.base_tool import BaseTool
from pydantic import ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError

from crewai_prod._crewai.typed import Typed
from crewai_prod.arguments import Unfit, read_arguments
from crewai_prod.errors import ToolInputInvalid
from crewai_prod.misfits import told

POSITIONAL = "*"
"""Under this name stand arguments that were given by position."""


class ToolForm:
    """The form of one tool's arguments.

    Args:
        tool: Whose body is called with them.
        hidden: Names of arguments that no message shows.
    """

    def __init__(self, tool: BaseTool, hidden: frozenset[str]) -> None:
        self._tool = tool
        self._hidden = hidden

    def schema(self) -> str | None:
        """As JSON schema; None if nothing is known, or it cannot be said in one."""
        kind = self._inputs if isinstance(self._tool, Typed) else self._tool.args_schema
        if kind is None:
            return None
        try:
            return orjson.dumps(self._either(kind.model_json_schema())).decode()
        except (PydanticInvalidForJsonSchema, PydanticUserError, TypeError):
            return None

    def _either(self, shown: dict[str, Any]) -> dict[str, Any]:
        """A schema in which mappings may be said as models are shown them, and as what they are.

        The tool takes both, and a person sees the one that the model has chosen.
        """
        if self._inputs is None:
            return shown
        meant = self._inputs.meaning_.schema
        known = meant.get("properties", {})
        properties = {
            name: {"anyOf": [one, known[name]]} if name in known and _maps(known[name]) else one
            for name, one in shown["properties"].items()
        }
        return {**shown, "$defs": meant.get("$defs", {}), "properties": properties}

    def fits(self, arguments: dict[str, Any]) -> bool:
        """Whether the tool would be called with these; if not, nobody need be asked."""
        if self._inputs is None or POSITIONAL in arguments:
            return True
        try:
            self.read(arguments)
        except ToolInputInvalid:
            return False
        return True

    def read(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments as the tool is called with them.

        Raises:
            ToolInputInvalid: They do not fit.
        """
        if self._inputs is not None:
            return self._read_typed(arguments)
        schema = self._tool.args_schema
        if isinstance(self._tool, Typed) or not schema.model_fields or POSITIONAL in arguments:
            return arguments
        try:
            return schema.model_validate(arguments).model_dump()
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found[:5])
            raise ToolInputInvalid(said, tool=self._tool.name) from None

    @property
    def _inputs(self) -> Any:
        return self._tool._declared.inputs if isinstance(self._tool, Typed) else None

    def _read_typed(self, arguments: dict[str, Any]) -> dict[str, Any]:
        assert isinstance(self._tool, Typed)
        strict = self._tool._declared.options.strict
        try:
            read_arguments(self._inputs, arguments, strict=strict, hidden=self._hidden)
        except Unfit as error:
            raise ToolInputInvalid(told(error.misfits), tool=self._tool.name) from None
        return arguments


def _maps(node: Any) -> bool:
    """Whether there may be a mapping with any keys in what a schema describes."""
    if isinstance(node, list):
        return any(map(_maps, node))
    if not isinstance(node, dict):
        return False
    open_ended = node.get("additionalProperties", False) is not False
    return open_ended or "$ref" in node or any(map(_maps, node.values()))
