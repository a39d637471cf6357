"""Between a run and its budgets: what happens before a call that would pass a limit.

Rule: the refusal is stored on the run before it is raised, like any other, and nothing of the call
has happened by then. Whoever raises the limit and resumes the run goes on at that call. Knows
nothing of crewai.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from crewai_prod.approval import BUDGET, Approval, decision_of, raised_limits
from crewai_prod.approving import Asking, facts_of
from crewai_prod.brakes import Brakes, Lower, Refused, Share
from crewai_prod.budget import (
    Ask,
    Budget,
    Decision,
    Excess,
    Fits,
    Used,
    Waits,
    raised,
    weigh,
    weigh_answer,
    with_limits,
)
from crewai_prod.errors import BudgetExceeded, BudgetPaused, CrewProdError
from crewai_prod.failures import said_by
from crewai_prod.records import (
    Amounts,
    ApprovalRecord,
    CutOff,
    Place,
    Pot,
    Settled,
    StepRecord,
    Taken,
)
from crewai_prod.steps import Scope, digest
from crewai_prod.walk import Ticket

if TYPE_CHECKING:
    from crewai_prod.run import Run


class Braking:
    """The budgets of a run at work.

    Args:
        run: The run.
        write: Makes a write to its journal; one that fails stops the run.

    Attributes:
        brakes: What is known of them.
    """

    def __init__(self, run: Run, write: Callable[[Callable[[], object]], None]) -> None:
        self.brakes = Brakes()
        self._run = run
        self._write = write

    def used(self, ticket: Ticket) -> Used | None:
        """The limit that covers a model call and of which most is used; None: there is none.

        Raises:
            JournalError: A budget that runs share could not be looked up.
        """
        return self.brakes.used(ticket.scope, self._sharing(ticket)) if self.brakes.on else None

    def reserve(
        self, ticket: Ticket, ask: Ask, weight: int, *, patient: bool
    ) -> Fits | Waits | Lower:
        """Set aside what a model call may take of the budgets that cover it.

        Args:
            ticket: The call; its model and provider are who is asked now.
            ask: What it may take, its input and its price aside.
            weight: Of its request, as `budget.weigh` gives it.
            patient: Whether it can wait for other calls to end.

        Returns:
            How much output is set aside; that it may be made once other calls have ended; or that
            the next cheaper model of a budget is to be asked.

        Raises:
            BudgetExceeded: It would pass a limit; the run is stopped.
            ModelUnpriced: A budget in money covers it, and nobody knows its price.
            JournalError: A budget that runs share could not be looked up.
        """
        model, bill = ticket.model or ticket.name, self._run.bill
        tokens = self.brakes.estimate(ticket.step_id, model, weight)
        priced = replace(ask, input_tokens=tokens)
        in_money = self.brakes.in_money(ticket.scope)
        if in_money is not None:
            price = partial(bill.at_most, ticket.provider, model, tokens)
            if price(0) is None:
                raise self._run.stop(bill.unknown(ticket, in_money.name))
            priced = replace(priced, price=lambda out: price(out) or 0)
        share = self._sharing(ticket)
        while True:
            granted = self.brakes.reserve(
                ticket.scope, ticket.step_id, priced, share, patient=patient
            )
            self.warn()
            if not isinstance(granted, Refused) or isinstance(granted, Lower):
                return granted
            self._passed(granted, ticket.scope)

    def say_cut_off(self, calls: Sequence[CutOff]) -> None:
        """Say what counts as spent because the session before has ended in the middle of it."""
        if not calls:
            return
        took = sum((one.amounts for one in calls), Amounts())
        money = f" and ${Decimal(took.cost_picousd).scaleb(-12):f}" if took.cost_picousd else ""
        self._run.log.warning(
            f"The session before ended with {len(calls)} model call(s) under way. Nobody knows"
            f" what they took: in budgets they count as {took.tokens} tokens{money} together."
        )

    def guess(self, step: StepRecord) -> Amounts:
        """What a recorded model call took at most, by its length: its provider has not said it."""
        journal, run_id = self._run.journal, self._run.run_id
        messages = journal.conversation(run_id, step.request) if step.request else ()
        params = journal.conversation(run_id, step.params) if step.params else ()
        tokens, output = weigh(messages, params[0] if params else {}), weigh_answer(step.result)
        model = step.model or step.name
        return Amounts(
            cost_picousd=self._run.bill.at_most(step.provider, model, tokens, output) or 0,
            input_tokens=tokens,
            output_tokens=output,
            llm_calls=1,
        )

    def release(self, name: str) -> None:
        """What was set aside under this name, a step's or `keep`'s, is not needed after all."""
        noted, run = self.brakes.is_noted(name), self._run
        if self.brakes.release(name) and noted and not run.ended:
            nothing = Settled(labels=(), hour=0, took=Amounts())
            self._write(lambda: run.journal.settle(run.lease, name, nothing))

    def keep(self, ticket: Ticket, number: int) -> str | None:
        """A model call was left at its deadline: what it may take stays set aside.

        It may be answered all the same, and is billed then. Its step is recorded as failed now, and
        tried again.

        Args:
            ticket: The call.
            number: Of the try that was left.

        Returns:
            The name to release it by when the call is over; None if nothing was set aside.
        """
        name, pots, run = f"{ticket.step_id}~{number}", self.brakes.pots(ticket.scope), self._run
        amounts = self.brakes.keep(ticket.step_id, name)
        if amounts is None:
            return None
        if self.brakes.is_noted(name):
            place = _place(ticket, name)
            likely = partial(self.brakes.likely, ticket.step_id)
            self._write(
                lambda: run.journal.reserve(run.lease, place, pots, lambda _: amounts, likely)
            )
        return name

    def afford(self, ticket: Ticket) -> None:
        """Count a tool call in the budgets that cover it.

        Raises:
            BudgetExceeded: It would pass a limit; the run is stopped.
            JournalError: A budget that runs share could not be looked up.
        """
        while self.brakes.on:
            refused = self.brakes.admit_tool(ticket.scope, self._sharing(ticket))
            self.warn()
            if refused is None:
                return
            self._passed(refused, ticket.scope)

    def in_time(self, scope: Scope) -> None:
        """Begin nothing more once the time of the run is over.

        Raises:
            BudgetExceeded: It is; the run is stopped.
        """
        error = self.over_time(scope)
        if error is not None:
            raise error

    def over_time(self, scope: Scope) -> CrewProdError | None:
        """Why nothing more may be begun: the time of the run is over; it is stopped then.

        What is at work has been told when to end: more time is given only when it is resumed.
        """
        refused = self.brakes.over_time()
        if refused is None:
            return None
        decision = self._decided(refused)
        if decision == "stop":
            return self._exceeded(refused.excess, scope)
        return self._paused(refused, scope)

    def cut(self, scope: Scope) -> CrewProdError:
        """Stop the run at an answer that was cut at what was left of its budgets."""
        refused = Refused(*self.brakes.tightest(scope))
        if self._asks(refused.account.budget):
            return self._paused(refused, scope)
        return self._exceeded(refused.excess, scope)

    def warn(self) -> None:
        """Say of which limits so much is spent that a person should know."""
        if self.brakes.on:
            for one in self.brakes.warnings():
                self._run.log.budget_warning(one)

    def take_up(self, questions: Iterable[ApprovalRecord]) -> None:
        """Take up the limits that people have raised in this run. Before any budget is joined."""
        for one in questions:
            if one.kind == BUDGET and one.verdict == "approved":
                name = orjson.loads(one.arguments or "{}").get("scope", "")
                limits = self.brakes.limits.setdefault(name, {})
                limits.update(raised_limits(one, decision_of(one).edited))

    def _passed(self, refused: Refused, scope: Scope) -> None:
        """Do what is to be done before a limit is passed; returns if it has been raised."""
        decision = self._decided(refused)
        if decision == "pause":
            decision = self._asked(refused, scope)
        if not isinstance(decision, Budget):
            raise self._exceeded(refused.excess, scope)
        self.brakes.raise_to(refused.account, decision)

    def _asks(self, budget: Budget) -> bool:
        return budget.on_limit == "pause" or isinstance(budget.on_limit, Approval)

    def _decided(self, refused: Refused) -> Decision:
        budget = refused.account.budget
        if budget.on_limit == "route":  # no model is left to go down to
            return "stop"
        if self._asks(budget):
            return "pause"
        if not callable(budget.on_limit):
            return raised(budget, budget.on_limit)
        try:
            return raised(budget, budget.on_limit(refused.excess))
        except Exception as error:  # noqa: BLE001 - whoever cannot decide has not raised the limit
            self._run.log.warning(f"on_limit failed: {said_by(error)}")
            return "stop"

    def _asked(self, refused: Refused, scope: Scope) -> Decision:
        """What a person has decided of a limit.

        Raises:
            BudgetPaused: Nobody has yet; the run waits.
            CrewProdError: The question could not be committed.
        """
        question = self._question(refused, scope)
        if question.verdict is None:
            raise self._exceeded(refused.excess, scope, question)
        decision = self._run.approving.apply(question)
        if not decision.approved:
            return "stop"
        return with_limits(refused.account.budget, raised_limits(question, decision.edited))

    def _paused(self, refused: Refused, scope: Scope) -> CrewProdError:
        """Stop the run at a limit that nothing in this session can raise any more."""
        if self._run.stopped is not None:
            return self._run.stopped
        try:
            question = self._question(refused, scope)
        except CrewProdError as refusal:
            return refusal
        rejected = question.verdict == "rejected"
        return self._exceeded(refused.excess, scope, None if rejected else question)

    def _question(self, refused: Refused, scope: Scope) -> ApprovalRecord:
        """The row in which a person is asked for a higher limit. It is the same from wherever."""
        excess, account = refused.excess, refused.account
        said = {
            "limit": excess.limit,
            "most": plain(excess.most),
            "spent": plain(excess.spent),
            "scope": account.name,
        }
        identity = digest(*(str(said[one]).encode() for one in ("scope", "limit", "most")))
        asking = Asking(
            scope=replace(scope, path=account.path or "run"),
            kind=BUDGET,
            why="budget",
            about=identity,
            arguments=orjson.dumps(said).decode(),
        )
        on_limit = account.budget.on_limit
        approval = on_limit if isinstance(on_limit, Approval) else Approval()
        return self._run.approving.put(asking, approval)

    def _exceeded(
        self, excess: Excess, scope: Scope, question: ApprovalRecord | None = None
    ) -> CrewProdError:
        """Stop the run before it passes a limit; returns the refusal that is stored.

        Args:
            excess: The limit.
            scope: Where it would be passed.
            question: The run waits for the answer to it.
        """
        kind, more, said = BudgetExceeded, {}, excess.message
        if question is not None:
            kind, more = BudgetPaused, facts_of(question, self._run.journal.location)
            said = f"{said} Raise it: {more['approve']} --edit '{{\"{excess.limit}\": MORE}}'."
        error = kind(
            said,
            task=scope.task_name,
            agent=scope.agent,
            reason="budget",
            limit=excess.limit,
            most=excess.most,
            spent=excess.spent,
            left=excess.left,
            scope=excess.scope,
            **more,
        )
        return self._run.stop(error)

    def _sharing(self, ticket: Ticket) -> Share:
        place, run = _place(ticket, ticket.step_id), self._run
        likely = partial(self.brakes.likely, ticket.step_id)

        def share(pots: Sequence[Pot], decide: Callable[[Sequence[Taken]], Amounts | None]) -> None:
            self._write(lambda: run.journal.reserve(run.lease, place, pots, decide, likely))

        return share


def _place(ticket: Ticket, name: str) -> Place:
    return Place(step_id=name, scope=ticket.scope.path, agent=ticket.scope.agent)


def plain(value: Decimal | float) -> Any:
    """A limit's value as JSON has it: money as text, exact."""
    return str(value) if isinstance(value, Decimal) else value
