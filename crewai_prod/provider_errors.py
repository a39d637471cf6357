"""What an exception of a provider's SDK means, whichever SDK it is.

Rule: an exception is read by what it carries (an HTTP status, an error code) and by the names of
its class and bases, never by importing the SDK. Reason: CrewAI talks through eight of them, most of
which are not installed. What none of the rules knows is no provider's error and stays what it is.
Sources: the exception trees of openai, anthropic, google-genai, botocore, azure-core, litellm and
httpx, which a test walks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from crewai_prod.errors import (
    ContextOverflow,
    ModelError,
    ModelRejected,
    ModelTimeout,
    ModelUnavailable,
    RateLimited,
)
from crewai_prod.redact import redact_text
from crewai_prod.waiting import retry_after

_SDKS: Final = frozenset(
    {
        "anthropic",
        "azure",
        "boto3",
        "botocore",
        "cohere",
        "google",
        "groq",
        "httpcore",
        "httpx",
        "ibm_watsonx_ai",
        "instructor",
        "litellm",
        "openai",
        "requests",
        "urllib3",
    }
)
_BUILTINS: Final = ("ConnectionError", "TimeoutError", "SSLError", "gaierror", "IncompleteRead")
_TOO_LONG: Final = "LLMContextLengthExceededError"
"""CrewAI's own, made of a provider's error."""
_READERS: Final = _SDKS | {"json", "orjson"}
_PROVIDERS: Final = ("crewai.llms.", "crewai.llm")
_TRIPPED: Final = (AttributeError, IndexError, KeyError, TypeError, json.JSONDecodeError)
_CODES: Final[Mapping[str, type[ModelError]]] = {
    "accessdeniedexception": ModelRejected,
    "contextlengthexceeded": ContextOverflow,
    "contextwindowexceedederror": ContextOverflow,
    "contentfilter": ModelRejected,
    "contentpolicyviolation": ModelRejected,
    "deadlineexceeded": ModelTimeout,
    "insufficientquota": ModelRejected,
    "internalservererror": ModelUnavailable,
    "internalserverexception": ModelUnavailable,
    "invalidapikey": ModelRejected,
    "modelerrorexception": ModelUnavailable,
    "modelnotreadyexception": ModelUnavailable,
    "modelstreamerrorexception": ModelUnavailable,
    "modeltimeoutexception": ModelTimeout,
    "overloadederror": ModelUnavailable,
    "permissiondenied": ModelRejected,
    "ratelimitexceeded": RateLimited,
    "resourceexhausted": RateLimited,
    "servicequotaexceededexception": ModelRejected,
    "serviceunavailableexception": ModelUnavailable,
    "throttling": RateLimited,
    "throttlingexception": RateLimited,
    "toomanyrequestsexception": RateLimited,
    "unauthenticated": ModelRejected,
    "unrecognizedclientexception": ModelRejected,
    "validationexception": ModelRejected,
}
"""By the provider's own error code, without its underscores; it says more than the status does."""
_STATUSES: Final[Mapping[int, type[ModelError]]] = {
    408: ModelTimeout,
    409: ModelUnavailable,
    413: ContextOverflow,
    425: ModelUnavailable,
    429: RateLimited,
    504: ModelTimeout,
}
_NAMES: Final = (
    (re.compile(r"context_?(window|length)|requesttoolarge", re.I), ContextOverflow),
    (re.compile(r"time_?d?_?out|deadline|timeouterror", re.I), ModelTimeout),
    (re.compile(r"ratelimit|throttl|toomanyrequests", re.I), RateLimited),
    (
        re.compile(
            r"auth|permission|credential|notfound|badrequest|invalid|unsupported|unprocessable|"
            r"contentpolicy|contentfilter|budget|payment|unknown(provider|model)|paramvalidation|"
            r"guardrail|rejected|mapped|toomanyredirects|dependency|removed|notexist|blocked|lengthfinish|usageerror|subjecttoken",
            re.I,
        ),
        ModelRejected,
    ),
    (
        re.compile(
            r"connect|network|unavailable|internal|server|gateway|overload|protocol|stream|response|"
            r"transport|proxy|decod|incomplete|ssl|gaierror|websocket|sse|read|write|close|conflict|"
            r"clienterror$|apierror$|httperror$|statuserror$|requesterror$|http_?response",
            re.I,
        ),
        ModelUnavailable,
    ),
    (re.compile(r"^BotoCoreError$"), ModelRejected),  # the rest of boto's are about its settings
)
"""By the name of the class, for exceptions that carry neither status nor code; the first counts."""
_OVERFLOW: Final = re.compile(
    r"context[ _](length|window)|maximum context|prompt is too long|input is too long|"
    r"too many (input )?tokens|exceeds? the (model'?s )?max(imum)? (input |number of )?tokens|"
    r"reduce the length",
    re.I,
)
_QUOTA: Final = re.compile(r"insufficient_quota|exceeded your current quota|billing|credit", re.I)
_POLICY: Final = re.compile(r"content[_ ](filter|policy)|safety|moderation|responsibleai", re.I)


def classify(error: BaseException) -> ModelError | None:
    """The provider's failure as one of ours, with the original as its cause.

    Args:
        error: What a model call raised.

    Returns:
        None for an exception that is no provider's: a user's own, or a bug.
    """
    if isinstance(error, ModelError):
        return error
    chain = list(_chain(error))
    found = next((one for one in chain if _is_sdks(one)), None)
    found = found or next((one for one in chain if _is_networks(one)), None)
    if found is None:
        return _garbage(error)
    kind = _kind(found)
    fields: dict[str, Any] = {"status": _status(found), "code": _code(found) or None}
    if kind is ModelRejected:
        fields["kind"] = _why(found)
    if kind is RateLimited:
        fields["retry_after"] = retry_after(_headers(found), _body(found))
    made = kind(_message(kind, found), **{n: v for n, v in fields.items() if v is not None})
    made.__cause__ = error
    return made


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _is_sdks(error: BaseException) -> bool:
    kinds = type(error).__mro__
    return any(
        kind.__module__.partition(".")[0] in _SDKS or kind.__name__ == _TOO_LONG for kind in kinds
    )


def _is_networks(error: BaseException) -> bool:
    return any(kind.__name__ in _BUILTINS for kind in type(error).__mro__)


def _garbage(error: BaseException) -> ModelError | None:
    """A reply that nobody can read trips whoever reads it: the SDK, or CrewAI's provider.

    Only code of theirs counts: the same exception from a user's own code is a bug of that.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    reads = where.partition(".")[0] in _READERS or where.startswith(_PROVIDERS)
    if not reads or not isinstance(error, _TRIPPED) or "keyword argument" in str(error):
        return None
    text = f"The reply cannot be read: {type(error).__name__}: {error}"
    made = ModelUnavailable(redact_text(" ".join(text.split()))[:300])
    made.__cause__ = error
    return made


def _kind(error: BaseException) -> type[ModelError]:
    """By code, else by status, else by name."""
    text = str(error)
    code = _code(error).replace("_", "").lower()
    status = _status(error)
    if code in _CODES:
        known = _CODES[code]
        return ContextOverflow if known is ModelRejected and _OVERFLOW.search(text) else known
    if status is not None and status >= 400:
        return _by_status(status, text)
    return by_name(type(error)) or ModelUnavailable


def by_name(kind: type[BaseException]) -> type[ModelError] | None:
    """What the names of an exception's class and bases say, the class's own first."""
    for one in kind.__mro__:
        for pattern, meaning in _NAMES:
            if pattern.search(one.__name__):
                return meaning
    return None


def _by_status(status: int, text: str) -> type[ModelError]:
    if status == 429 and _QUOTA.search(text):
        return ModelRejected
    if status in (400, 422) and _OVERFLOW.search(text):
        return ContextOverflow
    if status in _STATUSES:
        return _STATUSES[status]
    return ModelUnavailable if status >= 500 else ModelRejected


def _why(error: BaseException) -> str:
    """Which refusal it is: whose key, whose bill, whose words, or whose request."""
    text = f"{_code(error)} {type(error).__name__} {error}"
    status = _status(error)
    if _QUOTA.search(text) or "quota" in text.lower() or status == 402:
        return "quota"
    if status in (401, 403) or re.search(r"api.?key|auth|credential|permission|denied", text, re.I):
        return "auth"
    return "policy" if _POLICY.search(text) else "request"


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    found: list[Any] = [
        getattr(error, "status_code", None),
        getattr(response, "status_code", None),
        getattr(error, "code", None),  # google-genai keeps the HTTP status there
    ]
    if isinstance(response, Mapping):  # botocore
        found.append(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    return next((one for one in found if isinstance(one, int) and 100 <= one < 600), None)


def _code(error: BaseException) -> str:
    """The provider's own word for it, such as `insufficient_quota` or `ThrottlingException`."""
    response, body = getattr(error, "response", None), _body(error)
    inner = body.get("error", body) if isinstance(body.get("error", body), Mapping) else body
    found = [
        getattr(error, "code", None),
        inner.get("code"),
        inner.get("type"),
        getattr(error, "status", None),  # google-genai: RESOURCE_EXHAUSTED
    ]
    if isinstance(response, Mapping):
        found.insert(0, (response.get("Error") or {}).get("Code"))
    words = [one for one in found if isinstance(one, str)]
    known = (one for one in words if one.replace("_", "").lower() in _CODES)
    return next(known, words[0] if words else "")


def _body(error: BaseException) -> Mapping[str, Any]:
    for name in ("body", "details"):
        value = getattr(error, name, None)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                continue
        if isinstance(value, Mapping):
            return value
    return {}


def _headers(error: BaseException) -> Mapping[str, str]:
    response = getattr(error, "response", None)
    headers = getattr(response, "headers", None)
    if headers is None and isinstance(response, Mapping):
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders")
    if not isinstance(headers, Mapping):
        return {}
    return {str(name).lower(): str(value) for name, value in headers.items()}


def _message(kind: type[ModelError], error: BaseException) -> str:
    said = redact_text(" ".join(str(error).split()))[:300] or "no message"
    return f"{kind.__name__}: {type(error).__name__}: {said}"
