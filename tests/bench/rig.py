"""Hostile tools: on a seeded schedule they raise, hang, return garbage and die after their effect.

A `Rig` stands for the outside world of one run. What was really done is one JSON line in its file,
written by the body alone; `reconcile` looks there, as it would look into the service's own list.
"""

from __future__ import annotations

import json
import math
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from crewai.tools import BaseTool, tool

from crewai_prod import Outcome, current_step

Harm = Literal["raise", "hang", "garbage", "die_after", "hang_after", "late"]
HARMS_OF_READS: tuple[Harm, ...] = ("raise", "hang", "garbage")
HARMS_OF_WRITES: tuple[Harm, ...] = ("raise", "hang", "die_after", "hang_after")
"""Of tools that act again when they are called again."""
HARMS_OF_KEYED_WRITES: tuple[Harm, ...] = (*HARMS_OF_WRITES, "late")
"""Of tools whose service knows a key that it has seen."""
GARBAGE: tuple[Any, ...] = (
    None,
    math.nan,
    -1,
    b"\x00\xff\xfe binary",
    "",
    "lone \ud800 surrogate",
    {1: {2: {3}}},
    "x" * 2_000_000,
    object(),
)
Strikes = Callable[[str, str, int], Harm | None]
"""What happens to a tool's n-th call with certain arguments."""


def strike_at_rate(rate: float, harms: dict[str, Sequence[Harm]], seed: int = 0) -> Strikes:
    """Let a share of the calls go wrong, each the same way whenever it is made the n-th time."""

    def choose(name: str, arguments: str, nth: int) -> Harm | None:
        dice = random.Random(f"{seed}:{name}:{arguments}:{nth}")
        return dice.choice(harms[name]) if dice.random() < rate else None

    return choose


class Rig:
    """The world of one run.

    Args:
        log: A file; one line is added for every effect.
        strikes: What goes wrong.
        hang: Seconds that a call hangs. It is over then, as a connection is in the end.
    """

    def __init__(self, log: Path, strikes: Strikes = lambda *_: None, *, hang: float = 1.0) -> None:
        self.log = log
        self.calls: Counter[tuple[str, str]] = Counter()
        self._strikes = strikes
        self._hang = hang
        self._lock = threading.Lock()
        self._calls: list[threading.Event] = []

    @property
    def effects(self) -> list[dict[str, Any]]:
        """What was done: tool, arguments, idempotency key and result of each effect."""
        if not self.log.exists():
            return []
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def reconcile(self, arguments: dict[str, Any], key: str) -> Outcome:
        """Whether the effect of this key was had, by the service's own account."""
        found = [one for one in self.effects if one["key"] == key]
        return Outcome.done(found[0]["result"]) if found else Outcome.not_done()

    def read(self, name: str, arguments: dict[str, Any], result: str) -> Any:
        """What a tool that only reads returns, if it does."""
        harm, dice = self._drawn(name, arguments)
        self._before(harm)
        return dice.choice(GARBAGE) if harm == "garbage" else result

    def write(
        self, name: str, arguments: dict[str, Any], result: str, *, keyed: bool = False
    ) -> str:
        """Act, if it comes to that.

        Args:
            name: The tool.
            arguments: Of its call.
            result: What it returns.
            keyed: Whether the service acts once for one idempotency key.
        """
        harm, _ = self._drawn(name, arguments)
        with self._under_way():
            return self._written(harm, name, arguments, result, keyed=keyed)

    def _written(
        self, harm: Harm | None, name: str, arguments: dict[str, Any], result: str, *, keyed: bool
    ) -> str:
        self._before(harm)
        self._act(name, arguments, result, keyed=keyed)
        if harm == "die_after":
            raise ConnectionResetError("the connection was lost before the answer came")
        if harm == "hang_after":
            threading.Event().wait(self._hang)
        return result

    def settle(self) -> None:
        """Wait until no writing call is under way: what comes too late is done, too."""
        with self._lock:
            under_way = list(self._calls)
        for over in under_way:
            over.wait()

    def _drawn(self, name: str, arguments: dict[str, Any]) -> tuple[Harm | None, random.Random]:
        asked = json.dumps(arguments, sort_keys=True)
        with self._lock:
            self.calls[name, asked] += 1
            nth = self.calls[name, asked]
        return self._strikes(name, asked, nth), random.Random(f"{name}:{asked}:{nth}")

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        over = threading.Event()
        with self._lock:
            self._calls.append(over)
        try:
            yield
        finally:
            over.set()

    def _before(self, harm: Harm | None) -> None:
        if harm == "raise":
            raise ConnectionRefusedError("the service could not be reached")
        if harm in ("hang", "late"):
            threading.Event().wait(self._hang)
        if harm == "hang":
            raise TimeoutError("the service did not answer")

    def _act(self, name: str, arguments: dict[str, Any], result: str, *, keyed: bool) -> None:
        step = current_step()
        key = step.idempotency_key if step else None
        line = {"tool": name, "arguments": arguments, "key": key, "result": result}
        with self._lock:
            if keyed and key and any(one["key"] == key for one in self.effects):
                return
            with self.log.open("a") as file:
                file.write(json.dumps(line) + "\n")


def tools_of(rig: Rig) -> dict[str, BaseTool]:
    """Two tools that read, one that acts, and one that acts once for a key."""

    @tool
    def look_up(topic: str) -> str:
        """Look something up."""
        said: str = rig.read("look_up", {"topic": topic}, f"facts about {topic}")
        return said

    @tool
    def stock(item: str) -> str:
        """Tell how many there are in stock."""
        said: str = rig.read("stock", {"item": item}, f"12 of {item}")
        return said

    @tool
    def charge(amount: int) -> str:
        """Charge the card."""
        return rig.write("charge", {"amount": amount}, f"charged {amount}")

    @tool
    def ship(item: str) -> str:
        """Ship the item."""
        return rig.write("ship", {"item": item}, f"shipped {item}", keyed=True)

    return {one.name: one for one in (look_up, stock, charge, ship)}


HARMS: dict[str, Sequence[Harm]] = {
    "look_up": HARMS_OF_READS,
    "stock": HARMS_OF_READS,
    "charge": HARMS_OF_WRITES,
    "ship": HARMS_OF_KEYED_WRITES,
}
"""What can happen to each of them."""
