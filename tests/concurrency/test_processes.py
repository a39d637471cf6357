"""Four processes, one journal, a common list of runs, and kills until all of them are done."""

from __future__ import annotations

import random
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from crewai_prod import open_journal
from crewai_prod.crashtest.evidence import read_effects
from crewai_prod.crashtest.sessions import DONE, EFFECTS, PAUSED, How, Session
from crewai_prod.crashtest.zygote import Zygote
from crewai_prod.logfile import beside, read_log
from crewai_prod.records import StepKind
from tests.concurrency.parts import by_run, check_journal, inputs_of
from tests.concurrency.script import mark, paid
from tests.crash.conftest import ended
from tests.crash.shapes import SERVER
from tests.crash.subjects import MODULES, ServerRequests
from tests.openai_server import ROOT, ServerProcess, totals

PROCESSES = 4
RUNS = 10
WANTED_TWICE = (0, 3, 5, 6)
"""Runs that two processes go for at once, as soon as they get to them."""
REQUESTS = 4
_HOWS: tuple[How, ...] = ("kickoff", "akickoff")
SESSIONS_AT_MOST = 40
"""Of one process for one run: it ends long before."""


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    """Where processes come from."""
    modules = [name for name in MODULES if name != "tests.crash.shapes"]
    with Zygote([*modules, "tests.concurrency.shapes"], cwd=ROOT) as made:
        yield made


@pytest.fixture(scope="module")
def model() -> Iterator[ServerProcess]:
    """A model in a process of its own, so that a busy test does not slow it down."""
    with ServerProcess("tests.concurrency.script:bank") as made:
        yield made


@dataclass
class Office:
    """The runs to be done, who is killed when, and what happened.

    Attributes:
        kills: How often a process was killed, by run.
        refused: How often one was told that another process has the run.
    """

    zygote: Zygote
    folder: Path
    url: str
    dice: random.Random
    kills: Counter[int] = field(default_factory=Counter)
    refused: int = 0
    results: dict[int, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    plan: dict[int, list[int]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def journal(self) -> Path:
        """Of all processes."""
        return self.folder / "runs.db"

    def effects(self, n: int) -> Path:
        """Where the tools of the n-th run say what they do."""
        return self.folder / f"effects-{n}.jsonl"

    def finish(self, n: int, who: int) -> None:
        """Start processes for the n-th run until one of them says that it is done."""
        answers: dict[str, Any] = {}
        pause = threading.Event()
        for number in range(SESSIONS_AT_MOST):
            session = self._session(n, f"{who}-{n}-{number}", answers)
            told = ended(self.zygote.start(session), session)
            if not told:
                with self.lock:
                    self.kills[n] += 1
            elif told["status"] == DONE:
                with self.lock:
                    self.results[n].append(told["result"])
                return
            elif told["status"] == PAUSED:
                answers[told["step"]] = self._what_happened(n, told["step"])
            else:
                assert told["error"]["type"] == "RunInUse", told["error"]
                self.refused += 1
                pause.wait(0.05)
        raise AssertionError(f"run {n} did not end")

    def _session(self, n: int, name: str, answers: dict[str, Any]) -> Session:
        with self.lock:
            kill_at = self.plan[n].pop() if self.plan[n] else None
        return Session(
            target=f"tests.concurrency.shapes:{('native', 'text')[n % 2]}",
            folder=str(self.folder / name),
            journal=str(self.journal),
            run_id=mark(n),
            inputs=inputs_of(n),
            how=_HOWS[n // 2 % 2],
            answers=dict(answers),
            kill_at=kill_at,
            env={SERVER: self.url, EFFECTS: str(self.effects(n))},
        )

    def _what_happened(self, n: int, step: str) -> dict[str, Any]:
        """What a person who looks would say."""
        did = any(effect.step == step for effect in read_effects(self.effects(n)))
        return {"kind": "done", "result": "done"} if did else {"kind": "not_done"}


def _work_off(office: Office) -> None:
    """Four workers take runs from one list; some runs stand in it twice, one after the other."""
    wanted = [n for n in range(RUNS) for _ in range(2 if n in WANTED_TWICE else 1)]
    office.plan = {
        n: [office.dice.randint(2, 30) for _ in range(office.dice.randint(0, 3))]
        for n in range(RUNS)
    }
    with ThreadPoolExecutor(PROCESSES) as pool:
        for job in [pool.submit(office.finish, n, who) for who, n in enumerate(wanted)]:
            job.result()


def test_four_processes_on_one_journal(
    zygote: Zygote, model: ServerProcess, tmp_path: Path
) -> None:
    """Each run ends as if nobody had been killed and nobody else had been there."""
    requests = ServerRequests(model)
    requests.begin(tmp_path)
    office = Office(zygote, tmp_path, model.url, random.Random(11))
    _work_off(office)
    requests.sent()  # waits for requests that killed processes have left behind
    asked, lines = by_run(model.requests), defaultdict(list)
    for line in read_log(beside(office.journal)):
        lines[line["run_id"]].append(line)
    reader = open_journal(office.journal)
    for n in range(RUNS):
        name = mark(n)
        first, *others = office.results[n]
        assert (first["raw"], len(others)) == (paid(n), n in WANTED_TWICE)
        assert all(other == first for other in others)
        done = Counter(effect.what for effect in read_effects(office.effects(n)))
        looked = done.pop(f'look_up({{"who": "{name}"}})')
        assert done == {f'charge({{"who": "{name}"}})': 1}
        assert 1 <= looked <= 1 + office.kills[n]  # it only reads: one cut off is looked up again
        good = [record for record in asked[name] if record.completed]
        once = {record.digest: record for record in good}
        assert len(once) == REQUESTS
        assert len(good) - REQUESTS <= office.kills[n]  # each was in flight when one was killed
        spent = totals(once.values()).total_tokens
        assert first["token_usage"]["total_tokens"] == spent
        check_journal(reader, name, [f"Clerk of {name}", f"Cashier of {name}"], spent)
        _check_log(lines[name], reader.steps(name))
    reader.close()
    assert sum(office.kills.values()) >= RUNS // 2
    assert set(lines) == {mark(n) for n in range(RUNS)}


def _check_log(lines: list[dict[str, Any]], steps: list[Any]) -> None:
    """Lines of several processes: whole, of this run's steps, a paid call told at most once each.

    A process that is killed between a commit and its line leaves no line.
    """
    assert {line["step_id"] for line in lines if "step_id" in line} <= {s.step_id for s in steps}
    told = Counter(line["step_id"] for line in lines if line["event"] == "llm.call")
    assert set(told) <= {step.step_id for step in steps if step.kind is StepKind.MODEL}
    assert max(told.values()) == 1
    ended = [line for line in lines if line["event"] != "usage.alert"]  # a killed run took more
    assert ended[-1]["event"] == "run.finished"
