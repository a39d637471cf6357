"""How long a model's answer may be, and how one call's is kept shorter.

Rule: a cap is put into the parameters of the one request under way, never into the model, which
other calls use at the same time. That can be done where CrewAI prepares a request's parameters in a
method of its own: for OpenAI's, Azure's, Anthropic's, Snowflake's and LiteLLM's. Bedrock, Gemini
and classes of the user's own hold their answers to what the model itself is set to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from importlib.resources import files
from typing import Any

from crewai_prod.budget import LONGEST, USUAL, Ask
from crewai_prod.failures import causes

CAPS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_CUT = frozenset({"length", "max_tokens", "max_output_tokens", "incomplete"})
_UNREAD = {
    "LengthFinishReasonError": "length",
    "ContentFilterFinishReasonError": "content_filter",
}
_REASONING = ("o1", "o3", "o4", "gpt-5")
_OURS = "crewai_prod._crewai.metering"
_OFFICIAL = "api.openai.com"
_CATALOG = ("litellm_catalog", "model_prices_and_context_window.json")
_cap: ContextVar[int | None] = ContextVar("crewai_prod_output_cap", default=None)


@contextmanager
def output_capped(tokens: int | None) -> Iterator[None]:
    """The model call in this block is answered with so many tokens at most. None: as it is."""
    token = _cap.set(tokens)
    try:
        yield
    finally:
        _cap.reset(token)


def with_cap(llm: Any, params: dict[str, Any], *, responses: bool = False) -> dict[str, Any]:
    """The parameters of a request, with the cap of the call under way."""
    most = _cap.get()
    if most is None:
        return params
    given = [name for name in CAPS if isinstance(params.get(name), (int, float))]
    if not given:
        given = ["max_output_tokens" if responses else _name_of_cap(llm)]
    lowered = {name: min(most, int(params.get(name, most))) for name in given}
    return {**params, **lowered}


def ask_of(llm: Any, input_tokens: int) -> Ask:
    """What a call of a model may take, its price aside."""
    own = _own_cap(llm)
    can_lower = _can_lower(llm)
    most = own or _longest_answer(str(getattr(llm, "provider", "")), str(llm.model))
    known = most is not None
    if most is None:
        most = LONGEST if can_lower else USUAL
    several = llm.__dict__.get("n")
    answers = several if isinstance(several, int) and several > 1 else 1
    return Ask(
        input_tokens=input_tokens,
        most=most * answers,
        can_lower=can_lower and answers == 1,
        known=known,
    )


def is_cut(finish_reason: str | None, output_tokens: int, cap: int) -> bool:
    """Whether an answer was cut at the cap that was put on it."""
    if finish_reason is not None:
        return str(finish_reason).lower() in _CUT
    return output_tokens >= cap


def unread(error: BaseException | None) -> str | None:
    """Why OpenAI's SDK did not read an answer in a form that came: `length` or `content_filter`.

    Where it streams it gives up before it is told what the answer took.
    """
    names = (type(one).__name__ for one in causes(error))
    return next((_UNREAD[name] for name in names if name in _UNREAD), None)


def _can_lower(llm: Any) -> bool:
    """Whether its class prepares requests in a way that we can change; ours are in all classes.

    A model that thinks needs room for what it is set to think.
    """
    given = (kind for kind in type(llm).__mro__ if kind.__module__ != _OURS)
    prepares = any("_prepare_completion_params" in vars(kind) for kind in given)
    return prepares and not llm.__dict__.get("thinking")


def _own_cap(llm: Any) -> int | None:
    """What the model is set to."""
    more = llm.__dict__.get("additional_params")
    values = [llm.__dict__.get(name) for name in CAPS]
    if isinstance(more, Mapping):
        values += [more.get(name) for name in CAPS]
    caps = [int(one) for one in values if isinstance(one, (int, float)) and one > 0]
    return max(caps, default=None)


def _name_of_cap(llm: Any) -> str:
    """What OpenAI calls it now; servers that speak its protocol know the old name."""
    url = str(getattr(llm, "base_url", None) or _OFFICIAL)
    openai = str(getattr(llm, "provider", "")) == "openai" and not getattr(llm, "is_litellm", False)
    bare = str(llm.model).rpartition("/")[2]
    new = openai and (_OFFICIAL in url or bare.startswith(_REASONING))
    return CAPS[0] if new else CAPS[1]


def _longest_answer(provider: str, model: str) -> int | None:
    """Tokens that a model can answer, as the catalog in newer releases of CrewAI says."""
    catalog = _answers()
    names = (f"{provider}/{model}", model, model.rpartition("/")[2])
    return next((catalog[name] for name in names if name in catalog), None)


@lru_cache(maxsize=1)
def _answers() -> dict[str, int]:
    try:
        place = files("crewai.llms").joinpath(*_CATALOG)
        listed = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # this release has none
        return {}
    found = {name: said.get("max_output_tokens") for name, said in listed.items()}
    return {name: most for name, most in found.items() if isinstance(most, int) and most > 0}
