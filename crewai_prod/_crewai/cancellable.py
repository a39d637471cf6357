"""What every hardened target can do with a run by its id."""

from __future__ import annotations

from crewai_prod._crewai.takeover import Seamed, seam_of
from crewai_prod.cancelling import cancel


class Cancellable(Seamed):
    """A target whose seam knows its options."""

    def cancel(self, run_id: str) -> None:
        """Stop a run, in whichever process it is at work, before its next step; see `cancel`.

        Its kickoff raises `RunCancelled`. It can be resumed.

        Raises:
            RunNotFound: There is none of this id.
            RunError: Nobody is at work on it.
        """
        cancel(run_id, seam_of(self).options.open_journal())
