"""Tools with types that hold, in crews: bare and hardened, on both tool paths."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.tools import BaseTool
from crewai.tools import tool as crewais_tool
from pydantic import BaseModel, SecretStr

from crewai_prod import harden, open_journal, tool
from tests.crews import make_llm
from tests.integration.parts import MODES, PATHS, Effects, Killed, Mode, go, killed
from tests.openai_server import Conversation, Rule, Server, answer, use
from tests.openai_strict import violations

RIGHT = {"amount": 5, "on": "2026-01-31"}
WRONG = {"amount": "five", "on": "2026-01-31", "fast": True}
TOLD = (
    "Tool 'pay' was not called. fast: there is no such field. "
    'amount: expected integer, got "five". Mend this and call it again.'
)


class Receipt(BaseModel):
    """What was paid."""

    amount: int
    on: date


def make_pay(effects: Effects, **options: Any) -> BaseTool:
    """A typed tool."""

    @tool(**options)
    def pay(amount: int, on: date, note: str = "none") -> Receipt:
        """Pay somebody.

        Args:
            amount: Cents.
            on: The day.
            note: For the statement.
        """
        effects.add(f"pay {amount!r} {on!r} {note}")
        return Receipt(amount=amount, on=on)

    return pay


class PayInput(BaseModel):
    """What it takes."""

    amount: int
    on: date
    note: str = "none"


class Pay(BaseTool):
    """The same as somebody else wrote it."""

    name: str = "pay"
    description: str = "Pay somebody."
    args_schema: type[BaseModel] = PayInput
    effects: Any = None

    def _run(self, amount: int, on: date, note: str = "none") -> str:
        self.effects.add(f"pay {amount!r} {on!r} {note}")
        return f"paid {amount}"


def make_crew(server: Server, path: str, *said: dict[str, Any], tools: list[Any]) -> Crew:
    """One agent that calls `pay` with each of `said`, then answers."""
    turns = [use("pay", arguments) for arguments in said]
    server.app.script = Conversation(Rule(*turns, answer("done")))
    llm = make_llm(server.url, path, max_retries=0)  # type: ignore[arg-type]
    one = Agent(role="A", goal="g", backstory="b", llm=llm, tools=tools, max_retry_limit=0)
    task = Task(description="d", expected_output="o", agent=one)
    return Crew(agents=[one], tasks=[task], cache=False)


def results_told(server: Server) -> list[str]:
    """What the model was told of its calls."""
    said = server.requests[-1].body["messages"]
    native = [message["content"] for message in said if message["role"] == "tool"]
    text = [
        message["content"].partition("Observation:")[2].strip()
        for message in said
        if message["role"] == "assistant" and "Observation:" in (message["content"] or "")
    ]
    return native or text


def bare(crew: Crew, folder: Path) -> Crew:
    """The crew as it is."""
    return crew


def hardened(crew: Crew, folder: Path) -> Crew:
    """The crew of a run."""
    made: Crew = harden(crew, journal=folder / "j.db")
    return made


KINDS = [pytest.param(bare, id="bare"), pytest.param(hardened, id="hardened")]
Kind = Callable[[Crew, Path], Crew]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_model_mends_its_arguments(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode, kind: Kind
) -> None:
    """It is told once, in a line; the tool acts once, with what is annotated."""
    pay = make_pay(effects, max_usage_count=1)
    crew = kind(make_crew(server, path, WRONG, RIGHT, tools=[pay]), tmp_path)
    assert go(crew, mode).raw == "done"
    assert effects.lines == ["pay 5 datetime.date(2026, 1, 31) none"]
    assert len(server.requests) == 3
    wrong, right = results_told(server)
    assert wrong.removeprefix("Error executing tool: ") == TOLD
    assert right == '{"amount":5,"on":"2026-01-31"}'


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", PATHS)
def test_existing_tool_is_read_as_strictly(
    server: Server, effects: Effects, tmp_path: Path, path: str, kind: Kind
) -> None:
    """`tool(existing)` refuses what CrewAI would coerce or drop."""
    pay = tool(Pay(effects=effects), effect="read")
    crew = kind(make_crew(server, path, WRONG, RIGHT, tools=[pay]), tmp_path)
    assert go(crew).raw == "done"
    assert effects.lines == ["pay 5 datetime.date(2026, 1, 31) none"]
    wrong, right = results_told(server)
    assert wrong.removeprefix("Error executing tool: ") == TOLD
    assert right == "paid 5"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_tool_declared_by_harden_is_read_as_strictly(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode
) -> None:
    """The tool stays the user's own object, with the class and the schema it had."""
    pay = Pay(effects=effects)
    schema = pay.args_schema
    crew = harden(
        make_crew(server, path, WRONG, RIGHT, tools=[pay]),
        journal=tmp_path / "j.db",
        tools={"pay": {"effect": "write"}},
    )
    assert go(crew, mode, run_id="a").raw == "done"
    assert effects.lines == ["pay 5 datetime.date(2026, 1, 31) none"]
    assert results_told(server)[0].removeprefix("Error executing tool: ") == TOLD
    assert type(pay) is Pay
    assert pay.args_schema is schema
    steps = [s for s in open_journal(tmp_path / "j.db").steps("a") if s.name == "pay"]
    assert [step.status.value for step in steps] == ["failed", "done"]
    assert {step.effect for step in steps} == {"write"}


@pytest.mark.parametrize("path", PATHS)
def test_undeclared_tool_is_left_as_crewai_reads_it(
    server: Server, effects: Effects, tmp_path: Path, path: str
) -> None:
    """Without a declaration a hardened crew coerces and drops like a bare one."""

    @crewais_tool
    def pay(amount: int) -> str:
        """Pay somebody."""
        effects.add(f"pay {amount!r}")
        return "paid"

    crew = make_crew(server, path, {"amount": "5", "fast": True}, tools=[pay])
    harden(crew, journal=tmp_path / "j.db").kickoff()
    assert effects.lines == ["pay 5"]


@pytest.mark.parametrize("path", PATHS)
def test_declaration_travels_with_the_tool(
    server: Server, effects: Effects, tmp_path: Path, path: str
) -> None:
    """A tool's own effect is recorded; what `harden` is told goes over it, option by option."""
    pay = make_pay(effects, effect="write", idempotent=True)
    journal, found = tmp_path / "j.db", {}
    for run, said in {"own": {}, "told": {"effect": "read"}, "more": {"required": True}}.items():
        crew = make_crew(server, path, RIGHT, tools=[pay])
        harden(crew, journal=journal, tools={"pay": said} if said else {}).kickoff(run_id=run)
        steps = open_journal(journal).steps(run)
        found[run] = next(step.effect for step in steps if step.name == "pay")
    assert found == {"own": "write", "told": "read", "more": "write"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", PATHS)
def test_corrections_come_to_an_end(
    server: Server, effects: Effects, tmp_path: Path, path: str, kind: Kind
) -> None:
    """After the fourth wrong call in a row the tool takes none any more, not a right one either."""
    wrong = [{**WRONG, "amount": f"wrong {n}"} for n in range(4)]
    pay = make_pay(effects)
    crew = kind(make_crew(server, path, *wrong, RIGHT, tools=[pay]), tmp_path)
    assert go(crew).raw == "done"
    assert effects.lines == []
    told = results_told(server)
    assert ["Mend this and call it again." in text for text in told[:4]] == [
        True,
        True,
        True,
        False,
    ]
    assert all("do not call it again for this task" in text for text in told[3:5])


@pytest.mark.parametrize("path", PATHS)
def test_next_task_begins_to_count_anew(
    server: Server, effects: Effects, tmp_path: Path, path: str
) -> None:
    """A tool that was spent in one task of a bare crew is heard in the next."""
    pay = make_pay(effects)
    first = make_crew(server, path, tools=[pay])
    second = make_crew(server, path, tools=[pay])
    second.tasks[0].description = "another"
    wrong = [use("pay", {**WRONG, "amount": f"wrong {n}"}) for n in range(4)]
    right = [use("pay", RIGHT), answer("done")]
    server.app.script = Conversation(Rule(*right, task="another"), Rule(*wrong, *right))
    both = Crew(
        agents=[*first.agents, *second.agents], tasks=[*first.tasks, *second.tasks], cache=False
    )
    assert both.kickoff().raw == "done"
    assert len(effects.lines) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", PATHS)
def test_wrong_result_is_an_error(
    server: Server, effects: Effects, tmp_path: Path, path: str, kind: Kind
) -> None:
    """A result that is not of its type is told as such, and the tool is called once."""

    @tool(effect="read")
    def pay(amount: int) -> Receipt:
        """Pay."""
        effects.add("pay")
        return {"amount": "much"}  # type: ignore[return-value]

    crew = kind(make_crew(server, path, {"amount": 5}, tools=[pay]), tmp_path)
    go(crew)
    assert effects.lines == ["pay"]
    (told,) = results_told(server)
    assert "returned something else than it says" in told
    assert 'amount: expected integer, got "much". on: expected a value, but it is missing.' in told


@pytest.mark.parametrize("path", PATHS)
def test_secrets_are_not_told(server: Server, effects: Effects, tmp_path: Path, path: str) -> None:
    """Neither a refusal nor its record shows a `SecretStr` or a sensitive argument."""

    @tool(sensitive=["card"])
    def pay(amount: int, card: int, pin: SecretStr) -> str:
        """Pay."""
        effects.add(f"{card} {pin.get_secret_value()}")
        return "paid"

    bad = {"amount": 5, "card": "4111-secret", "pin": 1234567}
    good = {"amount": 5, "card": 1, "pin": "7777"}
    crew = make_crew(server, path, bad, good, tools=[pay])
    harden(crew, journal=tmp_path / "j.db").kickoff(run_id="a")
    assert effects.lines == ["1 7777"]
    told = results_told(server)[0]
    assert "card: expected integer, got a hidden value." in told
    assert "pin: expected string, got a hidden value." in told
    errors = [s.error or "" for s in open_journal(tmp_path / "j.db").steps("a")]
    assert "4111-secret" not in "".join(errors)
    assert "1234567" not in "".join(errors)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_resumed_run_tells_the_same(
    server: Server, effects: Effects, tmp_path: Path, path: str, mode: Mode
) -> None:
    """Refusals and results are read again word for word; the tool does not act again."""

    def kickoff() -> Any:
        crew = make_crew(server, path, WRONG, RIGHT, tools=[make_pay(effects)])
        return go(harden(crew, journal=tmp_path / "j.db"), mode, run_id="a")

    with pytest.raises(Killed):
        killed(kickoff, 3)
    asked = [json.dumps(seen.body["messages"]) for seen in server.requests]
    assert kickoff().raw == "done"
    assert len(effects.lines) == 1
    assert len(server.requests) == len(asked) + 1
    wrong, right = results_told(server)
    assert wrong.removeprefix("Error executing tool: ") == TOLD
    assert right == '{"amount":5,"on":"2026-01-31"}'


@pytest.mark.parametrize("kind", KINDS)
def test_schema_that_is_sent_is_strict(
    server: Server, effects: Effects, tmp_path: Path, kind: Kind
) -> None:
    """What reaches the provider says what each field is, and null for what has a default."""
    crew = kind(make_crew(server, "native", RIGHT, tools=[make_pay(effects)]), tmp_path)
    go(crew)
    (sent,) = server.requests[0].body["tools"]
    function = sent["function"]
    assert function["strict"] is True
    assert function["description"].strip() == "Pay somebody."
    assert violations(function["parameters"]) == []
    assert function["parameters"]["properties"] == {
        "amount": {"type": "integer", "description": "Cents."},
        "on": {"type": "string", "format": "date", "description": "The day."},
        "note": {
            "anyOf": [{"type": "string"}, {"type": "null"}],
            "description": 'For the statement. Default: "none".',
        },
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", PATHS)
def test_null_is_the_default(
    server: Server, effects: Effects, tmp_path: Path, path: str, kind: Kind
) -> None:
    """Strict mode makes a model say something for every argument: null says nothing."""
    said = {**RIGHT, "note": None}
    go(kind(make_crew(server, path, said, tools=[make_pay(effects)]), tmp_path))
    assert effects.lines == ["pay 5 datetime.date(2026, 1, 31) none"]


@pytest.mark.parametrize("path", PATHS)
def test_copied_crew_keeps_declarations(
    server: Server, effects: Effects, tmp_path: Path, path: str
) -> None:
    """`Crew.copy` hands the same tools on, and they refuse as before."""
    crew = make_crew(server, path, WRONG, RIGHT, tools=[make_pay(effects)])
    assert crew.copy().kickoff().raw == "done"
    assert len(effects.lines) == 1
    assert results_told(server)[0].removeprefix("Error executing tool: ") == TOLD


def test_malformed_arguments_are_refused(server: Server, effects: Effects, tmp_path: Path) -> None:
    """Text that is no JSON never reaches the tool on the native path."""
    crew = make_crew(server, "native", tools=[make_pay(effects)])
    broken = '{"amount": 5, "on": "2026'
    server.app.script = Conversation(Rule(use("pay", broken), use("pay", RIGHT), answer("done")))
    assert harden(crew, journal=tmp_path / "j.db").kickoff().raw == "done"
    assert len(effects.lines) == 1


class Searching:
    """A tool as LangChain's `StructuredTool` looks from outside; LangChain is not installed."""

    name = "pay"
    description = "Pay somebody."

    class args_schema(BaseModel):
        """Its arguments."""

        amount: int
        on: date

    def __init__(self, effects: Effects) -> None:
        self.effects = effects

    def invoke(self, input: dict[str, Any], config: Any = None) -> str:
        """Parse again, as LangChain does, and act."""
        read = self.args_schema.model_validate(input)
        self.effects.add(f"pay {read.amount!r} {read.on!r} none")
        return "paid"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", PATHS)
def test_langchains_tool_is_read_as_strictly(
    server: Server, effects: Effects, tmp_path: Path, path: str, kind: Kind
) -> None:
    """It becomes a tool of CrewAI that refuses what it does not take."""
    pay = tool(Searching(effects), effect="read")
    go(kind(make_crew(server, path, WRONG, RIGHT, tools=[pay]), tmp_path))
    assert effects.lines == ["pay 5 datetime.date(2026, 1, 31) none"]
    assert results_told(server)[0].removeprefix("Error executing tool: ") == TOLD


@pytest.mark.parametrize("path", PATHS)
def test_crewais_tool_can_be_declared(
    server: Server, effects: Effects, tmp_path: Path, path: str
) -> None:
    """What CrewAI's own decorator made is read strictly, too, and is called as CrewAI calls it."""

    @crewais_tool
    def pay(amount: int, on: str) -> str:
        """Pay somebody."""
        effects.add(f"pay {amount!r} {on!r}")
        return "paid"

    crew = make_crew(server, path, WRONG, RIGHT, tools=[tool(pay, effect="write")])
    harden(crew, journal=tmp_path / "j.db").kickoff()
    assert effects.lines == ["pay 5 '2026-01-31'"]
    assert results_told(server)[0].removeprefix("Error executing tool: ") == TOLD
