"""What is declared about a step beside its effect: retries and deadlines, as for tools."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from crewai_prod import Outcome, Retry, current_step, open_journal, open_run, step
from crewai_prod.errors import ToolOutcomeUnknown, ToolTimeout


def test_a_step_is_tried_again_under_the_same_key(tmp_path: Path) -> None:
    """What its caller gets is what the last try returned."""
    tries: list[tuple[str, int]] = []

    @step(effect="read", retry=Retry(attempts=3))
    def look(place: str) -> str:
        seen = current_step()
        assert seen is not None
        tries.append((seen.idempotency_key, seen.attempt))
        if len(tries) < 3:
            raise ConnectionError("reset")
        return f"facts about {place}"

    with open_run("a", journal=tmp_path / "j.db"):
        assert look("here") == "facts about here"
    assert [attempt for _, attempt in tries] == [1, 2, 3]
    assert len({key for key, _ in tries}) == 1
    assert len(open_journal(tmp_path / "j.db").attempts("a")) == 2


def test_an_asynchronous_step_is_tried_again(tmp_path: Path) -> None:
    """Likewise."""
    tries: list[int] = []

    @step(effect="read", retry=Retry(attempts=2))
    async def look() -> int:
        tries.append(1)
        if len(tries) < 2:
            raise ConnectionError("reset")
        return len(tries)

    async def both() -> None:
        async with open_run("a", journal=tmp_path / "j.db"):
            assert await look() == 2

    asyncio.run(both())


@pytest.mark.parametrize("effect", ["read", "write"])
def test_a_step_past_its_deadline(tmp_path: Path, effect: str) -> None:
    """One that reads has failed; of one that acts nobody knows."""
    go_on = threading.Event()
    expected: Any = ToolTimeout if effect == "read" else ToolOutcomeUnknown

    @step(effect=effect, timeout=0.1)
    def hang() -> str:
        go_on.wait(20)
        return "done"

    caught = pytest.raises(expected, match="did not return within")
    with caught, open_run("a", journal=tmp_path / "j.db"):
        hang()
    go_on.set()
    if effect == "write":
        with open_run("a", journal=tmp_path / "j.db", unknown=Outcome.done("told")):
            assert hang() == "told"


def test_reconcile_settles_a_step_that_raised(tmp_path: Path) -> None:
    """Its caller gets the result as if it had returned."""

    @step(effect="write", reconcile=lambda arguments, key: Outcome.done("sent"))
    def send(to: str) -> str:
        raise ConnectionError("reset")

    with open_run("a", journal=tmp_path / "j.db"):
        assert send("ann") == "sent"


def test_exit_in_a_step_is_its_callers(tmp_path: Path) -> None:
    """A step is the user's own code, which may end the process."""

    @step
    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit), open_run("a", journal=tmp_path / "j.db"):
        leave()
