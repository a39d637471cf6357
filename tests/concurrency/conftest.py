"""The server that the tests of many runs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.concurrency.script import bank
from tests.openai_server import Server


@pytest.fixture(scope="package")
def shared() -> Iterator[Server]:
    """One server for all."""
    with Server(bank) as running:
        yield running


@pytest.fixture
def server(shared: Server) -> Server:
    """The server, its ledger empty, its faults gone."""
    shared.reset()
    shared.app.faults = None
    return shared
