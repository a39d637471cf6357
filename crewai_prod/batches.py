"""Many runs, one for each item of a list: begun in order, a bounded number of them at a time.

Rule: what happens to one item happens to no other. An item that fails leaves its error in its place
and the rest go on. Only what concerns all of them ends the batch: the process was asked to end, the
caller was cancelled, the journal cannot be written. Then no further item is begun, the runs under
way end after their current step, and the reason reaches the caller. Knows nothing of crewai.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import Any

from crewai_prod.errors import JournalError, RunInterrupted, StaleOwner, UsageError
from crewai_prod.kickoff import place_around

RunIds = str | Iterable[str] | None
"""Names of a batch's runs: a prefix, one for each item, or None."""

_LOOK_EVERY = 0.1
"""How often a batch that ends looks for runs that opened only after it had stopped the others."""


def ids_of(run_ids: RunIds, count: int, made: str | None) -> list[str | None]:
    """A run id for each item. Those of a prefix stay what they are when items are appended.

    Args:
        run_ids: What the caller gave.
        count: How many items there are.
        made: The prefix to use if the caller gave none; None leaves the ids to each kickoff.

    Raises:
        UsageError: Not one id for each item, one twice, or one that is no text.
    """
    prefix = made if run_ids is None else run_ids
    if prefix is None:
        return [None] * count
    if isinstance(prefix, str):
        if not prefix:
            raise UsageError("run_ids='' names no run: give a prefix, or one id for each item.")
        return [f"{prefix}-{n}" for n in range(count)]
    given: list[Any] = list(prefix)
    if len(given) != count:
        raise UsageError(
            f"run_ids has {len(given)} ids for {count} items: give one for each item, or a prefix."
        )
    for n, one in enumerate(given):
        if not isinstance(one, str) or not one:
            raise UsageError(f"run_ids[{n}]={one!r} is no run id: give a text that is not empty.")
    twice = [one for one, times in Counter(given).items() if times > 1]
    if twice:
        raise UsageError(
            f"run_ids names {twice[0]!r} more than once: each item is a run of its own."
        )
    return given


def checked_concurrency(value: Any) -> int:
    """How many runs may go on at a time.

    Raises:
        UsageError: It is no number from 1 upwards.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"concurrency={value!r} runs nothing: give a whole number from 1 upwards.")
    return value


def ends_batch(error: BaseException) -> bool:
    """Whether an item's error concerns every other item too.

    A run that another process took over is that item's own affair. Within a run, its refusal of one
    item is its refusal of all.
    """
    if not isinstance(error, Exception) or isinstance(error, RunInterrupted):
        return True
    if isinstance(error, JournalError):
        return not isinstance(error, StaleOwner)
    around = place_around()
    return around is not None and around[0].stopped is error


class _Ended(Exception):
    """Wakes the caller of a batch that has to end; why it has to is kept on the batch."""


class Batch:
    """Executes items, and keeps what each of them ended with.

    Args:
        count: How many there are.
        concurrency: How many may go on at a time.
        interrupt: Lets the runs under way end after their current step; called again and again
            until none is left.
        told: Called after each item with whether it failed; by one thread at a time.

    Attributes:
        results: By position: what the item returned, or the error that ended it.
        ended: How many have ended.
    """

    def __init__(
        self,
        count: int,
        concurrency: int,
        *,
        interrupt: Callable[[], None],
        told: Callable[[bool], None],
    ) -> None:
        self.results: list[Any] = [None] * count
        self.ended = 0
        self._concurrency = min(concurrency, count)
        self._interrupt = interrupt
        self._told = told
        self._lock = threading.Lock()
        self._stopping = False
        self._why: BaseException | None = None

    def go(self, one: Callable[[int], Any]) -> list[Any]:
        """Execute every item: here, or in threads that see the caller's context variables.

        Raises:
            BaseException: What ended the batch.
        """
        with suppress(_Ended):
            if self._concurrency > 1:
                self._in_threads(one)
            else:
                for position in range(len(self.results)):
                    self._one(position, one)
        return self._outcome()

    async def ago(self, one: Callable[[int], Awaitable[Any]]) -> list[Any]:
        """`go` for coroutine functions, each item in a task of its own.

        Raises:
            BaseException: What ended the batch.
        """
        free = asyncio.Semaphore(self._concurrency or 1)
        items = range(len(self.results))
        tasks = [asyncio.create_task(self._aone(n, one, free)) for n in items]
        with suppress(_Ended):
            try:
                await asyncio.gather(*tasks)  # cancels the tasks if the caller is cancelled
            finally:
                self._stopping = True
                while left := [task for task in tasks if not task.done()]:
                    self._interrupt()
                    await asyncio.wait(left, timeout=_LOOK_EVERY)
        return self._outcome()

    def _in_threads(self, one: Callable[[int], Any]) -> None:
        context = copy_context()
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="crewai-prod-batch")
        items = range(len(self.results))
        try:
            futures = [pool.submit(context.copy().run, self._one, n, one) for n in items]
            try:
                for future in as_completed(futures):
                    future.result()
            finally:
                self._stopping = True
                while left := [future for future in futures if not future.done()]:
                    self._interrupt()
                    wait(left, timeout=_LOOK_EVERY)
        finally:  # a second Ctrl-C gets here while runs are still under way: it waits for none
            pool.shutdown(wait=False, cancel_futures=True)

    def _one(self, position: int, one: Callable[[int], Any]) -> None:
        if self._stopping:
            return
        with self._settling(position):
            self.results[position] = one(position)

    async def _aone(
        self, position: int, one: Callable[[int], Awaitable[Any]], free: asyncio.Semaphore
    ) -> None:
        async with free:
            if self._stopping:
                return
            with self._settling(position):
                self.results[position] = await one(position)

    @contextmanager
    def _settling(self, position: int) -> Iterator[None]:
        """Put the error that ends an item in its place, or end the batch with it."""
        error: BaseException | None = None
        try:
            yield
        except BaseException as failure:  # noqa: BLE001 - kept, and raised by `_outcome` if it must be
            error = failure
        if error is not None and ends_batch(error):
            with self._lock:
                self._why = self._why or error
            self._stopping = True
            raise _Ended
        with self._lock:
            if error is not None:
                self.results[position] = error
            self.ended += 1
            self._told(error is not None)

    def _outcome(self) -> list[Any]:
        if self._why is not None:
            raise self._why
        return self.results
