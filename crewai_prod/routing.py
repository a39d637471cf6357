"""The rules of a run at work: what is known before a model call, and who is asked.

Rule: what the rules look at is rebuilt as a resumed run walks through what is recorded, so that
they decide as they would have if it had never stopped. Whoever has no rules pays for none of it.
Any thread may ask. Knows nothing of crewai.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from crewai_prod.route import Choice, RouteContext, Routes
from crewai_prod.steps import lies_in
from crewai_prod.walk import Ticket

if TYPE_CHECKING:
    from crewai_prod.run import Run


class Routing:
    """The rules of a run, and the numbers of its model calls.

    Args:
        run: The run.

    Attributes:
        on: Whether there is any rule.
        models: Those that were made to be asked in place of others, as their makers keep them.
    """

    def __init__(self, run: Run) -> None:
        self.on = False
        self._run = run
        self._joined: list[tuple[str | None, Routes]] = []
        self._numbers: dict[str, dict[str, int]] = {}
        self._seen: set[str | None] = set()
        self._told = False
        self.models: dict[Any, Any] = {}
        self._lock = threading.Lock()

    def join(self, routes: Routes, path: str | None = None) -> None:
        """Ask these rules too, of calls made in the scope of this kickoff (None: the whole run).

        Those of what is kicked off within another kickoff are asked before that one's.
        """
        with self._lock:
            known = any(at == path and one is routes for at, one in self._joined)
            if routes and not known:  # known: the body around a kickoff is walked again
                self._joined.append((path, routes))
                self._joined.sort(key=lambda one: -len(one[0] or ""))
                self.on = self._run.setbacks.on = True

    def met(self, ticket: Ticket) -> None:
        """A model call is begun, or answered from the journal."""
        with self._lock:
            numbers = self._numbers.setdefault(ticket.scope.path, {})
            numbers.setdefault(ticket.step_id, len(numbers) + 1)
            self._seen |= {ticket.scope.task_name, ticket.scope.agent}

    def unmet(self) -> list[str]:
        """Tasks and agents of rules that asked no model: perhaps they are called otherwise.

        A resumed run does not walk through what is finished: nothing is said of it.
        """
        if self._run.resumed:
            return []
        with self._lock:
            named = [name for _, routes in self._joined for name in routes.names]
            return sorted(set(named) - self._seen)

    def leave(self, path: str) -> None:
        """A task is finished: what was counted of it is not asked for any more."""
        with self._lock:
            for at in [at for at in self._numbers if lies_in(at, path)]:
                del self._numbers[at]

    def choose(self, ticket: Ticket, weight: int) -> Choice | None:
        """Who is asked; None: the model that is asked for.

        Args:
            ticket: A model call that is about to be made.
            weight: Of its request, as `budget.weigh` gives it.

        Raises:
            RouteFailed: A rule could not say.
            JournalError: A budget that runs share could not be looked up.
        """
        path = ticket.scope.path
        ruling = [one for at, one in self._joined if at is None or lies_in(path, at)]
        if not ruling:
            return None
        context = self._context(ticket, weight, any(one.of_budget for one in ruling))
        if not self._run.braking.brakes.on:
            self._warn(ruling)
        found = (one.choose(context) for one in ruling)
        return next((choice for choice in found if choice is not None), None)

    def _context(self, ticket: Ticket, weight: int, of_budget: bool) -> RouteContext:
        scope, braking = ticket.scope, self._run.braking
        used = braking.used(ticket) if of_budget else None
        wrong = self._run.setbacks.of(scope)
        with self._lock:
            return RouteContext(
                run_id=self._run.run_id,
                task=scope.task_name,
                agent=scope.agent,
                model=ticket.name,
                provider=ticket.provider,
                step=self._numbers[scope.path][ticket.step_id],
                input_tokens=braking.brakes.expected(ticket.name, weight),
                budget_used=used.part if used is not None else 0.0,
                budget=used,
                rejected=wrong.rejected,
                failed_tries=wrong.failed_tries,
            )

    def _warn(self, ruling: list[Routes]) -> None:
        """Say once of which rules it is certain that they will never hold."""
        waiting = [name for one in ruling for name in one.need_budget]
        if waiting and not self._told:
            self._told = True
            self._run.log.warning(
                f"Routes wait for a part of a budget ({', '.join(waiting)}), and there is no "
                "budget. Give one: harden(..., budget=Budget(max_usd=2))."
            )
