"""What a docstring says about a function and its parameters, in any of the usual styles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import docstring_parser


@dataclass(frozen=True, slots=True)
class Told:
    """A docstring taken apart.

    Attributes:
        text: What the function does, what it returns and its examples, without its parameters:
            their texts stand in the schema.
        parameters: The text of each parameter, on one line.
    """

    text: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)


def read_docstring(text: str | None) -> Told:
    """Google's, NumPy's, Sphinx's and Epydoc's style; one that is none of them is all text."""
    if not text or not text.strip():
        return Told()
    try:
        parsed = docstring_parser.parse(text)
    except docstring_parser.ParseError:
        return Told(" ".join(text.split()))
    said = [parsed.short_description, parsed.long_description]
    if parsed.returns is not None and parsed.returns.description:
        said.append(f"Returns: {_line(parsed.returns.description)}")
    said += [f"Example:\n{e.description or e.snippet}" for e in parsed.examples]
    texts = {p.arg_name.lstrip("*"): _line(p.description) for p in parsed.params if p.description}
    return Told("\n\n".join(part.strip() for part in said if part), texts)


def _line(text: str) -> str:
    return " ".join(text.split())
