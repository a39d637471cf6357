"""Answers that are judged: by functions, by models, by several, and sent back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from crewai import Crew, Task
from crewai.tasks.hallucination_guardrail import HallucinationGuardrail
from crewai.tasks.llm_guardrail import LLMGuardrail

from tests.integration.shape_trials import Scene, shape
from tests.openai_server import Conversation, Reply, Rule, Turn, answer, use

_CHARGE = use("charge", {"amount": 7})


def _verdict(turn: Turn) -> Reply:
    """The judging model's: a bad answer is to be improved."""
    good = "Task result:\n        good" in turn.task
    said = {"valid": good, "feedback": None if good else "try harder"}
    return Reply(json.dumps(said))


def _nonsense_first(turn: Turn) -> Reply:
    """A judge that cannot say what it thinks of the first answer."""
    return _verdict(turn) if "Task result:\n        good" in turn.task else Reply("Hm.")


def _work(turn: Turn) -> Reply:
    """The worker's answer: good when it was sent back."""
    sent_back = "try harder" in turn.task or "Error while validating" in turn.task
    return answer("good" if sent_back else "bad")(turn)


def _judged(scene: Scene, *, judge: Callable[[Turn], Reply] = _verdict, **options: Any) -> Crew:
    scene.script(
        Conversation(
            Rule(judge, task="Ensure the following task result complies"),
            Rule(_CHARGE, _work, task="Do it"),
            Rule(answer("closed"), task="Close"),
        )
    )
    one = scene.agent("A", scene.charge)
    first = Task(description="Do it", expected_output="o", agent=one, **options)
    last = Task(description="Close", expected_output="o", agent=one)
    return Crew(agents=[one], tasks=[first, last])


@shape(few=True, once=["charge 7"])
def judged_by_a_model(scene: Scene) -> Crew:
    """A guardrail in words: the agent's own model judges."""
    return _judged(scene, guardrail="The answer must be good.")


@shape(few=True, paths=("text",), once=["charge 7"])
def judged_by_another_model(scene: Scene) -> Crew:
    """A guardrail with a model of its own."""
    return _judged(scene, guardrail=LLMGuardrail("It must be good.", scene.llm(temperature=0.1)))


@shape(few=True, once=["charge 7"])
def judged_by_one_who_makes_no_sense(scene: Scene) -> Crew:
    """A judging model that answers something else at first: CrewAI has the task done again."""
    return _judged(scene, judge=_nonsense_first, guardrail="The answer must be good.")


@shape(few=True, once=["charge 7"])
def judged_by_many(scene: Scene) -> Crew:
    """Several guardrails: one in words, one that does nothing, a function that changes it."""

    def shout(output):  # type: ignore[no-untyped-def]  # CrewAI reads the annotations
        return (True, output.raw + "!") if len(output.raw) > 2 else (False, "try harder")

    llm: Any = scene.llm()
    return _judged(scene, guardrails=["It must be good.", HallucinationGuardrail(llm=llm), shout])
