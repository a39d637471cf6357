"""Where in a run code is at work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from crewai_prod._crewai.takeover import seam_of
from crewai_prod.bodies import current_scope
from crewai_prod.run import Run
from crewai_prod.steps import Scope, lies_in


def scope_of(
    run: Run, task: Any = None, agent: Any = None, *, within: Scope | None = None
) -> Scope:
    """Where in the run a call is made: by context, else by the task it names, else the run itself.

    A plain thread started by a user's code does not inherit the context.

    Args:
        run: The run.
        task: The task it names.
        agent: The agent it names.
        within: Where it is at least, whatever the context says.
    """
    current = current_scope.get()
    if within is not None and (current is None or not lies_in(current[1].path, within.path)):
        scope = within
    elif current is not None and current[0] is run:
        scope = current[1]
    else:
        seam = seam_of(task)
        scope = seam.scope if seam is not None else Scope()
    role = getattr(agent, "role", None)
    return replace(scope, agent=role) if role and role != scope.agent else scope
