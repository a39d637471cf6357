"""Which status a run may go to from which: `records.LEGAL` as a check."""

from __future__ import annotations

from crewai_prod.errors import RunError
from crewai_prod.records import LEGAL, RunStatus


def check_transition(source: RunStatus, target: RunStatus, run_id: str | None = None) -> None:
    """Refuse a transition that the table does not hold.

    Raises:
        RunError: The run cannot go from `source` to `target`.
    """
    if target not in LEGAL[source]:
        legal = ", ".join(sorted(LEGAL[source])) or "nothing: it is final"
        raise RunError(
            f"A run that is {source} cannot become {target} (possible: {legal}).",
            run_id=run_id,
            source=source.value,
            target=target.value,
        )
