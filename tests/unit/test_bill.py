"""The bill of one run: what is priced, what is refused, and what is said aloud."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

from crewai_prod import fields
from crewai_prod.bill import Bill
from crewai_prod.journal import new_owner, open_journal
from crewai_prod.logs import open_log
from crewai_prod.model_steps import Answer
from crewai_prod.prices import Prices
from crewai_prod.records import Cost, CostStatus, RunStatus, StepKind, StepRecord, StepStatus, Usage
from crewai_prod.run import Run
from crewai_prod.steps import Scope
from crewai_prod.walk import Ticket
from tests.journal.support import attempt, model_step, new_run, step
from tests.unit.test_logs import _lines as lines

TABLE = {"big": 100, "small": 1}
UNPRICED = Cost(status=CostStatus.UNPRICED)
MILLION = Usage(input_tokens=1_000_000, calls=1)


def _ticket(**changes: Any) -> Ticket:
    values: dict[str, Any] = {"kind": StepKind.MODEL, "name": "big", "digest": "d"}
    more = {"scope": Scope(), "step_id": "s", "occurrence": 0}
    return Ticket(**(values | more | changes))


def _done(bill: Bill, model: str, usage: Usage | None = MILLION) -> StepRecord:
    """A call of a model that was answered."""
    cost = bill.cost(_ticket(name=model), StepStatus.DONE, usage, model)
    return model_step(1, name=model, model=model, cost=cost)


def test_a_model_that_stands_in_has_its_own_price() -> None:
    """What is priced, and what may be refused, is the model that is asked now."""
    bill = Bill(Prices.read(TABLE, "fail"))
    for model, usd in (("small", 1), ("big", 100), (None, 100)):
        cost = bill.cost(_ticket(), StepStatus.DONE, MILLION, model)
        assert cost is not None
        assert cost.usd == usd
    assert bill.refusal(_ticket()) is None
    refusal = bill.refusal(_ticket(model="unheard-of", provider="acme"))
    assert refusal is not None
    assert (refusal.fields["model"], refusal.fields["provider"]) == ("unheard-of", "acme")


def test_what_costs_nothing_has_no_cost() -> None:
    """A tool, and a call that failed without a bill; one that was answered without is unpriced."""
    bill = Bill(Prices.read(TABLE))
    assert bill.cost(_ticket(kind=StepKind.TOOL), StepStatus.DONE, None, None) is None
    assert bill.cost(_ticket(), StepStatus.FAILED, None, None) is None
    assert bill.cost(_ticket(), StepStatus.DONE, None, None) == UNPRICED


def test_a_failed_call_that_was_billed_costs() -> None:
    """An answer that nobody could use was paid for."""
    cost = Bill(Prices.read(TABLE)).cost(_ticket(), StepStatus.FAILED, MILLION, None)
    assert cost is not None
    assert cost.usd == 100


def test_a_bill_goes_on_from_earlier_sessions() -> None:
    """Steps and tries that are recorded count once, and new ones are added."""
    bill = Bill(Prices.read(TABLE))
    paid = Cost(status=CostStatus.PRICED, picousd=3, source="prices")
    bill.take_up([model_step(1, cost=paid), step(2)], [attempt(cost=paid)])
    assert (bill.spent.picousd, bill.spent.unpriced) == (6, 0)
    bill.enter(_done(bill, "small"), None, open_log(None, run_id="r"))
    assert bill.spent.usd == 1 + Decimal(6).scaleb(-12)


def test_an_unknown_model_is_said_once(tmp_path: Path) -> None:
    """A line for each model of a run, not for each call; what a function raised stands in it."""

    def broken(*_: Any) -> Decimal:
        raise LookupError("who?")

    bill = Bill(Prices.read(broken))
    bill.take_up([model_step(1, model="three", cost=UNPRICED)], [])
    log = open_log(tmp_path / "log", run_id="r")
    for name in ("one", "two", "one", "three"):
        bill.enter(_done(bill, name), "t", log)
    said = lines(log)
    assert [line[fields.REQUEST_MODEL] for line in said] == ["one", "two"]
    assert all(line["event"] == "cost.unpriced" for line in said)
    assert "LookupError: who?" in said[0]["message"]
    assert bill.spent.unpriced == 5


def test_a_call_that_ends_after_its_run_is_on_the_bill(tmp_path: Path) -> None:
    """What was in flight for longer than a run's end waits is summed up all the same."""
    journal = open_journal(tmp_path / "runs.db", durability="process")
    opened = journal.open_run(new_run(), new_owner(), lease_seconds=60)
    run = Run(journal)
    run.bill.prices = Prices.read(TABLE)
    run.attach(opened, log=open_log(None, run_id="r"))
    ticket = run.begin_model(Scope(), "small", [{"role": "user", "content": "hello"}], {})
    run.end(RunStatus.FAILED, error="{}")
    assert journal.usage()[0].spent.usd is None
    run.finish_model(ticket, Answer(result='"late"', usage=MILLION))
    assert journal.usage()[0].spent.usd == 1
    journal.close()
