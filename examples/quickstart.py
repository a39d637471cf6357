"""A crew made durable by one call: run twice under one name, it is paid for once.

    python examples/quickstart.py
    MODEL=openai/gpt-4o-mini python examples/quickstart.py

Without MODEL the crew runs offline on a scripted model. Run the file a second time, too: the result
comes from the journal, `.crewai_prod/journal.db` below the working directory.
"""

from __future__ import annotations

import json
import os
from typing import Any

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool

from crewai_prod import harden, open_journal
from crewai_prod.testing import ScriptedLLM


def script(messages: Any, tools: Any) -> str:
    """What the scripted model says, in the text form of a tool call that CrewAI reads."""
    if "Receipt 17" in str(messages):
        return "Final Answer: The tide table is bought, receipt 17."
    return f"Action: buy\nAction Input: {json.dumps({'item': 'tide table', 'usd': 12})}"


@tool
def buy(item: str, usd: float) -> str:
    """Buy an item and return the receipt."""
    print(f"  ... the shop sells: {item}, {usd:.2f} USD")
    return "Receipt 17"


model = os.environ.get("MODEL")
buyer = Agent(
    role="Buyer",
    goal="Buy what is asked for, once",
    backstory="You are careful with money.",
    llm=LLM(model=model) if model else ScriptedLLM(script),
    tools=[buy],
)
purchase = Task(
    description="Buy one {item} for 12 USD with the tool buy.",
    expected_output="One sentence with the number of the receipt.",
    agent=buyer,
)

# The only line that is not plain CrewAI. `effect="write"` says that the tool acts on the world.
crew = harden(Crew(agents=[buyer], tasks=[purchase]), tools={"buy": {"effect": "write"}})

if __name__ == "__main__":
    for attempt in ("first", "second"):
        print(f"{attempt} kickoff:")
        result = crew.kickoff(inputs={"item": "tide table"}, run_id="purchase-1")
        print(f"  {result.raw}")
    print(f"tokens of the run: {result.token_usage.total_tokens}")
    for step in open_journal().steps("purchase-1"):
        print(f"  {step.seq}. {step.agent}: {step.kind} {step.name}, {step.status}")
