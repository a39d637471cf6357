"""The server and effects that the integration tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crewai_prod.testing import no_waiting
from tests.integration.parts import SCRIPT, Effects
from tests.openai_server import Server


@pytest.fixture(autouse=True)
def _nobody_waits(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test waits before a retry, but those whose subject it is."""
    if "waits" in request.keywords:
        yield
        return
    with no_waiting():
        yield


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    """One server for the module."""
    with Server(SCRIPT) as running:
        yield running


@pytest.fixture
def server(shared: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The module's server, its ledger empty, its faults gone.

    Models that are given by name alone reach it too.
    """
    monkeypatch.setenv("OPENAI_BASE_URL", f"{shared.url}/v1")
    shared.reset()
    shared.app.faults = None
    shared.app.script = SCRIPT
    return shared


@pytest.fixture
def effects(tmp_path: Path) -> Effects:
    """An empty effects file."""
    return Effects(tmp_path)
