"""Tools of crewai and crewai-tools that only read are known; what is declared goes first."""

from __future__ import annotations

from typing import Any

import pytest
from crewai.tools import BaseTool

from crewai_prod._crewai.native_tools import options_for
from crewai_prod.tooling import ToolOptions

_FILES = "crewai_tools.tools.file_read_tool.file_read_tool"
_SEARCH = "crewai_tools.tools.serper_dev_tool.serper_dev_tool"
_PDFS = "crewai_tools.tools.pdf_search_tool.pdf_search_tool"
_WRITER = "crewai_tools.tools.file_writer_tool.file_writer_tool"


def made(name: str, module: str, **more: Any) -> type[BaseTool]:
    """A class as crewai-tools, which is not installed here, has it: that is all that is looked at.

    Args:
        name: Of the class.
        module: It is defined in.
        **more: Fields, as annotated class attributes.
    """

    def _run(self: Any, text: str = "") -> str:
        return text

    body = {
        "__module__": module,
        "__qualname__": name,
        "__annotations__": {"name": str, "description": str, **dict.fromkeys(more, Any)},
        "name": "it",
        "description": "It does something.",
        "_run": _run,
        **more,
    }
    return type(name, (BaseTool,), body)


@pytest.mark.parametrize(
    ("kind", "effect"),
    [
        (made("FileReadTool", _FILES), "read"),
        (made("FileReadTool", "mine"), None),
        (made("FileWriterTool", _WRITER), None),
        (made("SerperDevTool", _SEARCH, save_file=False), "read"),
        (made("SerperDevTool", _SEARCH, save_file=True), None),
        (made("PDFSearchTool", _PDFS, adapter=object()), None),
    ],
)
def test_a_tool_is_known_by_class_and_module_and_as_it_is_set_up(
    kind: type[BaseTool], effect: str | None
) -> None:
    """One that keeps what it found in a file, or in an index of somebody else's, is not known."""
    assert options_for(kind(), {}).effect == effect


def test_a_subclass_is_known_unless_its_body_is_its_own() -> None:
    """What a user's own body does, nobody knows."""
    reader: Any = made("FileReadTool", _FILES)

    class Renamed(reader):  # type: ignore[misc]
        name: str = "renamed"

    class Acting(reader):  # type: ignore[misc]
        def _run(self, text: str = "") -> str:
            return "sent"

    assert options_for(Renamed(), {}).effect == "read"
    assert options_for(Acting(), {}).effect is None


def test_what_is_declared_goes_first() -> None:
    """Of the effect, if it is declared; other options leave what is known of it."""
    tool = made("FileReadTool", _FILES)()
    assert options_for(tool, {"it": ToolOptions(effect="write")}).effect == "write"
    timed = options_for(tool, {"it": ToolOptions(timeout=5.0)})
    assert (timed.effect, timed.timeout) == ("read", 5.0)
