"""Processes killed around a person's answer: the run's own, and that of whoever answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from crewai_prod import approve, open_journal
from crewai_prod._faults import VARIABLE
from crewai_prod.crashtest.sessions import DONE, PAUSED
from tests.crash.conftest import Stage
from tests.crash.declared import DECLARED
from tests.openai_server import ROOT

_KILLED = 137


def _how(stage: Stage) -> dict[str, Any]:
    said = json.dumps({"effect": "write", "approval": True, "tools": ["reserve"]})
    return {
        "target": "tests.crash.declared:declared",
        "env": {**stage.template.env, DECLARED: said},
    }


def _answer(stage: Stage, *, killed: str) -> int:
    """`crewai-prod approve 1` in a process of its own; its exit status."""
    command = [sys.executable, "-m", "crewai_prod", "approve", "1"]
    done = subprocess.run(
        [*command, "--journal", stage.template.journal],
        env={**os.environ, VARIABLE: f"at={killed},k=1"},
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return done.returncode


def test_killed_around_the_question_and_the_answer(stage: Stage) -> None:
    """Whoever dies, there is one question; each effect happens once, and no request is sent twice.

    The run is killed before the row, after it, once it is answered and before the call, and within
    the call, of which nobody knows then whether it acted; whoever answers is killed before and
    after the answer.
    """
    how, journal = _how(stage), open_journal(Path(stage.template.journal))
    for point, rows in (("commit.before:ask", 0), ("commit.after:ask", 1)):
        assert stage.run(point, at=point, kill_at=1, **how) == {}
        assert len(journal.approvals("crash")) == rows
    assert stage.run("paused", **how)["status"] == PAUSED
    for point, status in (("commit.before:answer", "open"), ("commit.after:answer", "answered")):
        assert _answer(stage, killed=point) == _KILLED
        assert journal.approval(1).status == status
    assert stage.run("before", at="commit.before:start_step", kill_at=1, **how) == {}
    assert stage.effects == []
    assert stage.run("within", at="tool.after_body", kill_at=1, **how) == {}
    assert stage.run("unknown", **how)["status"] == PAUSED
    (question,) = journal.approvals("crash", status="open")
    assert (question.kind, question.tool) == ("unknown_outcome", "reserve")
    approve(question.id, journal, edit="reserved")
    told = stage.run("resumed", **how)
    assert told["status"] == DONE, told
    assert [effect.tool for effect in stage.effects] == ["reserve", "charge", "mail"]
    assert len(journal.approvals("crash")) == 2
    assert len(stage.sent) == 6
