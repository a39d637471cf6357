"""Failures of calls as JSON and back, whose they are, and what a failed call was billed.

A replayed failure has the class it had, as long as that class is a builtin, crewai's or one of the
SDKs' listed here: they are found by name among the subclasses of a fixed root, nothing is imported
by a stored name. Any other class comes back as a `ReplayedError` of its name: what is made of the
name and the text, a prompt perhaps, is to be the same again.
"""

from __future__ import annotations

import asyncio
import builtins
import signal
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from crewai_prod import codec
from crewai_prod.errors import CrewProdError, ModelError
from crewai_prod.redact import redact_text

_ROOTS = {
    "openai": "OpenAIError",
    "anthropic": "AnthropicError",
    "httpx": "HTTPError",
    "litellm": "OpenAIError",
    "botocore": "BotoCoreError",
    "crewai": "Exception",
}
_KEPT = ("status_code", "code", "body", "param", "type", "request_id")


class ReplayedError(ModelError):
    """A model call failed in an earlier session with an exception of a class not known here."""


@lru_cache(maxsize=256)
def _named(name: str, module: str) -> type[ReplayedError]:
    return type(name, (ReplayedError,), {"__module__": module, "__doc__": ReplayedError.__doc__})


def describe(error: BaseException) -> dict[str, Any]:
    """The failure as JSON values: class, text and the plain facts the SDKs attach."""
    facts: dict[str, Any] = {
        "type": type(error).__name__,
        "module": type(error).__module__,
        "message": codec.to_tree(redact_text(codec.text_of(error))),
    }
    facts["facts"] = dict(_kept(error))
    if isinstance(error, CrewProdError):
        said = {k: v for k, v in error.fields.items() if isinstance(v, (str, int, float, bool))}
        facts["fields"] = codec.to_tree(
            {k: redact_text(v) if isinstance(v, str) else v for k, v in said.items()}
        )
    return facts


def said_by(error: BaseException) -> str:
    """What a failure says, for the message of one of ours: class and text, without secrets."""
    return f"{type(error).__name__}: {redact_text(codec.text_of(error))}"


def _kept(error: BaseException) -> Iterator[tuple[str, Any]]:
    for name in _KEPT:
        try:
            value = getattr(error, name, None)
        except Exception:  # noqa: BLE001, S112 - an attribute of a user's class may raise anything
            continue
        if isinstance(value, int):
            yield name, codec.to_tree(value if isinstance(value, bool) else int.__int__(value))
        elif isinstance(value, str):
            yield name, codec.to_tree(redact_text(str.__str__(value)))


def revive(facts: Mapping[str, Any], kinds: Mapping[str, type] | None = None) -> Exception:
    """The failure that was recorded, as an instance of the class it had.

    Args:
        facts: As `describe` gave them.
        kinds: Further classes it may be of, such as the user's own.
    """
    message = codec.from_tree(facts["message"])
    kind = _class_of(facts["module"], facts["type"]) or _own(facts, kinds or {})
    if kind is None:
        return _named(facts["type"], facts["module"])(message)
    if issubclass(kind, CrewProdError):
        return kind(message, **codec.from_tree(facts.get("fields", {})))
    error = kind.__new__(kind, message)
    Exception.__init__(error, message)
    for name, value in {"message": facts["message"], **facts.get("facts", {})}.items():
        try:
            setattr(error, name, codec.from_tree(value))
        except AttributeError:  # a read-only attribute of that class: the message says it too
            continue
    return error


def _class_of(module: str, name: str) -> type[Exception] | None:
    package = module.partition(".")[0]
    if package == "builtins":
        found = getattr(builtins, name, None)
        return found if isinstance(found, type) and issubclass(found, Exception) else None
    root = _root(package)
    if root is None:
        return None
    matching = (kind for kind in _subclasses(root) if kind.__name__ == name)
    return next((kind for kind in matching if kind.__module__ == module), None)


def _own(facts: Mapping[str, Any], kinds: Mapping[str, type]) -> type[Exception] | None:
    for kind in kinds.values():
        named = (kind.__module__, kind.__name__) == (facts["module"], facts["type"])
        if named and issubclass(kind, Exception):
            return kind
    return None


def _root(package: str) -> type[Exception] | None:
    if package == "crewai":
        return Exception
    if package == "crewai_prod":
        return CrewProdError
    root = getattr(sys.modules.get(package), _ROOTS.get(package, ""), None)
    return root if isinstance(root, type) and issubclass(root, Exception) else None


def _subclasses(root: type[Exception]) -> Iterator[type[Exception]]:
    yield root
    for kind in root.__subclasses__():
        yield from _subclasses(kind)


def billed_usage(error: BaseException) -> dict[str, Any] | None:
    """Usage of a reply that was received and paid for, but could not be read.

    Such a reply raises inside the SDK before CrewAI counts it. The SDK's response object is still a
    local of the frames the exception passed through; that is the only place that holds it. What the
    exception has been named since has passed through other frames: its causes are asked, too.
    """
    for one in causes(error):
        trace = one.__traceback__
        while trace is not None:
            for value in trace.tb_frame.f_locals.values():
                usage = _usage_in(getattr(value, "http_response", None))
                if usage is not None:
                    return usage
            trace = trace.tb_next
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what caused it, each once: CrewAI raises some from themselves."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__


def _usage_in(response: Any) -> dict[str, Any] | None:
    if response is None or getattr(response, "status_code", 0) != 200:
        return None
    try:
        body = response.json()
    except Exception:  # noqa: BLE001 - a stream, a cut body, another SDK's object: nothing to read
        return None
    usage = body.get("usage") if isinstance(body, dict) else None
    return usage if isinstance(usage, dict) else None


def of_the_call(error: BaseException, *, on_loop: bool) -> bool:
    """Whether what a body raised is its own failure; else it is the end of something larger.

    A person's Ctrl-C, a signal's handler that exits, and the cancellation of the task around end
    the run, which can be resumed. `SystemExit` and `CancelledError` that a tool or a guard makes
    up are failures of its own.

    Args:
        error: What the body raised.
        on_loop: Whether it was awaited.
    """
    if isinstance(error, Exception):
        return True
    if isinstance(error, SystemExit):
        return not _raised_by_signal(error)
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task() if on_loop else None
        return task is None or task.cancelling() == 0
    return isinstance(error, GeneratorExit) and not on_loop


def _raised_by_signal(error: BaseException) -> bool:
    """Whether the code of a signal's handler is on the way that an exception has come."""
    codes = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return True
        trace = trace.tb_next
    return False


def _code_of(handler: Any) -> Any:
    """The code of a handler that is written in Python: a function, a method or a callable."""
    if not callable(handler):
        return None
    function = getattr(handler, "__func__", handler)
    return getattr(function, "__code__", getattr(type(handler).__call__, "__code__", None))
