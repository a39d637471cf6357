"""What the SDKs' own clients raise for every fault of the test server, and what it is taken for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from crewai_prod.errors import (
    ContextOverflow,
    ModelError,
    ModelRejected,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
)
from crewai_prod.provider_errors import classify
from tests.openai_server import FAULTS, Fault, Reply, Server, fault

Meant = tuple[type[ModelError], dict[str, Any]]

OPENAI: dict[str, Meant] = {
    "rate_limit": (RateLimited, {"status": 429, "code": "rate_limit_exceeded"}),
    "quota": (ModelRejected, {"status": 429, "kind": "quota"}),
    "server_error": (ModelUnavailable, {"status": 500}),
    "bad_gateway": (ModelUnavailable, {"status": 502}),
    "unavailable": (ModelUnavailable, {"status": 503}),
    "overloaded": (ModelUnavailable, {"status": 529}),
    "unauthorized": (ModelRejected, {"status": 401, "kind": "auth"}),
    "forbidden": (ModelRejected, {"status": 403, "kind": "auth"}),
    "no_such_model": (ModelRejected, {"status": 404, "kind": "request"}),
    "context_length": (ContextOverflow, {"status": 400}),
    "proxy_page": (ModelUnavailable, {"status": 502}),
    "close": (ModelUnavailable, {}),
    "reset": (ModelUnavailable, {}),
    "cut": (ModelUnavailable, {}),
    "hang": (ModelTimeout, {}),
    "truncated": (ModelUnavailable, {}),
    "malformed": (ModelUnavailable, {}),
}
IN_PLAIN = {**OPENAI, "short": (ModelUnavailable, {})}
IN_STREAMS = {**OPENAI, "error_body": (ModelUnavailable, {})}
SILENT = {
    "drip",
    "empty",
    "broken_arguments",
    "unknown_tool",
    "length",
    "content_filter",
    "login_page",
    "no_choices",
    "error_body",
    "short",
}
"""Faults that a client lets pass: what they are is for whoever reads the answer."""


def test_every_fault_is_looked_at() -> None:
    """Each fault of the server is in the tables or among those that a client says nothing of."""
    assert set(IN_PLAIN) | set(IN_STREAMS) | SILENT == set(FAULTS)


def _cases() -> Iterator[Any]:
    for stream, table in ((False, IN_PLAIN), (True, IN_STREAMS)):
        for name, meant in table.items():
            yield pytest.param(name, stream, meant, id=f"{name}-{'stream' if stream else 'plain'}")


@pytest.mark.parametrize(("name", "stream", "meant"), _cases())
def test_openai(name: str, stream: bool, meant: Meant) -> None:
    """Whatever its client raises is an error of ours, with what the server said of it."""

    def ask(url: str) -> None:
        client = openai.OpenAI(
            base_url=f"{url}/v1", api_key="sk-test", max_retries=0, timeout=_patience(name)
        )
        said: Any = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hello"}], stream=stream
        )
        list(said)

    _assert_meant(FAULTS[name], ask, meant)


ANTHROPIC: dict[str, tuple[Fault, Meant]] = {
    "rate_limit": (
        fault("rate_limit", type="rate_limit_error", retry_after=7),
        (RateLimited, {"status": 429, "retry_after": 7.0}),
    ),
    "server_error": (fault("server_error", type="api_error"), (ModelUnavailable, {"status": 500})),
    "overloaded": (FAULTS["overloaded"], (ModelUnavailable, {"status": 529})),
    "unauthorized": (
        fault("unauthorized", type="authentication_error", message="invalid x-api-key"),
        (ModelRejected, {"status": 401, "kind": "auth"}),
    ),
    "quota": (
        fault("context_length", message="Your credit balance is too low to access the API."),
        (ModelRejected, {"status": 400, "kind": "quota"}),
    ),
    "no_such_model": (
        fault("no_such_model", type="not_found_error", message="model: m"),
        (ModelRejected, {"status": 404, "kind": "request"}),
    ),
    "context_length": (
        fault("context_length", message="prompt is too long: 250000 tokens > 200000 maximum"),
        (ContextOverflow, {"status": 400}),
    ),
    "request_too_large": (
        fault("context_length", status=413, type="request_too_large", message="Request too large"),
        (ContextOverflow, {"status": 413}),
    ),
    **{
        name: (FAULTS[name], OPENAI[name])
        for name in ("proxy_page", "close", "reset", "cut", "hang", "truncated", "malformed")
    },
}


@pytest.mark.parametrize("name", ANTHROPIC)
def test_anthropic(name: str) -> None:
    """The same, where the provider has other words for it."""
    wrong, meant = ANTHROPIC[name]

    def ask(url: str) -> None:
        client = anthropic.Anthropic(
            base_url=url, api_key="sk-test", max_retries=0, timeout=_patience(name)
        )
        client.messages.create(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "hello"}]
        )

    _assert_meant(wrong, ask, meant)


def test_anthropic_is_answered() -> None:
    """A reply without a fault is one: the faults above are not the server's failures."""
    with Server(lambda _: Reply("hi")) as server:
        client = anthropic.Anthropic(base_url=server.url, api_key="sk-test", max_retries=0)
        said = client.messages.create(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "hello"}]
        )
    assert said.to_dict()["content"] == [{"type": "text", "text": "hi"}]


def test_refused_connections() -> None:
    """A server that is down is not there: try again."""
    with Server(lambda _: Reply("hi")) as server, server.down():
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-test", max_retries=0)
        with pytest.raises(openai.APIConnectionError) as caught:
            client.models.list()
    assert type(classify(caught.value)) is ModelUnavailable


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ({"retry_after": 7}, 7.0),
        ({"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"headers": (("retry-after-ms", "250"),)}, 0.25),
        ({"headers": (("x-ratelimit-reset-requests", "6m0s"),)}, 360.0),
        ({}, None),
    ],
)
def test_how_long_to_wait(said: dict[str, Any], seconds: float | None) -> None:
    """In every form in which a header says it."""
    with Server(lambda _: fault("rate_limit", **said)) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-test", max_retries=0)
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hello"}]
            )
    found = classify(caught.value)
    assert found is not None
    assert found.fields.get("retry_after") == seconds


def _patience(name: str) -> float:
    return 0.3 if name == "hang" else 10.0


def _assert_meant(wrong: Fault, ask: Any, meant: Meant) -> None:
    with Server(lambda _: Reply("hi there", fault=wrong)) as server:
        try:
            ask(server.url)
        except Exception as error:  # noqa: BLE001 - whatever the client raises
            raised = error
        else:
            pytest.fail("the client raised nothing")
    kind, fields = meant
    found = classify(raised)
    assert type(found) is kind, raised
    assert {name: found.fields.get(name) for name in fields} == fields
    assert found.__cause__ is raised
