"""What the demonstration claims, each claim checked against journal, log and the world outside."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crewai_prod import fields, logfile
from crewai_prod.cli._report import Report, tokens
from crewai_prod.demo.child import CALLS, LEDGER
from crewai_prod.demo.director import Story
from crewai_prod.demo.script import CONFIRMATION
from crewai_prod.records import RunStatus, StepKind, StepRecord, StepStatus, TaskStatus

CHARGE = "charge_card"


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence about what happened, and whether it is true."""

    text: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Findings:
    """The demonstration as figures and checked claims."""

    story: Story
    charges: list[dict[str, Any]]
    claims: list[Claim]
    remarks: list[str]

    @property
    def hold(self) -> bool:
        """Whether every claim is true."""
        return all(claim.holds for claim in self.claims)

    def as_json(self) -> dict[str, Any]:
        """The shape of `demo --json`."""
        story = self.story
        return {
            "run_id": story.orders.run_id,
            "journal": story.orders.journal,
            "log": str(log_of(story)),
            "killed_after": {
                "task": _task_at_kill(story.at_kill),
                **_figures(story.at_kill, story.at_kill.steps, _done(story.at_kill)),
            },
            "replayed": replayed(story),
            "new": new(story),
            "usage": story.end.usage(),
            "charges": self.charges,
            "output": story.output,
            "checks": [{"claim": claim.text, "holds": claim.holds} for claim in self.claims],
            "remarks": self.remarks,
        }


def examine(story: Story) -> Findings:
    """Check everything the demonstration is about to claim."""
    charges = _lines(Path(story.orders.folder, LEDGER))
    claims = [*_about_kill(story), *_about_calls(story), *_about_charges(story, charges)]
    return Findings(story, charges, claims, list(_remarks(story, charges)))


def log_of(story: Story) -> Path:
    """Where the run's log lies."""
    return logfile.beside(Path(story.orders.journal))


def replayed(story: Story) -> dict[str, int]:
    """What the second process did not have to do."""
    end = story.end
    return _figures(end, [s for s in end.steps if end.replayed(s)], _done(story.at_kill))


def new(story: Story) -> dict[str, int]:
    """What the second process did."""
    end = story.end
    made = [step for step in end.steps if not end.replayed(step)]
    return _figures(end, made, _done(end) - _done(story.at_kill))


def _figures(report: Report, steps: Iterable[StepRecord], tasks: set[str]) -> dict[str, int]:
    steps = list(steps)
    tools = [step for step in steps if step.kind is StepKind.TOOL]
    return {
        "tasks": len(tasks),
        "llm_calls": len(steps) - len(tools),
        "tool_calls": len(tools),
        "charges": sum(step.name == CHARGE for step in tools),
        "tokens": tokens(report.spent.get(step.step_id) for step in steps),
    }


def _done(report: Report) -> set[str]:
    return {task.name for task in report.tasks if task.status is TaskStatus.DONE}


def _task_at_kill(report: Report) -> str | None:
    running = (t.name for t in report.tasks if t.status is TaskStatus.RUNNING)
    return next(running, None)


def _about_kill(story: Story) -> Iterator[Claim]:
    at_kill, end = story.at_kill, story.end
    task = _task_at_kill(at_kill)
    charged = sum(step.name == CHARGE for step in at_kill.steps)
    yield Claim(
        f"The first process was killed with SIGKILL in the middle of the task {task!r}, "
        f"after {_times(charged)}.",
        story.exit_status == -signal.SIGKILL
        and at_kill.run.status is RunStatus.INTERRUPTED
        and task is not None
        and charged > 0,
    )
    yield Claim(
        "The second process took the run over under the same run id and finished it.",
        end.run.status is RunStatus.COMPLETED and end.run.epoch == 2,
    )
    finished = {t.name: t.finished_at for t in at_kill.tasks if t.name in _done(at_kill)}
    now = {task.name: task.finished_at for task in end.tasks}
    yield Claim(
        "Tasks that were finished before were not executed again.",
        all(now.get(name) == at for name, at in finished.items()),
    )


def _about_calls(story: Story) -> Iterator[Claim]:
    at_kill, end = story.at_kill, story.end
    kept = {step.step_id: step for step in end.steps}
    same = all(
        step.status is StepStatus.DONE
        and kept[step.step_id].epoch == step.epoch
        and kept[step.step_id].started_at == step.started_at
        for step in at_kill.steps
    )
    yield Claim(
        "Every answer recorded before the kill was used again as it was; nothing was asked, done "
        "or paid for a second time.",
        same and not end.attempts,
    )
    calls = len(end.of(StepKind.MODEL))
    if story.orders.model is None:
        asked, who = len(_lines(Path(story.orders.folder, CALLS))), "The model counted"
    else:
        asked, who = _logged_calls(story), "The log of both processes holds"
    yield Claim(f"{who} {asked} calls; the journal bills {calls}.", asked == calls)
    total = end.usage()["total_tokens"]
    yield Claim(
        f"The result's token_usage is the whole run's: {story.tokens:,} tokens.",
        story.tokens == total,
    )
    if story.orders.model is None:
        yield Claim(
            "The output is word for word what an uninterrupted run returns.",
            story.output == CONFIRMATION,
        )


def _about_charges(story: Story, charges: list[dict[str, Any]]) -> Iterator[Claim]:
    steps = [s for s in story.end.of(StepKind.TOOL) if s.name == CHARGE]
    booked = Counter(charge["step_id"] for charge in charges)
    once = booked == Counter(s.step_id for s in steps if s.status is StepStatus.DONE)
    yield Claim(
        f"The bank's book holds {_times(len(charges))}, one for each charge the model decided on.",
        once and (story.orders.model is not None or len(charges) == 2),
    )


def _remarks(story: Story, charges: list[dict[str, Any]]) -> Iterator[str]:
    """What a real model did differently from the script, said as it is."""
    items = Counter((charge["item"], charge["amount_usd"]) for charge in charges)
    for (item, usd), number in items.items():
        if number > 1:
            yield (
                f"The model itself decided {number} times to charge {item!r} with {usd} USD: each "
                "of these decisions was carried out once."
            )
    if story.orders.model is not None and len(items) != 2:
        yield f"The order has 2 items; the model charged for {len(items)}."
    if story.end.run.reason == "degraded":
        yield "A tool call failed on the way and the model went on from there (see `show`)."


def _times(charges: int) -> str:
    return f"{charges} charge" if charges == 1 else f"{charges} charges"


def _logged_calls(story: Story) -> int:
    lines = logfile.read_log(log_of(story), story.orders.run_id)
    return sum(line[fields.EVENT] == fields.LLM_CALL for line in lines)


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
