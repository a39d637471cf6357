"""Taint: once a task has read what strangers may have written, nobody knows who is speaking in it.

Rules, over what is recorded of a run:
- Tainting are the results of a tool declared `untrusted`, and results in which an injection guard
  has found something (`reports`); that it has only marked or cleaned a text says nothing.
- A source taints the whole task around it, from then on: its agents, whom they delegate to, and
  what they kick off share one conversation in the end (`whole`).
- What a tainted task has put out is read by those that have it as context; it taints them from
  their first step (`spread`).
- In a tainted task whatever acts on the world, or may, is put to a person first (`taint`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from crewai_prod.guards._types import Allow, Escalate, Guard, GuardContext, Verdict
from crewai_prod.guards._versions import version_of

MARKED: Final = "marked as untrusted"
"""All that an injection guard says of a text in which it has found nothing."""
_WHOLE: Final = re.compile(r"tasks/\d+(?:~\d+)?|[^/]*")
_HARMLESS: Final = frozenset({"read", "nested"})
"""Delegation does nothing itself: what is done in it is judged by itself, and just as tainted."""
_SHOWN: Final = 5


def reports(guard: str, reason: str | None) -> bool:
    """Whether what a guard said of a tool's result, other than `Allow`, taints.

    Args:
        guard: Its name: one that looks for instructions has `injection` in it.
        reason: What it said.
    """
    return "injection" in guard and reason != MARKED


def whole(path: str) -> str:
    """What is tainted as one: the task of the run that a scope path lies in, else its first part.

    What a task of the run has kicked off, a crew with tasks of its own too, is part of that task.
    """
    found = _WHOLE.match(path)
    return found.group() if found else path


def spread(
    sources: Mapping[str, Iterable[str]], whole_of: str, reads: Mapping[str, Collection[str]]
) -> tuple[str, ...]:
    """The sources that taint a task: its own, and those of all that it has read, in turn.

    Args:
        sources: By task (`whole`), the untrusted sources that were read in it so far.
        whole_of: The task.
        reads: By task, the tasks whose output it is given.
    """
    found: dict[str, None] = {}
    waiting, seen = [whole_of], {whole_of}
    while waiting:
        one = waiting.pop(0)
        found.update(dict.fromkeys(sources.get(one, ())))
        fresh = [other for other in reads.get(one, ()) if other not in seen]
        seen.update(fresh)
        waiting += fresh
    return tuple(found)


def taint(
    *,
    tools: Collection[str] | None = None,
    trusted: Collection[str] = (),
    name: str = "taint",
    order: int = 100,
) -> Guard:
    """A guard that has a person asked before a tainted task acts on the world.

    It escalates calls of tools that are declared to write, or of which nothing is declared, once
    the task has read from a tool declared `untrusted`, or something in which the injection guard
    has found instructions.

    Args:
        tools: The tools that it is about, whatever they are declared to do; default as above.
        trusted: Tools that may be called all the same.
        name: Of the guard.
        order: Of the guard: behind others, so that nobody is asked about what they reject.
    """
    about = None if tools is None else frozenset(tools)
    free = frozenset(trusted)

    def check(value: Any, context: GuardContext) -> Verdict:
        acts = context.effect not in _HARMLESS if about is None else context.tool in about
        if not context.tainted or not acts or context.tool in free:
            return Allow()
        shown = ", ".join(context.tainted[:_SHOWN])
        more = len(context.tainted) - _SHOWN
        return Escalate(
            f"{context.tool} acts on the world, and this task has read untrusted content from "
            f"{shown}{f' and {more} more' if more > 0 else ''}."
        )

    version = version_of("1", about, free)
    return Guard(name, check, frozenset({"tool_call"}), version, order)
