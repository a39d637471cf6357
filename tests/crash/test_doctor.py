"""`doctor --crash-test` on a crew as users write them: nothing is paid, nothing is done."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from crewai_prod.crashtest import Harness, run_crash_test
from crewai_prod.crashtest.evidence import read_lines
from crewai_prod.crashtest.sessions import REQUESTS
from crewai_prod.errors import UsageError
from tests.crash.subjects import SUBJECTS
from tests.openai_server import ROOT

CREW = '''
import os
from pathlib import Path
from crewai import Agent, Crew, Task
from crewai.tools import BaseTool, tool
from crewai_prod import harden

ACTED = Path(__file__).with_name("acted")

@tool
def charge(customer: str, amount: float) -> str:
    """Charge a card."""
    file = os.open(ACTED, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, b"charged\\n")
    return f"charged {amount}"

class Ship(BaseTool):
    name: str = "Ship a parcel"
    description: str = "Ships it."
    def _run(self, address: str) -> str:
        with ACTED.open("a") as file:
            file.write("shipped\\n")
        return "shipped"

@harden(journal="the users own.db")
def crew():
    clerk = Agent(role="Clerk", goal="g", backstory="b", llm="gpt-4o-mini", tools=[charge, Ship()])
    task = Task(description="Serve {customer}", expected_output="o", agent=clerk)
    return Crew(name="shop", agents=[clerk], tasks=[task])
'''


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's project."""
    (tmp_path / "shop.py").write_text(CREW, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path


def test_the_command_on_a_users_crew(shop: Path) -> None:
    """The crew is killed everywhere, keeps its promises, and neither model nor tool was used."""
    command = [sys.executable, "-m", "crewai_prod", "doctor", "shop:crew", "--crash-test"]
    options = ["-i", "customer=ada", "--points", "4", "--random", "1", "--seed", "3", "--json"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads(done.stdout)
    assert report["ok"]
    modes = {shape["mode"]: shape for shape in report["shapes"]}
    assert modes["boundary"]["kills"] == 4
    assert modes["every session"]["kills"] > 10
    assert modes["every session"]["pauses"] > 0
    assert all(shape["output_equal"] for shape in report["shapes"])
    assert not (shop / "acted").exists()
    assert not (shop / "the users own.db").exists()


def test_real_models_are_counted(harness: Harness, tmp_path: Path) -> None:
    """What counts a real model's requests for the doctor counts what arrives at its server."""
    file = tmp_path / "requests.jsonl"
    subject = replace(
        SUBJECTS["parallel-calls"],
        name="real models",
        record=True,
        stand_in_tools=True,
        env={REQUESTS: str(file)},
    )
    seen = harness.baseline(subject)
    calls = [line["call"] for line in read_lines(file) if line["answered"]]
    assert len(calls) == len(set(calls)) == len(seen.sent)
    assert len(seen.effects) == 5
    assert all("crash test" in effect.result for effect in seen.effects)


FLOW = """
from crewai.flow.flow import Flow, start

class Empty(Flow):
    @start()
    def begin(self):
        return 1
"""


def test_a_flow_cannot_be_spared_its_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its methods make them: it is refused with the way out, not run against a real model."""
    (tmp_path / "flows.py").write_text(FLOW, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with pytest.raises(UsageError, match="--real-model --real-tools"):
        run_crash_test("flows:Empty", points=1, random_kills=0)


def test_real_tools_act_once_a_run(shop: Path) -> None:
    """With the crew's own tools, every run of the crash test acts once, however often killed."""
    report = run_crash_test(
        "shop:crew", inputs={"customer": "ada"}, points=1, random_kills=0, real_tools=True
    )
    assert report.ok, report.render()
    assert all(shape.output_equal is None for shape in report.shapes)
    runs = 1 + sum(shape.trials for shape in report.shapes)
    acted = (shop / "acted").read_text(encoding="utf-8").split()
    assert (acted.count("charged"), acted.count("shipped")) == (runs, runs)
