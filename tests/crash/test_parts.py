"""The harness's own parts: plans, evidence, answers, reports, and the processes behind them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from crewai_prod.crashtest.check import Violation
from crewai_prod.crashtest.evidence import FileRequests, read_effects, read_journal, read_lines
from crewai_prod.crashtest.plans import AtBoundary, AtRandom, EverySession, Kill, SoFar, spread
from crewai_prod.crashtest.report import Report, ShapeReport
from crewai_prod.crashtest.sessions import Session
from crewai_prod.crashtest.trial import truth
from crewai_prod.crashtest.zygote import Zygote
from crewai_prod.errors import CrewProdError, UsageError
from tests.openai_server import ROOT

_SHAPE = ShapeReport(
    name="shop:crew",
    mode="boundary",
    boundaries=58,
    trials=2,
    kills=2,
    resumes=3,
    pauses=1,
    lost_answers=1,
    cut_requests=0,
    repeated_requests=0,
    repeated_effects=0,
    output_equal=True,
    exceptions=0,
    seconds=1.5,
)


def test_spread_covers_both_ends() -> None:
    """A slice of the boundaries is even, and holds the first and the last."""
    assert spread(58, 8) == [1, 9, 17, 25, 34, 42, 50, 58]
    assert spread(5, None) == spread(5, 9) == [1, 2, 3, 4, 5]
    assert spread(58, 1) == [29]
    assert spread(58, 0) == []


def test_one_boundary_is_killed_once() -> None:
    """Counted over all sessions; after it the run is left in peace."""
    plan = AtBoundary(7)
    assert [plan.next(SoFar(points=n)) for n in (0, 5, 7)] == [Kill(point=7), Kill(point=2), None]


def test_every_session_goes_further_only_when_it_must() -> None:
    """The kill moves on by one boundary until something was gained, then starts anew."""
    plan = EverySession()
    so_far = [SoFar(progress=progress) for progress in (0, 0, 0, 2, 1, 3)]
    so_far += [SoFar(progress=4, opens=False), SoFar(progress=4)]
    points = [kill.point for kill in map(plan.next, so_far) if kill]
    assert points == [3, 4, 5, 3, 4, 3, 1, 2]


def test_random_moments_are_named_by_their_seed() -> None:
    """The same seed gives the same moments, another one others."""

    def moments(seed: str) -> list[Kill | None]:
        plan = AtRandom(seed, 2.0)
        found, seconds = [], 0.0
        for _ in range(6):
            found.append(plan.next(SoFar(seconds=seconds)))
            seconds += (found[-1].seconds or 0.0) if found[-1] else 0.0
        return found

    assert moments("1") == moments("1") != moments("2")
    assert moments("1")[-1] is None


def test_a_line_that_a_kill_cut_short_is_none(tmp_path: Path) -> None:
    """Only whole lines count."""
    file = tmp_path / "lines"
    file.write_text('{"a": 1}\n{"a": 2}\n{"a"', encoding="utf-8")
    assert read_lines(file) == [{"a": 1}, {"a": 2}]
    assert read_lines(tmp_path / "missing") == []


def test_requests_are_counted_from_their_file(tmp_path: Path) -> None:
    """A request that was not answered is told from one that was."""
    requests = FileRequests()
    (file,) = requests.begin(tmp_path).values()
    lines = [
        {"call": "1", "digest": "a", "tokens": 0, "answered": False},
        {"call": "1", "digest": "a", "tokens": 9, "answered": True},
        {"call": "2", "digest": "b", "tokens": 0, "answered": False},
    ]
    Path(file).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert [(s.digest, s.answered, s.tokens) for s in requests.sent()] == [
        ("a", True, 9),
        ("b", False, 0),
    ]


def test_the_truth_about_an_open_step(tmp_path: Path) -> None:
    """It happened with this result, it did not happen, or nobody can tell: then it failed."""
    file = tmp_path / "effects"
    lines = [
        {"call": "1", "step": "s1", "tool": "pay", "arguments": {}, "complete": False},
        {"call": "1", "step": "s1", "tool": "pay", "arguments": {}, "result": "paid"},
        {"call": "2", "step": "s2", "tool": "pay", "arguments": {}, "complete": False},
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    effects = read_effects(file)
    assert len(effects) == 2
    assert truth("s1", effects) == {"kind": "done", "result": "paid"}
    assert truth("s2", effects) == {"kind": "failed"}
    assert truth("s3", effects) == {"kind": "not_done"}


def test_a_journal_that_is_not_there_yet(tmp_path: Path) -> None:
    """A session killed before it made the journal leaves nothing recorded."""
    assert read_journal(tmp_path / "runs.db", "crash").epoch == 0


def test_a_report_says_what_was_broken() -> None:
    """Text and JSON hold the counts, the violations and the verdict."""
    report = Report(shapes=(_SHAPE,), notes=("memory was left out.",))
    assert report.ok
    assert report.render().endswith("2 kills, no promise broken.")
    assert "Note: memory was left out." in report.render()
    broken = ShapeReport(
        **{
            **{name: getattr(_SHAPE, name) for name in ShapeReport.__dataclass_fields__},
            "violations": (("killed at boundary 3", Violation("pause", "why")),) * 12,
        }
    )
    report = Report(shapes=(broken,))
    told = report.to_dict()
    assert told["ok"] is False
    assert told["shapes"][0]["violations"][0] == {
        "trial": "killed at boundary 3",
        "kind": "pause",
        "what": "why",
    }
    assert json.loads(json.dumps(told)) == told
    assert "2 more violations" in report.render()
    assert "12 promises BROKEN" in report.render()


def _gone(pid: int) -> bool:
    pause = threading.Event()
    for _ in range(500):
        try:
            state = (
                Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            )
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        pause.wait(0.02)
    return False


_OWNER = """
import sys
from crewai_prod.crashtest.sessions import Session
from crewai_prod.crashtest.zygote import Zygote
with Zygote() as zygote:
    target = "tests.crash.broken:waits_for_ever"
    child = zygote.start(Session(target=target, folder=sys.argv[1], journal=""))
    child.wait_for("forked", seconds=60)
    print(zygote.pid, child.pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_process_outlives_the_harness(tmp_path: Path) -> None:
    """When the harness is killed -9, the fork server ends and takes its children along."""
    command = [sys.executable, "-c", _OWNER, str(tmp_path / "session")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as owner:  # type: ignore[call-overload]
        server, child = map(int, owner.stdout.readline().split())
        owner.kill()
    assert _gone(child)
    assert _gone(server)


@pytest.mark.skipif(sys.platform != "linux", reason="children die with the server on Linux only")
def test_children_die_with_the_fork_server(tmp_path: Path) -> None:
    """When the fork server is killed -9, its children die and whoever waits is told."""
    with Zygote(cwd=ROOT) as zygote:
        session = Session(
            target="tests.crash.broken:waits_for_ever",
            folder=str(tmp_path / "session"),
            journal=str(tmp_path / "runs.db"),
        )
        child = zygote.start(session)
        child.wait_for("forked", seconds=60)
        os.kill(zygote.pid, signal.SIGKILL)
        with pytest.raises(CrewProdError, match="ended unexpectedly"):
            child.wait_for(seconds=60)
        assert _gone(child.pid)
        with pytest.raises(CrewProdError, match="ended unexpectedly"):
            zygote.start(session)


def test_a_module_that_starts_threads_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork would lose its threads, so the server refuses; also a module that is missing."""
    code = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
    (tmp_path / "threaded.py").write_text(code, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path}")
    for module, why in (("threaded", "starts threads"), ("missing", "No module named 'missing'")):
        with pytest.raises(UsageError, match=why), Zygote((module,)):
            pass
