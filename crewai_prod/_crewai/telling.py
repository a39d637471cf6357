"""What CrewAI is told of a model's answer: where a reply goes on inventing, no more than was said.

The journal keeps what the model said. A live answer and a recorded one are cut alike, so a resumed
run goes the same way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from crewai_prod.run import Run
from crewai_prod.steps import Scope
from crewai_prod.truth import asks_in_text, uninvented


class Asked(Protocol):
    """A model call: where it belongs, and what was sent."""

    @property
    def run(self) -> Run: ...
    @property
    def scope(self) -> Scope: ...
    @property
    def messages(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def params(self) -> Mapping[str, Any]: ...
    @property
    def sources(self) -> Mapping[str, Any]: ...


def told(asked: Asked, answer: Any) -> Any:
    """An answer as CrewAI is to see it.

    Only text is looked at that an agent gave in a conversation in which it calls its tools by
    writing: with native tools a reply cannot name one in its text, and where a final answer is
    forced CrewAI names no agent.
    """
    of_agent = asked.sources.get("from_agent") is not None
    if isinstance(answer, list):
        return [_with_object(call) for call in answer]
    if not isinstance(answer, str) or not of_agent or "tools" in asked.params:
        return answer
    cut = uninvented(answer)
    if cut == answer or not asks_in_text(_instructions(asked.messages)):
        return answer
    asked.run.log.tool_invented(
        task=asked.scope.task_name,
        agent=asked.scope.agent,
        characters=max(len(answer) - len(cut), 0),
    )
    return cut


def _with_object(call: Any) -> Any:
    """A native tool call whose arguments are an object, as CrewAI takes for granted.

    It would end the run at `[1]`. As an argument of no tool's, the model is told what is wrong.
    What is no JSON at all CrewAI tells the model itself.
    """
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return call
    said = function.get("arguments")
    if not isinstance(said, str) or said.lstrip().startswith("{"):
        return call
    try:
        given = json.loads(said)
    except (ValueError, RecursionError):
        return call
    named = json.dumps({} if given is None else {"arguments": given})
    return {**call, "function": {**function, "arguments": named}}


def _instructions(messages: Sequence[Mapping[str, Any]]) -> str:
    """What tells the model how to answer.

    That is the system prompt, and what follows the first request, such as CrewAI's own notes. A
    request itself may be about such texts; it counts only where there is no system prompt.
    """
    roles = [one.get("role") for one in messages]
    first = roles.index("user") if "system" in roles and "user" in roles else None
    told = [
        one.get("content")
        for position, one in enumerate(messages)
        if roles[position] != "assistant" and position != first
    ]
    return "\n".join(text for text in told if isinstance(text, str))
