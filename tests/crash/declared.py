"""The sequential crew with what a test declares about its tools, found by the children by name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from crewai import Crew

from crewai_prod import Outcome, harden
from crewai_prod.crashtest.evidence import read_effects
from crewai_prod.crashtest.sessions import EFFECTS
from tests.crash.shapes import sequential_native

DECLARED = "CRASH_TEST_DECLARED"
_TOOLS = ("reserve", "charge", "mail")


def declared() -> Crew:
    """Its tools, or some of them, are declared alike, as the environment says."""
    said = json.loads(os.environ[DECLARED])
    names = said.pop("tools", _TOOLS)
    reconcile = said.pop("reconcile", None)
    if reconcile is not None:
        said["reconcile"] = {"look": _look, "unknown": _shrug}[reconcile]
    hardened: Crew = harden(sequential_native(), tools=dict.fromkeys(names, said))
    return hardened


def _look(arguments: dict[str, Any], key: str) -> Outcome:
    """Whether the effects hold one of these arguments, which no two tools share."""
    done = read_effects(Path(os.environ[EFFECTS]))
    found = [effect for effect in done if json.loads(effect.arguments) == arguments]
    return Outcome.done(found[0].result) if found else Outcome.not_done()


def _shrug(arguments: dict[str, Any], key: str) -> Outcome:
    return Outcome.unknown()
