"""From a run id and a crew's definition to a run that may be advanced, or to its stored result."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from uuid import uuid4

import orjson

from crewai_prod import codec
from crewai_prod.errors import DefinitionChanged
from crewai_prod.heart import HEART, LEASE_SECONDS
from crewai_prod.journal import Journal, forget_owner, new_owner
from crewai_prod.logs import RunLog
from crewai_prod.outcomes import UnknownPolicy
from crewai_prod.records import NewRun, Opened, RunStatus, StepStatus
from crewai_prod.replay import OnChange, TaskDefinition, changes, plan_tasks
from crewai_prod.run import Run
from crewai_prod.steps import digest


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What a kickoff asks for.

    Attributes:
        run_id: Name of the run, None to have one made.
        kind: `crew`, `flow`, `agent` or `function`.
        name: The crew's name.
        inputs: The caller's inputs as given.
        on_change: What to do when the definition is another one than the run's.
        unknown: What to do about a tool call whose outcome a crash left open.
        open_log: Makes the run's log once its id is known.
    """

    run_id: str | None
    kind: str
    name: str | None
    inputs: Any
    open_log: Callable[[str], RunLog]
    on_change: OnChange = "stop"
    unknown: UnknownPolicy = "pause"
    lease_seconds: float = LEASE_SECONDS


def inputs_digest(inputs: Any) -> str:
    """What two kickoffs of one run must agree on. No inputs and empty ones are the same."""
    return digest(codec.stored_meaning(inputs or {}))


def open_session(run: Run, request: RunRequest, definitions: Sequence[TaskDefinition]) -> Opened:
    """Create or take over the run and attach to it; a completed run is returned as it is.

    Raises:
        RunInUse: A live owner has it.
        RunMismatch: It was started with other inputs.
        DefinitionChanged: The crew is another one and `on_change` is `stop`; the run is as before.
        JournalError: The journal could not be read or written.
    """
    new = NewRun(
        run_id=request.run_id or new_run_id(request.name),
        kind=request.kind,
        crew=request.name,
        inputs=codec.encode(request.inputs),
        inputs_digest=inputs_digest(request.inputs),
        versions=_versions(),
    )
    owner = new_owner()
    opened = run.journal.open_run(new, owner, lease_seconds=request.lease_seconds)
    if opened.lease is not None:
        try:
            _attach(run, request, opened, definitions)
        except BaseException:  # nobody is at work on it: the next kickoff takes it over at once
            forget_owner(owner)
            raise
    return opened


def _attach(
    run: Run, request: RunRequest, opened: Opened, definitions: Sequence[TaskDefinition]
) -> None:
    assert opened.lease is not None
    changed = changes(definitions, opened.tasks)
    if changed and request.on_change == "stop":
        raise _refuse(run.journal, opened, changed)
    plans = plan_tasks(definitions, opened.tasks, request.on_change)
    log = request.open_log(opened.run.run_id)
    run.attach(
        opened,
        log=log,
        plans=plans,
        unknown=request.unknown,
        failed_sessions=_failed_sessions(run.journal, opened),
    )
    HEART.join(run, request.lease_seconds)
    if opened.created:
        log.run_started(inputs=request.inputs)
    else:
        log.run_resumed(epoch=opened.lease.epoch)


def new_run_id(name: str | None) -> str:
    """A run id that sorts by time and says what ran: `research-20261122-215301-9f3a1c`."""
    stem = "".join(c if c.isalnum() else "-" for c in (name or "run").lower()).strip("-") or "run"
    return f"{stem[:40]}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid4().hex[:6]}"


def _failed_sessions(journal: Journal, opened: Opened) -> frozenset[int]:
    """Epochs of the sessions that ended because something failed, where that matters."""
    if all(step.status is not StepStatus.FAILED for step in opened.steps):
        return frozenset()
    changes = journal.transitions(opened.run.run_id)
    return frozenset(change.epoch for change in changes if change.target is RunStatus.FAILED)


def _refuse(journal: Journal, opened: Opened, changed: Sequence[Any]) -> DefinitionChanged:
    """Put the run back as it was, and say what changed."""
    assert opened.lease is not None
    run_id = opened.lease.run_id
    before = journal.transitions(run_id)[-1].source
    assert before is not None
    journal.finish_run(opened.lease, before, reason=opened.run.reason, error=opened.run.error)
    named = "; ".join(f"{change.task!r} ({', '.join(change.parts)})" for change in changed)
    return DefinitionChanged(
        f"The crew is not the one this run was started with. Changed: {named}. "
        "Resume with on_change='rerun' to execute these tasks and those that read them again, "
        "or on_change='keep' to accept the stored outputs.",
        run_id=run_id,
        changed={change.task: change.parts for change in changed},
    )


@cache
def _versions() -> str:
    """JSON, read once: the packages' metadata take milliseconds to parse."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in ("crewai", "crewai-prod"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # running from a source tree
            found[package] = "unknown"
    return orjson.dumps(found).decode()
