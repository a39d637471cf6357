"""What `harden` was told, checked once, with the environment's settings behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from crewai_prod.alerting import OnAlert
from crewai_prod.approval import Approval
from crewai_prod.budget import Budgets
from crewai_prod.errors import UsageError
from crewai_prod.guards import Guard
from crewai_prod.guards._pipeline import read_guards
from crewai_prod.journal import Journal
from crewai_prod.journals import shared_journal
from crewai_prod.logs import DEFAULT, RunLog, open_log
from crewai_prod.loops import Loops
from crewai_prod.notices import Notify
from crewai_prod.notices import check as check_notify
from crewai_prod.outcomes import UnknownPolicy
from crewai_prod.prices import Prices, load
from crewai_prod.replay import OnChange
from crewai_prod.retry import Retry
from crewai_prod.route import Routes
from crewai_prod.settings import Settings
from crewai_prod.tooling import Outcome, ToolOptions

_ON_CHANGE = ("stop", "rerun", "keep")
_UNKNOWN = ("pause", "rerun", "fail")
_HUMAN = ("pause", "terminal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one hardened target."""

    settings: Settings
    journal: str | Path | Journal | None
    tools: Mapping[str, ToolOptions]
    retry: Retry
    on_change: OnChange
    unknown: UnknownPolicy
    log: Any
    prices: Prices
    on_alert: OnAlert | None
    budgets: Budgets
    routes: Routes
    approvals: Mapping[str, Approval]
    notify: Notify | None
    human: str
    loops: Loops | None
    guards: tuple[Guard, ...] = ()

    @classmethod
    def read(
        cls,
        *,
        journal: str | Path | Journal | None = None,
        durability: str | None = None,
        tools: Mapping[str, Any] | None = None,
        retry: Retry | None = None,
        on_change: str | None = None,
        unknown: UnknownPolicy | None = None,
        log: Any = DEFAULT,
        settings: Settings | None = None,
        prices: Any = None,
        on_unpriced: Any = None,
        on_alert: OnAlert | None = None,
        budget: Any = None,
        budgets: Any = None,
        route: Any = None,
        guards: Any = None,
        approvals: Mapping[str, Any] | None = None,
        notify: Any = None,
        human: str | None = None,
        loops: Any = None,
    ) -> Options:
        """Check every option now, not at the first kickoff.

        Raises:
            UsageError: A value that does not exist, named with those that do.
        """
        load()
        base = settings or _from_environment()
        if durability is not None:
            base = _with_durability(base, durability)
        declared = {name: ToolOptions.read(name, said) for name, said in (tools or {}).items()}
        return cls(
            settings=base,
            journal=journal if journal is not None else base.journal,
            tools=declared,
            retry=_retry(retry),
            on_change=_one_of("on_change", on_change or base.on_change, _ON_CHANGE),
            unknown=_unknown(unknown if unknown is not None else base.unknown),
            log=base.log if log is DEFAULT and base.log is not None else log,
            on_alert=_callable("on_alert", on_alert),
            budgets=Budgets.read(budget, budgets),
            routes=Routes.read(route),
            guards=read_guards(guards),
            approvals=_approvals(approvals),
            notify=check_notify(notify if notify is not None else base.notify),
            human=_one_of("human", human or base.human, _HUMAN),
            loops=Loops.read(base.loops if loops is None else loops),
            prices=Prices.read(
                prices if prices is not None else base.prices,
                on_unpriced if on_unpriced is not None else base.on_unpriced,
            ),
        )

    def for_kickoff(self, on_change: str | None, unknown: UnknownPolicy | None) -> Options:
        """The options with what one kickoff says otherwise."""
        return replace(
            self,
            on_change=_one_of("on_change", on_change or self.on_change, _ON_CHANGE),
            unknown=_unknown(unknown) if unknown is not None else self.unknown,
        )

    def open_journal(self) -> Journal:
        """The journal, shared by all that name the same file in this process."""
        if self.journal is None or isinstance(self.journal, (str, Path)):
            return shared_journal(self.journal, self.settings.durability)
        return self.journal

    @property
    def sensitive(self) -> frozenset[str]:
        """The names of arguments that are declared never to be shown."""
        return frozenset().union(*(tool.sensitive for tool in self.tools.values()))

    def open_log(self, journal: Journal, run_id: str, crew: str | None) -> RunLog:
        """The log of one run."""
        return open_log(
            self.log,
            journal_path=Path(journal.location),
            run_id=run_id,
            content=self.settings.log_content,
            sensitive=self.sensitive,
            workflow=crew,
        )


def _from_environment() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        wrong = "; ".join(
            f"CREWAI_PROD_{'_'.join(map(str, one['loc'])).upper()}={one['input']!r}: {one['msg']}"
            for one in error.errors()
        )
        raise UsageError(f"A setting in the environment is wrong: {wrong}.") from error


def _with_durability(settings: Settings, durability: str) -> Settings:
    checked = _one_of("durability", durability, ("power", "process"))
    return settings.model_copy(update={"durability": checked})


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> Any:
    if value not in allowed:
        raise UsageError(f"{name}={value!r} does not exist; there are {', '.join(allowed)}.")
    return value


def _unknown(value: UnknownPolicy) -> UnknownPolicy:
    if isinstance(value, (Outcome, Mapping)):
        return value
    return str(_one_of("unknown", value, _UNKNOWN))


def _approvals(said: Mapping[str, Any] | None) -> dict[str, Approval]:
    read = {name: Approval.read(one) for name, one in (said or {}).items()}
    for name, one in read.items():
        if one is not None and (one.above or one.first_use or one.after_taint):
            raise UsageError(
                f"approvals[{name!r}]: above, first_use and after_taint are for tools; the output "
                "of a task always needs approval, or never."
            )
    return {name: one for name, one in read.items() if one is not None}


def _callable(name: str, value: Any) -> Any:
    if value is not None and not callable(value):
        raise UsageError(f"{name}={value!r} is no function.")
    return value


def _retry(value: Retry | None) -> Retry:
    if value is None:
        return Retry()
    if not isinstance(value, Retry):
        raise UsageError(f"retry={value!r} is no Retry; for example Retry(attempts=5).")
    return value
