"""Memory in a hardened run: whose calls they are, what is saved once, what the user keeps."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from crewai import Crew, Task
from crewai.flow.flow import Flow, start
from crewai.memory.unified_memory import Memory

from crewai_prod import harden, open_journal, open_run
from crewai_prod.records import StepKind
from tests.integration.parts import PATHS, Effects, Killed, fail_once, total
from tests.integration.shape_trials import Scene
from tests.integration.shapes.memory import WORK, crew_memory, memory_of, records
from tests.memory_script import LONG, of_memory, remembering
from tests.openai_server import Rule, Server, answer, fault


@pytest.fixture(params=PATHS)
def scene(request: Any, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """A scene on either path, CrewAI's files in its folder."""
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path))
    return Scene(server, Effects(tmp_path), request.param)


def _run(crew: Crew, scene: Scene, **options: Any) -> Any:
    return harden(crew, journal=scene.folder / "j.db", **options).kickoff(run_id="a")


def _billed(scene: Scene) -> int:
    steps = open_journal(scene.folder / "j.db").steps("a")
    return sum(step.usage.total_tokens for step in steps if step.usage)


def _one_task(scene: Scene, **options: Any) -> Crew:
    scene.script(remembering(*WORK))
    one = scene.agent("Cashier", scene.charge, memory=options.pop("memory", memory_of(scene)))
    task = Task(description=f"Pay. {LONG}", expected_output="o", agent=one, **options)
    return Crew(agents=[one], tasks=[task])


def test_memory_calls_belong_to_their_task_and_agent(scene: Scene) -> None:
    """Extraction, analyses and recalls are billed to the agent that remembers, in its scope."""
    _run(crew_memory(scene), scene)
    steps = open_journal(scene.folder / "j.db").steps("a")
    models = [step for step in steps if step.kind is StepKind.MODEL]
    beside = [step for step in models if "/:memory." in step.scope]
    what = Counter(
        (step.task, step.agent, step.scope.partition("/:memory.")[2].partition("~")[0])
        for step in beside
    )
    assert what[0, "Cashier", "extract"] == what[1, "Teller", "extract"] == 1
    assert what[0, "Cashier", "save"] == what[1, "Teller", "save"] == 2
    assert what[0, "Cashier", "recall"] >= 1
    assert what[1, "Teller", "recall"] >= 1
    assert sum(what.values()) == len(beside)


def test_a_task_that_is_walked_again_saves_nothing_twice(scene: Scene) -> None:
    """Ended between its save and its record, a task is walked again: no call, no second record."""
    failed: list[bool] = []

    def callback(_: Any) -> None:
        if not failed:
            failed.append(True)
            deadline = time.monotonic() + 20
            while len(records(scene)) < 2 and time.monotonic() < deadline:
                time.sleep(0.02)  # CrewAI saves beside the task
            raise Killed

    with pytest.raises(Killed):
        _run(_one_task(scene, callback=callback), scene)
    saved, asked = records(scene), len(scene.server.requests)
    assert len(saved) == 2
    result = _run(_one_task(scene, callback=callback), scene)
    assert result.raw == "charged seven"
    assert (records(scene), len(scene.server.requests)) == (saved, asked)
    assert scene.effects.lines == ["charge 7"]
    assert result.token_usage.total_tokens == _billed(scene) == total(scene.server)


def test_a_task_ends_when_its_memories_are_saved(scene: Scene) -> None:
    """Whoever sees a task's output in the journal finds its memories in the store."""
    seen: list[int] = []

    class Watched(Memory):
        """Saves slowly."""

        def _encode_batch(self, *args: Any, **kwargs: Any) -> Any:
            tasks = open_journal(scene.folder / "j.db").tasks("a")
            seen.append(sum(task.output is not None for task in tasks))
            return super()._encode_batch(*args, **kwargs)

    memory = memory_of(scene)
    watched = Watched(
        storage=str(scene.folder / "memory"), embedder=memory.embedder, llm=memory.llm
    )
    _run(_one_task(scene, memory=watched), scene)
    assert seen == [0]
    assert len(records(scene)) == 2


def test_a_memory_call_that_fails_is_billed_and_survived(scene: Scene) -> None:
    """CrewAI goes on with defaults when an analysis fails, bare or hardened."""
    fail_once(scene.server, fault("unauthorized"), of_memory)
    result = _run(_one_task(scene), scene)
    assert result.raw == "charged seven"
    assert records(scene)
    assert result.token_usage.total_tokens == _billed(scene) == total(scene.server)


def test_a_memory_of_a_named_model_is_metered(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A memory that makes its model itself, from a name, makes it within the run."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"{scene.server.url}/v1")
    result = _run(_one_task(scene, memory=memory_of(scene, llm="openai/gpt-4o-mini")), scene)
    assert {record.status for record in scene.server.requests} == {200}
    assert result.token_usage.total_tokens == _billed(scene) == total(scene.server)


def test_the_user_is_left_with_a_memory_of_their_own(scene: Scene) -> None:
    """After a run the crew's memory works as after a bare kickoff, and no run pays for it."""
    crew = crew_memory(scene)
    hardened = harden(crew, journal=scene.folder / "j.db")
    hardened.kickoff(run_id="a")
    billed = _billed(scene)
    for held in (crew, hardened):
        assert type(held._memory) is Memory
        assert held._memory.recall(f"tides {LONG}")
    assert _billed(scene) == billed < total(scene.server)


def test_a_bare_crew_with_a_memory_within_a_run(scene: Scene) -> None:
    """Kicked off within a run, its memory's calls are the run's, and it is left as it was."""
    with open_run("a", journal=scene.folder / "j.db"):
        crew = crew_memory(scene)
        crew.kickoff()
    assert len(records(scene)) == 4
    assert _billed(scene) == total(scene.server)
    assert "calculate_usage_metrics" not in crew.__dict__
    assert type(crew._memory) is Memory


def test_an_agent_ends_when_its_memories_are_saved(scene: Scene) -> None:
    """An agent that is kicked off alone pays for what it remembers before it is done."""
    scene.script(remembering(Rule(answer("charged seven"))))
    agent = harden(scene.agent("Cashier", memory=memory_of(scene)), journal=scene.folder / "j.db")
    agent.kickoff(f"Pay. {LONG}", run_id="a")
    asked = total(scene.server)
    assert records(scene)
    assert _billed(scene) == asked == total(scene.server)


def test_a_flow_that_remembers(scene: Scene) -> None:
    """The memory a flow holds asks within the run, and the user keeps a memory of their own."""
    scene.script(remembering(Rule(answer("done"))))

    class Diary(Flow):  # type: ignore[type-arg]  # its state is a dict
        @start()
        def write(self) -> int:
            self.remember(f"The tide is high. {LONG}")
            return len(self.recall(f"tides {LONG}"))

    flow = Diary(memory=memory_of(scene))
    assert harden(flow, journal=scene.folder / "j.db").kickoff(run_id="a") == 1
    asked = total(scene.server)
    assert records(scene)
    assert _billed(scene) == asked > 0
    assert type(flow.memory) is Memory
