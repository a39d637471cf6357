"""Between a run and its guards: asking them, following what they have said, and failing closed.

Rules. What a guard has said of a value is recorded and followed when the run is resumed, as long as
its version is the same; otherwise it judges anew. A guard that raises, or says what is no verdict,
has not judged: the run stops there (`GuardUnavailable`) and checks again when it is resumed, unless
the guard is declared to fail open. What a guard does itself (it may ask hardened models) is
recorded and billed beside the conversation, and not guarded.

Verdicts that let a value pass as it is are committed with whatever is committed next in the run:
if the process dies before, nothing has come of them. All others are committed at once.

Asynchronous guards are awaited on the loop of the caller, where it has one. Knows nothing of
crewai.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, cast

import orjson

from crewai_prod import codec, threads
from crewai_prod.approval import merged
from crewai_prod.concealing import mask
from crewai_prod.deadlines import TimeLimit, call_within
from crewai_prod.errors import CrewProdError, GuardRejected, GuardUnavailable
from crewai_prod.failures import of_the_call, said_by
from crewai_prod.guards._pipeline import Chains, chains, fits, is_verdict
from crewai_prod.guards._types import (
    Allow,
    Escalate,
    Guard,
    GuardContext,
    Modify,
    Place,
    Reject,
    Verdict,
)
from crewai_prod.guards.taint import reports, spread, whole
from crewai_prod.records import GuardRecord, VerdictKind
from crewai_prod.redact import redact, redact_text
from crewai_prod.steps import Scope, digest, lies_in

if TYPE_CHECKING:
    from crewai_prod.run import Run

P = ParamSpec("P")
T = TypeVar("T")

MOST_REJECTIONS: Final = 2
"""How often an answer is sent back because a guard rejects it."""
_LONGEST_REASON: Final = 500
_KINDS: Final[Mapping[type, VerdictKind]] = {
    Allow: VerdictKind.ALLOW,
    Modify: VerdictKind.MODIFY,
    Reject: VerdictKind.REJECT,
    Escalate: VerdictKind.ESCALATE,
}
_WHAT: Final[Mapping[str, str]] = {
    "kickoff_input": "the inputs of the kickoff",
    "model_input": "what the model was to be asked",
    "model_output": "what the model answered",
    "tool_call": "a tool call",
    "tool_result": "what a tool returned",
    "task_output": "the output of a task",
    "final_output": "the final output",
}
_at_work: ContextVar[bool] = ContextVar("crewai_prod_guard_at_work", default=False)
"""Whether what is done here is done by a guard."""
_home: ContextVar[asyncio.AbstractEventLoop | None] = ContextVar("crewai_prod_home", default=None)
"""The loop that waits for what is judged on this thread."""

_Key = tuple[str, str, str, str, str]
Inside = Callable[["Run", Scope], AbstractContextManager[None]]


class Refusal(Exception):
    """A value may not pass. What that means is for those to say who know its place."""

    def __init__(self, guard: str, place: str, reason: str) -> None:
        super().__init__(f"{guard} rejects {_WHAT[place]}: {reason}")
        self.guard, self.place, self.reason = guard, place, reason


@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """Where a value stands.

    Attributes:
        scope: In the run.
        step_id: The step it belongs to.
        tool: The tool that is called or has answered.
        effect: What that is declared to do.
        model: The model that is asked or has answered.
        sensitive: Names of arguments that nobody is shown.
        built_in: Whether the tool is one of ours.
    """

    scope: Scope
    step_id: str | None = None
    tool: str | None = None
    effect: str | None = None
    model: str | None = None
    sensitive: frozenset[str] = frozenset()
    built_in: bool = False


@dataclass(frozen=True, slots=True)
class _Joined:
    """The guards of one kickoff: of the run (no path), or of what is kicked off within it."""

    path: str | None
    name: str | None
    chains: Chains

    def covers(self, scope: Scope) -> bool:
        return self.path is None or lies_in(scope.path, self.path)


class Guarding:
    """The guards of a run at work. Any thread may ask.

    Args:
        run: The run.
        write: Makes a write to its journal; one that fails stops the run.
        inside: Where a guard's own code runs.

    Attributes:
        on: Whether there are any.
    """

    def __init__(
        self, run: Run, write: Callable[[Callable[[], object]], None], inside: Inside
    ) -> None:
        self.on = False
        self._run = run
        self._write = write
        self._inside = inside
        self._lock = threading.Lock()
        self._joined: list[_Joined] = []
        self._known: dict[_Key, GuardRecord] = {}
        self._pending: list[GuardRecord] = []
        self._tainted: dict[str, list[str]] = {}

    # -- which guards -----------------------------------------------------------------------------

    def join(self, guards: Sequence[Guard], *, name: str | None, path: str | None = None) -> None:
        """Have these guards judge from now on.

        Args:
            guards: As `harden` was given them.
            name: Of the crew, flow or agent whose they are.
            path: The scope of what is kicked off within the run; None: the run's own.
        """
        if guards:
            with self._lock:
                self._joined.append(_Joined(path, name, chains(guards)))
                self.on = True

    def take_up(self, verdicts: Iterable[GuardRecord]) -> None:
        """Take up what is recorded."""
        for record in verdicts:
            if record.verdict is VerdictKind.TAINT or _reports(record):
                self._note_taint(record.scope, record.tool or record.guard)
            if record.verdict is not VerdictKind.TAINT:
                self._known[_key(record)] = record

    def watches(self, scope: Scope, *places: Place) -> bool:
        """Whether any guard judges here; what guards do is not guarded."""
        return self.on and not _at_work.get() and any(self._chain(one, scope) for one in places)

    def _chain(self, place: Place, scope: Scope, of: _Joined | None = None) -> tuple[Guard, ...]:
        """The guards of a place, those of the run before those of what lies within it."""
        joined = [one for one in self._joined if one.covers(scope)] if of is None else [of]
        if len(joined) == 1:
            return joined[0].chains.get(place, ())
        found: list[Guard] = []
        for one in joined:
            found += _told_apart(one, found, place)
        return tuple(sorted(found, key=lambda one: one.order))

    def _name(self, scope: Scope) -> str | None:
        return next((one.name for one in reversed(self._joined) if one.covers(scope)), None)

    # -- taint ------------------------------------------------------------------------------------

    def taint(self, scope: Scope, source: str) -> None:
        """From now on the task around has read what strangers may have written.

        Args:
            scope: Where it was read.
            source: Who brought it in: the name of a tool.
        """
        if not self._note_taint(scope.path, source):
            return
        record = GuardRecord(
            scope=scope.path,
            place="tool_result",
            tool=source,
            guard="untrusted",
            version="1",
            verdict=VerdictKind.TAINT,
            judged="",
            at=time.time(),
        )
        with self._lock:
            self._pending.append(record)

    def tainted(self, scope: Scope) -> tuple[str, ...]:
        """The untrusted sources that were read in the task around so far, or by those it reads."""
        if not self._tainted:
            return ()
        plans = self._run.plans
        reads = {
            plan.path: [plans[one].path for one in plan.definition.reads if one in plans]
            for plan in plans.values()
        }
        with self._lock:
            return spread(self._tainted, whole(scope.path), reads)

    def _note_taint(self, path: str, source: str) -> bool:
        with self._lock:
            sources = self._tainted.setdefault(whole(path), [])
            if source in sources:
                return False
            sources.append(source)
            return True

    # -- judging ----------------------------------------------------------------------------------

    def judge(self, place: Place, value: Any, at: At) -> Any:
        """The value as it may pass: itself, unless a guard has modified it.

        Raises:
            Refusal: It may not pass.
            GuardUnavailable: It could not be checked; the run is stopped.
            CrewProdError: The run was stopped, a person is to be asked first, or what was said
                could not be committed.
        """
        return self._judge(place, value, at, self._chain(place, at.scope))

    def require(self, place: Place, value: Any, at: At) -> Any:
        """As `judge`, where a value that is rejected ends the run.

        Raises:
            GuardRejected: It was; the run is stopped.
        """
        try:
            return self.judge(place, value, at)
        except Refusal as refusal:
            raise self.rejected(refusal, at) from None

    def of_kickoff(self, place: Place, value: Any, scope: Scope, path: str | None) -> Any:
        """As `require`, for what goes into a kickoff or comes out of it: its own guards judge.

        Args:
            place: `kickoff_input` or `final_output`.
            value: The value.
            scope: Where the kickoff is made.
            path: That of a kickoff within the run; None: the run's own.
        """
        own = [one for one in self._joined if one.path == path]
        if not own or _at_work.get():
            return value
        at = At(scope=scope)
        try:
            return self._judge(place, value, at, self._chain(place, scope, own[-1]))
        except Refusal as refusal:
            raise self.rejected(refusal, at) from None

    def rejected(self, refusal: Refusal, at: At, attempts: int = 1) -> CrewProdError:
        """Stop the run on a value that was rejected; returns the refusal that is stored."""
        times = f" (after {attempts} tries)" if attempts > 1 else ""
        error = GuardRejected(
            f"Guard {refusal.guard!r} rejects {_WHAT[refusal.place]}{times}: {refusal.reason}",
            task=at.scope.task_name,
            agent=at.scope.agent,
            step_id=at.step_id,
            guard=refusal.guard,
            place=refusal.place,
            reason=refusal.reason,
            attempts=attempts,
        )
        return self._run.stop(error)

    def unusable(self, place: Place, at: At, why: str) -> CrewProdError:
        """Stop the run: what guards have made of a value cannot take its place."""
        return self._unavailable(f"What guards have made of {_WHAT[place]} is unusable: {why}", at)

    async def in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `threads.in_thread`; where guards may judge in it, at length, and this loop is theirs.

        Those threads are others: a guard may wait for what is committed on the usual ones.
        """
        if not self.on or _at_work.get():
            return await threads.in_thread(work, *args, **kwargs)
        loop = asyncio.get_running_loop()

        def judged() -> T:
            token = _home.set(loop)
            try:
                return work(*args, **kwargs)
            finally:
                _home.reset(token)

        return await threads.at_length(judged)

    def _judge(self, place: Place, value: Any, at: At, chain: tuple[Guard, ...]) -> Any:
        said: list[GuardRecord] = []
        judged = _digest(value)
        try:
            for guard in chain:
                after = self._pass(guard, place, value, at, judged, said)
                if after is not value:
                    value, judged = after, _digest(after)
        finally:
            self._settle(said)
        return value

    def _pass(
        self, guard: Guard, place: Place, value: Any, at: At, judged: str, said: list[GuardRecord]
    ) -> Any:
        """The value behind one guard.

        Raises:
            Refusal: It may not pass.
            CrewProdError: Nobody can say, or a person is to be asked.
        """
        record, failure = self._recorded(guard, place, at, judged), None
        if record is None:
            record, failure = self._ask(guard, place, value, at, judged)
            said.append(record)
            self._run.log.guard_verdict(record, task=at.scope.task_name, agent=at.scope.agent)
        if _reports(record):
            self.taint(at.scope, at.tool or place)
        reason = record.reason or ""
        match record.verdict:
            case VerdictKind.MODIFY:
                return _revived(record.value, value)
            case VerdictKind.REJECT:
                raise Refusal(guard.name, place, reason)
            case VerdictKind.ESCALATE:
                self._settle(said)
                return self._escalate(guard, place, value, at, judged, reason)
            case VerdictKind.UNAVAILABLE if guard.fail == "closed":
                raise self._unavailable(
                    f"Guard {guard.name!r} could not check {_WHAT[place]}: {reason}", at, guard.name
                ) from failure
        return value

    def _recorded(self, guard: Guard, place: Place, at: At, judged: str) -> GuardRecord | None:
        """What is known to have been said; that nobody could say is no verdict to be followed."""
        key = (at.step_id or at.scope.path, place, guard.name, guard.version, judged)
        with self._lock:
            record = self._known.get(key)
        if record is None:
            return None
        unknown = record.verdict is VerdictKind.UNAVAILABLE
        return None if unknown and guard.fail == "closed" else record

    def _ask(
        self, guard: Guard, place: Place, value: Any, at: At, judged: str
    ) -> tuple[GuardRecord, BaseException | None]:
        """Have a guard judge: what it says, or that it could not and why.

        Raises:
            CrewProdError: The run was stopped, by the guard's own model calls perhaps.
        """
        self._run.check()
        began, at_ms = time.time(), time.perf_counter()
        kind, reason, changed = VerdictKind.UNAVAILABLE, "", None
        failure: BaseException | None = None
        try:
            given = _apart(value)
            verdict = self._call(guard, given, self._context(place, at), at.scope, judged)
            if isinstance(verdict, Allow) and given is not value and given != value:
                raise TypeError("it changed the value itself and allowed it; say Modify(value)")
            kind, reason, changed = _read(verdict, place, value)
        except BaseException as error:  # whatever it is, the value is unchecked
            if not of_the_call(error, on_loop=False):
                raise
            failure = error
            if self._run.stopped is not None and self._run.refused(error):
                raise self._run.stopped from error
            reason = said_by(error)
            if guard.fail == "closed":  # what a model told it may be what it could not judge by
                asked = self._run.recorded(_beside(guard, at.scope, judged))
                self._run.have_redone([step.step_id for step in asked])
        record = GuardRecord(
            scope=at.scope.path,
            step_id=at.step_id,
            place=place,
            tool=at.tool,
            guard=guard.name,
            version=guard.version,
            verdict=kind,
            judged=judged,
            reason=redact_text(reason)[:_LONGEST_REASON] or None,
            value=changed,
            at=began,
            duration_ms=round((time.perf_counter() - at_ms) * 1000, 3),
        )
        with self._lock:
            self._known[_key(record)] = record
        return record, failure

    def _call(
        self, guard: Guard, value: Any, context: GuardContext, scope: Scope, judged: str
    ) -> Verdict:
        beside = _beside(guard, scope, judged)
        loop, home = _home.get(), _home.set(None)
        work = _at_work.set(True)
        try:
            with self._inside(self._run, beside):
                return call_within(guard.timeout, lambda: _said(guard, value, context, loop))
        except TimeLimit:
            raise TimeoutError(f"it did not judge within {guard.timeout:g} seconds") from None
        finally:
            _at_work.reset(work)
            _home.reset(home)

    def _context(self, place: Place, at: At) -> GuardContext:
        return GuardContext(
            place=place,
            run_id=self._run.run_id,
            crew=self._name(at.scope),
            task=at.scope.task_name,
            agent=at.scope.agent,
            tool=at.tool,
            effect=at.effect,
            step_id=at.step_id,
            model=at.model,
            tainted=self.tainted(at.scope),
            built_in=at.built_in,
        )

    def _escalate(
        self, guard: Guard, place: Place, value: Any, at: At, judged: str, reason: str
    ) -> Any:
        """The value as a person lets it pass.

        Raises:
            Refusal: The person does not.
            CrewProdError: The person has not answered yet, and the run is stopped.
        """
        tree = codec.to_tree(value)
        shown = redact(mask(tree, at.sensitive) if at.sensitive else tree)
        decision = self._run.approving.ask(
            at.scope,
            kind="guard",
            why="guard",
            about=digest(guard.name.encode(), guard.version.encode(), judged.encode()),
            step_id=at.step_id,
            tool=at.tool,
            arguments=orjson.dumps({"guard": guard.name, "reason": reason, place: shown}).decode(),
        )
        if decision.verdict != "approved":
            raise Refusal(guard.name, place, decision.note or reason)
        if decision.edited is None:
            return value
        edited = decision.edited
        if place == "tool_call" and isinstance(edited, dict):
            edited = merged(value, edited)  # those that change, as with any approval of a call
        if not fits(place, edited):
            raise self.unusable(place, at, "what a person has put in its place has another form.")
        return edited

    def _unavailable(self, message: str, at: At, guard: str | None = None) -> CrewProdError:
        error = GuardUnavailable(
            message,
            task=at.scope.task_name,
            agent=at.scope.agent,
            step_id=at.step_id,
            guard=guard,
        )
        return self._run.stop(error)

    # -- recording --------------------------------------------------------------------------------

    def pending(self) -> tuple[GuardRecord, ...]:
        """What is still to be committed; the caller does it."""
        if not self._pending:
            return ()
        with self._lock:
            taken, self._pending = self._pending, []
        return tuple(taken)

    def flush(self) -> None:
        """Commit what is still to be.

        Raises:
            CrewProdError: It could not be; the run is stopped.
        """
        taken = self.pending()
        run = self._run
        if taken and run.replay_only is None:
            self._write(lambda: run.journal.add_verdicts(run.lease, taken))

    def _settle(self, said: list[GuardRecord]) -> None:
        """See to it that what was said is committed in time."""
        if not said:
            return
        with self._lock:
            self._pending += said
        at_once = any(one.verdict is not VerdictKind.ALLOW for one in said)
        said.clear()
        if at_once:
            self.flush()


def _said(
    guard: Guard, value: Any, context: GuardContext, loop: asyncio.AbstractEventLoop | None
) -> Verdict:
    said = guard.check(value, context)
    return _awaited(said, loop) if inspect.isawaitable(said) else said


def _told_apart(joined: _Joined, others: Sequence[Guard], place: str) -> Iterator[Guard]:
    """The guards of a kickoff but those that judge already, under names that no other one has."""
    names = {one.name for one in others}
    for guard in joined.chains.get(place, ()):
        if guard in others:
            continue
        taken = guard.name in names
        yield replace(guard, name=f"{guard.name} ({joined.name})") if taken else guard


def _read(verdict: Any, place: Place, value: Any) -> tuple[VerdictKind, str, str | None]:
    """A verdict as it is recorded.

    Raises:
        TypeError: It is none, or puts a value of another form in the place of one.
    """
    if not is_verdict(verdict):
        raise TypeError(f"it returned a {type(verdict).__name__}, which is no verdict")
    kind, reason = _KINDS[type(verdict)], getattr(verdict, "reason", "")
    if not isinstance(verdict, Modify):
        return kind, codec.text_of(reason), None
    if not fits(place, verdict.value):
        raise TypeError(f"what it puts in the place of {_WHAT[place]} has another form")
    return kind, codec.text_of(reason), _stored(verdict.value, value)


def _apart(value: Any) -> Any:
    """A value for a guard to look at: what it does to it changes nothing but what it hands back."""
    if isinstance(value, dict):
        return {key: _apart(one) for key, one in value.items()}
    return [_apart(one) for one in value] if isinstance(value, list) else value


def _stored(after: Any, before: Any) -> str:
    """A modified value as it is recorded: of a list of the same length, what differs."""
    if isinstance(after, list) and isinstance(before, list) and len(after) == len(before):
        pairs = enumerate(zip(before, after, strict=True))
        return codec.encode({"at": {str(n): new for n, (old, new) in pairs if new != old}})
    return codec.encode({"value": after})


def _revived(stored: str | None, before: Any) -> Any:
    tree = codec.decode(stored or "{}")
    if "at" not in tree:
        return tree.get("value")
    return [tree["at"].get(str(n), one) for n, one in enumerate(before)]


def _awaited(said: Any, home: asyncio.AbstractEventLoop | None) -> Verdict:
    """What an asynchronous guard says: on the loop that waits for it, else on one of its own."""

    async def wait() -> tuple[Any, BaseException | None]:
        try:
            return await said, None
        except BaseException as error:
            if not of_the_call(error, on_loop=True):
                raise
            return None, error  # raised in there, `SystemExit` would end the loop

    try:
        here = asyncio.get_running_loop()
    except RuntimeError:
        here = None
    if home is not None and home is not here and home.is_running():
        verdict, failure = asyncio.run_coroutine_threadsafe(wait(), home).result()
    elif here is None:
        verdict, failure = asyncio.run(wait())
    else:
        context = contextvars.copy_context()
        with ThreadPoolExecutor(1, thread_name_prefix="crewai-prod-guard") as alone:
            verdict, failure = alone.submit(context.run, asyncio.run, wait()).result()
    if failure is not None:
        raise failure
    return cast(Verdict, verdict)


def _beside(guard: Guard, scope: Scope, judged: str) -> Scope:
    """Where a guard does what it does to judge a value."""
    return replace(scope.beside(f"guard.{guard.name}", judged), follow=False)


def _digest(value: Any) -> str:
    return digest(codec.stored_meaning(value))


def _key(record: GuardRecord) -> _Key:
    where = record.step_id or record.scope
    return where, record.place, record.guard, record.version, record.judged


def _reports(record: GuardRecord) -> bool:
    """Whether a guard has found instructions in what a tool has read."""
    told = record.verdict in (VerdictKind.MODIFY, VerdictKind.REJECT, VerdictKind.ESCALATE)
    return told and record.place == "tool_result" and reports(record.guard, record.reason)
