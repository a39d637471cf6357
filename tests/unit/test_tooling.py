"""What may be declared about a tool."""

from __future__ import annotations

from typing import Any

import pytest

from crewai_prod import Retry
from crewai_prod.errors import UsageError
from crewai_prod.tooling import ToolOptions


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("effect", "wirte", "'read', 'write' or 'nested'"),
        ("effect", ["read"], "'read', 'write' or 'nested'"),
        ("idempotent", "yes", "True or False"),
        ("required", 1, "True or False"),
        ("strict", None, "True or False"),
        ("untrusted", "web", "True or False"),
        ("reconcile", "look", "a function"),
        ("timeout", 0, "seconds above 0"),
        ("timeout", "5", "seconds above 0"),
        ("timeout", True, "seconds above 0"),
        ("timeout", float("nan"), "seconds above 0"),
        ("timeout", float("inf"), "seconds above 0"),
        ("retry", 3, "Retry(attempts=3)"),
        ("max_calls", 0, "1 or more"),
        ("max_calls", 2.5, "1 or more"),
        ("max_output", -1, "1 or more"),
        ("max_output", True, "1 or more"),
        ("sensitive", 5, "name of an argument"),
        ("sensitive", ["card", 5], "name of an argument"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_at_once(
    option: str, value: Any, expected: str
) -> None:
    """With the tool, the option, what it is and what it should be."""
    with pytest.raises(UsageError) as caught:
        ToolOptions.read("pay", {option: value})
    assert f"Tool 'pay' has {option}={value!r}" in caught.value.message
    assert expected in caught.value.message


def test_an_option_that_does_not_exist_is_named_with_those_that_do() -> None:
    """A typing error is found before a run."""
    with pytest.raises(UsageError, match=r"unknown options \['timout'\].*'timeout'"):
        ToolOptions.read("pay", {"timout": 5})


@pytest.mark.parametrize("given", ["card", ["card"], ("card",), {"card"}, frozenset({"card"})])
def test_names_of_sensitive_arguments_in_any_form(given: Any) -> None:
    """One name, or several in whatever holds them."""
    assert ToolOptions.read("pay", {"sensitive": given}).sensitive == frozenset({"card"})


def test_what_makes_sense_is_taken() -> None:
    """Everything that is declared arrives."""
    retry = Retry(attempts=2)
    declared = {
        "effect": "write",
        "idempotent": True,
        "reconcile": print,
        "required": True,
        "timeout": 2.5,
        "retry": retry,
        "max_calls": 3,
        "max_output": 100,
        "strict": False,
        "untrusted": True,
    }
    options = ToolOptions.read("pay", declared)
    assert {name: getattr(options, name) for name in declared} == declared
    assert options.sensitive == frozenset()
