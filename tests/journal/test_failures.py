"""What really goes wrong with files and disks, and what the journal makes of it.

Root may do anything to a file with 0000, so refusals are made with read-only and tiny mounts, in a
mount namespace of a child process; where mounting is not allowed these tests say so.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import textwrap
import time
from functools import cache
from pathlib import Path

import pytest

from crewai_prod.errors import Corrupt, JournalError, JournalUnavailable, SchemaTooNew, UsageError
from crewai_prod.journal import SqliteJournal, open_journal
from crewai_prod.journal._files import _LOOK_SECONDS
from crewai_prod.records import RunStatus
from tests.journal.support import (
    child,
    dump,
    finished,
    message,
    model_step,
    new_run,
    rows,
    step,
    take,
)


@cache
def _may_mount() -> bool:
    """Whether a child may mount in a namespace of its own."""
    probe = ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=64k none /mnt"]
    return (
        shutil.which("unshare") is not None
        and not subprocess.run(probe, capture_output=True, check=False).returncode
    )


needs_mount = pytest.mark.skipif(
    not _may_mount(), reason="making a full or read-only disk needs the right to mount"
)


def in_mount(mount: str, program: str, *arguments: str) -> str:
    """Run a Python program in a mount namespace in which `mount` was done."""
    enter = f"""
    import ctypes, subprocess
    ctypes.CDLL(None).unshare(0x20000)  # CLONE_NEWNS; os.unshare is there from Python 3.12
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run({mount.split()!r}, check=True)
    """
    process = child(textwrap.dedent(enter) + textwrap.dedent(program), *arguments)
    return finished(process)


@needs_mount
def test_a_full_disk_stops_the_write_and_leaves_the_journal_usable(tmp_path: Path) -> None:
    """On a disk of 600 kB: a documented error, whole steps only; after a deletion it goes on."""
    program = """
    import sqlite3
    folder = sys.argv[1]
    with open(folder + "/ballast", "wb") as file:
        file.write(b"x" * 200_000)
    path = folder + "/runs.db"
    journal = open_journal(path)
    lease = take(journal)
    written = 0
    try:
        for number in range(1, 1000):
            node = f"m{number}"
            big = message(node, body='"' + "b" * 3000 + '"')
            record = model_step(number, result='"' + "r" * 3000 + '"')
            journal.finish_step(lease, record, messages=[big])
            written = number
    except JournalUnavailable as error:
        assert path in str(error) and "full" in str(error), error
        assert isinstance(error.__cause__, sqlite3.OperationalError)
        assert error.fields["path"] == path
        assert error.retryable
    assert 0 < written < 999
    try:
        journal.finish_run(lease, RunStatus.FAILED, error='"' + "e" * 300_000 + '"')
    except JournalUnavailable:
        pass
    else:
        raise SystemExit("a disk that is full took 300 kB")
    assert len(journal.steps("r")) == written
    os.unlink(folder + "/ballast")
    lease = take(journal)
    assert lease.epoch == 2
    journal.finish_step(lease, model_step(2000))
    assert len(journal.steps("r")) == written + 1
    journal.finish_run(lease, RunStatus.COMPLETED)
    assert rows(path, "SELECT count(*) FROM messages") == [(written,)]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    print("fine")
    """
    assert (
        in_mount(f"mount -t tmpfs -o size=600k none {tmp_path}", program, str(tmp_path)) == "fine"
    )


@needs_mount
def test_a_full_disk_in_a_group_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Eight threads fill a disk: what returned is stored with its message, what raised is not."""
    program = """
    path = sys.argv[1] + "/runs.db"
    journal = open_journal(path)
    lease = take(journal)
    done, failed = [], []
    def write(first):
        for number in range(first, first + 100):
            big = message(f"m{number}", body='"' + "b" * 1000 + '"')
            try:
                journal.finish_step(lease, model_step(number), messages=[big])
                done.append(number)
            except JournalUnavailable:
                failed.append(number)
    threads = [threading.Thread(target=write, args=(index * 1000,)) for index in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert done and failed and len(done) + len(failed) == 800
    assert sorted(s for (s,) in rows(path, "SELECT seq FROM steps")) == sorted(done)
    assert rows(path, "SELECT count(*) FROM messages") == [(len(done),)]
    print("fine")
    """
    assert (
        in_mount(f"mount -t tmpfs -o size=600k none {tmp_path}", program, str(tmp_path)) == "fine"
    )


@needs_mount
def test_a_read_only_folder_can_be_read_and_not_written(tmp_path: Path) -> None:
    """A closed journal on a read-only disk: every reader works, every writer is refused."""
    path = tmp_path / "runs.db"
    journal = open_journal(path)
    lease = take(journal)
    journal.finish_step(lease, model_step(), messages=[message()])
    journal.finish_run(lease, RunStatus.FAILED)
    journal.close()
    program = """
    path = sys.argv[1] + "/runs.db"
    journal = open_journal(path, create=False)
    assert [s.run_id for s in journal.runs()] == ["r"]
    assert journal.run("r").status is RunStatus.FAILED
    assert len(journal.steps("r")) == 1
    for attempt in (lambda: take(journal), lambda: open_journal(path),
                    lambda: open_journal(sys.argv[1] + "/new/other.db")):
        try:
            attempt()
        except JournalUnavailable as error:
            assert sys.argv[1] in str(error) and error.__cause__ is not None, error
        else:
            raise SystemExit("written to a read-only disk")
    print("fine")
    """
    before = dump(path)
    mount = f"mount --bind -o ro {tmp_path} {tmp_path}"
    assert in_mount(mount, program, str(tmp_path)) == "fine"
    assert dump(path) == before


@needs_mount
def test_a_disk_that_turns_read_only_stops_the_run_until_it_is_mended(tmp_path: Path) -> None:
    """Remounted read-only in mid-run: a documented error; writable again: the journal goes on."""
    program = """
    import subprocess
    folder = sys.argv[1]
    journal = open_journal(folder + "/runs.db")
    lease = take(journal)
    journal.finish_step(lease, step(1))
    journal.release()
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    try:
        journal.finish_step(lease, step(2))
    except JournalUnavailable as error:
        print(error.fields["path"] == folder + "/runs.db")
    subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
    journal.finish_step(lease, step(2))
    print(len(journal.steps("r")))
    """
    out = in_mount(f"mount -t tmpfs -o size=2m none {tmp_path}", program, str(tmp_path))
    assert out.split() == ["True", "2"]


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    """A text file is `Corrupt`, for readers and writers, and stays as it is."""
    text = "no database, but long enough to look at: " * 50
    path.write_text(text)
    for create in (True, False):
        with pytest.raises(Corrupt) as caught:
            open_journal(path, create=create)
        assert str(path) in str(caught.value)
        assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)
    assert path.read_text() == text


def test_a_database_of_something_else_is_refused(path: Path) -> None:
    """Another program's SQLite file is `Corrupt`: no table is added, its mode is not changed."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    for create in (True, False):
        with pytest.raises(Corrupt, match="some other database"):
            open_journal(path, create=create)
    assert path.read_bytes() == before


def test_a_damaged_file_is_named_as_such(path: Path) -> None:
    """Pages overwritten behind SQLite's back: `Corrupt` with the path when they are met."""
    journal = open_journal(path)
    lease = take(journal)
    for number in range(200):
        journal.finish_step(lease, step(number))
    journal.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    with pytest.raises(Corrupt) as caught:
        open_journal(path).steps("r")
    assert str(path) in str(caught.value)
    assert caught.value.__cause__ is not None
    with pytest.raises(Corrupt):
        open_journal(path).open_run(new_run(), lease.owner, lease_seconds=9)


def test_a_log_cut_in_its_last_commit_gives_what_was_whole(path: Path) -> None:
    """A torn write at a crash: the commits before it are read, the torn one is not."""
    journal = open_journal(path, durability="process")
    lease = take(journal)
    for number in range(5):
        journal.finish_step(lease, step(number))
    wal = Path(f"{path}-wal").read_bytes()
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    Path(f"{copy}-wal").write_bytes(wal[:-1000])
    assert len(open_journal(copy).steps("r")) == 4


def test_a_newer_schema_is_refused_untouched(path: Path) -> None:
    """A file of a newer version: `SchemaTooNew` for readers and writers, not one byte changed."""
    open_journal(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    before = path.read_bytes()
    for create in (True, False):
        with pytest.raises(SchemaTooNew, match="Upgrade") as caught:
            open_journal(path, create=create)
        assert caught.value.fields["version"] == 999
    assert path.read_bytes() == before


def test_a_lock_that_stays_is_an_error_in_time(path: Path) -> None:
    """Another program in a transaction: refused after the busy timeout, fine when it has ended."""
    journal = open_journal(path, busy_seconds=0.2)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalUnavailable, match="another process holds the lock") as caught:
        take(journal)
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    holder.execute("COMMIT")
    journal.finish_step(take(journal), step())


def test_a_missing_journal_is_not_made_by_a_reader(path: Path) -> None:
    """`create=False` on nothing: the error names the path, and no file appears."""
    with pytest.raises(JournalUnavailable, match=f"no journal at {path}"):
        open_journal(path, create=False)
    assert not path.exists()


@pytest.mark.parametrize("obstacle", ["file in place of a folder", "folder in place of the file"])
def test_a_place_that_cannot_be_made_is_named(tmp_path: Path, obstacle: str) -> None:
    """What the operating system refuses is a documented error with the path and the cause."""
    if obstacle.startswith("file"):
        (tmp_path / "blocked").write_text("")
        path = tmp_path / "blocked" / "runs.db"
    else:
        path = tmp_path / "runs.db"
        path.mkdir()
    with pytest.raises(JournalUnavailable) as caught:
        open_journal(path)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value.__cause__, (OSError, sqlite3.Error))


def test_an_unwritable_home_and_working_directory(tmp_path: Path) -> None:
    """The default place cannot be made: the error says where that was; HOME is not needed."""
    program = """
    os.environ["HOME"] = "/proc/nowhere"
    os.chdir("/proc")
    try:
        open_journal()
    except JournalUnavailable as error:
        assert "/proc/.crewai_prod/journal.db" in str(error), error
        print(type(error.__cause__).__mro__[-4].__name__)
    journal = open_journal(sys.argv[1] + "/runs.db")
    print(journal.location)
    """
    out = finished(child(program, str(tmp_path)))
    assert out.splitlines()[1] == f"{tmp_path}/runs.db"


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_a_file_that_is_taken_away_stops_the_run(path: Path, how: str) -> None:
    """Steps must not go to a file that nobody will find again: the next write is refused."""
    journal = open_journal(path, durability="process")
    lease = take(journal)
    journal.finish_step(lease, step(1))
    if how == "deleted":
        path.unlink()
    else:
        path.rename(path.with_name("elsewhere.db"))
    if how == "replaced":
        open_journal(path).close()
    said = None if how == "replaced" else "moved, deleted or replaced"
    time.sleep(_LOOK_SECONDS)
    with pytest.raises(JournalError, match=said):
        journal.finish_step(lease, step(2))
    with pytest.raises(JournalError):
        journal.finish_step(lease, step(2))
    if how == "moved":
        path.with_name("elsewhere.db").rename(path)
        journal.finish_step(lease, step(2))


def test_a_closed_journal_says_so(journal: SqliteJournal) -> None:
    """After `close` neither reading nor writing opens the file again by accident."""
    lease = take(journal)
    journal.close()
    for use in (journal.runs, lambda: journal.finish_step(lease, step())):
        with pytest.raises(UsageError, match="was closed"):
            use()
    journal.close()


@pytest.mark.parametrize("place", ["postgresql://u:secret@db/x", "mysql://h/x", ":memory:", ""])
def test_what_is_no_file_is_refused(place: str) -> None:
    """URLs and memory databases are usage errors that repeat no password."""
    with pytest.raises(UsageError) as caught:
        open_journal(place)
    assert "secret" not in str(caught.value)


def test_an_unknown_durability_is_refused(path: Path) -> None:
    """A typo must not weaken what is promised."""
    with pytest.raises(UsageError, match="durability"):
        open_journal(path, durability="fast")  # type: ignore[arg-type]
    assert not path.exists()


def test_durability_is_what_sqlite_calls_it(path: Path) -> None:
    """`power` is synchronous FULL, `process` is NORMAL, both WAL with foreign keys."""
    for durability, level in (("power", 2), ("process", 1)):
        journal = open_journal(path, durability=durability)  # type: ignore[arg-type]
        connection = journal._write_handle.get()
        assert connection.execute("PRAGMA synchronous").fetchone() == (level,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)
        journal.close()


def test_the_default_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CREWAI_PROD_JOURNAL, else `.crewai_prod/journal.db` below the working directory."""
    default = open_journal()
    assert default.location == str(tmp_path / ".crewai_prod" / "journal.db")
    monkeypatch.setenv("CREWAI_PROD_JOURNAL", str(tmp_path / "named.db"))
    assert open_journal().location == str(tmp_path / "named.db")
    monkeypatch.chdir("/")
    assert take(default).run == 1
    assert rows(tmp_path / ".crewai_prod" / "journal.db", "SELECT count(*) FROM runs") == [(1,)]
    assert os.getcwd() == "/"
