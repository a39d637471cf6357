"""Blocking work of a coroutine, done on threads of our own.

Rule: what has begun is waited for, even when the coroutine is cancelled meanwhile; the cancellation
is raised afterwards. Reason: an answer that is paid for would not be committed, or a run be opened
and left without anybody who ends it. The work is short: commits, and reading what they wrote.

The threads are not the loop's: those may all be busy with whole kickoffs (`kickoff_async` occupies
one each), and a paid answer would wait for minutes to be safe.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 32
"""Commits that wait together are one commit; more waiters make it no faster."""

_pool: ThreadPoolExecutor | None = None
_long_pool: ThreadPoolExecutor | None = None


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work` returns, called in this context on a thread of our own.

    Raises:
        asyncio.CancelledError: This coroutine was cancelled meanwhile; the work is done all the
            same, and failed or not.
    """
    return await _in(_threads(), functools.partial(work, *args, **kwargs))


async def at_length(work: Callable[[], T]) -> T:
    """As `in_thread`, on threads that may be busy for longer than a commit takes.

    What is done on them may itself wait for commits, on the threads for those.
    """
    return await _in(_long_threads(), work)


async def _in(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    call = functools.partial(contextvars.copy_context().run, work)
    job = asyncio.get_running_loop().run_in_executor(pool, call)
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        await _end_of(job)
        raise


async def _end_of(job: asyncio.Future[T]) -> None:
    """Wait for a job whatever happens; how it ended is not asked."""
    while not job.done():
        try:
            await asyncio.wait([job])
        except asyncio.CancelledError:  # again: the first one will be raised
            continue
    if not job.cancelled():
        job.exception()


def _threads() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="crewai-prod")
    return _pool


def _long_threads() -> ThreadPoolExecutor:
    global _long_pool
    if _long_pool is None:
        _long_pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="crewai-prod-at-length")
    return _long_pool


def _forget_threads() -> None:
    """Threads do not survive a fork."""
    global _pool, _long_pool
    _pool = _long_pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
