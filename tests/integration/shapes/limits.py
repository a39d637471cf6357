"""Tools with rules of their own: answers, limits, caches, and models that only call functions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from crewai import Crew, Task
from crewai.tools import BaseTool, tool

from tests.integration.shape_trials import Scene, shape
from tests.openai_server import Conversation, Reply, Rule, Turn, answer, use


def _meter(scene: Scene, **options: Any) -> BaseTool:
    """A tool whose result differs from call to call."""

    @tool
    def read_meter(room: str) -> str:
        """Read a meter."""
        scene.effects.add(f"read {room}")
        return f"The meter in the {room} shows {len(scene.effects.lines)} units. " * 3

    for name, value in options.items():
        setattr(read_meter, name, value)
    return read_meter


@shape(few=True)
def answered_by_a_tool(scene: Scene) -> Crew:
    """A tool whose result is the answer."""
    scene.script(
        Conversation(
            Rule(use("read_meter", {"room": "hall"}), task="Read"),
            Rule(answer("closed"), task="Close"),
        )
    )
    one = scene.agent("A", _meter(scene, result_as_answer=True))
    two = scene.agent("B")
    first = Task(description="Read it", expected_output="o", agent=one)
    last = Task(description="Close", expected_output="o", agent=two)
    return Crew(agents=[one, two], tasks=[first, last])


@shape(few=True)
def limited_tool(scene: Scene) -> Crew:
    """A tool that may be used twice, and is asked for three times, in each of two tasks."""
    rooms = [use("read_meter", {"room": f"{task} {n}"}) for task in "ab" for n in range(3)]
    scene.script(
        Conversation(
            Rule(*rooms[:3], answer("read"), task="First"),
            Rule(*rooms[3:], answer("read again"), task="Second"),
        )
    )
    one = scene.agent("A", _meter(scene, max_usage_count=2))
    tasks = [Task(description=d, expected_output="o", agent=one) for d in ("First", "Second")]
    return Crew(agents=[one], tasks=tasks)


def _twice(scene: Scene, **options: Any) -> Crew:
    """The same call twice in one task, again in the next, and with the cache seen by a third."""
    read, look = use("read_meter", {"room": "hall"}), use("read_meter", {"room": "attic"})

    def said(turn: Turn) -> Any:
        return answer(" / ".join(turn.results))(turn)

    scene.script(
        Conversation(
            Rule(read, look, read, said, task="First"),
            Rule(look, said, task="Second"),
            Rule(read, said, task="Third"),
        )
    )
    meter = _meter(scene, **options)
    agents = [scene.agent(role, meter) for role in "AB"]
    tasks = [
        Task(description=d, expected_output="o", agent=agent)
        for d, agent in zip(("First", "Second", "Third"), [*agents, agents[0]], strict=True)
    ]
    return Crew(agents=agents, tasks=tasks, cache=True)


@shape(few=True)
def cached(scene: Scene) -> Crew:
    """CrewAI's cache of results is on: a second call is not made."""
    return _twice(scene)


@shape(few=True, paths=("text",))
def cached_in_part(scene: Scene) -> Crew:
    """Only some results may be cached."""
    return _twice(scene, cache_function=lambda given, _: given["room"] == "hall")


def _asks(turn: Turn, tool: str) -> bool:
    """Whether the request is for the call behind a text that cannot be read."""
    return "Only tools available" in turn.task and f"Action: {tool}" in turn.task


def _mumbled(description: str, call: Mapping[str, Any]) -> list[Rule]:
    """A call that cannot be read, and what the model that calls functions makes of it."""
    tool_name = str(call["tool_name"])
    mumble = Reply(f"Thought: I should\nAction: {tool_name}\nAction Input: the usual one")
    return [
        Rule(Reply(json.dumps(call)), when=lambda turn: _asks(turn, tool_name)),
        Rule(mumble, answer(f"done: {tool_name}"), task=description),
    ]


@shape(few=True, cannot={"native": "CrewAI asks for no call that comes as one"})
def functions_by_another(scene: Scene) -> Crew:
    """Another model makes the calls that cannot be read: the crew's, by name, and an agent's."""
    looked = {"tool_name": "look_up", "arguments": {"topic": "tides"}}
    sent = {"tool_name": "send", "arguments": {"to": "ann"}}
    scene.script(Conversation(*_mumbled("Look it up", looked), *_mumbled("Tell ann", sent)))
    one = scene.agent("A", scene.look_up)
    two = scene.agent("B", scene.send, function_calling_llm=scene.llm(temperature=0.2))
    tasks = [
        Task(description="Look it up", expected_output="o", agent=one),
        Task(description="Tell ann", expected_output="o", agent=two),
    ]
    return Crew(agents=[one, two], tasks=tasks, function_calling_llm="openai/gpt-4o")
