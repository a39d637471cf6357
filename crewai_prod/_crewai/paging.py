"""The tool with which an agent reads on where the result of another one was cut.

It is given to an agent beside tools with a `max_output`. What it reads is in the journal already,
so that of its own calls only the place is recorded, and a resumed run reads there again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crewai.tools.base_tool import BaseTool
from pydantic import BaseModel, Field, PrivateAttr

from crewai_prod import paging
from crewai_prod._crewai.tool_results import decode_result
from crewai_prod.paging import READ_ON, Page
from crewai_prod.records import StepRecord, StepStatus
from crewai_prod.run import Run
from crewai_prod.tooling import ToolOptions

READING_ON = ToolOptions(effect="read", polling=True)
"""The same page may be read as often as need be; pages are never cut, nor taken for a loop."""

Said = Callable[[str, Any], tuple[str, int] | None]
"""The whole text of what a tool of some name returned and the size of its pages; None if that tool
is not cut."""


class Asked(BaseModel):
    """What it is called with."""

    result_id: str = Field(description="The result_id that stands where the result was cut.")
    page: int = Field(description="Which page, from 1. Page 1 is what was shown.")


class ReadToolResult(BaseTool):
    """Reads a page of a result that was cut."""

    name: str = READ_ON
    description: str = (
        "Read on in the result of a tool that was cut because of its length. Read only what you "
        "need: each page is as long as the part that was shown."
    )
    args_schema: type[BaseModel] = Asked
    _of_run: Run = PrivateAttr()
    _said: Said = PrivateAttr()

    @classmethod
    def of(cls, run: Run, said: Said) -> ReadToolResult:
        """The tool of a run."""
        made = cls()
        made._of_run, made._said = run, said
        return made

    def _run(self, result_id: str, page: int) -> Page | str:
        """The page; or what is wrong with the id or the number."""
        wanted = result_id.strip().strip("\"'")
        record = self._of_run.tool_step(wanted)
        found = None if record is None else self._whole(record)
        if found is None:
            return f"There is no cut result with the result_id {wanted!r}."
        return paging.page(*found, page, wanted)

    def _whole(self, record: StepRecord) -> tuple[str, int] | None:
        if record.status is not StepStatus.DONE or record.result is None:
            return None
        return self._said(record.name.removeprefix("cached "), decode_result(record.result))
