"""Human input: asked once, on a terminal as ever, and without one the run waits."""

from __future__ import annotations

import asyncio
import io
import threading
from pathlib import Path
from typing import Any

import pytest
from crewai import Crew
from crewai.core.providers.human_input import SyncHumanInputProvider, set_provider

from crewai_prod import errors, harden, open_journal
from crewai_prod.records import RunStatus, StepKind
from tests.integration.parts import MODES, Effects, Mode, go
from tests.integration.shape_trials import Scene
from tests.integration.shapes.people import UNHEARD, Prompted, ask_and_go, reviewed
from tests.openai_server import Server


@pytest.fixture
def scene(server: Server, tmp_path: Path) -> Scene:
    """A crew's surroundings."""
    return Scene(server, Effects(tmp_path), "native")


def _crew(scene: Scene, human: str = "terminal") -> Crew:
    crew: Crew = harden(reviewed(scene), journal=scene.folder / "j.db", human=human)
    return crew


@pytest.mark.parametrize("mode", MODES)
def test_without_a_terminal_the_run_waits(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    """It is paused, not failed, having paid for the task once; somebody who is there ends it."""
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(errors.RunPaused, match="no terminal") as caught:
        go(_crew(scene), mode, run_id="a")
    assert caught.value.fields["reason"] == "approval"
    run = open_journal(scene.folder / "j.db").run("a")
    assert (run.status, run.reason) == (RunStatus.PAUSED, "approval")
    assert len(scene.server.requests) == 2
    set_provider(Prompted(scene.effects, ""))
    result = ask_and_go(_crew(scene), mode, {"run_id": "a"})
    assert result.raw == "closed"
    assert scene.effects.lines == ["charge 7", "asked 1"]
    assert len(scene.server.requests) == 3


@pytest.mark.skipif(UNHEARD is not None, reason=UNHEARD or "")
@pytest.mark.parametrize("mode", MODES)
def test_what_is_typed_is_heard(scene: Scene, monkeypatch: pytest.MonkeyPatch, mode: Mode) -> None:
    """CrewAI's own provider reads lines of input: feedback, then approval."""
    monkeypatch.setattr("sys.stdin", io.StringIO("try harder\n\n"))
    go(_crew(scene), mode, run_id="a")
    steps = open_journal(scene.folder / "j.db").steps("a")
    said = [step.result or "" for step in steps if step.kind is StepKind.HUMAN]
    assert len(said) == 2
    assert "try harder" in said[0]
    assert said[1] == '{"accepted":true}'
    assert steps[0].agent == "A"


def test_a_provider_is_asked_in_a_plain_thread(scene: Scene) -> None:
    """A thread does not inherit the context: the provider set at `harden` counts."""
    set_provider(Prompted(scene.effects, ""))
    crew = _crew(scene)
    set_provider(SyncHumanInputProvider())
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(crew.kickoff(run_id="a")))
    thread.start()
    thread.join(60)
    assert done
    assert "asked 1" in scene.effects.lines


def test_a_providers_own_error_is_the_callers(scene: Scene) -> None:
    """An exception of a user's provider comes out as it is, and costs no model call twice."""

    class Away(SyncHumanInputProvider):
        def _prompt_input(self, crew: Any) -> str:  # type: ignore[override]
            raise LookupError("nobody is in the office")

    set_provider(Away())
    with pytest.raises(LookupError, match="office"):
        ask_and_go(_crew(scene), "kickoff", {"run_id": "a"})
    assert len(scene.server.requests) == 2
    set_provider(Prompted(scene.effects, ""))
    assert ask_and_go(_crew(scene), "kickoff", {"run_id": "a"}).raw == "closed"
    assert len(scene.server.requests) == 3


def test_asynchronous_tasks_ask_too(scene: Scene) -> None:
    """A task in a thread that CrewAI starts is asked about through the same provider."""
    crew = reviewed(scene)
    crew.tasks[0].async_execution = True
    set_provider(Prompted(scene.effects, ""))
    hardened = harden(crew, journal=scene.folder / "j.db")
    assert ask_and_go(hardened, "kickoff", {"run_id": "a"}).raw == "closed"
    assert sorted(scene.effects.lines) == ["asked 1", "charge 7"]


def test_runs_side_by_side_keep_their_providers(scene: Scene) -> None:
    """Two kickoffs on one event loop ask whoever was set for each."""
    crew = _crew(scene)

    async def kick_off(provider: Any, run_id: str) -> Any:
        set_provider(provider)
        return await crew.akickoff(run_id=run_id)

    class Named(SyncHumanInputProvider):
        def __init__(self, name: str) -> None:
            self.name = name

        async def _prompt_input_async(self, crew: Any) -> str:  # type: ignore[override]
            scene.effects.add(f"asked {self.name}")
            return ""

    async def both() -> None:
        await asyncio.gather(*(kick_off(Named(name), name) for name in ("ann", "bob")))

    asyncio.run(both())
    asked = sorted(line for line in scene.effects.lines if line.startswith("asked"))
    assert asked == ["asked ann", "asked bob"]
