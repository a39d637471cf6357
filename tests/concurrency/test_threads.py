"""Many threads on one hardened object or factory: no run sees anything of another one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.concurrency.parts import World, check_runs, harden_it, inputs_of
from tests.concurrency.script import mark, run_of
from tests.crews import make_llm
from tests.integration.parts import PATHS
from tests.openai_server import Seen, Server, fault

THREADS = 32


class FailOnce:
    """Lets one request of every fourth run fail, whichever thread sends it: the run must resume."""

    def __init__(self) -> None:
        self._failed: set[int] = set()

    def __call__(self, seen: Seen) -> Any:
        """The fault, or None."""
        n = run_of(seen.body)
        asked = sum(message["role"] == "assistant" for message in seen.body["messages"])
        if n % 4 or n in self._failed or asked != n // 4 % 2:
            return None
        self._failed.add(n)
        return fault("unauthorized")


@pytest.mark.parametrize("kind", ["object", "factory"])
@pytest.mark.parametrize("path", PATHS)
def test_threads_on_one_crew(server: Server, tmp_path: Path, path: Any, kind: str) -> None:
    """Output, effects, bill, scopes, log of 32 runs at once are each run's own, failing or not."""
    world, journal = World(), tmp_path / "runs.db"
    brief = kind == "factory"
    llm = make_llm(server.url, path, max_retries=0)
    crew = harden_it(kind, llm, world, journal, brief=brief)
    server.app.faults = FailOnce()
    start = threading.Barrier(THREADS)

    def one(n: int) -> Any:
        start.wait()
        while True:
            try:
                return crew.kickoff(inputs=inputs_of(n), run_id=mark(n))
            except Exception as error:  # noqa: BLE001 - whatever CrewAI makes of the 401
                assert "401" in str(error) or "auth" in str(error).lower(), error  # noqa: PT017

    with ThreadPoolExecutor(THREADS) as pool:
        results = dict(enumerate(pool.map(one, range(THREADS))))
    assert sum(record.status == 401 for record in server.requests) == THREADS // 4
    check_runs(results, server.requests, world, journal, brief=brief)
