"""Whether the bill is right: `python -m tests.bench.ledger [--runs N]`.

N mixed runs of ten crews against servers that count what they send: text and native tool calls,
streams, all three kickoffs, tasks and tool calls side by side, one LLM object for many agents,
delegation, planning, guardrails, conversion to a form, crews and model calls in tools, tokens read
from a cache and thought; 429, 5xx, resets, hangs, cut and late answers; keys and quotas that fail
until somebody sees to them; SIGKILL at random moments, up to three times a run; every second run
under a hard limit, some of them shared by two processes. The same runs without `harden` beside it.

What counts as billed: the usage of an answer that the server has sent to its end, to a client that
was still there. An answer of which no usage was sent (an error, a cut, a hang, a client that had
gone) may be billed by a real provider; nobody but the provider can know, so it is counted apart.
Each such answer must be in the ledger, once, with each of its four counts. There are three
exceptions, which are told apart and counted:

- **lost**: it was under way when its process was killed. After a kill at most so many answers may
  be missing as calls could be under way in that crew, all of them among the last that came.
- **late**: it had been left at its deadline, and came when the run had already ended.
- **unread**: it was left at its deadline on an event loop, where a call that is left is cancelled,
  and came in that moment: nobody has read it. There are at most as many as tries with a timeout.

`off` are the runs in which the ledger is any other number: what is missing for no such reason, and
what is booked that no server has sent.

A limit is held against the server's count as well. `passed` are the runs in which what the server
has sent, lost answers aside, is more than the limit; `passed with lost` those in which it is more
together with them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import queue
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from crewai_prod import open_journal
from crewai_prod.records import StepKind, Usage
from tests.bench.traffic import READY, WIDTHS, Case, Session, Weather, case_of, script
from tests.openai_server import Record, Server

IN, CACHED, OUT = Decimal("0.15"), Decimal("0.075"), Decimal("0.60")
"""Dollars for a million tokens of the model that all runs ask."""
RESTARTS = 3
"""How often a run that ended and can go on is kicked off again, kills not counted."""
_PRELOADED = (
    "tests.bench.billed",
    "crewai_prod._crewai.harden",
    "openai.resources.chat",
    "openai.types.beta",
    "openai.types.admin",
)
_SETTLED_WITHIN = 5.0
_LATE_BY = 0.1
"""Seconds that a run takes at most from its last look at its model to its end."""


@dataclass(frozen=True, slots=True)
class Took:
    """The four counts of one answer, or of many."""

    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0

    def __add__(self, other: Took) -> Took:
        return Took(
            self.input + other.input,
            self.output + other.output,
            self.cached + other.cached,
            self.reasoning + other.reasoning,
        )

    @property
    def tokens(self) -> int:
        """Input and output."""
        return self.input + self.output

    @property
    def usd(self) -> Decimal:
        """At list price."""
        fresh = self.input - self.cached
        return (fresh * IN + self.cached * CACHED + self.output * OUT) / 10**6


@dataclass(slots=True, kw_only=True)
class Found:
    """What one case came to, hardened or bare.

    Attributes:
        sent: What the server has sent.
        answers: How many answers that is.
        silent: Answers of which no usage could be sent.
        booked: What the ledger holds.
        lost: Answers under way at a kill.
        late: Answers that came after the run's end.
        unread: Answers to calls that were cancelled at their deadline.
        amiss: Other answers that are not in the ledger.
        off: What is wrong with the bill, in words.
        told: Tokens that `CrewOutput.token_usage` says, of the runs that returned.
        crewai: What CrewAI itself counted of the same sessions.
        errors: What each run ended with that did not return.
        most: What the limit allows.
        taken: Of it, by the server's count.
        taken_known: The same without lost answers.
    """

    case: Case
    bare: bool
    sent: Took = Took()
    answers: int = 0
    silent: int = 0
    booked: Took = Took()
    lost: list[Took] = field(default_factory=list)
    late: list[Took] = field(default_factory=list)
    unread: list[Took] = field(default_factory=list)
    amiss: list[Took] = field(default_factory=list)
    off: list[str] = field(default_factory=list)
    told: list[int] = field(default_factory=list)
    crewai: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    kills: int = 0
    most: Any = None
    taken: Any = None
    taken_known: Any = None
    seconds: float = 0.0


# -- one case -------------------------------------------------------------------------------------


def _child(session: Session) -> None:
    """In the forked process."""
    from tests.bench.billed import run_session

    run_session(session)


class Desk:
    """Runs one case at a time against a server of its own."""

    def __init__(self) -> None:
        self._server = Server(script)
        self._fork = multiprocessing.get_context("forkserver")
        self._calm: dict[str, Found] = {}

    def __enter__(self) -> Desk:
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__(None, None, None)

    def run(self, case: Case, *, bare: bool) -> Found:
        """Run a case; what the server and the ledger say of it."""
        found, seconds = Found(case=case, bare=bare), 0.0
        if case.limit is not None or case.kills:
            calm = self._calm_run(case.shape)
            found.most, seconds = None if bare else _allowed(case, calm), calm.seconds
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            self._run(found, Path(name), seconds)
        return found

    def _calm_run(self, shape: str) -> Found:
        """What a crew takes when nothing goes wrong."""
        if shape not in self._calm:
            case = Case(
                seed=0, shape=shape, mode="kickoff", stream=False, shared_model=False, rate=0.0
            )
            calm = Found(case=case, bare=False)
            for _ in range(2):  # the first session of all pays for caches
                calm = Found(case=case, bare=False)
                with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
                    self._run(calm, Path(name), 0.0)
            assert calm.told == [calm.sent.tokens], calm
            self._calm[shape] = calm
        return self._calm[shape]

    def _run(self, found: Found, folder: Path, calm_seconds: float) -> None:
        case = found.case
        weather = Weather(case)
        self._server.reset()
        self._server.app.faults = weather
        left, kills, restarts = list(case.run_ids), list(case.kills), 0
        while left and restarts <= RESTARTS:
            before = len(self._server.requests)
            killed_after = kills.pop(0) * calm_seconds if kills else None
            killed = self._session(found, left, folder, killed_after)
            self._settle()
            found.kills += killed
            restarts += not killed
            if not found.bare:
                self._compare(found, folder, before, killed=killed)
            left = [one for one in left if not _is_over(found, folder, one)]
            weather.clear()
        for run_id in left:
            found.errors.append(_said(folder, run_id)["error"])
        self._sum_up(found, folder)

    def _session(
        self, found: Found, run_ids: Sequence[str], folder: Path, killed_after: float | None
    ) -> bool:
        """One process for each of these runs; whether any was killed."""
        processes = []
        for run_id in run_ids:
            for name in (f"{run_id}.said", f"{run_id}.{READY}"):
                (folder / name).unlink(missing_ok=True)
            session = Session(
                case=found.case,
                run_id=run_id,
                folder=folder,
                url=self._server.url,
                most=found.most,
                bare=found.bare,
            )
            processes.append(self._fork.Process(target=_child, args=(session,), daemon=True))
            processes[-1].start()
        while not all(
            (folder / f"{run_id}.{READY}").exists() or not process.is_alive()
            for run_id, process in zip(run_ids, processes, strict=True)
        ):
            time.sleep(0.002)
        began = time.monotonic()
        if killed_after is not None:
            for process in processes:
                process.join(max(0.0, began + killed_after - time.monotonic()))
            for process in processes:
                process.kill()
        for process in processes:
            process.join()
        found.seconds += time.monotonic() - began
        return not all((folder / f"{run_id}.said").exists() for run_id in run_ids)

    def _settle(self) -> None:
        """Wait until no request is being answered: nobody is there any more to hear it."""
        deadline = time.monotonic() + _SETTLED_WITHIN
        while any(one.finished_at is None for one in self._server.requests):
            if time.monotonic() > deadline:
                raise RuntimeError("the server is still answering")
            time.sleep(0.005)

    def _compare(self, found: Found, folder: Path, before: int, *, killed: bool) -> None:
        """Hold the ledger against what the server has sent, after each session."""
        answers = [one for one in self._server.requests if _is_answer(one)]
        booked = Counter(_booked(folder, found.case))
        excused = Counter([*_missed(found), *found.amiss])
        missing: list[Record] = []
        for one in answers:
            took = _took(one)
            if booked[took] > 0:
                booked[took] -= 1
            elif excused[took] > 0:
                excused[took] -= 1
            else:
                missing.append(one)
        more = [f"booked, not sent: {took}" for took in booked.elements()]
        found.off += [one for one in more if one not in found.off]
        session = self._server.requests[before:]
        cancelled = _cancelled(folder, found.case) - len(found.unread)
        found.unread += [_took(one) for one in missing[:cancelled]]
        missing = missing[max(0, cancelled) :]
        if killed:
            self._lose(found, missing, session)
            return
        ends = _ends(folder, found.case)
        for one in missing:
            if one.finished_at and one.finished_at > ends - _LATE_BY:
                found.late.append(_took(one))
            else:
                found.off.append(f"sent, not booked: {_took(one)} ({one.fault})")
                found.amiss.append(_took(one))

    def _lose(self, found: Found, missing: Sequence[Record], session: Sequence[Record]) -> None:
        """Answers may be missing that were under way: so many at most, and of the last ones.

        What was left at its deadline may be under way besides.
        """
        width = WIDTHS[found.case.shape] * found.case.processes
        prompt = [one for one in session if _is_answer(one) and one.fault != "drip"]
        last = {one.n for one in prompt[-2 * width :]}
        lost = [one for one in missing if one.n in last][:width]
        for one in missing:
            if one in lost or one.fault == "drip":
                found.lost.append(_took(one))
            else:
                found.off.append(f"sent, not booked at a kill: {_took(one)}")
                found.amiss.append(_took(one))

    def _sum_up(self, found: Found, folder: Path) -> None:
        records = self._server.requests
        answers = [one for one in records if _is_answer(one)]
        found.sent = sum(map(_took, answers), Took())
        found.answers, found.silent = len(answers), len(records) - len(answers)
        if found.bare:
            return
        found.booked = sum(_booked(folder, found.case), Took())
        lost = sum(found.lost, Took())
        if found.sent != sum(_missed(found), found.booked):
            found.off.append(f"sent {found.sent}, booked {found.booked}, lost {lost}")
        _look_everywhere(found, folder)
        if found.most is not None:
            calls = len(records)
            found.taken = _measure(found.case, found.sent, calls, folder)
            known = Took(*(a - b for a, b in zip(_flat(found.sent), _flat(lost), strict=True)))
            calls -= max(0, len(records) - _calls(folder, found.case)) if found.kills else 0
            found.taken_known = _measure(found.case, known, calls, folder)


def _missed(found: Found) -> list[Took]:
    """Answers that are not in the ledger, and need not be."""
    return [*found.lost, *found.late, *found.unread]


def _flat(took: Took) -> tuple[int, ...]:
    return (took.input, took.output, took.cached, took.reasoning)


def _is_answer(record: Record) -> bool:
    return record.completed and bool(record.usage)


def _took(record: Record) -> Took:
    said: Any = record.usage
    return Took(
        said["prompt_tokens"],
        said["completion_tokens"],
        said["prompt_tokens_details"]["cached_tokens"],
        said["completion_tokens_details"]["reasoning_tokens"],
    )


def _of_usage(usage: Usage) -> Took:
    return Took(
        usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.reasoning_tokens
    )


def _rows(folder: Path, case: Case) -> list[Any]:
    """Model calls in the journal: their outcomes, and the tries before."""
    if not (folder / "journal.db").exists():
        return []
    journal, found = open_journal(folder / "journal.db"), []
    known = {one.run_id for one in journal.runs(limit=None)}
    for run_id in known & set(case.run_ids):
        steps = [one for one in journal.steps(run_id) if one.kind is StepKind.MODEL]
        of_model = {one.step_id for one in steps}
        tries = [one for one in journal.attempts(run_id) if one.step_id in of_model]
        found += [*steps, *tries]
    return found


def _booked(folder: Path, case: Case) -> list[Took]:
    """What the ledger holds, call by call."""
    return [
        _of_usage(one.usage) for one in _rows(folder, case) if one.usage and one.usage.total_tokens
    ]


def _cancelled(folder: Path, case: Case) -> int:
    """Tries that were left at their deadline where that cancels them."""
    if case.mode != "akickoff":
        return 0
    return sum('"ModelTimeout"' in (one.error or "") for one in _rows(folder, case))


def _calls(folder: Path, case: Case) -> int:
    return len(_rows(folder, case))


def _ends(folder: Path, case: Case) -> float:
    """When the last session of any of the runs ended."""
    journal = open_journal(folder / "journal.db")
    return min(journal.transitions(run_id)[-1].at for run_id in case.run_ids)


def _said(folder: Path, run_id: str) -> dict[str, Any]:
    file = folder / f"{run_id}.said"
    return dict(json.loads(file.read_text())) if file.exists() else {"error": "killed"}


def _is_over(found: Found, folder: Path, run_id: str) -> bool:
    """Whether the run needs no further session; notes what it came to."""
    said = _said(folder, run_id)
    if "token_usage" in said:
        found.told.append(said["token_usage"])
        found.crewai.append(said["crewai"])
        return True
    if said["error"] == "killed" or (said["again"] and not found.bare):
        return False
    found.errors.append(said["error"])
    return True


def _look_everywhere(found: Found, folder: Path) -> None:
    """All ways to look at the sum give the same."""
    journal, case = open_journal(folder / "journal.db"), found.case
    tokens = found.booked.tokens
    views = {
        "runs": sum(one.total_tokens for one in journal.runs(limit=None)),
        **{
            f"usage by {by}": sum(row.usage.total_tokens for row in journal.usage([by]))
            for by in ("run", "crew", "task", "agent", "model", "day")
        },
    }
    if len(found.told) == len(case.run_ids):
        views["token_usage"] = sum(found.told)
    wrong = {name: said for name, said in views.items() if said != tokens}
    found.off += [f"{name} {said}, booked {tokens}" for name, said in wrong.items()]


def _allowed(case: Case, calm: Found) -> Any:
    """What the limit of a case is; None if it has none."""
    if case.limit is None:
        return None
    whole: dict[str, Any] = {
        "max_tokens": calm.sent.tokens,
        "max_usd": calm.sent.usd,
        "max_llm_calls": calm.answers,
        "max_output_tokens": calm.sent.output,
        "max_input_tokens": calm.sent.input,
        "max_tool_calls": 3,
    }
    most = whole[str(case.limit)] * Decimal(str(case.part)) * case.processes
    return most if case.limit == "max_usd" else max(1, int(most))


def _measure(case: Case, took: Took, calls: int, folder: Path) -> Any:
    effects = folder / "effects.jsonl"
    return {
        "max_tokens": took.tokens,
        "max_usd": took.usd,
        "max_llm_calls": calls,
        "max_output_tokens": took.output,
        "max_input_tokens": took.input,
        "max_tool_calls": len(effects.read_text().splitlines()) if effects.exists() else 0,
    }[str(case.limit)]


# -- all of them ----------------------------------------------------------------------------------


def isolate() -> None:
    """What the tests' conftest does: a HOME of its own, no telemetry."""
    home = tempfile.mkdtemp(prefix="crewai-prod-ledger-")
    os.environ.update(
        HOME=home,
        CREWAI_STORAGE_DIR=f"{home}/storage",
        CREWAI_DISABLE_TELEMETRY="true",
        CREWAI_TRACING_ENABLED="false",
        OTEL_SDK_DISABLED="true",
        OPENAI_API_KEY="sk-test",
    )


def measure(cases: Sequence[Case], *, jobs: int = 2, bare: bool = True) -> list[Found]:
    """Run all cases, hardened and bare."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(_PRELOADED))
    desks: queue.SimpleQueue[Desk] = queue.SimpleQueue()
    done, lock = [0], threading.Lock()
    asked = [(case, one) for case in cases for one in ((False, True) if bare else (False,))]

    def run(case: Case, *, bare: bool) -> Found:
        desk = desks.get()
        try:
            return desk.run(case, bare=bare)
        finally:
            desks.put(desk)
            with lock:
                done[0] += 1
                if sys.stderr.isatty():
                    print(f"\r{done[0]} of {len(asked)}", end="", file=sys.stderr)

    with contextlib.ExitStack() as stack:
        for _ in range(jobs):
            desks.put(stack.enter_context(Desk()))
        pool = stack.enter_context(ThreadPoolExecutor(jobs))
        return [one.result() for one in [pool.submit(run, c, bare=b) for c, b in asked]]


def table(found: Sequence[Found]) -> Iterator[str]:
    """Ledger and CrewAI's own count, beside the server's, as Markdown."""
    ours, bare = ([one for one in found if one.bare is kind] for kind in (False, True))
    yield "| | runs | the server sent | counted | runs in which it is off |"
    yield "|---|---|---|---|---|"
    lost = [took for one in ours for took in one.lost]
    yield (
        f"| hardened: the ledger | {len(ours)} | {_tokens(ours):,} | "
        f"{sum(one.booked.tokens for one in ours):,} | {sum(bool(one.off) for one in ours)} |"
    )
    whole = [one for one in ours if len(one.told) == len(one.case.run_ids)]
    for name, some in (
        ("hardened, returned: `token_usage`", whole),
        ("the same, as CrewAI counts it", whole),
        ("bare, returned: `token_usage`", [one for one in bare if one.told and not one.errors]),
    ):
        said = [sum(one.crewai if name.startswith("the same") else one.told) for one in some]
        wrong = sum(
            said != one.sent.tokens - _excused(one) for said, one in zip(said, some, strict=True)
        )
        yield f"| {name} | {len(some)} | {_tokens(some):,} | {sum(said):,} | {wrong} |"
    stopped = [one for one in bare if one.errors]
    yield f"| bare, raised: nothing is told | {len(stopped)} | {_tokens(stopped):,} | 0 | |"
    yield ""
    late = [took for one in ours for took in one.late]
    unread = [took for one in ours for took in one.unread]
    yield (
        f"{sum(one.kills for one in ours)} kills of hardened runs lost {len(lost)} answers under "
        f"way ({sum(one.tokens for one in lost):,} tokens); {len(late)} answers came after the end "
        f"of their run ({sum(one.tokens for one in late):,} tokens), {len(unread)} to calls that "
        f"were cancelled ({sum(one.tokens for one in unread):,} tokens); of "
        f"{sum(one.silent for one in ours)} requests no usage could be sent."
    )
    limited = [one for one in ours if one.most is not None]
    reached = [one for one in limited if "BudgetExceeded" in one.errors]
    yield (
        f"{len(limited)} runs under a hard limit, {len(reached)} reached it: passed "
        f"{len(_passed(limited))} times; with lost answers "
        f"{sum(one.taken > one.most for one in limited)} times."
    )


def _tokens(some: Iterable[Found]) -> int:
    return sum(one.sent.tokens for one in some)


def _excused(one: Found) -> int:
    return sum(took.tokens for took in _missed(one))


def _passed(limited: Iterable[Found]) -> list[Found]:
    return [one for one in limited if one.taken_known > one.most]


def misses(found: Iterable[Found]) -> Iterator[str]:
    """Every hardened run whose bill is off or whose limit was passed."""
    for one in found:
        if one.off:
            yield f"seed {one.case.seed} ({one.case.shape}): {'; '.join(one.off)}"
        if one.most is not None and one.taken_known > one.most:
            yield (
                f"seed {one.case.seed} ({one.case.shape}): {one.case.limit} {one.most}, "
                f"taken {one.taken_known}"
            )


def main() -> int:
    """Measure and print; 1 if a bill is off or a limit was passed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.ledger",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=200, help="hardened; as many bare")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first run's seed")
    parser.add_argument("--seeds", metavar="N,N", help="these runs alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every run, as JSON")
    asked = parser.parse_args()
    isolate()
    begun = time.monotonic()
    seeds: Iterable[int] = range(asked.first, asked.first + asked.runs)
    if asked.seeds:
        seeds = map(int, asked.seeds.split(","))
    found = measure([case_of(seed) for seed in seeds], jobs=asked.jobs)
    print("\n".join(table(found)))
    ended = Counter(error for one in found if not one.bare for error in one.errors)
    print(f"Hardened runs ended with: {dict(ended.most_common())}.")
    print(f"{len(found)} runs in {time.monotonic() - begun:.0f} s.")
    missed = list(misses(found))
    print("\n".join(missed), file=sys.stderr)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(one) for one in found], indent=1, default=str))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
