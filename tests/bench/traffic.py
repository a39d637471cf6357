"""The traffic of the ledger benchmark: what each of its runs is, and what the server does to it.

No crewai here: the process that holds the servers imports this module. Everything follows from the
seed, but for the moments at which processes are killed.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tests.crash import scripts
from tests.openai_script import (
    FAULTS,
    RECOVERABLE,
    Body,
    Conversation,
    Fault,
    Reply,
    Rule,
    Schedule,
    Seen,
    Usage,
    answer,
    fail_at_rate,
    fault,
    use,
)
from tests.openai_wire import usage_of

Mode = Literal["kickoff", "kickoff_async", "akickoff"]
MODES: tuple[Mode, ...] = ("kickoff", "kickoff_async", "akickoff")

WIDTHS: Mapping[str, int] = {
    "sequential_text": 1,
    "parallel_calls": 1,
    "async_tasks": 3,
    "hierarchical": 1,
    "side_models": 1,
    "sequential_native": 1,
    "coworkers": 2,
    "mixed": 2,
    "nested": 1,
    "odd_tools": 1,
}
"""The crews by name, and how many model calls each may have under way at once."""
ASIDE = "Ask aside"
"""What a tool of the crew `nested` asks a model itself."""

TIMEOUT = 1.5
"""Seconds after which a hardened call is left."""
LATE = 2.2
"""Seconds that a hung connection takes to close, and an answer that comes too late to arrive."""
PASSING: tuple[Fault, ...] = (
    *(FAULTS[name] for name in RECOVERABLE),
    fault("hang", seconds=LATE),
    fault("drip", seconds=LATE),
    fault("drip", seconds=0.2),
    FAULTS["broken_arguments"],
    FAULTS["unknown_tool"],
)
LASTING = ("unauthorized", "quota", "no_such_model", "forbidden")
"""Faults that are there again when the same request is sent again, until somebody sees to them."""
RATES = (0.0, 0.1, 0.2)
LIMITS = (
    "max_tokens",
    "max_usd",
    "max_llm_calls",
    "max_output_tokens",
    "max_input_tokens",
    "max_tool_calls",
)
PARTS = (0.3, 0.6, 0.9, 1.0, 1.5, 4.0)
"""What is allowed, as a part of what the run takes when nothing goes wrong."""
LASTING_FROM = 3
READY = "ready"
"""What the file is called that says that a kickoff begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run, or two runs in two processes that share a budget.

    Attributes:
        shape: Which crew.
        shared_model: Whether one LLM object serves all its agents.
        rate: How many model calls in a hundred go wrong, as a part of 1.
        lasting: A fault that all calls from the third on meet, until the first session has ended.
        kills: When sessions are killed, as parts of the time that the run takes in calm.
        limit: What is limited; None: nothing.
        part: How much is allowed; see `PARTS`.
        processes: How many runs share the limit, each in a process of its own.
    """

    seed: int
    shape: str
    mode: Mode
    stream: bool
    shared_model: bool
    rate: float
    lasting: str | None = None
    kills: tuple[float, ...] = ()
    limit: str | None = None
    part: float = 1.0
    processes: int = 1

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The names of its runs."""
        return tuple(f"run-{number}" for number in range(self.processes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What one process does.

    Attributes:
        folder: Where it writes what became of it; the journal and the effects lie there.
        most: What the case's limit allows.
        bare: Whether the crew is kicked off as it is.
    """

    case: Case
    run_id: str
    folder: Path
    url: str
    most: Any = None
    bare: bool = False


def case_of(seed: int) -> Case:
    """The run of a seed: all crews in turn, every second run under a hard limit."""
    dice = random.Random(f"ledger:{seed}")
    shapes = list(WIDTHS)
    shape = shapes[seed % len(shapes)]
    limited = bool(seed // len(shapes) % 2) and shape != "nested"
    kills = tuple(round(dice.random(), 3) for _ in range(dice.choice((0, 0, 0, 1, 1, 3))))
    return Case(
        seed=seed,
        shape=shape,
        mode=dice.choice(MODES),
        stream=dice.random() < 0.4,
        shared_model=dice.random() < 0.5,
        rate=dice.choice(RATES),
        lasting=dice.choice(LASTING) if dice.random() < 0.15 else None,
        kills=kills,
        limit=dice.choice(LIMITS) if limited else None,
        part=dice.choice(PARTS),
        processes=2 if limited and dice.random() < 0.4 else 1,
    )


def _digest(body: Body) -> int:
    asked = json.dumps(body["messages"], sort_keys=True).encode()
    return int.from_bytes(hashlib.sha256(asked).digest()[:4])


_NESTED = Conversation(
    Rule(use("ask_shop", {"order": 7}), answer("the shop did it"), task="Ask the shop"),
    Rule(Reply("an aside"), task=ASIDE),
)


def script(body: Body) -> Reply | Fault:
    """What the shop's script says, with tokens read from a cache and thought in what it claims.

    They follow from the conversation, so that hardly any two answers take the same.
    """
    try:
        said = _NESTED(body)
    except LookupError:
        said = scripts.shop(body)
    if isinstance(said, Fault):
        return said
    counted, number = usage_of(body, said), _digest(body)
    caps = [body[name] for name in ("max_completion_tokens", "max_tokens") if body.get(name)]
    thought = min([number % 23, *caps])
    claimed = Usage(
        prompt=counted["prompt_tokens"],
        completion=counted["completion_tokens"] + thought,
        cached=number // 23 % counted["prompt_tokens"],
        reasoning=thought,
    )
    return replace(said, usage=claimed)


class Weather:
    """What goes wrong in one case; `clear` is what somebody does about what lasts."""

    def __init__(self, case: Case) -> None:
        self._lasting = FAULTS[case.lasting] if case.lasting else None
        self._passing: Schedule = fail_at_rate(case.rate, *PASSING, seed=case.seed)
        self._count = 0

    def __call__(self, seen: Seen) -> Fault | None:
        """A fault schedule."""
        self._count += 1
        if self._lasting is not None and self._count >= LASTING_FROM:
            return self._lasting
        return self._passing(seen)

    def clear(self) -> None:
        """From here on nothing lasts."""
        self._lasting = None
