"""What users' tests may want: a model that needs no network, and a session of hardened crews.

As a pytest plugin (`-p crewai_prod.testing`) it adds `--harden-crews`: every crew, agent and flow
that a test kicks off is hardened, with a journal in a temporary folder.
"""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crewai_prod.waiting import skipping

if TYPE_CHECKING:
    import pytest

    from crewai_prod._crewai.scripted import Script, ScriptedLLM

__all__ = ["Script", "ScriptedLLM", "no_waiting"]


def no_waiting() -> AbstractContextManager[None]:
    """Within this block nothing in the process waits before a retry, and no breaker is open.

    What is tried, and how often, stays the same; blocks may overlap, in any thread:

        with crewai_prod.testing.no_waiting():
            crew.kickoff()
    """
    return skipping()


def __getattr__(name: str) -> Any:
    """Resolve names when used: as a plugin this module is imported before crewai is set up."""
    if name in __all__:
        from crewai_prod._crewai import scripted

        return getattr(scripted, name)
    raise AttributeError(name)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--harden-crews`."""
    parser.addoption(
        "--harden-crews",
        action="store_true",
        default=False,
        help="Harden every crew, agent and flow that a test kicks off, in a temporary journal.",
    )


def pytest_collection(session: pytest.Session) -> None:
    """Harden before tests are collected, so that what they import is hardened too."""
    if session.config.getoption("--harden-crews"):
        stack = _hardened()
        session.config.add_cleanup(stack.close)


def _hardened() -> ExitStack:
    from crewai_prod._crewai.hardening import kickoffs_hardened

    stack = ExitStack()
    folder = stack.enter_context(
        tempfile.TemporaryDirectory(prefix="crewai-prod-", ignore_cleanup_errors=True)
    )
    stack.enter_context(kickoffs_hardened(Path(folder, "journal.db")))
    return stack
