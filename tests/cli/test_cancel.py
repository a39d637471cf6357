"""`crewai-prod cancel` on journals made by hand."""

from __future__ import annotations

import json

import pytest

from crewai_prod.errors import RunCancelled
from crewai_prod.records import RunStatus, StepKind, StepStatus
from tests.cli.conftest import Book, Cli


def test_cancel_asks_the_owner_to_stop(cli: Cli, book: Book) -> None:
    """It says how to go on; the owner finds it, and begins nothing that acts."""
    lease = book.start("order-1")
    asked = cli("cancel", "order-1", "--journal", book.path)
    assert "order-1 stops before its next step" in asked.stdout
    assert "crewai-prod resume order-1 MODULE:CREW" in asked.stdout
    assert book.journal.cancelled([lease]) == [lease]
    with pytest.raises(RunCancelled):
        book.step(lease, 1, StepKind.TOOL, "charge", status=StepStatus.STARTED, result=None)
    book.step(lease, 2, StepKind.MODEL, "m")  # paid for: kept
    book.end(lease, RunStatus.CANCELLED)
    again = json.loads(cli("cancel", "order-1", "--journal", book.path, "--json").stdout)
    assert (again["run_id"], again["status"]) == ("order-1", "cancelled")
    resumed = book.start("order-1")
    assert book.journal.cancelled([resumed]) == []


def test_cancel_refuses_what_nobody_is_at_work_on(cli: Cli, book: Book) -> None:
    """A finished run and an unknown one end the command with 1 and a sentence."""
    book.end(book.start("done"), RunStatus.COMPLETED)
    for run_id, said in (("done", "there is nothing to cancel"), ("other", "no run of this id")):
        asked = cli("cancel", run_id, "--journal", book.path, status=1)
        assert said in asked.stderr
