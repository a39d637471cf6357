"""The examples, as a newcomer runs them: each in a process of its own, offline.

Importing crewai takes seconds, so what does not wait for another process runs beside it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from crewai_prod import open_journal
from crewai_prod.records import RunStatus

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
_SECONDS = 120

Done = subprocess.CompletedProcess[str]


class Process:
    """An example that is running."""

    def __init__(self, arguments: Sequence[str], folder: Path, journal: Path) -> None:
        self._started = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONDONTWRITEBYTECODE": "1",
                "CREWAI_PROD_JOURNAL": str(journal),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def done(self) -> Done:
        """Wait for its end."""
        out, err = self._started.communicate(timeout=_SECONDS)
        return subprocess.CompletedProcess(self._started.args, self._started.returncode, out, err)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples leave what they leave."""
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def done(folder: Path) -> Mapping[str, Done]:
    """Every example, run once; the one that dies, twice."""
    project, resume = EXAMPLES / "crewbase_project", str(EXAMPLES / "resume_after_crash.py")
    command = ["run", "crew:ReportCrew", "-i", "topic=tides", "--run-id", "tides-1", "--json"]
    first = {
        "quickstart": Process([str(EXAMPLES / "quickstart.py")], folder, folder / "quick.db"),
        "killed": Process([resume], folder, folder / "unused.db"),
        "flow": Process([str(EXAMPLES / "flow_and_steps.py")], folder, folder / "unused.db"),
        "typed": Process([str(EXAMPLES / "typed_tools.py")], folder, folder / "typed.db"),
        "guards": Process([str(EXAMPLES / "guards_and_people.py")], folder, folder / "guards.db"),
    }
    ended = {name: process.done() for name, process in first.items()}
    second = {
        "resumed": Process([resume], folder, folder / "unused.db"),
        "crewbase": Process(["-m", "crewai_prod", *command], project, folder / "tides.db"),
    }
    ended |= {name: process.done() for name, process in second.items()}
    again = Process(["crew.py"], project, folder / "tides.db")
    return {**ended, "crewbase again": again.done()}


def test_quickstart_is_paid_for_once(done: Mapping[str, Done]) -> None:
    """The shop sells once, both kickoffs give the same, and the steps are listed."""
    said = done["quickstart"].stdout
    assert done["quickstart"].returncode == 0, done["quickstart"].stderr
    assert said.count("the shop sells") == 1
    assert said.count("The tide table is bought, receipt 17.") == 2
    assert "2. Buyer: tool buy, done" in said


def test_crash_is_real_and_the_card_is_charged_once(done: Mapping[str, Done]) -> None:
    """SIGKILL in the second task; the next start replays the first and finishes the second."""
    killed, resumed = done["killed"], done["resumed"]
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "the bank takes 42.00 USD" in killed.stdout
    assert resumed.returncode == 0, resumed.stderr
    assert "the bank" not in resumed.stdout
    assert "result: parcel 7" in resumed.stdout
    steps = [line.split() for line in resumed.stdout.splitlines() if line.startswith("  ")]
    assert [line for line in steps if line[0] in ("replayed", "new")] == [
        ["replayed", "model", "scripted"],
        ["replayed", "tool", "charge_card"],
        ["replayed", "model", "scripted"],
        ["replayed", "model", "scripted"],
        ["new", "tool", "find_parcel"],
        ["new", "model", "scripted"],
    ]


def test_flow_and_steps_pay_once(done: Mapping[str, Done]) -> None:
    """The bank is down, then not: the model is asked once, the bank pays once."""
    said = done["flow"].stdout
    assert done["flow"].returncode == 0, done["flow"].stderr
    assert "first kickoff: the bank is down" in said
    assert said.count("... the model is asked") == said.count("... the bank pays") == 1
    assert said.count("kickoff: paid: 12 USD for a tide table") == 2
    assert "transfer, done" in said


def test_typed_tool_is_called_once_it_is_called_rightly(done: Mapping[str, Done]) -> None:
    """The model reads what is wrong in a line, and the hotel books once."""
    said = done["typed"].stdout
    assert done["typed"].returncode == 0, done["typed"].stderr
    assert "breakfast: there is no such field. night: expected date (YYYY-MM-DD)" in said
    assert said.count("... the hotel books Friday for 2, late: False") == 1
    assert "Room 12 is booked." in said


def test_a_stranger_s_order_is_rejected_and_a_person_is_asked(done: Mapping[str, Done]) -> None:
    """The guard rejects 4,000; 40 wait for a person, and are refunded once."""
    said = done["guards"].stdout
    assert done["guards"].returncode == 0, done["guards"].stderr
    assert '"tool_call":{"usd":40}' in said
    assert said.count("... the bank refunds 40 USD") == said.count("... the bank") == 1
    assert "40 USD were refunded." in said


def test_crewbase_project_runs_from_the_command_line(
    done: Mapping[str, Done], folder: Path
) -> None:
    """`crewai-prod run` makes the run; the project's own file is handed its result."""
    made, again = done["crewbase"], done["crewbase again"]
    assert made.returncode == 0, made.stderr
    report = json.loads(made.stdout)
    assert (report["status"], report["usage"]["tool_calls"]) == ("completed", 2)
    assert again.returncode == 0, again.stderr
    assert again.stdout.strip() == report["output"]
    runs = open_journal(folder / "tides.db", create=False).runs()
    assert [(run.run_id, run.status) for run in runs] == [("tides-1", RunStatus.COMPLETED)]


def test_every_example_is_short_and_run_here() -> None:
    """An example somebody adds must be added here; none grows past a screen or two."""
    found = {str(path.relative_to(EXAMPLES)): path for path in EXAMPLES.rglob("*.py")}
    singles = {"quickstart.py", "resume_after_crash.py", "flow_and_steps.py", "typed_tools.py"}
    singles.add("guards_and_people.py")
    assert set(found) == {*singles, "crewbase_project/crew.py"}
    for name, path in found.items():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 85, name
