"""What a scripted model answers: replies, faults and scripts, all plain values.

A script is a function of the request alone, so that the same conversation gets the same answer
whichever process asks: a killed run and its resume talk to one model. Only a fault schedule may
look at how often a request was seen. Nothing here does I/O or imports crewai.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Body = dict[str, Any]
Arguments = Mapping[str, Any] | str
"""A tool call's arguments: a mapping, or the raw text to send in its place."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One native tool call; `arguments` is sent as it is, valid JSON or not."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens a reply claims; `None` is counted from the request and the reply."""

    prompt: int | None = None
    completion: int | None = None
    cached: int = 0
    reasoning: int = 0


FaultKind = Literal[
    # answered with an error, or not at all
    "status",
    "close",
    "reset",
    "hang",
    "html",
    "error_body",
    # the right answer, badly delivered
    "drip",
    "cut",
    "truncated",
    "malformed",
    "short",
    # a well-formed answer that is no use
    "no_choices",
    "empty",
    "broken_arguments",
    "unknown_tool",
    "finish_reason",
]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong with one reply; see `FAULTS` for ready-made ones.

    Attributes:
        kind: What goes wrong.
        status: HTTP status of a `status` or `html` fault.
        type: OpenAI's error type of a `status` or `error_body` fault.
        code: OpenAI's error code of a `status` or `error_body` fault.
        message: The error message of a `status` or `error_body` fault.
        retry_after: Value of the Retry-After header of a `status` fault: seconds or an HTTP date.
        headers: Further headers of a `status` fault, as pairs.
        seconds: How long a `hang` stays silent before it closes, or a `drip` takes in all.
        share: Part of the response that is sent before a `cut` or in a `truncated` body, or of a
            stream that ends too early and all the same as a stream should (`short`).
        value: The name for `unknown_tool`, the reason for `finish_reason`.
    """

    kind: FaultKind
    status: int = 500
    type: str = "server_error"
    code: str | None = None
    message: str = "The server had an error while processing your request."
    retry_after: float | str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    share: float = 0.5
    value: str = ""


def _status(status: int, kind: str, code: str | None, message: str) -> Fault:
    return Fault("status", status=status, type=kind, code=code, message=message)


FAULTS: Mapping[str, Fault] = {
    "rate_limit": _status(429, "requests", "rate_limit_exceeded", "Rate limit reached."),
    "quota": _status(
        429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota."
    ),
    "server_error": Fault("status", status=500),
    "bad_gateway": _status(502, "server_error", None, "Bad gateway."),
    "unavailable": _status(503, "server_error", None, "The engine is currently overloaded."),
    "overloaded": _status(529, "overloaded_error", None, "Overloaded"),
    "unauthorized": _status(
        401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided."
    ),
    "forbidden": _status(
        403, "invalid_request_error", "unsupported_country_region_territory", "Not in your country."
    ),
    "no_such_model": _status(
        404, "invalid_request_error", "model_not_found", "The model does not exist."
    ),
    "context_length": _status(
        400,
        "invalid_request_error",
        "context_length_exceeded",
        "This model's maximum context length is 128000 tokens.",
    ),
    "proxy_page": Fault("html", status=502, message="Bad Gateway"),
    "login_page": Fault("html", status=200, message="Please sign in"),
    "error_body": Fault("error_body"),
    "no_choices": Fault("no_choices"),
    "close": Fault("close"),
    "reset": Fault("reset"),
    "hang": Fault("hang", seconds=3600.0),
    "drip": Fault("drip", seconds=1.0),
    "cut": Fault("cut"),
    "truncated": Fault("truncated"),
    "malformed": Fault("malformed"),
    "short": Fault("short"),
    "empty": Fault("empty"),
    "broken_arguments": Fault("broken_arguments"),
    "unknown_tool": Fault("unknown_tool", value="no_such_tool"),
    "length": Fault("finish_reason", value="length"),
    "content_filter": Fault("finish_reason", value="content_filter"),
}
"""Every fault by name, for `fault()` and for parametrized tests.

What a server that is down does (it refuses connections) is no answer to a request: see
`Server.down`.
"""

RECOVERABLE = (
    "rate_limit",
    "server_error",
    "bad_gateway",
    "unavailable",
    "overloaded",
    "proxy_page",
    "error_body",
    "no_choices",
    "close",
    "reset",
    "cut",
    "truncated",
    "malformed",
    "short",
    "empty",
)
"""Faults that are gone when the same request is sent again, those that take time left out."""


def fault(name: str, **changes: Any) -> Fault:
    """Return the fault of that name in `FAULTS`, with some of its fields changed."""
    return replace(FAULTS[name], **changes)


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of the model.

    Attributes:
        text: The message's content.
        tool_calls: Native tool calls.
        finish_reason: Sent in place of the one that follows from the rest.
        usage: Tokens claimed in place of the counted ones.
        delay: Seconds until the first byte.
        fault: What goes wrong with this reply, if anything.
    """

    text: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    usage: Usage = Usage()
    delay: float = 0.0
    fault: Fault | None = None


Script = Callable[[Body], Reply | Fault]
"""The model: the body of a chat request in, the answer out."""


def _raw(arguments: Arguments) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(dict(arguments))


def calls(wanted: Sequence[tuple[str, Arguments]], **fields: Any) -> Reply:
    """Return a reply with several native tool calls; `fields` are `Reply`'s others."""
    made = tuple(ToolCall(name, _raw(arguments)) for name, arguments in wanted)
    return Reply(tool_calls=made, **fields)


def call(tool: str, arguments: Arguments, **fields: Any) -> Reply:
    """Return a reply with one native tool call."""
    return calls([(tool, arguments)], **fields)


def act(tool: str, arguments: Arguments, **fields: Any) -> Reply:
    """Return a tool call in the ReAct text that CrewAI asks of models without native calls."""
    text = f"Thought: I should use {tool}\nAction: {tool}\nAction Input: {_raw(arguments)}"
    return Reply(text, **fields)


def final(text: str, **fields: Any) -> Reply:
    """Return a final answer in the ReAct text."""
    return Reply(f"Thought: I now can give a great answer\nFinal Answer: {text}", **fields)


CURRENT_TASK = "Current Task:"
_OBSERVATION = "\nObservation:"


def text_of(message: Mapping[str, Any]) -> str:
    """Return a message's text, whether its content is a string, a list of parts or nothing."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content)
    return content or ""


def _is_system(message: Mapping[str, Any]) -> bool:
    # For o1 models CrewAI sends the system prompt as a user message with this prefix.
    return message["role"] == "system" or (
        message["role"] == "user" and text_of(message).startswith("System: ")
    )


def _task_position(messages: Sequence[Mapping[str, Any]]) -> int:
    """Return where the last task prompt stands, or the last user message if there is none.

    CrewAI adds user messages of its own after a task prompt (tool follow-ups, format errors), so
    the last user message alone would not do.
    """
    said = [n for n, message in enumerate(messages) if message["role"] == "user"]
    tasks = [n for n in said if CURRENT_TASK in text_of(messages[n])]
    return (tasks or said or [len(messages) - 1])[-1]


def _tool_results(messages: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    found = []
    for message in messages:
        text = text_of(message)
        if message["role"] == "tool":
            found.append(text)
        elif message["role"] == "assistant" and _OBSERVATION in text:
            found.append(text.rpartition(_OBSERVATION)[2].strip())
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Turn:
    """A chat request as a script sees it: who is asked for what, and how far it has come.

    Attributes:
        body: The whole request.
        system: The system prompt, which names the agent.
        task: The last task prompt.
        turns: Assistant messages after it.
        results: Tool results after it, from either path.
    """

    body: Body
    system: str
    task: str
    turns: int
    results: tuple[str, ...]

    @classmethod
    def of(cls, body: Body) -> Turn:
        """Read the conversation of a chat request."""
        messages = body["messages"]
        start = _task_position(messages)
        after = messages[start + 1 :]
        return cls(
            body=body,
            system="\n".join(text_of(message) for message in messages if _is_system(message)),
            task=text_of(messages[start]),
            turns=sum(message["role"] == "assistant" for message in after),
            results=_tool_results(after),
        )

    @property
    def native(self) -> bool:
        """Whether the request offers native tools."""
        return bool(self.body.get("tools"))

    @property
    def schema(self) -> str | None:
        """Return the name of the JSON schema the answer must follow, if there is one."""
        wanted = (self.body.get("response_format") or {}).get("json_schema") or {}
        name = wanted.get("name")
        return str(name) if name else None


Answer = Reply | Fault | Callable[[Turn], Reply | Fault]


def use(tool: str, arguments: Arguments, **fields: Any) -> Callable[[Turn], Reply]:
    """Call a tool on whichever path the request is on."""
    return lambda turn: (call if turn.native else act)(tool, arguments, **fields)


def answer(text: str, **fields: Any) -> Callable[[Turn], Reply]:
    """Give a final answer on whichever path the request is on."""
    return lambda turn: Reply(text, **fields) if turn.native else final(text, **fields)


@dataclass(frozen=True, slots=True, init=False)
class Rule:
    """What one agent says in one task: its `answers` in order, the last one again and again.

    The answer is chosen by the number of assistant turns since the task prompt, so it depends on
    the conversation and on nothing else.

    Attributes:
        answers: One for each turn; each a reply, a fault, or a function of the turn.
        agent: Text that the system prompt must contain (the agent's role, say).
        task: Text that the task prompt must contain.
        results: How many tool results there must be since the task prompt; `None`: any.
        when: A further condition.
    """

    answers: tuple[Answer, ...]
    agent: str
    task: str
    results: int | None
    when: Callable[[Turn], bool]

    def __init__(
        self,
        *answers: Answer,
        agent: str = "",
        task: str = "",
        results: int | None = None,
        when: Callable[[Turn], bool] = lambda _: True,
    ) -> None:
        given = {"answers": answers, "agent": agent, "task": task, "results": results, "when": when}
        for name, value in given.items():
            object.__setattr__(self, name, value)

    def matches(self, turn: Turn) -> bool:
        """Whether this rule speaks in that turn."""
        return (
            self.agent in turn.system
            and self.task in turn.task
            and self.results in (None, len(turn.results))
            and self.when(turn)
        )

    def answer(self, turn: Turn) -> Reply | Fault:
        """Return the answer for that turn."""
        chosen = self.answers[min(turn.turns, len(self.answers) - 1)]
        return chosen(turn) if callable(chosen) else chosen


class Conversation:
    """A script made of rules; the first that matches answers.

    A request that no rule expects raises `LookupError`, which the server reports as a 400 with
    code `script_error`: a test fails on it at once.
    """

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules

    def __call__(self, body: Body) -> Reply | Fault:
        """Answer one chat request."""
        turn = Turn.of(body)
        for rule in self.rules:
            if rule.matches(turn):
                return rule.answer(turn)
        raise LookupError(f"no rule for turn {turn.turns} of {turn.task!r} by {turn.system!r}")


@dataclass(frozen=True, slots=True)
class Seen:
    """A request and how often it was seen, for a fault schedule.

    Attributes:
        body: The request.
        digest: Identifies path, model and messages.
        nth: 1 for the first request with this digest.
        n: 1 for the first request of all.
    """

    body: Body
    digest: str
    nth: int
    n: int


Schedule = Callable[[Seen], Fault | None]
"""Which requests go wrong, whatever the script says to them."""


def fail_first(
    wrong: Fault, times: int = 1, when: Callable[[Body], bool] = lambda _: True
) -> Schedule:
    """Let every request fail the first `times` that it is seen."""
    return lambda seen: wrong if seen.nth <= times and when(seen.body) else None


def fail_at_rate(rate: float, *wrong: Fault, seed: int = 0) -> Schedule:
    """Let a share of the requests fail, each the same way whenever it is seen the n-th time."""

    def choose(seen: Seen) -> Fault | None:
        dice = random.Random(f"{seed}:{seen.digest}:{seen.nth}")
        return dice.choice(wrong) if dice.random() < rate else None

    return choose


def _broken_arguments(reply: Reply, _: Fault) -> Reply:
    halved = tuple(
        replace(one, arguments=one.arguments[: max(1, len(one.arguments) // 2)])
        for one in reply.tool_calls
    )
    head, marker, given = (reply.text or "").partition("Action Input: ")
    text = head + marker + given[: max(1, len(given) // 2)] if marker else reply.text
    return replace(reply, tool_calls=halved, text=text)


def _unknown_tool(reply: Reply, wrong: Fault) -> Reply:
    renamed = tuple(replace(one, name=wrong.value) for one in reply.tool_calls)
    text = reply.text and re.sub(r"(?m)^Action: .*$", f"Action: {wrong.value}", reply.text)
    return replace(reply, tool_calls=renamed, text=text)


_DISTORTIONS: Mapping[str, Callable[[Reply, Fault], Reply]] = {
    "empty": lambda reply, _: replace(reply, text="", tool_calls=()),
    "broken_arguments": _broken_arguments,
    "unknown_tool": _unknown_tool,
    "finish_reason": lambda reply, wrong: replace(reply, finish_reason=wrong.value),
}


def distort(reply: Reply) -> Reply:
    """Apply a fault that changes what is said; how it is sent is the wire's concern."""
    if reply.fault and reply.fault.kind in _DISTORTIONS:
        return _DISTORTIONS[reply.fault.kind](reply, reply.fault)
    return reply
