"""The group of commands."""

from __future__ import annotations

import sys

import click

from crewai_prod.cli import demo, doctor, execute, logs, runs, show


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="crewai-prod", prog_name="crewai-prod")
def main() -> None:
    """Durable, metered runs of CrewAI crews.

    Exit status: 0 done, 1 failed, 2 wrong usage, 3 paused, 4 in use, 143 stopped by SIGTERM
    (130 by SIGINT) after the current step was safe.
    """
    # What a terminal cannot show must not end the command that shows it.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


for command in (
    demo.demo,
    execute.run,
    execute.resume,
    runs.runs,
    show.show,
    logs.logs,
    doctor.doctor,
):
    main.add_command(command)
