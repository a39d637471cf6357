"""OpenAI's HTTP format as pure functions: validate a request, lay out the bytes of a response.

Everything is derived from the request and the reply (ids, token counts, embeddings, even the
creation time), so equal requests get equal bytes. Fields checked are those whose misuse OpenAI
itself answers with a 400, tool-call pairing included; unknown message keys are not looked at.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from tests.openai_script import Body, Fault, Reply, ToolCall, Usage, distort

CREATED = 1_700_000_000
MODELS = ("gpt-4o-mini", "gpt-4o", "o1", "text-embedding-3-small")
_ROLES = {"system", "developer", "user", "assistant", "tool", "function"}
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
# fmt: off
_CHAT_FIELDS = frozenset({
    "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs",
    "max_completion_tokens", "max_tokens", "messages", "metadata", "modalities", "model", "n",
    "parallel_tool_calls", "prediction", "presence_penalty", "prompt_cache_key",
    "reasoning_effort", "response_format", "safety_identifier", "seed", "service_tier", "stop",
    "store", "stream", "stream_options", "temperature", "tool_choice", "tools", "top_logprobs",
    "top_p", "user", "verbosity", "web_search_options",
})
# fmt: on


class BadRequest(Exception):
    """A request that OpenAI would answer with a 400."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def _require(condition: object, message: str, param: str | None = None) -> None:
    if not condition:
        raise BadRequest(message, param)


def parse(raw: bytes) -> Body:
    """Return a request's JSON object."""
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise BadRequest("We could not parse the JSON body of your request.") from error
    _require(isinstance(body, dict), "The request must be a JSON object.")
    model = body.get("model")
    _require(isinstance(model, str) and model, "you must provide a model parameter", "model")
    return dict(body)


def check_chat(body: Body) -> None:
    """Refuse a chat request that OpenAI would refuse."""
    unknown = sorted(set(body) - _CHAT_FIELDS)
    _require(not unknown, f"Unrecognized request arguments supplied: {', '.join(unknown)}")
    messages = body.get("messages")
    _require(isinstance(messages, list) and messages, "'messages' must be a list", "messages")
    for position, message in enumerate(body["messages"]):
        _check_message(message, f"messages[{position}]")
    _check_tool_pairs(body["messages"])
    for position, tool in enumerate(body.get("tools") or []):
        _check_tool(tool, f"tools[{position}]")
    _require(body.get("stream") or not body.get("stream_options"), "not streaming, no options")
    _require(body.get("tools") or not body.get("tool_choice"), "'tool_choice' needs 'tools'")


def _check_message(message: Any, where: str) -> None:
    _require(isinstance(message, dict), f"'{where}' is not an object", where)
    _require(message.get("role") in _ROLES, f"'{where}.role' is unknown", f"{where}.role")
    content = message.get("content")
    empty_ok = message["role"] == "assistant" and message.get("tool_calls")
    _require(
        isinstance(content, str | list) or (content is None and empty_ok),
        f"Invalid value for '{where}.content': expected a string, got {content!r}.",
        f"{where}.content",
    )


def _check_tool_pairs(messages: list[Mapping[str, Any]]) -> None:
    """Every tool call is answered right after it, and no answer comes without its call."""
    open_ids: set[str] = set()
    for position, message in enumerate(messages):
        if message["role"] == "tool":
            answered = message.get("tool_call_id")
            _require(
                answered in open_ids,
                f"messages[{position}]: 'tool' must follow the 'tool_calls' it answers",
            )
            open_ids.discard(str(answered))
            continue
        _require(not open_ids, f"tool_call_ids without response messages: {sorted(open_ids)}")
        open_ids = {one["id"] for one in message.get("tool_calls") or []}
    _require(not open_ids, f"tool_call_ids without response messages: {sorted(open_ids)}")


def _check_tool(tool: Any, where: str) -> None:
    function = tool.get("function") if isinstance(tool, dict) else None
    _require(isinstance(function, dict), f"'{where}.function' is missing", where)
    name = str((function or {}).get("name"))
    _require(_TOOL_NAME.fullmatch(name), f"'{where}.function.name' is invalid: {name!r}", where)


def digest_of(path: str, body: Body) -> str:
    """Identify a request by what it asks of which model."""
    asked = body.get("messages", body.get("input"))
    text = json.dumps([path, body.get("model"), asked], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _tokens(value: Any) -> int:
    return max(1, len(value if isinstance(value, str) else json.dumps(value)) // 4)


def usage_of(body: Body, reply: Reply) -> dict[str, Any]:
    """Return the usage object of a reply: claimed where it claims, else four characters a token."""
    claimed: Usage = reply.usage
    prompt, completion = claimed.prompt, claimed.completion
    if prompt is None:
        prompt = _tokens([body["messages"], body.get("tools") or []])
    if completion is None:
        said = [reply.text or "", *([one.name, one.arguments] for one in reply.tool_calls)]
        completion = _tokens(said)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": claimed.cached},
        "completion_tokens_details": {"reasoning_tokens": claimed.reasoning},
    }


def _capped(body: Body, reply: Reply) -> Reply:
    """The reply as far as the request's cap on output lets it come, as OpenAI does it."""
    caps = [body[name] for name in ("max_completion_tokens", "max_tokens") if body.get(name)]
    most = min(caps, default=None)
    if most is None or usage_of(body, reply)["completion_tokens"] <= most:
        return reply
    usage = replace(reply.usage, completion=most)
    text = (reply.text or "")[: most * 4]
    return replace(reply, text=text, tool_calls=(), finish_reason="length", usage=usage)


@dataclass(frozen=True, slots=True)
class Wire:
    """What goes over one connection.

    Attributes:
        status: HTTP status; 0 when nothing is sent.
        headers: Response headers.
        parts: The pieces of the body.
        usage: What the response says it cost; `None` when it does not get to say so.
        wait: Seconds before the first byte.
        gap: Seconds before each part.
        drop: How the connection ends too early, if it does.
    """

    status: int
    headers: Mapping[str, str]
    parts: tuple[bytes, ...]
    usage: Mapping[str, Any] | None = None
    wait: float = 0.0
    gap: float = 0.0
    drop: Literal["", "close", "reset"] = ""


def json_wire(value: Any, *, status: int = 200, usage: Mapping[str, Any] | None = None) -> Wire:
    """Lay out a JSON response."""
    return _with_body(Wire(status, {"content-type": "application/json"}, (), usage), _dump(value))


def error_wire(
    status: int, message: str, *, kind: str, code: str | None = None, param: str | None = None
) -> Wire:
    """Lay out an error as OpenAI does."""
    error = {"message": message, "type": kind, "param": param, "code": code}
    return json_wire({"error": error}, status=status)


def chat_wire(body: Body, reply: Reply, digest: str) -> Wire:
    """Lay out the response to a chat request, its fault included."""
    said = _capped(body, distort(reply))
    usage = usage_of(body, said)
    base: dict[str, Any] = {
        "id": f"chatcmpl-{digest[:24]}",
        "created": CREATED,
        "model": body["model"],
    }
    message = _message(said, digest)
    reason = said.finish_reason or ("tool_calls" if said.tool_calls else "stop")
    if body.get("stream"):
        asks_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        wire = _stream_wire(base, message, reason, usage if asks_usage else None)
    else:
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        whole = base | {"object": "chat.completion", "choices": [choice], "usage": usage}
        wire = json_wire(whole, usage=usage)
    spoilt = _misdeliver(wire, reply.fault)
    return replace(spoilt, wait=spoilt.wait + reply.delay)


def messages_wire(body: Body, reply: Reply, digest: str) -> Wire:
    """Lay out the response to a request in Anthropic's format, its fault included; text only."""
    said = distort(reply)
    usage = usage_of(body, said)
    counted = {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]}
    message = {
        "id": f"msg_{digest[:24]}",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [{"type": "text", "text": said.text or ""}],
        "stop_reason": said.finish_reason or "end_turn",
        "stop_sequence": None,
        "usage": counted,
    }
    wrong = reply.fault
    wire = _misdeliver(json_wire(message, usage=counted), wrong)
    if wrong is not None and wrong.kind == "status":
        error = {"type": "error", "error": {"type": wrong.type, "message": wrong.message}}
        wire = replace(_with_body(wire, _dump(error)), usage=None)
    return replace(wire, wait=wire.wait + reply.delay)


def embeddings_wire(body: Body) -> Wire:
    """Lay out the response to an embeddings request."""
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    valid = isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)
    _require(valid, "'input' must be a string or a list of strings", "input")
    vectors = [_embed(text, int(body.get("dimensions") or 16)) for text in texts or []]
    if body.get("encoding_format") == "base64":
        coded: list[Any] = [_base64(vector) for vector in vectors]
    else:
        coded = list(vectors)
    data = [
        {"object": "embedding", "index": index, "embedding": value}
        for index, value in enumerate(coded)
    ]
    tokens = sum(_tokens(text) for text in texts or [])
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    listing = {"object": "list", "model": body["model"], "data": data, "usage": usage}
    return json_wire(listing, usage=usage)


def models_wire() -> Wire:
    """Lay out the list of models."""
    data = [
        {"id": name, "object": "model", "created": CREATED, "owned_by": "tests"} for name in MODELS
    ]
    return json_wire({"object": "list", "data": data})


def _message(reply: Reply, digest: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.tool_calls:
        message["tool_calls"] = [
            _tool_call(one, f"call_{digest[:20]}_{index}")
            for index, one in enumerate(reply.tool_calls)
        ]
    return message


def _tool_call(one: ToolCall, call_id: str) -> dict[str, Any]:
    function = {"name": one.name, "arguments": one.arguments}
    return {"id": call_id, "type": "function", "function": function}


def _stream_wire(
    base: Mapping[str, Any],
    message: Mapping[str, Any],
    reason: str,
    usage: Mapping[str, Any] | None,
) -> Wire:
    head = {**base, "object": "chat.completion.chunk"}
    if usage:
        head["usage"] = None
    chunks = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in _deltas(message)
    ]
    chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    if usage:
        chunks.append({**head, "choices": [], "usage": usage})
    parts = (*(_event(_dump(chunk)) for chunk in chunks), _event(b"[DONE]"))
    return Wire(200, {"content-type": "text/event-stream"}, parts, usage)


def _deltas(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": None if message["content"] is None else ""}
    for piece in _pieces(message["content"] or ""):
        yield {"content": piece}
    for index, one in enumerate(message.get("tool_calls", [])):
        named = {"name": one["function"]["name"], "arguments": ""}
        yield {"tool_calls": [{**one, "index": index, "function": named}]}
        for piece in _pieces(one["function"]["arguments"]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _pieces(text: str, count: int = 4) -> list[str]:
    size = max(1, -(-len(text) // count))
    return [text[start : start + size] for start in range(0, len(text), size)]


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def _with_body(wire: Wire, body: bytes) -> Wire:
    headers = {**wire.headers, "content-length": str(len(body))}
    return replace(wire, headers=headers, parts=(body,))


def _is_stream(wire: Wire) -> bool:
    return "content-length" not in wire.headers


def _split(wire: Wire) -> tuple[bytes, ...]:
    """Return the body in at least two pieces, also where it would be sent as one."""
    if len(wire.parts) > 1:
        return wire.parts
    size = max(1, -(-len(wire.parts[0]) // 8))
    return tuple(wire.parts[0][at : at + size] for at in range(0, len(wire.parts[0]), size))


def _status_fault(_: Wire, wrong: Fault) -> Wire:
    wire = error_wire(wrong.status, wrong.message, kind=wrong.type, code=wrong.code)
    said = {} if wrong.retry_after is None else {"retry-after": str(wrong.retry_after)}
    return replace(wire, headers={**wire.headers, **said, **dict(wrong.headers)})


def _html(_: Wire, wrong: Fault) -> Wire:
    """The page of a proxy that stands between."""
    page = f"<html><head><title>{wrong.status}</title></head><body>{wrong.message}</body></html>"
    return _with_body(Wire(wrong.status, {"content-type": "text/html"}, ()), page.encode())


def _error_body(wire: Wire, wrong: Fault) -> Wire:
    """An error where the answer should be, as gateways send it once they have said 200."""
    error = {"error": {"message": wrong.message, "type": wrong.type, "code": wrong.code}}
    if _is_stream(wire):
        return replace(wire, parts=(_event(_dump(error)), _event(b"[DONE]")), usage=None)
    return json_wire(error)


def _no_choices(wire: Wire, _: Fault) -> Wire:
    """An answer without any; it is billed all the same."""
    if not _is_stream(wire):
        whole = {**json.loads(wire.parts[0]), "choices": []}
        return json_wire(whole, usage=wire.usage)
    *chunks, done = wire.parts
    emptied = ({**json.loads(part.removeprefix(b"data: ")), "choices": []} for part in chunks)
    return replace(wire, parts=(*(_event(_dump(chunk)) for chunk in emptied), done))


def _hang(_: Wire, wrong: Fault) -> Wire:
    return Wire(0, {}, (), wait=wrong.seconds, drop="close")


def _drip(wire: Wire, wrong: Fault) -> Wire:
    parts = _split(wire)
    return replace(wire, parts=parts, gap=wrong.seconds / len(parts))


def _cut(wire: Wire, wrong: Fault) -> Wire:
    parts = _split(wire)
    kept = min(len(parts) - 1, max(1, int(len(parts) * wrong.share)))
    return replace(wire, parts=parts[:kept], usage=None, drop="close")


def _truncated(wire: Wire, wrong: Fault) -> Wire:
    if not _is_stream(wire):
        kept = wire.parts[0][: int(len(wire.parts[0]) * wrong.share)]
        return replace(_with_body(wire, kept), usage=None)
    at = int(len(wire.parts) * wrong.share)
    half = wire.parts[at][: len(wire.parts[at]) // 2] + b"\n\n"
    return replace(wire, parts=(*wire.parts[:at], half), usage=None)


def _short(wire: Wire, wrong: Fault) -> Wire:
    """A stream of whole chunks that lacks the last ones; of a plain answer, part of the body."""
    if not _is_stream(wire):
        return _truncated(wire, wrong)
    return replace(wire, parts=wire.parts[: int(len(wire.parts) * wrong.share)], usage=None)


def _malformed(wire: Wire, _: Fault) -> Wire:
    nonsense = b'{"id": oops, "choices": ]'
    if not _is_stream(wire):
        return replace(_with_body(wire, nonsense), usage=None)
    return replace(wire, parts=(_event(nonsense), _event(b"[DONE]")), usage=None)


_MISDELIVERIES: Mapping[str, Callable[[Wire, Fault], Wire]] = {
    "status": _status_fault,
    "close": lambda _, wrong: Wire(0, {}, (), drop="close"),
    "reset": lambda _, wrong: Wire(0, {}, (), drop="reset"),
    "hang": _hang,
    "html": _html,
    "error_body": _error_body,
    "no_choices": _no_choices,
    "drip": _drip,
    "cut": _cut,
    "truncated": _truncated,
    "malformed": _malformed,
    "short": _short,
}


def _misdeliver(wire: Wire, wrong: Fault | None) -> Wire:
    if wrong is None or wrong.kind not in _MISDELIVERIES:
        return wire
    return _MISDELIVERIES[wrong.kind](wire, wrong)


def _embed(text: str, dimensions: int) -> list[float]:
    """Return a vector of the text's hash; every number survives the trip through float32."""
    return [
        hashlib.sha256(f"{index}:{text}".encode()).digest()[0] / 128 - 1
        for index in range(dimensions)
    ]


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
