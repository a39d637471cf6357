"""Which step is which: the identity that lets a resumed run find the answer it already paid for.

Rule: a step is the n-th request of the same meaning in the same scope. Reason: neither thread timing
nor the process that asks may change it. Blind spot: two requests of the same meaning made at the same
time in one scope are interchangeable, and are treated so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import orjson

from crewai_prod.codec import meaning, to_tree
from crewai_prod.records import MessageRecord

_ID_KEYS = frozenset({"tool_call_id", "cache_breakpoint"})


def digest(*parts: bytes) -> str:
    """20 hex digits over the parts, told apart by their lengths."""
    hasher = hashlib.blake2b(digest_size=10)
    for part in parts:
        hasher.update(len(part).to_bytes(8, "big"))
        hasher.update(part)
    return hasher.hexdigest()


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
        path: `run`, `tasks/0`, `tasks/0/Researcher`, `tasks/0/Manager/delegate~1f2e3d4c/Writer`.
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

    def inside(self, tool: str, step: str) -> Scope:
        """The scope of what happens inside a tool's body."""
        return replace(self, path=f"{self.path}/{path_part(tool)}~{step[:8]}")


def task_scope(position: int, generation: int, name: str, *, follow: bool) -> Scope:
    """The scope of a task; a task that is executed again because it changed gets a new one."""
    path = f"tasks/{position}" if generation == 0 else f"tasks/{position}~{generation}"
    return Scope(path=path, task=position, task_name=name, follow=follow)


def path_part(name: str) -> str:
    """A name as one readable part of a scope path, at most 60 characters."""
    return quote(" ".join(name.split())[:60], safe=" ()[],.'&+@#", errors="replace") or "-"


def lies_in(path: str, scope: str) -> bool:
    """Whether a scope path is `scope` or lies within it."""
    return path == scope or path.startswith(f"{scope}/")


def related(one: str, other: str) -> bool:
    """Whether two scope paths are the same, or one lies within the other."""
    return lies_in(one, other) or lies_in(other, one)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A model call's meaning.

    Attributes:
        digest: Of conversation and parameters together: the identity.
        tip: Digest of the conversation's last message, None for an empty one.
        params: Digest of the parameters alone.
        messages: The conversation's messages that the journal does not hold yet, parameters included.
    """

    digest: str
    tip: str | None
    params: str
    messages: tuple[MessageRecord, ...]


def read_request(
    messages: Iterable[Mapping[str, Any]],
    params: Mapping[str, Any],
    *,
    known: Mapping[str, Any] | set[str] | frozenset[str],
    contents: Mapping[str, str],
) -> Request:
    """Turn a conversation and its parameters into a chain of content-addressed messages.

    Args:
        messages: Dicts with `role` and `content`, as CrewAI hands them to `LLM.call`.
        params: Model, tools, response schema and sampling parameters; no secrets.
        known: Digests that the journal already holds; these are not built again.
        contents: Result text -> step id, so that a message that repeats one need not store it.
    """
    fresh: list[MessageRecord] = []
    settings = meaning(params)
    params_digest = digest(b"params", settings)
    if params_digest not in known:
        fresh.append(
            MessageRecord(digest=params_digest, parent=None, role="request", body=settings.decode())
        )
    tip: str | None = None
    for message in messages:
        node = digest((tip or "").encode(), meaning(_without_ids(message)))
        if node not in known:
            fresh.append(_message(node, tip, message, contents))
        tip = node
    return Request(
        digest=digest((tip or "").encode(), params_digest.encode()),
        tip=tip,
        params=params_digest,
        messages=tuple(fresh),
    )


def _without_ids(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message without the ids of tool calls: some providers make them up per process."""
    calls = message.get("tool_calls")
    if not calls and "tool_call_id" not in message:
        return message
    plain = {key: value for key, value in message.items() if key not in _ID_KEYS}
    if isinstance(calls, list):
        plain["tool_calls"] = [
            {key: value for key, value in call.items() if key != "id"}
            if isinstance(call, Mapping)
            else call
            for call in calls
        ]
    return plain


def _message(
    node: str, parent: str | None, message: Mapping[str, Any], contents: Mapping[str, str]
) -> MessageRecord:
    content = message.get("content")
    step = contents.get(content) if isinstance(content, str) else None
    kept = {key: value for key, value in message.items() if step is None or key != "content"}
    return MessageRecord(
        digest=node,
        parent=parent,
        role=str(message.get("role", "")),
        body=orjson.dumps(to_tree(kept)).decode(),
        content_step=step,
    )
