"""SIGTERM to a script of the user's own: the step under way is kept, and the process ends by it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crewai_prod import open_journal
from crewai_prod.records import RunStatus
from tests.openai_server import ROOT, Conversation, Rule, Server, answer, use

_CREW = """
import asyncio, signal, sys, time
from pathlib import Path
from crewai import Agent, Crew, Task
from crewai_prod import harden, tool
from tests.crews import make_llm

url, path, mode, begun = sys.argv[1:]

@tool(effect="write")
def pay(amount: int) -> str:
    \"\"\"Pay.

    Args:
        amount: How much.
    \"\"\"
    with open(begun, "a") as file:
        print("paid", amount, file=file, flush=True)
    if len(Path(begun).read_text().splitlines()) == 1:
        time.sleep(1.5)
    return f"paid {amount}"

clerk = Agent(role="Clerk", goal="g", backstory="b", llm=make_llm(url, path), tools=[pay])
task = Task(description="Pay.", expected_output="o", agent=clerk)
crew = harden(Crew(agents=[clerk], tasks=[task]), journal="runs.db")
if mode == "kickoff":
    result = crew.kickoff(run_id="r")
else:
    result = asyncio.run(getattr(crew, mode)(run_id="r"))
print(result.raw, signal.getsignal(signal.SIGTERM) is signal.SIG_DFL or mode)
"""
_SCRIPT = Conversation(Rule(use("pay", {"amount": 7}), answer("paid 7")))


@pytest.mark.parametrize(
    ("path", "mode"), [("native", "kickoff"), ("text", "akickoff"), ("native", "kickoff_async")]
)
def test_a_script_is_stopped_after_its_step(tmp_path: Path, path: str, mode: str) -> None:
    """The tool's result is recorded, the next call not made; started again, it goes on."""
    begun = tmp_path / "begun"
    with Server(_SCRIPT) as server:
        command = [sys.executable, "-c", _CREW, server.url, path, mode, str(begun)]
        env, pipe = {**os.environ, "PYTHONPATH": str(ROOT)}, subprocess.PIPE
        first = subprocess.Popen(
            command, env=env, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True
        )
        while not begun.exists() or not begun.read_text():
            assert first.poll() is None
            time.sleep(0.02)
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=60)
        assert first.returncode == -signal.SIGTERM
        assert len(server.requests) == 1
        run = open_journal(tmp_path / "runs.db").run("r")
        assert (run.status, run.reason) == (RunStatus.INTERRUPTED, "RunInterrupted")
        again = subprocess.run(
            command, env=env, cwd=tmp_path, check=True, timeout=60, capture_output=True, text=True
        )
        assert again.stdout.splitlines()[-1].startswith("paid 7 ")
        assert begun.read_text() == "paid 7\n"
        assert len(server.requests) == 2
