"""How many runs survive: `python -m tests.bench.survival [--runs N] [--rates 0,5,10,20]`.

The same crew of five tasks and two agents (one on the native tool path, one streaming on the text
path; two tools that read, two that act, one structured output), bare and hardened, N times at each
fault rate. The rate is per call: so many model calls in a hundred meet a fault of the server
(`survivors.MODEL_FAULTS`), so many tool calls a fault of the tool (`rig.HARMS`). Run n of either
meets the world of seed n: what goes wrong depends on the request, and on how often it was made.

- **completed**: `kickoff` returned. A hardened run that stopped with an error that says it can go
  on (retryable, or paused) is kicked off again with its id, up to 3 times: an operator's loop.
  A bare run cannot be, short of doing everything anew.
- **wrong**: returned, although an effect is missing or the result is not that of a run without
  faults.
- **twice**: effects beyond the first of the two that each run is to have.
- **calls**, **tokens**: of the model, a run; as the server counts them.

Waiting is switched off in both. For bare CrewAI that means that the sleeps of half a second to 8
seconds between its own tries and the SDK's are cut to a millisecond, in the benchmark's process
only. What remains of the wall time is work, and calls that hang: bare CrewAI and its tools have no
deadline, so a hung call is over for it when the connection is, after 2 seconds; hardened calls have
a deadline of 1 second.

A second table: faults that are there again when the same request is sent again (the key, the
quota, the model's name). There the hardened run must end at once, and say who can act.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tests.bench.survivors import (
    HOPELESS,
    VARIANTS,
    Fate,
    as_json,
    begin,
    one_hopeless_run,
    one_run,
)
from tests.bench.table import Row

RATES = (0.0, 0.05, 0.10, 0.20)


def survive(
    rates: Sequence[float], runs: int, jobs: int = 2, first: int = 0
) -> tuple[list[Fate], list[tuple[str, Fate]]]:
    """Run everything; the fates at each rate, and those of the hopeless runs by fault."""
    with ExitStack() as stack:
        pools = {
            variant: stack.enter_context(
                ProcessPoolExecutor(
                    max(1, jobs // len(VARIANTS)),
                    mp_context=multiprocessing.get_context("spawn"),
                    initializer=begin,
                    initargs=(variant,),
                )
            )
            for variant in VARIANTS
        }
        hopeless: list[tuple[str, Future[Fate]]] = [
            (name, pool.submit(one_hopeless_run, name))
            for name in HOPELESS
            for pool in pools.values()
        ]
        common = [
            pool.submit(one_run, rate, seed)
            for rate in rates
            for seed in range(first, first + runs)
            for pool in pools.values()
        ]
        return (
            [one.result() for one in common],
            [(name, one.result()) for name, one in hopeless],
        )


def table(fates: Sequence[Fate]) -> Iterator[str]:
    """Bare and hardened side by side, as Markdown."""
    yield (
        "| faults per call | | completed | wrong | twice | restarts | calls a run | tokens a run "
        "| seconds a run |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for rate in sorted({fate.rate for fate in fates}):
        for variant in VARIANTS:
            some = _of(fates, rate, variant)
            yield (
                f"| {rate:.0%} | {variant} | {_completed(some)} of {len(some)} "
                f"| {_wrong(some)} | {_twice(some)} | {sum(one.restarts for one in some)} "
                f"| {_mean(one.requests for one in some):.1f} "
                f"| {_mean(one.tokens for one in some):,.0f} "
                f"| {statistics.median(one.seconds for one in some):.2f} |"
            )


def hopeless_table(fates: Sequence[tuple[str, Fate]]) -> Iterator[str]:
    """What the fourth model call's fault, which does not pass, made of each run."""
    yield "| fault | | ended with | model calls | seconds |"
    yield "|---|---|---|---|---|"
    for name, fate in fates:
        yield (
            f"| {name} | {fate.variant} | {fate.error or 'nothing: it returned'} "
            f"| {fate.requests} | {fate.seconds:.2f} |"
        )


def misses(fates: Iterable[Fate]) -> Iterator[str]:
    """Every hardened run that is not as it should be, with what it ended with."""
    for fate in fates:
        short = not fate.completed or fate.wrong_success or fate.duplicates
        if fate.variant == "hardened" and short:
            what = fate.error or ("wrong success" if fate.wrong_success else "acted twice")
            yield f"{fate.rate:.0%} seed {fate.seed}: {what}: {fate.detail}"


def errors(fates: Iterable[Fate]) -> Iterator[str]:
    """What the runs that did not complete ended with."""
    for variant in VARIANTS:
        ended = Counter(one.error for one in fates if one.variant == variant and one.error)
        if ended:
            listed = ", ".join(f"{name} {count}" for name, count in ended.most_common())
            yield f"{variant} ended with: {listed}."


def measure(folder: Path, *, quick: bool, full: bool) -> Iterator[Row]:
    """For `python -m tests.bench`: a few runs, or with `full` all hundred at each rate."""
    del folder
    runs = 3 if quick else 100 if full else 20
    fates, _ = survive((0.0, 0.2) if quick else RATES, runs)
    for rate in sorted({fate.rate for fate in fates}):
        bare, ours = (_of(fates, rate, variant) for variant in VARIANTS)
        share = 100 / runs
        yield Row(
            what=f"runs completed at {rate:.0%} faults a call",
            value=_completed(ours) * share,
            unit="%",
            beside=f"bare {_completed(bare) * share:.0f} %",
            limit=100,
            at_least=True,
        )
        for what, count in (("wrong successes", _wrong), ("effects had twice", _twice)):
            yield Row(
                what=f"{what} at {rate:.0%}",
                value=count(ours),
                unit="",
                beside=f"bare {count(bare)}",
                limit=0,
            )


def _of(fates: Sequence[Fate], rate: float, variant: str) -> list[Fate]:
    return [one for one in fates if (one.rate, one.variant) == (rate, variant)]


def _completed(fates: Sequence[Fate]) -> int:
    return sum(one.completed for one in fates)


def _wrong(fates: Sequence[Fate]) -> int:
    return sum(one.wrong_success for one in fates)


def _twice(fates: Sequence[Fate]) -> int:
    return sum(one.duplicates for one in fates)


def _mean(numbers: Iterable[int]) -> float:
    return statistics.fmean(numbers)


def main() -> int:
    """Measure and print; 1 if a hardened run was not as it should be."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.survival",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=100, help="at each rate, of either")
    parser.add_argument("--rates", default="0,5,10,20", help="per cent, separated by commas")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first run's seed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every run, as JSON")
    asked = parser.parse_args()
    rates = [float(one) / 100 for one in asked.rates.split(",")]
    begun = time.monotonic()
    fates, hopeless = survive(rates, asked.runs, asked.jobs, asked.first)
    print("\n".join(table(fates)))
    print()
    print("\n".join(hopeless_table(hopeless)))
    print()
    print("\n".join(errors(fates)))
    print(f"{len(fates) + len(hopeless)} runs in {time.monotonic() - begun:.0f} s.")
    missed = list(misses(fates))
    print("\n".join(missed), file=sys.stderr)
    if asked.json:
        every = [as_json(one) for one in (*fates, *(replace(f, rate=-1) for _, f in hopeless))]
        asked.json.write_text(json.dumps(every, indent=1))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
