"""The group of commands."""

from __future__ import annotations

import sys
from importlib import import_module

import click

_COMMANDS = {
    "demo": "demo",
    "run": "execute",
    "resume": "execute",
    "runs": "runs",
    "show": "show",
    "logs": "logs",
    "usage": "usage",
    "approvals": "approvals",
    "approve": "approvals",
    "reject": "approvals",
    "cancel": "cancel",
    "doctor": "doctor",
}
"""Commands and the modules of this folder they are in, in the order of the help."""


class _Commands(click.Group):
    """Imports only the command that was asked for: a reading one takes little longer than that."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"crewai_prod.cli.{_COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command


def _version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if not asked:
        return
    from importlib import metadata  # as slow as all else here together

    try:
        click.echo(f"crewai-prod {metadata.version('crewai-prod')}")
    except metadata.PackageNotFoundError:
        click.echo("crewai-prod, not installed: running from its source tree")
    ctx.exit()


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Print it.",
)
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
