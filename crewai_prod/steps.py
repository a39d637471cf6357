"""Which step is which: the identity that lets a resumed run find the answer it already paid for.

Rule: a step is the n-th request of the same meaning in the same scope. Reason: neither thread
timing nor the process that asks may change it. Blind spot: two requests of the same meaning made at
the same time in one scope are interchangeable, and are treated so.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import compress, count
from operator import ne
from typing import Any, NamedTuple
from urllib.parse import quote

import orjson

from crewai_prod.codec import encode, meaning
from crewai_prod.records import MessageRecord

_CACHING = "cache_breakpoint"
"""CrewAI's mark on the messages it wants a provider to cache: no part of what they say."""
_UNSAID = frozenset({"tool_call_id", _CACHING})
_PLAIN = frozenset({str, int, bool, type(None)})
"""Classes of values that JSON says as they are; of a float it cannot say that it is no number."""
_BESIDE = ":"
"""No name brings it into a path: `path_part` quotes it."""
_TASK = re.compile(r"(?:.*/)?tasks/\d+(?:~\d+)?(?=/|$)")
_KICKED_OFF = re.compile(r"(?P<task>(?:.*/)?tasks/\d+(?:~\d+)?/)[^/]*~[0-9a-f]{8}(?:\.\d+)?(?:/|$)")
"""A path within something that a task kicked off, not a tool of its agent."""


def digest(*parts: bytes) -> str:
    """20 hex digits over the parts, told apart by their lengths."""
    told_apart = b"".join([len(part).to_bytes(8, "big") + part for part in parts])
    return hashlib.blake2b(told_apart, digest_size=10).hexdigest()


def step_id(scope: str, kind: str, request: str, occurrence: int) -> str:
    """16 hex digits that name a step within its run, the same in every process."""
    text = f"{scope}\0{kind}\0{request}\0{occurrence}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def idempotency_key(run_id: str, step: str) -> str:
    """The key a tool hands to the outside world, the same for every attempt of one step."""
    return hashlib.blake2b(
        f"{run_id}\0{step}".encode("utf-8", "surrogatepass"), digest_size=16
    ).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Where in a run we are.

    Attributes:
        path: `run`, `tasks/0`, `tasks/0/Researcher`, `tasks/0/Manager/delegate~1f2e3d4c/Writer`,
            `tasks/0/Clerk/ask_shop~1f2e3d4c/shop~5b6a7988/tasks/0/Cashier` (a crew within a tool),
            `tasks/0/Researcher/:memory.recall~5a6b7c8d` (beside the conversation).
        task: Position of the task in the crew, None outside tasks.
        task_name: For errors and logs.
        agent: Role of the agent that is at work, for attribution.
        follow: Whether a model call that matches no record may follow the history of its scope.
    """

    path: str = "run"
    task: int | None = None
    task_name: str | None = None
    agent: str | None = None
    follow: bool = True

    def of_agent(self, role: str) -> Scope:
        """The scope of an agent at work here."""
        return replace(self, path=f"{self.path}/{path_part(role)}", agent=role)

    def of_method(self, name: str) -> Scope:
        """The scope of a method of a flow at work here."""
        return replace(self, path=f"{self.path}/{path_part(name)}")

    def of_nested(self, name: str, meant: str, occurrence: int) -> Scope:
        """The scope of a crew, flow or agent kicked off here: by name, request, and how often."""
        again = f".{occurrence}" if occurrence else ""
        return replace(self, path=f"{self.path}/{path_part(name)}~{meant[:8]}{again}")

    def of_nested_task(self, position: int, name: str) -> Scope:
        """The scope of a task of a crew kicked off here; it is billed to the task around it."""
        return replace(self, path=f"{self.path}/tasks/{position}", task_name=name)

    def inside(self, tool: str, step: str) -> Scope:
        """The scope of what happens inside a tool's body."""
        path = f"{self.path}/{path_part(tool)}~{step[:8]}"
        return Scope(  # `replace` takes several times as long, and every call of a tool asks
            path=path,
            task=self.task,
            task_name=self.task_name,
            agent=self.agent,
            follow=self.follow,
        )

    def beside(self, what: str, about: str) -> Scope:
        """The scope of what happens beside the conversation here, `about` something (a digest)."""
        return replace(self, path=f"{self.path}/{_BESIDE}{path_part(what)}~{about[:8]}")


def task_path(position: int, generation: int) -> str:
    """The scope path of a task; one that is executed again because it changed gets a new one."""
    return f"tasks/{position}" if generation == 0 else f"tasks/{position}~{generation}"


def task_scope(position: int, generation: int, name: str, *, follow: bool) -> Scope:
    """The scope of a task."""
    path = task_path(position, generation)
    return Scope(path=path, task=position, task_name=name, follow=follow)


@lru_cache(maxsize=1024)
def path_part(name: str) -> str:
    """A name as one readable part of a scope path, at most 60 characters."""
    return quote(" ".join(name.split())[:60], safe=" ()[],.'&+@#", errors="replace") or "-"


def lies_in(path: str, scope: str) -> bool:
    """Whether a scope path is `scope` or lies within it."""
    return path == scope or path.startswith(f"{scope}/")


def lies_beside(path: str) -> bool:
    """Whether a scope path is of something beside the conversation around it."""
    return f"/{_BESIDE}" in path


def task_around(path: str) -> str | None:
    """The scope of the task in which a path lies, of the innermost one; None: in none."""
    found = _TASK.match(path)
    return found.group() if found else None


def related(one: str, other: str) -> bool:
    """Whether two scope paths are the same, or one lies within the other."""
    return lies_in(one, other) or lies_in(other, one)


def works_on(path: str, judge: str) -> bool:
    """Whether a path is of a task's own work and the other of what the task kicked off beside it.

    A guardrail may: an agent that judges the answer. The agent of the task waits for it.
    """
    kicked_off = _KICKED_OFF.match(judge)
    if kicked_off is None or not path.startswith(kicked_off["task"]):
        return False
    return "~" not in path.removeprefix(kicked_off["task"]).partition("/")[0]


class Talk(NamedTuple):
    """A request that was read: copies to know its messages by, and the digest of each.

    The same of its parameters, which are nearly always those of the request before.

    Attributes:
        plain: Whether a message is JSON as it is.
    """

    copies: list[Any]
    digests: list[str]
    plain: list[bool]
    params: Any = None
    params_digest: str = ""


NOTHING_SAID = Talk([], [], [])


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A model call's meaning.

    Attributes:
        digest: Of conversation and parameters together: the identity.
        tip: Digest of the conversation's last message, None for an empty one.
        params: Digest of the parameters alone.
        messages: Those of the conversation (and the parameters) that the journal does not hold.
        talk: The whole conversation as it was read, to read the next one faster.
    """

    digest: str
    tip: str | None
    params: str
    messages: tuple[MessageRecord, ...]
    talk: Talk


def read_request(
    messages: Sequence[Mapping[str, Any]],
    params: Mapping[str, Any],
    *,
    known: Mapping[str, Any] | set[str] | frozenset[str],
    contents: Mapping[str, str],
    before: Talk = NOTHING_SAID,
) -> Request:
    """Turn a conversation and its parameters into a chain of content-addressed messages.

    Args:
        messages: Dicts with `role` and `content`, as CrewAI hands them to `LLM.call`.
        params: Model, tools, response schema and sampling parameters; no secrets.
        known: Digests that the journal already holds; these are not built again.
        contents: Result text -> step id, so that a message that repeats one need not store it.
        before: `talk` of an earlier request: what is alike is not read again.
    """
    fresh: list[MessageRecord] = []
    talk = _read_talk(messages, params, before)
    params_digest = talk.params_digest
    if params_digest not in known:
        settings = meaning(params).decode()
        fresh.append(
            MessageRecord(digest=params_digest, parent=None, role="request", body=settings)
        )
    nodes = talk.digests
    held = len(nodes)
    while held and nodes[held - 1] not in known:  # with a message, all before it were committed
        held -= 1
    for at in range(held, len(nodes)):
        parent = nodes[at - 1] if at else None
        fresh.append(_message(nodes[at], parent, messages[at], contents, plain=talk.plain[at]))
    tip = nodes[-1] if nodes else None
    return Request(
        digest=digest((tip or "").encode(), params_digest.encode()),
        tip=tip,
        params=params_digest,
        messages=tuple(fresh),
        talk=talk,
    )


def _read_talk(
    messages: Sequence[Mapping[str, Any]], params: Mapping[str, Any], before: Talk
) -> Talk:
    """Digests of the messages, each over its own meaning and all that came before it."""
    alike = _alike(messages, before.copies)
    copies, digests = before.copies[:alike], before.digests[:alike]
    plain = before.plain[:alike]
    tip = digests[-1] if digests else ""
    for message in messages[alike:]:
        tip = digest(tip.encode(), meaning(_said(message)))
        odd: list[Any] = []
        copies.append(_copy(message, odd))
        digests.append(tip)
        plain.append(not odd)
    if before.params == params:
        return Talk(copies, digests, plain, before.params, before.params_digest)
    return Talk(copies, digests, plain, _copy(params, []), digest(b"params", meaning(params)))


def _alike(messages: Sequence[Any], copies: list[Any]) -> int:
    """How many messages at the beginning are as they were."""
    if copies == messages[: len(copies)]:  # nearly always, and faster than one by one
        return len(copies)
    return next(compress(count(), map(ne, copies, messages)), len(messages))


class _Unequal:
    """Stands in a copy for an object that could change unnoticed: such a message is read anew."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


_UNEQUAL = _Unequal()


def _copy(value: Any, odd: list[Any]) -> Any:
    """The value as it is now; what JSON has no word for, or says otherwise, is added to `odd`."""
    kind = type(value)
    if kind is dict:
        copied = {}
        for key, item in value.items():
            if type(key) is not str or key == "$":
                odd.append(key)
            copied[key] = item if type(item) in _PLAIN else _copy(item, odd)
        return copied
    if kind is list:
        return [_copy(item, odd) for item in value]
    if kind in _PLAIN:
        return value
    odd.append(value)
    return value if kind is float else _UNEQUAL


def _said(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a message says: not the ids of its tool calls, which some providers make up per process.

    CrewAI keeps a message without content with None while it asks, and with "" afterwards.
    """
    said = dict(message)
    for unsaid in _UNSAID:
        said.pop(unsaid, None)
    if said.get("content") in (None, ""):
        said.pop("content", None)
    calls = said.get("tool_calls")
    if isinstance(calls, list):
        said["tool_calls"] = [
            {key: value for key, value in call.items() if key != "id"}
            if isinstance(call, Mapping)
            else call
            for call in calls
        ]
    return said


def _message(
    node: str,
    parent: str | None,
    message: Mapping[str, Any],
    contents: Mapping[str, str],
    *,
    plain: bool,
) -> MessageRecord:
    content = message.get("content")
    step = contents.get(content) if isinstance(content, str) else None
    kept = dict(message)
    kept.pop(_CACHING, None)
    if step is not None:
        del kept["content"]
    return MessageRecord(
        digest=node,
        parent=parent,
        role=str(message.get("role", "")),
        body=_body(kept, plain=plain),
        content_step=step,
    )


def _body(message: dict[str, Any], *, plain: bool) -> str:
    """As `encode` writes it, which is not asked to walk through what is JSON already."""
    try:
        if plain:
            return orjson.dumps(message).decode()
    except TypeError:  # half a character, or a number of more than 64 bits
        pass
    return encode(message)
