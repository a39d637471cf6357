"""Whose answers can be kept short from outside, and how a request says so."""

from __future__ import annotations

from typing import Any

import pytest
from crewai import LLM

from crewai_prod._crewai.capping import ask_of, output_capped, with_cap
from crewai_prod._crewai.llm import harden_llm
from crewai_prod.budget import LONGEST, USUAL
from crewai_prod.testing import ScriptedLLM
from tests.crews import make_llm


@pytest.mark.parametrize("hardened", [False, True])
def test_a_model_of_ones_own_cannot_be_capped(hardened: bool) -> None:
    """Taken over or not; what it is set to is what it is held to."""
    llm: Any = ScriptedLLM(lambda messages, tools: "x")
    llm = harden_llm(llm) if hardened else llm
    ask = ask_of(llm, 5)
    assert (ask.input_tokens, ask.most, ask.can_lower, ask.known) == (5, USUAL, False, False)


@pytest.mark.parametrize("hardened", [False, True])
def test_openai_can_be_capped(hardened: bool) -> None:
    """By its own cap, else by what is known of the model, else by what no model passes."""
    sets: list[tuple[dict[str, Any], int]] = [
        ({"max_tokens": 50}, 50),
        ({"max_completion_tokens": 70}, 70),
    ]
    for given, most in sets:
        llm: Any = make_llm("http://localhost", **given)
        ask = ask_of(harden_llm(llm) if hardened else llm, 5)
        assert (ask.most, ask.can_lower, ask.known) == (most, True, True)
    ask = ask_of(make_llm("http://localhost", model="openai/nobody-knows"), 5)
    assert (ask.most, ask.known) == (LONGEST, False)
    ask = ask_of(make_llm("http://localhost"), 5)
    assert (ask.most, ask.known) in ((16_384, True), (LONGEST, False))  # older: no catalog
    ask = ask_of(make_llm("http://localhost", n=3, max_tokens=10), 5)
    assert (ask.most, ask.can_lower) == (30, False)


def test_a_request_is_capped_and_the_model_is_not() -> None:
    """A cap that is there is lowered; else one is added, by the name its provider knows."""
    official: Any = LLM(model="openai/gpt-4o-mini", api_key="k")
    local: Any = make_llm("http://localhost")
    asked = {"model": "m"}
    assert with_cap(local, asked) is asked
    with output_capped(100):
        assert with_cap(local, asked) == {"model": "m", "max_tokens": 100}
        assert with_cap(official, asked) == {"model": "m", "max_completion_tokens": 100}
        assert with_cap(official, asked, responses=True)["max_output_tokens"] == 100
        for given, most in ((40, 40), (400, 100)):
            assert with_cap(local, {"max_completion_tokens": given}) == {
                "max_completion_tokens": most
            }
    assert asked == {"model": "m"}
    assert local.max_tokens is None
