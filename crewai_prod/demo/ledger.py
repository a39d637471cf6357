"""The bank's book of charges: a file outside the journal, where a charge made twice would show."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crewai_prod.bodies import current_step


@dataclass(slots=True)
class Ledger:
    """A file with one line for each charge ever made.

    Attributes:
        path: The file.
        charged: Called after each charge.
    """

    path: Path
    charged: Callable[[], None] = lambda: None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def charge(self, *, card: str, item: str, amount_usd: float) -> int:
        """Write a charge down; returns its number."""
        step = current_step()
        with self._lock:
            number = len(self.charges()) + 1
            line = {
                "charge": number,
                "card": card,
                "item": item,
                "amount_usd": amount_usd,
                "step_id": step.step_id if step else None,
                "pid": os.getpid(),
            }
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        self.charged()
        return number

    def charges(self) -> list[dict[str, Any]]:
        """Every charge made so far."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
