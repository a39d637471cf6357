"""The seam in front of a tool: both of CrewAI's tool paths pass through the run.

The native path calls `run`, the text path `_run` through a `CrewStructuredTool`; `Tool.run` (what
`@tool` makes) calls its function directly. All of them meet in `_run` here, and the original
object's own method does the work, so that what a tool keeps on itself stays with the user's object.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from crewai.tools.base_tool import BaseTool
from crewai.tools.memory_tools import RecallMemoryTool, RememberTool

from crewai_prod._crewai.ask_human import ASKING, AskHuman
from crewai_prod._crewai.ask_human import NAME as ASK
from crewai_prod._crewai.mcp import calling_once
from crewai_prod._crewai.native_tools import declared_for, options_for
from crewai_prod._crewai.paging import READING_ON, ReadToolResult
from crewai_prod._crewai.stop import is_tool_failure, never_a_failure
from crewai_prod._crewai.takeover import Seamed, put, really_a, seam_of, take_over
from crewai_prod._crewai.tool_call import Raised, ToolCall, ToolSeam, one_for_one
from crewai_prod._crewai.tool_results import encode_result
from crewai_prod._crewai.typed import as_declared, doing_within, not_counted
from crewai_prod.errors import ToolInputInvalid
from crewai_prod.loops import plain
from crewai_prod.paging import READ_ON, cut
from crewai_prod.run import Run
from crewai_prod.steps import Scope
from crewai_prod.tooling import ToolOptions


class DurableTool(Seamed):
    """A tool of a hardened run."""

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The native path: validate, count the usage, then `_run`."""
        token = one_for_one.set(True)
        try:
            return BaseTool.run(self, *args, **kwargs)  # type: ignore[arg-type]
        except ToolInputInvalid:
            not_counted(self)
            raise
        finally:
            one_for_one.reset(token)

    async def arun(self, *args: Any, **kwargs: Any) -> Any:
        """The asynchronous twin of `run`."""
        token = one_for_one.set(True)
        try:
            return await BaseTool.arun(self, *args, **kwargs)  # type: ignore[arg-type]
        except ToolInputInvalid:
            not_counted(self)
            raise
        finally:
            one_for_one.reset(token)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        seam: ToolSeam = seam_of(self)
        call = ToolCall.begin(seam, args, kwargs)
        if call.settled:
            return call.end()
        return call.make(call.body())

    async def _arun(self, *args: Any, **kwargs: Any) -> Any:
        seam: ToolSeam = seam_of(self)
        call = await seam.run.guarding.in_thread(ToolCall.begin, seam, args, kwargs)
        if call.settled:
            return call.end()
        return await call.make_later(call.body_later())

    def format_output_for_agent(self, raw_result: Any) -> str:
        """The original's, cut to `max_output`. An answer of the agent's own is not cut."""
        seam: ToolSeam = seam_of(self)
        whole: str = super().format_output_for_agent(raw_result)  # type: ignore[misc]
        if seam.say is None or len(whole) <= (seam.options.max_output or 0):
            return whole
        stored, _ = encode_result(raw_result)
        return cut(whole, seam.options.max_output, seam.run.paging.step_of(stored))

    def _say(self, raw_result: Any) -> str:
        """The whole of a result, as the model would read it."""
        whole: str = super().format_output_for_agent(raw_result)  # type: ignore[misc]
        return whole

    @property
    def tool_type(self) -> str:
        """The original's: CrewAI shows it to models when it plans."""
        kind = type(seam_of(self).original)
        return f"{kind.__module__}.{kind.__qualname__}"

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "current_usage_count":  # users read it on the tool they hold
            put(seam_of(self).original, current_usage_count=value)


class ToolBench:
    """The tools of one run: one taken-over copy per tool, however often CrewAI hands it on."""

    def __init__(
        self,
        run: Run,
        options: Mapping[str, ToolOptions],
        memory: Callable[[Any], Any],
        within: Scope | None = None,
        base: Scope | None = None,
    ) -> None:
        self._run = run
        self._options = options
        self._memory = memory
        self._within = within
        self._base = base or within or Scope()
        self._taken: dict[int, tuple[BaseTool, BaseTool]] = {}
        self._raised: dict[str, Raised] = {}
        self._polled: set[str] = set()
        self._cut: dict[str, ToolSeam] = {}
        self._reader: ReadToolResult | None = None
        self._asker: AskHuman | None = None

    def polls(self, name: str) -> bool:
        """Whether a tool is polled: each of its calls is to be made."""
        return plain(name) in self._polled

    def take(self, tools: Sequence[Any] | None) -> list[Any] | None:
        """The tools of an agent or task, each behind its seam. Other objects stay as they are."""
        return None if tools is None else [self._one(tool) for tool in tools]

    def equip(self, tools: Sequence[Any] | None) -> list[Any] | None:
        """The tools of an agent at work, and those that a run has for it besides.

        One reads on in what others of them return, one asks a person.
        """
        taken = self.take(tools)
        seams = [seam for seam in map(seam_of, taken or ()) if seam is not None]
        known = {plain(one.original.name) for one in seams}
        more = []
        if plain(READ_ON) not in known and any(one.say is not None for one in seams):
            self._reader = self._reader or ReadToolResult.of(self._run, self._said)
            more.append(self._one(self._reader))
        rules = self._run.escalating.rules(self._base)
        if rules is not None and rules.ask_human and plain(ASK) not in known:
            self._asker = self._asker or AskHuman.of(self._run)
            more.append(self._one(self._asker))
        return [*(taken or ()), *more] if more else taken

    def _said(self, name: str, result: Any) -> tuple[str, int] | None:
        seam = self._cut.get(plain(name))
        if seam is None or seam.say is None or is_tool_failure(result):
            return None
        return seam.say(result), seam.options.max_output or 1

    @property
    def declared(self) -> dict[str, ToolOptions]:
        """What is declared about the tools taken so far, by name."""
        return {tool.name: seam_of(taken).options for tool, taken in list(self._taken.values())}

    def names(self, tools: Sequence[Any] | None) -> set[str]:
        """The names under which the calls of these tools are recorded."""
        return {tool.name for tool in tools or () if really_a(BaseTool, tool)}

    def _one(self, tool: Any) -> Any:
        if not really_a(BaseTool, tool) or isinstance(tool, DurableTool):
            return tool
        if id(tool) not in self._taken:
            options = self._options_of(tool)
            declared = declared_for(tool, self._options) is not None
            typed = as_declared(tool, options, keep=True) if declared else tool
            worker = doing_within(typed, lambda inner: self._worker(inner, options))
            seam = ToolSeam(self._run, tool, worker, options, self._within, self._raised)
            taken = take_over(typed, DurableTool, seam, stands_for=tool)
            self._put_options(taken, seam)
            self._taken[id(tool)] = (tool, taken)
        return self._taken[id(tool)][1]

    def _options_of(self, tool: Any) -> ToolOptions:
        if tool is self._reader:
            return READING_ON
        return ASKING if tool is self._asker else options_for(tool, self._options)

    def _put_options(self, taken: Any, seam: ToolSeam) -> None:
        """What is declared about a tool and holds outside of its calls."""
        tool, options = seam.original, seam.options
        cached = _never if options.polling else never_a_failure(tool.cache_function)
        put(taken, cache_function=cached)
        if options.polling:
            self._polled.add(plain(tool.name))
        if options.max_output is not None and not tool.result_as_answer:
            seam.say = taken._say
            self._cut[plain(tool.name)] = seam
            self._run.paging.on = True

    def _worker(self, tool: BaseTool, options: ToolOptions) -> BaseTool:
        """The object whose body is called."""
        if isinstance(tool, (RecallMemoryTool, RememberTool)):
            copied = copy.copy(tool)
            put(copied, memory=self._memory(tool.memory))
            return copied
        return calling_once(tool, options)


def _never(arguments: Any = None, result: Any = None) -> bool:
    """The `cache_function` of a tool that is polled."""
    return False
