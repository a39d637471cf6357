"""Every hostile case is blocked; `python -m tests.attack` prints how many of how many."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attack import contents, people, planted
from tests.attack.case import Case
from tests.attack.table import CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.family}: {case.name}")
def test_blocked(case: Case, tmp_path: Path) -> None:
    """What is tried does not work."""
    assert case.attempt(tmp_path), f"{case.tried}; not so: {case.blocked}"


def test_cases_are_told_apart() -> None:
    """The figure counts each case once."""
    names = [(case.family, case.name) for case in CASES]
    assert len(set(names)) == len(names) >= 60


@pytest.mark.parametrize("name", contents.INNOCENT)
def test_what_is_harmless_passes(name: str) -> None:
    """Not everything is blocked."""
    assert contents.passes(*contents.INNOCENT[name])


@pytest.mark.parametrize("name", contents.UNNOTICED)
def test_what_is_not_noticed_is_told(name: str) -> None:
    """The list of what reading does not notice is true; what is noticed becomes a case."""
    assert not contents.UNNOTICED[name]()


def test_those_who_have_a_right_answer(tmp_path: Path) -> None:
    """With the server's token, and with a link."""
    assert people.right_answers(tmp_path) == [200, 200]


@pytest.mark.parametrize("where", planted.PLANTED)
def test_the_secrets_were_there(where: str) -> None:
    """Each was in what was sent, said or stored: it could have been shown."""
    assert planted.PLANTED[where] in planted.seen()[planted.HIDDEN]
