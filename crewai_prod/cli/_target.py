"""MODULE:CREW, as a person named it on the command line, made into something hardened.

A target may be a crew, a flow or an agent, hardened or not, a function without arguments that
returns one, a class of flows, a `@CrewBase` class, or an instance of one.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from crewai_prod.errors import CrewProdError, UsageError


def load_crew(target: str, *, journal: str | None = None) -> Any:
    """Import the target and harden it, unless it is hardened already.

    Args:
        target: `MODULE:NAME`; the working directory comes first on the module path.
        journal: Where its runs are recorded. A hardened crew keeps its own if None.

    Raises:
        UsageError: There is no such target, it is no crew, or its own code failed.
    """
    crew = find_crew(target)
    from crewai_prod._crewai.harden import harden
    from crewai_prod._crewai.targets import is_hardened

    if not is_hardened(crew):
        try:
            return harden(crew, journal=journal)
        except ValueError as error:  # pydantic's, about a CREWAI_PROD_* variable
            raise UsageError(f"A setting in the environment is wrong: {error}") from error
    return with_options(crew, journal=journal) if journal is not None else crew


def find_crew(target: str) -> Any:
    """Import the target: the crew as its author made it, hardened or not.

    Raises:
        UsageError: There is no such target, it is no crew, or its own code failed.
    """
    return _crew_of(_find(target), target)


def with_options(crew: Any, **changed: Any) -> Any:
    """Change options of a hardened crew, the others as they are."""
    from crewai_prod._crewai.takeover import seam_of

    seam = seam_of(crew)
    seam.options = dataclasses.replace(seam.options, **changed)
    return crew


def _find(target: str) -> Any:
    module_name, colon, name = target.partition(":")
    if not colon or not module_name or not name:
        raise UsageError(f"{target!r} is not of the form MODULE:CREW, such as `shop.crew:crew`.")
    if module_name.endswith(".py") or "/" in module_name:
        raise UsageError(f"Give {target!r} as a module, such as `shop.crew:crew`, not as a path.")
    here = os.getcwd()
    if here not in sys.path[:1]:
        sys.path.insert(0, here)
    try:
        found: Any = import_module(module_name)
    except (Exception, SystemExit) as error:
        raise _failed(f"Importing {module_name!r}", error) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{module_name!r} has no {name!r}.")
        found = getattr(found, part)
    return found


def _crew_of(found: Any, target: str) -> Any:
    """Call and instantiate until there is a crew."""
    try:
        if isinstance(found, type):
            found = found()
        make = getattr(found, "crew", found)
        found = make() if callable(make) else found
    except CrewProdError:
        raise
    except (Exception, SystemExit) as error:
        raise _failed(f"Making the crew {target!r}", error) from error
    if not hasattr(found, "kickoff"):
        raise UsageError(
            f"{target!r} is a {type(found).__name__}. It must be a Crew, a Flow, an Agent, a "
            "function without arguments that returns one, a class of flows or a @CrewBase class."
        )
    return found


def _failed(what: str, error: BaseException) -> UsageError:
    return UsageError(
        f"{what} failed{_place(error)}: {type(error).__name__}: {error}. "
        "`crewai-prod doctor` checks what crewai itself needs."
    )


def _place(error: BaseException) -> str:
    """Where in the user's own files an exception came from."""
    frames = traceback.extract_tb(error.__traceback__)
    here = Path.cwd()
    own = [
        f
        for f in frames
        if Path(f.filename).is_relative_to(here) and "site-packages" not in f.filename
    ]
    return f" at {Path(own[-1].filename).relative_to(here)}:{own[-1].lineno}" if own else ""
