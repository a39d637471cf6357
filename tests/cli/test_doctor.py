"""`doctor` finds what would go wrong, and says what to do about it."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from crewai_prod.cli import _checks
from tests.cli.conftest import Book, Cli
from tests.cli.crew_files import write_crew

_ROOT = Path(__file__).parents[2]
_numbers = itertools.count()


def _checked(cli: Cli, *arguments: object, status: int = 0) -> dict[str, Any]:
    report = json.loads(cli("doctor", *arguments, "--json", status=status).stdout)
    assert report["ok"] is (status == 0)
    checks = {check["name"]: check for check in report["checks"]}
    assert all(check["fix"] for check in checks.values() if check["status"] != "ok")
    return checks


def test_all_is_well(cli: Cli, tmp_path: Path) -> None:
    """Nothing fails here, and nothing is left behind."""
    checks = _checked(cli)
    assert {check["status"] for check in checks.values()} == {"ok"}
    assert list(tmp_path.iterdir()) == []
    assert "Ready." in cli("doctor").stdout


def test_an_existing_journal_is_tried_and_not_changed(cli: Cli, resumed: Book) -> None:
    """It is read and locked; its contents are as before."""
    resumed.journal.close()
    before = resumed.path.read_bytes()
    assert _checked(cli, "--journal", resumed.path)["journal"]["status"] == "ok"
    assert resumed.path.read_bytes() == before


def test_a_file_that_is_no_journal(cli: Cli, tmp_path: Path) -> None:
    """A damaged file fails with the package's own words."""
    (tmp_path / "x.db").write_bytes(b"hello" * 1000)
    assert _checked(cli, "--journal", "x.db", status=1)["journal"]["status"] == "fail"


def test_a_folder_that_cannot_be_written_to(cli: Cli) -> None:
    """A journal that could not be made is found before a run."""
    checks = _checked(cli, "--journal", "/proc/nowhere/x.db", status=1)
    assert checks["journal folder"]["status"] == "fail"


def test_an_unwritable_home(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """`import crewai` would crash, so it is a failure here."""
    monkeypatch.setenv("HOME", "/proc")
    assert "set HOME" in _checked(cli, status=1)["home"]["fix"]


def test_telemetry_is_remarked_upon(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its SIGTERM handler ends a process with 0: a warning, not a failure."""
    for name in ("CREWAI_DISABLE_TELEMETRY", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name)
    assert _checked(cli)["telemetry"]["status"] == "warn"


def test_a_full_disk(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little space is a warning, none a failure."""
    usage = type(shutil.disk_usage("/"))
    for free, found, status in ((10**8, "warn", 0), (10**6, "fail", 1)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, f=free: usage(1, 1, f))
        assert _checked(cli, status=status)["disk"]["status"] == found


@pytest.mark.parametrize(
    ("found", "status"),
    [("1.14.9", "fail"), ("1.15.0", "ok"), ("1.15.30", "ok"), ("2.0.0a1", "warn")],
)
def test_versions_of_crewai(monkeypatch: pytest.MonkeyPatch, found: str, status: str) -> None:
    """Too old fails, newer than tested warns."""
    monkeypatch.setattr(_checks, "version", lambda _: found)
    assert _checks._crewai().status == status


def test_the_ranges_are_those_of_the_package() -> None:
    """pyproject.toml and the doctor agree."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    low, high = (".".join(map(str, bound)) for bound in _checks.PYTHON)
    assert project["requires-python"] == f">={low},<{high}"
    floor = next(d for d in project["dependencies"] if d.startswith("crewai>="))
    assert _checks.numbers(floor.removeprefix("crewai>="))[:2] == _checks.CREWAI[0]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with crews."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    return write_crew(tmp_path, f"doctored_{next(_numbers)}")


def test_a_crew_and_the_seams(cli: Cli, desk: str) -> None:
    """Undeclared tools are listed; every seam is proved."""
    report = json.loads(cli("doctor", f"{desk}:make", "--json").stdout)
    checks = {check["name"]: check for check in report["checks"]}
    assert "charge" in checks["tools"]["detail"]
    assert checks["tools"]["status"] == "warn"
    seams = {name: check["status"] for name, check in checks.items() if name.startswith("seam, ")}
    assert seams["seam, text tool call under akickoff"] == "ok"
    assert len(seams) > 20
    assert set(seams.values()) == {"ok"}
    assert report["crew"]["tools"] == [{"name": "charge", "effect": "write", "declared": False}]
    assert report["crew"]["models"] == ["scripted"]
    declared = json.loads(cli("doctor", f"{desk}:hardened", "--json").stdout)
    assert declared["crew"]["tools"] == [{"name": "charge", "effect": "write", "declared": True}]


def test_a_flow_and_an_agent(cli: Cli, desk: str) -> None:
    """What is known of them before they run."""
    flow = json.loads(cli("doctor", f"{desk}:DeskFlow", "--json").stdout)["crew"]
    assert (flow["name"], flow["process"]) == ("DeskFlow", "flow")
    assert [task["name"] for task in flow["tasks"]] == ["pay", "tell"]
    agent = json.loads(cli("doctor", f"{desk}:lone_agent", "--json").stdout)["crew"]
    assert (agent["name"], agent["process"]) == ("Cashier", "agent")
    assert (agent["models"], [tool["name"] for tool in agent["tools"]]) == (
        ["scripted"],
        ["charge"],
    )


def test_a_crew_that_cannot_be_loaded(cli: Cli, desk: str) -> None:
    """The rest of the report is still there."""
    checks = _checked(cli, f"{desk}:fails", status=1)
    assert "KeyError" in checks["crew"]["detail"]
    assert checks["python"]["status"] == "ok"


def test_seams_that_do_not_take_hold(cli: Cli, desk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release of crewai whose calls get past the journal is found out."""
    from crewai_prod._crewai import tools

    monkeypatch.setattr(tools.ToolBench, "take", lambda self, given: given)
    checks = _checked(cli, f"{desk}:make", status=1)
    found = checks["seam, native tool call under kickoff"]
    assert "tool calls the journal holds: 0" in found["detail"]
    assert "On this release" in found["fix"]
    assert checks["seam, model call under kickoff"]["status"] == "ok"


def test_seams_without_a_crew(cli: Cli) -> None:
    """Installing is enough: no crew has to be named."""
    report = json.loads(cli("doctor", "--seams", "--json").stdout)
    assert report["crew"] is None
    names = [check["name"] for check in report["checks"]]
    assert "seam, delegation" in names
    assert names.index("python") < names.index("seam, delegation")


def test_a_journal_that_is_no_file(cli: Cli) -> None:
    """What cannot be opened is said, not taken for a path."""
    checks = _checked(cli, "--journal", "postgresql://host/db", status=1)
    assert "PostgreSQL" in checks["journal"]["detail"]


@pytest.mark.parametrize(("ok", "status"), [(True, 0), (False, 1)])
def test_crash_test_is_handed_over(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, ok: bool, status: int
) -> None:
    """Options reach the crash test, its report and verdict come back."""
    asked: dict[str, Any] = {}

    class Report:
        def __init__(self) -> None:
            self.ok = ok

        def to_dict(self) -> dict[str, Any]:
            return {"ok": ok}

        def render(self) -> str:
            return "3 kills"

    def run_crash_test(target: str, **options: Any) -> Report:
        asked.update(options, target=target)
        return Report()

    monkeypatch.setattr("crewai_prod.crashtest.run_crash_test", run_crash_test)
    options = ("doctor", "a:b", "--crash-test", "-i", "x=1", "--points", 0)
    assert json.loads(cli(*options, "--json", status=status).stdout) == {"ok": ok}
    assert cli(*options, status=status).stdout == "3 kills\n"
    assert (asked["target"], asked["inputs"], asked["points"]) == ("a:b", {"x": "1"}, None)


def test_crash_test_needs_a_crew(cli: Cli) -> None:
    """There is nothing to kill without one."""
    assert "needs a MODULE:CREW" in cli("doctor", "--crash-test", status=2).stderr
