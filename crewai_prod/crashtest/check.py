"""What a killed run must have in common with one that was not: pure comparisons.

The equation of a session, counted at the model's end and in the journal:

    requests answered = model calls recorded + answers lost

where nothing is lost unless the session was killed, and then no more than were in flight. Over the
trial, the requests beyond those of an uninterrupted run are exactly the lost and the unanswered
ones, and the bill is the uninterrupted run's to the token. Where one call at most is in flight and
the kill fell on a boundary, the number lost is known exactly: one if an answer had come and was not
committed, else none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from crewai_prod.crashtest.trial import SessionSeen, TrialSeen

_BETWEEN = frozenset(
    {"commit.after:start_step", "tool.before_body", "tool.after_body", "commit.before:finish_step"}
)
"""The boundaries between a tool's intent and its outcome."""
_TRACE = "Traceback (most recent call last)"


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was not kept. `kind` groups them in reports."""

    kind: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What is known about the crew, and what may be compared.

    Attributes:
        baseline: The uninterrupted run.
        concurrency: Model calls that may be in flight at once.
        tools_at_once: Tool calls that may be.
        deterministic: Whether the model says the same to the same; if not, outputs, bills and
            repeated requests cannot be held against the baseline's.
    """

    baseline: TrialSeen
    concurrency: int = 1
    tools_at_once: int = 1
    deterministic: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What a trial's repetitions come to.

    Attributes:
        lost: Answers that were received and not committed before a kill.
        unanswered: Requests that were under way when the process was killed.
        repeated: Requests sent again beyond what was in flight at the kills.
    """

    lost: int
    unanswered: int
    repeated: int


def tally(trial: TrialSeen, expected: Expectation) -> Tally:
    """Count what was lost and what was repeated."""
    lost = sum(_lost(session) for session in trial.sessions)
    unanswered = sum(not sent.answered for sent in trial.sent)
    if not expected.deterministic:
        return Tally(lost=lost, unanswered=unanswered, repeated=0)
    again = Counter(s.digest for s in trial.sent) - Counter(
        s.digest for s in expected.baseline.sent
    )
    excused = sum(_in_flight(session, expected.concurrency) for session in trial.sessions)
    repeated = max(0, again.total() - excused)
    return Tally(lost=lost, unanswered=unanswered, repeated=repeated)


def violations(trial: TrialSeen, expected: Expectation) -> list[Violation]:
    """Every promise the trial broke."""
    return [
        *_ends(trial),
        *_effects(trial, expected),
        *(broken for session in trial.sessions for broken in _session(session, expected)),
        *(_against_baseline(trial, expected) if expected.deterministic else ()),
    ]


def _ends(trial: TrialSeen) -> Iterator[Violation]:
    if not trial.done:
        yield Violation("unfinished", f"the run was not done after {len(trial.sessions)} sessions")
    for number, session in enumerate(trial.sessions, 1):
        if session.end in ("failed", "hung"):
            said = (session.error or {}).get("traceback") or session.output[-2000:]
            yield Violation("exception", f"session {number} {session.end}: {said}")
        elif _TRACE in session.output:
            at = session.output.index(_TRACE)
            yield Violation("exception", f"session {number} printed {session.output[at:][:2000]}")


def _effects(trial: TrialSeen, expected: Expectation) -> Iterator[Violation]:
    by_step = Counter(effect.step for effect in trial.effects if effect.step is not None)
    for step, times in by_step.items():
        if times > 1:
            yield Violation("repeated effect", f"step {step} acted {times} times")
    if not expected.deterministic:
        return
    here = Counter(effect.what for effect in trial.effects if not effect.is_of_a_kill)
    there = Counter(effect.what for effect in expected.baseline.effects)
    for what, times in (here - there).items():
        if not any(n > 1 and what in _whats(trial, step) for step, n in by_step.items()):
            yield Violation("repeated effect", f"{what} happened {times} times more")
    told = {effect.what for effect in trial.effects if effect.is_notice}
    told |= {effect.what for effect in expected.baseline.effects if effect.is_notice}
    for what, times in (there - here).items():
        if what in told and trial.kills:
            continue  # nobody is told twice: killed on the way, rather nobody is told
        yield Violation("lost effect", f"{what} happened {times} times less")


def _whats(trial: TrialSeen, step: str) -> set[str]:
    return {effect.what for effect in trial.effects if effect.step == step}


def _session(session: SessionSeen, expected: Expectation) -> Iterator[Violation]:
    lost, unanswered = _lost(session), sum(not sent.answered for sent in session.sent)
    known = _known_lost(session) if expected.concurrency == 1 else None
    if session.end != "killed" and (lost or unanswered):
        yield Violation("ledger", f"{lost} answers not recorded, {unanswered} not waited for")
    elif not 0 <= lost + unanswered <= expected.concurrency or lost < 0:
        yield Violation("ledger", f"{lost} answers lost, {unanswered} requests cut off at a kill")
    elif known is not None and lost != known:
        yield Violation("ledger", f"{lost} answers lost at {session.points[-1]}, not {known}")
    yield from _pause(session)


def _in_flight(session: SessionSeen, concurrency: int) -> int:
    """How many of a killed session's requests may be made again."""
    unanswered = sum(not sent.answered for sent in session.sent)
    return min(concurrency, max(0, _lost(session)) + unanswered) if session.end == "killed" else 0


def _lost(session: SessionSeen) -> int:
    return sum(sent.answered for sent in session.sent) - session.recorded


def _known_lost(session: SessionSeen) -> int | None:
    """How many answers a kill at a boundary lost, if one call at a time is made."""
    if not session.at_point or not session.points:
        return None
    *before, last = session.points
    received = bool(before) and before[-1] == "model.after_call"
    return int(last == "model.after_call" or (received and last == "commit.before:finish_step"))


def _pause(session: SessionSeen) -> Iterator[Violation]:
    """A run pauses on an open step that nobody answered for, and only then."""
    waiting = session.before.open_steps.keys() - session.answered
    if session.end == "paused" and session.step not in waiting:
        yield Violation("pause", f"paused on step {session.step}, which was not open")
    if session.end == "done" and waiting:
        yield Violation("pause", f"went on over the open steps {sorted(waiting)}")


def pauses_explained(trial: TrialSeen, expected: Expectation) -> Iterator[Violation]:
    """After one kill at a boundary: a pause if, and only if, it fell within a tool call."""
    first = next((one for one in trial.sessions if one.end == "killed"), None)
    if first is None:
        return
    opened = bool(first.after.open_steps)
    if opened != bool(trial.pauses):
        said = "paused" if trial.pauses else "did not pause"
        yield Violation("pause", f"{said} after a kill at {first.points[-1:]}")
    one_at_a_time = expected.concurrency == expected.tools_at_once == 1
    if opened and one_at_a_time and first.points[-1] not in _BETWEEN:
        yield Violation("pause", f"a tool call is open after a kill at {first.points[-1]}")


def _against_baseline(trial: TrialSeen, expected: Expectation) -> Iterator[Violation]:
    baseline = expected.baseline
    if trial.done and trial.result != baseline.result:
        yield Violation("output", difference(baseline.result, trial.result))
    counted = tally(trial, expected)
    if counted.repeated:
        yield Violation("repeated request", f"{counted.repeated} requests made again without need")
    new = {sent.digest for sent in trial.sent} - {sent.digest for sent in baseline.sent}
    if new:
        yield Violation("request", f"{len(new)} requests that the uninterrupted run did not make")
    yield from _bill(trial, expected)
    yield from _said(trial, expected)


def _said(trial: TrialSeen, expected: Expectation) -> Iterator[Violation]:
    """What people were asked, what guards have said, and which models were chosen: all the same."""
    if not trial.done:
        return
    here, there = trial.sessions[-1].after, expected.baseline.sessions[-1].after
    for name in ("questions", "verdicts", "choices"):
        mine, theirs = Counter(getattr(here, name)), Counter(getattr(there, name))
        for what, times in (mine - theirs).items():
            yield Violation(name, f"{times} more: {what}")
        for what, times in (theirs - mine).items():
            yield Violation(name, f"{times} less: {what}")
    if here.picousd != there.picousd:
        yield Violation("ledger", f"{here.picousd} picousd, uninterrupted {there.picousd}")


def _bill(trial: TrialSeen, expected: Expectation) -> Iterator[Violation]:
    if not trial.done:
        return
    here, there = trial.sessions[-1].after.usage, expected.baseline.sessions[-1].after.usage
    if here != there:
        yield Violation("ledger", f"the journal's bill is {here}, uninterrupted {there}")
    answered = Counter(s.digest for s in trial.sent if s.answered)
    again = answered - Counter(s.digest for s in expected.baseline.sent)
    price = {sent.digest: sent.tokens for sent in trial.sent if sent.answered}
    paid = sum(price[digest] * times for digest, times in answered.items())
    lost = sum(price[digest] * times for digest, times in again.items())
    if paid != here.total_tokens + lost:
        yield Violation("ledger", f"paid {paid} tokens, recorded {here.total_tokens}, lost {lost}")


def difference(one: object, other: object, path: str = "output") -> str:
    """The first place where two JSON values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            if one.get(key, ...) != other.get(key, ...):
                return difference(one.get(key, ...), other.get(key, ...), f"{path}.{key}")
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            if left != right:
                return difference(left, right, f"{path}[{number}]")
    return f"{path} is {str(other)[:300]!r}, uninterrupted {str(one)[:300]!r}"
