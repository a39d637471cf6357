"""`run` and `resume`, in this process, with crews loaded from a working directory."""

from __future__ import annotations

import itertools
import json
import os
import re
import resource
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from crewai_prod import open_journal
from crewai_prod.cli._unknown import read_unknown
from crewai_prod.errors import UsageError
from crewai_prod.journal import new_owner
from crewai_prod.records import NewRun
from crewai_prod.session import inputs_digest
from crewai_prod.tooling import Outcome
from tests.cli.conftest import LEASE_SECONDS, Cli
from tests.cli.crew_files import write_crew

_numbers = itertools.count()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module with crews in the working directory; no other test has used it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = write_crew(tmp_path, f"desk_{next(_numbers)}")
    yield name
    sys.modules.pop(name, None)


def _charges(tmp_path: Path) -> int:
    file = tmp_path / "charges.txt"
    return len(file.read_text().split()) if file.exists() else 0


def _json(cli: Cli, *arguments: object, status: int = 0) -> Any:
    return json.loads(cli(*arguments, "--json", status=status).stdout)


@pytest.mark.parametrize(
    "target", ["ready", "make", "hardened", "hardened_function", "Desk", "instance"]
)
def test_every_kind_of_target(cli: Cli, desk: str, target: str) -> None:
    """A crew, a function, a class, an instance, hardened or not: all run durably."""
    done = _json(cli, "run", f"{desk}:{target}", "-i", "who=ann", "--run-id", "r1")
    assert (done["status"], done["output"], done["error"]) == ("completed", "receipt 5", None)
    assert done["usage"]["llm_calls"] == 2
    assert done["resume"] is None


def test_a_flow(cli: Cli, desk: str, tmp_path: Path) -> None:
    """A class of flows runs, fails, is resumed with its inputs, and its crews act once."""
    (tmp_path / "down").touch()
    _json(cli, "run", f"{desk}:DeskFlow", "-i", "who=ann", "--run-id", "r1", status=1)
    (tmp_path / "down").unlink()
    done = _json(cli, "resume", "r1", f"{desk}:DeskFlow")
    assert (done["status"], done["output"]) == ("completed", "receipt 5 for ann")
    assert _charges(tmp_path) == 1
    made = _json(cli, "run", f"{desk}:DeskFlow", "-i", "who=bob")
    assert made["run_id"].startswith("deskflow-")
    assert cli("resume", "r1", f"{desk}:DeskFlow").stdout == "receipt 5 for ann\n"


def test_an_agent(cli: Cli, desk: str, tmp_path: Path) -> None:
    """An agent is asked by `messages`, and nothing else."""
    target = f"{desk}:lone_agent"
    done = _json(cli, "run", target, "-i", "messages=pay the bill", "--run-id", "r1")
    assert (done["status"], done["usage"]["llm_calls"], _charges(tmp_path)) == ("completed", 2, 1)
    again = cli("resume", "r1", target)
    assert "receipt 5" in again.stdout
    assert "`messages`" in cli("run", target, "-i", "who=ann", status=2).stderr
    assert _charges(tmp_path) == 1


def test_the_output_alone_is_on_stdout(cli: Cli, desk: str) -> None:
    """What CrewAI, the tools and the progress print goes to stderr."""
    result = cli("run", f"{desk}:make", "-i", "who=ann", "--run-id", "r1")
    assert result.stdout == "receipt 5\n"
    assert "noise of a tool" in result.stderr
    assert "tool  charge" in result.stderr
    assert "run completed" in result.stderr
    assert "2 model calls, 1 tool call" in result.stderr


def test_json_is_the_only_thing_on_stdout(cli: Cli, desk: str) -> None:
    """`--json` prints one object even if the crew is verbose."""
    result = cli("run", f"{desk}:make", "-i", "who=ann", "--json")
    done = json.loads(result.stdout)
    assert done["run_id"].startswith("desk-")
    assert Path(done["journal"]).exists()
    assert Path(done["log"]).exists()


def test_a_hardened_crew_keeps_its_journal_unless_told_otherwise(
    cli: Cli, desk: str, tmp_path: Path
) -> None:
    """`--journal` moves a hardened crew; without it nothing of its options changes."""
    own = _json(cli, "run", f"{desk}:hardened", "-i", "who=ann")
    assert Path(own["journal"]) == tmp_path / "own.db"
    other = _json(cli, "run", f"{desk}:hardened", "-i", "who=ann", "--journal", "other.db")
    assert Path(other["journal"]) == tmp_path / "other.db"
    shown = _json(cli, "show", other["run_id"], "--journal", "other.db")
    assert shown["steps"][1]["status"] == "done"
    assert not (tmp_path / ".crewai_prod").exists()


def test_a_finished_run_is_not_made_again(cli: Cli, desk: str, tmp_path: Path) -> None:
    """The same run id gives the stored result, and charges nothing."""
    for _ in range(2):
        done = _json(cli, "run", f"{desk}:make", "-i", "who=ann", "--run-id", "r1")
        assert done["output"] == "receipt 5"
    assert _charges(tmp_path) == 1


def test_inputs_of_a_file(cli: Cli, desk: str, tmp_path: Path) -> None:
    """A JSON object gives inputs with their types; -i wins over it."""
    (tmp_path / "in.json").write_text('{"who": "bob", "n": 3}')
    done = _json(cli, "run", f"{desk}:make", "--inputs-file", "in.json", "-i", "who=ann")
    assert _json(cli, "show", done["run_id"])["inputs"] == {"who": "ann", "n": 3}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere:crew"], "ModuleNotFoundError"),
        (["{desk}:nothing"], "has no 'nothing'"),
        (["{desk}"], "not of the form MODULE:CREW"),
        (["{desk}.py:make"], "not as a path"),
        (["{desk}:not_a_crew"], "It must be a Crew"),
        (["{desk}:fails"], "KeyError: 'no such thing'"),
        (["{desk}:make", "-i", "who"], "not of the form key=value"),
        (["{desk}:make", "--inputs-file", "list.json"], "must hold a JSON object"),
        (["{desk}:make", "--inputs-file", "bad.json"], "is not JSON"),
    ],
)
def test_wrong_usage(cli: Cli, desk: str, tmp_path: Path, arguments: list[str], said: str) -> None:
    """Status 2 and one line that says what is wrong; no traceback, no journal."""
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "bad.json").write_text("{")
    result = cli("run", *(one.format(desk=desk) for one in arguments), status=2)
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / ".crewai_prod").exists()


def test_a_wrong_setting_is_wrong_usage(
    cli: Cli, desk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt environment variable's value is named."""
    monkeypatch.setenv("CREWAI_PROD_DURABILITY", "eternal")
    assert "CREWAI_PROD_DURABILITY" in cli("run", f"{desk}:make", "-i", "who=ann", status=2).stderr


def test_a_failed_run_can_be_continued(cli: Cli, desk: str, tmp_path: Path) -> None:
    """The crew's own exception ends in one line, status 1, and the command that continues."""
    (tmp_path / "down").touch()
    result = cli("run", f"{desk}:make", "-i", "who=ann", "--run-id", "r1", status=1)
    assert "Error: RuntimeError: the model is down" in result.stderr
    assert "Traceback" not in result.stderr.partition("Error: RuntimeError")[2]
    command = f"crewai-prod resume r1 {desk}:make --journal {tmp_path}/.crewai_prod/journal.db"
    assert command in result.stderr
    (tmp_path / "down").unlink()
    assert _json(cli, "resume", "r1", f"{desk}:make")["output"] == "receipt 5"


def test_a_failed_run_in_json(cli: Cli, desk: str, tmp_path: Path) -> None:
    """The object says what failed and how to go on."""
    (tmp_path / "down").touch()
    failed = _json(cli, "run", f"{desk}:make", "-i", "who=ann", "--run-id", "r1", status=1)
    assert (failed["status"], failed["output"]) == ("failed", None)
    assert failed["error"]["type"] == "RuntimeError"
    assert failed["resume"].startswith("crewai-prod resume r1 ")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_stopped_run_is_handed_back(cli: Cli, desk: str, as_json: bool) -> None:
    """What is finished, why it stopped, and commands that work as they are printed."""
    asked = ("run", f"{desk}:bounded", "-i", "who=ann", "--run-id", "r1")
    if as_json:
        stopped = _json(cli, *asked, status=3)
        assert stopped["finished"] == [{"task": "count", "agent": "Clerk", "output": "counted"}]
        assert "max_llm_calls is 2" in stopped["error"]["message"]
        return
    said = cli(*asked, status=3).stderr
    assert "Finished: count: counted" in said
    assert "max_llm_calls is 2" in said
    found = dict(re.findall(r"^  (\w+) +crewai-prod (.*)$", said, re.M))
    cli(*shlex.split(found["approve"].replace("NUMBER", "9")))
    assert "receipt 5" in cli(*shlex.split(found["then"])).stdout


def test_the_traceback_of_the_users_code_on_request(cli: Cli, desk: str, tmp_path: Path) -> None:
    """`--traceback` shows where the crew's own code failed."""
    (tmp_path / "down").touch()
    result = cli("run", f"{desk}:make", "-i", "who=ann", "--traceback", status=1)
    assert f'{desk}.py", line' in result.stderr


def test_sigterm_in_a_tool(
    cli: Cli, desk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tool ends and is recorded, nothing comes after it; the object says how to go on."""
    monkeypatch.setenv("CREW_DELAY", "1")  # on a busy machine a signal takes its time
    (tmp_path / "asked to end").touch()
    stopped = _json(cli, "run", f"{desk}:make", "-i", "who=ann", "--run-id", "r1", status=143)
    assert (stopped["status"], stopped["error"]["type"]) == ("interrupted", "RunInterrupted")
    assert stopped["resume"].startswith(f"crewai-prod resume r1 {desk}:make ")
    steps = _json(cli, "show", "r1")["steps"]
    assert ("tool", "done") in [(step["kind"], step["status"]) for step in steps]
    (tmp_path / "asked to end").unlink()
    assert _json(cli, "resume", "r1", f"{desk}:make")["output"] == "receipt 5"
    assert _charges(tmp_path) == 1


def test_sigterm_in_a_process_with_many_open_files(
    cli: Cli, desk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`select` knows no descriptor above 1023."""
    monkeypatch.setenv("CREW_DELAY", "1")
    (tmp_path / "asked to end").touch()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 2048), hard), hard))
    with ExitStack() as held:
        for _ in range(1100):
            held.enter_context(open(os.devnull, "rb"))
        _json(cli, "run", f"{desk}:make", "-i", "who=ann", "--run-id", "r1", status=143)


@pytest.mark.parametrize(
    ("answer", "charges"),
    [("rerun", 2), ("fail", 1), ("paid by hand", 1), ('{"paid by hand": 5}', 1)],
)
def test_an_unknown_outcome_pauses_and_is_settled(
    cli: Cli, desk: str, tmp_path: Path, answer: str, charges: int
) -> None:
    """Status 3 asks a person; `--unknown` says what happened, and only `rerun` acts again."""
    (tmp_path / "broken").touch()
    paused = cli("run", f"{desk}:hardened", "-i", "who=ann", "--run-id", "r1", status=3)
    assert "--unknown RESULT" in paused.stderr
    assert "Paused: Tool 'charge' was started" in paused.stderr
    (tmp_path / "broken").unlink()
    done = _json(cli, "resume", "r1", f"{desk}:hardened", "--unknown", answer)
    assert (done["status"], done["output"]) == ("completed", "receipt 5")
    assert _charges(tmp_path) == charges


def test_a_changed_crew_is_refused_until_said_otherwise(
    cli: Cli, desk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`resume` names the changed task; `--on-change` decides."""
    (tmp_path / "down").touch()
    cli("run", f"{desk}:make", "-i", "who=ann", "--run-id", "r1", status=1)
    (tmp_path / "down").unlink()
    monkeypatch.setenv("CREW_EXTRA", " now")
    refused = cli("resume", "r1", f"{desk}:make", status=1)
    assert "'pay'" in refused.stderr
    assert "--on-change rerun" in refused.stderr
    done = _json(cli, "resume", "r1", f"{desk}:make", "--on-change", "rerun")
    assert done["output"] == "receipt 5"


def test_other_inputs_are_refused(cli: Cli, desk: str) -> None:
    """A run id belongs to its inputs; the way out is named."""
    cli("run", f"{desk}:make", "-i", "who=ann", "--run-id", "r1")
    refused = cli("run", f"{desk}:make", "-i", "who=bob", "--run-id", "r1", status=1)
    assert "other inputs" in refused.stderr
    assert "crewai-prod resume" in refused.stderr


def test_a_run_in_use(cli: Cli, desk: str, tmp_path: Path) -> None:
    """Status 4: somebody else is advancing it."""
    journal = open_journal(tmp_path / "runs.db")
    new = NewRun(
        run_id="r1",
        kind="crew",
        crew="desk",
        inputs="{}",
        inputs_digest=inputs_digest({}),
        versions="{}",
    )
    journal.open_run(new, new_owner(), lease_seconds=LEASE_SECONDS)
    refused = cli("resume", "r1", f"{desk}:make", "--journal", "runs.db", status=4)
    assert "is being advanced by process" in refused.stderr
    journal.close()


def test_resuming_what_is_not_there(cli: Cli, desk: str, tmp_path: Path) -> None:
    """A wrong run id is an error and makes no journal."""
    assert "There is no journal" in cli("resume", "r1", f"{desk}:make", status=1).stderr
    assert not (tmp_path / ".crewai_prod").exists()
    cli("run", f"{desk}:make", "-i", "who=ann", "--run-id", "r1")
    assert "no run of this id" in cli("resume", "r2", f"{desk}:make", status=1).stderr


STEP = "0123456789abcdef"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ([], None),
        (["rerun"], "rerun"),
        (["fail"], "fail"),
        (["R-7"], Outcome.done("R-7")),
        (['{"id": 7}'], Outcome.done({"id": 7})),
        (["a=b"], Outcome.done("a=b")),
        ([f"{STEP}=rerun"], {STEP: Outcome.not_done()}),
        (
            [f"{STEP}=fail", f"{STEP[::-1]}=x=1"],
            {STEP: Outcome.failed(), STEP[::-1]: Outcome.done("x=1")},
        ),
    ],
)
def test_what_unknown_means(said: list[str], meant: object) -> None:
    """A word, a result as text or JSON, or one of these for each step."""
    assert read_unknown(said) == meant


@pytest.mark.parametrize("said", [["rerun", "fail"], ["x", f"{STEP}=rerun"]])
def test_contradicting_answers_are_refused(said: list[str]) -> None:
    """An answer for all and another one beside it cannot both be meant."""
    with pytest.raises(UsageError):
        read_unknown(said)
