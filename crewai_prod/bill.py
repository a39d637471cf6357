"""The bill of one run: what its calls cost, and which of them may be made at all.

Rule: a call is priced when its outcome is recorded, with the price of that moment, and that is what
it cost from then on; a replay costs nothing. Pricing never loses a call: one that cannot be priced
is recorded as unpriced, and said aloud once for each model. Any thread may use a bill.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence

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
    Usage,
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

    def take_up(self, steps: Sequence[StepRecord], attempts: Iterable[AttemptRecord]) -> None:
        """Begin with what earlier sessions have recorded."""
        spent = Spending()
        for cost in [*(step.cost for step in steps), *(attempt.cost for attempt in attempts)]:
            spent += cost
        unpriced = {_asked(one) for one in steps if _is_unpriced(one)}
        with self._lock:
            self._spent, self._warned = spent, unpriced

    def refusal(self, ticket: Ticket) -> ModelUnpriced | None:
        """Why a model call must not be made: nobody knows what it would cost."""
        if self.prices.on_unpriced != "fail":
            return None
        try:
            known = self.prices.knows(ticket.provider, ticket.model or ticket.name, time.time())
        except Exception as error:  # noqa: BLE001 - the user's function: it does not know either
            return _refusal(ticket, f" ({_said(error)})")
        return None if known else _refusal(ticket)

    def cost(
        self, ticket: Ticket, status: StepStatus, usage: Usage | None, model: str | None
    ) -> Cost | None:
        """What a call that has just been made cost; None if it is none, or nothing was billed.

        Args:
            ticket: The call.
            status: How it ended.
            usage: What it took.
            model: Who was asked, if that is not who the ticket names.
        """
        if ticket.kind is not StepKind.MODEL:
            return None
        if usage is None and status is not StepStatus.DONE:
            return None
        asked = model or ticket.name
        try:
            return self.prices.price(ticket.provider, asked, usage, ticket.started_at)
        except Exception as error:  # noqa: BLE001 - paid for: a wrong price must not lose the call
            self._wrong[asked] = _said(error)
            return Cost(status=CostStatus.UNPRICED)

    def enter(self, step: StepRecord, task: str | None, log: RunLog) -> None:
        """Add a recorded step to the sum, and say so if nobody knows what it cost."""
        if step.cost is None:
            return
        model = _asked(step)
        with self._lock:
            self._spent += step.cost
            new = _is_unpriced(step) and model not in self._warned
            if new:
                self._warned.add(model)
        if new:
            why = self._wrong.get(model)
            log.cost_unpriced(model=model, task=task, agent=step.agent, why=why)


def _asked(step: StepRecord) -> str:
    """The model that was asked: what stands in for another one has a price of its own."""
    return step.model or step.name


def _is_unpriced(step: StepRecord) -> bool:
    return step.cost is not None and step.cost.status is CostStatus.UNPRICED


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
