"""`--unknown`: what a person says about tool calls that may or may not have acted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from crewai_prod.errors import UsageError
from crewai_prod.tooling import Outcome

_STEP = re.compile(r"([0-9a-f]{16})=(.*)", re.DOTALL)


def read_unknown(said: Sequence[str]) -> str | Outcome | Mapping[str, Outcome] | None:
    """What `kickoff(unknown=...)` takes, from the values of the option; None if there are none.

    Raises:
        UsageError: An answer for one step beside one for all, or several for all.
    """
    steps = {m[1]: _outcome(m[2]) for one in said if (m := _STEP.fullmatch(one))}
    general = [one for one in said if not _STEP.fullmatch(one)]
    if not general:
        return steps or None
    if steps or len(general) > 1:
        raise UsageError("Give --unknown once for all open calls, or as STEP=... for each of them.")
    return general[0] if general[0] in ("rerun", "fail") else _outcome(general[0])


def _outcome(said: str) -> Outcome:
    if said == "rerun":
        return Outcome.not_done()
    return Outcome.failed() if said == "fail" else Outcome.done(_result(said))


def _result(said: str) -> object:
    """The tool's result: JSON where it is JSON, else the text as it stands."""
    try:
        return json.loads(said)
    except ValueError:
        return said
