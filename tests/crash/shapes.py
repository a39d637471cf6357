"""The shapes of crew that are killed: functions that build them, found by the children by name."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

from crewai import Agent, Crew, CrewOutput, Process, Task
from crewai.agent.planning_config import PlanningConfig
from crewai.flow.flow import Flow, and_, listen, router, start
from crewai.tools import tool
from pydantic import BaseModel

from crewai_prod import current_step, harden, step
from crewai_prod.crashtest.sessions import EFFECTS
from tests.crews import Path, make_llm

SERVER = "CRASH_TEST_SERVER"
_WORK = 0.005
"""Seconds before and after a tool's effect: what a kill at a random moment may fall into."""


def act(name: str, result: str, **arguments: Any) -> str:
    """What a tool does to the world: one line, appended at once, in the middle of its work."""
    step = current_step()
    line = {
        "step": step.step_id if step else None,
        "tool": name,
        "arguments": arguments,
        "result": result,
    }
    time.sleep(_WORK)
    file = os.open(os.environ[EFFECTS], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, json.dumps(line).encode() + b"\n")
    finally:
        os.close(file)
    time.sleep(_WORK)
    return result


@tool
def reserve(item: str) -> str:
    """Reserve an item."""
    return act("reserve", f"the {item} is reserved", item=item)


@tool
def charge(customer: str, amount: int) -> str:
    """Charge a customer's card."""
    return act("charge", f"charged {amount}", customer=customer, amount=amount)


@tool
def mail(to: str) -> str:
    """Write to a customer."""
    return act("mail", f"wrote to {to}", to=to)


@tool
def ship(order: int) -> str:
    """Ship an order."""
    return act("ship", f"shipped {order}", order=order)


@tool
def label(order: int) -> str:
    """Print a label."""
    raise RuntimeError(f"no paper for order {order}")


@tool("label")
def burn(order: int) -> str:
    """Print a label."""
    act("label", "printed", order=order)
    raise RuntimeError("the printer is on fire")


@tool
async def track(order: int) -> str:
    """Track a parcel."""
    await asyncio.sleep(_WORK)
    return act("track", f"tracked {order}", order=order)


class Receipt(BaseModel):
    """What the customer gets."""

    customer: str
    amount: int
    lines: list[str]


def agent_of(role: str, path: Path, *tools: Any, **options: Any) -> Agent:
    """An agent of the shop."""
    return Agent(
        role=role,
        goal="Serve the customer",
        backstory="You work in a shop.",
        llm=make_llm(os.environ[SERVER], path, max_retries=0),
        tools=list(tools),
        **options,
    )


def task_of(description: str, agent: Agent | None = None, **options: Any) -> Task:
    """A task of the shop."""
    return Task(description=description, expected_output="a sentence", agent=agent, **options)


def _three_tasks(path: Path) -> tuple[list[Agent], list[Task]]:
    clerk, cashier = agent_of("Clerk", path, reserve), agent_of("Cashier", path, charge)
    writer = agent_of("Writer", path, mail)
    tasks = [
        task_of("Reserve the item of order {order}", clerk),
        task_of("Charge the card", cashier),
        task_of("Send the receipt", writer, output_pydantic=Receipt),
    ]
    return [clerk, cashier, writer], tasks


def sequential_text() -> Crew:
    """Three tasks, each with a tool that acts, in ReAct text."""
    agents, tasks = _three_tasks("text")
    return Crew(name="sequential", agents=agents, tasks=tasks)


def sequential_native() -> Crew:
    """Three tasks, each with a tool that acts, by native tool calls."""
    agents, tasks = _three_tasks("native")
    return Crew(name="sequential", agents=agents, tasks=tasks)


def parallel_calls() -> Crew:
    """Several native tool calls in one reply, then a second task."""
    worker = agent_of("Worker", "native", reserve, charge, mail)
    clerk = agent_of("Clerk", "native")
    tasks = [task_of("Do it all at once for order {order}", worker), task_of("Sum up", clerk)]
    return Crew(name="parallel", agents=[worker, clerk], tasks=tasks)


def async_tasks() -> Crew:
    """Three tasks at once, then one that joins them."""
    agents, tasks = _three_tasks("native")
    for task in tasks:
        task.async_execution = True
    last = agent_of("Clerk of the day", "native")
    joining = task_of("Sum up", last, context=list(tasks))
    return Crew(name="async", agents=[*agents, last], tasks=[*tasks, joining])


def hierarchical() -> Crew:
    """A manager that delegates to two workers, who act."""
    workers = [agent_of("Cashier", "native", charge), agent_of("Porter", "native", ship)]
    return Crew(
        name="hierarchical",
        agents=workers,
        tasks=[task_of("Serve the order {order}"), task_of("Close the shop")],
        process=Process.hierarchical,
        manager_llm=make_llm(os.environ[SERVER], "native", max_retries=0),
    )


def odd_tools() -> Crew:
    """A tool that raises, and an asynchronous one."""
    clerk, porter = agent_of("Clerk", "native", label, charge), agent_of("Porter", "native", track)
    tasks = [task_of("Print a label for order {order}", clerk), task_of("Track the parcel", porter)]
    return Crew(name="odd", agents=[clerk, porter], tasks=tasks)


def acts_and_raises() -> Crew:
    """A tool that acts and then raises: nobody but the outside world knows that it acted."""
    clerk = agent_of("Clerk", "native", burn, charge)
    task = task_of("Print a label for order {order}", clerk)
    return Crew(name="burning", agents=[clerk], tasks=[task])


def side_models() -> Crew:
    """Models that are asked beside the agents' own work: a planner, a judge, a converter."""
    config = PlanningConfig(max_attempts=1)
    clerk = agent_of("Clerk", "native", reserve, planning_config=config)
    cashier = agent_of("Cashier", "native", charge)  # with a tool, its answer is converted apart
    tasks = [
        task_of("Plan the day", clerk),
        task_of("Praise the shop", cashier, guardrail="It must be kind."),
        task_of("Describe the sale", cashier, output_json=Receipt),
    ]
    return Crew(name="side", agents=[clerk, cashier], tasks=tasks)


def coworkers() -> Crew:
    """A question, then two pieces of work for one coworker in one reply; results are cached."""
    lead = agent_of("Lead", "native", allow_delegation=True)
    cashier, porter = agent_of("Cashier", "native", charge), agent_of("Porter", "native", ship)
    tasks = [
        task_of("Lead the shop through order {order}", lead),
        task_of("Close the shop", porter),
    ]
    return Crew(name="coworkers", agents=[lead, cashier, porter], tasks=tasks, cache=True)


def mixed() -> Crew:
    """For `akickoff`: a task, two at once, and one that joins them."""
    agents, tasks = _three_tasks("native")
    tasks[1].async_execution = True
    tasks[2].async_execution = True
    last = agent_of("Clerk of the day", "native")
    joining = task_of("Sum up", last, context=list(tasks))
    return Crew(name="mixed", agents=[*agents, last], tasks=[*tasks, joining])


def nested() -> Crew:
    """A crew and an agent in the tool of a crew, neither of them hardened, then a second task."""
    cashier, writer = agent_of("Cashier", "native", charge), agent_of("Writer", "text", mail)
    porter = agent_of("Porter", "native", ship)
    tasks = [task_of("Charge the card", cashier), task_of("Write to the customer", writer)]
    shop = Crew(name="shop", agents=[cashier, writer], tasks=tasks)

    @tool
    def ask_shop(order: int) -> str:
        """Ask the shop."""
        told = shop.kickoff(inputs={"order": order}).raw
        return f"{told}, {porter.kickoff('Ship the parcel').raw}"

    clerk = agent_of("Clerk", "native", ask_shop)
    crew = Crew(
        name="nested",
        agents=[clerk],
        tasks=[task_of("Ask the shop", clerk), task_of("Sum up", clerk)],
    )
    return harden(crew, tools={"ask_shop": {"effect": "nested"}})  # type: ignore[no-any-return]


def lone_agent() -> Agent:
    """An agent that is kicked off by itself."""
    return agent_of("Cashier", "native", charge)


@step(effect="write")
def count(order: int) -> str:
    """A function that is a step, and acts."""
    return act("count", f"counted {order}", order=order)


class Order(BaseModel):
    """The state of the flow."""

    id: str = ""
    order: int = 0
    told: list[str] = []
    shipped: bool = False


class ShopFlow(Flow[Order]):
    """A step, a crew and an agent side by side, a router, and a crew at the end."""

    _skip_auto_memory = True  # making a memory imports for seconds, in each process

    @start()
    def begin(self) -> str:
        return count(self.state.order)

    @listen(begin)
    def pay(self, counted: str) -> str:
        told = _crew_of_one("Charge the card", agent_of("Cashier", "native", charge)).kickoff()
        self.state.told.append(f"{told.raw} {counted}")
        return str(told.raw)

    @listen(begin)
    async def send(self) -> None:
        await agent_of("Porter", "native", ship).kickoff_async("Ship the parcel")
        self.state.shipped = True

    @router(and_(pay, send))
    def judge(self) -> str:
        return "told" if self.state.shipped else "lost"

    @listen("told")
    def tell(self) -> CrewOutput:
        return _crew_of_one("Write to the customer", agent_of("Writer", "text", mail)).kickoff()  # type: ignore[return-value]


def _crew_of_one(description: str, agent: Agent) -> Crew:
    return Crew(name="one", agents=[agent], tasks=[task_of(description, agent)])
