"""How often in a row a model may get the arguments of a tool wrong."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

CORRECTIONS = 3
"""How often a model may correct itself, per tool and task, before it is not heard any more."""

_REMEMBERED = 1024


class Corrections:
    """The refused calls of one tool, counted by where they are made.

    A call that is accepted ends a row. After `limit` corrections that were wrong as well the tool
    is spent there: a model that has not understood it by then only costs more.

    Args:
        limit: Corrections that are allowed in a row.
    """

    def __init__(self, limit: int = CORRECTIONS) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._refused: OrderedDict[Hashable, int] = OrderedDict()

    @property
    def any(self) -> bool:
        """Whether any call has been refused that no other one has made good."""
        return bool(self._refused)

    def refuse(self, where: Hashable) -> int:
        """Count a refused call; returns how many corrections are left."""
        with self._lock:
            count = self._refused.pop(where, 0) + 1
            self._refused[where] = count
            if len(self._refused) > _REMEMBERED:  # places where nobody called for a long time
                self._refused.popitem(last=False)
            return max(self.limit + 1 - count, 0)

    def accept(self, where: Hashable) -> None:
        """A call was as it should be."""
        with self._lock:
            self._refused.pop(where, None)

    def spent(self, where: Hashable) -> bool:
        """Whether no correction is left."""
        with self._lock:
            return self._refused.get(where, 0) > self.limit

    def __deepcopy__(self, memo: object = None) -> Corrections:
        """A copy of a tool begins to count anew."""
        return Corrections(self.limit)
