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
from crewai_prod.failures import said_by
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
        self._known: int | None = None
        self._unpriced = 0
        self._lock = threading.Lock()
        self._warned: set[str] = set()
        self._wrong: dict[str, str] = {}

    @property
    def spent(self) -> Spending:
        """The sum so far."""
        with self._lock:
            return Spending(picousd=self._known, unpriced=self._unpriced)

    def take_up(self, steps: Sequence[StepRecord], attempts: Iterable[AttemptRecord]) -> None:
        """Begin with what earlier sessions have recorded."""
        spent = Spending()
        for cost in [*(step.cost for step in steps), *(attempt.cost for attempt in attempts)]:
            spent += cost
        unpriced = {_asked(one) for one in steps if _is_unpriced(one)}
        with self._lock:
            self._known, self._unpriced, self._warned = spent.picousd, spent.unpriced, unpriced

    def refusal(self, ticket: Ticket) -> ModelUnpriced | None:
        """Why a model call must not be made: nobody knows what it would cost."""
        if self.prices.on_unpriced != "fail":
            return None
        try:
            known = self.prices.knows(ticket.provider, ticket.model or ticket.name, time.time())
        except Exception as error:  # noqa: BLE001 - the user's function: it does not know either
            return _refusal(ticket, said=f" ({_said(error)})")
        return None if known else _refusal(ticket)

    def at_most(
        self, provider: str | None, model: str, input_tokens: int, output_tokens: int
    ) -> int | None:
        """What a call of so many tokens costs at most, in trillionths of a US dollar.

        All of the input may be written to the provider's cache, all of the output be reasoning.
        None: nobody knows. What a provider itself reports may be more.
        """
        variants = (
            Usage(
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cache_write_tokens=input_tokens if written else 0,
                reasoning_tokens=output_tokens if reasoned else 0,
                calls=1,
            )
            for written in (False, True)
            for reasoned in (False, True)
        )
        try:
            costs = [self.prices.price(provider, model, one, time.time()) for one in variants]
        except Exception:  # noqa: BLE001 - the user's function: it does not know either
            return None
        known = [cost.picousd for cost in costs if cost.picousd is not None]
        return max(known) if len(known) == len(costs) else None

    def unknown(self, ticket: Ticket, scope: str) -> ModelUnpriced:
        """A budget in money covers a call whose price nobody knows."""
        return _refusal(ticket, why=f"the {scope} has a budget in US dollars")

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
        picousd = step.cost.picousd
        with self._lock:
            if picousd is not None:
                self._known = picousd + (self._known or 0)
                return
            self._unpriced += 1
            model = _asked(step)
            new = model not in self._warned
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
    return f"the function that was asked: {said_by(error)}"


def _refusal(
    ticket: Ticket, *, said: str = "", why: str = "on_unpriced is 'fail'"
) -> ModelUnpriced:
    model = ticket.model or ticket.name
    of = f" of {ticket.provider!r}" if ticket.provider else ""
    return ModelUnpriced(
        f"No price is known for {model!r}{of}{said}, and {why}: it was not called. Give its rates: "
        f'harden(..., prices={{{model!r}: {{"input": 0.15, "output": 0.60}}}}), in US dollars per '
        "million tokens.",
        task=ticket.scope.task_name,
        agent=ticket.scope.agent,
        step_id=ticket.step_id,
        provider=ticket.provider,
        model=model,
    )
