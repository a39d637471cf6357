"""A call that may take so long and no longer: it is left at work, and its caller goes on.

Rule: at the deadline the caller is told, whatever the call is doing; what it does afterwards is
nobody's result. Reason: Python cannot end a thread, and a call that hangs in a socket or a lock
would hold its run for ever. The threads are daemons of their own, not a pool's, which would wait
for them when the interpreter exits. Knows nothing of crewai.

What was left can ask (`left`), and the run asks for it: code of a call that nobody waits for any
more begins no further step.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class TimeLimit(Exception):
    """The call did not return in time, and was left."""


@dataclass(slots=True)
class _Call(Generic[T]):
    """A call that somebody waits for, as long as that lasts."""

    left: bool = False
    ended: threading.Event = field(default_factory=threading.Event)
    results: list[T] = field(default_factory=list)
    failure: BaseException | None = None

    def make(self, work: Callable[[], T]) -> None:
        """Make the call, and say that it has ended."""
        try:
            self.results.append(work())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised where one waits
            self.failure = error
        finally:
            self.ended.set()

    def outcome(self) -> T:
        """What the call returned; raises what it raised."""
        if self.failure is not None:
            raise self.failure
        return self.results[0]


class Left:
    """What is kept for a call that nobody waits for any more, until it is over.

    Args:
        give_back: Gives back what was kept under a name; called when the call is over.
    """

    def __init__(self, give_back: Callable[[str], None]) -> None:
        self._give_back = give_back
        self._name: str | None = None
        self._over = False
        self._lock = threading.Lock()

    def leave(self, keep: Callable[[], str | None]) -> None:
        """Nobody waits for the call: if it is still at work, keep something for it."""
        with self._lock:
            if not self._over:
                self._name = keep()

    def over(self) -> None:
        """The call has ended."""
        with self._lock:
            self._over = True
        if self._name is not None:
            self._give_back(self._name)


_calls: ContextVar[tuple[_Call[Any], ...]] = ContextVar("crewai_prod_calls", default=())


_deadline: ContextVar[float | None] = ContextVar("crewai_prod_deadline", default=None)
"""When what is done here must be over, on the monotonic clock."""


@contextmanager
def ends_within(seconds: float | None) -> Iterator[None]:
    """What is done in this block must be over then; a block within another one cannot be later."""
    left = seconds_left(seconds)
    token = _deadline.set(None if left is None else time.monotonic() + left)
    try:
        yield
    finally:
        _deadline.reset(token)


def seconds_left(limit: float | None) -> float | None:
    """What is left of the time that is given here, or the limit if that is less; None: no end."""
    deadline = _deadline.get()
    if deadline is None:
        return limit
    left = deadline - time.monotonic()
    return left if limit is None else min(limit, left)


def left() -> bool:
    """Whether the code that asks belongs to a call that was left at its deadline."""
    calls = _calls.get()
    return bool(calls) and any(call.left for call in calls)


def call_within(seconds: float | None, work: Callable[[], T]) -> T:
    """What `work` returns or raises, in the caller's context, if it does so in time.

    Args:
        seconds: After which it is left at work. None: it is called here, and takes its time.
        work: Called on a thread of its own.

    Raises:
        TimeLimit: It did not end in time.
    """
    if seconds is None:
        return work()
    call = _Call[T]()
    context = contextvars.copy_context()
    context.run(_calls.set, (*_calls.get(), call))
    threading.Thread(
        target=context.run, args=(call.make, work), name="crewai-prod-call", daemon=True
    ).start()
    try:
        in_time = call.ended.wait(seconds)
    except BaseException:  # a person's Ctrl-C: nobody waits any more
        call.left = True
        raise
    if not in_time:
        call.left = True
        raise TimeLimit
    return call.outcome()


async def acall_within(seconds: float | None, work: Callable[[], Awaitable[T]]) -> T:
    """The same for a coroutine function; what is left is cancelled, and not waited for.

    Raises:
        TimeLimit: It did not end in time.
        asyncio.CancelledError: Whoever waits was cancelled. The work is cancelled, too, and has the
            time that is left to end.
    """
    if seconds is None:
        return await work()
    call = _Call[T]()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds

    async def made() -> None:
        _calls.set((*_calls.get(), call))
        try:
            call.results.append(await work())
        except (KeyboardInterrupt, SystemExit) as error:  # would end the loop, not the call
            call.failure = error

    task = asyncio.create_task(made())
    try:
        await asyncio.wait((task,), timeout=seconds)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait((task,), timeout=max(0.0, deadline - loop.time()))
        call.left = True
        task.add_done_callback(_heard)
        raise
    if not task.done():
        call.left = True
        task.cancel()
        task.add_done_callback(_heard)
        raise TimeLimit
    task.result()
    return call.outcome()


def _heard(task: asyncio.Task[Any]) -> None:
    """How it ended is nobody's result: asyncio is not to complain that no one asked."""
    if not task.cancelled():
        task.exception()
