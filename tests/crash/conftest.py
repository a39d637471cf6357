"""One set of processes for all crash tests: importing crewai costs seconds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from crewai_prod.crashtest import Harness
from crewai_prod.crashtest.evidence import Effect, Recorded, Sent, read_effects, read_journal
from crewai_prod.crashtest.sessions import EFFECTS, Session
from crewai_prod.crashtest.zygote import Child, Zygote
from tests.crash.subjects import SCRIPT, ServerRequests, harness_over
from tests.openai_server import ServerProcess

PATIENCE = 60.0


@pytest.fixture(scope="session")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """The harness over two servers, with crewai loaded."""
    with harness_over(folder=tmp_path_factory.mktemp("crash")) as made:
        yield made


@pytest.fixture(scope="session")
def _server() -> Iterator[ServerProcess]:
    with ServerProcess(SCRIPT) as server:
        yield server


@dataclass(slots=True)
class Stage:
    """Sessions made one by one: for what no plan of the harness describes.

    Attributes:
        zygote: Where processes come from.
        requests: The server's count.
        folder: Where everything lies.
        template: What the sessions have in common.
    """

    zygote: Zygote
    requests: ServerRequests
    folder: Path
    template: Session

    def session(self, name: str, **changes: Any) -> Session:
        """A session with a folder of that name."""
        return replace(self.template, folder=str(self.folder / name), **changes)

    def run(self, name: str, **changes: Any) -> dict[str, Any]:
        """A session from beginning to end; what it said, nothing if it was killed."""
        session = self.session(name, **changes)
        return ended(self.zygote.start(session), session)

    def stopped(self, name: str, **changes: Any) -> tuple[Child, Session]:
        """A session that has stopped itself at a boundary, its process still there."""
        session = self.session(name, stop=True, **changes)
        child = self.zygote.start(session)
        assert child.wait_for("stopped", seconds=PATIENCE)["event"] == "stopped", said(session)
        return child, session

    @property
    def effects(self) -> list[Effect]:
        """What the tools of all sessions did."""
        return read_effects(Path(self.template.env[EFFECTS]))

    @property
    def sent(self) -> list[Sent]:
        """The requests of all sessions."""
        return self.requests.sent()

    def journal(self, run_id: str = "crash") -> Recorded:
        """What the journal holds of a run."""
        return read_journal(Path(self.template.journal), run_id)


def ended(child: Child, session: Session) -> dict[str, Any]:
    """Wait for a session's end; what it said, nothing if it was killed."""
    child.wait_for(seconds=PATIENCE)
    return said(session)


def said(session: Session) -> dict[str, Any]:
    """What a session said at its end."""
    if not session.result_file.exists():
        return {}
    found: dict[str, Any] = json.loads(session.result_file.read_text(encoding="utf-8"))
    return found


@pytest.fixture
def stage(harness: Harness, _server: ServerProcess, tmp_path: Path) -> Stage:
    """An empty stage, for the sequential crew unless a session says otherwise."""
    requests = ServerRequests(_server)
    env: Mapping[str, str] = {
        **requests.begin(tmp_path),
        EFFECTS: str(tmp_path / "effects.jsonl"),
    }
    template = Session(
        target="tests.crash.shapes:sequential_native",
        folder="",
        journal=str(tmp_path / "runs.db"),
        inputs={"order": 7},
        env=env,
    )
    return Stage(harness.zygote, requests, tmp_path, template)
