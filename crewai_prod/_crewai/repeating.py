"""CrewAI's own answers to calls that are made again, and where they give way to the run's.

CrewAI counts equal calls with equal results and ends the run at the fifth; and where a model calls
tools in its text, it answers a call that is made twice in a row itself. Both would keep a tool from
being polled, and neither knows what a run has called before. Here:

- Where the run looks for loops, or a tool is polled, CrewAI's count is off: the run's rules find
  the same, one call earlier, and tell the model before they end anything.
- CrewAI's own answer stays as it is, except for tools that are polled; it is counted as the call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from crewai.agents.cache.cache_handler import CacheHandler
from crewai.agents.tools_handler import ToolsHandler
from crewai.utilities.i18n import I18N_DEFAULT
from pydantic import PrivateAttr

from crewai_prod._crewai.places import scope_of
from crewai_prod._crewai.stop import refusing
from crewai_prod._crewai.takeover import seam_of
from crewai_prod.run import Run

_COUNTS = "_tool_call_counts"
_PASSED_ON = "tool_call_counts"
_step_classes: dict[type, type] = {}


class Uncounted(dict[int, int]):
    """CrewAI's count of equal calls that does not count: each is the first of its kind."""

    def get(self, key: int, default: Any = None) -> Any:
        """None was made before."""
        return default

    def __setitem__(self, key: int, count: int) -> None:
        pass

    def __getitem__(self, key: int) -> int:
        return 1


class RunToolsHandler(ToolsHandler):
    """What CrewAI keeps of an agent's last call: a polled tool's may be made again at once."""

    _polls: Callable[[str], bool] | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, cache: CacheHandler | None, polls: Callable[[str], bool]) -> RunToolsHandler:
        """One that has seen no call yet."""
        made = cls(cache=cache)
        made._polls = polls
        return made

    def on_tool_use(self, calling: Any, output: Any, should_cache: bool = True) -> None:
        """The original's; no last call is kept of a tool that is polled."""
        super().on_tool_use(calling, output, should_cache)
        if self._polls is not None and self._polls(calling.tool_name):
            self.last_used_tool = None


def uncounted(executor: Any, run: Run | None, tools: Any) -> None:
    """Have the run, not CrewAI, say when equal calls are too many; None: only what is polled."""
    if hasattr(executor, _COUNTS) and _gives_way(run, tools):
        setattr(executor, _COUNTS, Uncounted())


def uncounted_in_steps(steps: Any, run: Run, tools: Any) -> Any:
    """The same for what executes the steps of a plan."""
    kind = type(steps)
    if not issubclass(kind, _OfSteps) and _gives_way(run, tools):
        if kind not in _step_classes:
            named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
            _step_classes[kind] = type(kind.__name__, (_OfSteps, kind), named)
        object.__setattr__(steps, "__class__", _step_classes[kind])
    return steps


def instead_of_crewais(run: Run, result: Any, tool: str) -> Any:
    """What a call came to, if CrewAI has answered it itself and it is one of a loop.

    Raises:
        StopRun: It is, and the model does not stop.
    """
    own = str(I18N_DEFAULT.errors("task_repeated_usage")).partition("\n")[0]
    if not own or not str(result.result).startswith(own):
        return result
    with refusing():
        facts = run.looping.repeated_at_once(scope_of(run), tool)
    return result if facts is None else replace(result, result=facts["message"])


class _OfSteps:
    """In front of what executes the steps of a plan."""

    def _execute_native(self, *args: Any, **kwargs: Any) -> Any:
        return super()._execute_native(*args, **_without_counts(kwargs))  # type: ignore[misc]

    def _execute_text_parsed(self, *args: Any, **kwargs: Any) -> Any:
        return super()._execute_text_parsed(*args, **_without_counts(kwargs))  # type: ignore[misc]


def _without_counts(given: dict[str, Any]) -> dict[str, Any]:
    return {**given, _PASSED_ON: Uncounted()} if _PASSED_ON in given else given


def _gives_way(run: Run | None, tools: Any) -> bool:
    seams = (seam_of(tool) for tool in tools or ())
    polled = any(seam is not None and seam.options.polling for seam in seams)
    return polled or (run is not None and run.looping.rules is not None)
