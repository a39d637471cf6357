"""Links that open one question, and tokens that stand for people."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from crewai_prod.errors import UsageError
from crewai_prod.records import ApprovalRecord
from crewai_prod.signing import KEY_VARIABLE, Right, Signer, digest_of, tokens_in, who_has

QUESTION = ApprovalRecord(
    id=3,
    run_id="r",
    step_id=None,
    kind="tool",
    tool="charge",
    arguments=None,
    status="open",
    asked_at=5.0,
    about="abc",
)
LONG = "0123456789abcdef"


def test_a_link_stands_for_its_question_only(tmp_path: Path) -> None:
    """Altered anywhere, signed with another key, or too old, it is nothing."""
    signer = Signer.of(str(tmp_path / "runs.db"))
    token = signer.token(QUESTION, "ann")
    assert signer.read(token) == Right(3, digest_of(QUESTION), "ann")
    assert digest_of(replace(QUESTION, about="other")) != digest_of(QUESTION)
    for place in range(len(token)):
        letter = "A" if token[place] != "A" else "B"
        assert signer.read(token[:place] + letter + token[place + 1 :]) is None
    for forged in ("", ".", "a.b", "ä.ö", token + "=", token + ".", token.partition(".")[0]):
        assert signer.read(forged) is None
    assert Signer.of(str(tmp_path / "other.db")).read(token) is None
    assert signer.read(signer.token(QUESTION, until=time.time() - 1)) is None


def test_the_key_is_the_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made once, readable by nobody else; or the environment's."""
    journal = str(tmp_path / "runs.db")
    first, again = Signer.of(journal), Signer.of(journal)
    assert first == again
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    with pytest.raises(UsageError, match="Others can read"):
        Signer.of(journal)
    monkeypatch.setenv(KEY_VARIABLE, LONG)
    assert Signer.of(journal) == Signer.of("elsewhere.db") != first
    monkeypatch.setenv(KEY_VARIABLE, "short")
    with pytest.raises(UsageError):
        Signer.of(journal)


def test_tokens_stand_for_people() -> None:
    """One for anybody, or one each; no short ones."""
    tokens = tokens_in(f"{LONG}, ann={LONG}x,ben={LONG}y")
    assert who_has(LONG, tokens) == (True, None)
    assert who_has(LONG + "y", tokens) == (True, "ben")
    assert who_has("", tokens) == who_has(LONG + "z", tokens) == (False, None)
    assert who_has("", tokens_in("")) == (False, None)
    with pytest.raises(UsageError):
        tokens_in("ann=short")
