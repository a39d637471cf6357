"""What the model says to the crews of `tests.crash.governed`. No crewai here, see `scripts`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from tests.openai_script import FAULTS, Fault, Reply, Rule, Turn, answer, use

RUDE = "a rude answer"
OWN, STRONG, SMALL = "gpt-4o-mini", "gpt-4.1", "gpt-4.1-nano"
BUSY, SPARE = "gpt-4.1-mini", "gpt-4o"
BOOK = " ".join(f"line {n} of the book" for n in range(40))


def _said(turn: Turn) -> str:
    return json.dumps(turn.body["messages"])


def _write_back(turn: Turn) -> Reply:
    """Write to whoever is named, by the name that stands for the address."""
    name = re.search(r"EMAIL_\w+", _said(turn))
    return use("mail", {"to": name.group() if name else "nobody"})(turn)


def _politely(turn: Turn) -> Reply:
    polite = "no rude words" in _said(turn)
    return answer("wrote back to " + _name(turn) if polite else RUDE)(turn)


def _name(turn: Turn) -> str:
    found = re.search(r"EMAIL_\w+", _said(turn))
    return found.group() if found else "nobody"


def _flaky(turn: Turn) -> Reply | Fault:
    """The own model is overloaded, the one after it limited; the others answer."""
    wrong = {OWN: "unavailable", BUSY: "rate_limit"}.get(turn.body["model"])
    said = answer("labelled") if turn.turns else use("reserve", {"item": "label"})
    return FAULTS[wrong] if wrong else said(turn)


def _next_page(number: int) -> Callable[[Turn], Reply]:
    """Read on, by the id that the mark at the cut gives."""

    def read(turn: Turn) -> Reply:
        found = re.search(r'result_id \\*"([0-9a-f]+)', _said(turn))
        asked = {"result_id": found.group(1) if found else "none", "page": number}
        return use("read_tool_result", asked)(turn)

    return read


RULES = (
    # guarded
    Rule(
        use("letter", {"number": 7}),
        _write_back,
        _politely,
        task="Answer the letter",
    ),
    # budgeted
    Rule(_flaky, task="Label the parcel"),
    Rule(
        use("charge", {"customer": "ada", "amount": 5}),
        use("mail", {"to": "ada"}),
        use("ship", {"order": 7}),
        answer("charged, told, shipped"),
        task="Handle the parcel",
    ),
    # looping
    Rule(
        *[use("look", {"topic": "tides"})] * 4,
        use("charge", {"customer": "ada", "amount": 5}),
        answer("found nothing, charged 5"),
        task="Look it up",
    ),
    Rule(*[use("poll", {"order": 7})] * 5, answer("it is there"), task="Wait for the parcel"),
    Rule(
        use("book", {"title": "tides"}),
        _next_page(2),
        _next_page(3),
        use("mail", {"to": "ada"}),
        answer("read the book"),
        task="Read the book",
    ),
    # asked
    Rule(
        use("charge", {"customer": "ada", "amount": 500}),
        answer("charged what they said"),
        task="Settle the bill",
    ),
    Rule(answer("a first draft"), task="Draft a reply"),
    Rule(
        lambda turn: answer("once more" if "shorter" in _said(turn) else "a long letter")(turn),
        task="Write a letter",
    ),
    Rule(
        use("label", {"order": 1}),
        use("label", {"order": 2}),
        lambda turn: use("ask_human", {"question": "Which printer?"})(turn),
        use("ship", {"order": 7}),
        answer("shipped without a label"),
        task="Try the printer",
    ),
)
