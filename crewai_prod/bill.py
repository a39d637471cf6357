"""The bill of one run: what its calls cost, and which of them may be made at all.

Rule: a call is priced when its outcome is recorded, with the price of that moment, and that is what
it cost from then on; a replay costs nothing. Pricing never loses a call: one that cannot be priced
is recorded as unpriced, and said aloud once for each model. Any thread may use a bill.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import replace

from crewai_prod.errors import ModelUnpriced
from crewai_prod.logs import RunLog
from crewai_prod.prices import Prices
from crewai_prod.records import (
    AttemptRecord,
    Cost,
    CostStatus,
    Spending,
    StepKind,
    StepRecord,
    StepStatus,
)
from crewai_prod.walk import Ticket


class Bill:
    """What the model calls of a run cost, all its sessions together."""

    def __init__(self, prices: Prices | None = None) -> None:
        self.prices = prices or Prices()
        self._spent = Spending()
        self._lock = threading.Lock()
        self._warned: set[str] = set()
        self._wrong: dict[str, str] = {}

    @property
    def spent(self) -> Spending:
        """The sum so far."""
        return self._spent

    def take_up(self, steps: Iterable[StepRecord], attempts: Iterable[AttemptRecord]) -> None:
        """Begin with what earlier sessions have recorded."""
        spent = Spending()
        for cost in [*(step.cost for step in steps), *(attempt.cost for attempt in attempts)]:
            spent += cost
        with self._lock:
            self._spent = spent

    def refusal(self, ticket: Ticket) -> ModelUnpriced | None:
        """Why a model call must not be made: nobody knows what it would cost."""
        if self.prices.on_unpriced != "fail":
            return None
        try:
            known = self.prices.knows(ticket.provider, ticket.model or ticket.name, time.time())
        except Exception as error:  # noqa: BLE001 - the user's function: it does not know either
            return _refusal(ticket, f" ({_said(error)})")
        return None if known else _refusal(ticket)

    def priced(self, step: StepRecord) -> StepRecord:
        """The step with what it cost, if it is a call that cost something."""
        if step.kind is not StepKind.MODEL or (
            step.usage is None and step.status is not StepStatus.DONE
        ):
            return step
        return replace(step, cost=self._price(step))

    def enter(self, step: StepRecord, task: str | None, log: RunLog) -> None:
        """Add a recorded step to the sum, and say so if nobody knows what it cost."""
        if step.cost is None:
            return
        model = _asked(step)
        with self._lock:
            self._spent += step.cost
            new = step.cost.status is CostStatus.UNPRICED and model not in self._warned
            if new:
                self._warned.add(model)
        if new:
            why = self._wrong.get(model)
            log.cost_unpriced(model=model, task=task, agent=step.agent, why=why)

    def _price(self, step: StepRecord) -> Cost:
        try:
            return self.prices.price(step.provider, _asked(step), step.usage, step.started_at)
        except Exception as error:  # noqa: BLE001 - paid for: a wrong price must not lose the call
            self._wrong[_asked(step)] = _said(error)
            return Cost(status=CostStatus.UNPRICED)


def _asked(step: StepRecord) -> str:
    """The model that was asked: what stands in for another one has a price of its own."""
    return step.model or step.name


def _said(error: Exception) -> str:
    return f"the function that was asked: {type(error).__name__}: {error}"


def _refusal(ticket: Ticket, why: str = "") -> ModelUnpriced:
    model = ticket.model or ticket.name
    of = f" of {ticket.provider!r}" if ticket.provider else ""
    return ModelUnpriced(
        f"No price is known for {model!r}{of}{why}, and on_unpriced is 'fail': it was not called.",
        task=ticket.scope.task_name,
        agent=ticket.scope.agent,
        step_id=ticket.step_id,
        provider=ticket.provider,
        model=model,
    )
