"""Streams of a resumed run: what was said before is heard again, whole."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from crewai.types.streaming import StreamChunkType

from crewai_prod import harden
from crewai_prod._crewai.stop import Passing
from tests.integration.parts import MODES, Effects, Mode
from tests.integration.shape_trials import Scene
from tests.integration.shapes.models import streaming_crew
from tests.openai_server import Server


def _chunks(crew: Any, mode: Mode) -> tuple[list[Any], Any]:
    if mode == "kickoff":
        output = crew.kickoff(run_id="a")
        return list(output), output.result

    async def read() -> tuple[list[Any], Any]:
        output = await getattr(crew, mode)(run_id="a")
        return [chunk async for chunk in output], output.result

    return asyncio.run(read())


@pytest.mark.parametrize("mode", MODES)
def test_a_replayed_answer_is_streamed_in_one_chunk(
    server: Server, tmp_path: Path, mode: Mode
) -> None:
    """A walked-again task streams its recorded tool call and text; a live one streams as ever."""
    scene = Scene(server, Effects(tmp_path), "native")
    failed: list[bool] = []

    def callback(_: Any) -> None:
        if not failed:
            failed.append(True)
            raise Passing("the run ends here")

    def crew() -> Any:
        made = streaming_crew(scene)
        made.tasks[0].callback = callback
        return harden(made, journal=tmp_path / "j.db")

    with pytest.raises(Passing, match="ends here"):
        _chunks(crew(), mode)
    asked = len(server.requests)
    chunks, result = _chunks(crew(), mode)
    calls = [chunk.tool_call for chunk in chunks if chunk.chunk_type is StreamChunkType.TOOL_CALL]
    texts = [chunk.content for chunk in chunks if chunk.chunk_type is StreamChunkType.TEXT]
    assert [(call.tool_name, call.arguments) for call in calls] == [("charge", '{"amount": 7}')]
    assert texts[0] == "charged seven"
    assert len(texts) > 2, "the second task's answer came in several chunks"
    assert "".join(texts[1:]).endswith(result.raw)
    assert (len(server.requests) - asked, scene.effects.lines) == (1, ["charge 7"])


def test_a_finished_run_streams_its_result(server: Server, tmp_path: Path) -> None:
    """A stream of a finished run is empty, and its result is there."""
    scene = Scene(server, Effects(tmp_path), "native")
    first = _chunks(harden(streaming_crew(scene), journal=tmp_path / "j.db"), "kickoff")[1]
    asked = len(server.requests)
    chunks, result = _chunks(harden(streaming_crew(scene), journal=tmp_path / "j.db"), "kickoff")
    assert (chunks, result.raw, len(server.requests)) == ([], first.raw, asked)
