"""Crash tests: a crew is killed at every boundary of its journal, resumed, and compared.

`run_crash_test` is what `crewai-prod doctor MODULE:CREW --crash-test` runs. The parts, in the order
in which a test passes through them: `plans` says where to kill, `trial` kills and resumes, `zygote`
starts the processes, `sessions` says what such a process does, `evidence` reads what is left
behind, `check` compares it with an uninterrupted run, `report` says what came of it.
"""

from __future__ import annotations

from crewai_prod.crashtest.harness import Harness, Subject, run_crash_test
from crewai_prod.crashtest.report import Report, ShapeReport

__all__ = ["Harness", "Report", "ShapeReport", "Subject", "run_crash_test"]
