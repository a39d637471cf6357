"""Two hundred asyncio tasks at once, some of them cancelled on the way and kicked off again."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

from crewai_prod.errors import RunInUse
from tests.concurrency.parts import World, check_runs, harden_it, inputs_of
from tests.concurrency.script import mark
from tests.crews import make_llm
from tests.openai_server import Server

TASKS = 200
CANCELLED = 20
_PATIENCE = 240.0


async def _until_done(crew: Any, n: int) -> Any:
    """`akickoff` and `kickoff_async` in turns; a cancelled one may still be at work on a thread."""
    kickoff = crew.akickoff if n // 4 % 2 else crew.kickoff_async
    while True:
        try:
            return await kickoff(inputs=inputs_of(n), run_id=mark(n))
        except RunInUse:
            await asyncio.sleep(0.05)


async def _cut_off(crew: Any, n: int, seconds: float) -> Any:
    """Cancelled after so many seconds, unless it has finished before, and kicked off again."""
    try:
        async with asyncio.timeout(seconds):
            return await _until_done(crew, n)
    except TimeoutError:
        return await _until_done(crew, n)


def test_tasks_on_one_loop(server: Server, tmp_path: Path) -> None:
    """Output, effects, bill, scopes and log of 200 runs on one loop are each run's own."""
    world, journal = World(), tmp_path / "runs.db"
    crews = [
        harden_it(kind, make_llm(server.url, path, max_retries=0), world, journal, brief=True)
        for kind in ("object", "factory")
        for path in ("native", "text")
    ]
    dice = random.Random(7)
    cut = {n: dice.uniform(0.1, 8.0) for n in dice.sample(range(TASKS), CANCELLED)}

    async def all_of_them() -> list[Any]:
        async with asyncio.timeout(_PATIENCE):
            return await asyncio.gather(
                *(
                    _cut_off(crews[n % 4], n, cut[n]) if n in cut else _until_done(crews[n % 4], n)
                    for n in range(TASKS)
                )
            )

    results = dict(enumerate(asyncio.run(all_of_them())))
    check_runs(results, server.requests, world, journal, brief=True, repeated=1)
