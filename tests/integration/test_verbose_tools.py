"""Long results of tools: cut for the model, kept whole, read on in pages, and counted."""

from __future__ import annotations

import base64
import os
import re
import sqlite3
from pathlib import Path
from typing import Any

import orjson
import pytest
from crewai import Agent, Crew, Task
from crewai.tools import BaseTool, tool
from pydantic import BaseModel

from crewai_prod import harden, open_journal
from crewai_prod import tool as typed_tool
from crewai_prod.records import StepRecord
from tests.crews import make_llm
from tests.integration.parts import MODES, PATHS, Effects, Mode, go, killed_before_each_request
from tests.openai_script import Turn
from tests.openai_server import Conversation, Rule, Server, answer, use

WHOLE = "".join(f"{n:04d} " for n in range(130))
"""650 characters, no two pages of which are alike."""
CUT = {"fetch": {"effect": "read", "max_output": 100}}


def make_fetch(effects: Effects) -> BaseTool:
    """A tool that returns much."""

    @tool
    def fetch(url: str) -> str:
        """Fetch a page."""
        effects.add(f"fetch {url}")
        return WHOLE

    return fetch


def make_crew(server: Server, path: str, *tools: BaseTool, tasks: int = 1) -> Crew:
    """One reader with some tools."""
    llm = make_llm(server.url, path, max_retries=0)  # type: ignore[arg-type]
    one = Agent(role="Reader", goal="g", backstory="b", llm=llm, tools=list(tools))
    work = [
        Task(name=f"t{n}", description=f"Part {n}.", expected_output="o", agent=one)
        for n in range(tasks)
    ]
    return Crew(name="readers", agents=[one], tasks=work)


def read_on(page: Any) -> Any:
    """The model reads a page of the result whose id it was told."""

    def decide(turn: Turn) -> Any:
        told = re.search(r'result_id "(\w+)"', "\n".join(turn.results) + turn.task)
        assert told is not None, turn.results
        return use("read_tool_result", {"result_id": told[1], "page": page})(turn)

    return decide


FETCH = use("fetch", {"url": "u"})
READS = Conversation(Rule(FETCH, read_on(2), read_on(7), answer("read")))


def said_last(server: Server) -> str:
    """All that was said in the last request."""
    return "\n".join(str(m.get("content")) for m in server.requests[-1].body["messages"])


def calls_of(folder: Path, name: str) -> list[StepRecord]:
    """The recorded calls of a tool."""
    return [step for step in open_journal(folder / "j.db").steps("r") if step.name == name]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PATHS)
def test_an_agent_reads_on_in_a_result_that_was_cut(tmp_path: Path, path: str, mode: Mode) -> None:
    """Killed before every request: each page is read where it stands, and stored but once."""
    effects = Effects(tmp_path)
    with Server(READS) as server:
        bare = make_crew(server, path, make_fetch(effects))
        crew = harden(bare, journal=tmp_path / "j.db", tools=CUT, durability="process")
        result = killed_before_each_request(lambda: go(crew, mode, run_id="r"))
        assert result.raw == "read"
        assert server.total_usage.requests == 4
        told = said_last(server)
    assert WHOLE[:100] in told
    assert "100 of 650 characters are shown, which is page 1 of 7" in told
    assert f"{WHOLE[100:200]}\n[page 2 of 7]" in told
    assert f"{WHOLE[600:]}\n[page 7 of 7]".strip() in told
    assert WHOLE[200:300] not in told
    assert effects.lines == ["fetch u"]
    (fetched,) = calls_of(tmp_path, "fetch")
    assert orjson.loads(fetched.result or "") == WHOLE
    pages = [orjson.loads(one.result or "") for one in calls_of(tmp_path, "read_tool_result")]
    assert pages == [
        {"result_of": fetched.step_id, "page": 2, "characters": 114},
        {"result_of": fetched.step_id, "page": 7, "characters": 64},
    ]


def test_an_id_or_a_page_that_is_none_is_told(tmp_path: Path) -> None:
    """In words, and the run goes on; nothing but results that were cut can be read."""
    seen: list[str] = []
    wrong = use("read_tool_result", {"result_id": "0123456789abcdef", "page": 1})

    @tool
    def short(topic: str) -> str:
        """Say something short."""
        return "secret of another tool"

    def of_another(turn: Turn) -> Any:
        (step,) = calls_of(tmp_path, "short")
        seen.append(step.step_id)
        return use("read_tool_result", {"result_id": step.step_id, "page": 1})(turn)

    script = Conversation(
        Rule(
            FETCH,
            read_on(8),
            read_on(0),
            wrong,
            use("short", {"topic": "x"}),
            of_another,
            answer("done"),
        )
    )
    with Server(script) as server:
        bare = make_crew(server, "text", make_fetch(Effects(tmp_path)), short)
        crew = harden(bare, journal=tmp_path / "j.db", tools=CUT)
        assert crew.kickoff(run_id="r").raw == "done"
        told = said_last(server)
    assert "There is no page 8" in told
    assert "There is no page 0" in told
    assert "has pages 1 to 7" in told
    assert "There is no cut result with the result_id '0123456789abcdef'" in told
    assert f"There is no cut result with the result_id '{seen[0]}'" in told


def test_a_later_task_reads_on_in_what_an_earlier_one_got(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a session that keeps the earlier task, and in a journal that is encrypted."""
    key = base64.b64encode(os.urandom(32)).decode()
    monkeypatch.setenv("CREWAI_PROD_ENCRYPTION_KEY", key)

    def passes_on(turn: Turn) -> Any:
        told = re.search(r'result_id "\w+"', turn.results[-1])
        assert told is not None
        return answer(f"see {told[0]}")(turn)

    script = Conversation(
        Rule(FETCH, passes_on, task="Part 0"), Rule(read_on(3), answer("read"), task="Part 1")
    )
    effects = Effects(tmp_path)
    with Server(script) as server:
        bare = make_crew(server, "native", make_fetch(effects), tasks=2)
        crew = harden(bare, journal=tmp_path / "j.db", tools=CUT, durability="process")
        assert killed_before_each_request(lambda: crew.kickoff(run_id="r")).raw == "read"
        assert WHOLE[200:300] in said_last(server)
    assert effects.lines == ["fetch u"]
    assert WHOLE[200:210].encode() not in (tmp_path / "j.db").read_bytes()


class Found(BaseModel):
    """What a typed tool returns."""

    text: str


def test_pages_of_a_typed_result_are_those_of_what_the_model_was_shown(tmp_path: Path) -> None:
    """Its JSON, of which the journal gives back a mapping; killed or not."""

    @typed_tool(effect="read", max_output=100)
    def fetch(url: str) -> Found:
        """Fetch a page."""
        return Found(text=WHOLE)

    whole = Found(text=WHOLE).model_dump_json()
    with Server(READS) as server:
        bare = make_crew(server, "native", fetch)
        crew = harden(bare, journal=tmp_path / "j.db", durability="process")
        assert killed_before_each_request(lambda: crew.kickoff(run_id="r")).raw == "read"
        told = said_last(server)
    parts = (whole[:100], whole[100:200])
    told = told.replace('\\"', '"')
    assert all(part in told for part in parts)


def test_who_has_no_tool_that_is_cut_gets_no_other(tmp_path: Path) -> None:
    """The prompt of a crew without `max_output` stays as it is."""
    with Server(Conversation(Rule(FETCH, answer("read")))) as server:
        bare = make_crew(server, "native", make_fetch(Effects(tmp_path)))
        reads = {"fetch": {"effect": "read"}}
        harden(bare, journal=tmp_path / "j.db", tools=reads).kickoff(run_id="r")
        names = [one["function"]["name"] for one in server.requests[-1].body["tools"]]
    assert names == ["fetch"]


def test_the_sizes_of_results_are_in_a_view(tmp_path: Path) -> None:
    """By crew and tool: how many, how long, how much of them was cut."""
    with Server(READS) as server:
        bare = make_crew(server, "native", make_fetch(Effects(tmp_path)))
        harden(bare, journal=tmp_path / "j.db", tools=CUT).kickoff(run_id="r")
    rows = sqlite3.connect(tmp_path / "j.db").execute("SELECT * FROM tool_output ORDER BY tool")
    assert rows.fetchall() == [
        ("readers", "fetch", 1, 650, 650.0, 650, 1, 550),
        ("readers", "read_tool_result", 2, 178, 89.0, 114, 0, 0),
    ]
