"""Two runs on one budget, each killed at random moments: `python -m tests.crash.sharing`.

Each round has a journal of its own. Both runs go on, killed and resumed, until they are done or the
budget is used up; then it is raised, and both are brought to their end. The budget must hold at
every moment, and in the end each run must have done what it does alone.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from crewai_prod.crashtest.evidence import read_effects, read_journal
from crewai_prod.crashtest.sessions import DONE, EFFECTS, PAUSED, Session
from crewai_prod.crashtest.trial import truth
from crewai_prod.crashtest.zygote import Zygote
from tests.crash.conftest import said
from tests.crash.governed import LIMIT
from tests.crash.matrix import isolate
from tests.crash.subjects import MODULES, SCRIPT, ServerRequests
from tests.openai_server import ROOT, ServerProcess

RUNS = ("one", "two")
CALLS = 6
"""Model calls of one run."""
TOGETHER = 8
"""Model calls that both may make until the budget is raised, killed ones included."""
PLENTY = 100
_PATIENCE = 90.0
_MOST_SESSIONS = 40


class Round:
    """One round.

    Args:
        zygote: Where processes come from.
        template: What the sessions have in common.
        seed: For the moments of the kills.
    """

    def __init__(self, zygote: Zygote, template: Session, seed: str) -> None:
        self._zygote = zygote
        self._template = template
        self._seed = seed
        self.kills = 0

    def go(self, run_id: str, limit: int, *, kills: bool) -> str:
        """Sessions of one run until it is `done`, or refused: the type of its error."""
        dice = random.Random(f"{self._seed}.{run_id}.{limit}")
        answers: dict[str, Any] = {}
        for number in range(_MOST_SESSIONS):
            session = replace(
                self._template,
                run_id=run_id,
                folder=f"{self._template.folder}/{run_id}-{limit}-{number:02}",
                answers=answers,
                env={
                    **self._template.env,
                    LIMIT: str(limit),
                    EFFECTS: str(self.effects_file(run_id)),
                },
            )
            doomed = kills and dice.random() < 0.7
            status, told = self._run(session, dice.uniform(0, 0.7) if doomed else None)
            answers = self._answers(run_id, told) if status == PAUSED else {}
            if status == DONE:
                return "done"
            if status not in (PAUSED, -9):
                return str(told.get("error", {}).get("type"))
        raise AssertionError(f"{run_id} is not done after {_MOST_SESSIONS} sessions")

    def _run(self, session: Session, seconds: float | None) -> tuple[int, dict[str, Any]]:
        child = self._zygote.start(session)
        child.wait_for("kickoff", seconds=_PATIENCE)
        if seconds is not None:
            try:
                child.wait_for(seconds=seconds)
            except TimeoutError:
                child.kill()
        status = int(child.wait_for(seconds=_PATIENCE)["status"])
        self.kills += status == -9
        return status, said(session)

    def effects_file(self, run_id: str) -> Path:
        """What a run's tools did: the steps of two runs may have one id."""
        return Path(self._template.folder, f"{run_id}.jsonl")

    def _answers(self, run_id: str, told: dict[str, Any]) -> dict[str, Any]:
        effects = read_effects(self.effects_file(run_id))
        return {told["step"]: truth(told["step"], effects)}


def judge(folder: Path, round_: Round, requests: ServerRequests, both: ThreadPoolExecutor) -> str:
    """Go through a round; what was wrong with it, nothing if all was well."""
    journal = folder / "runs.db"
    ends = list(both.map(lambda run: round_.go(run, TOGETHER, kills=True), RUNS))
    calls = sum(_calls(journal, run) for run in RUNS)
    sent = len(requests.sent())
    if sent > TOGETHER:
        return f"{calls} calls recorded, {sent} sent, {round_.kills} kills, {ends}"
    if "BudgetExceeded" not in ends or calls < TOGETHER - 1 - round_.kills:
        return f"stopped too early, at {calls} calls after {round_.kills} kills: {ends}"
    ends = list(both.map(lambda run: round_.go(run, PLENTY, kills=True), RUNS))
    calls = sum(_calls(journal, run) for run in RUNS)
    if ends != ["done", "done"] or calls != 2 * CALLS:
        return f"in the end {ends}, {calls} calls"
    acted = [[one.tool for one in read_effects(round_.effects_file(run))] for run in RUNS]
    return "" if acted == [["reserve", "charge", "mail"]] * 2 else f"acted: {acted}"


def _calls(journal: Path, run_id: str) -> int:
    return sum(read_journal(journal, run_id).calls.values())


def main() -> None:
    """Go through the rounds, exit with 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.sharing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    isolate()
    kills = broken = 0
    server, zygote, both = ServerProcess(SCRIPT), Zygote(MODULES, ROOT), ThreadPoolExecutor(2)
    with server, zygote, both:
        requests = ServerRequests(server)
        for number in range(options.rounds):
            folder = Path(tempfile.mkdtemp(prefix="crewai-prod-sharing-"))
            template = Session(
                target="tests.crash.governed:tenant",
                folder=str(folder),
                journal=str(folder / "runs.db"),
                inputs={"order": 7},
                env=requests.begin(folder),
            )
            round_ = Round(zygote, template, f"{options.seed}.{number}")
            wrong = judge(folder, round_, requests, both)
            kills, broken = kills + round_.kills, broken + bool(wrong)
            if wrong:
                print(f"round {number}: {wrong} ({folder})", flush=True)
    verdict = f"{broken} rounds BROKEN" if broken else "no promise broken"
    print(f"{options.rounds} rounds, {kills} kills, {verdict}.")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
