"""A registry of shapes of crew, and the trial that every shape has to pass.

A shape is a function that sets the server's script and builds a crew. `@shape()` registers it; all
tests over shapes take what they run from `cases()`. To be in the registry, a module of shapes must
be imported by `tests.integration.shapes`.

The trial: the bare crew is run once and is the measure. The hardened crew is then run under one run
id while each request fails the first time it is made, and is built anew after each failure, as a
new process would. What comes out must be the bare crew's: output, effects and bill.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew
from crewai.llms.base_llm import BaseLLM

from crewai_prod import _faults, harden, open_journal
from crewai_prod.errors import RunInterrupted
from crewai_prod.heart import HEART
from crewai_prod.records import StepKind, StepStatus
from tests.crews import make_llm
from tests.integration.parts import (
    MODES,
    PATHS,
    Effects,
    Mode,
    assert_all_metered,
    go,
    make_tools,
)
from tests.openai_server import Record, Script, Seen, Server, fault

Kickoff = Callable[[Crew, Mode, dict[str, Any]], Any]
RUN = "a"
INPUTS = {"who": "ann"}
_FEW = {("kickoff", "native"), ("kickoff_async", "text"), ("akickoff", "native")}
_FAULT = fault("unauthorized")
"""No SDK and no CrewAI retries it."""
_PATIENCE = 120
"""Sessions until a trial is given up."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a shape is built: the model's server, the world its tools act on, and the path.

    Attributes:
        server: The model.
        effects: Where tools leave a line when they act; its folder is the crew's for the trial.
        path: `native` or `text`.
    """

    server: Server
    effects: Effects
    path: str

    @property
    def folder(self) -> Path:
        """A folder that all sessions of one trial share."""
        return self.effects.path.parent

    def script(self, script: Script) -> None:
        """Have the model say this."""
        self.server.app.script = script

    def llm(self, **options: Any) -> BaseLLM:
        """A model of this path, without retries of its own."""
        return make_llm(self.server.url, self.path, **{"max_retries": 0, **options})  # type: ignore[arg-type]

    def agent(self, role: str = "A", *tools: Any, **options: Any) -> Agent:
        """An agent that does not try a failed task again by itself."""
        given = {"llm": self.llm(), "tools": list(tools), "max_retry_limit": 0, **options}
        return Agent(role=role, goal="g", backstory="b", **given)

    @property
    def look_up(self) -> Any:
        """A plain function tool."""
        return make_tools(self.effects)[0]

    @property
    def charge(self) -> Any:
        """An asynchronous function tool."""
        return make_tools(self.effects)[1]

    @property
    def send(self) -> Any:
        """A tool of a class of its own."""
        return make_tools(self.effects)[2]


Make = Callable[[Scene], Crew]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A shape of crew and what is particular about its trial.

    Attributes:
        name: Of the function that makes it.
        few: Whether three trials that meet every mode and both paths are enough.
        make: Sets the script and builds the crew.
        paths: Tool paths on which it differs.
        cannot: Mode, path or `mode-path` -> why bare CrewAI cannot run it there.
        unless: Why this release of CrewAI does not have it; None if it does.
        spared: Which requests never fail, because CrewAI goes on from their failure another way.
        once: Effects that a bare crew repeats and a hardened one must not: what it does instead.
        also: What else the crew does to the world than its tools' lines, as lines.
        drifts: The prompts hold something that differs from process to process (an address, a
            time): calls are counted, their prompts not compared.
        unmetered: Its models do not say what a call costs: calls are counted, tokens are not.
        kickoff: How it is kicked off and its output waited for.
        options: Further options of `harden`.
        inputs: Of the kickoff.
    """

    name: str
    make: Make
    paths: Sequence[str] = PATHS
    few: bool = False
    cannot: Mapping[str, str] = field(default_factory=dict)
    unless: str | None = None
    spared: Callable[[Seen], bool] = lambda _: False
    once: Sequence[str] | None = None
    also: Callable[[Scene], list[str]] = lambda _: []
    drifts: bool = False
    unmetered: bool = False
    kickoff: Kickoff = lambda crew, mode, given: go(crew, mode, **given)
    options: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=lambda: INPUTS)

    def reason_to_skip(self, path: str, mode: str) -> str | None:
        """Why there is no trial on this path in this mode, if there is none."""
        found = (self.cannot.get(key) for key in (mode, path, f"{mode}-{path}"))
        return self.unless or next((reason for reason in found if reason), None)


SHAPES: dict[str, Shape] = {}


def shape(**particular: Any) -> Callable[[Make], Make]:
    """Register a shape; `particular` are `Shape`'s fields."""

    def register(make: Make) -> Make:
        name = make.__name__
        assert name not in SHAPES, f"there are two shapes {name}"
        SHAPES[name] = Shape(name=name, make=make, **particular)
        return make

    return register


def cases(
    shapes: Iterable[Shape] | None = None,
    *,
    modes: Sequence[str] = MODES,
    paths: Sequence[str] = PATHS,
) -> Iterator[Any]:
    """Parameters `one, path, mode` of every trial, those that cannot be marked with the reason."""
    for one in SHAPES.values() if shapes is None else shapes:
        for path in [path for path in one.paths if path in paths]:
            for mode in [mode for mode in modes if not one.few or (mode, path) in _FEW]:
                reason = one.reason_to_skip(path, mode)
                marks = [] if reason is None else [pytest.mark.skip(reason=reason)]
                yield pytest.param(one, path, mode, marks=marks, id=f"{one.name}-{path}-{mode}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a crew did, in one session or in many.

    Attributes:
        output: What `kickoff` returned, as text.
        effects: What its tools did, sorted.
        answered: The requests that were answered.
        tokens: What they cost.
        failures: How many requests failed.
        result: The `CrewOutput`.
    """

    output: str
    effects: list[str]
    answered: list[Record]
    tokens: int
    failures: int
    result: Any

    @property
    def asked(self) -> Counter[str]:
        """The answered requests by what they ask."""
        return Counter(record.digest for record in self.answered)


def run_bare(one: Shape, server: Server, folder: Path, path: str, mode: Mode) -> Done:
    """The crew as it is without this package."""
    scene = _scene(server, folder, path)
    server.app.faults = None
    with _storage(folder):
        result = one.kickoff(one.make(scene), mode, {"inputs": dict(one.inputs)})
        return _done(one, scene, result)


def run_failing(one: Shape, server: Server, folder: Path, path: str, mode: Mode) -> Done:
    """The hardened crew, each request of which fails once, resumed until it is done."""
    scene = _scene(server, folder, path)
    server.app.faults = _each_once(one.spared)
    for _ in range(_PATIENCE):
        before = len(server.requests)
        try:
            result = kick_off(one, scene, mode)
        except Exception as error:  # noqa: BLE001 - whatever CrewAI makes of the 401
            assert _is_the_fault(error), error  # noqa: PT017
            assert len(server.requests) > before, "a session that asked nothing failed"
        else:
            with _storage(folder):
                return _done(one, scene, result)
    raise AssertionError("it never ends")


def run_stopping(one: Shape, server: Server, folder: Path, path: str, mode: Mode) -> Done:
    """The hardened crew, stopped as by a signal after every model call, resumed until it is done.

    CrewAI goes on from some failures of models; this it does not survive.
    """
    scene = _scene(server, folder, path)
    server.app.faults = None
    for _ in range(_PATIENCE):
        before = len(server.requests)
        _faults.arm(at="model.after_call", action=_interrupt)
        try:
            result = kick_off(one, scene, mode)
        except RunInterrupted:
            assert len(server.requests) > before, "a session that asked nothing was stopped"
        else:
            with _storage(folder):
                return _done(one, scene, result)
        finally:
            _faults.disarm()
    raise AssertionError("it never ends")


def _interrupt() -> None:
    for run in HEART.runs():
        run.stop(RunInterrupted())


def kick_off(one: Shape, scene: Scene, mode: Mode) -> Any:
    """One session of the hardened crew, built anew."""
    with _storage(scene.folder):
        crew = harden(one.make(scene), journal=journal_of(scene.folder), **one.options)
        return one.kickoff(crew, mode, {"inputs": dict(one.inputs), "run_id": RUN})


def journal_of(folder: Path) -> Path:
    """The journal of a trial."""
    return folder / "j.db"


def compare(one: Shape, bare: Done, done: Done, folder: Path) -> None:
    """Assert that a run was what the bare crew is, and that it is billed as it was."""
    assert done.output == bare.output
    assert done.effects == (bare.effects if one.once is None else sorted(one.once))
    if one.drifts:
        assert len(done.answered) == len(bare.answered)
    else:
        assert done.asked == bare.asked, "other requests than the bare crew's were answered"
        assert done.tokens == bare.tokens
    assert_billed(done, folder, 0 if one.unmetered else done.tokens)


def assert_billed(done: Done, folder: Path, tokens: int) -> None:
    """Assert that journal, result and server agree on calls and tokens."""
    assert_all_metered(journal_of(folder), RUN)
    journal = open_journal(journal_of(folder))
    steps = journal.steps(RUN)
    calls = [step for step in steps if step.kind is StepKind.MODEL]
    paid = [step for step in calls if step.usage and step.usage.total_tokens]
    answered = [step for step in calls if step.status is StepStatus.DONE or step in paid]
    assert len(answered) == len(done.answered), "a model call passed the seams"
    billed = sum(step.usage.total_tokens for step in steps if step.usage)
    assert billed == tokens, "the journal's bill is not the server's"
    assert done.result.token_usage.total_tokens == tokens, "the result's is not"
    assert_all_metered(journal_of(folder), RUN)


def assert_handed_back(one: Shape, scene: Scene, mode: Mode, done: Done) -> None:
    """Assert that a finished run is handed back without a call or an effect."""
    before = len(scene.server.requests)
    again = kick_off(one, scene, mode)
    assert str(again.raw) == done.output
    assert again.token_usage.total_tokens == done.result.token_usage.total_tokens
    with _storage(scene.folder):
        effects = _effects(one, scene)
    assert (len(scene.server.requests), effects) == (before, done.effects)


def _scene(server: Server, folder: Path, path: str) -> Scene:
    server.reset()
    folder.mkdir(parents=True, exist_ok=True)
    return Scene(server, Effects(folder), path)


@contextmanager
def _storage(folder: Path) -> Iterator[None]:
    """CrewAI's own files of a trial lie in its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CREWAI_STORAGE_DIR", str(folder))
        yield


def _effects(one: Shape, scene: Scene) -> list[str]:
    return sorted([*scene.effects.lines, *one.also(scene)])


def _done(one: Shape, scene: Scene, result: Any) -> Done:
    records = scene.server.requests
    return Done(
        output=str(result.raw),
        effects=_effects(one, scene),
        answered=[record for record in records if record.status == 200],
        tokens=scene.server.total_usage.total_tokens,
        failures=sum(record.status != 200 for record in records),
        result=result,
    )


_ADDRESS = re.compile("0x[0-9a-f]+")
"""What CrewAI's planner shows of tools: where they are in memory, which is no part of a request."""


def _each_once(spared: Callable[[Seen], bool]) -> Callable[[Seen], Any]:
    failed: set[str] = set()

    def schedule(seen: Seen) -> Any:
        asked = _ADDRESS.sub("", json.dumps(seen.body))
        if asked in failed or spared(seen):
            return None
        failed.add(asked)
        return _FAULT

    return schedule


def _is_the_fault(error: BaseException) -> bool:
    said = str(error).lower()
    return "401" in said or "auth" in said or "api key" in said
