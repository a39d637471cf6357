"""What runs leave in memory: objects counted and bytes held, of a bare crew and of hardened ones.

Objects are what the garbage collector knows; everything a run is made of is among them. Resident
memory moves by itself (arenas, caches that fill up), so it is looked at over many runs only.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crewai import Agent, Crew, Task
from crewai.tools import BaseTool

from crewai_prod import harden
from crewai_prod.testing import ScriptedLLM

KINDS = ("bare", "object", "factory", "anew")
"""One crew kicked off again and again: as it is, hardened, hardened as a factory, and a crew that
is built and hardened for each run."""
OPTIONS: dict[str, Any] = {"durability": "process", "tools": {"look_up": {"effect": "read"}}}
_TURN = 'Thought: look\nAction: look_up\nAction Input: {"topic": "tides"}'


def _script(messages: Any, _: Any) -> str:
    looked = any("facts about" in str(message.get("content")) for message in messages)
    return "Final Answer: done" if looked else _TURN


def make_crew() -> Crew:
    """An agent with a tool of a class of its own: some define tools in the function they build in.

    Without a cache, in which CrewAI keeps every result for as long as the crew lives.
    """

    class LookUp(BaseTool):
        name: str = "look_up"
        description: str = "Look something up."

        def _run(self, topic: str) -> str:
            return f"facts about {topic} ".ljust(1000, "x")

    agent = Agent(
        role="A", goal="g", backstory="b", llm=ScriptedLLM(_script), tools=[LookUp()], cache=False
    )
    task = Task(description="Work for {who}", expected_output="o", agent=agent)
    return Crew(name="memory", agents=[agent], tasks=[task], cache=False)


def kickoffs(kind: str, folder: Path) -> Callable[[int], Any]:
    """A function that makes the n-th run of this kind."""
    journal = folder / f"{kind}.db"
    if kind == "anew":
        crew: Any = None
    elif kind == "bare":
        crew = make_crew()
    elif kind == "factory":
        crew = harden(journal=journal, **OPTIONS)(make_crew)()
    else:
        crew = harden(make_crew(), journal=journal, **OPTIONS)

    def one(n: int) -> Any:
        mine = crew if crew is not None else harden(make_crew(), journal=journal, **OPTIONS)
        return mine.kickoff(inputs={"who": f"who-{n}"})

    return one


@dataclass(frozen=True, slots=True)
class Held:
    """What is in memory.

    Attributes:
        objects: Objects by the names of their classes.
        kilobytes: Resident; 0 where /proc cannot say.
    """

    objects: Counter[str]
    kilobytes: int

    @classmethod
    def now(cls) -> Held:
        """After everything that can be let go of was."""
        gc.collect()
        gc.collect()  # finalizers let go of more
        _trim()
        return cls(Counter(type(one).__qualname__ for one in gc.get_objects()), _resident())

    def since(self, before: Held, runs: int) -> dict[str, float]:
        """Objects more than before, for each run, by class."""
        more = self.objects - before.objects
        return {name: count / runs for name, count in more.most_common()}


def grown(one: Callable[[int], Any], runs: int, parts: int) -> Iterator[Held]:
    """What is held before and after each part of so many runs."""
    yield Held.now()
    for part in range(parts):
        for n in range(runs // parts):
            one(part * runs + n)
        yield Held.now()


def _resident() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def _trim() -> None:
    """Give freed memory back, so that what remains is what is held."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
