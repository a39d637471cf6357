"""What the model says to the crews of `tests.crash.shapes`: one script for all of them.

No crewai here: the server process imports this module and must start at once.
"""

from __future__ import annotations

import json
from dataclasses import replace

from tests.openai_script import (
    Body,
    Conversation,
    Fault,
    Reply,
    Rule,
    Turn,
    answer,
    call,
    calls,
    use,
)

DELAY = 0.05
"""Seconds an answer takes, so that a kill at a random moment may fall into a request."""

RECEIPT = {"customer": "ada", "amount": 5, "lines": ["lamp", "shade"]}


def _delegate(coworker: str, task: str) -> Reply:
    arguments = {"coworker": coworker, "task": task, "context": "The order is number 7."}
    return call("delegate_work_to_coworker", arguments)


def _receipt(turn: Turn) -> Reply:
    """The receipt as JSON, on whichever path the request is on."""
    said = answer(json.dumps(RECEIPT))(turn)
    return said if turn.native or turn.schema is None else Reply(json.dumps(RECEIPT))


_SAID = Conversation(
    # sequential, async and akickoff crews
    Rule(use("reserve", {"item": "lamp"}), answer("reserved the lamp"), task="Reserve the item"),
    Rule(
        use("charge", {"customer": "ada", "amount": 5}), answer("charged 5"), task="Charge the card"
    ),
    Rule(use("mail", {"to": "ada"}), answer("told ada"), task="Write to the customer"),
    Rule(use("mail", {"to": "ada"}), _receipt, task="Send the receipt"),
    Rule(answer("All is done: reserved, charged, told."), task="Sum up"),
    # tools that raise, and asynchronous ones
    Rule(
        use("label", {"order": 7}),
        use("charge", {"customer": "ada", "amount": 5}),
        answer("no label, charged 5"),
        task="Print a label",
    ),
    Rule(use("track", {"order": 7}), answer("it is on its way"), task="Track the parcel"),
    # several calls in one reply
    Rule(
        calls(
            [
                ("reserve", {"item": "lamp"}),
                ("reserve", {"item": "shade"}),
                ("charge", {"customer": "ada", "amount": 5}),
            ]
        ),
        calls([("mail", {"to": "ada"}), ("mail", {"to": "bob"})]),
        Reply("reserved two, charged 5, told two"),
        task="Do it all at once",
    ),
    # a crew in a tool, an agent, a flow
    Rule(use("ask_shop", {"order": 7}), answer("the shop did it"), task="Ask the shop"),
    Rule(use("ship", {"order": 7}), answer("shipped 7"), task="Ship the parcel"),
    # hierarchical
    Rule(
        _delegate("Cashier", "Take the money"),
        _delegate("Porter", "Send the parcel"),
        Reply("taken and sent"),
        agent="Manager",
        task="Serve the order",
    ),
    Rule(
        _delegate("Porter", "Clear the desk"),
        Reply("the shop is closed"),
        agent="Manager",
        task="Close the shop",
    ),
    Rule(
        use("charge", {"customer": "ada", "amount": 5}),
        answer("took 5"),
        agent="Cashier",
        task="Take the money",
    ),
    Rule(use("ship", {"order": 7}), answer("sent 7"), agent="Porter", task="Send the parcel"),
    Rule(answer("cleared"), agent="Porter", task="Clear the desk"),
)


def shop(body: Body) -> Reply | Fault:
    """Answer for all the shapes."""
    said = _SAID(body)
    return said if isinstance(said, Fault) else replace(said, delay=DELAY)
