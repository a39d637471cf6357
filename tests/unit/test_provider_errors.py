"""Every exception of every SDK that CrewAI talks through is mapped to something to act on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from importlib import import_module
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from crewai_prod.errors import (
    ContextOverflow,
    ModelError,
    ModelRejected,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
)
from crewai_prod.provider_errors import by_name, classify

SDKS = {
    "openai": "openai.OpenAIError",
    "anthropic": "anthropic.AnthropicError",
    "google-genai": "google.genai.errors.APIError",
    "httpx": "httpx.HTTPError",
    "botocore": "botocore.exceptions.BotoCoreError",
    "boto client": "botocore.exceptions.ClientError",
    "azure": "azure.core.exceptions.AzureError",
    "litellm": "openai.OpenAIError",
}


def _tree(root: type[BaseException]) -> Iterator[type[BaseException]]:
    yield root
    for kind in root.__subclasses__():
        yield from _tree(kind)


@pytest.mark.parametrize("sdk", SDKS)
def test_no_exception_of_an_sdk_is_unknown(sdk: str) -> None:
    """Walk the SDK's exceptions: each is known by name, not by the rule for what is left."""
    module, _, name = SDKS[sdk].rpartition(".")
    try:
        root = getattr(import_module(module), name)
        import_module(f"{sdk}.exceptions") if sdk == "litellm" else None
    except ImportError:
        pytest.skip(f"{sdk} is not installed: CrewAI does without it unless asked")
    package = sdk.partition("-")[0].partition(" ")[0].replace("boto", "botocore")
    kinds = {kind for kind in _tree(root) if kind.__module__.startswith(package[:6])}
    assert len(kinds) >= 1
    unknown = {kind.__qualname__ for kind in kinds if by_name(kind) is None}
    roots = {"OpenAIError", "AnthropicError", "BotoCoreError", "AzureError"}
    assert unknown - roots == set()


def _openai(status: int, code: str | None, message: str = "no", **headers: str) -> Exception:
    import openai

    request = httpx.Request("POST", "http://127.0.0.1/v1")
    response = httpx.Response(status, request=request, headers=headers)
    body = {"message": message, "type": "some", "code": code}
    client = openai.OpenAI(api_key="sk-test")
    return cast(
        Exception, client._make_status_error(message, body={"error": body}, response=response)
    )


@pytest.mark.parametrize(
    ("status", "code", "message", "kind"),
    [
        (429, "rate_limit_exceeded", "slow down", RateLimited),
        (429, "insufficient_quota", "You exceeded your current quota", ModelRejected),
        (429, None, "You exceeded your current quota", ModelRejected),
        (401, "invalid_api_key", "Incorrect API key provided", ModelRejected),
        (403, None, "Country not supported", ModelRejected),
        (404, "model_not_found", "The model does not exist", ModelRejected),
        (400, "context_length_exceeded", "too long", ContextOverflow),
        (400, None, "This model's maximum context length is 8192 tokens", ContextOverflow),
        (400, None, "Unsupported parameter", ModelRejected),
        (408, None, "timeout", ModelTimeout),
        (409, None, "conflict", ModelUnavailable),
        (500, None, "boom", ModelUnavailable),
        (503, None, "overloaded", ModelUnavailable),
        (504, None, "gateway timeout", ModelTimeout),
        (529, None, "Overloaded", ModelUnavailable),
    ],
)
def test_openai(status: int, code: str | None, message: str, kind: type[ModelError]) -> None:
    """Code before status, status before name; the original is the cause."""
    error = _openai(status, code, message)
    found = classify(error)
    assert type(found) is kind
    assert found.__cause__ is error
    assert found.fields["status"] == status
    assert message in found.message


def test_what_is_refused_says_why() -> None:
    """Whose key, whose bill, whose request: who can act depends on it."""
    kinds = {
        "auth": _openai(401, "invalid_api_key"),
        "quota": _openai(429, "insufficient_quota"),
        "policy": _openai(400, "content_filter"),
        "request": _openai(400, None, "Unsupported parameter"),
    }
    for why, error in kinds.items():
        found = classify(error)
        assert found is not None
        assert (found.fields["kind"], found.retryable) == (why, False)


def test_rate_limit_says_how_long() -> None:
    """What the provider asks for travels with the error."""
    headers = {"retry-after": "7"}
    found = classify(_openai(429, "rate_limit_exceeded", **headers))
    assert found is not None
    assert found.fields["retry_after"] == 7.0


def _like(name: str, module: str, **values: Any) -> Exception:
    """An exception as an SDK that need not be installed here would raise it."""
    kind = type(name, (Exception,), {"__module__": module})
    error: Exception = kind("it failed")
    for key, value in values.items():
        setattr(error, key, value)
    return error


def _boto(code: str, status: int) -> dict[str, Any]:
    meta = {"HTTPStatusCode": status, "HTTPHeaders": {"Retry-After": "3"}}
    return {"Error": {"Code": code}, "ResponseMetadata": meta}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (
            _like("ClientError", "botocore.exceptions", response=_boto("ThrottlingException", 400)),
            RateLimited,
        ),
        (
            _like(
                "ClientError", "botocore.exceptions", response=_boto("AccessDeniedException", 403)
            ),
            ModelRejected,
        ),
        (_like("EndpointConnectionError", "botocore.exceptions"), ModelUnavailable),
        (_like("ReadTimeoutError", "botocore.exceptions"), ModelTimeout),
        (
            _like("ClientError", "google.genai.errors", code=429, status="RESOURCE_EXHAUSTED"),
            RateLimited,
        ),
        (
            _like("ServerError", "google.genai.errors", code=503, status="UNAVAILABLE"),
            ModelUnavailable,
        ),
        (_like("HttpResponseError", "azure.core.exceptions", status_code=429), RateLimited),
        (_like("ServiceRequestError", "azure.core.exceptions"), ModelUnavailable),
        (_like("OverloadedError", "anthropic._exceptions", status_code=529), ModelUnavailable),
        (
            _like("ContextWindowExceededError", "litellm.exceptions", status_code=400),
            ContextOverflow,
        ),
        (_like("Timeout", "litellm.exceptions"), ModelTimeout),
        (httpx.ReadTimeout("slow"), ModelTimeout),
        (httpx.ConnectError("refused"), ModelUnavailable),
        (httpx.RemoteProtocolError("cut"), ModelUnavailable),
        (ConnectionResetError("reset"), ModelUnavailable),
        (TimeoutError("slow"), ModelTimeout),
        (socket.gaierror("no such host"), ModelUnavailable),
    ],
)
def test_other_sdks(error: Exception, kind: type[ModelError]) -> None:
    """The same rules for whatever carries a status, a code or a telling name."""
    if kind is ContextOverflow:
        error.args = ("maximum context length is 8192 tokens",)
    assert type(classify(error)) is kind


def test_wrapped_errors_are_found() -> None:
    """CrewAI and users wrap exceptions; what was wrapped counts."""
    try:
        try:
            raise _openai(503, None)
        except Exception as error:
            raise RuntimeError("Connection to the model failed") from error
    except RuntimeError as wrapped:
        found = classify(wrapped)
    assert type(found) is ModelUnavailable
    assert isinstance(found.__cause__, RuntimeError)


@pytest.mark.parametrize("error", [ValueError("mine"), KeyError("x"), AssertionError(), OSError(2)])
def test_a_users_own_error_is_not_taken_for_a_providers(error: Exception) -> None:
    """What no provider raised stays what it is."""
    assert classify(error) is None


def test_hostile_attributes_are_survived() -> None:
    """An exception may carry anything."""
    odd = _like(
        "APIError", "openai", body=["x"], response=SimpleNamespace(headers=3), code=object()
    )
    assert type(classify(odd)) is ModelUnavailable
    odd = _like("APIError", "openai", body="not json", status_code="500", details={"error": "x"})
    assert type(classify(odd)) is ModelUnavailable


def test_a_providers_words_are_told_without_keys() -> None:
    """What it repeats of the key it was given is in no message of ours, cut or whole."""
    key = "sk-" + "proj-Zx81kQpL0aWm"
    for before in ("", "x " * 145):
        error = _openai(401, "invalid_api_key", f"Incorrect API key provided: {before}{key}.")
        found = classify(error)
        assert found is not None
        assert key[:9] not in str(found)
