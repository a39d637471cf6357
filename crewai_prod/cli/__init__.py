"""The command line, `crewai-prod`.

Rule: a command that only reads imports neither crewai nor pydantic nor structlog, and nothing is
ever imported by a name found in a journal. What was stored is never printed as it is: see
`_output.safe`.
"""

from __future__ import annotations

from crewai_prod.cli._main import main

__all__ = ["main"]
