"""What a model is told of an answer that is sent back: short, field by field, and what to do.

What is wrong is read from the text of an error: that of a failure that was recorded is all there is
of it when it is replayed, and the model is to be told the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import orjson
from pydantic import BaseModel

from crewai_prod.redact import redact_text

_MOST_FIELDS: Final = 8
_NO_JSON: Final = "expected a JSON object, got text that holds none"
_FAULT: Final = re.compile(
    r"^(?:(?P<where>\S[^\n]*)\n)?  (?P<what>[^\n]+?) \[type=(?P<type>[\w.]+), "
    r"input_value=(?P<got>.*?), input_type=(?P<kind>\w+)\]$",
    re.MULTILINE | re.DOTALL,
)
"""One fault in the text of a pydantic `ValidationError`."""


def claim(tools: Sequence[str], *, by_others: bool) -> str:
    """An answer was given although no tool that the task requires has been called with success.

    Args:
        tools: The tools.
        by_others: Whether they are coworkers' tools, any one of which would do.
    """
    named = ", ".join(tools)
    if by_others:
        return (
            "Your answer is not accepted: nobody has done this work. None of the required tools "
            f"({named}) has been called in this task. Do not answer from memory and do not make up "
            "results: delegate the work to the coworker who has the tool, then answer with what "
            "really happened."
        )
    return (
        "Your answer is not accepted: this task requires the successful use of "
        f"{named}, and no successful call is on record. Do not make up a result: call "
        "the tool now, wait for what it returns, then answer with what really happened."
    )


def misfit(faults: Sequence[str], kind: type[BaseModel], *, react: bool) -> str:
    """An answer is not in the form that was asked for.

    Args:
        faults: What is wrong, as `faults` says it.
        kind: The form.
        react: Whether answers are marked as such in the text.
    """
    lines = "\n".join(f"- {fault}" for fault in faults)
    marked = ", after the words `Final Answer:`" if react else ""
    schema = orjson.dumps(_short(kind.model_json_schema())).decode()
    return (
        f"Your answer does not have the form that was asked for:\n{lines}\n"
        f"Give the same answer again as one JSON object and nothing else{marked}. "
        f"Its JSON schema: {schema}"
    )


def rejected(reason: str) -> str:
    """An answer that a guard does not let pass."""
    return (
        f"Your answer is not accepted: {reason}\n"
        "Give another one that takes this into account, in the form that was asked for before."
    )


def told_by_person(note: str) -> str:
    """A person has looked at the work, and lets it go on."""
    return f"A person who looks after this work was asked about it, and says: {note}"


def refused_call(tool: str, reason: str) -> str:
    """A tool call that a guard does not let pass."""
    return f"{tool} was not called: {reason}"


def withheld(tool: str, reason: str) -> str:
    """What a tool returned and a guard does not let pass."""
    return f"What {tool} returned is withheld: {reason}"


def faults(text: str) -> list[str]:
    """What is wrong with an answer: field, expected, got.

    Args:
        text: Of the error that it caused.
    """
    found = [_fault(one) for one in _FAULT.finditer(redact_text(text))]
    told = list(dict.fromkeys(found)) or [_NO_JSON]
    more = len(told) - _MOST_FIELDS
    return [*told[:_MOST_FIELDS], *([f"{more} more like these"] if more > 0 else [])]


def _fault(one: re.Match[str]) -> str:
    if one["type"] == "json_invalid" or one["where"] is None:
        return _NO_JSON
    if one["type"] == "missing":
        return f"field {one['where']}: it is missing"
    what = one["what"][:1].lower() + one["what"][1:]
    return f"field {one['where']}: {what}, got {one['got']} ({one['kind']})"


def _short(schema: Any) -> Any:
    """A schema without the titles that pydantic makes of the names."""
    if isinstance(schema, dict):
        return {
            key: _fields(value) if key in {"properties", "$defs"} else _short(value)
            for key, value in schema.items()
            if not (key == "title" and isinstance(value, str))
        }
    return [_short(one) for one in schema] if isinstance(schema, list) else schema


def _fields(named: Any) -> Any:
    return {name: _short(one) for name, one in named.items()} if isinstance(named, dict) else named
