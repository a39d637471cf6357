"""One session of a run of the ledger benchmark, in a process of its own: the crew and its kickoff.

The process is forked from one that has crewai imported, so this module must start no thread and
build no crew when it is imported.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from crewai import Crew
from crewai.tools import tool

from crewai_prod import Budget, Retry, harden
from crewai_prod.crashtest.sessions import EFFECTS
from crewai_prod.errors import CrewProdError, LimitError, RunPaused
from crewai_prod.waiting import skipping
from tests.bench.traffic import ASIDE, READY, TIMEOUT, Case, Session
from tests.crash import shapes
from tests.crews import make_llm


class Counted(Crew):
    """A crew that keeps what CrewAI itself counts: of a hardened one, of the session's traffic."""

    def _create_crew_output(self, task_outputs: Any) -> Any:
        _counts.append(Crew.calculate_usage_metrics(self).total_tokens)
        return super()._create_crew_output(task_outputs)


_counts: list[int] = []


def run_session(session: Session) -> None:
    """Kick off, and write down what became of it, unless the process is killed."""
    os.environ[shapes.SERVER] = session.url
    os.environ[EFFECTS] = str(session.folder / "effects.jsonl")
    for descriptor in (1, 2):
        os.dup2(os.open(session.folder / "output.txt", os.O_WRONLY | os.O_CREAT), descriptor)
    logging.disable(logging.CRITICAL)
    crew = _hardened(session) if session.bare is False else _crew(session.case)
    (session.folder / f"{session.run_id}.{READY}").touch()
    said = _bare(crew, session.case) if session.bare else _durable(crew, session)
    file = session.folder / f"{session.run_id}.said"
    file.with_suffix(".new").write_text(json.dumps(said))
    file.with_suffix(".new").replace(file)


def _durable(crew: Any, session: Session) -> Mapping[str, Any]:
    with skipping():
        return _told(lambda: _go(crew, session.case, run_id=session.run_id))


def _bare(crew: Any, case: Case) -> Mapping[str, Any]:
    """Bare, with the sleeps between CrewAI's and the SDK's own tries cut to a millisecond."""
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(float(seconds), 0.001))
    return _told(lambda: _go(crew, case))


def _told(kickoff: Callable[[], Any]) -> Mapping[str, Any]:
    try:
        output = kickoff()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - what a run ends with is the finding
        return {
            "error": type(error).__name__,
            "message": str(error)[:300],
            "limit": isinstance(error, LimitError),
            "again": isinstance(error, RunPaused)
            or (isinstance(error, CrewProdError) and not isinstance(error, LimitError)),
        }
    return {"token_usage": output.token_usage.total_tokens, "crewai": _counts[-1]}


def _go(crew: Any, case: Case, **named: Any) -> Any:
    asked: dict[str, Any] = {"inputs": {"order": 7}, **named}
    if case.mode == "kickoff":
        return crew.kickoff(**asked)
    return asyncio.run(getattr(crew, case.mode)(**asked))


def _crew(case: Case) -> Crew:
    """The crew of a case: with models of its own for each agent, or with one for all."""
    crew: Crew = _nested() if case.shape == "nested" else getattr(shapes, case.shape)()
    first: Any = crew.agents[0].llm
    native = first.supports_function_calling()
    made: list[Any] = []

    def model() -> Any:
        if not (made and case.shared_model):
            path: Any = "native" if native else "text"
            made.append(make_llm(os.environ[shapes.SERVER], path, case.stream))
        return made[-1]

    for agent in crew.agents:
        agent.llm = model()
    if crew.manager_llm is not None:
        crew.manager_llm = model()
    object.__setattr__(crew, "__class__", Counted)
    return crew


def _nested() -> Crew:
    """A crew in the tool of a crew, not hardened, and a model that the tool asks itself."""

    @tool
    def ask_shop(order: int) -> str:
        """Ask the shop."""
        told: Any = shapes.sequential_native().kickoff(inputs={"order": order})
        aside = make_llm(os.environ[shapes.SERVER], max_retries=0)
        return f"{told.raw}, {aside.call([{'role': 'user', 'content': ASIDE}])}"

    clerk = shapes.agent_of("Clerk", "native", ask_shop)
    tasks = [shapes.task_of("Ask the shop", clerk), shapes.task_of("Sum up", clerk)]
    return Crew(name="nested", agents=[clerk], tasks=tasks)


def _hardened(session: Session) -> Any:
    case = session.case
    acts = {"effect": "write", "idempotent": True}
    names = ("reserve", "charge", "mail", "ship", "track")
    options: dict[str, Any] = {}
    if case.limit is not None:
        shared = {"window": "month", "label": "both"} if case.processes > 1 else {}
        limits: dict[str, Any] = {case.limit: session.most, **shared}
        options["budget"] = Budget(**limits)
    return harden(
        _crew(case),
        journal=session.folder / "journal.db",
        durability="process",
        retry=Retry(attempts=6, timeout=TIMEOUT),
        tools={**dict.fromkeys(names, acts), "ask_shop": {"effect": "nested"}},
        **options,
    )
