"""The seam in front of callbacks that only look on: one that fails does not fail the run.

Which is which:

- `Task.callback`, `Crew.task_callback` and `step_callback` (a crew's and an agent's) are told what
  has happened; what they return goes nowhere. In CrewAI an exception of theirs ends the kickoff,
  for `step_callback` after the task was done again, and paid for again, up to `max_retry_limit`
  times; the answer it was told of is lost with it. Here it is a line in the log
  (`callback.failed`), the run is marked degraded, and goes on.
- `before_kickoff` and `after_kickoff` callbacks make the inputs and the output what they are: a run
  without them would be another one. An exception of theirs is raised, as it is by CrewAI.

Who wants to end a run from a callback raises CrewAI's `HookAborted`, or anything that is not an
`Exception`. A refusal of the run itself (it was paused within a callback, say) goes through.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any

from crewai_prod._crewai.places import scope_of
from crewai_prod._crewai.stop import Passing
from crewai_prod.run import Run


class Observer:
    """A user's callback that is kept from failing the run; equal to the callback itself."""

    def __init__(self, callback: Any, place: str, run: Run) -> None:
        self.callback = callback
        self._place = place
        self._run = run

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._watched():
            result = self.callback(*args, **kwargs)
            return self._later(result) if inspect.iscoroutine(result) else result
        return None

    async def _later(self, work: Awaitable[Any]) -> Any:
        with self._watched():
            return await work
        return None

    def __eq__(self, other: object) -> bool:
        return bool(self.callback == plain(other))

    def __hash__(self) -> int:
        return hash(self.callback)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        run = self._run
        try:
            yield
        except Passing:
            raise
        except Exception as error:  # whatever a user's code raises
            if run.refused(error):
                raise
            scope = scope_of(run)
            run.degraded = True
            run.log.callback_failed(
                callback=self._place, error=error, task=scope.task_name, agent=scope.agent
            )


def observing(callback: Any, place: str, run: Run) -> Any:
    """The callback in its seam; None stays None, and one that is in it already as it is."""
    if callback is None or isinstance(callback, Observer):
        return callback
    return Observer(callback, place, run)


def plain(callback: Any) -> Any:
    """The user's own callback."""
    return callback.callback if isinstance(callback, Observer) else callback
