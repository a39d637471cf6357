"""The README's table: what bare CrewAI does, and the same crew hardened, side by side.

The bare half was measured on one release. On others it is not asserted: CrewAI may mend it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.llms.base_llm import BaseLLM
from crewai.tools import tool

from crewai_prod import harden
from crewai_prod.errors import ToolOutcomeUnknown
from crewai_prod.testing import ScriptedLLM

MEASURED_ON = "1.15.30"
bare_as_measured = pytest.mark.skipif(
    version("crewai") != MEASURED_ON, reason=f"measured on crewai {MEASURED_ON}"
)
PAY = 'Action: pay\nAction Input: {"usd": 5}'


class Tokens(BaseLLM):
    """A model that costs 10 tokens a call."""

    llm_type: str = "tokens"

    def call(self, *args: Any, **kwargs: Any) -> str:
        """Answer, and say what it cost."""
        usage = {"prompt_tokens": 6, "completion_tokens": 4, "total_tokens": 10}
        self._track_token_usage_internal(usage)
        return "Final Answer: done"


def _agent(llm: Any, **fields: Any) -> Agent:
    return Agent(role="A", goal="g", backstory="b", llm=llm, **fields)


def _crew(*agents: Agent) -> Crew:
    tasks = [Task(description="For {who}", expected_output="o", agent=one) for one in agents]
    return Crew(agents=list(agents), tasks=tasks)


def _two_agents_of_one_model() -> Crew:
    llm = Tokens(model="m")
    return _crew(_agent(llm), _agent(llm))


def _reported(crew: Any) -> tuple[int, int]:
    """What each of two kickoffs says it cost; each costs 20."""
    first = crew.kickoff(inputs={"who": "ann"}).token_usage.total_tokens
    return first, crew.kickoff(inputs={"who": "bob"}).token_usage.total_tokens


@bare_as_measured
def test_bare_token_counts() -> None:
    """Two agents that share a model count each other's tokens, and those of earlier kickoffs."""
    assert _reported(_two_agents_of_one_model()) == (40, 80)


def test_hardened_token_counts(tmp_path: Path) -> None:
    """A kickoff costs what its own calls cost."""
    assert _reported(harden(_two_agents_of_one_model(), journal=tmp_path / "j.db")) == (20, 20)


def _reported_by_batch(crew: Any) -> int:
    """What four kickoffs say they cost together; they cost 40."""
    results = crew.kickoff_for_each(inputs=[{"who": f"p{n}"} for n in range(4)])
    return sum(result.token_usage.total_tokens for result in results)


@bare_as_measured
def test_bare_batch_counts() -> None:
    """Each item of a batch counts those before it too."""
    assert _reported_by_batch(_crew(_agent(Tokens(model="m")))) == 100


def test_hardened_batch_counts(tmp_path: Path) -> None:
    """Each item counts its own."""
    crew = _crew(_agent(Tokens(model="m")))
    assert _reported_by_batch(harden(crew, journal=tmp_path / "j.db")) == 40


def _batch_with_a_bad_item(crew: Any) -> list[str]:
    """What a batch of three hands over whose second item cannot be filled in."""
    results = crew.kickoff_for_each(inputs=[{"who": "ann"}, {"for": "bob"}, {"who": "cid"}])
    return [getattr(result, "raw", type(result).__name__) for result in results]


@bare_as_measured
def test_bare_batch_with_a_bad_item() -> None:
    """Its error is raised: the caller gets neither the first item nor the third."""
    with pytest.raises(ValueError, match="who"):
        _batch_with_a_bad_item(_crew(_agent(Tokens(model="m"))))


def test_hardened_batch_with_a_bad_item(tmp_path: Path) -> None:
    """The others are done; the error stands in its place."""
    crew = harden(_crew(_agent(Tokens(model="m"))), journal=tmp_path / "j.db")
    assert _batch_with_a_bad_item(crew) == ["done", "ValueError", "done"]


def _paying() -> tuple[Crew, list[float]]:
    """A model that decides once to pay; the shop takes the money, then the line goes dead."""
    paid: list[float] = []

    def decide(messages: Any, tools: Any) -> str:
        return "Final Answer: paid" if "Observation:" in str(messages[1:]) else PAY

    @tool
    def pay(usd: float) -> str:
        """Pay."""
        paid.append(usd)
        raise TimeoutError("no answer from the bank")

    return _crew(_agent(ScriptedLLM(decide), tools=[pay], max_retry_limit=0)), paid


@bare_as_measured
def test_bare_tool_that_raises() -> None:
    """One decision of the model, six payments, and the kickoff returns as if all were well."""
    crew, paid = _paying()
    assert str(crew.kickoff(inputs={"who": "ann"})) == "paid"
    assert len(paid) == 6


def test_hardened_tool_that_raises(tmp_path: Path) -> None:
    """One payment; the run pauses, because nobody can say whether the money is gone."""
    crew, paid = _paying()
    kept = harden(crew, journal=tmp_path / "j.db", tools={"pay": {"effect": "write"}})
    with pytest.raises(ToolOutcomeUnknown):
        kept.kickoff(inputs={"who": "ann"}, run_id="a")
    assert len(paid) == 1


def _two_kickoffs(wrap: Callable[[Crew], Any]) -> list[str]:
    """What a crew answers ann, and bob who asks while ann's model call is under way."""
    asked, answered = threading.Event(), threading.Event()

    def echo(messages: Any, tools: Any) -> str:
        who = "ann" if "For ann" in str(messages) else "bob"
        if who == "ann":
            asked.set()
            answered.wait(30)
        return f"Final Answer: hello {who}"

    crew = wrap(_crew(_agent(ScriptedLLM(echo), max_retry_limit=0)))
    with ThreadPoolExecutor(1) as pool:
        ann = pool.submit(crew.kickoff, inputs={"who": "ann"})
        assert asked.wait(30)
        try:
            bob = str(crew.kickoff(inputs={"who": "bob"}))
        except RuntimeError as error:
            bob = str(error)
        answered.set()
        return [str(ann.result()), bob]


@bare_as_measured
def test_bare_crew_in_two_threads() -> None:
    """One thread at a time may use a crew."""
    ann, bob = _two_kickoffs(lambda crew: crew)
    assert ann == "hello ann"
    assert bob.startswith("Executor is already running")


def test_hardened_crew_in_two_threads(tmp_path: Path) -> None:
    """Both get their own answer."""
    both = _two_kickoffs(lambda crew: harden(crew, journal=tmp_path / "j.db"))
    assert both == ["hello ann", "hello bob"]
