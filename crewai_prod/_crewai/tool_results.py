"""What a tool returned or raised, as it is recorded, told to a model, and given back on resume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from crewai_prod import codec
from crewai_prod._crewai.stop import FailureText, is_tool_failure, tool_failure
from crewai_prod.errors import CrewProdError, ToolError
from crewai_prod.failures import ReplayedError, revive
from crewai_prod.paging import Page


def encode_result(result: Any) -> tuple[str, str | None]:
    """JSON of what a tool returned, and the text that a message may repeat."""
    if isinstance(result, Page):
        return codec.encode(result.place), None
    if is_tool_failure(result):
        failure = codec.to_tree(result.model_dump(mode="json"))
        return orjson.dumps({"$": "tool_failure", "v": failure}).decode(), None
    return codec.encode(result), result if isinstance(result, str) else None


def decode_result(text: str) -> Any:
    """What a tool returned, as `encode_result` wrote it."""
    tree = orjson.loads(text)
    if isinstance(tree, dict) and tree.get("$") == "tool_failure":
        from crewai.tools.tool_failure import ToolFailure

        return ToolFailure.model_validate(codec.from_tree(tree["v"]))
    value = codec.from_tree(tree)
    return value.data if isinstance(value, codec.Recorded) and value.data is not None else value


def revived(facts: Mapping[str, Any]) -> Exception:
    """What the tool raised, with the text it had, which is what the model was told.

    An exception of a class that is not known here is of one that has its name and nothing else.
    """
    message = codec.from_tree(facts.get("message", ""))
    error = revive({"module": "", **facts, "message": message})
    if str(error) == message and not isinstance(error, ReplayedError):
        return error
    made: type[Exception] = type(facts.get("type", "Exception"), (Exception,), {})
    return made(message)


def told(error: Exception) -> Any:
    """What a tool returns for a failure of our own kind: short, no exception, no stack trace.

    An exception of any other kind goes on to CrewAI, which tells the model of it as ever.
    """
    message = error.message if isinstance(error, CrewProdError) else str(error)
    return tool_failure(message, code=type(error).__name__)


def is_ours(error: BaseException) -> bool:
    """Whether a failure is told by a returned value."""
    return isinstance(error, ToolError)


def failure_text(value: Any) -> str | None:
    """What a model is told by a returned failure; None: the value is none."""
    if is_tool_failure(value):
        return str(value.message)
    return str(value) if isinstance(value, FailureText) else None


def refused(error: CrewProdError) -> Any:
    """What a tool returns once the run has stopped: nothing may be done any more."""
    return tool_failure(f"The run was stopped: {error.message}", code=type(error).__name__)
