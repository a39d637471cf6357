"""How a refusal leaves CrewAI: raised from a model call, returned from a tool.

An exception in a tool is swallowed by CrewAI (and repeats the tool up to six times on the text
path); a returned `ToolFailure` is not. An exception in a model call leaves `kickoff` at once where
this release knows `HookAborted`; in older ones CrewAI tries again and meets the stored refusal
again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crewai_prod.errors import CrewProdError, ToolError, ToolInputInvalid

__all__ = ["Passing", "StopRun", "is_tool_failure", "tool_failure", "unwrapped"]

try:
    from crewai.hooks.dispatch import HookAborted as Passing
except ImportError:  # 1.15.0 to before the release that added crewai.hooks.dispatch

    class Passing(Exception):  # type: ignore[no-redef]
        """What leaves a model call; this release has no exception that leaves `kickoff` at once."""

        def __init__(self, reason: str, source: Any = None) -> None:
            super().__init__(reason)
            self.reason = reason
            self.source = source


try:
    from crewai.tools.tool_failure import ToolFailure, ToolFailureReason
except ImportError:
    ToolFailure = None  # type: ignore[assignment,misc]
    ToolFailureReason = None  # type: ignore[assignment,misc]


class StopRun(Passing):
    """Carries a stored refusal out of CrewAI; never leaves this package.

    Its text is not the refusal's: CrewAI looks in texts for signs of what it can work around.
    """

    def __init__(self, error: CrewProdError) -> None:
        super().__init__(f"stopped by crewai-prod: {type(error).__name__}", source="crewai-prod")
        self.error = error


class refusing:
    """Turns a refusal of the run into what leaves CrewAI. No generator: it is in every step."""

    __slots__ = ()

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Raise `StopRun` in place of a refusal."""
        if isinstance(error, CrewProdError):
            raise StopRun(error) from error


def unwrapped(error: BaseException) -> BaseException:
    """The refusal that was carried, or the error itself."""
    return error.error if isinstance(error, StopRun) else error


class FailureText(str):
    """A tool's failure as the model reads it, where CrewAI has no `ToolFailure`."""

    __slots__ = ()


def tool_failure(message: str, *, code: str | None = None) -> Any:
    """What a tool returns instead of raising: a `ToolFailure`, or its text where there is none."""
    if ToolFailure is None:
        return FailureText(message)
    return ToolFailure(message=message, reason=ToolFailureReason.EXCEPTION, code=code)


def refused_input(error: ToolError) -> Any:
    """What a tool returns whose arguments or whose result did not fit."""
    if ToolFailure is None:
        return FailureText(error.message)
    kind = "INVALID_INPUT" if isinstance(error, ToolInputInvalid) else "TOOL_REPORTED"
    reason = getattr(ToolFailureReason, kind, ToolFailureReason.EXCEPTION)
    return ToolFailure(message=error.message, reason=reason)


def is_tool_failure(value: Any) -> bool:
    """Whether a tool returned CrewAI's own report of a failure."""
    return ToolFailure is not None and isinstance(value, ToolFailure)


def never_a_failure(cache_function: Callable[..., Any]) -> Callable[..., Any]:
    """A tool's `cache_function` that keeps failures out of CrewAI's cache of results.

    CrewAI never caches a `ToolFailure`; told as text, a refusal would answer the resumed run's
    call.
    """

    def decide(arguments: Any = None, result: Any = None) -> Any:
        return not isinstance(result, FailureText) and cache_function(arguments, result)

    return decide
