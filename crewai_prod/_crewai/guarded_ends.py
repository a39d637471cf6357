"""The guards at both ends of a kickoff: what goes in, and what is handed over.

The inputs that identify a run are those that its caller gave; what guards make of them is what the
work is done with. A result that was changed is what the journal holds and every caller gets.
"""

from __future__ import annotations

from typing import Any

import orjson

from crewai_prod import codec
from crewai_prod.guarding import At
from crewai_prod.run import Run
from crewai_prod.steps import Scope


def admitted(
    run: Run, scope: Scope, path: str | None, inputs: dict[str, Any] | None
) -> dict[str, Any] | None:
    """The inputs of a kickoff as its guards let them pass.

    Args:
        run: The run.
        scope: Where the kickoff is made.
        path: That of a kickoff within a run; None: it is the run.
        inputs: By name; None: there are none.

    Raises:
        GuardRejected: They do not pass; the run is stopped.
        CrewProdError: It was stopped otherwise.
    """
    if not run.guarding.on:
        return inputs
    given = inputs or {}
    passed: dict[str, Any] = run.guarding.of_kickoff("kickoff_input", given, scope, path)
    return inputs if passed is given else passed


def released(run: Run, scope: Scope, path: str | None, result: Any) -> Any:
    """What a kickoff has come to, as its guards let it pass.

    Raises:
        GuardRejected: It does not pass; the run is stopped.
        GuardUnavailable: What the guards made of it cannot take its place; the run is stopped.
        CrewProdError: It was stopped otherwise.
    """
    if not run.guarding.on:
        return result
    raw = getattr(result, "raw", None)
    text = raw if isinstance(raw, str) else codec.text_of(result)
    passed = run.guarding.of_kickoff("final_output", text, scope, path)
    if passed is text:
        return result
    if isinstance(result, str):
        return passed
    try:
        return _changed(result, passed)
    except ValueError as error:
        at, why = At(scope=scope), "it has not the form of the result."
        raise run.guarding.unusable("final_output", at, why) from error


def _changed(result: Any, text: str) -> Any:
    """The output of a crew or an agent with another text.

    Raises:
        ValueError: The text is not in its form, or the result is no such output.
    """
    if not isinstance(getattr(result, "raw", None), str):
        raise ValueError(f"a {type(result).__name__} is no text")
    update: dict[str, Any] = {"raw": text}
    if result.pydantic is not None:
        update["pydantic"] = type(result.pydantic).model_validate_json(text)
    if getattr(result, "json_dict", None) is not None:
        update["json_dict"] = orjson.loads(text)
    return result.model_copy(update=update)
