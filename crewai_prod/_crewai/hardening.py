"""Harden what a test session kicks off, so that a suite that knows nothing of us runs on us.

This is the one place that replaces methods of CrewAI's classes, and only for as long as a pytest
session asks for it with `--harden-crews`.

Rule: the outermost kickoff is hardened, as a user would do it. Crews and agents that are kicked off
in the course of it belong to its run as they are; the methods of a flow are then simply called.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crewai import Agent, Crew
from crewai.flow.flow import Flow

from crewai_prod._crewai.harden import harden_object
from crewai_prod._crewai.takeover import seam_of
from crewai_prod.kickoff import place_around
from crewai_prod.options import Options

KICKOFFS = ("kickoff", "kickoff_async", "akickoff")


@contextmanager
def kickoffs_hardened(journal: Path) -> Iterator[None]:
    """Within this block every kickoff of a crew, an agent or a flow is that of a hardened one."""
    options = Options.read(journal=journal, durability="process", log=None, human="terminal")
    originals = [(_owner(kind, name), name) for kind in (Crew, Agent, Flow) for name in KICKOFFS]
    replaced = [(owner, name, vars(owner)[name]) for owner, name in originals]
    for owner, name, original in replaced:
        setattr(owner, name, _hardening(name, original, options))
    try:
        yield
    finally:
        for owner, name, original in replaced:
            setattr(owner, name, original)


def _owner(kind: type, name: str) -> type:
    """The class that defines a method: releases of CrewAI differ in where a flow's are."""
    return next(one for one in kind.__mro__ if name in vars(one))


def _hardening(name: str, original: Callable[..., Any], options: Options) -> Callable[..., Any]:
    def kickoff(self: Any, *args: Any, **kwargs: Any) -> Any:
        if seam_of(self) is not None or place_around() is not None or _is_machinery(self):
            return original(self, *args, **kwargs)
        return getattr(harden_object(self, options), name)(*args, **kwargs)

    async def akickoff(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await kickoff(self, *args, **kwargs)

    return akickoff if inspect.iscoroutinefunction(original) else kickoff


def _is_machinery(target: Any) -> bool:
    """Whether this is a flow of CrewAI's own making: what executes an agent or keeps its memory."""
    if not isinstance(target, Flow):
        return False
    bases = [kind for kind in type(target).__mro__ if issubclass(kind, Flow)]
    names = [kind.__module__ for kind in bases]
    return any(n.startswith("crewai.") and not n.startswith("crewai.flow.") for n in names)
