"""Models and tools that write down, outside the process, what they were asked and what they did.

For crash tests: this counts below the seams, where a hardened crew's calls arrive. A line is one
`write` to a file that nobody truncates, so a kill leaves whole lines.
"""

from __future__ import annotations

import copy
import inspect
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from crewai.llms.base_llm import BaseLLM
from crewai.tools.base_tool import BaseTool
from pydantic import BaseModel

from crewai_prod import codec
from crewai_prod._crewai.scripted import ScriptedLLM, usage_of
from crewai_prod._crewai.stand_in import converse, synthesize
from crewai_prod._crewai.takeover import put, seam_of, take_over
from crewai_prod._crewai.typed import body_of
from crewai_prod.bodies import current_step
from crewai_prod.steps import digest

_ADDRESS = re.compile(rb"0x[0-9a-f]{6,16}")
"""CrewAI's planner prints objects into its prompt; where they lie in memory means nothing."""

_inside: ContextVar[bool] = ContextVar("crewai_prod_counting", default=False)


def write_line(file: Path, **values: Any) -> None:
    """Append one JSON line, at once."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, json.dumps(values, default=repr).encode() + b"\n")
    finally:
        os.close(descriptor)


@contextmanager
def _counted(file: Path | None, messages: Any, tools: Any) -> Iterator[dict[str, Any]]:
    """One request, written down before and after; a provider's own retries within it are not.

    Yields what is written down after; the block may add what the request cost.
    """
    if file is None or _inside.get():
        yield {}
        return
    asked = digest(_ADDRESS.sub(b"0x", codec.meaning([messages, tools])))
    request = {"call": uuid4().hex, "digest": asked, "tokens": 0}
    token = _inside.set(True)
    write_line(file, **request, answered=False)
    try:
        yield request
    finally:
        _inside.reset(token)
        write_line(file, **request, answered=True)


class StandInLLM(ScriptedLLM):
    """A model that costs nothing and says what `stand_in` scripts.

    Args:
        native: Whether it calls tools natively, as the model it stands in for.
        requests: Where it writes down its requests.
    """

    model: str = "stand-in"
    requests: Path | None = None

    def __init__(self, **fields: Any) -> None:
        super().__init__(converse, **{"model": "stand-in", **fields})

    def _say(self, messages: Any, tools: Any, response_model: Any) -> Any:
        schema = None if response_model is None else response_model.model_json_schema()
        with _counted(self.requests, messages, tools) as request:
            answer = converse(messages, tools, schema)
            request["tokens"] = usage_of(messages, answer)["total_tokens"]
            return answer


class _CountedLLM:
    """In front of a model's own class: writes its requests down."""

    def call(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        with _counted(self.__dict__["_counted_in"], messages, kwargs.get("tools")):
            return super().call(messages, *args, **kwargs)  # type: ignore[misc]

    async def acall(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        with _counted(self.__dict__["_counted_in"], messages, kwargs.get("tools")):
            return await super().acall(messages, *args, **kwargs)  # type: ignore[misc]


def count_requests(llm: BaseLLM, file: Path) -> BaseLLM:
    """A copy of a model that writes its requests down; what hardens it later starts from this."""
    kind: Any = type(llm)
    namespace = {"__module__": kind.__module__, "__qualname__": f"Counted[{kind.__qualname__}]"}
    made: Any = type(kind)(kind.__name__, (_CountedLLM, kind), namespace)
    counted = copy.copy(llm)
    object.__setattr__(counted, "__class__", made)
    put(counted, _counted_in=file)
    return counted


@dataclass(frozen=True, slots=True)
class _Recording:
    original: BaseTool
    file: Path | None
    acts: bool


class RecordedTool:
    """In front of a tool's own class: writes down what it does, or does nothing but that."""

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Where a tool that has a `run` of its own does its work."""
        return self._run(*args, **kwargs)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        seam: _Recording = seam_of(self)
        line = _effect(seam.original, args, kwargs)
        if not seam.acts:
            return _record(seam, line, stand_in_result(seam.original))
        _begin(seam, line)
        result = body_of(seam.original)(*args, **kwargs)
        if inspect.iscoroutine(result):
            return _record_later(seam, line, result)
        return _record(seam, line, result)

    async def _arun(self, *args: Any, **kwargs: Any) -> Any:
        seam: _Recording = seam_of(self)
        line = _effect(seam.original, args, kwargs)
        if not seam.acts:
            return _record(seam, line, stand_in_result(seam.original))
        _begin(seam, line)
        return _record(seam, line, await seam.original._arun(*args, **kwargs))


def record_effects(tool: BaseTool, file: Path | None, *, acts: bool) -> BaseTool:
    """A copy of a tool that writes down what it does; if it does not act, only that."""
    return take_over(tool, RecordedTool, _Recording(tool, file, acts))


def stand_in_result(tool: BaseTool) -> Any:
    """What a tool that did not act returns: an instance of its result schema, or a sentence."""
    schema = getattr(tool, "result_schema", None)
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return schema.model_validate(synthesize(schema.model_json_schema()))
    return f"{tool.name} was called by the crash test"


def _effect(tool: BaseTool, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    step = current_step()
    given = {**kwargs, "*": list(args)} if args else dict(kwargs)
    return {
        "call": uuid4().hex,
        "step": step.step_id if step else None,
        "tool": tool.name,
        "arguments": codec.to_tree(given),
    }


def _begin(seam: _Recording, line: Mapping[str, Any]) -> None:
    if seam.file is not None:
        write_line(seam.file, **line, complete=False)


def _record(seam: _Recording, line: Mapping[str, Any], result: Any) -> Any:
    if seam.file is not None:
        write_line(seam.file, **line, complete=True, result=codec.to_tree(result))
    return result


async def _record_later(seam: _Recording, line: Mapping[str, Any], work: Any) -> Any:
    return _record(seam, line, await work)
