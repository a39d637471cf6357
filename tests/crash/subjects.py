"""The shapes as subjects of the harness, and the server that counts their requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from crewai_prod.crashtest import Harness, Subject
from crewai_prod.crashtest.evidence import Requests, Sent
from crewai_prod.crashtest.sessions import How
from tests.openai_server import ROOT, ServerProcess

SCRIPT = "tests.crash.scripts:shop"
SERVER = "CRASH_TEST_SERVER"
MODULES = (
    "tests.crash.shapes",
    "tests.crash.governed",
    "openai.resources.chat",
    "openai.types.beta",
    "openai.types.admin",
)
_SETTLED_WITHIN = 10.0
_LOOK_EVERY = 0.01


class ServerRequests:
    """Requests as the server of one trial at a time counted them."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server

    def begin(self, folder: Path) -> Mapping[str, str]:
        """See `Requests.begin`."""
        self.sent()
        self._server.reset()
        return {SERVER: self._server.url}

    def sent(self) -> list[Sent]:
        """See `Requests.sent`. A request that a killed client left behind ends by itself."""
        pause, before = threading.Event(), None
        for _ in range(int(_SETTLED_WITHIN / _LOOK_EVERY)):
            records = self._server.requests
            if records == before and all(one.finished_at is not None for one in records):
                break
            before = records
            pause.wait(_LOOK_EVERY)
        failed = {one.n for one in records if (one.status or 0) >= 400}
        return [
            Sent(
                record.digest,
                answered=record.completed,
                tokens=int((record.usage or {}).get("total_tokens", 0)),
            )
            for record in records
            if record.n not in failed
        ]


def _shape(function: str, name: str, **options: Any) -> Subject:
    target = f"tests.crash.shapes:{function}"
    return Subject(name=name, target=target, **{"inputs": {"order": 7}, **options})


def _governed(function: str, how: How = "kickoff", **options: Any) -> Subject:
    target = f"tests.crash.governed:{function}"
    name = function.replace("_", "-") + (f"-{how}" if how != "kickoff" else "")
    people = "tests.crash.governed:Boss"
    inputs = {"order": 7}
    return Subject(name=name, target=target, inputs=inputs, how=how, people=people, **options)


_FORMS: Sequence[tuple[str, How]] = (
    ("native", "kickoff"),
    ("text", "akickoff"),
    ("native", "kickoff_async"),
)

SUBJECTS: Mapping[str, Subject] = {
    subject.name: subject
    for subject in (
        _shape("sequential_text", "sequential-text"),
        _shape("sequential_native", "sequential-native"),
        _shape("parallel_calls", "parallel-calls", tools_at_once=3),
        _shape("async_tasks", "async-tasks", concurrency=3, tools_at_once=3),
        _shape("hierarchical", "hierarchical"),
        _shape("odd_tools", "odd-tools"),
        Subject(
            name="remembering",
            target="tests.crash.remembering:remembering",
            inputs={"order": 7},
            concurrency=2,
            tools_at_once=2,
        ),
        _shape("side_models", "side-models"),
        _shape("coworkers", "coworkers", concurrency=2, tools_at_once=2),
        _shape("sequential_native", "akickoff", how="akickoff"),
        _shape("mixed", "akickoff-mixed", how="akickoff", concurrency=2, tools_at_once=2),
        _shape("nested", "nested"),
        _shape("ShopFlow", "flow", concurrency=2, tools_at_once=2),
        _shape("lone_agent", "agent", inputs={"messages": "Charge the card"}),
    )
}
"""The shapes, by name."""

GOVERNED: Mapping[str, Subject] = {
    subject.name: subject
    for subject in (
        _governed("careful"),
        *(
            _governed(f"{kind}_{path}", how)
            for kind in ("guarded", "budgeted", "looping", "asked")
            for path, how in _FORMS
        ),
        _governed("asked_flow"),
    )
}
"""Crews with guards, limits and people. The suite kills the first one, the whole matrix all."""


@contextmanager
def harness_over(
    script: str = SCRIPT, *, workers: int = 2, modules: Sequence[str] = MODULES, **options: Any
) -> Iterator[Harness]:
    """A harness whose requests are counted by servers, one for each worker."""
    with ExitStack() as stack:
        servers = [stack.enter_context(ServerProcess(script)) for _ in range(workers)]
        requests: list[Requests] = [ServerRequests(server) for server in servers]
        yield stack.enter_context(Harness(requests, modules=modules, cwd=ROOT, **options))
