"""A task that asks for a form gets it, or an error that says what was wrong: never nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.utilities.converter import Converter
from pydantic import BaseModel, Field

from crewai_prod import harden, open_journal
from crewai_prod.errors import OutputInvalid
from tests.crews import make_llm
from tests.integration.parts import (
    MODES,
    PATHS,
    Effects,
    Mode,
    assert_all_metered,
    go,
    killed_before_each_request,
    make_tools,
    total,
)
from tests.openai_server import Conversation, Reply, Rule, Server, Turn, answer, use


class Receipt(BaseModel):
    """What is asked for."""

    amount: int = Field(ge=1)
    payer: str


GOOD = '{"amount": 7, "payer": "ann"}'
WRONG = '{"amount": "seven"}'
TOLD = "does not have the form"


def _agent(server: Server, effects: Effects, path: str, tools: bool = True) -> Agent:
    held = [one for one in make_tools(effects) if tools and one.name == "charge"]
    llm = make_llm(server.url, path, max_retries=0)  # type: ignore[arg-type]
    return Agent(role="Cashier", goal="g", backstory="b", llm=llm, tools=held, max_retry_limit=0)


def _crew(server: Server, effects: Effects, path: str, tools: bool = True, **asked: Any) -> Crew:
    agent = _agent(server, effects, path, tools)
    task = Task(name="pay", description="d", expected_output="o", agent=agent, **asked)
    return Crew(agents=[agent], tasks=[task])


def _asking(form: str) -> dict[str, Any]:
    return {form: Receipt}


def _complaints(turn: Turn) -> int:
    """How often the model was told that its answer has the wrong form."""
    return json.dumps(turn.body["messages"]).count(TOLD)


def _misfits(times: int, wrong: str = WRONG) -> Conversation:
    """A cashier that charges, answers so many times in the wrong form, then in the right one."""

    def cashier(turn: Turn) -> Any:
        if not turn.results and not turn.schema:
            return use("charge", {"amount": 7})(turn)
        said = GOOD if _complaints(turn) >= times else wrong
        return Reply(said) if turn.schema else answer(said)(turn)

    return Conversation(Rule(cashier))


def _form_of(result: Any, asked: str) -> Any:
    return result.pydantic if asked == "output_pydantic" else result.json_dict


FORMS = {"output_pydantic": Receipt(amount=7, payer="ann"), "output_json": json.loads(GOOD)}


@pytest.mark.parametrize("asked", FORMS)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", MODES)
def test_an_answer_is_mended(
    server: Server, tmp_path: Path, effects: Effects, path: str, mode: Mode, asked: str
) -> None:
    """The model is told field by field, in its conversation, and its next answer is the task's."""
    server.app.script = _misfits(1)
    crew = harden(_crew(server, effects, path, **_asking(asked)), journal=tmp_path / "j.db")
    result = go(crew, mode, run_id="a")
    assert (result.raw, _form_of(result, asked)) == (GOOD, FORMS[asked])
    assert (effects.lines, len(server.requests)) == (["charge 7"], 3)
    talk = server.requests[-1].body["messages"]
    assert json.dumps(WRONG)[1:-1] in json.dumps(talk[-2]), "its answer stands before the complaint"
    assert "field amount: input should be a valid integer" in talk[-1]["content"]
    assert "field payer: it is missing" in talk[-1]["content"]
    assert_all_metered(tmp_path / "j.db", "a")


@pytest.mark.parametrize("asked", FORMS)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", MODES)
def test_an_answer_that_is_never_mended(
    server: Server, tmp_path: Path, effects: Effects, path: str, mode: Mode, asked: str
) -> None:
    """After three answers the run stops; each resume asks for one more."""
    server.app.script = _misfits(99)
    crew = harden(_crew(server, effects, path, **_asking(asked)), journal=tmp_path / "j.db")
    for requests in (4, 5):
        with pytest.raises(OutputInvalid, match="payer") as failed:
            go(crew, mode, run_id="a")
        assert failed.value.fields == {"attempts": 3, "text": WRONG}
        assert (failed.value.run_id, failed.value.task, failed.value.agent) == (
            "a",
            "pay",
            "Cashier",
        )
        assert len(server.requests) == requests
    server.app.script = _misfits(2)
    result = go(crew, mode, run_id="a")
    assert (_form_of(result, asked), effects.lines) == (FORMS[asked], ["charge 7"])
    assert len(server.requests) == 6
    assert result.token_usage.total_tokens == total(server)


@pytest.mark.parametrize("path", PATHS)
def test_killed_before_each_request(
    server: Server, tmp_path: Path, effects: Effects, path: str
) -> None:
    """A run that is killed in between is told the same again, and pays for nothing twice."""
    server.app.script = _misfits(2)
    one = _crew(server, effects, path, output_pydantic=Receipt)
    crew = harden(one, journal=tmp_path / "j.db")
    result = killed_before_each_request(lambda: crew.kickoff(run_id="a"))
    assert (result.pydantic, effects.lines) == (FORMS["output_pydantic"], ["charge 7"])
    assert (len(server.requests), result.token_usage.total_tokens) == (4, total(server))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", MODES)
def test_prose_is_converted_as_before(
    server: Server, tmp_path: Path, effects: Effects, path: str, mode: Mode
) -> None:
    """What is no JSON is converted by CrewAI's own call; the requests are the bare crew's."""
    server.app.script = Conversation(
        Rule(Reply(GOOD), when=lambda turn: "Cashier" not in turn.system),
        Rule(use("charge", {"amount": 7}), answer("ann paid seven")),
    )
    bare = go(_crew(server, effects, path, output_pydantic=Receipt), mode)
    asked = [record.body["messages"] for record in server.requests]
    server.reset()
    one = _crew(server, effects, path, output_pydantic=Receipt)
    result = go(harden(one, journal=tmp_path / "j.db"), mode, run_id="a")
    assert (result.raw, result.pydantic) == (bare.raw, bare.pydantic)
    assert [record.body["messages"] for record in server.requests] == asked
    assert len(asked) == 3


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", MODES)
def test_prose_that_cannot_be_converted(
    server: Server, tmp_path: Path, effects: Effects, path: str, mode: Mode
) -> None:
    """A conversion that fails is not repeated as it was: the agent mends its own answer."""
    server.app.script = Conversation(
        Rule(Reply("I cannot say."), when=lambda turn: "Cashier" not in turn.system),
        *_misfits(1, "ann paid seven").rules,
    )
    one = _crew(server, effects, path, output_pydantic=Receipt)
    result = go(harden(one, journal=tmp_path / "j.db"), mode, run_id="a")
    assert (result.raw, result.pydantic) == (GOOD, FORMS["output_pydantic"])
    assert len(server.requests) == 4


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", MODES)
def test_an_agent_without_tools(
    server: Server, tmp_path: Path, effects: Effects, path: str, mode: Mode
) -> None:
    """A provider that is given the form itself may still send something else: it is mended too."""
    server.app.script = _misfits(1)
    one = _crew(server, effects, path, tools=False, output_pydantic=Receipt)
    crew = harden(one, journal=tmp_path / "j.db")
    result = killed_before_each_request(lambda: go(crew, mode, run_id="a"))
    assert (result.pydantic, len(server.requests)) == (FORMS["output_pydantic"], 2)
    assert result.token_usage.total_tokens == total(server)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", MODES)
def test_an_agent_alone(
    server: Server, tmp_path: Path, effects: Effects, path: str, mode: Mode
) -> None:
    """So it is for `agent.kickoff(response_format=...)`, which in CrewAI may give nothing.

    CrewAI has any answer that does not fit converted there; after that it is mended.
    """
    server.app.script = _misfits(1)
    agent = harden(_agent(server, effects, path), journal=tmp_path / "j.db")
    asked = {"messages": "pay", "response_format": Receipt}
    result = go(agent, mode, **asked, run_id="a")
    assert (result.pydantic, len(server.requests)) == (FORMS["output_pydantic"], 4)
    server.app.script = _misfits(99)
    with pytest.raises(OutputInvalid) as failed:
        go(agent, mode, **asked, run_id="b")
    assert failed.value.fields == {"attempts": 3, "text": WRONG}


@pytest.mark.parametrize("mode", MODES)
def test_an_agent_alone_in_prose(
    server: Server, tmp_path: Path, effects: Effects, mode: Mode
) -> None:
    """What CrewAI converts for it is converted once, and its text stays what it said."""
    server.app.script = Conversation(
        Rule(Reply(GOOD), when=lambda turn: "Cashier" not in turn.system),
        Rule(use("charge", {"amount": 7}), answer("ann paid seven")),
    )
    agent = harden(_agent(server, effects, "native"), journal=tmp_path / "j.db")
    result = go(agent, mode, messages="pay", response_format=Receipt, run_id="a")
    assert (result.raw, result.pydantic) == ("ann paid seven", FORMS["output_pydantic"])
    assert len(server.requests) == 3


class Shouting(Converter):
    """A converter of the user's own."""

    def to_pydantic(self, current_attempt: int = 1) -> BaseModel:
        """Read what is before the first blank."""
        return Receipt(amount=int(self.text.split()[0]), payer="ann")


def test_a_converter_of_the_users_own(server: Server, tmp_path: Path, effects: Effects) -> None:
    """It converts every answer; what it refuses is sent back."""

    def cashier(turn: Turn) -> Any:
        return answer("7 it is" if _complaints(turn) else "seven it is")(turn)

    server.app.script = Conversation(Rule(cashier))
    one = _crew(server, effects, "native", output_pydantic=Receipt, converter_cls=Shouting)
    result = harden(one, journal=tmp_path / "j.db").kickoff(run_id="a")
    assert (result.raw, result.pydantic) == ("7 it is", FORMS["output_pydantic"])
    assert len(server.requests) == 2


@pytest.mark.parametrize("whole", [False, True], ids=["text", "output"])
@pytest.mark.parametrize("mode", MODES)
def test_behind_a_guardrail(
    server: Server, tmp_path: Path, effects: Effects, mode: Mode, whole: bool
) -> None:
    """What a guardrail lets through is judged after it, and mended answers are checked again."""
    seen: list[str] = []

    def check(output):  # type: ignore[no-untyped-def]  # CrewAI reads the annotations
        seen.append(output.raw)
        return True, output if whole else output.raw

    def cashier(turn: Turn) -> Any:
        return answer(GOOD if "not in the form" in json.dumps(turn.body) else WRONG)(turn)

    server.app.script = Conversation(Rule(cashier))
    one = _crew(server, effects, "native", output_pydantic=Receipt, guardrail=check)
    result = go(harden(one, journal=tmp_path / "j.db"), mode, run_id="a")
    assert (result.raw, result.pydantic, seen) == (GOOD, FORMS["output_pydantic"], [WRONG, GOOD])
    assert len(server.requests) == 2


def test_behind_a_guardrail_to_the_end(server: Server, tmp_path: Path, effects: Effects) -> None:
    """There too three answers are enough."""

    def check(output):  # type: ignore[no-untyped-def]  # CrewAI reads the annotations
        return True, output.raw

    server.app.script = Conversation(Rule(answer(WRONG)))
    one = _crew(server, effects, "native", output_pydantic=Receipt, guardrail=check)
    crew = harden(one, journal=tmp_path / "j.db")
    with pytest.raises(OutputInvalid) as failed:
        crew.kickoff(run_id="a")
    assert failed.value.fields == {"attempts": 3, "text": WRONG}
    server.app.script = Conversation(Rule(answer(GOOD)))
    assert crew.kickoff(run_id="a").pydantic == FORMS["output_pydantic"]
    assert len(server.requests) == 4
    assert open_journal(tmp_path / "j.db").run("a").status.value == "completed"
