"""The crash test: an uninterrupted run, then trials that are killed, two at a time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Literal, Self

from crewai_prod.crashtest.check import (
    Expectation,
    Violation,
    pauses_explained,
    tally,
    violations,
)
from crewai_prod.crashtest.evidence import FileRequests, Requests
from crewai_prod.crashtest.people import PEOPLE
from crewai_prod.crashtest.plans import (
    AtBoundary,
    AtRandom,
    CancelAtRandom,
    EverySession,
    Mode,
    Plan,
    spread,
)
from crewai_prod.crashtest.report import Report, ShapeReport, count
from crewai_prod.crashtest.sessions import How, Session
from crewai_prod.crashtest.trial import Trial, TrialSeen
from crewai_prod.crashtest.zygote import Zygote
from crewai_prod.errors import UsageError

Judged = tuple[TrialSeen, list[Violation]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A crew to be crash-tested.

    Attributes:
        name: For the report.
        target: Where it is, as `module:attribute`.
        inputs: What it is kicked off with.
        how: The method that is called.
        concurrency: Model calls it may have in flight at once.
        tools_at_once: Tool calls it may make at once.
        stand_in_model: Replace its models by a scripted one.
        stand_in_tools: Replace the bodies of its tools by recorders.
        record: Count its requests and effects in files; off if it does that itself.
        bare: Run it as it is, not hardened.
        deterministic: Whether its models say the same to the same.
        env: Environment variables of its processes.
        people: Who answers what it asks, as `module:attribute`; see `people.Agreeable`.
    """

    name: str
    target: str
    inputs: Mapping[str, Any] | None = None
    how: How = "kickoff"
    concurrency: int = 1
    tools_at_once: int = 1
    stand_in_model: bool = False
    stand_in_tools: bool = False
    record: bool = False
    bare: bool = False
    deterministic: bool = True
    env: Mapping[str, str] = field(default_factory=dict)
    people: str = PEOPLE


class Harness:
    """Crash-tests crews with one set of processes.

    Args:
        requests: Where model requests are counted: one object for each trial at a time.
        modules: What the processes may import before they are forked.
        cwd: Where the crews' modules are looked for; None: the working directory.
        durability: Of the journals. Nothing here cuts the power; `power` only costs time.
        folder: Where to keep everything; None: a temporary one, kept if a promise is broken.
    """

    def __init__(
        self,
        requests: Sequence[Requests],
        *,
        modules: Sequence[str] = (),
        cwd: Path | None = None,
        durability: Literal["process", "power"] = "process",
        folder: Path | None = None,
    ) -> None:
        self._slots: SimpleQueue[Requests] = SimpleQueue()
        for one in requests:
            self._slots.put(one)
        self._workers = len(requests)
        self.zygote = Zygote(modules, cwd)
        self._durability = durability
        self._given = folder
        self._count = 0
        self._failed = False

    def __enter__(self) -> Self:
        self.folder = self._given or Path(tempfile.mkdtemp(prefix="crewai-prod-crash-"))
        self.zygote.__enter__()
        self._pool = ThreadPoolExecutor(self._workers)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        self.zygote.__exit__(kind, error, trace)
        if self._given is None and not self._failed:
            shutil.rmtree(self.folder, ignore_errors=True)

    def baseline(self, subject: Subject) -> TrialSeen:
        """The uninterrupted run.

        Raises:
            UsageError: The crew does not get through even that.
        """
        seen = self._trial(subject, None)
        if not seen.done:
            last = seen.sessions[-1]
            said = (last.error or {}).get("traceback") or last.output[-2000:]
            raise UsageError(f"{subject.name} fails without being killed:\n{said}")
        return seen

    def crash(
        self, subject: Subject, baseline: TrialSeen, plans: Sequence[Plan]
    ) -> list[ShapeReport]:
        """Go through the plans; one report for each of their modes."""
        expected = Expectation(
            baseline=baseline,
            concurrency=subject.concurrency,
            tools_at_once=subject.tools_at_once,
            deterministic=subject.deterministic,
        )
        judged = list(self._pool.map(lambda plan: self._judge(subject, plan, expected), plans))
        self._failed |= any(found for _, found in judged)
        by_mode: dict[Mode, list[Judged]] = {}
        for plan, one in zip(plans, judged, strict=True):
            by_mode.setdefault(plan.mode, []).append(one)
        return [_report(subject.name, mode, trials, expected) for mode, trials in by_mode.items()]

    def _judge(self, subject: Subject, plan: Plan, expected: Expectation) -> Judged:
        seen = self._trial(subject, plan)
        found = violations(seen, expected)
        if plan.mode == "boundary":
            found += pauses_explained(seen, expected)
        if not found:
            shutil.rmtree(seen.folder, ignore_errors=True)
        return seen, found

    def _trial(self, subject: Subject, plan: Plan | None) -> TrialSeen:
        requests = self._slots.get()
        try:
            self._count += 1
            folder = self.folder / f"{subject.name.replace(':', '-')}-{self._count:04}"
            template = self._template(subject)
            return Trial(self.zygote, template, requests, folder, subject.people).run(plan)
        finally:
            self._slots.put(requests)

    def _template(self, subject: Subject) -> Session:
        return Session(
            target=subject.target,
            folder="",
            journal="",
            inputs=subject.inputs,
            how=subject.how,
            durability=self._durability,
            stand_in_model=subject.stand_in_model,
            stand_in_tools=subject.stand_in_tools,
            record=subject.record,
            bare=subject.bare,
            env=subject.env,
        )


def plans_for(
    baseline: TrialSeen, *, points: int | None, random_kills: int, seed: int, cancels: int = 0
) -> list[Plan]:
    """Every way to kill a crew, the longest first.

    Args:
        baseline: Its uninterrupted run.
        points: At how many of its boundaries, evenly spread; None: at every one.
        random_kills: How many runs at random moments.
        seed: For those moments.
        cancels: How many runs to cancel from another process, at random moments.
    """
    return [
        EverySession(),
        *(AtBoundary(number) for number in spread(len(baseline.points), points)),
        *(AtRandom(f"{seed}.{n}", baseline.seconds) for n in range(random_kills)),
        *(CancelAtRandom(f"{seed}.{n}", baseline.seconds) for n in range(cancels)),
    ]


def _report(name: str, mode: Mode, trials: Sequence[Judged], expected: Expectation) -> ShapeReport:
    broken = [(seen.label, violation) for seen, found in trials for violation in found]
    tallies = [tally(seen, expected) for seen, _ in trials]
    comparable = any(seen.done for seen, _ in trials) and expected.deterministic
    return ShapeReport(
        name=name,
        mode=mode,
        boundaries=len(expected.baseline.points),
        trials=len(trials),
        kills=sum(seen.kills for seen, _ in trials),
        resumes=sum(len(seen.sessions) - 1 for seen, _ in trials),
        pauses=sum(seen.pauses for seen, _ in trials),
        lost_answers=sum(one.lost for one in tallies),
        cut_requests=sum(one.unanswered for one in tallies),
        repeated_requests=sum(one.repeated for one in tallies),
        repeated_effects=count(broken, "repeated effect"),
        output_equal=not count(broken, "output") if comparable else None,
        exceptions=count(broken, "exception"),
        seconds=sum(session.seconds for seen, _ in trials for session in seen.sessions),
        violations=tuple(broken),
    )


def run_crash_test(
    target: str,
    *,
    inputs: Mapping[str, Any] | None = None,
    points: int | None = 40,
    random_kills: int = 5,
    seed: int = 0,
    real_model: bool = False,
    real_tools: bool = False,
    how: How = "kickoff",
    durability: Literal["process", "power"] = "process",
    concurrency: int = 8,
    folder: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Crash-test a user's crew.

    Args:
        target: The crew, as `module:attribute`: a crew, a function, a `@CrewBase` class.
        inputs: What to kick it off with.
        points: How many of its boundaries to kill it at, evenly spread; None: every one.
        random_kills: How many runs to SIGKILL at random moments.
        seed: For those moments.
        real_model: Ask its own models (this costs money); default: a scripted one.
        real_tools: Let its tools act; default: recorders in their place.
        how: The method to call.
        durability: Of the journals.
        concurrency: Model calls it may have in flight at once.
        folder: Where to keep everything; None: nothing is kept unless a promise is broken.
        progress: Told what is about to be done.

    Raises:
        UsageError: There is no such crew, or it fails without being killed.
    """
    subject = Subject(
        name=target,
        target=target,
        inputs=inputs,
        how=how,
        concurrency=concurrency,
        tools_at_once=concurrency,
        stand_in_model=not real_model,
        stand_in_tools=not real_tools,
        record=True,
        deterministic=not (real_model or real_tools),
    )
    with Harness([FileRequests(), FileRequests()], durability=durability, folder=folder) as harness:
        progress("an uninterrupted run")
        baseline = harness.baseline(subject)
        plans = plans_for(baseline, points=points, random_kills=random_kills, seed=seed)
        progress(f"{len(plans)} runs that are killed and resumed")
        shapes = tuple(harness.crash(subject, baseline, plans))
        notes = _notes(subject, baseline)
        if not all(shape.ok for shape in shapes):
            notes = (*notes, f"What the broken runs left is kept in {harness.folder}.")
        return Report(shapes=shapes, notes=notes)


def _notes(subject: Subject, baseline: TrialSeen) -> tuple[str, ...]:
    if subject.deterministic:
        return baseline.notes
    why = "Real models and tools need not do the same twice: outputs and bills were not compared."
    return (*baseline.notes, why)
