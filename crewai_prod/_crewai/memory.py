"""The seam in front of a memory: its model calls are the run's, and what a run saves is saved once.

CrewAI analyses, extracts, consolidates and recalls with a model, partly on threads of its own. All
of it passes through the run, each operation in a scope of its own beside the agent's conversation,
named by what it is about: neither thread timing nor what the agent says meanwhile moves it.

A task ends when what it saves is saved, so a finished task, which is not walked again, lost
nothing. A task that is walked again saves again with the answers it had: its records have ids made
from the run and the place in it, and what the store holds under them is not saved a second time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from crewai.memory.memory_scope import MemoryScope, MemorySlice
from crewai.memory.types import MemoryMatch
from crewai.memory.unified_memory import Memory

from crewai_prod import codec
from crewai_prod._crewai.agents import in_scope
from crewai_prod._crewai.places import scope_of
from crewai_prod._crewai.saves import Saves, settled
from crewai_prod._crewai.stop import refusing
from crewai_prod._crewai.takeover import Seamed, original_of, put_private, seam_of, take_over
from crewai_prod.bodies import current_step
from crewai_prod.records import StepKind
from crewai_prod.run import Run
from crewai_prod.steps import Scope, digest, idempotency_key
from crewai_prod.tooling import ToolOptions

_READS = ToolOptions(effect="read")


@dataclass(slots=True)
class MemorySeam:
    """What a memory needs to know of its run.

    Attributes:
        run: The run.
        llm: Takes a model over for the run.
        saves: Those under way.
        within: The scope of a kickoff that CrewAI gives no context of its own.
        counted: How often the same was saved in the same place in this session.
    """

    run: Run
    llm: Callable[[Any], Any]
    saves: Saves
    within: Scope | None = None
    counted: Counter[str] = field(default_factory=Counter)


class RunMemory(Seamed):
    """A memory of a hardened run: store, embedder and save thread are the user's own."""

    @property
    def _llm(self) -> Any:
        """The original's model, made from its name if need be, behind its seam."""
        return seam_of(self).llm(original_of(self)._llm)

    def recall(self, query: str, *args: Any, **kwargs: Any) -> Any:
        """The original's, once per run: a task that is walked again is reminded of the same."""
        seam: MemorySeam = seam_of(self)
        asked = {"query": query, **kwargs, **({"*": list(args)} if args else {})}
        with _beside(seam, "recall", asked) as scope, refusing():
            ticket = seam.run.begin_tool(scope, "recall", asked, _READS, StepKind.FUNCTION)
            if ticket.recorded is not None:
                return _decode(ticket.recorded.result or "[]")
            with in_scope(seam.run, ticket.inner):
                found = super().recall(query, *args, **kwargs)  # type: ignore[misc]
            seam.run.finish_tool(ticket, _encode(found), None)
            return found

    def extract_memories(self, content: str) -> Any:
        """The original's, in a scope of its own."""
        with _beside(seam_of(self), "extract", content):
            return super().extract_memories(content)  # type: ignore[misc]

    def _submit_save(self, *args: Any, **kwargs: Any) -> Any:
        """Have the task wait for the save; within a tool, whose result is recorded, wait here."""
        seam: MemorySeam = seam_of(self)
        save = super()._submit_save(*args, **kwargs)  # type: ignore[misc]
        if current_step() is not None:
            settled(save)
        else:
            seam.saves.add(scope_of(seam.run, within=seam.within), save)
        return save

    def _encode_batch(self, contents: list[str], *args: Any, **kwargs: Any) -> Any:
        """Analyse and save, unless this very save is in the store already.

        A drifted prompt does not follow the history here: a batch analyses its items side by side,
        and the next recorded answer might be another item's.
        """
        seam: MemorySeam = seam_of(self)
        with _beside(seam, "save", contents, args, kwargs, follow=False) as scope:
            seam.counted[scope.path] += 1
            place = f"{scope.path}\0{seam.counted[scope.path]}"
            store = _Store(original_of(self)._storage, seam.run.run_id, place)
            saved = store.found(len(contents)) if seam.run.resumed else []
            if saved:
                return saved
            worker = take_over(self, RunMemory, seam)
            put_private(worker, _storage=store)
            return super(RunMemory, worker)._encode_batch(contents, *args, **kwargs)  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class _Store:
    """The user's store for one save of a run: what is new gets ids that a resumed run knows."""

    store: Any
    run_id: str
    place: str

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def save(self, records: Sequence[Any]) -> None:
        for number, record in enumerate(records):
            record.id = self._id(number)
        self.store.save(records)

    def found(self, most: int) -> list[Any]:
        """The records of this save that the store holds: all, or none if it was never made."""
        records = (self.store.get_record(self._id(number)) for number in range(most))
        return [record for record in records if record is not None]

    def _id(self, number: int) -> str:
        return str(UUID(idempotency_key(self.run_id, f"{self.place}\0{number}")))


def take_over_memory(memory: Any, seam: MemorySeam, again: Callable[[Any], Any]) -> Any:
    """A memory for one run, or a view of one; `again` takes over what a view looks at."""
    if isinstance(memory, Memory):
        return take_over(memory, RunMemory, seam)
    view = take_over(memory, Seamed, seam)
    put_private(view, _memory=again(memory._memory))
    return view


def is_memory(value: Any) -> bool:
    """Whether it is a memory or a view of one that no run has taken over."""
    return isinstance(value, (Memory, MemoryScope, MemorySlice)) and not isinstance(value, Seamed)


def _encode(found: Sequence[MemoryMatch]) -> str:
    """What was recalled; CrewAI's models leave the embeddings out, long as they are."""
    return codec.encode([one.model_dump(mode="json") for one in found])


def _decode(text: str) -> list[MemoryMatch]:
    return [MemoryMatch.model_validate(one) for one in codec.decode(text)]


@contextmanager
def _beside(seam: MemorySeam, what: str, *about: Any, follow: bool = True) -> Iterator[Scope]:
    scope = scope_of(seam.run, within=seam.within)
    inner = scope.beside(f"memory.{what}", digest(codec.meaning(about)))
    inner = replace(inner, follow=scope.follow and follow)
    with in_scope(seam.run, inner):
        yield inner
