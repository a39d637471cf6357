"""The doctor's probes: each seam holds on this CrewAI, and one that is broken is the one named."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Collection
from typing import Any

import pytest

from crewai_prod._crewai import adoption, build, second_line
from crewai_prod._crewai.build import Workshop
from crewai_prod._crewai.crew_run import RunCrew
from crewai_prod._crewai.llm import DurableLLM, HardenedLLM
from crewai_prod._crewai.probes import PROBES, run_probes
from crewai_prod._crewai.probing import Probe, Stage
from crewai_prod._crewai.tasks import RunTask
from crewai_prod._crewai.tools import ToolBench

NAMES = [one.name for one in PROBES]
AWAITED = "model of your own, hardened, awaited in a tool"
OWN = "model of your own, hardened, in a tool"
BESIDE = "model of your own, not hardened, on the bill"
TOOLS = {name for name in NAMES if "tool" in name} | {"single agent", BESIDE}


def named(*parts: str) -> set[str]:
    """The probes whose names have one of these parts."""
    return {name for name in NAMES if any(part in name for part in parts)}


NESTED = named("crew kicked off in a tool", "flow")


def _break_planner(patch: pytest.MonkeyPatch) -> None:
    """All its seams: the model that is given, one made from a name, and the agent kicked off."""
    patch.setattr(build, "CREW_LLMS", ("manager_llm",))
    patch.delattr(RunCrew, "_handle_crew_planning")
    _break_adoption(patch)


def _break_adoption(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(adoption, "place_around", lambda: None)


def _break_guardrail(patch: pytest.MonkeyPatch) -> None:
    """Both its seams: the guardrail's model, and the agent that it kicks off."""
    patch.setattr(build, "take_over_guardrail", lambda given, take_llm: given)
    _break_adoption(patch)


BROKEN: dict[str, tuple[Callable[[pytest.MonkeyPatch], Any], set[str]]] = {
    "models": (lambda m: m.setattr(Workshop, "llm", lambda self, llm: llm), set(NAMES)),
    "models, async": (lambda m: m.delattr(DurableLLM, "acall"), {AWAITED}),
    "tools": (lambda m: m.setattr(ToolBench, "take", lambda self, tools: tools), TOOLS),
    "tasks, async": (lambda m: m.delattr(RunTask, "_aexecute_core"), named("akickoff")),
    "manager": (lambda m: m.delattr(RunCrew, "_create_manager_agent"), named("manager")),
    "planner": (_break_planner, NESTED | named("planner")),
    "guardrail": (_break_guardrail, NESTED | named("guardrail")),
    "nested crews": (_break_adoption, NESTED),
    "own models": (
        lambda m: m.setattr(HardenedLLM, "_run_of_call", lambda self: None),
        {OWN, AWAITED},
    ),
    "second line": (lambda m: m.setattr(second_line, "_place", lambda source: None), {BESIDE}),
}


_SOUND = 4
"""How many of the probes that are to find nothing are asked: each kicks off a crew."""


def failing(names: Collection[str]) -> set[str]:
    """Those of these probes that find something."""
    return {name for name, wrong in run_probes(names) if wrong}


def test_every_seam_holds() -> None:
    """On a CrewAI that is supported no probe finds anything, nor touches the user's storage."""
    before = os.environ["CREWAI_STORAGE_DIR"]
    assert {name: wrong for name, wrong in run_probes() if wrong} == {}
    assert os.environ["CREWAI_STORAGE_DIR"] == before
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("seam", BROKEN)
def test_a_broken_seam_is_the_one_named(seam: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one seam out of order, the probes that go through it fail and no other."""
    break_it, expected = BROKEN[seam]
    assert expected
    break_it(monkeypatch)
    others = [name for name in NAMES if name not in expected]
    asked = expected | set(random.Random(seam).sample(others, min(_SOUND, len(others))))
    assert failing(asked) == expected


def test_a_probe_that_never_comes_to_its_seam_fails() -> None:
    """Where a release goes another way, the probe does not pass for want of anything to count."""

    def make(stage: Stage) -> Any:
        return stage.crew(stage.agent())

    (missing,) = Probe(name="x", make=make, within="/Nobody").run()
    assert "'/Nobody'" in missing
    (fewer,) = Probe(name="x", make=make, models=2).run()
    assert "1 model calls were made" in fewer
