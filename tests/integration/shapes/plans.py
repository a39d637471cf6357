"""Plans: of crews and of agents, by models that are given as objects, by name and not at all."""

from __future__ import annotations

import json
from typing import Any

from crewai import Crew, Task
from crewai.agent.planning_config import PlanningConfig

from tests.integration.shape_trials import Scene, shape
from tests.openai_server import Conversation, Reply, Rule, Turn, answer, call, use

_PLAN = {"list_of_plans_per_task": [{"task_number": 1, "task": "t", "plan": "step one"}]}
_CHARGE = use("charge", {"amount": 7})
_NOT_ON_A_LOOP = {"akickoff": "CrewAI 1.15.30 cannot plan under akickoff: a sync agent on the loop"}
_STEPS = {
    "plan": "charge, then say so",
    "steps": [
        {"step_number": 1, "description": "Charge it", "tool_to_use": "charge", "depends_on": []},
        {"step_number": 2, "description": "Say so", "tool_to_use": None, "depends_on": [1]},
    ],
    "ready": True,
}
_OBSERVED = {
    "step_completed_successfully": True,
    "key_information_learned": "charged",
    "remaining_plan_still_valid": True,
    "needs_full_replan": False,
}


def _planned(scene: Scene, **options: Any) -> Crew:
    """A crew that plans before it works."""
    asks_plan = Rule(
        Reply(json.dumps(_PLAN)), when=lambda t: t.schema is not None or "plan" in t.task[:200]
    )
    scene.script(Conversation(asks_plan, Rule(_CHARGE, answer("charged 7"))))
    one = scene.agent("A", scene.charge)
    task = Task(description="Do it", expected_output="o", agent=one)
    return Crew(agents=[one], tasks=[task], planning=True, **options)


@shape(
    few=True, cannot=_NOT_ON_A_LOOP, drifts=True
)  # the planner is shown the memory addresses of tools
def planned_by_name(scene: Scene) -> Crew:
    """The planner's model is given by name."""
    return _planned(scene, planning_llm="openai/gpt-4o")


@shape(few=True, paths=("text",), cannot=_NOT_ON_A_LOOP, drifts=True)
def planned_by_default(scene: Scene) -> Crew:
    """The planner's model is not given: CrewAI makes one of its own choice."""
    return _planned(scene)


def _is_planning(turn: Turn) -> bool:
    """Whether the request is for a plan that is given by a native call."""
    return "create_reasoning_plan" in json.dumps(turn.body.get("tools") or [])


def _reasoned(scene: Scene, config: PlanningConfig) -> Crew:
    """An agent that plans its task, does it step by step and looks at each, then a plain task."""
    scene.script(
        Conversation(
            Rule(answer("closed"), task="Current Task: Close the shop"),
            Rule(call("create_reasoning_plan", _STEPS), when=_is_planning),
            Rule(
                Reply("The plan. READY: I am ready to execute the task."),
                task="Create an execution plan",
            ),
            Rule(Reply(json.dumps(_OBSERVED)), when=lambda turn: turn.schema == "StepObservation"),
            Rule(Reply(json.dumps(_OBSERVED)), task="Just completed step"),
            Rule(_CHARGE, answer("charged 7"), task="## Current Step\nCharge it"),
            Rule(answer("said so"), task="## Current Step\nSay so"),
            Rule(answer("charged 7"), task="Observation: charged 7"),
            Rule(Reply("charged 7, and said so"), task="Synthesize"),
            Rule(_CHARGE, answer("charged 7"), task="Current Task: Charge the card"),
        )
    )
    one = scene.agent("A", scene.charge, planning_config=config)
    other = scene.agent("B")
    first = Task(description="Charge the card", expected_output="o", agent=one)
    last = Task(description="Close the shop", expected_output="o", agent=other)
    return Crew(agents=[one, other], tasks=[first, last])


@shape(few=True)
def reasoned(scene: Scene) -> Crew:
    """The agent plans with its own model."""
    return _reasoned(scene, PlanningConfig(max_attempts=1))


@shape(few=True, paths=("text",))
def reasoned_by_object(scene: Scene) -> Crew:
    """It plans with another model."""
    return _reasoned(scene, PlanningConfig(max_attempts=1, llm=scene.llm(temperature=0.5)))


@shape(few=True)
def reasoned_by_name(scene: Scene) -> Crew:
    """It plans with a model given by name, and goes to all lengths."""
    config = PlanningConfig(max_attempts=1, llm="openai/gpt-4o", reasoning_effort="high")
    return _reasoned(scene, config)
