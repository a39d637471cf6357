"""`harden` on everything it takes, as a call and as a decorator."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import Any, ClassVar

import pytest
from crewai import Agent, Crew, Task
from crewai.flow.flow import Flow, start
from crewai.project import CrewBase, after_kickoff, agent, before_kickoff, crew, task
from crewai.state.checkpoint_config import CheckpointConfig

from crewai_prod import harden, open_journal
from crewai_prod.errors import UsageError
from crewai_prod.testing import ScriptedLLM
from tests.integration.parts import MODES, Mode


def _final(messages: Any, tools: Any) -> str:
    return "Final Answer: done"


def _crew() -> Crew:
    one = Agent(role="A", goal="g", backstory="b", llm=ScriptedLLM(_final))
    return Crew(agents=[one], tasks=[Task(description="d", expected_output="o", agent=one)])


def _runs(path: Path) -> list[str]:
    return [run.run_id for run in open_journal(path).runs()]


def test_decorated_function_builds_anew_for_each_run(tmp_path: Path) -> None:
    """A factory stays a function; each run of its crew goes through it again."""
    built: list[int] = []

    @harden(journal=tmp_path / "j.db")
    def make(size: int = 1) -> Crew:
        """Make it."""
        built.append(size)
        return _crew()

    assert make.__doc__ == "Make it."
    made = make(size=3)
    assert isinstance(made, Crew)
    assert made.kickoff(run_id="a").raw == made.kickoff(run_id="b").raw == "done"
    assert built == [3, 3, 3]
    assert _runs(tmp_path / "j.db") == ["b", "a"]
    assert made.tasks[0].output is not None


def test_what_is_set_on_a_factorys_crew_counts(tmp_path: Path) -> None:
    """Callbacks added to the crew that a factory returned apply to its runs."""
    made = harden(_crew_of_callbacks, journal=tmp_path / "j.db")()
    heard: list[str] = []

    def listen(output: Any) -> Any:
        heard.append(output.raw)
        return output

    made.after_kickoff_callbacks.append(listen)
    made.kickoff()
    assert heard == ["done"]


def _crew_of_callbacks() -> Crew:
    return _crew()


def test_bare_decorator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`@harden` without options uses the default journal below the working directory."""

    @harden
    def make() -> Crew:
        return _crew()

    assert make().kickoff(run_id="a").raw == "done"
    assert _runs(tmp_path / ".crewai_prod" / "journal.db") == ["a"]


def _base(name: str = "Plain") -> type:
    @CrewBase
    class Plain:
        """A crew of the project kind."""

        agents_config: ClassVar[Any] = {}
        tasks_config: ClassVar[Any] = {}
        heard: ClassVar[list[str]] = []

        @before_kickoff
        def prepare(self, inputs: Any) -> Any:
            self.heard.append("before")
            return inputs

        @after_kickoff
        def tidy(self, output: Any) -> Any:
            self.heard.append("after")
            return output

        @agent
        def one(self) -> Agent:
            return Agent(role="A", goal="g", backstory="b", llm=ScriptedLLM(_final))

        @task
        def only(self) -> Task:
            return Task(description="d", expected_output="o", agent=self.one())

        @crew
        def crew(self) -> Crew:
            return Crew(agents=self.agents, tasks=self.tasks)

    Plain.heard = []
    return Plain


def test_crewbase_class(tmp_path: Path) -> None:
    """A `@CrewBase` class becomes a subclass with hardened crews; the class itself stays bare."""
    plain = _base()
    hardened = harden(plain, journal=tmp_path / "j.db")
    assert issubclass(hardened, plain)
    instance = hardened()
    assert instance.crew() is instance.crew()
    assert instance.crew().kickoff(inputs={}, run_id="a").raw == "done"
    assert plain.heard == ["before", "after"]
    assert plain().crew().kickoff().raw == "done"
    assert _runs(tmp_path / "j.db") == ["a"]


@pytest.mark.parametrize("outside", [True, False])
def test_crew_method(tmp_path: Path, outside: bool) -> None:
    """`@harden` works above and below `@crew`, with the class's hooks."""
    keep = harden(journal=tmp_path / "j.db")

    @CrewBase
    class Project:
        """A project whose method is hardened."""

        agents_config: ClassVar[Any] = {}
        tasks_config: ClassVar[Any] = {}
        heard: ClassVar[list[str]] = []

        @before_kickoff
        def prepare(self, inputs: Any) -> Any:
            self.heard.append("before")
            return inputs

        @agent
        def one(self) -> Agent:
            return Agent(role="A", goal="g", backstory="b", llm=ScriptedLLM(_final))

        @task
        def only(self) -> Task:
            return Task(description="d", expected_output="o", agent=self.one())

        def _make(self) -> Crew:
            return Crew(agents=self.agents, tasks=self.tasks)

        crew = keep(crew(_make)) if outside else crew(keep(_make))

    project = Project()
    assert project.crew().kickoff(inputs={}, run_id="a").raw == "done"
    assert project.crew().kickoff(inputs={}, run_id="b").raw == "done"
    assert Project.heard == ["before", "before"]
    assert _runs(tmp_path / "j.db") == ["b", "a"]


def test_wrong_targets_are_named(tmp_path: Path) -> None:
    """What cannot be hardened is refused with its name."""
    with pytest.raises(UsageError, match="not a @CrewBase class"):
        harden(dict)
    with pytest.raises(UsageError, match="returned a str"):
        harden(lambda: "x")()


def test_for_each_makes_a_run_of_each_item(tmp_path: Path) -> None:
    """CrewAI's own batch goes through the journal too."""
    made = harden(_crew(), journal=tmp_path / "j.db")
    results = made.kickoff_for_each(inputs=[{"n": "1"}, {"n": "2"}])
    assert [result.raw for result in results] == ["done", "done"]
    assert len(_runs(tmp_path / "j.db")) == 2


def test_after_kickoff_that_makes_something_else(tmp_path: Path) -> None:
    """A result of the user's own class is not lost: the callback is applied to the stored one."""
    bare = _crew()
    bare.after_kickoff_callbacks.append(lambda output: {"text": output.raw})
    made = harden(bare, journal=tmp_path / "j.db")
    assert made.kickoff(run_id="a") == {"text": "done"}
    assert made.kickoff(run_id="a") == {"text": "done"}


class _Noting(Flow):  # type: ignore[type-arg]  # its state is a dict
    @start()
    def note(self) -> str:
        return "noted"


@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["crew", "agent", "flow"])
def test_checkpoints_of_crewai_are_refused(
    tmp_path: Path, kind: str, mode: Mode, by_name: bool
) -> None:
    """Two records of one run would contradict each other: nothing is begun."""
    make: dict[str, Any] = {"crew": _crew, "agent": lambda: _crew().agents[0], "flow": _Noting}
    hardened: Any = harden(make[kind](), journal=tmp_path / "j.db")
    checkpoint = CheckpointConfig(restore_from=tmp_path / "c.json")
    before = [None] * (2 if kind == "agent" else 1)
    args, kwargs = ([], {"from_checkpoint": checkpoint}) if by_name else ([*before, checkpoint], {})
    given = "hi" if kind == "agent" else {}

    def kickoff() -> Any:
        result = getattr(hardened, mode)(given, *args, **kwargs)
        return asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result

    with pytest.raises(UsageError, match="pass run_id, not from_checkpoint"):
        kickoff()
    assert not (tmp_path / "j.db").exists()


async def _awaited(result: Any) -> Any:
    return await result
