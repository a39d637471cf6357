"""The guards of a task's output.

An answer is judged where it can still be sent back: in the conversation that it ends (`reviewing`).
What becomes the output without having been judged there (a tool's result that is the answer, what a
guardrail has made of one, an agent of another framework's) is judged before it is the output; if it
is rejected then, the run stops.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from crewai_prod._crewai.stop import refusing
from crewai_prod._crewai.takeover import seam_of
from crewai_prod.guarding import At, Refusal
from crewai_prod.run import Run
from crewai_prod.steps import Scope


def guarded_output(run: Run, scope: Scope, task: Any, output: Any) -> Any:
    """An answer that is to be a task's output, as guards let it pass: of the class it had.

    Args:
        run: The run.
        scope: Of the agent that gave it.
        task: Whose output it is to be; None: of an agent that is kicked off by itself.
        output: Text, or an instance of what the model was asked for.

    Raises:
        Refusal: It does not pass.
        CrewProdError: It could not be judged, or the run was stopped.
    """
    guarding, at = run.guarding, At(scope=scope)
    if not guarding.watches(scope, "task_output"):
        return output
    text = output.model_dump_json() if isinstance(output, BaseModel) else str(output)
    passed = guarding.judge("task_output", text, at)
    if task is not None:
        seam_of(task).passed.add(passed)
    if passed is text:
        return output
    try:
        structured = isinstance(output, BaseModel)
        return type(output).model_validate_json(passed) if structured else passed
    except ValueError as error:
        raise guarding.unusable("task_output", at, "it has not the form of the output.") from error


def last_judged(run: Run, scope: Scope, task: Any, output: Any) -> Any:
    """As `guarded_output`, where nothing can be sent back any more, unless it has passed before.

    Raises:
        StopRun: It does not pass.
    """
    seam = seam_of(task)
    if seam is None or not run.guarding.on:
        return output
    text = output.model_dump_json() if isinstance(output, BaseModel) else output
    if text in seam.passed:
        return output
    with refusing():
        try:
            return guarded_output(run, scope, task, output)
        except Refusal as refusal:
            raise run.guarding.rejected(refusal, At(scope=scope)) from None
