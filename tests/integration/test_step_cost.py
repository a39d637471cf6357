"""What a step of a hardened crew no longer does, counted: the bench says what that is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from crewai_prod import harden
from tests.bench.workloads import READS, Talk, ToolPath, make_crew

PATHS: list[ToolPath] = ["native", "text"]


@pytest.mark.parametrize("path", PATHS)
def test_few_private_attributes_are_looked_for_by_pydantic(
    path: ToolPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CrewAI asks for hundreds of its executor's in each step."""
    looked: list[str] = []
    own: Any = BaseModel.__getattr__

    def look(self: Any, name: str) -> Any:
        looked.append(name)
        return own(self, name)

    def counted(crew: Any) -> int:
        looked.clear()
        crew.kickoff()
        return len(looked)

    made = [make_crew(Talk(5, path).llm(), 5) for _ in range(2)]
    hardened = harden(made[1], journal=tmp_path / "j.db", tools=READS)
    monkeypatch.setattr(BaseModel, "__getattr__", look)
    assert 2 * counted(hardened) < counted(made[0])


class Topic(BaseModel):
    """Arguments whose schema is counted."""

    topic: str
    made: ClassVar[int] = 0

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Pydantic's own."""
        Topic.made += 1
        return super().model_json_schema(*args, **kwargs)


def test_a_schema_is_not_made_in_each_call(tmp_path: Path) -> None:
    """On the text path CrewAI asks for it twice a call."""
    counts = []
    for turns in (2, 7):
        made = make_crew(Talk(turns, "text").llm(), turns)
        for tool in (*(made.agents[0].tools or ()), *(made.tasks[0].tools or ())):
            tool.args_schema = Topic
        crew = harden(made, journal=tmp_path / f"{turns}.db", tools=READS)
        Topic.made = 0
        crew.kickoff()
        counts.append(Topic.made)
    assert counts[0] == counts[1] > 0
