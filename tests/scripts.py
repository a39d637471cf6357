"""Scripts and fault schedules that a `ServerProcess` finds by name.

No crewai here: the server process imports this module and must start at once.
"""

from __future__ import annotations

from tests.openai_script import (
    Body,
    Conversation,
    Reply,
    Rule,
    answer,
    fail_first,
    fault,
    use,
)

PAYING = Conversation(
    Rule(use("pay", {"amount": 5}), answer("paid 5"), agent="Cashier", task="Pay the bill"),
    Rule(answer("receipt 5"), agent="Clerk"),
)
"""A crew of two: the cashier pays with a tool, the clerk writes a receipt."""

FLAKY = fail_first(fault("unavailable"))
"""Every request fails the first time."""


def say_hi(_: Body) -> Reply:
    """Answer every request alike."""
    return Reply("hi there, friend")


def slowly(_: Body) -> Reply:
    """Answer after a minute."""
    return Reply("hi", delay=60)
