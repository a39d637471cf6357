"""Who does what in which order: hierarchies, tasks at once, conditions, plans, guardrails."""

from __future__ import annotations

from typing import Any

from crewai import Crew, Process, Task
from crewai.tasks.conditional_task import ConditionalTask

from tests.integration.shape_trials import Scene, shape
from tests.openai_server import Conversation, Reply, Rule, answer, use

_PLAN = '{"list_of_plans_per_task": [{"task_number": 1, "task": "t", "plan": "step one"}]}'
_CHARGE = use("charge", {"amount": 7})


def _hierarchical(scene: Scene) -> dict[str, Any]:
    work = {"task": "Pay seven", "context": "c", "coworker": "Worker"}
    scene.script(
        Conversation(
            Rule(_CHARGE, answer("charged 7"), task="Pay seven"),
            Rule(use("delegate_work_to_coworker", work), answer("all charged")),
        )
    )
    return {
        "agents": [scene.agent("Worker", scene.charge)],
        "tasks": [Task(description="Charge it", expected_output="o")],
        "process": Process.hierarchical,
    }


@shape()
def hierarchical(scene: Scene) -> Crew:
    """A manager that CrewAI makes and that delegates to a worker who charges."""
    return Crew(**_hierarchical(scene), manager_llm=scene.llm(), name="h")


@shape()
def with_manager(scene: Scene) -> Crew:
    """The same with a manager of the user's own."""
    return Crew(**_hierarchical(scene), manager_agent=scene.agent("Boss"))


@shape()
def fan_out(scene: Scene) -> Crew:
    """Two asynchronous tasks and one that joins them."""
    scene.script(
        Conversation(
            Rule(use("look_up", {"topic": "tides"}), answer("tides done"), task="Left"),
            Rule(_CHARGE, answer("charge done"), task="Right"),
            Rule(answer("joined")),
        )
    )
    one, two = scene.agent("L", scene.look_up), scene.agent("R", scene.charge)
    three = scene.agent("J")
    left = Task(description="Left", expected_output="o", agent=one, async_execution=True)
    right = Task(description="Right", expected_output="o", agent=two, async_execution=True)
    join = Task(description="Join", expected_output="o", agent=three, context=[left, right])
    return Crew(agents=[one, two, three], tasks=[left, right, join])


@shape(
    cannot={"akickoff": "CrewAI 1.15.30 cannot plan under akickoff: a sync agent on the loop"},
    drifts=True,  # CrewAI shows the planner the memory addresses of the tools
)
def planned(scene: Scene) -> Crew:
    """A crew that plans before it works."""
    asks_plan = Rule(Reply(_PLAN), when=lambda t: t.schema is not None or "plan" in t.task[:200])
    scene.script(Conversation(asks_plan, Rule(_CHARGE, answer("charged 7"))))
    one = scene.agent("A", scene.charge)
    task = Task(description="Do it", expected_output="o", agent=one)
    return Crew(agents=[one], tasks=[task], planning=True, planning_llm=scene.llm())


@shape()
def conditional(scene: Scene) -> Crew:
    """A task that is skipped and one that is not."""
    scene.script(
        Conversation(
            Rule(_CHARGE, answer("charged 7"), task="First"),
            Rule(answer("last"), task="Last"),
        )
    )
    one = scene.agent("A", scene.charge)
    first = Task(description="First", expected_output="o", agent=one)
    skipped = ConditionalTask(
        description="Skipped", expected_output="o", agent=one, condition=lambda _: False
    )
    last = Task(description="Last", expected_output="o", agent=one)
    return Crew(agents=[one], tasks=[first, skipped, last])


@shape(once=["charge 7"])
def guarded(scene: Scene) -> Crew:
    """A guardrail that sends the first answer back."""

    def say(turn: Any) -> Any:
        return answer("good" if "try harder" in turn.task else "bad")(turn)

    scene.script(Conversation(Rule(_CHARGE, say)))
    one = scene.agent("A", scene.charge)

    def check(output):  # type: ignore[no-untyped-def]  # CrewAI reads the annotations
        return (True, output.raw) if output.raw == "good" else (False, "try harder")

    task = Task(description="d", expected_output="o", agent=one, guardrail=check)
    return Crew(agents=[one], tasks=[task])
