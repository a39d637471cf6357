"""What became of a tool call that was started and never reported back.

Asked in this order: the tool itself, a person who was asked about this very try, the policy of the
kickoff. An answer given about an earlier try says nothing about a later one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from crewai_prod import codec
from crewai_prod.approval import UNKNOWN
from crewai_prod.journal import Journal
from crewai_prod.records import Ruling, StepRecord
from crewai_prod.steps import idempotency_key
from crewai_prod.tooling import Outcome, ToolOptions

UnknownPolicy = str | Outcome | Mapping[str, Outcome]
"""`pause`, `rerun` or `fail`; one outcome for whatever is open; or one by step id."""

_POLICIES = {"rerun": Outcome.not_done(), "fail": Outcome.failed()}
_DECISIONS = {"done": "done", "not_done": "rerun", "failed": "fail"}


def settle(
    journal: Journal,
    run_id: str,
    step: StepRecord,
    arguments: dict[str, Any],
    options: ToolOptions,
    policy: UnknownPolicy,
) -> Outcome:
    """What is known of the call; a question that is settled by it is closed.

    Args:
        journal: Where people's answers are.
        run_id: The run.
        step: The try that was started.
        arguments: The tool's arguments.
        options: What is declared about the tool; `idempotent` settles it by running it again.
        policy: What the caller of `kickoff` said.
    """
    if options.idempotent:
        return Outcome.not_done()
    outcome = Outcome.unknown()
    if options.reconcile is not None:
        outcome = options.reconcile(arguments, idempotency_key(run_id, step.step_id))
    if outcome.kind == "unknown":
        outcome = _answered(journal, run_id, step) or _by_policy(policy, step.step_id)
    if outcome.kind != "unknown":
        _close_question(journal, run_id, step.step_id, outcome)
    return outcome


def _by_policy(policy: UnknownPolicy, step: str) -> Outcome:
    if isinstance(policy, Mapping):
        return policy.get(step, Outcome.unknown())
    if isinstance(policy, Outcome):
        return policy
    return _POLICIES.get(policy, Outcome.unknown())


def _answered(journal: Journal, run_id: str, step: StepRecord) -> Outcome | None:
    """What a person said about this try."""
    for approval in journal.approvals(run_id):
        about = (
            approval.kind == UNKNOWN
            and approval.step_id == step.step_id
            and approval.asked_at >= step.started_at
        )
        if about and approval.answer is not None:
            said = orjson.loads(approval.answer)
            if said["decision"] == "done":
                return Outcome.done(codec.from_tree(said.get("result")))
            return Outcome.not_done() if said["decision"] == "rerun" else Outcome.failed()
    return None


def _close_question(journal: Journal, run_id: str, step: str, outcome: Outcome) -> None:
    """Note what was settled; what a person has said in the same moment stays."""
    said: dict[str, Any] = {"decision": _DECISIONS[outcome.kind]}
    if outcome.kind == "done":
        said["result"] = codec.to_tree(outcome.result)
    answer = orjson.dumps(said).decode()
    ruling = Ruling(status="answered", verdict=said["decision"], answer=answer)
    for approval in journal.approvals(run_id, status="open"):
        if approval.step_id == step and approval.kind == UNKNOWN:
            journal.answer(approval.id, lambda question, status: ruling)
