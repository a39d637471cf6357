"""The scripted model of crash tests: its values fit their schemas, its talk comes to an end."""

from __future__ import annotations

import json
from datetime import date, datetime
from enum import Enum
from typing import Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, Field

from crewai_prod._crewai.stand_in import ANSWER, arguments, converse, synthesize


class Colour(Enum):
    """A choice."""

    RED = "red"
    BLUE = "blue"


class Line(BaseModel):
    """A part of an order."""

    sku: str = Field(min_length=30, max_length=40)
    count: int = Field(ge=3)


class Tree(BaseModel):
    """Something that contains itself."""

    name: str
    left: Tree | None
    children: list[Tree] = []


class Order(BaseModel):
    """What tools are asked for."""

    lines: list[Line] = Field(min_length=2)
    colour: Colour
    kind: Literal["parcel", "letter"]
    when: datetime
    day: date
    key: UUID
    price: float = Field(gt=0, le=0.5)
    share: int = Field(multiple_of=5, lt=11)
    maybe: int | None
    either: int | str
    pair: tuple[int, str]
    free: dict[str, Any]
    gift: bool
    note: str = "none"


def _tool(name: str, schema: dict[str, Any], description: str = "") -> dict[str, Any]:
    function = {"name": name, "description": description, "parameters": schema}
    return {"type": "function", "function": function}


PAY = _tool("pay", Line.model_json_schema())
SHIP = _tool("ship", {"type": "object", "properties": {"to": {"type": "string"}}})
MAIL = _tool("mail", {})
_HAND_ON = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("task", "context", "coworker")},
    "required": ["task", "context", "coworker"],
}
DELEGATE = _tool("delegate", _HAND_ON, "one of the following coworkers: Head Clerk, Porter\nThe")
ASKED = {"role": "user", "content": "Current Task: do it"}


def _said(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    results = [{"role": "tool", "tool_call_id": c["id"], "content": "ok"} for c in calls]
    return [{"role": "assistant", "content": None, "tool_calls": calls}, *results]


def _names(calls: Any) -> list[str]:
    return [call["function"]["name"] for call in calls]


@pytest.mark.parametrize("model", [Order, Tree, Line])
def test_values_fit_their_schema(model: type[BaseModel]) -> None:
    """What is made from a schema is accepted by the model that the schema describes."""
    model.model_validate(synthesize(model.model_json_schema()))


def test_only_what_is_required_is_given() -> None:
    """Arguments with defaults are left to the tool."""
    assert "note" not in arguments(Order.model_json_schema())
    assert arguments({"type": "object", "properties": {}}) == {}


def test_native_tools_are_each_called_once() -> None:
    """The first alone, the others in one reply, work for coworkers by itself, then the answer."""
    tools = [DELEGATE, PAY, SHIP, MAIL]
    talk: list[dict[str, Any]] = [{"role": "system", "content": "You are"}, ASKED]
    order = []
    for _ in range(4):
        said = converse(talk, tools)
        if isinstance(said, str):
            break
        order.append(_names(said))
        talk += _said(said)
    assert order == [["pay"], ["ship", "mail"], ["delegate"]]
    assert said == ANSWER


def test_work_that_was_handed_on_stays_there() -> None:
    """A coworker does the work itself, or two would hand it to each other for ever."""
    (call,) = converse([ASKED], [DELEGATE])
    given = json.loads(call["function"]["arguments"])
    assert given["coworker"] == "Head Clerk"
    handed = {"role": "user", "content": f"Current Task: {given['task']}"}
    assert converse([handed], [DELEGATE]) == ANSWER


def test_tools_in_text_are_each_called_once() -> None:
    """On the text path tools are found in the prompt, and called as CrewAI reads it."""
    described = "\n".join(
        f"Tool Name: {t['function']['name']}\n"
        f"Tool Arguments: {json.dumps(t['function']['parameters'])}\n"
        "Tool Description: does it"
        for t in (PAY, SHIP)
    )
    prompt = f"{described}\nThen say:\nFinal Answer: the final answer"
    talk = [{"role": "system", "content": prompt}, ASKED]
    first = converse(talk, [])
    assert "\nAction: pay\nAction Input: {" in first
    talk.append({"role": "assistant", "content": f"{first}\nObservation: ok"})
    second = converse(talk, [])
    assert "\nAction: ship\n" in second
    talk.append({"role": "assistant", "content": f"{second}\nObservation: ok"})
    assert converse(talk, []).endswith(f"Final Answer: {ANSWER}")


def test_structured_answers() -> None:
    """A schema, given to the provider or written into the prompt, is answered in JSON."""
    schema = Line.model_json_schema()
    Line.model_validate_json(converse([ASKED], [], schema))
    wanted = {"type": "json_schema", "json_schema": {"name": "Line", "schema": schema}}
    prompt = f"Current Task: do it, according to the following OpenAPI schema: {json.dumps(wanted)}"
    Line.model_validate_json(converse([{"role": "user", "content": prompt}], []))


def test_the_same_talk_gets_the_same_answer() -> None:
    """It is a function of the conversation: a resumed run is told what the killed one was."""
    talk = [ASKED, *_said(converse([ASKED], [PAY, SHIP]))]
    assert converse(talk, [PAY, SHIP]) == converse(json.loads(json.dumps(talk)), [PAY, SHIP])
