"""In which order tasks run, and whether: at once, last of all, only if."""

from __future__ import annotations

from crewai import Crew, Task
from crewai.tasks.conditional_task import ConditionalTask

from tests.integration.shape_trials import Scene, shape
from tests.openai_server import Conversation, Rule, answer, use

_CHARGE = use("charge", {"amount": 7})
_LOOK_UP = use("look_up", {"topic": "tides"})


@shape(few=True)
def async_last(scene: Scene) -> Crew:
    """An asynchronous task is the last one, and reads two that ran at once."""
    scene.script(
        Conversation(
            Rule(_LOOK_UP, answer("tides done"), task="Left"),
            Rule(_CHARGE, answer("charge done"), task="Right"),
            Rule(answer("middle done"), task="Middle"),
            Rule(use("send", {"to": "ann"}), answer("joined"), task="Join"),
        )
    )
    roles = {"L": scene.look_up, "R": scene.charge, "M": None, "J": scene.send}
    agents = {r: scene.agent(r, *([tool] if tool else [])) for r, tool in roles.items()}

    def task(description: str, role: str, **options: object) -> Task:
        given = {"expected_output": "o", "agent": agents[role], **options}
        return Task(description=description, **given)

    left = task("Left", "L", async_execution=True)
    right = task("Right", "R", async_execution=True)
    middle = task("Middle", "M", context=[left])
    join = task("Join", "J", context=[left, right], async_execution=True)
    return Crew(agents=list(agents.values()), tasks=[left, right, middle, join])


def _conditional(scene: Scene, wanted: bool) -> Crew:
    """A condition that looks at the world, as it were: it is asked once."""
    scene.script(
        Conversation(
            Rule(_LOOK_UP, answer("looked"), task="First"),
            Rule(_CHARGE, answer("charged 7"), task="Maybe"),
            Rule(use("send", {"to": "ann"}), answer("last"), task="Last"),
        )
    )

    def decide(_: object) -> bool:
        scene.effects.add("decided")
        return wanted

    one = scene.agent("A", scene.look_up, scene.charge, scene.send)
    first = Task(description="First", expected_output="o", agent=one)
    maybe = ConditionalTask(description="Maybe", expected_output="o", agent=one, condition=decide)
    last = Task(description="Last", expected_output="o", agent=one)
    return Crew(agents=[one], tasks=[first, maybe, last])


@shape(few=True)
def condition_met(scene: Scene) -> Crew:
    """A conditional task that is executed."""
    return _conditional(scene, True)


@shape(few=True, paths=("text",))
def condition_not_met(scene: Scene) -> Crew:
    """A conditional task that is skipped."""
    return _conditional(scene, False)
