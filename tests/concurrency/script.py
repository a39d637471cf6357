"""What the model says to a crew whose every prompt names its run. No crewai: servers import this.

The run's mark decides what is asked for and how long the answers are, so that each run has a bill
of its own. A prompt that names two runs is a mix-up and gets no answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tests.openai_script import Conversation, Rule, Turn, answer, text_of, use

_MARK = re.compile(r"mark-(\d+)")


def mark(n: int) -> str:
    """What the n-th run is known by, also its run id."""
    return f"mark-{n:04d}"


def known(n: int) -> str:
    """What the first task of the n-th run comes to."""
    return f"{mark(n)} is known" + " well" * (n % 5)


def paid(n: int) -> str:
    """What the second task comes to, and the run returns."""
    return f"{mark(n)} paid {n}" + " indeed" * (n % 7)


def run_of(body: Mapping[str, Any]) -> int:
    """The run that asks.

    Raises:
        LookupError: The prompt names none, or several.
    """
    said = "\n".join(text_of(message) for message in body["messages"])
    found = set(_MARK.findall(said))
    if len(found) != 1:
        raise LookupError(f"a prompt of the runs {sorted(found)}")
    return int(found.pop())


def _look(turn: Turn) -> Any:
    return use("look_up", {"who": mark(run_of(turn.body))})(turn)


def _known(turn: Turn) -> Any:
    return answer(known(run_of(turn.body)))(turn)


def _charge(turn: Turn) -> Any:
    n = run_of(turn.body)
    return use("charge", {"who": mark(n), "usd": n})(turn)


def _paid(turn: Turn) -> Any:
    return answer(paid(run_of(turn.body)))(turn)


bank = Conversation(Rule(_look, _known, task="Look"), Rule(_charge, _paid, task="Charge"))
