"""Where the code of a step runs: what it may ask about itself, and whose code it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from crewai_prod import _faults
from crewai_prod.steps import (
    Scope,
)
from crewai_prod.tooling import CurrentStep
from crewai_prod.walk import Ticket

if TYPE_CHECKING:
    from crewai_prod.run import Run

current_scope: ContextVar[tuple[Run, Scope] | None] = ContextVar("crewai_prod_scope", default=None)
"""The run, and where in it this code runs."""
step_in_body: ContextVar[CurrentStep | None] = ContextVar("crewai_prod_step", default=None)
users_code: ContextVar[bool] = ContextVar("crewai_prod_users_code", default=False)


def in_users_code() -> bool:
    """Whether what is done here is done for code of the user's within a run, which hears of it."""
    return users_code.get()


def current_step() -> CurrentStep | None:
    """The step in whose body this code runs, or None outside a hardened run's tools."""
    return step_in_body.get()


class in_body:
    """Where a step's own code runs: a scope of its own, and the step it may ask for.

    Args:
        run: The run.
        ticket: Of the step.
        users: Whether the code is the user's, not CrewAI's.
    """

    __slots__ = ("_run", "_ticket", "_tokens", "_users")

    def __init__(self, run: Run, ticket: Ticket, *, users: bool = True) -> None:
        self._run, self._ticket, self._users = run, ticket, users

    def __enter__(self) -> None:
        self._tokens = (
            current_scope.set((self._run, self._ticket.inner)),
            step_in_body.set(self._run.step_handle(self._ticket)),
            users_code.set(self._users or users_code.get()),
        )
        try:
            body_point("tool.before_body")
        except BaseException:
            self._leave()
            raise

    def __exit__(self, *_: object) -> None:
        self._leave()
        body_point("tool.after_body")

    def _leave(self) -> None:
        scope, step, code = self._tokens
        users_code.reset(code)
        step_in_body.reset(step)
        current_scope.reset(scope)


@contextmanager
def in_guard(run: Run, scope: Scope) -> Iterator[None]:
    """Where a guard's own code runs: the user's, in the body of no step."""
    place, step = current_scope.set((run, scope)), step_in_body.set(None)
    code = users_code.set(True)
    try:
        yield
    finally:
        users_code.reset(code)
        step_in_body.reset(step)
        current_scope.reset(place)


body_point = _faults.point
"""A place where the crash tests end the process."""
