"""The test server speaks OpenAI's format, misbehaves as told, and never miscounts."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from crewai import Agent, Crew, CrewOutput, Process, Task
from crewai.tools import tool
from openai import OpenAI
from openai.types import CompletionUsage

from tests import crews
from tests.openai_server import (
    FAULTS,
    RECOVERABLE,
    ROOT,
    Body,
    Conversation,
    Fault,
    Record,
    Reply,
    Seen,
    Server,
    ServerProcess,
    Usage,
    call,
    calls,
    fail_at_rate,
    fail_first,
    fault,
)
from tests.scripts import PAYING, say_hi

USER = {"role": "user", "content": "hello"}
PAY_TOOL = {
    "type": "function",
    "function": {"name": "pay", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture
def server() -> Iterator[Server]:
    """Return a server that says hi."""
    with Server(say_hi) as running:
        yield running


def client(server: Server | ServerProcess, **options: Any) -> OpenAI:
    """Return the SDK's client, without its own retries."""
    settings = {"base_url": f"{server.url}/v1", "api_key": "sk-test", "max_retries": 0}
    return OpenAI(**{**settings, "timeout": 5.0, **options})


def ask(server: Server | ServerProcess, **body: Any) -> Any:
    """Send one chat request through the SDK."""
    return client(server).chat.completions.create(
        **{"model": "gpt-4o-mini", "messages": [USER], **body}
    )


def post(server: Server, **body: Any) -> httpx.Response:
    """Send one chat request as it is."""
    return httpx.post(f"{server.url}/v1/chat/completions", json=body)


def as_sent(record: Record) -> CompletionUsage:
    """Return a record's usage as the SDK would show it."""
    return CompletionUsage.model_validate(record.usage)


# -- the format ---------------------------------------------------------------------------------


def test_plain_answer_is_what_the_ledger_holds(server: Server) -> None:
    """The SDK reads text, finish reason and usage, and the ledger agrees."""
    got = ask(server)
    (record,) = server.requests
    assert got.choices[0].message.content == "hi there, friend"
    assert got.choices[0].finish_reason == "stop"
    assert got.usage == as_sent(record)
    assert (record.status, record.completed, record.stream) == (200, True, False)
    assert record.finished_at is not None
    assert record.finished_at >= record.started_at
    assert server.total_usage.total_tokens == got.usage.total_tokens


def test_stream_carries_the_same_answer_and_usage(server: Server) -> None:
    """A stream adds up to the unstreamed text, with usage in its last chunk."""
    chunks = list(ask(server, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    (record,) = server.requests
    assert text == "hi there, friend"
    assert len(chunks) > 4
    assert chunks[-1].usage == as_sent(record)
    assert (record.stream, record.completed) == (True, True)
    assert ask(server).usage == chunks[-1].usage


def test_stream_without_include_usage_tells_none(server: Server) -> None:
    """Without `include_usage` no chunk has usage, and the ledger says so."""
    assert all(chunk.usage is None for chunk in ask(server, stream=True))
    assert server.requests[0].usage is None
    assert server.total_usage.requests == 0


@pytest.mark.parametrize("stream", [False, True])
def test_native_tool_calls_arrive_whole(stream: bool) -> None:
    """Several tool calls arrive with their arguments and with ids that are stable."""
    wanted = calls([("pay", {"amount": 5}), ("log", {"note": "a longer note"})])
    with Server(lambda _: wanted) as server:
        got = _tool_calls(server, stream)
        again = _tool_calls(server, not stream)
    assert [(name, json.loads(raw)) for _, name, raw in got] == [
        ("pay", {"amount": 5}),
        ("log", {"note": "a longer note"}),
    ]
    assert got == again
    assert len({call_id for call_id, _, _ in got}) == 2


def _tool_calls(server: Server, stream: bool) -> list[tuple[str, str, str]]:
    if not stream:
        made = ask(server, tools=[PAY_TOOL]).choices[0].message.tool_calls
    else:
        api = client(server).chat.completions
        with api.stream(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": "hello"}],
            tools=[PAY_TOOL],  # type: ignore[list-item]
        ) as events:
            made = events.get_final_completion().choices[0].message.tool_calls
    return [(one.id, one.function.name, one.function.arguments) for one in made]


def test_nothing_is_lost_under_load(server: Server) -> None:
    """Requests from many threads are all counted, each once."""
    api = client(server).chat.completions
    asked: Any = {"model": "m", "messages": [USER]}
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: api.create(user=str(n), **asked), range(200)))
    assert [record.n for record in server.requests] == list(range(1, 201))
    assert {record.nth for record in server.requests} == set(range(1, 201))
    assert server.total_usage.total_tokens == sum(one.usage.total_tokens for one in answers)


def test_usage_can_be_claimed() -> None:
    """A reply can claim any usage, cached and reasoning tokens included."""
    claimed = Usage(prompt=100, completion=20, cached=64, reasoning=8)
    with Server(lambda _: Reply("x", usage=claimed)) as server:
        usage = ask(server).usage
        total = server.total_usage
    assert usage.prompt_tokens_details.cached_tokens == total.cached_tokens == 64
    assert usage.completion_tokens_details.reasoning_tokens == total.reasoning_tokens == 8
    assert (usage.total_tokens, total.total_tokens) == (120, 120)


def test_embeddings_depend_on_the_text_alone(server: Server) -> None:
    """Equal texts get equal vectors, in base64 (the SDK's default) and as floats."""
    api = client(server).embeddings
    model = "text-embedding-3-small"
    first = api.create(model=model, input=["a", "b"], dimensions=8)
    second = api.create(model=model, input="a", dimensions=8, encoding_format="float")
    vectors = [one.embedding for one in first.data]
    assert vectors[0] == second.data[0].embedding
    assert vectors[0] != vectors[1]
    assert len(vectors[0]) == 8
    assert server.requests[0].usage == {"prompt_tokens": 2, "total_tokens": 2}


def test_models_are_listed(server: Server) -> None:
    """The model list is there and is counted like any request."""
    assert "gpt-4o-mini" in [model.id for model in client(server).models.list()]
    assert server.requests[0].path == "/v1/models"


CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "pay", "arguments": "{}"}}
    ],
}
ANSWERED = {"role": "tool", "tool_call_id": "c1", "content": "ok"}
MALFORMED: dict[str, Body] = {
    "no model": {"model": ""},
    "no messages": {"messages": []},
    "unknown argument": {"from_task": 1},
    "unknown role": {"messages": [{"role": "boss", "content": "x"}]},
    "content is null": {"messages": [{"role": "user", "content": None}]},
    "call without result": {"messages": [USER, CALLED]},
    "call answered too late": {"messages": [USER, CALLED, USER, ANSWERED]},
    "result without call": {"messages": [USER, ANSWERED]},
    "tool name": {"tools": [{"type": "function", "function": {"name": "pay the bill"}}]},
    "options without stream": {"stream_options": {"include_usage": True}},
}


@pytest.mark.parametrize("changes", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_requests_are_refused(server: Server, changes: Body) -> None:
    """What OpenAI refuses is refused here, in OpenAI's shape, and is counted."""
    got = post(server, **{"model": "gpt-4o-mini", "messages": [USER], **changes})
    assert got.status_code == 400
    assert got.json()["error"]["type"] == "invalid_request_error"
    assert [record.status for record in server.requests] == [400]


def test_answered_tool_calls_are_accepted(server: Server) -> None:
    """A tool call followed by its result is a valid conversation."""
    ask(server, messages=[USER, CALLED, ANSWERED])
    assert server.requests[0].status == 200


def test_a_body_that_is_not_json_is_refused(server: Server) -> None:
    """Bytes that are no JSON object get a 400 too."""
    got = httpx.post(f"{server.url}/v1/chat/completions", content=b"{")
    assert got.status_code == 400
    assert server.requests[0].status == 400


def test_a_bug_in_a_script_reaches_the_test() -> None:
    """A script that raises is reported as a 400, which no client retries."""
    with (
        Server(Conversation()) as server,
        pytest.raises(openai.BadRequestError, match="no rule for turn 0"),
    ):
        ask(server)


# -- faults -------------------------------------------------------------------------------------

STATUS_ERRORS: dict[str, type[openai.APIStatusError]] = {
    "rate_limit": openai.RateLimitError,
    "quota": openai.RateLimitError,
    "server_error": openai.InternalServerError,
    "bad_gateway": openai.InternalServerError,
    "unavailable": openai.InternalServerError,
    "overloaded": openai.InternalServerError,
    "unauthorized": openai.AuthenticationError,
    "forbidden": openai.PermissionDeniedError,
    "no_such_model": openai.NotFoundError,
    "context_length": openai.BadRequestError,
}


@pytest.mark.parametrize("name", STATUS_ERRORS)
def test_status_faults_raise_what_openai_raises(name: str) -> None:
    """Each status fault is the SDK's own exception, with code and Retry-After."""
    wrong = fault(name, retry_after=7)
    with Server(lambda _: wrong) as server, pytest.raises(STATUS_ERRORS[name]) as caught:
        ask(server)
    assert caught.value.code == wrong.code
    assert caught.value.status_code == wrong.status
    assert caught.value.response.headers["retry-after"] == "7"
    (record,) = server.requests
    assert (record.status, record.usage, record.fault) == (wrong.status, None, "status")


RATE_LIMIT_HEADERS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "seconds": {"retry_after": 7},
    "date": {"retry_after": "Wed, 21 Oct 2037 07:28:00 GMT"},
    "milliseconds": {"headers": (("retry-after-ms", "250"),)},
    "resets": {
        "headers": (
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "6m0s"),
        )
    },
}


@pytest.mark.parametrize("said", RATE_LIMIT_HEADERS.values(), ids=RATE_LIMIT_HEADERS.keys())
def test_rate_limits_say_when_to_come_back(said: dict[str, Any]) -> None:
    """In every form that providers use, or not at all."""
    wrong = fault("rate_limit", **said)
    with Server(lambda _: wrong) as server, pytest.raises(openai.RateLimitError) as caught:
        ask(server)
    headers = {**dict(wrong.headers), "retry-after": wrong.retry_after}
    wanted = {name: str(value) for name, value in headers.items() if value is not None}
    got = caught.value.response.headers
    assert {name: got[name] for name in got if "retry" in name or "ratelimit" in name} == wanted


@pytest.mark.parametrize("stream", [False, True])
def test_a_proxys_error_page_is_an_error(stream: bool) -> None:
    """HTML with a status of its own: the SDK goes by the status, and has no code."""
    with (
        Server(lambda _: FAULTS["proxy_page"]) as server,
        pytest.raises(openai.InternalServerError, match="Bad Gateway") as caught,
    ):
        ask(server, stream=stream)
    assert (caught.value.status_code, caught.value.code) == (502, None)
    assert server.requests[0].usage is None


def test_a_page_with_a_200_passes_for_an_answer() -> None:
    """The SDK hands over the page's text as it is, and an empty stream."""
    with Server(lambda _: FAULTS["login_page"]) as server:
        assert "Please sign in" in ask(server)
        assert list(ask(server, stream=True)) == []
        assert [one.status for one in server.requests] == [200, 200]


def test_an_error_in_a_200_passes_for_an_answer() -> None:
    """The SDK makes an answer without choices of it; in a stream it knows it for an error."""
    with Server(lambda _: FAULTS["error_body"]) as server:
        assert ask(server).choices is None
        with pytest.raises(openai.APIError, match="had an error"):
            list(ask(server, stream=True))
        assert [one.usage for one in server.requests] == [None, None]


def test_an_answer_without_choices_is_billed() -> None:
    """It is well-formed and says what it cost."""
    with Server(lambda _: Reply("hi", fault=FAULTS["no_choices"])) as server:
        got = ask(server)
        assert got.choices == []
        assert got.usage == as_sent(server.requests[0])
        chunks = list(ask(server, stream=True, stream_options={"include_usage": True}))
        assert [chunk.choices for chunk in chunks] == [[]] * len(chunks)
        assert chunks[-1].usage == got.usage


def test_a_server_that_is_down_refuses() -> None:
    """While it is down connections are refused; then it is back, on the same port and ledger."""
    with Server(say_hi) as server:
        ask(server)
        with server.down():
            with pytest.raises(openai.APIConnectionError) as caught:
                ask(server)
            assert "refused" in str(caught.value.__cause__)
        assert ask(server).choices[0].message.content == "hi there, friend"
        assert [one.nth for one in server.requests] == [1, 2]


def test_what_is_named_recoverable_is_a_fault() -> None:
    """Each is in the list of faults, and an honest answer comes when it is gone."""
    for name in RECOVERABLE:
        with Server(say_hi, faults=fail_first(FAULTS[name])) as server:
            asked = post_and_forget(server)
            assert asked.nth == 1, name
            assert asked.fault == FAULTS[name].kind, name
            assert ask(server).choices[0].message.content == "hi there, friend", name


def post_and_forget(server: Server) -> Record:
    """Send the request of `ask`, whatever comes of it; what the server recorded."""
    with contextlib.suppress(httpx.TransportError):
        post(server, model="gpt-4o-mini", messages=[USER])
    return _finished(server)[0]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["close", "reset"])
def test_dropped_connections(name: str, stream: bool) -> None:
    """A connection that is dropped without a response is a connection error."""
    with Server(lambda _: FAULTS[name]) as server, pytest.raises(openai.APIConnectionError):
        ask(server, stream=stream)
    (record,) = server.requests
    assert (record.status, record.completed) == (0, False)


def test_reset_is_a_reset() -> None:
    """A reset reaches the client as ECONNRESET, a close as an end of file."""
    with Server(lambda _: FAULTS["reset"]) as server, pytest.raises(httpx.ReadError):
        post(server, model="m", messages=[USER])
    with Server(lambda _: FAULTS["close"]) as server, pytest.raises(httpx.RemoteProtocolError):
        post(server, model="m", messages=[USER])


def test_a_hang_outlasts_the_clients_timeout() -> None:
    """A hanging request times out at the client and ends unfinished in the ledger."""
    with Server(lambda _: FAULTS["hang"]) as server:
        with pytest.raises(openai.APITimeoutError):
            client(server, timeout=0.2).chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hello"}]
            )
        (record,) = _finished(server)
    assert (record.status, record.completed) == (0, False)


def _finished(server: Server | ServerProcess) -> list[Record]:
    """Return the requests once none is being answered any more."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        records = server.requests
        if records and all(record.finished_at for record in records):
            return records
        time.sleep(0.01)
    raise AssertionError("a request is still being answered")


@pytest.mark.parametrize("wrong", [fault("drip", seconds=0.3), None], ids=["drip", "delay"])
@pytest.mark.parametrize("stream", [False, True])
def test_slow_answers_arrive_whole(wrong: Fault | None, stream: bool) -> None:
    """A slow drip and a delay take their time and still deliver everything."""
    slow = Reply("hi", fault=wrong) if wrong else Reply("hi", delay=0.3)
    with Server(lambda _: slow) as server:
        started = time.monotonic()
        got = ask(server, stream=stream)
        parts = [chunk.choices[0].delta.content or "" for chunk in got] if stream else []
        took = time.monotonic() - started
    assert ("".join(parts) if stream else got.choices[0].message.content) == "hi"
    assert 0.29 < took < 2
    assert server.requests[0].completed


def test_a_cut_answer_is_incomplete() -> None:
    """A response cut in the middle is a connection error, and tells no usage."""
    with Server(lambda _: Reply("hi", fault=FAULTS["cut"])) as server:
        with pytest.raises(openai.APIConnectionError):
            ask(server)
        with pytest.raises(httpx.RemoteProtocolError):
            list(ask(server, stream=True))
        assert [(one.status, one.completed, one.usage) for one in server.requests] == [
            (200, False, None),
            (200, False, None),
        ]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["truncated", "malformed"])
def test_broken_json(name: str, stream: bool) -> None:
    """A body that is complete as HTTP but not as JSON cannot be parsed."""
    with (
        Server(lambda _: Reply("hi", fault=FAULTS[name])) as server,
        pytest.raises(json.JSONDecodeError),
    ):
        list(ask(server, stream=stream))
    (record,) = server.requests
    assert (record.status, record.completed, record.usage) == (200, True, None)


def test_a_stream_that_is_short_passes_for_a_whole_one() -> None:
    """It ends as HTTP says, without a finish reason: the SDK says nothing."""
    with Server(lambda _: Reply("a text of some length", fault=FAULTS["short"])) as server:
        chunks = list(ask(server, stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text
        assert "a text of some length".startswith(text)
        assert text != "a text of some length"
        assert {chunk.choices[0].finish_reason for chunk in chunks} == {None}
        with pytest.raises(json.JSONDecodeError):
            ask(server)


def test_answers_of_no_use() -> None:
    """Empty content, broken arguments, unknown tools and wrong finish reasons are well-formed."""
    pay = call("pay", {"amount": 5})
    wrong: dict[str, Callable[[Any], bool]] = {
        "empty": lambda choice: choice.message.content == "" and not choice.message.tool_calls,
        "broken_arguments": lambda choice: _arguments(choice) == '{"amou',
        "unknown_tool": lambda choice: choice.message.tool_calls[0].function.name == "no_such_tool",
        "length": lambda choice: choice.finish_reason == "length",
        "content_filter": lambda choice: choice.finish_reason == "content_filter",
    }
    for name, is_so in wrong.items():
        reply = replace(pay, fault=FAULTS[name])
        with Server(lambda _, reply=reply: reply) as server:  # type: ignore[misc]
            got = ask(server)
        assert is_so(got.choices[0]), name
        assert got.usage == as_sent(server.requests[0])


def _arguments(choice: Any) -> str:
    return str(choice.message.tool_calls[0].function.arguments)


def test_a_request_can_fail_first_and_then_succeed() -> None:
    """A schedule counts each request by itself, so the SDK's retry succeeds."""
    with Server(say_hi, faults=fail_first(fault("rate_limit", retry_after=0.01))) as server:
        api = client(server, max_retries=1).chat.completions
        for text in ("one", "two"):
            api.create(model="m", messages=[{"role": "user", "content": text}])
    assert [(one.status, one.nth) for one in server.requests] == [
        (429, 1),
        (200, 2),
        (429, 1),
        (200, 2),
    ]


def test_a_fault_rate_goes_by_the_request_alone() -> None:
    """Who asks how much else in between meets the same: two clients live in one world."""
    schedule = fail_at_rate(0.5, FAULTS["unavailable"], FAULTS["close"], seed=3)

    def met(server: Server, texts: list[str]) -> dict[tuple[str, int], str | None]:
        server.reset()
        for text in texts:
            with contextlib.suppress(httpx.TransportError):
                post(server, model="m", messages=[{"role": "user", "content": text}])
        return {(str(one.body["messages"]), one.nth): one.fault for one in server.requests}

    with Server(say_hi, faults=schedule) as server:
        few = met(server, ["a", "b", "a"])
        many = met(server, ["b", "c", "a", "b", "d", "c", "a", "a"])
    assert few.items() <= many.items()
    assert len(set(many.values())) == 3


def test_a_fault_rate_is_repeatable() -> None:
    """A seeded rate fails about its share of requests, the same ones each time."""
    asked = [Seen(body={}, digest=str(n), nth=1, n=n) for n in range(1000)]
    some = fail_at_rate(0.3, FAULTS["close"], FAULTS["unavailable"], seed=7)
    drawn = [some(seen) for seen in asked]
    assert drawn == [some(seen) for seen in asked]
    assert 250 < sum(wrong is not None for wrong in drawn) < 350
    assert drawn != [fail_at_rate(0.3, FAULTS["close"], seed=8)(seen) for seen in asked]


# -- starting and stopping ----------------------------------------------------------------------


def test_the_server_starts_and_stops_at_once() -> None:
    """It is up in a moment, and a hanging request does not hold up its end."""
    started = time.monotonic()
    with Server(lambda _: FAULTS["hang"]) as server:
        httpx.get(f"{server.url}/v1/models")
        up = time.monotonic() - started
        hanging = ask_from_elsewhere(server)
        while len(server.requests) < 2:
            time.sleep(0.01)
        stopping = time.monotonic()
    assert up < 1
    assert time.monotonic() - stopping < 2
    assert hanging.wait(10) == 1
    assert server.requests[1].completed is False


def ask_from_elsewhere(server: Server | ServerProcess) -> subprocess.Popen[bytes]:
    """Send one chat request from another process."""
    body = {"model": "m", "messages": [USER]}
    url = f"{server.url}/v1/chat/completions"
    script = f"import httpx; httpx.post({url!r}, json={body!r}, timeout=60)"
    return subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)


def test_a_server_in_its_own_process(tmp_path: Path) -> None:
    """It has the same interface, finds script and faults by name, and logs to a file."""
    log = tmp_path / "requests.jsonl"
    with ServerProcess("tests.scripts:say_hi", faults="tests.scripts:FLAKY", log=log) as server:
        with pytest.raises(openai.InternalServerError):
            ask(server)
        usage = ask(server).usage
        assert [one.status for one in server.requests] == [503, 200]
        assert server.total_usage.total_tokens == usage.total_tokens
        assert server.requests[0].body["messages"] == [USER]
        server.reset()
        assert server.requests == []
    lines = [Record(**json.loads(line)) for line in log.read_text().splitlines()]
    assert [(one.n, one.status, one.nth) for one in lines] == [(1, 503, 1), (2, 200, 2)]
    assert as_sent(lines[1]) == usage


def test_a_killed_client_is_seen() -> None:
    """A client killed while it waits leaves an incomplete record, and soon."""
    with ServerProcess("tests.scripts:slowly") as server:
        waiting = ask_from_elsewhere(server)
        while not server.requests:
            time.sleep(0.01)
        waiting.kill()
        waiting.wait()
        (record,) = _finished(server)
    assert (record.completed, record.status) == (False, 200)


def test_a_server_process_does_not_outlive_its_owner() -> None:
    """A test process that is killed takes its server with it."""
    script = (
        "import os; from tests.openai_server import ServerProcess\n"
        "print(ServerProcess('tests.scripts:say_hi').__enter__().url, flush=True); os._exit(9)"
    )
    owner = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True)
    url = owner.stdout.decode().strip()
    assert url.startswith("http://")
    deadline = time.monotonic() + 5
    while answers(url):
        assert time.monotonic() < deadline


def answers(url: str) -> bool:
    """Whether a server is there."""
    try:
        httpx.get(f"{url}/v1/models")
    except httpx.TransportError:
        return False
    return True


def test_a_script_that_does_not_exist_is_an_error() -> None:
    """A server process that cannot start says so at once."""
    with pytest.raises(RuntimeError, match="did not start"), ServerProcess("tests:nothing"):
        pass


# -- crews --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["native", "text"])
def test_a_crew_on_both_paths(path: crews.Path, stream: bool) -> None:
    """A crew of two runs its tool once and reports the usage the server counted."""
    with Server(PAYING) as server:
        paid, crew = paying_crew(server, path, stream)
        result = run(crew)
    assert (result.raw, paid) == ("receipt 5", [5])
    assert [record.status for record in server.requests] == [200, 200, 200]
    assert [bool(record.body.get("tools")) for record in server.requests] == [
        path == "native",
        path == "native",
        False,
    ]
    usage, true = result.token_usage, server.total_usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.successful_requests) == (
        true.prompt_tokens,
        true.completion_tokens,
        true.requests,
    )


def test_o1_takes_the_text_path_by_itself() -> None:
    """CrewAI asks o1 in text, with the system prompt in a user message."""
    with Server(PAYING) as server:
        paid, crew = paying_crew(server, "native", False, model="openai/o1")
        assert run(crew).raw == "receipt 5"
    assert paid == [5]
    assert {one["role"] for one in server.requests[0].body["messages"]} == {"user"}


def test_a_crew_asks_the_same_again() -> None:
    """The same crew run twice sends the same requests and gets the same answers."""
    with ServerProcess("tests.scripts:PAYING") as server:
        for _ in range(2):
            assert run(paying_crew(server, "native", False)[1]).raw == "receipt 5"
        seen = [record.digest for record in server.requests]
    assert seen[:3] == seen[3:]
    assert len(set(seen)) == 3


def run(crew: Crew) -> CrewOutput:
    """Run a crew that does not stream its own output."""
    result = crew.kickoff()
    assert isinstance(result, CrewOutput)
    return result


def paying_crew(
    server: Server | ServerProcess, path: crews.Path, stream: bool, **options: Any
) -> tuple[list[int], Crew]:
    """Return a crew that pays and writes a receipt, and the list of its payments."""
    paid: list[int] = []

    @tool("pay")
    def pay(amount: int) -> str:
        """Pay an amount."""
        paid.append(amount)
        return f"ok {amount}"

    agents = [
        Agent(
            role=role,
            goal="work",
            backstory="old hand",
            tools=tools,
            llm=crews.make_llm(server.url, path, stream, **options),
        )
        for role, tools in (("Cashier", [pay]), ("Clerk", []))
    ]
    tasks = [
        Task(description=text, expected_output="a line", agent=agent)
        for text, agent in zip(("Pay the bill", "Write a receipt"), agents, strict=True)
    ]
    return paid, Crew(agents=agents, tasks=tasks, process=Process.sequential)
