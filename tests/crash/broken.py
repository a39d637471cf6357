"""Crews and seams with something wrong: what the harness must notice."""

from __future__ import annotations

import functools
import os
import signal
from pathlib import Path
from typing import Any

from crewai import Crew
from crewai.tools import tool

from crewai_prod import harden
from crewai_prod.crashtest.evidence import read_effects
from crewai_prod.crashtest.sessions import EFFECTS
from crewai_prod.journal import SqliteJournal
from crewai_prod.records import StepKind
from tests.crash.shapes import act, sequential_native

_finish_step, _start_step = SqliteJournal.finish_step, SqliteJournal.start_step


def sloppy_about_answers() -> Crew:
    """Its journal acknowledges model calls without writing them; in this process only."""

    @functools.wraps(_finish_step)
    def drop(self: Any, lease: Any, step: Any, **rest: Any) -> None:
        if step.kind is not StepKind.MODEL:
            _finish_step(self, lease, step, **rest)

    SqliteJournal.finish_step = drop  # type: ignore[method-assign]
    return sequential_native()


def sloppy_about_intents() -> Crew:
    """Its journal acknowledges intents without writing them; in this process only."""
    SqliteJournal.start_step = lambda *_, **__: None  # type: ignore[method-assign]
    return sequential_native()


def wrongly_declared() -> Crew:
    """Its tools are said to be idempotent, and are not."""
    tools = {name: {"effect": "write", "idempotent": True} for name in ("charge", "mail")}
    hardened: Crew = harden(sequential_native(), tools=tools)
    return hardened


def kills_itself() -> Crew:
    """Its second tool takes the process along the first time it is used."""
    crew = sequential_native()
    effects = os.environ[EFFECTS]

    @tool
    def charge(customer: str, amount: int) -> str:
        """Charge a customer's card."""
        before = read_effects(Path(effects))
        result = act("charge", f"charged {amount}", customer=customer, amount=amount)
        if all(effect.tool != "charge" for effect in before):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    crew.agents[1].tools = crew.tasks[1].tools = [charge]
    return crew


def waits_for_ever() -> Crew:
    """It is never built."""
    signal.pause()
    raise AssertionError("woken")


def breaks_in_the_end() -> Crew:
    """It raises when it is almost done."""

    def refuse(_: Any) -> Any:
        raise RuntimeError("no")

    crew = sequential_native()
    crew.after_kickoff_callbacks = [refuse]
    return crew
