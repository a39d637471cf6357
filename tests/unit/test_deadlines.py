"""Calls that take too long are left at their deadline, and know it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

import crewai_prod
from crewai_prod.deadlines import Left, TimeLimit, acall_within, call_within, left

_here: ContextVar[str] = ContextVar("here", default="nowhere")


def _raise(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize("seconds", [None, 5.0])
def test_work_has_the_callers_context_and_its_outcome_arrives(seconds: float | None) -> None:
    """Whatever it returns or raises is the caller's, on a thread of its own or not."""
    token = _here.set("here")
    try:
        assert call_within(seconds, _here.get) == "here"
    finally:
        _here.reset(token)
    for error in (ValueError("no"), SystemExit(3), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught:
            call_within(seconds, lambda error=error: _raise(error))  # type: ignore[misc]
        assert caught.value is error


def test_without_a_limit_it_is_called_in_place() -> None:
    """No thread is spent on a call that may take its time."""
    assert call_within(None, threading.get_ident) == threading.get_ident()
    assert call_within(5, threading.get_ident) != threading.get_ident()


def test_a_call_past_its_deadline_is_left_then_and_knows() -> None:
    """It is reported at the deadline; the code that is still at work can ask."""
    go_on, knew = threading.Event(), []
    ended = threading.Event()

    def hang() -> None:
        knew.append(left())
        go_on.wait(10)
        knew.append(left())
        ended.set()

    began = time.monotonic()
    with pytest.raises(TimeLimit):
        call_within(0.05, hang)
    assert time.monotonic() - began < 5
    go_on.set()
    assert ended.wait(10)
    assert knew == [False, True]
    assert not left()


def test_a_call_that_was_left_does_not_keep_the_process() -> None:
    """The interpreter exits although a call hangs."""
    code = (
        "import time; from crewai_prod.deadlines import *\n"
        "try: call_within(0.05, lambda: time.sleep(60))\n"
        "except TimeLimit: print('left')"
    )
    root = Path(crewai_prod.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.returncode) == ("left\n", 0)


def _within(seconds: float | None, work: Callable[[], Awaitable[Any]]) -> Any:
    return asyncio.run(acall_within(seconds, work))


@pytest.mark.parametrize("seconds", [None, 5.0])
def test_coroutines_have_the_context_and_their_outcome_arrives(seconds: float | None) -> None:
    """Also what would end the loop: it is raised to whoever waits."""

    async def where() -> str:
        await asyncio.sleep(0)
        return _here.get()

    async def fail(error: BaseException) -> None:
        await asyncio.sleep(0)
        raise error

    assert _within(seconds, where) == "nowhere"
    for error in (ValueError("no"), SystemExit(3)):
        with pytest.raises(type(error)) as caught:
            _within(seconds, lambda error=error: fail(error))  # type: ignore[misc]
        assert caught.value is error


def test_a_coroutine_that_will_not_be_cancelled_is_left_all_the_same() -> None:
    """The caller goes on at the deadline; what is left knows."""
    knew: list[bool] = []

    async def stubborn() -> None:
        for _ in range(2):
            try:
                await asyncio.sleep(0.3)
            except asyncio.CancelledError:
                knew.append(left())

    async def both() -> None:
        began = time.monotonic()
        with pytest.raises(TimeLimit):
            await acall_within(0.02, stubborn)
        assert time.monotonic() - began < 0.25
        await asyncio.sleep(0.5)

    asyncio.run(both())
    assert knew == [True]


def test_cancelling_the_caller_cancels_the_coroutine() -> None:
    """As if it had been awaited without a limit."""
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def cancel() -> None:
        task = asyncio.create_task(acall_within(5, work))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert seen == ["cancelled"]


def test_what_is_kept_for_a_call_that_was_left_is_given_back_when_it_is_over() -> None:
    """Once; and for a call that was over when it was left nothing is kept."""
    given_back: list[str] = []
    left_first = Left(given_back.append)
    left_first.leave(lambda: "a")
    assert given_back == []
    left_first.over()
    over_first = Left(given_back.append)
    over_first.over()
    over_first.leave(lambda: "b")
    nothing_kept = Left(given_back.append)
    nothing_kept.leave(lambda: None)
    nothing_kept.over()
    assert given_back == ["a"]
