"""Tools whose arguments have types that hold: the model is told what is wrong, and mends it.

    python examples/typed_tools.py
    MODEL=openai/gpt-4o-mini python examples/typed_tools.py

Without MODEL it runs offline: a scripted model gives no date and one argument too many, is told so
and mends it. The crew is a bare one; a hardened one reads the same tools as strictly.
"""

from __future__ import annotations

import json
import os
from datetime import date
from typing import Annotated, Any

from crewai import LLM, Agent, Crew, Task
from pydantic import BaseModel, Field

from crewai_prod import tool
from crewai_prod.testing import ScriptedLLM


class Room(BaseModel):
    """What is booked."""

    number: int
    night: date


# Instead of `from crewai.tools import tool`; the body gets a date, and returns a Room.
@tool(effect="write")
def book(
    night: date,
    guests: Annotated[int, Field(ge=1, le=4)],
    late: bool = False,
) -> Room:
    """Book a room for one night.

    Args:
        night: The night, as YYYY-MM-DD.
        guests: Adults and children.
        late: Whether they arrive after ten in the evening.
    """
    print(f"  ... the hotel books {night:%A} for {guests}, late: {late}")
    return Room(number=12, night=night)


def script(messages: Any, tools: Any) -> str:
    """What the scripted model says, in the text form of a tool call that CrewAI reads."""
    told = "\n".join(str(message["content"]) for message in messages)
    if '"number":12' in told:
        return "Final Answer: Room 12 is booked."
    given: dict[str, Any] = {"night": "next Friday", "guests": 2, "breakfast": True}
    if "was not called" in told:
        print("  the model is told:", told.rpartition("Observation: ")[2].splitlines()[0])
        given = {"night": "2026-01-30", "guests": 2, "late": None}
    return f"Action: book\nAction Input: {json.dumps(given)}"


model = os.environ.get("MODEL")
clerk = Agent(
    role="Clerk",
    goal="Book what is asked for",
    backstory="You are careful with dates.",
    llm=LLM(model=model) if model else ScriptedLLM(script),
    tools=[book],
)
booking = Task(
    description="Book a room for two on 30 January 2026.",
    expected_output="One sentence with the number of the room.",
    agent=clerk,
)

if __name__ == "__main__":
    print(Crew(agents=[clerk], tasks=[booking]).kickoff())
