"""What the model calls of a run have taken, in all and by scope.

Rule: a call is only noted when it is recorded; notes are added up when somebody asks, or when there
are many. Reason: every step notes, few ask. Pure, and not thread-safe: the run that owns it holds a
lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from crewai_prod.records import Usage
from crewai_prod.steps import lies_in

_MANY: Final = 512


class Paid:
    """The sum, and its parts by scope path.

    Args:
        total: What was paid for before.
        by_scope: The same by scope.
    """

    __slots__ = ("_by_scope", "_notes", "_total")

    def __init__(self, total: Usage | None = None, by_scope: Mapping[str, Usage] | None = None):
        self._total = total or Usage()
        self._by_scope = dict(by_scope or {})
        self._notes: list[tuple[str, Usage]] = []

    def note(self, scope: str, usage: Usage) -> None:
        """A call was paid for in this scope."""
        self._notes.append((scope, usage))
        if len(self._notes) >= _MANY:
            self._add_up()

    @property
    def total(self) -> Usage:
        """All of it."""
        self._add_up()
        return self._total

    def within(self, scope: str) -> Usage:
        """What was paid for in a scope and all within it."""
        self._add_up()
        inside = [usage for path, usage in self._by_scope.items() if lies_in(path, scope)]
        return sum(inside, Usage())

    def _add_up(self) -> None:
        for scope, usage in self._notes:
            self._total += usage
            self._by_scope[scope] = self._by_scope.get(scope, Usage()) + usage
        self._notes.clear()
