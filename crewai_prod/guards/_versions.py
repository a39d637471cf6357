"""Versions of guards that are made of options: other options are another version.

So what a guard has said by its old rules is not followed once they have changed: a run that it
stopped is judged anew when it is resumed. No secret is in a version: it is made of how many there
are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any, Final, TypeVar

from crewai_prod.steps import digest

_RULE: Final = "__crewai_prod_rule__"
T = TypeVar("T", bound=Callable[..., Any])


def version_of(rules: str, *options: Any) -> str:
    """The version of a guard.

    Args:
        rules: Of its code.
        *options: What it was given. A function is known by its name, and one that was made by
            options of its own by these (`made_of`).
    """
    return f"{rules}-{digest(_said(options).encode('utf-8', 'surrogatepass'))[:8]}"


def made_of(function: T, *options: Any) -> T:
    """The function, with what it was made of."""
    setattr(function, _RULE, _said(options))
    return function


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{','.join(sorted(f'{_said(k)}:{_said(v)}' for k, v in value.items()))}}}"
    if isinstance(value, Set):
        return f"{{{','.join(sorted(map(_said, value)))}}}"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_said, value))}]"
    if callable(value):
        name = f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
        return str(getattr(value, _RULE, name))
    return repr(value)
