"""The whole matrix of kills, as a table: `python -m tests.crash.matrix --all`.

Every boundary of every shape, every session killed, SIGKILL at random moments, and runs that are
cancelled from another process at such moments. Those who answer are killed like the crews. Two runs
on one budget: `python -m tests.crash.sharing`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from crewai_prod.crashtest import Harness, Report, ShapeReport
from crewai_prod.crashtest.harness import plans_for
from tests.crash.subjects import GOVERNED, SUBJECTS, harness_over

RANDOM_KILLS = 24
CANCELS = 6
ALL = {**SUBJECTS, **GOVERNED}


def main() -> None:
    """Run the matrix, print the table, exit with 1 if a promise was broken."""
    options = _options()
    isolate()
    began = time.monotonic()
    names = list(ALL) if options.all or not options.shapes else options.shapes
    with harness_over(folder=options.keep, durability=options.durability) as harness:
        report = Report(shapes=tuple(_shapes(harness, names, options)))
    print(json.dumps(report.to_dict(), indent=2) if options.json else report.render())
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    sys.exit(not report.ok)


def _shapes(
    harness: Harness, names: Iterable[str], options: argparse.Namespace
) -> Iterable[ShapeReport]:
    for name in names:
        subject = ALL[name]
        baseline = harness.baseline(subject)
        plans = plans_for(
            baseline,
            points=None if options.all else options.points,
            random_kills=options.random,
            seed=options.seed,
            cancels=options.cancel,
        )
        reports = harness.crash(subject, baseline, plans)
        print(Report(shapes=tuple(reports)).render(), file=sys.stderr, flush=True)
        yield from reports


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.matrix", description=__doc__)
    parser.add_argument("shapes", nargs="*", help=f"of {', '.join(ALL)}; default: all")
    parser.add_argument("--all", action="store_true", help="all shapes, every boundary")
    parser.add_argument("--points", type=int, default=None, help="boundaries of each shape")
    parser.add_argument("--random", type=int, default=RANDOM_KILLS, help="random kills of each")
    parser.add_argument("--cancel", type=int, default=CANCELS, help="cancelled runs of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--durability", choices=("process", "power"), default="process")
    parser.add_argument("--keep", type=Path, help="folder in which everything is kept")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def isolate() -> None:
    """What the tests' conftest does: an own HOME, no telemetry."""
    home = tempfile.mkdtemp(prefix="crewai-prod-matrix-")
    os.environ.update(
        HOME=home,
        CREWAI_STORAGE_DIR=str(Path(home, "storage")),
        CREWAI_DISABLE_TELEMETRY="true",
        CREWAI_TRACING_ENABLED="false",
        OTEL_SDK_DISABLED="true",
        OPENAI_API_KEY="sk-test",
    )


if __name__ == "__main__":
    main()
