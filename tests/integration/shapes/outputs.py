"""Structured outputs: the model's answer fits at once, or has to be converted."""

from __future__ import annotations

import json
from typing import Any

from crewai import Crew, Task
from crewai.utilities.converter import Converter
from pydantic import BaseModel

from tests.integration.shape_trials import Scene, shape
from tests.openai_server import Conversation, Reply, Rule, Turn, answer, call, use

_CHARGE = use("charge", {"amount": 7})
_RECEIPT = {"customer": "ann", "amount": 7}

_TWICE = {"text": "bare CrewAI encodes such an answer twice and then refuses it"}


class Receipt(BaseModel):
    """What the customer gets."""

    customer: str
    amount: int


class OwnConverter(Converter):
    """A converter of the user's own."""


def _structured(scene: Scene, said: str, **options: Any) -> Crew:
    def wants(turn: Turn) -> bool:
        named = [one["function"]["name"] for one in turn.body.get("tools") or []]
        return turn.schema == "Receipt" or "Receipt" in named

    def give(turn: Turn) -> Reply:
        return call("Receipt", _RECEIPT) if turn.native else Reply(json.dumps(_RECEIPT))

    scene.script(
        Conversation(
            Rule(give, when=lambda t: wants(t) and "Current Task" not in t.task),
            Rule(give, when=lambda t: "Current Task" not in t.task and "schema" in t.system),
            Rule(_CHARGE, answer(said)),
        )
    )
    one = scene.agent("A", scene.charge)
    first = Task(description="Charge it", expected_output="o", agent=one, **options)
    last = Task(description="Sum up", expected_output="o", agent=one)
    return Crew(agents=[one], tasks=[first, last])


@shape(few=True, paths=("native",))
def pydantic_at_once(scene: Scene) -> Crew:
    """The answer is the model's JSON."""
    return _structured(scene, json.dumps(_RECEIPT), output_pydantic=Receipt)


@shape(few=True, paths=("text",))
def json_at_once(scene: Scene) -> Crew:
    """The same as a dict."""
    return _structured(scene, json.dumps(_RECEIPT), output_json=Receipt)


@shape(few=True)
def pydantic_converted(scene: Scene) -> Crew:
    """The answer is prose: CrewAI asks the model to convert it."""
    return _structured(scene, "ann paid seven", output_pydantic=Receipt)


@shape(few=True, cannot=_TWICE)
def json_converted(scene: Scene) -> Crew:
    """The same as a dict: with function calling CrewAI asks through a client of its own."""
    return _structured(scene, "ann paid seven", output_json=Receipt)


@shape(few=True, cannot=_TWICE)
def converted_by_own(scene: Scene) -> Crew:
    """The user's own converter."""
    return _structured(scene, "ann paid seven", output_json=Receipt, converter_cls=OwnConverter)


@shape(few=True)
def response_model(scene: Scene) -> Crew:
    """The provider is asked for the structure itself."""
    return _structured(scene, json.dumps(_RECEIPT), response_model=Receipt)
