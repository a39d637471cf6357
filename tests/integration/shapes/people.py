"""People who are asked what they think of an answer."""

from __future__ import annotations

import asyncio
from typing import Any

from crewai import Agent, Crew, Task
from crewai.agents.parser import AgentFinish
from crewai.core.providers.human_input import SyncHumanInputProvider, set_provider

from tests.integration.parts import Effects, Mode, go
from tests.integration.shape_trials import Scene, shape
from tests.openai_server import Conversation, Rule, Turn, answer, use

UNHEARD = (
    None
    if hasattr(Agent.model_fields["executor_class"].default, "_invoke_loop")
    else "in this release an agent cannot go on with feedback: its executor lacks the method"
)


class Prompted(SyncHumanInputProvider):
    """CrewAI's own provider, with a person in the place of the terminal."""

    def __init__(self, effects: Effects, *feedback: str) -> None:
        self.effects = effects
        self.feedback = feedback

    def _prompt_input(self, crew: Any) -> str:  # type: ignore[override]
        asked = sum(line.startswith("asked") for line in self.effects.lines)
        self.effects.add(f"asked {asked + 1}")
        return self.feedback[asked]

    async def _prompt_input_async(self, crew: Any) -> str:  # type: ignore[override]
        return await asyncio.to_thread(self._prompt_input, crew)


class Editor:
    """A provider of the user's own: one word of feedback, then the person edits the answer."""

    def __init__(self, effects: Effects) -> None:
        self.effects = effects

    def setup_messages(self, context: Any) -> bool:
        """The usual ones."""
        return False

    def post_setup_messages(self, context: Any) -> None:
        """Nothing is added."""

    def handle_feedback(self, formatted_answer: Any, context: Any) -> Any:
        """Complain of a first answer, edit a second."""
        if self._complains(formatted_answer, context):
            formatted_answer = context._invoke_loop()
        return self._edited(formatted_answer)

    async def handle_feedback_async(self, formatted_answer: Any, context: Any) -> Any:
        """The same on an event loop."""
        if self._complains(formatted_answer, context):
            formatted_answer = await context._ainvoke_loop()
        return self._edited(formatted_answer)

    def _complains(self, shown: Any, context: Any) -> bool:
        bad = bool(shown.output == "bad")
        if bad:
            self.effects.add("complained")
            context.messages.append({"role": "user", "content": "try harder"})
        return bad

    def _edited(self, shown: Any) -> Any:
        self.effects.add("edited")
        return AgentFinish(thought="t", output=f"{shown.output}, edited", text="x")


def ask_and_go(crew: Any, mode: Mode, given: dict[str, Any]) -> Any:
    """Kick off, then forget the provider."""
    try:
        return go(crew, mode, **given)
    finally:
        set_provider(SyncHumanInputProvider())


def reviewed(scene: Scene, **options: Any) -> Crew:
    """A crew whose first answer is bad, and better when somebody has said so."""

    def said(turn: Turn) -> Any:
        heard = "try harder" in str(turn.body["messages"])
        return answer("good" if heard else "bad")(turn)

    scene.script(
        Conversation(
            Rule(answer("closed"), task="Close"),
            Rule(use("charge", {"amount": 7}), said, results=0, when=lambda t: not _heard(t)),
            Rule(said),
        )
    )
    one = scene.agent("A", scene.charge)
    first = Task(description="Do it", expected_output="o", agent=one, human_input=True, **options)
    last = Task(description="Close", expected_output="o", agent=one)
    return Crew(agents=[one], tasks=[first, last])


def _heard(turn: Turn) -> bool:
    return "try harder" in str(turn.body["messages"])


@shape(few=True, kickoff=ask_and_go, unless=UNHEARD)
def asked(scene: Scene) -> Crew:
    """CrewAI's own dialogue: two rounds of feedback, then approval."""
    set_provider(Prompted(scene.effects, "try harder", "try harder", ""))
    return reviewed(scene)


@shape(few=True, kickoff=ask_and_go, unless=UNHEARD)
def edited(scene: Scene) -> Crew:
    """A provider of the user's own, which changes the answer."""
    set_provider(Editor(scene.effects))  # type: ignore[arg-type]  # the protocol has CrewAI's helpers
    return reviewed(scene)
