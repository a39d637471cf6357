"""`.ci/run`, the README and `pyproject.toml` say the same."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_floor_of_crewai_is_the_one_that_is_run() -> None:
    """The oldest crewai that may be installed is the one the suite is run on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    floor = re.search(r"^FLOOR=(\S+)", SCRIPT, re.MULTILINE)
    assert floor is not None
    assert f"crewai>={floor[1]}" in project["dependencies"]


def test_script_can_be_run_and_names_what_is_there() -> None:
    """It is executable, and the folders and marks it names exist."""
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    folders = re.search(r"^FLOOR_TESTS=\((.*)\)", SCRIPT, re.MULTILINE)
    assert folders is not None
    assert all((ROOT / folder).is_dir() for folder in folders[1].split())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    marks = re.findall(r"readme_command (\w+)\)", SCRIPT)
    assert marks
    assert all(f"<!-- command: {mark} -->" in readme for mark in marks)


def test_top_level_holds_nothing_else() -> None:
    """The folder list is the architecture; what tools leave behind is hidden or ignored."""
    allowed = {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"}
    folders = {"crewai_prod", "tests", "examples"}
    found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert found - {"dist", "build"} <= allowed | folders
