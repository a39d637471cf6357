"""A project as `crewai create crew` lays it out, made durable by one decorator.

    cd examples/crewbase_project
    crewai-prod run crew:ReportCrew -i topic=tides --run-id tides-1
    crewai-prod show tides-1

Set MODEL=openai/gpt-4o-mini (and its key) for a real model; without, it runs offline.
"""

from __future__ import annotations

import json
import os
from typing import Any

from crewai import LLM, Agent, Crew, Task
from crewai.project import CrewBase, agent, crew, task
from crewai.tools import tool

from crewai_prod import harden
from crewai_prod.testing import ScriptedLLM


def script(messages: Any, tools: Any) -> str:
    """What the scripted model says: in each task a tool call, then the answer."""
    talk = str(messages).rpartition("Current Task:")[2]
    if "Observation:" in talk:
        return "Final Answer: The moon pulls the sea; it is high twice a day."
    if "send_report" in talk:
        return f"Action: send_report\nAction Input: {json.dumps({'text': 'The moon pulls.'})}"
    return f"Action: look_up\nAction Input: {json.dumps({'topic': 'tides'})}"


@tool
def look_up(topic: str) -> str:
    """Look a topic up."""
    return f"About {topic}: the moon pulls the sea, and it is high twice a day."


@tool
def send_report(text: str) -> str:
    """Send a report to its readers."""
    return "sent"


@CrewBase
class ReportCrew:
    """A researcher and a writer."""

    agents_config: Any = "config/agents.yaml"
    tasks_config: Any = "config/tasks.yaml"

    def _agent(self, name: str, *tools: Any) -> Agent:
        model = os.environ.get("MODEL")
        llm = LLM(model=model) if model else ScriptedLLM(script)
        return Agent(config=self.agents_config[name], llm=llm, tools=list(tools))

    @agent
    def researcher(self) -> Agent:
        return self._agent("researcher", look_up)

    @agent
    def writer(self) -> Agent:
        return self._agent("writer", send_report)

    @task
    def research(self) -> Task:
        return Task(config=self.tasks_config["research"])  # type: ignore[call-arg]

    @task
    def report(self) -> Task:
        return Task(config=self.tasks_config["report"])  # type: ignore[call-arg]

    @harden(tools={"look_up": {"effect": "read"}, "send_report": {"effect": "write"}})
    @crew
    def crew(self) -> Crew:
        return Crew(agents=self.agents, tasks=self.tasks)  # type: ignore[attr-defined]


if __name__ == "__main__":
    print(ReportCrew().crew().kickoff(inputs={"topic": "tides"}, run_id="tides-1").raw)
