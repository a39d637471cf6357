"""Harden every crew of a test session: how a suite that knows nothing of this package is run on it.

This is the one place that replaces methods of CrewAI's classes, and only for as long as a pytest
session asks for it with `--harden-crews`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crewai import Crew

from crewai_prod._crewai.crew import HardenedCrew, harden_crew
from crewai_prod._crewai.crew_run import RunCrew
from crewai_prod.options import Options

KICKOFFS = ("kickoff", "kickoff_async", "akickoff")


@contextmanager
def every_crew_hardened(journal: Path) -> Iterator[None]:
    """Within this block `Crew.kickoff` and its twins are those of a hardened crew."""
    options = Options.read(journal=journal, durability="process", log=None)
    originals = {name: vars(Crew)[name] for name in KICKOFFS}
    for name, original in originals.items():
        setattr(Crew, name, _hardening(name, original, options))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(Crew, name, original)


def _hardening(name: str, original: Callable[..., Any], options: Options) -> Callable[..., Any]:
    def kickoff(self: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self, (HardenedCrew, RunCrew)):
            return original(self, *args, **kwargs)
        return getattr(harden_crew(self, options), name)(*args, **kwargs)

    async def akickoff(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await kickoff(self, *args, **kwargs)

    return akickoff if inspect.iscoroutinefunction(original) else kickoff
