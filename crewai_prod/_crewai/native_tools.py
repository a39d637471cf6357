"""What is known of the tools that come with CrewAI: which of them only read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from crewai.tools.agent_tools.base_agent_tools import BaseAgentTool
from crewai.tools.base_tool import BaseTool
from crewai.tools.memory_tools import RememberTool

from crewai_prod._crewai.typed import declared_options
from crewai_prod.tooling import ToolOptions

_READING: Mapping[str, tuple[str, ...]] = {
    "crewai.skills.tool": ("LoadSkillTool",),
    "crewai.tools.agent_tools.add_image_tool": ("AddImageTool",),
    "crewai.tools.agent_tools.read_file_tool": ("ReadFileTool",),
    "crewai.tools.cache_tools.cache_tools": ("CacheTools",),
    "crewai.tools.memory_tools": ("RecallMemoryTool",),
    # Of the package crewai-tools: each was read. Left out is what writes, runs code, drives a
    # browser, or passes on a request as the model words it.
    "crewai_tools.tools.arxiv_paper_tool.arxiv_paper_tool": ("ArxivPaperTool",),
    "crewai_tools.tools.brave_search_tool.brave_image_tool": ("BraveImageSearchTool",),
    "crewai_tools.tools.brave_search_tool.brave_llm_context_tool": ("BraveLLMContextTool",),
    "crewai_tools.tools.brave_search_tool.brave_news_tool": ("BraveNewsSearchTool",),
    "crewai_tools.tools.brave_search_tool.brave_video_tool": ("BraveVideoSearchTool",),
    "crewai_tools.tools.brave_search_tool.brave_web_tool": ("BraveWebSearchTool",),
    "crewai_tools.tools.code_docs_search_tool.code_docs_search_tool": ("CodeDocsSearchTool",),
    "crewai_tools.tools.csv_search_tool.csv_search_tool": ("CSVSearchTool",),
    "crewai_tools.tools.directory_read_tool.directory_read_tool": ("DirectoryReadTool",),
    "crewai_tools.tools.directory_search_tool.directory_search_tool": ("DirectorySearchTool",),
    "crewai_tools.tools.docx_search_tool.docx_search_tool": ("DOCXSearchTool",),
    "crewai_tools.tools.exa_tools.exa_search_tool": ("ExaSearchTool", "EXASearchTool"),
    "crewai_tools.tools.file_read_tool.file_read_tool": ("FileReadTool",),
    "crewai_tools.tools.firecrawl_search_tool.firecrawl_search_tool": ("FirecrawlSearchTool",),
    "crewai_tools.tools.github_search_tool.github_search_tool": ("GithubSearchTool",),
    "crewai_tools.tools.jina_scrape_website_tool.jina_scrape_website_tool": (
        "JinaScrapeWebsiteTool",
    ),
    "crewai_tools.tools.json_search_tool.json_search_tool": ("JSONSearchTool",),
    "crewai_tools.tools.linkup.linkup_search_tool": ("LinkupSearchTool",),
    "crewai_tools.tools.mdx_search_tool.mdx_search_tool": ("MDXSearchTool",),
    "crewai_tools.tools.pdf_search_tool.pdf_search_tool": ("PDFSearchTool",),
    "crewai_tools.tools.rag.rag_tool": ("RagTool",),
    "crewai_tools.tools.scrape_element_from_website.scrape_element_from_website": (
        "ScrapeElementFromWebsiteTool",
    ),
    "crewai_tools.tools.scrape_website_tool.scrape_website_tool": ("ScrapeWebsiteTool",),
    "crewai_tools.tools.serpapi_tool.serpapi_google_search_tool": ("SerpApiGoogleSearchTool",),
    "crewai_tools.tools.serpapi_tool.serpapi_google_shopping_tool": ("SerpApiGoogleShoppingTool",),
    "crewai_tools.tools.serper_dev_tool.serper_dev_tool": ("SerperDevTool",),
    "crewai_tools.tools.serper_scrape_website_tool.serper_scrape_website_tool": (
        "SerperScrapeWebsiteTool",
    ),
    "crewai_tools.tools.serply_api_tool.serply_news_search_tool": ("SerplyNewsSearchTool",),
    "crewai_tools.tools.serply_api_tool.serply_scholar_search_tool": ("SerplyScholarSearchTool",),
    "crewai_tools.tools.serply_api_tool.serply_web_search_tool": ("SerplyWebSearchTool",),
    "crewai_tools.tools.tavily_extractor_tool.tavily_extractor_tool": ("TavilyExtractorTool",),
    "crewai_tools.tools.tavily_search_tool.tavily_search_tool": ("TavilySearchTool",),
    "crewai_tools.tools.txt_search_tool.txt_search_tool": ("TXTSearchTool",),
    "crewai_tools.tools.website_search.website_search_tool": ("WebsiteSearchTool",),
    "crewai_tools.tools.xml_search_tool.xml_search_tool": ("XMLSearchTool",),
    "crewai_tools.tools.youtube_channel_search_tool.youtube_channel_search_tool": (
        "YoutubeChannelSearchTool",
    ),
    "crewai_tools.tools.youtube_video_search_tool.youtube_video_search_tool": (
        "YoutubeVideoSearchTool",
    ),
}
"""Tools that only read, by module. Those that search a document put it into their own index first,
under ids made of its content: done twice, it is there once."""

_KEEPS = ("save_file", "download_pdfs")
"""Options with which some of them leave files behind."""
_BODIES = ("_run", "_arun", "run", "arun")


def options_for(tool: BaseTool, declared: Mapping[str, ToolOptions]) -> ToolOptions:
    """What is declared about a tool, and of its effect what is known of CrewAI's own, if not said.

    What `harden` was told of it goes over what it says of itself, option by option.
    """
    known = _known(tool)
    own, said = declared_options(tool), declared_for(tool, declared)
    said = said.over(own) if said and own else said or own
    if said is None:
        return known
    if said.effect is not None:
        return said
    again = said.idempotent or known.idempotent
    return replace(said, effect=known.effect, idempotent=again)


def declared_for(tool: BaseTool, declared: Mapping[str, ToolOptions]) -> ToolOptions | None:
    """What `harden` was told of a tool.

    CrewAI puts the server's address or command in front of an MCP tool's name; what it is called on
    its server will do, too.
    """
    for name in (tool.name, getattr(tool, "original_tool_name", None)):
        if name is not None and name in declared:
            return declared[name]
    return None


def _known(tool: BaseTool) -> ToolOptions:
    if isinstance(tool, BaseAgentTool):
        return ToolOptions(effect="nested")
    if isinstance(tool, RememberTool):  # what a run saves is saved once: see `memory`
        return ToolOptions(effect="write", idempotent=True)
    return ToolOptions(effect="read") if _only_reads(tool) else ToolOptions()


def _only_reads(tool: BaseTool) -> bool:
    """Whether a tool is one of those that do, as it comes: a body of a user's own may do more."""
    if any(getattr(tool, name, False) for name in _KEEPS):
        return False
    adapter = getattr(tool, "adapter", None)
    if adapter is not None and not type(adapter).__module__.startswith("crewai_tools."):
        return False
    return any(
        kind.__qualname__ in _READING.get(kind.__module__, ())
        and all(getattr(kind, body, None) is getattr(type(tool), body, None) for body in _BODIES)
        for kind in type(tool).__mro__
    )
