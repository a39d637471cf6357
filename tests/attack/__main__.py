"""How many of the hostile cases are blocked: `python -m tests.attack [--cases]`."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.bench.ledger import isolate


def main() -> int:
    """Try all, print a table; 1 if any was not blocked."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--cases", action="store_true", help="list every case")
    asked = parser.parse_args()
    isolate()
    logging.disable(logging.CRITICAL)
    from tests.attack.case import Case  # after `isolate`: crewai reads the environment when loaded
    from tests.attack.contents import UNNOTICED
    from tests.attack.table import CASES

    def tried(case: Case) -> bool:
        with (
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name,
            contextlib.redirect_stdout(io.StringIO()),  # what CrewAI prints
        ):
            try:
                return case.attempt(Path(name))
            except Exception as error:  # noqa: BLE001 - whatever it is, the case was not blocked
                print(f"{case.family}: {case.name}: {error!r}", file=sys.stderr)
                return False

    blocked = {(case.family, case.name): tried(case) for case in CASES}
    if asked.cases:
        for case in CASES:
            said = "blocked" if blocked[case.family, case.name] else "NOT BLOCKED"
            print(f"{said}  {case.family}: {case.name} ({case.tried}; {case.blocked})")
    print("\n".join(table(blocked)))
    print(f"\nNot noticed by guards that read: {', '.join(UNNOTICED)}.")
    return 0 if all(blocked.values()) else 1


def table(blocked: dict[tuple[str, str], bool]) -> Iterator[str]:
    """Blocked of tried, by family, as Markdown."""
    tried = Counter(family for family, _ in blocked)
    held = Counter(family for (family, _), said in blocked.items() if said)
    yield "| what is tried | blocked / tried |"
    yield "|---|---|"
    for family, count in tried.items():
        yield f"| {family} | {held[family]} / {count} |"
    yield f"| all | {held.total()} / {tried.total()} |"


if __name__ == "__main__":
    sys.exit(main())
