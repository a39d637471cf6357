"""Modules as users write them, for `run` and `resume` to load from a working directory."""

from __future__ import annotations

from pathlib import Path

PLAIN = '''
import os, signal, time
from crewai import Agent, Crew, Task
from crewai.flow.flow import Flow, listen, start
from crewai.tools import tool
from crewai.project import CrewBase, agent, crew, task
from crewai_prod import Budget, harden
from crewai_prod.testing import ScriptedLLM

@tool
def charge(amount: int) -> str:
    """Charge."""
    with open("charges.txt", "a") as file:
        file.write(f"{amount}\\n")
    if os.path.exists("asked to end"):
        os.kill(os.getpid(), signal.SIGTERM)
    if os.path.exists("broken"):
        raise ConnectionError("reset by peer")
    print("noise of a tool")
    return f"charged {amount}"

def script(messages, tools):
    time.sleep(float(os.environ.get("CREW_DELAY", "0")))
    if os.path.exists("down"):
        raise RuntimeError("the model is down")
    if "charged 5" in str(messages) or "paid by hand" in str(messages) or "failed" in str(messages):
        return "Thought: done\\nFinal Answer: receipt 5"
    return 'Thought: pay\\nAction: charge\\nAction Input: {"amount": 5}'

def make():
    llm = ScriptedLLM(script)
    cashier = Agent(role="Cashier", goal="g", backstory="b", llm=llm, tools=[charge])
    wanted = "Pay the bill of {who}" + os.environ.get("CREW_EXTRA", "")
    return Crew(
        name="desk",
        agents=[cashier],
        tasks=[Task(name="pay", description=wanted, expected_output="r", agent=cashier)],
        verbose=True,
    )

tools = {"charge": {"effect": "write"}}
ready = make()
hardened = harden(make(), journal="own.db", tools=tools)

@harden(journal="own.db", tools=tools)
def hardened_function():
    return make()

def bounded():
    llm = ScriptedLLM(lambda messages, tools: "Thought: done\\nFinal Answer: counted")
    clerk = Agent(role="Clerk", goal="g", backstory="b", llm=llm)
    count = Task(name="count", description="Count", expected_output="r", agent=clerk)
    pay = make()
    bill = pay.tasks[0]
    bounded = Crew(name="desk", agents=[clerk, *pay.agents], tasks=[count, bill])
    return harden(bounded, budget=Budget(max_llm_calls=2, on_limit="pause"))

def not_a_crew():
    return 5

def fails():
    raise KeyError("no such thing")

@CrewBase
class Desk:
    @agent
    def cashier(self):
        llm = ScriptedLLM(script)
        return Agent(role="Cashier", goal="g", backstory="b", llm=llm, tools=[charge])

    @task
    def pay(self):
        wanted = "Pay the bill of {who}"
        return Task(description=wanted, expected_output="r", agent=self.cashier())

    @crew
    def crew(self):
        return Crew(name="desk", agents=self.agents, tasks=self.tasks)

instance = Desk()

def _cashier():
    return Agent(role="Cashier", goal="g", backstory="b", llm=ScriptedLLM(script), tools=[charge])

lone_agent = _cashier()

class DeskFlow(Flow):
    @start()
    def pay(self):
        return make().kickoff(inputs={"who": self.state["who"]})

    @listen(pay)
    def tell(self, paid):
        return f"{paid} for {self.state['who']}"
'''


def write_crew(folder: Path, name: str) -> str:
    """Write the module; returns its name."""
    (folder / f"{name}.py").write_text(PLAIN, encoding="utf-8")
    return name
