"""The log file: many writers, rotation, and reading back."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from crewai_prod.logfile import SUFFIX, RotatingFile, beside, read_log

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="files are not rotated there")

WRITER = """
import sys
from pathlib import Path
from crewai_prod.logfile import RotatingFile
path, name, count, size, files = sys.argv[1:]
log = RotatingFile(Path(path), max_bytes=int(size), files=int(files))
print("ready", flush=True)
sys.stdin.readline()
for n in range(int(count)):
    line = '{"ts":"t","event":"e","run_id":"%s","n":%d,"pad":"%s"}' % (name, n, "x" * (n % 90))
    log.write(line.encode() + b"\\n")
"""


def _line(n: int, run_id: str = "r", **more: Any) -> bytes:
    return json.dumps({"ts": "t", "event": "e", "run_id": run_id, "n": n, **more}).encode() + b"\n"


def _numbers(path: Path, run_id: str | None = None) -> list[int]:
    return [line["n"] for line in read_log(path, run_id)]


def _run_writers(path: Path, writers: int, count: int, size: int, files: int) -> None:
    """Let processes append at the same time, from a common start."""
    root = Path(__file__).parents[2]
    commands = [
        [sys.executable, "-c", WRITER, str(path), f"w{i}", str(count), str(size), str(files)]
        for i in range(writers)
    ]
    processes = [
        subprocess.Popen(
            command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for command in commands
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0


def test_processes_append_and_rotate_without_losing_a_line(tmp_path: Path) -> None:
    """Four processes share one small file: each line is there once, each writer's in order."""
    path = tmp_path / "log.jsonl"
    _run_writers(path, writers=4, count=2000, size=20_000, files=1000)
    lines = list(read_log(path))
    assert len(list(tmp_path.iterdir())) > 15
    assert Counter(line["run_id"] for line in lines) == {f"w{i}": 2000 for i in range(4)}
    for i in range(4):
        assert [line["n"] for line in lines if line["run_id"] == f"w{i}"] == list(range(2000))


def test_several_processes_keep_to_the_number_of_files(tmp_path: Path) -> None:
    """Only the oldest lines go, and what remains of a writer has no gap."""
    path = tmp_path / "log.jsonl"
    _run_writers(path, writers=3, count=1500, size=20_000, files=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl", "log.jsonl.1", "log.jsonl.2"]
    remaining = [_numbers(path, f"w{i}") for i in range(3)]
    assert sum(map(len, remaining)) > 300
    for numbers in remaining:
        assert numbers == list(range(1500))[1500 - len(numbers) :]


def test_size_and_number_of_files_are_bounded(tmp_path: Path) -> None:
    """A file exceeds its size by one line at most, and the oldest file is deleted."""
    path = tmp_path / "log.jsonl"
    log = RotatingFile(path, max_bytes=1000, files=3)
    for n in range(200):
        log.write(_line(n))
    sizes = {p.name: p.stat().st_size for p in tmp_path.iterdir()}
    assert sizes.keys() == {"log.jsonl", "log.jsonl.1", "log.jsonl.2"}
    assert max(sizes.values()) < 1000 + len(_line(199))
    numbers = _numbers(path)
    assert numbers == list(range(numbers[0], 200))


def test_new_files_and_folders_are_private(tmp_path: Path) -> None:
    """Live and rotated files have mode 0600, a folder made for them 0700."""
    path = tmp_path / "made" / "log.jsonl"
    log = RotatingFile(path, max_bytes=100)
    assert not path.parent.exists()
    for n in range(20):
        log.write(_line(n))
    files = list(path.parent.iterdir())
    assert len(files) == 5
    assert {stat.S_IMODE(p.stat().st_mode) for p in files} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_zero_means_no_rotation(tmp_path: Path) -> None:
    """With `max_bytes=0` there is one file, however long."""
    log = RotatingFile(tmp_path / "log.jsonl", max_bytes=0)
    for n in range(100):
        log.write(_line(n))
    assert [p.name for p in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_file_taken_away_is_made_again(tmp_path: Path) -> None:
    """One that was deleted is missed before the next line, one that was moved at the next look."""
    path = tmp_path / "log.jsonl"
    log = RotatingFile(path)
    log.write(_line(0))
    path.unlink()
    log.write(_line(1))
    path.rename(tmp_path / "elsewhere")
    log.write(_line(2))
    assert _numbers(path) == [2]
    assert _numbers(tmp_path / "elsewhere") == [1]


def test_a_file_moved_away_is_left_in_a_moment(tmp_path: Path) -> None:
    """Lines of the moment until then are in the file that was moved: none is lost."""
    path, moved = tmp_path / "a.log.jsonl", tmp_path / "moved"
    log = RotatingFile(path)
    log.write(_line(1))
    path.rename(moved)
    number, deadline = 1, time.monotonic() + 5
    while not path.exists() and time.monotonic() < deadline:
        number += 1
        log.write(_line(number))
    assert _numbers(moved) + _numbers(path) == list(range(1, number + 1))
    assert _numbers(path) == [number]


def test_a_strangers_file_is_never_written_to(tmp_path: Path) -> None:
    """A descriptor closed behind our back and reused, say by a database, is left alone."""
    path, other = tmp_path / "log.jsonl", tmp_path / "database"
    log = RotatingFile(path)
    log.write(_line(0))
    assert log._fd is not None
    number = log._fd
    os.close(number)
    stranger = os.open(other, os.O_CREAT | os.O_RDWR)
    assert stranger == number
    log.write(_line(1))
    assert os.fstat(stranger).st_size == 0
    os.close(stranger)
    assert _numbers(path) == [0, 1]


def test_a_forked_child_writes_to_the_same_log(tmp_path: Path) -> None:
    """After a fork both sides append and rotate without losing a line."""
    path = tmp_path / "log.jsonl"
    log = RotatingFile(path, max_bytes=2000, files=1000)
    log.write(_line(0, "before"))
    child = os.fork()
    for n in range(500):
        log.write(_line(n, "parent" if child else "child"))
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    for name in ("parent", "child"):
        assert _numbers(path, name) == list(range(500))


def test_a_rotation_that_fails_loses_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    """Where a file cannot be renamed it grows on."""
    path = tmp_path / "log.jsonl"
    log = RotatingFile(path, max_bytes=100)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "replace", refuse)
    for n in range(50):
        log.write(_line(n))
    assert _numbers(path) == list(range(50))


def test_after_half_a_line_a_new_one_begins(tmp_path: Path) -> None:
    """What a power cut left at the end costs no line that comes after it."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(_line(0) + b'{"ts":"t","ev')
    RotatingFile(path).write(_line(1))
    assert _numbers(path) == [0, 1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    """A line that could not be written raises, and the next call starts afresh."""
    path = tmp_path / "log.jsonl"
    path.symlink_to("/dev/full")
    log = RotatingFile(path)
    with pytest.raises(OSError, match="No space left"):
        log.write(_line(0))
    path.unlink()
    log.write(_line(1))
    assert _numbers(path) == [1]


# -- reading --------------------------------------------------------------------------------------


def test_reading_passes_over_what_is_no_line(tmp_path: Path) -> None:
    """Foreign text, other JSON, half and empty lines are skipped, and a glued line is found."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(
        b"Traceback (most recent call last):\n\n[1]\n7\n"
        + b'{"other":"json"}\n\xff\xfe\n'
        + _line(0)
        + b'{"ts":"t","event":"half'
        + _line(1).replace(b'{"ts": ', b'{"ts":')
        + _line(2)
        + b'{"ts":"t","event":"e","n":3'
    )
    assert _numbers(path) == [0, 1, 2]


def test_a_whole_last_line_needs_no_newline(tmp_path: Path) -> None:
    """A file that was copied without its last byte is read to the end."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(_line(0) + _line(1)[:-1])
    assert _numbers(path) == [0, 1]


@pytest.mark.parametrize("run_id", ["plain-1", "with space", 'quo"te', "ünï", "a\x9bb", "r*"])
def test_one_run_can_be_chosen(tmp_path: Path, run_id: str) -> None:
    """Only lines of the run are given, whatever its id looks like; mentions of it do not count."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(_line(0, run_id) + _line(1, "r", note=run_id) + _line(2, run_id))
    assert _numbers(path, run_id) == [0, 2]


def test_a_missing_log_is_empty(tmp_path: Path) -> None:
    """A run that was never logged has no lines."""
    assert list(read_log(tmp_path / "no" / "log.jsonl")) == []


def test_rotated_files_come_first_and_by_number(tmp_path: Path) -> None:
    """Files are read oldest first: .10 before .2 before the live one; other names are not read."""
    for number, name in enumerate(["log.jsonl.10", "log.jsonl.2", "log.jsonl.1", "log.jsonl"]):
        (tmp_path / name).write_bytes(_line(number))
    (tmp_path / "log.jsonl.bak").write_bytes(_line(99))
    assert _numbers(tmp_path / "log.jsonl") == [0, 1, 2, 3]


def test_following_gives_lines_as_they_come_across_rotations(tmp_path: Path) -> None:
    """A follower misses no line of a log that begins late and is rotated under it."""
    path = tmp_path / "log.jsonl"

    def write() -> None:
        time.sleep(0.05)
        log = RotatingFile(path, max_bytes=2000, files=100)
        for n in range(400):
            log.write(_line(n))
            if n % 100 == 50:
                time.sleep(0.05)

    writer = threading.Thread(target=write)
    writer.start()
    lines = read_log(path, "r", follow=True, poll=0.01)
    assert [line["n"] for line in islice(lines, 400)] == list(range(400))
    writer.join()


def test_following_waits_for_the_rest_of_a_line(tmp_path: Path) -> None:
    """Half a line is given once it is whole, and an emptied file is read from its start."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(_line(0) + _line(1)[:10])
    lines = read_log(path, follow=True, poll=0.01)
    assert next(lines)["n"] == 0
    with path.open("ab") as file:
        file.write(_line(1)[10:])
    assert next(lines)["n"] == 1
    path.write_bytes(_line(2))
    assert next(lines)["n"] == 2
    lines.close()  # type: ignore[attr-defined]


def test_default_name() -> None:
    """The log lies beside the journal under the journal's whole name."""
    assert beside(Path("a/runs.db")) == Path("a/runs.db" + SUFFIX)


def test_reading_needs_no_structlog() -> None:
    """`crewai-prod logs` starts fast: neither structlog nor logging's relatives are imported."""
    code = "import sys, crewai_prod.logfile; sys.exit('structlog' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
