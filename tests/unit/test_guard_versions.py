"""A guard with other options is another version, in every process the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crewai_prod.guards import (
    Guard,
    at_most,
    hosts,
    injection,
    inside,
    length,
    output_schema,
    pii,
    policy,
    secrets,
    taint,
    tools,
    urls,
)


class Judge:
    """A model."""

    model = "judge"

    def call(self, messages: object) -> str:
        """Answer."""
        return "no"


MADE: list[Callable[[int], Guard]] = [
    lambda n: tools(allow=["a", str(n)]),
    lambda n: tools(arguments={"send": {"amount": at_most(n)}}),
    lambda n: tools(arguments={"send": {"url": hosts(f"h{n}.example.com")}}),
    lambda n: tools(arguments={"send": {"path": [inside(f"/srv/{n}")]}}),
    lambda n: pii(["redact", "mask"][n - 1]),  # type: ignore[arg-type]
    lambda n: pii(kinds={"email", ["ip", "iban"][n - 1]}),
    lambda n: secrets(known=["a" * 8] * n),
    lambda n: injection(delimit=["all", "never"][n - 1]),  # type: ignore[arg-type]
    lambda n: taint(trusted=[str(n)]),
    lambda n: urls([f"h{n}.example.com"]),
    lambda n: length(n),
    lambda n: output_schema([list[int], list[str]][n - 1]),
    lambda n: policy(Judge(), f"Question {n}?"),
]


@pytest.mark.parametrize("make", MADE)
def test_other_options_are_another_version(make: Callable[[int], Guard]) -> None:
    """So what was said by the old rules is not followed; by the same rules it is."""
    assert make(1).version == make(1).version
    assert make(1).version != make(2).version


def test_a_version_is_the_same_in_every_process() -> None:
    """Nothing of it depends on where objects are, or on how a set is ordered."""
    code = (
        "from tests.unit.test_guard_versions import MADE; print([one(1).version for one in MADE])"
    )
    here = str([one(1).version for one in MADE])
    there = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert there.stdout.strip() == here, there.stderr
