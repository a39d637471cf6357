"""MCP tools that act: CrewAI's own retries of a call are off.

A call that timed out or lost its connection may have acted. CrewAI makes it three times; here its
outcome is unknown after the first time, as of any tool. What may be repeated (a tool that is
declared to read, or to be idempotent) keeps CrewAI's retries.
"""

from __future__ import annotations

import asyncio
import copy
from typing import Any

from crewai.tools.base_tool import BaseTool
from crewai.tools.mcp_native_tool import MCPNativeTool
from crewai.tools.mcp_tool_wrapper import MCPToolWrapper

from crewai_prod._crewai.takeover import Seamed, put, take_over
from crewai_prod.tooling import ToolOptions


class _OneTry(Seamed):
    """An MCP tool of a server's address."""

    def _run(self, **kwargs: Any) -> Any:
        """Raise what CrewAI would return as the text of a success."""
        return asyncio.run(self._run_async(**kwargs))  # type: ignore[attr-defined]

    async def _retry_with_exponential_backoff(self, operation: Any, **kwargs: Any) -> Any:
        """Once."""
        return await operation(**kwargs)


def calling_once(tool: BaseTool, options: ToolOptions) -> BaseTool:
    """The tool whose body makes a call at most once; other tools as they are."""
    if options.idempotent or options.effect not in (None, "write"):
        return tool
    if isinstance(tool, MCPToolWrapper):
        return take_over(tool, _OneTry, None)
    if isinstance(tool, MCPNativeTool):
        once = copy.copy(tool)
        make = tool._client_factory

        def client() -> Any:
            made = make()
            made.max_retries = 1
            return made

        put(once, _client_factory=client)
        return once
    return tool
