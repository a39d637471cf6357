"""Telling of a run, once it has ended, in what it took much more than it used to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from crewai_prod.alerts import RULES, Alert, Rules, due, outliers
from crewai_prod.errors import JournalError
from crewai_prod.failures import said_by
from crewai_prod.journal import Journal
from crewai_prod.run import Run

OnAlert: TypeAlias = Callable[[Alert], object]


def tell(run: Run, on_alert: OnAlert | None, rules: Rules = RULES) -> None:
    """Log what is out of the ordinary in a run, and tell who wants to know.

    The run is done and recorded: nothing that goes wrong here, a listener's exception included,
    changes what its kickoff returns.
    """
    try:
        found = find(run.journal, run.run_id, rules)
    except JournalError as error:
        run.log.warning(f"What this run took was not compared with others: {error.message}")
        found = []
    for alert in found:
        run.log.usage_alert(alert)
        if on_alert is not None:
            _call(run, on_alert, alert)
    run.log.close()


def find(journal: Journal, run_id: str, rules: Rules = RULES) -> list[Alert]:
    """What is news in a run that has ended.

    The history that tells whether it is news is read only where something is out of the ordinary.
    """
    series = journal.task_spending(run_id, earlier=rules.window)
    if not any(outliers(one, rules) for one in series):
        return []
    series = journal.task_spending(run_id, earlier=2 * rules.window)
    return [alert for one in series for alert in due(one, rules)]


def _call(run: Run, on_alert: OnAlert, alert: Alert) -> None:
    try:
        on_alert(alert)
    except Exception as error:  # noqa: BLE001 - the run is done: its result must not be lost
        run.log.warning(f"on_alert raised {said_by(error)}")
