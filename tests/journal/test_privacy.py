"""Who may read the file, and what is in it."""

from __future__ import annotations

import base64
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from crewai_prod.errors import Corrupt, UsageError
from crewai_prod.journal import open_journal
from crewai_prod.journal._crypto import VARIABLE
from crewai_prod.records import Ruling, RunStatus
from tests.journal.support import (
    attempt,
    child,
    finished,
    message,
    model_step,
    new_run,
    question,
    rows,
    step,
    take,
    task,
    verdict,
)

KEY = base64.b64encode(bytes(range(32))).decode()
OTHER = base64.b64encode(bytes(32)).decode()
CANARY = "canary-7391"


def mode(path: Path) -> int:
    """Permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_may_read_the_file_and_its_companions(tmp_path: Path, umask: int) -> None:
    """0600 for the file, its log and index, 0700 for folders made for it, whatever the umask."""
    path = tmp_path / "new" / "deeper" / "runs.db"
    before = os.umask(umask)
    try:
        journal = open_journal(path)
        take(journal)
        for name in ("runs.db", "runs.db-wal", "runs.db-shm"):
            assert mode(path.with_name(name)) == 0o600
        assert mode(path.parent) == mode(path.parent.parent) == 0o700
        journal.close()
    finally:
        os.umask(before)


def test_a_closed_journal_is_one_file(tmp_path: Path) -> None:
    """After `close`, and at the normal end of a process, nothing is left beside the file."""
    path = tmp_path / "runs.db"
    journal = open_journal(path)
    take(journal)
    journal.close()
    assert os.listdir(tmp_path) == ["runs.db"]
    finished(child("take(open_journal(sys.argv[1]), 's')", str(path)))
    assert os.listdir(tmp_path) == ["runs.db"]
    assert rows(path, "SELECT count(*) FROM runs") == [(2,)]


def _write_canaries(path: Path, key: str | None) -> None:
    secret = f'"{CANARY}"'
    journal = open_journal(path, encryption_key=key, durability="process")
    lease = take(journal, inputs=secret)
    full = model_step(1, result=secret, error=secret, arguments=secret)
    journal.finish_step(
        lease, full, messages=[message(body=f'{{"c":{secret}}}')], attempt=attempt(error=secret)
    )
    journal.save_task(lease, task(output=secret, error=secret, parts=secret))
    asked = journal.ask(lease, question(arguments=secret, form=secret, remark=secret))
    ruling = Ruling(status="answered", verdict="done", answer=secret)
    journal.answer(asked, lambda question, run: ruling)
    journal.add_verdicts(lease, [verdict(reason=secret, value=secret)])
    journal.finish_run(lease, RunStatus.FAILED, result=secret, error=secret)


def test_an_encrypted_journal_shows_no_payload(path: Path) -> None:
    """A canary in every payload column is nowhere in the files, and readable with the key."""
    _write_canaries(path, KEY)
    for file in path.parent.iterdir():
        assert CANARY.encode() not in file.read_bytes(), file
    journal = open_journal(path, encryption_key=KEY)
    secret = f'"{CANARY}"'
    run = journal.run("r")
    assert (run.inputs, run.result, run.error) == (secret, secret, secret)
    (record,) = journal.steps("r")
    assert (record.arguments, record.result, record.error) == (secret, secret, secret)
    assert journal.attempts("r")[0].error == secret
    (done,) = journal.tasks("r")
    assert (done.output, done.error, done.parts) == (secret, secret, secret)
    assert journal.conversation("r", "m1") == [{"c": CANARY}]
    (asked,) = journal.approvals("r")
    assert (asked.arguments, asked.answer) == (secret, secret)
    (said,) = journal.verdicts("r")
    assert (said.reason, said.value) == (secret, secret)
    assert (asked.form, asked.remark) == (secret, secret)
    assert journal.runs()[0].error == secret
    opened = journal.open_run(new_run(), run.owner or take(journal, "s").owner, lease_seconds=9)
    assert opened.steps[0].error == secret
    assert rows(path, "SELECT sum(input_tokens) FROM step_usage") == [(17,)]
    assert rows(path, "SELECT count(*) FROM transcripts") == [(1,)]


def test_without_a_key_payloads_are_plain(path: Path) -> None:
    """Encryption is a choice: the same canary is found without one (so the test above can fail)."""
    _write_canaries(path, None)
    assert any(CANARY.encode() in file.read_bytes() for file in path.parent.iterdir())


@pytest.mark.parametrize("key", [None, OTHER])
@pytest.mark.parametrize("create", [True, False])
def test_a_wrong_or_missing_key_is_refused(path: Path, key: str | None, create: bool) -> None:
    """Before anything is read or written, with the name of the variable."""
    _write_canaries(path, KEY)
    with pytest.raises(UsageError, match=VARIABLE):
        open_journal(path, encryption_key=key, create=create)


def test_the_key_comes_from_the_environment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CREWAI_PROD_ENCRYPTION_KEY is used where no key is given; URL-safe base64 is fine."""
    _write_canaries(path, KEY)
    monkeypatch.setenv(VARIABLE, KEY.replace("+", "-").replace("/", "_"))
    assert open_journal(path, create=False).run("r").inputs == f'"{CANARY}"'


@pytest.mark.parametrize("key", ["short", "ä" * 44, base64.b64encode(b"x" * 31).decode()])
def test_a_bad_key_is_refused_with_the_way_to_make_a_good_one(path: Path, key: str) -> None:
    """Not base64 of 32 bytes: a usage error with the command; no file is made, no key repeated."""
    with pytest.raises(UsageError, match="Make one with") as caught:
        open_journal(path, encryption_key=key)
    assert key not in str(caught.value)
    assert not path.exists()


def test_encryption_can_be_switched_on_later(path: Path) -> None:
    """Old rows stay readable, new ones are sealed, and from then on the key is needed."""
    journal = open_journal(path)
    lease = take(journal)
    journal.finish_step(lease, step(1, result='"plain"'))
    journal.finish_run(lease, RunStatus.FAILED)
    journal.close()
    journal = open_journal(path, encryption_key=KEY)
    journal.finish_step(take(journal), step(2, result='"sealed"'))
    assert [record.result for record in journal.steps("r")] == ['"plain"', '"sealed"']
    stored = [value for (value,) in rows(path, "SELECT result FROM steps ORDER BY seq")]
    assert stored[0] == '"plain"'
    assert stored[1].startswith("enc1:")
    journal.close()
    with pytest.raises(UsageError):
        open_journal(path)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE steps SET result = arguments",
        "UPDATE steps SET result = 'enc1:AAAA'",
        "UPDATE steps SET result = 'enc1:not base64'",
        "UPDATE steps SET result = substr(result, 1, length(result) - 8) || 'AAAAAAAA'",
    ],
)
def test_altered_ciphertext_is_noticed(path: Path, change: str) -> None:
    """A value that was changed, or moved from another column, is `Corrupt`, never wrong text."""
    _write_canaries(path, KEY)
    connection = sqlite3.connect(path)
    connection.execute(change)
    connection.commit()
    connection.close()
    journal = open_journal(path, encryption_key=KEY)
    with pytest.raises(Corrupt, match=r"steps\.result"):
        journal.steps("r")


def test_text_without_utf8_cannot_be_sealed(path: Path) -> None:
    """A lone surrogate is a usage error with encryption as it is without."""
    journal = open_journal(path, encryption_key=KEY)
    with pytest.raises(UsageError, match="cannot be stored"):
        journal.finish_step(take(journal), step(1, result="\ud800"))
