"""Saves of memories that are under way in the background."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

from crewai_prod.steps import Scope, lies_in


class Saves:
    """Saves of a run that are under way in the background, and where they were asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: list[tuple[str, Future[Any]]] = []

    def add(self, scope: Scope, save: Future[Any]) -> None:
        """A save has been handed to its thread."""
        with self._lock:
            self._pending.append((scope.path, save))

    def wait(self, scope: Scope) -> None:
        """Wait for those of a task. CrewAI reports one that fails; it does not fail the task."""
        with self._lock:
            within = [one for one in self._pending if lies_in(one[0], scope.path)]
            self._pending = [one for one in self._pending if one not in within]
        for _, save in within:
            settled(save)


def settled(save: Future[Any]) -> None:
    """Wait for a save, whatever becomes of it."""
    if not save.cancelled():
        save.exception()
