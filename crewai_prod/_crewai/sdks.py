"""Within a model call of a run, the layers below try once: retries have one owner.

CrewAI tries again what was rate limited, its providers' SDKs try again whatever they think will
pass, and both would multiply the tries of a run. CrewAI's own layer knows a context in which it
holds still; an SDK's client gets a subclass of its class, made at run time, that says "no retries"
while a call of a run is under way and what the user has said at any other time.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Any, TypeAlias

try:
    from crewai.llms.retry import _active_llm_rate_limit_retry as _crewai_retries
except ImportError:  # older releases leave it to the SDKs
    _crewai_retries = None  # type: ignore[assignment]

_SDKS = ("openai", "anthropic")
"""Those whose clients read `max_retries` at each request."""
_classes: dict[type, type] = {}
_once: ContextVar[bool] = ContextVar("crewai_prod_once", default=False)


Held: TypeAlias = "tuple[Token[bool], Token[Any] | None]"


def hold_retries() -> Held:
    """From now on nobody below tries again what fails, until `let_go` is called with this."""
    return _once.set(True), None if _crewai_retries is None else _crewai_retries.set(True)


def let_go(held: Held) -> None:
    """The layers below try again as ever."""
    once, crewai = held
    _once.reset(once)
    if crewai is not None:
        _crewai_retries.reset(crewai)


def tried_once(client: Any) -> Any:
    """The same client; it tries once within `hold_retries`. Any other object stays as it is."""
    kind = type(client)
    reads = kind.__module__.partition(".")[0] in _SDKS and "max_retries" in vars(client)
    if reads and kind not in _classes.values():
        client.__class__ = _class_for(kind)
    return client


def _said(client: Any) -> int:
    """How often the client tries again: as the user has said; not at all while held."""
    said: int = vars(client)["max_retries"]
    return 0 if _once.get() else said


def _say(client: Any, retries: int) -> None:
    vars(client)["max_retries"] = retries


def _class_for(kind: type) -> type:
    """A subclass of one base: Python lets an object change into no other."""
    if kind not in _classes:
        names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
        own = {"max_retries": property(_said, _say), "__doc__": kind.__doc__, "__slots__": ()}
        _classes[kind] = type(kind.__name__, (kind,), {**names, **own})
    return _classes[kind]
