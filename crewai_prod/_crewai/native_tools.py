"""What is known of the tools that come with CrewAI: which of them only read."""

from __future__ import annotations

from collections.abc import Mapping

from crewai.tools.agent_tools.base_agent_tools import BaseAgentTool
from crewai.tools.base_tool import BaseTool
from crewai.tools.memory_tools import RememberTool

from crewai_prod.tooling import ToolOptions

_READING = frozenset(
    {
        ("crewai.tools.memory_tools", "RecallMemoryTool"),
        ("crewai.tools.agent_tools.read_file_tool", "ReadFileTool"),
        ("crewai.tools.agent_tools.add_image_tool", "AddImageTool"),
        ("crewai.tools.cache_tools.cache_tools", "CacheTools"),
        ("crewai.skills.tool", "LoadSkillTool"),
    }
)
"""CrewAI's own tools that only read."""


def options_for(tool: BaseTool, declared: Mapping[str, ToolOptions]) -> ToolOptions:
    """What is declared about a tool, else what is known of CrewAI's own, else nothing.

    CrewAI puts the server's address or command in front of an MCP tool's name; what it is called on
    its server will do, too.
    """
    for name in (tool.name, getattr(tool, "original_tool_name", None)):
        if name is not None and name in declared:
            return declared[name]
    if isinstance(tool, BaseAgentTool):
        return ToolOptions(effect="nested")
    if isinstance(tool, RememberTool):  # what a run saves is saved once: see `memory`
        return ToolOptions(effect="write", idempotent=True)
    kinds = {(kind.__module__, kind.__qualname__) for kind in type(tool).__mro__}
    return ToolOptions(effect="read") if kinds & _READING else ToolOptions()
