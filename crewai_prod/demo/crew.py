"""The order desk: three agents, two tools, one of which takes money.

Everything here is plain CrewAI but for the call of `harden` at the end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crewai import Agent, Crew, Task
from crewai.tools import BaseTool, tool

from crewai_prod import harden
from crewai_prod.demo.ledger import Ledger
from crewai_prod.demo.script import answer
from crewai_prod.testing import ScriptedLLM

CARD = "visa-4242"
_STOCK = {"A-1001": ["tide clock: 42 USD", "brass barometer: 78 USD"]}


def order_desk(
    llm: Any = None, ledger: Ledger | None = None, journal: str | Path | None = None
) -> Crew:
    """A crew that looks an order up, charges each of its items, and writes to the customer.

    Args:
        llm: The model of all three agents. Default: a scripted one, offline and free.
        ledger: The bank's book, outside of everything that crewai-prod knows.
        journal: Where runs are recorded. Default: `.crewai_prod/journal.db`.
    """
    llm = llm or ScriptedLLM(answer)
    ledger = ledger or Ledger(Path("charges.jsonl"))

    def agent(role: str, goal: str, *tools: BaseTool) -> Agent:
        return Agent(role=role, goal=goal, backstory="You are brief.", llm=llm, tools=list(tools))

    clerk = agent("Clerk", "Know what was ordered", look_up_order)
    cashier = agent("Cashier", "Charge every item once, one after the other", charging(ledger))
    correspondent = agent("Correspondent", "Tell customers what happened")

    find = Task(
        name="find the order",
        description="Look up order {order} with the tool look_up_order and list its items.",
        expected_output="One line per item with its price.",
        agent=clerk,
    )
    charge = Task(
        name="charge the card",
        description=(
            f"Charge card {CARD} for every item of the order: call the tool charge_card once per "
            "item, never twice for the same item, then list the receipts."
        ),
        expected_output="One receipt per item.",
        agent=cashier,
        context=[find],
    )
    write = Task(
        name="write to the customer",
        description="Write the customer of order {order} a short confirmation naming the receipts.",
        expected_output="A confirmation of three sentences at most.",
        agent=correspondent,
        context=[find, charge],
    )
    crew = Crew(
        name="order desk", agents=[clerk, cashier, correspondent], tasks=[find, charge, write]
    )
    return harden(  # type: ignore[no-any-return]
        crew,
        journal=journal,
        tools={"look_up_order": {"effect": "read"}, "charge_card": {"effect": "write"}},
    )


@tool
def look_up_order(order: str) -> str:
    """Return the items of an order with their prices."""
    return "; ".join(_STOCK.get(order, ["nothing: there is no such order"]))


def charging(ledger: Ledger) -> BaseTool:
    """The tool that takes money: it writes a line into the bank's book."""

    @tool
    def charge_card(card: str, item: str, amount_usd: float) -> str:
        """Charge a card for one item and return the receipt."""
        number = ledger.charge(card=card, item=item, amount_usd=amount_usd)
        return f"receipt R{number} for {item}"

    return charge_card
