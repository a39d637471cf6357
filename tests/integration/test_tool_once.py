"""One decision of the model is one call of the tool, whatever the tool raises."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.tools import BaseTool, tool

from crewai_prod import harden, open_journal
from crewai_prod.errors import RunPaused, ToolUnavailable
from crewai_prod.records import RunStatus
from tests.crews import make_llm
from tests.integration.parts import MODES, PATHS, Effects, Killed, Mode, go
from tests.integration.test_tools import make_pay, pay_crew, raising
from tests.openai_server import Conversation, Rule, Server, answer, use


def aborted() -> Exception:
    """What CrewAI lets through everywhere but here."""
    dispatch = pytest.importorskip(
        "crewai.hooks.dispatch", reason="this release has no HookAborted to raise"
    )
    error: Exception = dispatch.HookAborted("stop", source="a tool")
    return error


TOLD: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError("no answer"),
    "HookAborted": aborted,
    "ToolUnavailable": lambda: ToolUnavailable("no answer"),
    "SystemExit": lambda: SystemExit(3),
    "CancelledError": lambda: asyncio.CancelledError("no answer"),
}
"""What ends a call: the model is told."""
ENDS: dict[str, type[BaseException]] = {
    "KeyboardInterrupt": KeyboardInterrupt,
    "BaseException": Killed,
}
"""What ends a session: the run can be resumed."""


def paying(effects: Effects, kind: str, then: Callable[[], Any]) -> BaseTool:
    """A tool of either kind that acts and then does `then`."""
    if kind == "sync":
        return make_pay(effects, then)

    @tool
    async def pay(amount: int) -> str:
        """Pay."""
        await asyncio.sleep(0)
        effects.add(f"pay {amount}")
        then()
        return f"paid {amount}"

    return pay


@pytest.mark.parametrize("name", TOLD)
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_what_ends_a_call(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode, kind: str, name: str
) -> None:
    """The tool ran once, the model heard of it, and nothing else came to an end."""
    pay = paying(effects, kind, raising(TOLD[name]()))
    crew = harden(pay_crew(server, path, pay), journal=tmp_path / "j.db")
    assert go(crew, mode, run_id="a").raw == "paid 5"
    assert effects.lines == ["pay 5"]
    assert len(server.requests) == 2
    run = open_journal(tmp_path / "j.db").run("a")
    assert (run.status, run.reason) == (RunStatus.COMPLETED, "degraded")


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_what_ends_a_session(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode, kind: str, name: str
) -> None:
    """It is raised to whoever kicked off; the resumed run does not repeat the call by itself."""
    pay = paying(effects, kind, raising(ENDS[name]()))
    crew = harden(pay_crew(server, path, pay), journal=tmp_path / "j.db")
    with pytest.raises(ENDS[name]):
        go(crew, mode, run_id="a")
    assert open_journal(tmp_path / "j.db").run("a").status is RunStatus.INTERRUPTED
    with pytest.raises(RunPaused):
        go(crew, mode, run_id="a")
    assert (effects.lines, len(server.requests)) == (["pay 5"], 1)
    assert go(crew, mode, run_id="a", unknown="fail").raw == "paid 5"
    assert effects.lines == ["pay 5"]


@pytest.mark.parametrize("seconds", [None, 20.0])
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("path", PATHS)
def test_cancelled_while_the_tool_is_at_work(
    server: Server, effects: Effects, tmp_path: Path, path: str, kind: str, seconds: float | None
) -> None:
    """Whoever cancels `akickoff` ends the session, and the call is not made again."""
    go_on, begun = threading.Event(), threading.Event()

    @tool("pay")
    def pay(amount: int) -> str:
        """Pay."""
        effects.add(f"pay {amount}")
        begun.set()
        go_on.wait(20)
        return f"paid {amount}"

    @tool("pay")
    async def pay_async(amount: int) -> str:
        """Pay."""
        effects.add(f"pay {amount}")
        begun.set()
        await asyncio.sleep(1)
        return f"paid {amount}"

    crew = harden(
        pay_crew(server, path, pay if kind == "sync" else pay_async),
        journal=tmp_path / "j.db",
        tools={"pay": {"timeout": seconds}},
    )

    async def cancel() -> None:
        work = asyncio.create_task(crew.akickoff(run_id="a"))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        work.cancel()
        asyncio.get_running_loop().call_later(0.3, go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(cancel())
    assert open_journal(tmp_path / "j.db").run("a").status is RunStatus.INTERRUPTED
    assert effects.lines == ["pay 5"]
    crew.kickoff(run_id="a", unknown="fail")
    assert effects.lines == ["pay 5"]


@pytest.mark.parametrize("path", PATHS)
def test_exit_of_a_signals_handler_ends_the_session(
    server: Server, effects: Effects, tmp_path: Path, path: str
) -> None:
    """`SystemExit` of a tool ends its call; that of a handler is the end of the process."""

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(7)

    before = signal.signal(signal.SIGUSR1, leave)
    try:
        pay = make_pay(effects, lambda: signal.raise_signal(signal.SIGUSR1))
        crew = harden(pay_crew(server, path, pay), journal=tmp_path / "j.db")
        with pytest.raises(SystemExit):
            crew.kickoff(run_id="a")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert open_journal(tmp_path / "j.db").run("a").status is RunStatus.INTERRUPTED
    assert effects.lines == ["pay 5"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_task_that_is_tried_again_calls_no_tool_again(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode
) -> None:
    """By a guardrail's complaint: what was done to the world for the same words stays done."""
    complaints: list[str] = []

    def judged(output: Any) -> Any:
        complaints.append(output.raw)
        return (len(complaints) > 2, output.raw if len(complaints) > 2 else "Say it again.")

    check: Any = lambda output: judged(output)  # noqa: E731 - CrewAI reads annotations, as texts
    pay = use("pay", {"amount": 5})
    server.app.script = Conversation(
        Rule(pay, answer("paid 1"), pay, answer("paid 2"), pay, answer("paid 3"))
    )
    llm = make_llm(server.url, path, max_retries=0)  # type: ignore[arg-type]
    one = Agent(role="A", goal="g", backstory="b", llm=llm, tools=[make_pay(effects)])
    task = Task(
        description="d", expected_output="o", agent=one, guardrail=check, guardrail_max_retries=3
    )
    crew: Any = harden(Crew(agents=[one], tasks=[task]), journal=tmp_path / "j.db")
    go(crew, mode, run_id="a")
    assert len(complaints) == 3
    assert effects.lines == ["pay 5"]
