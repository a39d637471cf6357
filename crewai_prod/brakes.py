"""The budgets of one run: what is spent and set aside of each, and whether the next call fits.

Rule: what is looked at is set aside in the same moment, under one lock within a run and in one
transaction of the journal where runs share a budget, so that calls made side by side cannot
overspend together. What is spent is what the journal holds: a replay costs nothing, and a resumed
run goes on from where it was. Any thread may ask. Knows nothing of crewai.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from crewai_prod.budget import (
    SECONDS,
    Ask,
    Budget,
    Budgets,
    Estimator,
    Excess,
    Fits,
    Passes,
    Used,
    Waits,
    completed,
    counts_calls,
    excess,
    excess_of_call,
    excess_of_time,
    goes_down,
    hour_of,
    judge,
    least_part_left,
    limits_output,
    passed,
    tightest_limit,
    time_spent,
    used,
    used_time,
    warned,
    weigh_answer,
    with_limits,
)
from crewai_prod.records import (
    Amounts,
    AttemptRecord,
    Cost,
    CutOff,
    Pot,
    Settled,
    StepKind,
    StepRecord,
    StepStatus,
    Taken,
    Usage,
)
from crewai_prod.replay import CACHED
from crewai_prod.required import REFUSED
from crewai_prod.steps import Scope, lies_in

Share = Callable[[Sequence[Pot], Callable[[Sequence[Taken]], "Amounts | None"]], None]
"""Sets something aside in the journal, of budgets that runs share; see `Journal.reserve`."""
Where = tuple[str, str | None]
"""Path of a scope, and the agent at work there."""
_NOTHING = Amounts()
_A_TOOL_CALL = Amounts(tool_calls=1)
_AN_ANSWER = 256
"""Tokens of an answer that nobody has seen, at least, before longer ones were seen."""
_MANY = 512
"""So many calls are kept uncounted at most."""


@dataclass(slots=True, kw_only=True)
class Account:
    """A budget, and what is known of it in this run.

    Attributes:
        budget: The budget; a function of the user's may have raised it.
        path: What lies in this scope counts.
        agent: Of that, only what this agent does.
        name: On what it is, for people.
        label: Whose it is, if runs share it.
        spent: How much of it.
        reserved: What calls under way may take besides.
        cut_off: How much of what is spent nobody has seen, see `Brakes.likely`. It is not known of
            budgets that runs share.
    """

    budget: Budget
    path: str | None = None
    agent: str | None = None
    name: str = "run"
    label: str | None = None
    spent: Amounts = _NOTHING
    reserved: Amounts = _NOTHING
    cut_off: Amounts = _NOTHING
    warned: set[str] = field(default_factory=set)

    def covers(self, where: Where) -> bool:
        """Whether what is done there counts."""
        path, agent = where
        within = self.path is None or _within(path, self.path)
        return within and (self.agent is None or self.agent == agent)

    @property
    def taken(self) -> Taken:
        """What this run has taken of it."""
        return Taken(spent=self.spent, reserved=self.reserved)

    def excess(self, limit: str, spent: Amounts) -> Excess:
        """A limit that would be passed, of which so much is spent."""
        return excess(self.budget, limit, spent, self.name, self.cut_off)

    def is_like(self, other: Account) -> bool:
        """Whether it is the same budget on the same place."""
        mine = self.budget, self.path, self.agent, self.label
        return mine == (other.budget, other.path, other.agent, other.label)


@dataclass(frozen=True, slots=True)
class Refused:
    """A call that would pass a limit."""

    account: Account
    excess: Excess


@dataclass(frozen=True, slots=True)
class Lower(Refused):
    """A call for which a cheaper model is to be asked: too little is left for this one."""


Granted = Fits | Waits | Refused


class Brakes:
    """The budgets of one run.

    Attributes:
        on: Whether there is any.
    """

    def __init__(self) -> None:
        self.on = False
        self._accounts: list[Account] = []
        self._ledger: dict[Where, Amounts] = {}
        self._held: dict[str, tuple[Sequence[Account], Amounts]] = {}
        self._noted: set[str] = set()
        self._cut_off: dict[Where, Amounts] = {}
        self._longest = 0
        self._estimators: dict[str, Estimator] = {}
        self._weights: dict[str, tuple[str, int]] = {}
        self._asks: dict[str, tuple[Ask, int]] = {}
        self._unsaid: list[StepRecord] = []
        self._guess: Callable[[StepRecord], Amounts] = lambda step: _NOTHING
        self._later: list[tuple[Where, Usage | None, Cost | None]] = []
        self._lock = threading.Lock()
        self._before = 0.0
        self._began = time.monotonic()
        self.limits: dict[str, dict[str, Any]] = {}
        """What people have raised, by the name of the account."""

    # -- what there is ----------------------------------------------------------------------------

    def take_up(
        self,
        steps: Sequence[StepRecord],
        attempts: Iterable[AttemptRecord],
        guess: Callable[[StepRecord], Amounts] = lambda step: _NOTHING,
        cut_off: Iterable[CutOff] = (),
    ) -> None:
        """Begin with what earlier sessions have recorded.

        Args:
            steps: Their steps.
            attempts: Tries that did not become the outcome of one.
            cut_off: Calls that were under way when one of them ended.
            guess: What a model call took of which not all was reported; asked once there is a
                budget.
        """
        of_model = {s.step_id: s for s in steps if s.kind is StepKind.MODEL}
        with self._lock:
            self._unsaid, self._guess = [s for s in steps if not says_all(s)], guess
            for step in steps:
                self._count((step.scope, step.agent), _took(step))
            for one in attempts:
                if one.step_id in of_model:
                    step = of_model[one.step_id]
                    self._count((step.scope, step.agent), _took_by_model(one.usage, one.cost))
            for call in cut_off:
                where = call.place.scope, call.place.agent
                self._count(where, call.amounts)
                self._cut_off[where] = self._cut_off.get(where, _NOTHING) + call.amounts

    def join(
        self,
        budgets: Budgets,
        *,
        of: str,
        path: str | None = None,
        tasks: Mapping[str, str] | None = None,
    ) -> None:
        """Hold what is done from now on to these budgets, too.

        Args:
            budgets: The budgets.
            of: The label of those that runs share and that have none of their own.
            path: The scope of the kickoff within the run that they are on; None: the whole run.
            tasks: Paths of the target's tasks, by name. Any other name is an agent's role.
        """
        whole = "run" if path is None else of.partition("/")[2] or of
        for budget in budgets.whole:
            self._join(Account(budget=budget, path=path, name=whole), of)
        for name, several in budgets.parts.items():
            place = (tasks or {}).get(name)
            for budget in several:
                if place is not None:
                    account = Account(budget=budget, path=place, name=f"task {name!r}")
                else:
                    account = Account(budget=budget, path=path, agent=name, name=f"agent {name!r}")
                self._join(account, f"{of}/{name}")

    def _join(self, account: Account, of: str) -> None:
        budget = account.budget
        if budget.shared:
            account.label = budget.label or of
            window = f", this {budget.window}" if budget.window else ""
            account.name = f"{account.name}{window} (label {account.label!r})"
        if account.name in self.limits:
            account.budget = with_limits(budget, self.limits[account.name])
        with self._lock:
            if any(one.is_like(account) for one in self._accounts):
                return  # the body around a kickoff is walked again
            self._count_later()
            for step in self._unsaid:
                missing = completed(_took(step), self._guess(step)) - _took(step)
                self._count((step.scope, step.agent), missing)
            self._unsaid = []
            for where, amounts in self._ledger.items():
                if account.label is None and account.covers(where):
                    account.spent += amounts
                    account.cut_off += self._cut_off.get(where, _NOTHING)
            account.warned = warned(budget, account.spent)
            self._accounts.append(account)
            self.on = True

    def unmet(self) -> list[str]:
        """Agents that have a budget and were never at work: perhaps they are called otherwise."""
        with self._lock:
            self._count_later()
            roles = {agent for _, agent in self._ledger}
            named = {one.agent for one in self._accounts if one.agent is not None}
        return sorted(named - roles)

    # -- time -------------------------------------------------------------------------------------

    def began(self, seconds: float) -> None:
        """The clock of this session begins, after so many seconds in earlier ones."""
        self._before, self._began = seconds, time.monotonic()
        for one in self._accounts:
            if self._much_time_spent(one) is not None:
                one.warned.add(SECONDS)

    def seconds_left(self) -> float | None:
        """Until the first limit in time; None if there is none."""
        limits = [one.budget.max_seconds for one in self._accounts if one.path is None]
        given = [limit for limit in limits if limit is not None]
        return max(0.0, min(given) - self._elapsed) if given else None

    def over_time(self) -> Refused | None:
        """Why nothing more may be begun."""
        for one in self._accounts:
            found = excess_of_time(one.budget, self._elapsed)
            if found is not None:
                return Refused(one, found)
        return None

    @property
    def _elapsed(self) -> float:
        return self._before + time.monotonic() - self._began

    # -- before a model call ----------------------------------------------------------------------

    def estimate(self, step_id: str, model: str, weight: int) -> int:
        """Tokens of a request that is about to be made, corrected as `expected` does.

        What the provider counts of it corrects the estimates of later ones.
        """
        with self._lock:
            self._weights[step_id] = (model, weight)
            return self._estimators.setdefault(model, Estimator()).corrected(weight)

    def expected(self, model: str, weight: int) -> int:
        """Tokens of a request, corrected by what this model has counted of earlier ones."""
        with self._lock:
            return self._estimators.get(model, Estimator()).corrected(weight)

    def used(self, scope: Scope, share: Share) -> Used | None:
        """The limit that covers what is done here and of which most is spent or set aside.

        Args:
            scope: Where.
            share: Asks the journal, where runs share a budget; nothing is set aside.
        """
        covering = self._of(_where(scope))
        own = [one for one in covering if one.label is None]
        shared = [one for one in covering if one.label is not None]
        with self._lock:
            found = [used(one.budget, one.taken, one.name) for one in own]
        found += [used_time(one.budget, self._elapsed) for one in own]

        def look(taken: Sequence[Taken]) -> None:
            found.extend(
                used(account.budget, one, account.name)
                for account, one in zip(shared, taken, strict=True)
            )

        if shared:
            now = time.time()
            share([_pot(one, now) for one in shared], look)
        known = [one for one in found if one is not None]
        return max(known, key=lambda one: one.part, default=None)

    def in_money(self, scope: Scope) -> Account | None:
        """A budget in money that covers what is done here."""
        return next((a for a in self._of(_where(scope)) if "max_usd" in a.budget.limits), None)

    def limits_output(self, scope: Scope) -> bool:
        """Whether it matters how long an answer here is."""
        return any(limits_output(one.budget) for one in self._of(_where(scope)))

    def reserve(
        self, scope: Scope, step_id: str, ask: Ask, share: Share, *, patient: bool
    ) -> Granted:
        """Set aside what a model call may take.

        Args:
            scope: Where it is made.
            step_id: Its step; what is set aside for it is released when that is recorded.
            ask: What it may take.
            share: Asks the journal, where runs share a budget.
            patient: Whether the call can wait for others to end.
        """
        covering = self._of(_where(scope))
        for one in covering:
            found = excess_of_call(one.budget, ask.input_tokens, one.name)
            if found is not None:
                return Refused(one, found)
        own = [one for one in covering if one.label is None]
        shared = [one for one in covering if one.label is not None]
        with self._lock:
            self._release(step_id)
            granted = _combined(own, [one.taken for one in own], ask, patient=patient)
            if not isinstance(granted, Fits):
                return granted
            self._hold(step_id, own, ask.amounts(granted.output))
            self._asks[step_id] = ask, granted.output
            notes = not shared and any(counts_calls(one.budget) for one in own)
            if notes:
                self._noted.add(step_id)
        if notes:
            share([], lambda _: ask.amounts(granted.output))
        if not shared:
            return granted
        lowered = replace(ask, most=granted.output)
        found_there = self._share(shared, lowered, share, patient=patient)
        with self._lock:
            self._release(step_id)
            if isinstance(found_there, Fits):
                self._noted.add(step_id)
                self._hold(step_id, own, ask.amounts(found_there.output))
                self._asks[step_id] = ask, found_there.output
                return Fits(found_there.output, granted.capped or found_there.capped)
        return found_there

    def _share(
        self, accounts: Sequence[Account], ask: Ask, share: Share, *, patient: bool
    ) -> Granted:
        decided: list[Granted] = []
        now = time.time()

        def decide(taken: Sequence[Taken]) -> Amounts | None:
            for account, one in zip(accounts, taken, strict=True):
                account.spent = one.spent
            decided.append(_combined(accounts, taken, ask, patient=patient))
            last = decided[-1]
            return ask.amounts(last.output) if isinstance(last, Fits) else None

        share([_pot(account, now) for account in accounts], decide)
        return decided[-1]

    # -- before a tool call -----------------------------------------------------------------------

    def admit_tool(self, scope: Scope, share: Share) -> Refused | None:
        """Why a tool must not be called now; else the call is counted."""
        where = _where(scope)
        covering = self._of(where)
        with self._lock:
            for one in covering:
                if one.label is None and (found := _too_many(one, one.spent)) is not None:
                    return found
            self._count(where, _A_TOOL_CALL)
        shared = [one for one in covering if one.label and "max_tool_calls" in one.budget.limits]
        if not shared:
            return None
        refused: list[Refused] = []

        def decide(taken: Sequence[Taken]) -> Amounts | None:
            refused.clear()
            for account, one in zip(shared, taken, strict=True):
                found = _too_many(account, one.spent + one.reserved)
                if found is not None:
                    refused.append(found)
            return None if refused else _A_TOOL_CALL

        now = time.time()
        share([_pot(account, now) for account in shared], decide)
        if not refused:
            return None
        with self._lock:
            self._count(where, _NOTHING - _A_TOOL_CALL)
        return refused[0]

    # -- afterwards -------------------------------------------------------------------------------

    def settled(self, step: StepRecord, before: AttemptRecord | None) -> Settled | None:
        """What a step that is about to be recorded took of budgets that runs share."""
        if not self._accounts:
            return None
        covering = self._of((step.scope, step.agent))
        labels = tuple(sorted({one.label for one in covering if one.label is not None}))
        if step.kind not in (StepKind.MODEL, StepKind.TOOL):
            return None
        if not labels and step.step_id not in self._noted:
            return None
        took = self._taken(step)
        counted = before is not None and before.status is not StepStatus.STARTED
        if step.kind is StepKind.TOOL and counted:
            took = _NOTHING  # another try of the same call
        return Settled(labels=labels, hour=hour_of(step.started_at), took=took)

    def enter(self, step: StepRecord) -> None:
        """A step is recorded: what it took is spent, and nothing is set aside for it any more.

        Tool calls are counted when they are admitted. As long as there is no budget, model calls
        are counted once there is one, or when there are many.
        """
        with self._lock:
            self._release(step.step_id)
            if step.kind is not StepKind.MODEL:
                return
            if not self.on and not self._weights:
                self._later.append(((step.scope, step.agent), step.usage, step.cost))
                if len(self._later) >= _MANY:
                    self._count_later()
                return
            self._count((step.scope, step.agent), self._taken(step))
            self._asks.pop(step.step_id, None)
            self._noted.discard(step.step_id)
            model, weight = self._weights.pop(step.step_id, ("", 0))
            if step.usage is not None and step.usage.calls == 1 and model:
                self._estimators[model].learn(weight, step.usage.input_tokens)

    def release(self, step_id: str) -> bool:
        """A call was not made after all; whether something was set aside for it."""
        if step_id not in self._asks and step_id not in self._held:
            return False  # most calls: nobody counts
        with self._lock:
            self._asks.pop(step_id, None)
            self._noted.discard(step_id)
            return self._release(step_id)

    def keep(self, step_id: str, name: str) -> Amounts | None:
        """Keep what is set aside for a step under another name, until that is released.

        Returns:
            What that is; None if nothing is.
        """
        with self._lock:
            held = self._held.pop(step_id, None)
            if held is None:
                return None
            self._held[name] = held
            if step_id in self._noted:
                self._noted.add(name)
            return held[1]

    def likely(self, step_id: str, most: Amounts) -> Amounts:
        """What a model call has taken that may take so much, if nobody learns it.

        An answer is then taken to be as long as the longest of the run so far.
        """
        ask, _ = self._asks.get(step_id, (None, 0))
        if ask is None:
            return most
        return ask.amounts(min(most.output_tokens, max(self._longest, _AN_ANSWER)))

    def is_noted(self, name: str) -> bool:
        """Whether something is set aside in the journal under this name, a step's or `keep`'s."""
        return name in self._noted

    def pots(self, scope: Scope) -> list[Pot]:
        """Of the budgets that runs share, those that cover what is done here."""
        now = time.time()
        return [_pot(one, now) for one in self._of(_where(scope)) if one.label is not None]

    def warnings(self) -> list[Excess]:
        """Limits of which so much is spent that a person should know, each of them once."""
        found = []
        with self._lock:
            for one in self._accounts:
                for limit in sorted(warned(one.budget, one.spent) - one.warned):
                    one.warned.add(limit)
                    found.append(one.excess(limit, one.spent))
                late = self._much_time_spent(one)
                if late is not None and SECONDS not in one.warned:
                    one.warned.add(SECONDS)
                    found.append(late)
        return found

    def _much_time_spent(self, account: Account) -> Excess | None:
        spent = time_spent(account.budget, self._elapsed)
        much = spent is not None and (
            float(spent.spent) >= float(spent.most) * account.budget.warn_at
        )
        return spent if much else None

    def tightest(self, scope: Scope) -> tuple[Account, Excess]:
        """The budget of which an answer has taken the last tokens of output, all that were left."""
        covering = [one for one in self._of(_where(scope)) if limits_output(one.budget)]
        with self._lock:
            account = min(covering, key=lambda one: least_part_left(one.budget, one.spent))
            limit = tightest_limit(account.budget, account.spent)
            return account, account.excess(limit, account.spent)

    def raise_to(self, account: Account, budget: Budget) -> None:
        """A user's function has raised a budget."""
        with self._lock:
            account.budget = budget
            account.warned = warned(budget, account.spent) | (account.warned & {SECONDS})

    # -- inner ------------------------------------------------------------------------------------

    def _of(self, where: Where) -> list[Account]:
        return [one for one in self._accounts if one.covers(where)]

    def _count(self, where: Where, took: Amounts) -> None:
        if took == _NOTHING:
            return
        self._ledger[where] = self._ledger.get(where, _NOTHING) + took
        if took.llm_calls == 1:
            self._longest = max(self._longest, took.output_tokens)
        for one in self._accounts:
            if one.label is None and one.covers(where):
                one.spent += took

    def _count_later(self) -> None:
        for where, usage, cost in self._later:
            self._count(where, _took_by_model(usage, cost))
        self._later.clear()

    def _taken(self, step: StepRecord) -> Amounts:
        """What a step took; a model call of which not all was reported, about as much."""
        ask, most = self._asks.get(step.step_id, (None, 0))
        if ask is None or says_all(step):
            return _took(step)
        output = most if step.result is None else weigh_answer(step.result)
        return completed(_took(step), ask.amounts(output))

    def _hold(self, step_id: str, accounts: Sequence[Account], amounts: Amounts) -> None:
        for one in accounts:
            one.reserved += amounts
        self._held[step_id] = accounts, amounts

    def _release(self, step_id: str) -> bool:
        accounts, amounts = self._held.pop(step_id, (None, _NOTHING))
        for one in accounts or ():
            one.reserved -= amounts
        return accounts is not None


def _combined(
    accounts: Sequence[Account], taken: Sequence[Taken], ask: Ask, *, patient: bool
) -> Granted:
    """What all of these budgets together say of a call."""
    output, capped, waits = ask.most, False, False
    for account, one in zip(accounts, taken, strict=True):
        if account.budget.route_to and goes_down(account.budget, one.spent, ask):
            return Lower(account, account.excess("max_usd", one.spent))
    for account, one in zip(accounts, taken, strict=True):
        verdict = judge(account.budget, one, ask, patient=patient)
        if isinstance(verdict, Passes):
            found = account.excess(verdict.limit, one.spent)
            return Refused(account, found)
        waits |= isinstance(verdict, Waits)
        if isinstance(verdict, Fits):
            output, capped = min(output, verdict.output), capped or verdict.capped
    return Waits() if waits else Fits(output, capped)


def _too_many(account: Account, taken: Amounts) -> Refused | None:
    limit = passed(account.budget, taken, _A_TOOL_CALL)
    if limit is None:
        return None
    return Refused(account, account.excess(limit, taken))


def _pot(account: Account, now: float) -> Pot:
    return account.budget.pot(account.label or "", now)


def _where(scope: Scope) -> Where:
    return scope.path, scope.agent


def _within(path: str, place: str) -> bool:
    """A task that is executed again because it changed has a path of its own: it counts, too."""
    return lies_in(path, place) or path.startswith(f"{place}~")


def _took(step: StepRecord) -> Amounts:
    if step.kind is StepKind.MODEL:
        return _took_by_model(step.usage, step.cost)
    called = step.kind is StepKind.TOOL and step.effect not in (REFUSED, CACHED)
    return _A_TOOL_CALL if called else _NOTHING


def says_all(step: StepRecord) -> bool:
    """Whether what a step took is known: some providers report nothing of a call, or half of it."""
    usage = step.usage
    if step.kind is not StepKind.MODEL:
        return True
    if step.status is not StepStatus.DONE:
        return usage is None or usage.says_anything
    return usage is not None and usage.input_tokens > 0 and usage.output_tokens > 0


def _took_by_model(usage: Usage | None, cost: Cost | None) -> Amounts:
    return Amounts(
        cost_picousd=(cost.picousd or 0) if cost is not None else 0,
        input_tokens=usage.input_tokens if usage is not None else 0,
        output_tokens=usage.output_tokens if usage is not None else 0,
        llm_calls=1,
    )
