"""`crewai-prod run` and `resume`: make a run, or the rest of one.

Rule: stdout carries the crew's output, or with `--json` one object, and nothing else; progress,
what CrewAI prints and what the crew's own code prints go to stderr.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, TextIO

import click

from crewai_prod.cli._execution import Execution, load, options_of, results_only
from crewai_prod.cli._options import journal_command, read_journal
from crewai_prod.errors import UsageError

_INPUT = "key=value"


@click.command()
@click.argument("target", metavar="MODULE:CREW")
@click.option("-i", "--input", "pairs", multiple=True, metavar=_INPUT, help="An input, as text.")
@click.option("--inputs-file", type=click.File(), help="Inputs as a JSON object; - is stdin.")
@click.option("--run-id", help="Name of the run. One that exists is continued.")
@click.option("--traceback", "trace", is_flag=True, help="Show where the crew's code failed.")
@journal_command
def run(
    target: str,
    pairs: Sequence[str],
    inputs_file: TextIO | None,
    run_id: str | None,
    trace: bool,
    journal: str | None,
    as_json: bool,
) -> None:
    """Run a crew, a flow or an agent durably. MODULE is imported from the working directory.

    An agent is asked with -i messages="...".
    """
    inputs = read_inputs(pairs, inputs_file)
    with results_only() as stdout:
        crew = load(target, journal)
        name = run_id or _new_run_id(crew)
        ask = {**_asked(crew, inputs or None), "run_id": name}
        Execution(crew, target, name, ask, stdout, as_json, trace).go()


@click.command()
@click.argument("run_id", metavar="RUN")
@click.argument("target", metavar="MODULE:CREW")
@click.option(
    "--on-change",
    type=click.Choice(["stop", "rerun", "keep"]),
    help="What to do with tasks whose definition has changed.",
)
@click.option(
    "--unknown",
    multiple=True,
    metavar="rerun|fail|RESULT",
    help="What became of a tool call that a crash cut off; STEP=... for one of several.",
)
@click.option("--traceback", "trace", is_flag=True, help="Show where the crew's code failed.")
@journal_command
def resume(
    run_id: str,
    target: str,
    on_change: str | None,
    unknown: Sequence[str],
    trace: bool,
    journal: str | None,
    as_json: bool,
) -> None:
    """Continue a run, with the inputs it was started with."""
    from crewai_prod.cli._unknown import read_unknown

    settled = read_unknown(unknown)
    if journal is not None:  # says what is wrong before crewai has been waited for
        read_journal(journal).run(run_id)
    with results_only() as stdout:
        crew = load(target, journal)
        ask = {
            **_asked(crew, _stored_inputs(crew, run_id)),
            "run_id": run_id,
            "on_change": on_change,
            "unknown": settled,
        }
        Execution(crew, target, run_id, ask, stdout, as_json, trace).go()


def _new_run_id(crew: Any) -> str:
    from crewai_prod._crewai.targets import name_of
    from crewai_prod.session import new_run_id

    return new_run_id(name_of(crew))


def _asked(crew: Any, inputs: Any) -> dict[str, Any]:
    from crewai_prod._crewai.targets import asked_of

    return asked_of(crew, inputs)


def _stored_inputs(crew: Any, run_id: str) -> Any:
    """What the run was started with, from a journal that must be there already."""
    from crewai_prod import codec

    journal = options_of(crew).journal
    if journal is None or isinstance(journal, (str, os.PathLike)):
        journal = read_journal(journal)
    stored = journal.run(run_id).inputs
    return None if stored is None else codec.decode(stored)


def read_inputs(pairs: Sequence[str], file: TextIO | None) -> dict[str, Any]:
    """The inputs of `-i` and `--inputs-file` together; `-i` wins.

    Raises:
        UsageError: One of them is not of the form asked for.
    """
    inputs: Any = {}
    if file is not None:
        try:
            inputs = json.load(file)
        except ValueError as error:
            raise UsageError(f"{file.name} is not JSON: {error}.") from error
        if not isinstance(inputs, dict):
            raise UsageError(f"{file.name} must hold a JSON object, one member for each input.")
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"-i {pair!r} is not of the form {_INPUT}.")
        inputs[key] = value
    return dict(inputs)
