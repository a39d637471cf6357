"""The bill of one run: what is priced, what is refused, and what is said aloud."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

from crewai_prod import fields
from crewai_prod.bill import Bill
from crewai_prod.logs import open_log
from crewai_prod.prices import Prices
from crewai_prod.records import Cost, CostStatus, StepKind, StepStatus, Usage
from crewai_prod.steps import Scope
from crewai_prod.walk import Ticket
from tests.journal.support import attempt, model_step, step
from tests.unit.test_logs import _lines as lines

TABLE = {"big": 100, "small": 1}
MILLION = Usage(input_tokens=1_000_000, calls=1)


def _ticket(**changes: Any) -> Ticket:
    values: dict[str, Any] = {"kind": StepKind.MODEL, "name": "big", "digest": "d", "occurrence": 0}
    return Ticket(**(values | {"scope": Scope(), "step_id": "s"} | changes))


def test_a_model_that_stands_in_has_its_own_price() -> None:
    """What is priced, and what may be refused, is the model that is asked now."""
    bill = Bill(Prices.read(TABLE, "fail"))
    stood_in = bill.priced(model_step(1, name="big", model="small", usage=MILLION))
    assert stood_in.cost is not None
    assert stood_in.cost.usd == 1
    assert bill.refusal(_ticket()) is None
    refusal = bill.refusal(_ticket(model="unheard-of", provider="acme"))
    assert refusal is not None
    assert (refusal.fields["model"], refusal.fields["provider"]) == ("unheard-of", "acme")


def test_what_costs_nothing_has_no_cost() -> None:
    """A tool, and a call that failed without a bill; one that was answered without is unpriced."""
    bill = Bill(Prices.read(TABLE))
    assert bill.priced(step(1)).cost is None
    failed = model_step(1, status=StepStatus.FAILED, usage=None)
    assert bill.priced(failed).cost is None
    assert bill.priced(model_step(1, usage=None)).cost == Cost(status=CostStatus.UNPRICED)


def test_a_failed_call_that_was_billed_costs() -> None:
    """An answer that nobody could use was paid for."""
    billed = model_step(1, status=StepStatus.FAILED, name="big", model=None, usage=MILLION)
    cost = Bill(Prices.read(TABLE)).priced(billed).cost
    assert cost is not None
    assert cost.usd == 100


def test_a_bill_goes_on_from_earlier_sessions(tmp_path: Path) -> None:
    """Steps and tries that are recorded count once, new ones are added, replays are not."""
    bill = Bill(Prices.read(TABLE))
    paid = Cost(status=CostStatus.PRICED, picousd=3, source="prices")
    bill.take_up([model_step(1, cost=paid), step(2)], [attempt(cost=paid)])
    assert (bill.spent.picousd, bill.spent.unpriced) == (6, 0)
    new = bill.priced(model_step(3, name="small", model=None, usage=MILLION))
    bill.enter(new, None, open_log(None, run_id="r"))
    assert bill.spent.usd == 1 + Decimal(6).scaleb(-12)


def test_an_unknown_model_is_said_once(tmp_path: Path) -> None:
    """A line for each model, not for each call; what a function raised stands in it."""

    def broken(*_: Any) -> Decimal:
        raise LookupError("who?")

    bill = Bill(Prices.read(broken))
    log = open_log(tmp_path / "log", run_id="r")
    for name in ("one", "two", "one"):
        bill.enter(bill.priced(model_step(1, name=name, model=None)), "t", log)
    said = lines(log)
    assert [line[fields.REQUEST_MODEL] for line in said] == ["one", "two"]
    assert all(line["event"] == "cost.unpriced" for line in said)
    assert "LookupError: who?" in said[0]["message"]
    assert bill.spent.unpriced == 3
