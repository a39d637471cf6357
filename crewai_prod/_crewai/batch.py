"""`kickoff_for_each` of a hardened crew and its asynchronous forms: one run for each item."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypedDict, Unpack

from crewai.crews.utils import run_for_each_async
from crewai.types.usage_metrics import UsageMetrics

from crewai_prod._crewai.takeover import put, seam_of
from crewai_prod.batches import Batch, RunIds, checked_concurrency, ids_of
from crewai_prod.errors import RunInterrupted
from crewai_prod.heart import HEART
from crewai_prod.kickoff import place_around
from crewai_prod.outcomes import UnknownPolicy
from crewai_prod.progress import BatchProgress
from crewai_prod.session import new_run_id
from crewai_prod.terminating import SIGTERM

AT_A_TIME = 8
"""How many items the asynchronous forms run at once if they are not told. Bare CrewAI starts all of
them: on a long list that is a burst of requests that a provider answers with 429s."""


Items = Iterable[dict[str, Any]]
Files = Mapping[str, Any] | None
Form = Literal["kickoff_async", "akickoff"]


class BatchOptions(TypedDict, total=False):
    """The keywords all three forms take; `BatchKickoffs` describes them."""

    run_ids: RunIds
    return_exceptions: bool
    progress: bool
    on_change: str | None
    unknown: UnknownPolicy | None


class BatchKickoffs:
    """The batch methods of a hardened crew: each item is a durable run of its own.

    They take CrewAI's arguments, and these by keyword:

    Args:
        run_ids: A run id for each item; or a prefix, which names the runs `prefix-0`, `prefix-1`
            and so on; or None: they get a prefix that is made. Called again with the same ids, the
            batch finishes what is missing, and hands finished items back without any call. Within a
            run (in a tool's body), items without ids are part of that run.
        concurrency: How many items may run at a time. By default the synchronous form runs one
            after another, as bare CrewAI does; the asynchronous forms 8, where bare CrewAI starts
            all at once. `kickoff_for_each_async` is also bound by the threads of the event loop's
            default executor.
        return_exceptions: What an item's failure does. True: the exception that its kickoff raised
            stands in its place in the list, and nothing is raised. False: the first item's is
            raised, as by bare CrewAI, but only after every item was tried.
        progress: Whether one line on stderr tells how far it is, if that is a terminal.
        on_change: As for `kickoff`, for every item.
        unknown: As for `kickoff`, for every item.

    Every item is tried, whatever becomes of the others. The exceptions are what concerns them all:
    the process was asked to end, the caller was cancelled, or the journal cannot be written. Then
    no further item is begun, those under way end after their current step, and all can be resumed.

    `usage_metrics` of the crew is the sum over all items: failed ones count what they cost, those
    finished earlier what they had cost. Nothing else of the crew's objects shows the items' runs.

    With `stream`, the items are run as in bare CrewAI: when their streams are read, all at once
    under the asynchronous forms, and an item's failure is raised by its stream.

    Raises:
        UsageError: Not one run id for each item, one of them twice, or a concurrency below 1.
        RunInterrupted: The process was asked to end.
        JournalError: The journal could not be opened, read or written.
    """

    def kickoff_for_each(
        self,
        inputs: Items,
        input_files: Files = None,
        *,
        concurrency: int = 1,
        **options: Unpack[BatchOptions],
    ) -> Any:
        """Run each item; a list of outputs, or exceptions in their place."""
        return _batch(self, inputs, input_files, concurrency, **options).kickoff()

    async def kickoff_for_each_async(
        self,
        inputs: Items,
        input_files: Files = None,
        *,
        concurrency: int = AT_A_TIME,
        **options: Unpack[BatchOptions],
    ) -> Any:
        """`kickoff_for_each` on worker threads."""
        batch = _batch(self, inputs, input_files, concurrency, **options)
        return await batch.akickoff("kickoff_async")

    async def akickoff_for_each(
        self,
        inputs: Items,
        input_files: Files = None,
        *,
        concurrency: int = AT_A_TIME,
        **options: Unpack[BatchOptions],
    ) -> Any:
        """`kickoff_for_each` on the event loop."""
        batch = _batch(self, inputs, input_files, concurrency, **options)
        return await batch.akickoff("akickoff")


def _batch(
    crew: Any,
    inputs: Items,
    input_files: Files,
    concurrency: int,
    *,
    run_ids: RunIds = None,
    return_exceptions: bool = True,
    progress: bool = True,
    on_change: str | None = None,
    unknown: UnknownPolicy | None = None,
) -> _CrewBatch:
    """Check what a batch was asked for, all of it before anything is run."""
    options = seam_of(crew).options
    options.for_kickoff(on_change, unknown)
    SIGTERM.heed(options.settings)
    items = list(inputs)
    made = new_run_id(crew.name) if place_around() is None else None
    return _CrewBatch(
        crew=crew,
        inputs=items,
        run_ids=ids_of(run_ids, len(items), made),
        again="the same run_ids" if run_ids is not None else made and f"run_ids={made!r}",
        concurrency=checked_concurrency(concurrency),
        asked={"input_files": input_files, "on_change": on_change, "unknown": unknown},
        return_exceptions=return_exceptions,
        shown=progress and not options.settings.quiet,
    )


@dataclass(slots=True, kw_only=True)
class _CrewBatch:
    """One call of a batch method.

    Attributes:
        crew: The hardened crew.
        inputs: The items.
        run_ids: An id for each; None where the item is to be part of the run around it.
        again: What to call again with, for people; None if the run around it is to be resumed.
        asked: The other arguments of each item's kickoff.
    """

    crew: Any
    inputs: list[dict[str, Any]]
    run_ids: list[str | None]
    again: str | None
    concurrency: int
    asked: dict[str, Any]
    return_exceptions: bool
    shown: bool
    usage: UsageMetrics = field(default_factory=UsageMetrics)
    failed: int = 0
    under_way: set[int] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def kickoff(self) -> Any:
        """Run the items here, or in threads."""
        if self.crew.stream:
            streams = [self._kickoff(self.crew._one_of_many(), n) for n in self._positions()]
            self.crew._task_output_handler.reset()
            return streams
        with self._going_on() as batch:
            batch.go(self._one)
        return self._outcome(batch)

    async def akickoff(self, form: Form) -> Any:
        """Run the items on the event loop, or on its worker threads."""
        if self.crew.stream:
            return await self._stream(form)
        with self._going_on() as batch:
            await batch.ago(partial(self._aone, form))
        return self._outcome(batch)

    def _positions(self) -> range:
        return range(len(self.inputs))

    def _kickoff(self, crew: Any, position: int, form: str = "kickoff") -> Any:
        run_id, inputs = self.run_ids[position], self.inputs[position]
        return getattr(crew, form)(inputs=inputs, run_id=run_id, **self.asked)

    def _one(self, position: int) -> Any:
        with self._counted(position) as crew:
            return self._kickoff(crew, position)

    async def _aone(self, form: Form, position: int) -> Any:
        with self._counted(position) as crew:
            return await self._kickoff(crew, position, form)

    async def _stream(self, form: Form) -> Any:
        """One stream of all items, as CrewAI makes it: it kicks them off in order."""
        positions = iter(self._positions())

        def kickoff(crew: Any, _: Any) -> Any:
            return self._kickoff(crew, next(positions), form)

        return await run_for_each_async(_Copies(self.crew), self.inputs, kickoff)  # type: ignore[arg-type]

    @contextmanager
    def _counted(self, position: int) -> Iterator[Any]:
        """A crew for one item, and in the end its bill."""
        crew = self.crew._one_of_many()
        with self.lock:
            self.under_way.add(position)
        try:
            yield crew
        except asyncio.CancelledError:  # the worker thread of a `kickoff_async` still goes on
            self._stop([position])
            raise
        finally:
            with self.lock:
                self.under_way.remove(position)
                if crew.usage_metrics is not None:
                    self.usage.add_usage_metrics(crew.usage_metrics)

    @contextmanager
    def _going_on(self) -> Iterator[Batch]:
        """The batch while it is under way; what it cost is shown however it ends."""
        progress = BatchProgress(self.crew.name or "crew", len(self.inputs), wanted=self.shown)

        def told(failed: bool) -> None:
            self.failed += failed
            progress.tell(batch.ended, self.failed, self.usage.total_tokens)

        batch = Batch(len(self.inputs), self.concurrency, interrupt=self._interrupt, told=told)
        try:
            with progress:
                yield batch
        except BaseException as error:
            if self.again:
                error.add_note(
                    f"crewai-prod: {batch.ended} of {len(self.inputs)} items had ended; call again "
                    f"with {self.again} to finish the others."
                )
            raise
        finally:
            put(self.crew, usage_metrics=self.usage)
            self.crew._task_output_handler.reset()

    def _interrupt(self) -> None:
        with self.lock:
            under_way = list(self.under_way)
        self._stop(under_way)

    def _stop(self, positions: Iterable[int]) -> None:
        """Let the runs of these items end after their current step."""
        ours = {self.run_ids[position] for position in positions}
        for run in HEART.runs():
            if run.run_id in ours:
                run.stop(RunInterrupted("The batch was ended: this run stopped after its step."))

    def _outcome(self, batch: Batch) -> list[Any]:
        if not self.return_exceptions:
            for result in batch.results:
                if isinstance(result, BaseException):
                    raise result
        return batch.results


@dataclass(frozen=True, slots=True)
class _Copies:
    """A streaming crew, as far as CrewAI's own batch needs to know."""

    crew: Any
    stream: bool = True

    def copy(self) -> Any:
        return self.crew._one_of_many()
