"""Whatever tools, models and callers send: a run ends as CrewAI ends it, or with an error of ours.

And the journal is whole afterwards, and the run can be read.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from crewai import Agent, Crew, Task
from crewai.tools import BaseTool, tool
from hypothesis import HealthCheck, given, settings

from crewai_prod import harden, open_journal, open_run, step
from crewai_prod.errors import CrewProdError
from crewai_prod.records import RunStatus
from tests.crews import make_llm
from tests.hostile import (
    JSON_VALUES,
    VALUES,
    HostileError,
    SurrogateError,
    assert_journal_whole,
)
from tests.integration.parts import PATHS
from tests.openai_server import Conversation, Reply, Rule, Server, answer, use

FEW = settings(
    deadline=None,
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def crew_of(server: Server, path: str, *tools: BaseTool) -> Crew:
    """One agent with some tools."""
    llm = make_llm(server.url, path, max_retries=0)  # type: ignore[arg-type]
    one = Agent(role="A", goal="g", backstory="b", llm=llm, tools=list(tools), max_retry_limit=0)
    task = Task(description="Do {what}", expected_output="o", agent=one)
    return Crew(agents=[one], tasks=[task])


def outcome(kickoff: Any) -> tuple[str, Any]:
    """What a kickoff returns or raises, the class of the exception where it is an exception."""
    try:
        return "returned", kickoff().raw
    except Exception as error:  # noqa: BLE001 - what it ends with is the question
        return "raised", error


def assert_as_bare(bare: tuple[str, Any], ours: tuple[str, Any]) -> None:
    """Assert that a run ended as the bare one, or better, or with an error of ours."""
    if ours[0] == "raised" and not isinstance(ours[1], CrewProdError):
        assert bare[0] == "raised", ours[1]
        assert type(ours[1]) is type(bare[1]), (ours[1], bare[1])


@contextmanager
def journal_in(folder: Path) -> Iterator[Path]:
    """A journal that must be whole in the end."""
    path = Path(tempfile.mkdtemp(dir=folder), "j.db")  # Hypothesis tries many in one folder
    yield path
    assert_journal_whole(path)


def compare(server: Server, path: str, folder: Path, *tools: BaseTool) -> tuple[str, Any]:
    """Run bare and hardened; how the hardened one ended, checked against the bare one.

    A second kickoff of the same run must end in the same way: it reads what the first has stored.
    """
    inputs = {"what": "it"}
    bare = outcome(lambda: crew_of(server, path, *tools).kickoff(inputs=inputs))
    with journal_in(folder) as journal:
        crew = harden(crew_of(server, path, *tools), journal=journal)
        ours = outcome(lambda: crew.kickoff(inputs=inputs, run_id="a"))
        assert_as_bare(bare, ours)
        if ours[0] == "returned":
            sent = len(server.requests)
            assert outcome(lambda: crew.kickoff(inputs=inputs, run_id="a")) == ours
            assert len(server.requests) == sent
    return ours


# -- tools ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "path"), [(name, PATHS[n % 2]) for n, name in enumerate(VALUES)])
def test_results_of_tools(server: Server, tmp_path: Path, path: str, name: str) -> None:
    """A tool may return anything; the values take the two paths in turn."""

    @tool
    def look() -> Any:
        """Look."""
        return VALUES[name]()

    server.app.script = Conversation(Rule(use("look", {}), answer("seen")))
    compare(server, path, tmp_path, look)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "error",
    [
        HostileError(),
        SurrogateError(),
        ValueError("\udfff", b"\x00"),
        ValueError(VALUES["looped list"]()),
        KeyError("x" * 300_000),
        RecursionError(),
        ExceptionGroup("several", [HostileError(), ValueError("one")]),
    ],
    ids=["hostile", "surrogate", "arguments", "looped", "huge", "recursion", "group"],
)
def test_exceptions_of_tools(server: Server, tmp_path: Path, path: str, error: Exception) -> None:
    """A tool may raise anything, and its text may not be had."""

    @tool
    def look() -> str:
        """Look."""
        raise error

    server.app.script = Conversation(Rule(use("look", {}), answer("seen")))
    compare(server, path, tmp_path, look)


RAW_ARGUMENTS = {
    "nothing": "",
    "no JSON": "{oops",
    "list": "[1, 2]",
    "number": "3",
    "null": "null",
    "text": '"\\ud800"',
    "surrogate": '{"value": "\\ud800"}',
    "surrogate key": '{"\\ud800": 1}',
    "nan": '{"value": NaN}',
    "infinity": '{"value": -Infinity}',
    "huge number": '{"value": 1e999}',
    "huge integer": '{"value": ' + "9" * 6000 + "}",
    "deep": '{"value": ' + "[" * 2000 + "]" * 2000 + "}",
    "deeper": '{"value": ' + '{"a":' * 10_000 + "1" + "}" * 10_000 + "}",
    "twice": '{"value": 1, "value": 2}',
    "nul": '{"value": "a\\u0000b"}',
    "huge": '{"value": "' + "x" * 300_000 + '"}',
    "tagged": '{"value": {"$": "bytes", "v": "!!"}}',
    "unknown": '{"other": 1, "*": [1], "self": 2}',
    "python": "{'value': None}",
    "unended": '{"value": "a',
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("raw", RAW_ARGUMENTS.values(), ids=RAW_ARGUMENTS.keys())
def test_arguments_as_text(server: Server, tmp_path: Path, path: str, raw: str) -> None:
    """A model may send anything as a tool's arguments, JSON or not."""
    server.app.script = Conversation(Rule(use("keep", raw), answer("kept")))
    compare(server, path, tmp_path, keep)


@tool
def keep(value: Any = None) -> str:
    """Keep a value."""
    return "kept"


@pytest.mark.parametrize("path", PATHS)
@FEW
@given(value=JSON_VALUES)
def test_arguments_of_any_shape(server: Server, tmp_path: Path, path: str, value: Any) -> None:
    """The same for whatever `json.dumps` writes; the tool gets it, or the model hears of it."""
    raw = json.dumps({"value": value})
    server.app.script = Conversation(Rule(use("keep", raw), answer("kept")))
    compare(server, path, tmp_path, keep)


# -- models ---------------------------------------------------------------------------------------

ANSWERS = {
    "surrogate": "lone \ud800 surrogate",
    "nul": "a\x00b",
    "controls": "".join(map(chr, range(32))) + "\x7f\u2028\u202e",
    "huge": "x" * 300_000,
    "digits": "9" * 6000,
    "json": json.dumps({"$": "bytes", "v": "!!"}),
    "deep json": "[" * 3000 + "]" * 3000,
    "braces": "{what} {0} {} }{",
    "secret": "sk-" + "a1" * 30,
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("text", ANSWERS.values(), ids=ANSWERS.keys())
def test_answers_of_models(
    server: Server, tmp_path: Path, path: str, stream: bool, text: str
) -> None:
    """A model may say anything: it is the run's result, the first time and ever after."""
    server.app.script = Conversation(Rule(answer(text)))
    crew = crew_of(server, path)
    crew.agents[0].llm = make_llm(server.url, path, stream, max_retries=0)  # type: ignore[arg-type]
    bare = outcome(lambda: crew.kickoff(inputs={"what": "it"}))
    with journal_in(tmp_path) as journal:
        hardened = harden(crew, journal=journal)
        ours = outcome(lambda: hardened.kickoff(inputs={"what": "it"}, run_id="a"))
        assert_as_bare(bare, ours)
        if ours[0] == "returned":
            assert ours == bare
            assert outcome(lambda: hardened.kickoff(inputs={"what": "it"}, run_id="a")) == ours


@FEW
@given(value=JSON_VALUES)
def test_server_replies_of_any_shape(server: Server, tmp_path: Path, value: Any) -> None:
    """A model may answer JSON where text was asked for, of any shape."""
    text = json.dumps(value, ensure_ascii=False)
    server.app.script = Conversation(Rule(Reply(text)))
    compare(server, "native", tmp_path)


# -- callers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VALUES)
def test_inputs_of_kickoffs(server: Server, tmp_path: Path, name: str) -> None:
    """A caller may hand in anything: it is taken, or refused as CrewAI or we refuse it."""
    server.app.script = Conversation(Rule(answer("done")))
    bare = outcome(lambda: crew_of(server, "native").kickoff(inputs={"what": VALUES[name]()}))
    with journal_in(tmp_path) as journal:
        crew = harden(crew_of(server, "native"), journal=journal)
        ours = outcome(lambda: crew.kickoff(inputs={"what": VALUES[name]()}, run_id="a"))
        assert_as_bare(bare, ours)


@pytest.mark.parametrize("name", sorted(set(VALUES) - {"liar"}))  # `inspect` needs its class
def test_arguments_and_results_of_steps(tmp_path: Path, name: str) -> None:
    """A step may take and return anything; one that acts is not made again."""
    made: list[int] = []

    @step(effect="write")
    def make(value: Any) -> Any:
        """Make."""
        made.append(1)
        return value

    with journal_in(tmp_path) as journal:
        for _ in range(2):
            try:
                with open_run("a", journal=journal):
                    make(VALUES[name]())
            except CrewProdError:
                assert made == []  # refused before anything was done
                break
        assert len(made) <= 1
        assert open_journal(journal).run("a").status in (RunStatus.COMPLETED, RunStatus.FAILED)


@pytest.mark.parametrize("error", [HostileError(), SurrogateError()], ids=["hostile", "surrogate"])
def test_exceptions_of_steps(tmp_path: Path, error: Exception) -> None:
    """A step may raise anything: the caller gets that."""

    @step
    def fail() -> None:
        """Fail."""
        raise error

    with journal_in(tmp_path) as journal:
        for _ in range(2):
            with pytest.raises(type(error)), open_run("a", journal=journal):
                fail()
        assert open_journal(journal).run("a").status is RunStatus.FAILED
