"""What every test stands on: an own HOME and CrewAI storage, no telemetry, no network, no settings.

Set before crewai is imported anywhere: it reads them at import.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.covering import deselected

_HOME = tempfile.mkdtemp(prefix="crewai-prod-tests-")

for _name in [name for name in os.environ if name.startswith(("CREWAI_", "OPENAI_", "OTEL_"))]:
    del os.environ[_name]
os.environ.update(
    HOME=_HOME,
    CREWAI_STORAGE_DIR=str(Path(_HOME) / "storage"),
    CREWAI_DISABLE_TELEMETRY="true",
    CREWAI_TRACING_ENABLED="false",
    OTEL_SDK_DISABLED="true",
    OPENAI_API_KEY="sk-test",
    LITELLM_LOCAL_MODEL_COST_MAP="True",  # else it asks the network for prices, three times
    # Whom to trust in TLS, which no test speaks: nobody. Reading some hundred certificates for each
    # client that a model makes would be a third of the time that all tests take.
    SSL_CERT_DIR=_HOME,
)
os.environ.pop("SSL_CERT_FILE", None)

_connect = socket.socket.connect


def _loopback_only(self: socket.socket, address: Any) -> None:
    if self.family in (socket.AF_INET, socket.AF_INET6):
        host = address[0]
        if host not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"tests may not connect to {host!r}")
    _connect(self, address)


setattr(socket.socket, "connect", _loopback_only)  # noqa: B010 - a method of a C class, for mypy


def pytest_addoption(parser: pytest.Parser) -> None:
    """Every combination of tool path and form of kickoff is many minutes more."""
    parser.addoption("--whole", action="store_true", help="run every combination, see covering.py")
    parser.addoption("--sparse", action="store_true", help="run one combination of each test")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out combinations that other tests have."""
    named = any("[" in argument for argument in config.args)
    if named or config.getoption("--whole"):
        return
    out = {id(item) for item in deselected(items, sparse=config.getoption("--sparse"))}
    config.hook.pytest_deselected(items=[item for item in items if id(item) in out])
    items[:] = [item for item in items if id(item) not in out]


def pytest_report_header() -> str:
    """Say what the results depend on."""
    return f"crewai {version('crewai')}, SQLite {sqlite3.sqlite_version}"


@pytest.fixture(autouse=True)
def _no_events_left() -> Iterator[None]:
    """Kills that are acted out leave CrewAI's events begun; all tests share one thread."""
    yield
    event_context = sys.modules.get("crewai.events.event_context")
    if event_context is not None:
        event_context.restore_event_scope(())


@pytest.fixture(autouse=True)
def _no_breaker_open() -> None:
    """The tools of the tests have the same few names, and fail on purpose."""
    from crewai_prod import breakers

    breakers.forget()


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test works in a folder of its own: the default journal lies below it."""
    monkeypatch.chdir(tmp_path)
