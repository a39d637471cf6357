"""A crew as a crash test runs it: with a journal of its own, and if asked without acting or paying."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from crewai import Crew

from crewai_prod._crewai.crew import CrewSeam, HardenedCrew, harden_crew
from crewai_prod._crewai.options import Options
from crewai_prod._crewai.takeover import seam_of
from crewai_prod.errors import UsageError
from crewai_prod.tooling import Outcome


def load_crew(target: str, *, bare_environment: bool = True) -> Crew:
    """The crew that `module:attribute` names: a crew, a function that gives one, a `@CrewBase` class.

    Args:
        target: Where it is. The working directory is looked in first.
        bare_environment: Leave the environment as it is. If not, a placeholder stands in for a
            missing OPENAI_API_KEY, without which CrewAI builds no agent.

    Raises:
        UsageError: There is no such thing, or it gives no crew.
    """
    if not bare_environment:
        os.environ.setdefault("OPENAI_API_KEY", "sk-crash-test")
    module, _, attribute = target.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found: Any = import_module(module)
    for name in (attribute or "crew").split("."):
        if not hasattr(found, name):
            raise UsageError(f"There is no {name!r} in {target!r}.")
        found = getattr(found, name)
    if isinstance(found, type) and getattr(found, "is_crew_class", False):
        found = found().crew
    crew = found() if callable(found) and not isinstance(found, Crew) else found
    if not isinstance(crew, Crew):
        raise UsageError(f"{target!r} gives a {type(crew).__name__}, not a Crew.")
    return crew


def rehearse(
    crew: Crew,
    *,
    journal: str,
    durability: Literal["process", "power"],
    unknown: Mapping[str, Outcome],
    lease_seconds: float | None,
    stand_in_model: bool,
    stand_in_tools: bool,
    requests: Path | None,
    effects: Path | None,
) -> Crew:
    """The crew, hardened over this journal.

    Args:
        crew: A crew, hardened already or not; its own tool options are kept.
        journal: The file.
        durability: As for `harden`.
        unknown: Outcomes of open steps, by step id.
        lease_seconds: As in `Settings`; None: the default.
        stand_in_model: Replace its models by a scripted one.
        stand_in_tools: Replace the bodies of its tools by recorders.
        requests: Where to count model requests; None: nowhere.
        effects: Where to record what tools do; None: nowhere.
    """
    base = seam_of(crew).options if isinstance(crew, HardenedCrew) else Options.read()
    settings = base.settings.model_copy(update={"durability": durability})
    if lease_seconds is not None:
        settings = settings.model_copy(update={"lease_seconds": lease_seconds})
    options = replace(base, settings=settings, journal=journal, unknown=unknown)
    return harden_crew(crew, options)
