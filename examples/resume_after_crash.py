"""A crew that is killed after it took money, and continues when it is started again.

    python examples/resume_after_crash.py    # dies of SIGKILL
    python examples/resume_after_crash.py    # continues: the card is not charged again

Set MODEL=openai/gpt-4o-mini (and its key) for a real model; without, it runs offline.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool

from crewai_prod import harden, open_journal
from crewai_prod.testing import ScriptedLLM

JOURNAL = Path("resume_after_crash.db")
FIRST_TIME = not JOURNAL.exists()


def script(messages: Any, tools: Any) -> str:
    """What the scripted model says: in each task a tool call, then the answer."""
    task = str(messages).rpartition("Current Task:")[2]
    charging = task.startswith(" Charge")
    if "Observation:" in task:
        return f"Final Answer: {'charged 42 USD' if charging else 'parcel 7'}"
    if charging:
        return f"Action: charge_card\nAction Input: {json.dumps({'usd': 42})}"
    return f"Action: find_parcel\nAction Input: {json.dumps({'order': 'A-1'})}"


@tool
def charge_card(usd: float) -> str:
    """Charge the customer's card."""
    print(f"  !!! the bank takes {usd:.2f} USD")
    return f"charged {usd:.0f} USD"


@tool
def find_parcel(order: str) -> str:
    """Find the parcel of an order."""
    if FIRST_TIME:
        print("  ... the machine goes down in the middle of the second task", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return "parcel 7"


def order_crew() -> Crew:
    """Two tasks: one takes money, the other looks something up."""
    model = os.environ.get("MODEL")
    llm = LLM(model=model) if model else ScriptedLLM(script)
    clerk = Agent(
        role="Clerk", goal="Serve", backstory="Brief.", llm=llm, tools=[charge_card, find_parcel]
    )
    charge = Task(
        description="Charge 42 USD with charge_card.", expected_output="The charge.", agent=clerk
    )
    find = Task(
        description="Find the parcel of order A-1.", expected_output="The parcel.", agent=clerk
    )
    return Crew(agents=[clerk], tasks=[charge, find])


if __name__ == "__main__":
    effects = {"charge_card": {"effect": "write"}, "find_parcel": {"effect": "read"}}
    crew = harden(order_crew(), journal=JOURNAL, tools=effects)
    result = crew.kickoff(run_id="order-A-1")
    print(f"result: {result.raw}, {result.token_usage.total_tokens} tokens in all")
    journal = open_journal(JOURNAL)
    for step in journal.steps("order-A-1"):
        before = step.epoch < journal.run("order-A-1").epoch
        print(f"  {'replayed' if before else 'new':8}  {step.kind} {step.name}")
