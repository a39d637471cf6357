"""The command line as the README describes it."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner

from crewai_prod.cli import main
from tests.docs.test_readme import README

COMMANDS = main.list_commands(click.Context(main))
_SPANS = [span.split() for span in re.findall(r"`crewai-prod ([^`]+)`", README)]
_SHORT = [span.split() for span in re.findall(r", `(\w+ RUN[^`]*)`", README)]
DOCUMENTED = [*_SPANS, *_SHORT]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented_and_has_help(name: str) -> None:
    """Each is in the README, says what it does, and describes its options."""
    assert name in {words[0] for words in DOCUMENTED}
    shown = CliRunner().invoke(main, [name, "--help"])
    assert shown.exit_code == 0
    assert "--json" in shown.output
    command = main.get_command(click.Context(main), name)
    assert command is not None
    options = [one for one in command.params if isinstance(one, click.Option)]
    assert [one.name for one in options if not one.help] == []


@pytest.mark.parametrize("words", DOCUMENTED, ids=" ".join)
def test_what_the_readme_writes_exists(words: list[str]) -> None:
    """Every command and option that the README shows is one of the program's."""
    command = main.get_command(click.Context(main), words[0])
    assert command is not None
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if re.match(r"--?[a-z]", word)} <= known
