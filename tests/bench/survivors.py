"""One run of the survival benchmark, bare or hardened: the crew, its script, its world, its fate.

The model is scripted as models behave: it uses a tool, calls it again when what came back is of no
use, and after four turns says that it worked all the same.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tests.openai_script import (
    FAULTS,
    RECOVERABLE,
    Answer,
    Body,
    Conversation,
    Fault,
    Reply,
    Rule,
    Schedule,
    Seen,
    Turn,
    answer,
    fail_at_rate,
    fault,
    use,
)

Variant = Literal["bare", "hardened"]
VARIANTS: tuple[Variant, ...] = ("bare", "hardened")
RESTARTS = 3
"""How often a hardened run that stopped resumably is kicked off again: an operator's loop."""
PATIENCE = 4
HANG, TIMEOUT = 2.0, 1.0
"""Seconds for which a call hangs, and those after which a hardened one is given up."""
MODEL_FAULTS: tuple[Fault, ...] = (
    *(FAULTS[name] for name in RECOVERABLE),
    fault("rate_limit", retry_after=1),
    fault("hang", seconds=HANG),
    fault("drip", seconds=0.2),
    FAULTS["broken_arguments"],
    FAULTS["unknown_tool"],
)
HOPELESS = ("unauthorized", "forbidden", "quota", "no_such_model", "context_length")
"""Faults that are there again when the same request is sent again."""
EFFECTS: dict[str, dict[str, Any]] = {"charge": {"amount": 7}, "ship": {"item": "tides"}}
"""What must have been done in the end, each once."""
EXPECTED = {
    "facts": "facts about tides",
    "stock": "12 of tides",
    "payment": "charged 7",
    "delivery": "shipped tides",
}
"""What a run without faults returns."""
MODEL_READS = 400_000
"""Characters of a conversation that the model can read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What became of one run.

    Attributes:
        error: Class of the exception it ended with; None: it returned.
        detail: Its text.
        typed: Whether the exception says who can act (is a `CrewProdError`).
        right: Whether it returned what a run without faults returns.
        missing: Effects that it should have had and had not.
        duplicates: Effects that it had more than once.
        requests: Model calls that reached the server.
        tokens: What the server sent, and bills.
        restarts: How often it was kicked off again.
        seconds: Wall time, with short waits.
    """

    variant: Variant
    rate: float
    seed: int
    error: str | None
    detail: str
    typed: bool
    right: bool
    missing: int
    duplicates: int
    requests: int
    tokens: int
    restarts: int
    seconds: float

    @property
    def completed(self) -> bool:
        """Whether it returned."""
        return self.error is None

    @property
    def wrong_success(self) -> bool:
        """Whether it returned something wrong, or without having done what was asked."""
        return self.completed and (not self.right or self.missing > 0)


def _working(tool: str, arguments: dict[str, Any], honest: str) -> Callable[[Turn], Reply]:
    """Use a tool until it says something of use, or patience is at an end."""

    def say(turn: Turn) -> Reply:
        useful = any(honest in result for result in turn.results)
        wanted = use(tool, arguments) if turn.turns < PATIENCE and not useful else answer(honest)
        return wanted(turn)

    return say


def _report(turn: Turn) -> Reply:
    """The last task's JSON, made of what the tasks before it said."""
    known = {name: text if text in turn.task else "unknown" for name, text in EXPECTED.items()}
    return answer(json.dumps(known))(turn)


def _reads(name: str, arguments: dict[str, Any], honest: str) -> Answer:
    """As `_working`, but what was not found out is not known."""
    work = _working(name, arguments, honest)

    def say(turn: Turn) -> Reply:
        found = any(honest in result for result in turn.results)
        return work(turn) if found or turn.turns < PATIENCE else answer("not known")(turn)

    return say


_TALK = Conversation(
    Rule(_reads("look_up", {"topic": "tides"}, "facts about tides"), task="Find out"),
    Rule(_working("charge", EFFECTS["charge"], "charged 7"), task="Charge the card"),
    Rule(_reads("stock", {"item": "tides"}, "12 of tides"), task="Look into the stock"),
    Rule(_working("ship", EFFECTS["ship"], "shipped tides"), task="Ship it"),
    Rule(_report, when=lambda _: True),
)


def script(body: Body) -> Reply | Fault:
    """The model: it can read so much and no more."""
    if sum(len(str(message.get("content"))) for message in body["messages"]) > MODEL_READS:
        return FAULTS["context_length"]
    return _TALK(body)


def from_request(number: int, wrong: Fault) -> Schedule:
    """Let every request fail, from a certain one on."""
    counted = itertools.count(1)

    def choose(_: Seen) -> Fault | None:
        return wrong if next(counted) >= number else None

    return choose


# -- the process that runs them: crewai is imported from here on -------------------------------


class _Stage:
    """What one process needs for all its runs."""

    def __init__(self, variant: Variant) -> None:
        from tests.openai_server import Server

        self.variant = variant
        self.server = Server(script)
        self.server.__enter__()


_stage: _Stage | None = None


def begin(variant: Variant) -> None:
    """Prepare this process: a HOME of its own, no telemetry, no console, no long sleeps in bare.

    The sleeps that bare CrewAI and the SDK make between their tries (half a second to 8 seconds)
    are cut to a millisecond; `time.sleep` is replaced before CrewAI binds it.
    """
    global _stage
    home = tempfile.mkdtemp(prefix="survival-")
    os.environ.update(
        HOME=home,
        CREWAI_STORAGE_DIR=f"{home}/storage",
        CREWAI_DISABLE_TELEMETRY="true",
        CREWAI_TRACING_ENABLED="false",
        OTEL_SDK_DISABLED="true",
        OPENAI_API_KEY="sk-test",
    )
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    logging.disable(logging.CRITICAL)
    if variant == "bare":
        sleep = time.sleep
        time.sleep = lambda seconds: sleep(min(float(seconds), 0.001))
    _stage = _Stage(variant)
    one_run(0.0, 0)  # the first run of a process pays for imports and caches


def one_run(rate: float, seed: int) -> Fate:
    """A run at a fault rate."""
    return _fate(fail_at_rate(rate, *MODEL_FAULTS, seed=seed), rate, seed)


def one_hopeless_run(name: str) -> Fate:
    """A run whose fourth model call and all further ones meet a fault that does not pass."""
    return _fate(from_request(4, FAULTS[name]), 0.0, 0)


def _fate(schedule: Schedule, rate: float, seed: int) -> Fate:
    from tests.bench.rig import HARMS, Rig, strike_at_rate

    assert _stage is not None
    stage = _stage
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        stage.server.reset()
        stage.server.app.faults = schedule
        rig = Rig(Path(name, "effects"), strike_at_rate(rate, HARMS, seed), hang=HANG)
        begun = time.monotonic()
        restarts, result, error = _kick_off(stage, rig, Path(name))
        seconds = time.monotonic() - begun
        rig.settle()
        done = [one["tool"] for one in rig.effects]
        return Fate(
            variant=stage.variant,
            rate=rate,
            seed=seed,
            error=type(error).__name__ if error else None,
            detail=str(error)[:300] if error else "",
            typed=_is_typed(error),
            right=error is None and _as_json(result) == EXPECTED,
            missing=len(EFFECTS.keys() - set(done)),
            duplicates=len(done) - len(set(done)),
            requests=len(stage.server.requests),
            tokens=stage.server.total_usage.total_tokens,
            restarts=restarts,
            seconds=seconds,
        )


def _as_json(result: Any) -> Any:
    return result.pydantic.model_dump() if result.pydantic is not None else None


def _is_typed(error: BaseException | None) -> bool:
    from crewai_prod.errors import CrewProdError

    return isinstance(error, CrewProdError)


def _kick_off(stage: _Stage, rig: Any, folder: Path) -> tuple[int, Any, BaseException | None]:
    crew = make_crew(stage.server.url, rig)
    if stage.variant == "bare":
        return 0, *_tried(lambda: crew.kickoff())
    from crewai_prod.waiting import skipping

    hardened = hardened_crew(crew, rig, folder / "journal.db")
    with skipping():
        restarts, (result, error) = 0, _tried(lambda: hardened.kickoff(run_id="run"))
        while _worth_another(error) and restarts < RESTARTS:
            restarts += 1
            result, error = _tried(lambda: hardened.kickoff(run_id="run"))
        return restarts, result, error


def _tried(kickoff: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return kickoff(), None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - what a run ends with is the finding
        return None, error


def _worth_another(error: BaseException | None) -> bool:
    """Whether the error says that the run may be taken up again: passing, or put to a person."""
    from crewai_prod.errors import CrewProdError, RunPaused

    return isinstance(error, RunPaused) or (isinstance(error, CrewProdError) and error.retryable)


def make_crew(url: str, rig: Any) -> Any:
    """Five tasks, two agents: one calls tools natively, the other streams and asks in text."""
    from crewai import Agent, Crew, Task
    from pydantic import create_model

    from tests.bench.rig import tools_of
    from tests.crews import make_llm

    report = create_model("Report", **dict.fromkeys(EXPECTED, (str, ...)))  # type: ignore[call-overload]
    tools = tools_of(rig)
    buyer, clerk = (
        Agent(
            role=role,
            goal="do what the customer asks",
            backstory="an old hand",
            llm=make_llm(url, path, stream),  # type: ignore[arg-type]
            tools=[tools[name] for name in names],
        )
        for role, path, stream, names in (
            ("Buyer", "native", False, ("look_up", "charge")),
            ("Clerk", "text", True, ("stock", "ship")),
        )
    )
    asked = (
        ("Find out about the tides", buyer, "facts"),
        ("Charge the card", buyer, "the receipt"),
        ("Look into the stock", clerk, "a number"),
        ("Ship it", clerk, "the receipt"),
    )
    tasks = [
        Task(description=what, agent=who, expected_output=want, context=[])
        for what, who, want in asked
    ]
    last = Task(
        description="Report on all of it",
        agent=buyer,
        expected_output="a report",
        context=tasks,
        output_pydantic=report,
    )
    return Crew(name="survivors", agents=[buyer, clerk], tasks=[*tasks, last])


def hardened_crew(crew: Any, rig: Any, journal: Path) -> Any:
    """The crew as a user would harden it: what tools do and return is declared, calls time out."""
    from pydantic import Field

    from crewai_prod import Retry, harden

    def like(pattern: str) -> Any:
        return Annotated[str, Field(pattern=pattern)]

    again = Retry(attempts=5, on=(Exception,))
    reads = {"effect": "read", "timeout": TIMEOUT, "retry": again, "max_output": 4000}
    writes = {"effect": "write", "timeout": TIMEOUT}
    return harden(
        crew,
        journal=journal,
        durability="process",
        retry=Retry(attempts=5, timeout=TIMEOUT),
        tools={
            "look_up": {**reads, "result_schema": like("^facts about ")},
            "stock": {**reads, "result_schema": like("^[0-9]+ of ")},
            "charge": {**writes, "retry": Retry(attempts=5), "reconcile": rig.reconcile},
            "ship": {**writes, "retry": again, "idempotent": True},
        },
    )


def as_json(fate: Fate) -> dict[str, Any]:
    """For programs."""
    return asdict(fate) | {"completed": fate.completed, "wrong_success": fate.wrong_success}
