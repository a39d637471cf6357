"""The process that makes the demonstration's run, or the rest of it.

It imports crewai, says that it is ready, waits to be told to go, and reports on its standard
output, one JSON object a line. Asked to, it waits before the model call that follows the first
charge, so that whoever kills it cannot miss the middle of a task. The crew knows nothing of that.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, TextIO

from crewai_prod import _faults

Say = Callable[..., None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What a child is told to do.

    Attributes:
        folder: Where ledger and call counter lie.
        journal: The journal.
        run_id: The run.
        hold: Whether to wait after the first charge.
        path: How tools are called: `native` or `text`.
        model: A real model, or None for the scripted one.
        base_url: Its endpoint, None for the provider's own.
        api_key_env: Environment variable that holds its key.
    """

    folder: str
    journal: str
    run_id: str
    hold: bool
    path: str
    model: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None

    def command(self) -> list[str]:
        """The command that starts such a child."""
        return [sys.executable, "-m", __spec__.name, json.dumps(asdict(self))]


CALLS = "model_calls.jsonl"
LEDGER = "charges.jsonl"


def main() -> None:
    """Make the run; standard output is the director's alone."""
    orders = Orders(**json.loads(sys.argv[1]))
    say = _reporter(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)
    try:
        crew = _crew(orders, say)
        say("ready")
        if sys.stdin.readline():
            output = crew.kickoff(inputs={"order": "A-1001"}, run_id=orders.run_id)
            say("finished", output=str(output), tokens=output.token_usage.total_tokens)
    except Exception as error:  # noqa: BLE001 - said to the director, who shows it to a person
        say("failed", error=f"{type(error).__name__}: {error}")
        sys.exit(1)


def _reporter(stream: TextIO) -> Say:
    def say(event: str, **facts: Any) -> None:
        stream.write(json.dumps({"event": event, **facts}) + "\n")
        stream.flush()

    return say


def _crew(orders: Orders, say: Say) -> Any:
    from crewai_prod.demo.crew import order_desk
    from crewai_prod.demo.ledger import Ledger

    def charged() -> None:
        if orders.hold:
            _faults.arm(at="model.before_call", action=lambda: _wait_to_be_killed(say))

    ledger = Ledger(Path(orders.folder, LEDGER), charged)
    return order_desk(_model(orders), ledger, orders.journal)


def _wait_to_be_killed(say: Say) -> NoReturn:
    say("held")
    sys.stdin.read()  # ends only if the director does
    os._exit(1)


def _model(orders: Orders) -> Any:
    if orders.model is None:
        return _scripted(orders)
    from crewai import LLM

    key = os.environ.get(orders.api_key_env or "")
    if key is None and orders.base_url is not None:
        key = "none"  # a server of one's own may ask for no key; the SDK insists on one
    llm = LLM(model=orders.model, base_url=orders.base_url, api_key=key)
    if orders.path == "text":
        object.__setattr__(llm, "supports_function_calling", lambda: False)
    return llm


def _scripted(orders: Orders) -> Any:
    """The scripted model, with every call it really gets counted in a file."""
    from crewai_prod.demo.script import answer
    from crewai_prod.testing import ScriptedLLM

    def counted(messages: Any, tools: Any) -> Any:
        with Path(orders.folder, CALLS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"pid": os.getpid(), "messages": len(messages)}) + "\n")
        return answer(messages, tools)

    return ScriptedLLM(counted, native=orders.path == "native")


if __name__ == "__main__":
    main()
