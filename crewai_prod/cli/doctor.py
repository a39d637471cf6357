"""`crewai-prod doctor`: will it work here, and if not, what to do about it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import click

from crewai_prod.cli._checks import Check, surroundings
from crewai_prod.cli._errors import FAILED, leave
from crewai_prod.cli._execution import load, results_only
from crewai_prod.cli._options import journal_command
from crewai_prod.cli._output import print_json, safe, styled
from crewai_prod.cli.execute import read_inputs
from crewai_prod.errors import CrewProdError, UsageError


@click.command(short_help="Check whether it will work here.")
@click.argument("target", metavar="[MODULE:CREW]", required=False)
@click.option("--seams", is_flag=True, help="Prove seam by seam that this crewai is taken hold of.")
@click.option(
    "--crash-test", is_flag=True, help="Kill the crew at every boundary, resume, compare."
)
@click.option(
    "-i", "--input", "pairs", multiple=True, metavar="key=value", help="For --crash-test."
)
@click.option("--points", type=click.IntRange(min=0), default=40, help="Kill points; 0: every one.")
@click.option(
    "--random", "random_kills", type=click.IntRange(min=0), default=5, help="SIGKILLs at random."
)
@click.option("--seed", type=int, default=0, help="For --random.")
@click.option("--real-model", is_flag=True, help="Crash-test with the crew's own models.")
@click.option("--real-tools", is_flag=True, help="Crash-test with the crew's own tools.")
@journal_command
def doctor(
    target: str | None,
    seams: bool,
    crash_test: bool,
    pairs: Sequence[str],
    points: int,
    random_kills: int,
    seed: int,
    real_model: bool,
    real_tools: bool,
    journal: str | None,
    as_json: bool,
) -> None:
    """Check the installation; with --seams also each seam in crewai, with MODULE:CREW both."""
    if crash_test:
        if target is None:
            raise UsageError("--crash-test needs a MODULE:CREW.")
        options = {
            "points": points or None,
            "random_kills": random_kills,
            "seed": seed,
            "real_model": real_model,
            "real_tools": real_tools,
        }
        _crash_test(target, read_inputs(pairs, None), options, as_json=as_json)
        return
    checks, facts = _examine(target, journal, seams=seams, as_json=as_json)
    ok = all(check.status != "fail" for check in checks)
    if as_json:
        print_json({"ok": ok, "checks": [asdict(check) for check in checks], "crew": facts})
    else:
        bad = sum(check.status == "fail" for check in checks)
        click.echo("\nReady." if ok else f"\n{bad} to mend before it can work.")
    if not ok:
        leave(FAILED)


def _examine(
    target: str | None, journal: str | None, *, seams: bool, as_json: bool
) -> tuple[list[Check], dict[str, Any] | None]:
    facts: dict[str, Any] = {}
    checks = list(_told(surroundings(journal), quiet=as_json))
    if target is not None:
        checks += _told(_about_crew(target, journal, facts), quiet=as_json)
    if seams or target is not None:
        checks += _told(_about_seams(), quiet=as_json)
    return checks, facts or None


def _about_crew(target: str, journal: str | None, facts: dict[str, Any]) -> Iterator[Check]:
    from crewai_prod.cli._crew_checks import crew_checks, describe_crew

    with results_only():
        try:
            crew = load(target, journal)
        except CrewProdError as error:
            found = [Check("crew", "fail", error.message, "Mend it, then run the doctor again.")]
        else:
            facts.update(describe_crew(crew))
            found = list(crew_checks(crew, facts))
    yield from found


def _about_seams() -> Iterator[Check]:
    from crewai_prod.cli._crew_checks import seam_checks

    with results_only():
        found = list(seam_checks())
    yield from found


def _told(checks: Iterable[Check], *, quiet: bool) -> Iterator[Check]:
    for check in checks:
        if not quiet:
            mark = styled(check.status) + " " * (4 - len(check.status))
            click.echo(f"{mark}  {check.name}: {safe(check.detail)}")
            if check.fix and check.status != "ok":
                click.echo(f"      {safe(check.fix)}")
        yield check


def _crash_test(
    target: str, inputs: dict[str, Any], options: dict[str, Any], *, as_json: bool
) -> None:
    """Hand over to `crewai_prod.crashtest`."""
    from crewai_prod.crashtest import run_crash_test

    def progress(text: str) -> None:
        if not as_json:
            click.echo(safe(text), err=True)

    with results_only(), contextlib.redirect_stdout(sys.stderr):
        report = run_crash_test(target, inputs=inputs or None, progress=progress, **options)
    if as_json:
        print_json(report.to_dict())
    else:
        click.echo(safe(report.render(), lines=True))
    if not report.ok:
        leave(FAILED)
