"""`crewai-prod demo`: killed, resumed, and every claim checked; offline and on a real endpoint."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crewai_prod.cli._report import Report
from crewai_prod.demo.child import Orders
from crewai_prod.demo.director import Story
from crewai_prod.demo.findings import examine
from crewai_prod.demo.script import CONFIRMATION, answer
from crewai_prod.journal import open_journal
from tests.openai_script import Body, Fault, Reply, calls, fault
from tests.openai_server import Server

_ROOT = Path(__file__).parents[2]
_CHARGES = [
    {"card": "visa-4242", "item": "tide clock", "amount_usd": 42.0},
    {"card": "visa-4242", "item": "brass barometer", "amount_usd": 78.0},
]


def _demo(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "crewai_prod", "demo", *arguments],
        env={**os.environ, "PYTHONPATH": str(_ROOT), **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


def _reported(*arguments: str, **env: str) -> dict[str, Any]:
    done = _demo("--json", *arguments, **env)
    assert done.returncode == 0, (done.stdout, done.stderr)
    report: dict[str, Any] = json.loads(done.stdout)
    assert all(check["holds"] for check in report["checks"])
    return report


def _say(body: Body) -> Reply:
    """The demonstration's own script, over HTTP."""
    said = answer(body["messages"], body.get("tools") or [])
    if isinstance(said, str):
        return Reply(said)
    return calls([(c["function"]["name"], c["function"]["arguments"]) for c in said])


def _instead(charging: Sequence[Mapping[str, Any]] | None) -> Callable[[Body], Reply]:
    """A model of its own mind: all these charges in one reply, or none at all."""

    def say(body: Body) -> Reply:
        reply = _say(body)
        if not any(call.name == "charge_card" for call in reply.tool_calls):
            return reply
        done = any(m["role"] == "tool" for m in body["messages"])
        if done or not charging:
            return Reply("receipts: see above")
        return calls([("charge_card", charge) for charge in charging])

    return say


def _at(server: Server, *more: str) -> list[str]:
    return ["--model", "openai/gpt-4o-mini", "--base-url", f"{server.url}/v1", *more]


@pytest.mark.parametrize("path", ["native", "text"])
def test_offline(path: str, tmp_path: Path) -> None:
    """Half the run is replayed, half is new, each charge stands in the book once."""
    report = _reported("--path", path, OPENAI_API_KEY="")
    assert set(report) >= {
        *("run_id", "journal", "killed_after", "replayed", "new", "usage", "charges", "output"),
    }
    assert report["killed_after"]["task"] == "charge the card"
    counted = ("tasks", "llm_calls", "tool_calls", "charges")
    assert [report["replayed"][name] for name in counted] == [1, 3, 2, 1]
    assert [report["new"][name] for name in counted] == [2, 3, 1, 1]
    tokens = report["replayed"]["tokens"] + report["new"]["tokens"]
    assert tokens == report["usage"]["total_tokens"] > 0
    assert [c["item"] for c in report["charges"]] == ["tide clock", "brass barometer"]
    assert len({charge["pid"] for charge in report["charges"]}) == 2
    assert report["output"] == CONFIRMATION
    assert Path(report["journal"]).is_relative_to(tmp_path / ".crewai_prod" / "demo")
    assert report["remarks"] == []


def test_for_people_and_the_commands_it_names(tmp_path: Path) -> None:
    """Plain text without a terminal; the commands it suggests work."""
    done = _demo("--folder", str(tmp_path / "here"), "--journal", str(tmp_path / "mine.db"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\nok    ") == 8
    assert "FAIL" not in done.stdout
    assert "\x1b" not in done.stdout
    assert CONFIRMATION in done.stdout
    commands = re.findall(r"^crewai-prod (.*)$", done.stdout, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["show", "logs", "resume"]
    for command in commands:
        again = subprocess.run(
            [sys.executable, "-m", "crewai_prod", *command.split()],
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert again.returncode == 0, again.stderr
    assert again.stdout == CONFIRMATION + "\n"


@pytest.mark.parametrize("path", ["native", "text"])
def test_on_a_real_endpoint(path: str) -> None:
    """CrewAI's own OpenAI provider: the server is asked exactly as often as the journal bills."""
    with Server(_say) as server:
        report = _reported(*_at(server, "--path", path))
        assert len(server.requests) == report["usage"]["llm_calls"] == 6
        assert {record.nth for record in server.requests} == {1}
        assert server.total_usage.total_tokens == report["usage"]["total_tokens"]
        assert all(
            bool(record.body.get("tools")) <= (path == "native") for record in server.requests
        )
    assert len(report["charges"]) == 2
    assert report["new"]["charges"] == 1


def test_a_model_that_charges_otherwise() -> None:
    """Three charges in one reply, one of them twice: carried out as decided, and said so."""
    with Server(_instead([*_CHARGES, _CHARGES[0]])) as server:
        report = _reported(*_at(server))
    assert len(report["charges"]) == 3
    assert report["killed_after"]["charges"] == 3
    assert report["new"]["charges"] == 0
    assert "decided 2 times to charge 'tide clock'" in report["remarks"][0]


def test_a_model_that_never_charges() -> None:
    """Without a charge there is no moment to kill: that is said, and the status is 1."""
    with Server(_instead(None)) as server:
        done = _demo(*_at(server))
    assert done.returncode == 1
    assert "without charging the card" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def _unauthorized(_: Body) -> Fault:
    return fault("unauthorized")


def test_an_endpoint_that_refuses() -> None:
    """The provider's reason is shown in a line."""
    with Server(_unauthorized) as server:
        done = _demo("--json", *_at(server))
    assert done.returncode == 1
    error = json.loads(done.stderr)["error"]
    assert error["type"] == "DemoFailed"
    assert "Incorrect API key" in error["message"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--base-url", "http://127.0.0.1:1/v1"],
        ["--model", "openai/x", "--api-key-env", "NOT_SET"],
        ["--folder", "/proc/nowhere"],
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    """Status 2, at once."""
    done = _demo(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


# -- the claims are checks ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A demonstration that was given."""
    folder = tmp_path_factory.mktemp("demo")
    done = _demo("--json", "--folder", str(folder))
    report = json.loads(done.stdout)
    orders = Orders(
        folder=str(folder),
        journal=report["journal"],
        run_id=report["run_id"],
        hold=False,
        path="native",
    )
    end = Report.read(open_journal(orders.journal, create=False), orders.run_id)
    first = replace(
        end,
        run=replace(end.run, status=_status("interrupted"), epoch=1),
        tasks=tuple(
            task if task.position == 0 else replace(task, status=_task_status("running"))
            for task in end.tasks[:2]
        ),
        steps=tuple(step for step in end.steps if step.epoch == 1),
    )
    return Story(
        orders=orders,
        exit_status=-9,
        at_kill=first,
        end=end,
        output=report["output"],
        tokens=report["usage"]["total_tokens"],
    )


def _status(name: str) -> Any:
    from crewai_prod.records import RunStatus

    return RunStatus(name)


def _task_status(name: str) -> Any:
    from crewai_prod.records import TaskStatus

    return TaskStatus(name)


def test_a_true_story_holds(story: Story) -> None:
    """What the tests below bend is right to begin with."""
    assert examine(story).hold


def _paid_again(story: Story) -> Story:
    step, *others = story.end.steps
    return replace(story, end=replace(story.end, steps=(step._replace(epoch=2), *others)))


def _executed_again(story: Story) -> Story:
    task, *others = story.end.tasks
    tasks = (replace(task, finished_at=1.0), *others)
    return replace(story, end=replace(story.end, tasks=tasks))


_LIES: dict[str, Callable[[Story], Story]] = {
    "survived the kill": lambda s: replace(s, exit_status=0),
    "killed between tasks": lambda s: replace(s, at_kill=replace(s.at_kill, tasks=())),
    "killed before any charge": lambda s: replace(s, at_kill=replace(s.at_kill, steps=())),
    "not finished": lambda s: replace(
        s, end=replace(s.end, run=replace(s.end.run, status=_status("failed")))
    ),
    "a step made again": _paid_again,
    "a task executed again": _executed_again,
    "a call not billed": lambda s: replace(s, end=replace(s.end, steps=s.end.steps[:-1])),
    "other tokens": lambda s: replace(s, tokens=s.tokens + 1),
    "another output": lambda s: replace(s, output="?"),
}


@pytest.mark.parametrize("lie", _LIES)
def test_no_claim_is_made_unchecked(story: Story, lie: str) -> None:
    """Bend one fact, and a claim fails."""
    assert not examine(_LIES[lie](story)).hold


def test_a_charge_made_twice_shows(story: Story, tmp_path: Path) -> None:
    """The bank's book is compared line by line with the decisions of the model."""
    book = (Path(story.orders.folder) / "charges.jsonl").read_text()
    for name in ("model_calls.jsonl",):
        (tmp_path / name).write_text((Path(story.orders.folder) / name).read_text())
    bent = replace(story, orders=replace(story.orders, folder=str(tmp_path)))
    (tmp_path / "charges.jsonl").write_text(book)
    assert examine(bent).hold
    (tmp_path / "charges.jsonl").write_text(book + book.splitlines()[0] + "\n")
    assert not examine(bent).hold
