"""The README: its Python runs, its tests exist, its commands are the ones that `.ci/run` runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from crewai_prod import open_journal
from crewai_prod.records import RunStatus, StepKind
from tests.docs.test_facts import MEASURED_ON
from tests.openai_server import Conversation, Rule, Server, answer, use

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_example_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Word for word, on CrewAI's own OpenAI provider, against a server on this machine."""
    pay = use("charge_card", {"customer": "ann", "usd": 42})
    with Server(Conversation(Rule(pay, answer("receipt for 42.00 USD")))) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        names: dict[str, Any] = {"__name__": "readme"}
        for block in blocks("python"):
            exec(compile(block, "README.md", "exec"), names)
        careful = names["careful"].kickoff(inputs={"customer": "ann"}, run_id="order-4712")
    assert (names["result"].raw, careful.raw) == ("receipt for 42.00 USD",) * 2
    journal = open_journal(tmp_path / ".crewai_prod" / "journal.db", create=False)
    assert journal.run("order-4711").status is RunStatus.COMPLETED
    kinds = [step.kind for step in journal.steps("order-4711")]
    assert kinds == [StepKind.MODEL, StepKind.TOOL, StepKind.MODEL]
    assert len(server.requests) == 4


def test_every_row_of_the_table_names_a_test_that_exists() -> None:
    """No claim outlives its test."""
    table = README.partition("## What changes")[2].partition("##")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    named = [re.findall(r"`(test_\w+)`", row) for row in rows]
    sources = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/*/test_*.py"))
    assert len(rows) >= 8
    for row, names in zip(rows, named, strict=True):
        assert len(names) == 1, row
        assert f"def {names[0]}(" in sources, row
    assert f"on CrewAI {MEASURED_ON}." in table


def test_the_two_commands_can_be_found() -> None:
    """`.ci/run` takes them from here by these marks; each sets up all it needs by itself."""
    found = dict(re.findall(r"<!-- command: (\w+) -->\n```sh\n(.*)\n```", README))
    assert set(found) == {"demo", "test"}
    for command in found.values():
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert found["demo"].endswith("&& .venv/bin/crewai-prod demo")
    assert found["test"].endswith("&& .venv/bin/python -m pytest")


def test_links_lead_somewhere() -> None:
    """What the README points at is there, and it stays short."""
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
    assert 80 <= len(README.splitlines()) <= 250
