"""Coworkers: work that is delegated, questions that are asked, several at once."""

from __future__ import annotations

from crewai import Crew, Process, Task

from tests.integration.shape_trials import Scene, shape
from tests.openai_server import Conversation, Rule, answer, calls, use

CHARGE = use("charge", {"amount": 7})
LOOK_UP = use("look_up", {"topic": "tides"})


def _delegate(coworker: str, task: str) -> dict[str, str]:
    return {"task": task, "context": "c", "coworker": coworker}


def _ask(coworker: str, question: str) -> dict[str, str]:
    return {"question": question, "context": "c", "coworker": coworker}


@shape(few=True)
def asks_and_delegates(scene: Scene) -> Crew:
    """A sequential crew whose first agent asks one coworker and delegates to another."""
    scene.script(
        Conversation(
            Rule(LOOK_UP, answer("high"), task="How high"),
            Rule(CHARGE, answer("charged 7"), task="Pay seven"),
            Rule(
                use("ask_question_to_coworker", _ask("Scout", "How high")),
                use("delegate_work_to_coworker", _delegate("Cashier", "Pay seven")),
                answer("all done"),
                task="Lead",
            ),
            Rule(answer("closed"), task="Close"),
        )
    )
    lead = scene.agent("Lead", allow_delegation=True)
    scout, cashier = scene.agent("Scout", scene.look_up), scene.agent("Cashier", scene.charge)
    tasks = [
        Task(description="Lead it", expected_output="o", agent=lead),
        Task(description="Close it", expected_output="o", agent=cashier),
    ]
    return Crew(agents=[lead, scout, cashier], tasks=tasks)


@shape(few=True)
def passed_on(scene: Scene) -> Crew:
    """A manager delegates to a worker, who delegates part of it to another one."""
    scene.script(
        Conversation(
            Rule(CHARGE, answer("charged 7"), task="Pay seven"),
            Rule(
                use("delegate_work_to_coworker", _delegate("Cashier", "Pay seven")),
                answer("served"),
                task="Serve ann",
            ),
            Rule(
                use("delegate_work_to_coworker", _delegate("Lead", "Serve ann")),
                answer("all served"),
            ),
        )
    )
    lead = scene.agent("Lead", allow_delegation=True)
    cashier = scene.agent("Cashier", scene.charge)
    return Crew(
        agents=[lead, cashier],
        tasks=[Task(description="Serve everyone", expected_output="o")],
        process=Process.hierarchical,
        manager_agent=scene.agent("Boss"),
    )


@shape(few=True, paths=("native",))
def two_at_work(scene: Scene) -> Crew:
    """A manager delegates to two workers in one reply: they work at the same time."""
    both = [
        ("delegate_work_to_coworker", _delegate("Scout", "Look up tides")),
        ("delegate_work_to_coworker", _delegate("Cashier", "Pay seven")),
    ]
    scene.script(
        Conversation(
            Rule(LOOK_UP, answer("high"), task="Look up tides"),
            Rule(CHARGE, answer("charged 7"), task="Pay seven"),
            Rule(calls(both), answer("all done")),
        )
    )
    return Crew(
        agents=[scene.agent("Scout", scene.look_up), scene.agent("Cashier", scene.charge)],
        tasks=[Task(description="Serve ann", expected_output="o")],
        process=Process.hierarchical,
        manager_llm=scene.llm(),
    )
