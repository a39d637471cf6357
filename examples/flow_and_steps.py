"""A flow whose bank is down in the middle: run again under its name, it pays for nothing twice.

    python examples/flow_and_steps.py

Set MODEL=openai/gpt-4o-mini (and its key) for a real model; without, it runs offline.
"""

from __future__ import annotations

import os
from typing import Any

from crewai import LLM, Agent, Crew, Task
from crewai.flow.flow import Flow, listen, start
from pydantic import BaseModel

from crewai_prod import harden, open_journal, step
from crewai_prod.testing import ScriptedLLM

bank_is_down = True


def script(messages: Any, tools: Any) -> str:
    """What the scripted model says."""
    print("  ... the model is asked")
    return "Final Answer: 12 USD for a tide table"


@step
def transfer(offer: str) -> str:
    """Pay: a function that is a step of whatever run it is called in."""
    if bank_is_down:
        raise ConnectionError("the bank is down")
    print("  ... the bank pays")
    return f"paid: {offer}"


class Purchase(BaseModel):
    """What the flow knows."""

    item: str = ""
    offer: str = ""


@harden(journal="flow_and_steps.db")
class Buying(Flow[Purchase]):
    """Find an offer, with a crew that need not be hardened itself, and pay."""

    @start()
    def look(self) -> str:
        """Ask a crew."""
        model = os.environ.get("MODEL")
        llm = LLM(model=model) if model else ScriptedLLM(script)
        buyer = Agent(role="Buyer", goal="Find offers", backstory="Thrifty.", llm=llm)
        task = Task(description="Find one {item}.", expected_output="The offer.", agent=buyer)
        crew = Crew(agents=[buyer], tasks=[task])
        offer = str(crew.kickoff(inputs={"item": self.state.item}))
        self.state.offer = offer
        return offer

    @listen(look)
    def pay(self, offer: str) -> str:
        """Pay the offer."""
        return transfer(offer)


if __name__ == "__main__":
    order = {"item": "tide table"}
    try:
        Buying().kickoff(inputs=order, run_id="purchase-1")
    except ConnectionError as error:
        print(f"first kickoff: {error}")
    bank_is_down = False
    flow = Buying()
    print(f"second kickoff: {flow.kickoff(inputs=order, run_id='purchase-1')}")
    print(f"third kickoff: {Buying().kickoff(inputs=order, run_id='purchase-1')}")
    print(f"{flow.state.offer}, {flow.usage_metrics.total_tokens} tokens")
    for made in open_journal("flow_and_steps.db").steps("purchase-1"):
        print(f"  {made.seq}. {made.kind} {made.name}, {made.status}")
