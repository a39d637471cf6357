"""The shapes of crew that are killed: functions that build them, found by the children by name."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

from crewai import Agent, Crew, CrewOutput, Process, Task
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


def _agent(role: str, path: Path, *tools: Any, **options: Any) -> Agent:
    return Agent(
        role=role,
        goal="Serve the customer",
        backstory="You work in a shop.",
        llm=make_llm(os.environ[SERVER], path, max_retries=0),
        tools=list(tools),
        **options,
    )


def _task(description: str, agent: Agent | None = None, **options: Any) -> Task:
    return Task(description=description, expected_output="a sentence", agent=agent, **options)


def _three_tasks(path: Path) -> tuple[list[Agent], list[Task]]:
    clerk, cashier = _agent("Clerk", path, reserve), _agent("Cashier", path, charge)
    writer = _agent("Writer", path, mail)
    tasks = [
        _task("Reserve the item of order {order}", clerk),
        _task("Charge the card", cashier),
        _task("Send the receipt", writer, output_pydantic=Receipt),
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
    worker = _agent("Worker", "native", reserve, charge, mail)
    clerk = _agent("Clerk", "native")
    tasks = [_task("Do it all at once for order {order}", worker), _task("Sum up", clerk)]
    return Crew(name="parallel", agents=[worker, clerk], tasks=tasks)


def async_tasks() -> Crew:
    """Three tasks at once, then one that joins them."""
    agents, tasks = _three_tasks("native")
    for task in tasks:
        task.async_execution = True
    last = _agent("Clerk of the day", "native")
    joining = _task("Sum up", last, context=list(tasks))
    return Crew(name="async", agents=[*agents, last], tasks=[*tasks, joining])


def hierarchical() -> Crew:
    """A manager that delegates to two workers, who act."""
    workers = [_agent("Cashier", "native", charge), _agent("Porter", "native", ship)]
    return Crew(
        name="hierarchical",
        agents=workers,
        tasks=[_task("Serve the order {order}"), _task("Close the shop")],
        process=Process.hierarchical,
        manager_llm=make_llm(os.environ[SERVER], "native", max_retries=0),
    )


def odd_tools() -> Crew:
    """A tool that raises, and an asynchronous one."""
    clerk, porter = _agent("Clerk", "native", label, charge), _agent("Porter", "native", track)
    tasks = [_task("Print a label for order {order}", clerk), _task("Track the parcel", porter)]
    return Crew(name="odd", agents=[clerk, porter], tasks=tasks)


def acts_and_raises() -> Crew:
    """A tool that acts and then raises: nobody but the outside world knows that it acted."""
    clerk = _agent("Clerk", "native", burn, charge)
    task = _task("Print a label for order {order}", clerk)
    return Crew(name="burning", agents=[clerk], tasks=[task])


def mixed() -> Crew:
    """For `akickoff`: a task, two at once, and one that joins them."""
    agents, tasks = _three_tasks("native")
    tasks[1].async_execution = True
    tasks[2].async_execution = True
    last = _agent("Clerk of the day", "native")
    joining = _task("Sum up", last, context=list(tasks))
    return Crew(name="mixed", agents=[*agents, last], tasks=[*tasks, joining])


def nested() -> Crew:
    """A crew and an agent in the tool of a crew, neither of them hardened, then a second task."""
    cashier, writer = _agent("Cashier", "native", charge), _agent("Writer", "text", mail)
    porter = _agent("Porter", "native", ship)
    tasks = [_task("Charge the card", cashier), _task("Write to the customer", writer)]
    shop = Crew(name="shop", agents=[cashier, writer], tasks=tasks)

    @tool
    def ask_shop(order: int) -> str:
        """Ask the shop."""
        told = shop.kickoff(inputs={"order": order}).raw
        return f"{told}, {porter.kickoff('Ship the parcel').raw}"

    clerk = _agent("Clerk", "native", ask_shop)
    crew = Crew(
        name="nested", agents=[clerk], tasks=[_task("Ask the shop", clerk), _task("Sum up", clerk)]
    )
    return harden(crew, tools={"ask_shop": {"effect": "nested"}})  # type: ignore[no-any-return]


def lone_agent() -> Agent:
    """An agent that is kicked off by itself."""
    return _agent("Cashier", "native", charge)


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

    @start()
    def begin(self) -> str:
        return count(self.state.order)

    @listen(begin)
    def pay(self, counted: str) -> str:
        told = _crew_of_one("Charge the card", _agent("Cashier", "native", charge)).kickoff()
        self.state.told.append(f"{told.raw} {counted}")
        return str(told.raw)

    @listen(begin)
    async def send(self) -> None:
        await _agent("Porter", "native", ship).kickoff_async("Ship the parcel")
        self.state.shipped = True

    @router(and_(pay, send))
    def judge(self) -> str:
        return "told" if self.state.shipped else "lost"

    @listen("told")
    def tell(self) -> CrewOutput:
        return _crew_of_one("Write to the customer", _agent("Writer", "text", mail)).kickoff()  # type: ignore[return-value]


def _crew_of_one(description: str, agent: Agent) -> Crew:
    return Crew(name="one", agents=[agent], tasks=[_task(description, agent)])
