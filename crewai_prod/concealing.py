"""Arguments that are declared `sensitive`: kept from whoever reads a journal, a log or an error.

A step's identity is made of the real values, and so is what its tool and `reconcile` are given;
what is written down holds a mark in their place. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

from crewai_prod.redact import MARK

_SHORTEST = 3
"""Shorter values are not looked for in texts: a `7` is in every other one."""


def mask(tree: Any, sensitive: Set[str]) -> Any:
    """A tree of JSON values with a mark for the value of every key of such a name."""
    if isinstance(tree, Mapping):
        return {
            key: MARK if key in sensitive else mask(item, sensitive) for key, item in tree.items()
        }
    return [mask(item, sensitive) for item in tree] if isinstance(tree, list) else tree


def conceal(told: Any, arguments: Any, sensitive: Set[str]) -> Any:
    """What is told of a call, in texts and trees of them, without the values of such arguments."""
    secrets = sorted(set(_texts(arguments, sensitive)), key=len, reverse=True)
    return _without(told, [text for text in secrets if len(text) >= _SHORTEST])


def _texts(tree: Any, sensitive: Set[str], hidden: bool = False) -> Iterator[str]:
    if isinstance(tree, Mapping):
        for key, item in tree.items():
            yield from _texts(item, sensitive, hidden or key in sensitive)
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from _texts(item, sensitive, hidden)
    elif hidden and isinstance(tree, (str, int, float)) and not isinstance(tree, bool):
        yield str(tree)


def _without(told: Any, secrets: list[str]) -> Any:
    if isinstance(told, str):
        for secret in secrets:
            told = told.replace(secret, MARK)
        return told
    if isinstance(told, Mapping):
        return {key: _without(item, secrets) for key, item in told.items()}
    return [_without(item, secrets) for item in told] if isinstance(told, list) else told
