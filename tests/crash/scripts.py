"""What the model says to the crews of `tests.crash.shapes`: one script for all of them.

No crewai here: the server process imports this module and must start at once.
"""

from __future__ import annotations

import json
from dataclasses import replace

from tests.crash.governed_script import RULES
from tests.memory_script import remembering
from tests.openai_script import (
    Body,
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


def _work(coworker: str, task: str) -> dict[str, str]:
    return {"coworker": coworker, "task": task, "context": "The order is number 7."}


def _delegate(coworker: str, task: str) -> Reply:
    return call("delegate_work_to_coworker", _work(coworker, task))


def _receipt(turn: Turn) -> Reply:
    """The receipt as JSON, on whichever path the request is on."""
    said = answer(json.dumps(RECEIPT))(turn)
    return said if turn.native or turn.schema is None else Reply(json.dumps(RECEIPT))


_PLAN = {
    "plan": "reserve, then say so",
    "steps": [
        {
            "step_number": 1,
            "description": "Reserve the lamp",
            "tool_to_use": "reserve",
            "depends_on": [],
        },
        {"step_number": 2, "description": "Say so", "tool_to_use": None, "depends_on": [1]},
    ],
    "ready": True,
}
_SEEN = {
    "step_completed_successfully": True,
    "key_information_learned": "reserved",
    "remaining_plan_still_valid": True,
    "needs_full_replan": False,
}


def _offers(turn: Turn, tool: str) -> bool:
    return any(one["function"]["name"] == tool for one in turn.body.get("tools") or [])


def _verdict(turn: Turn) -> Reply:
    kind = "kind shop" in turn.task
    return Reply(json.dumps({"valid": kind, "feedback": None if kind else "be kinder"}))


_SAID = remembering(
    # in front: what is said to a memory
    *RULES,
    # models beside the agents' own: planners, judges, converters
    Rule(call("create_reasoning_plan", _PLAN), when=lambda t: _offers(t, "create_reasoning_plan")),
    Rule(Reply(json.dumps(_SEEN)), task="Just completed step"),
    Rule(call("reserve", {"item": "lamp"}), Reply("reserved"), task="Reserve the lamp\n"),
    Rule(Reply("said so"), task="## Current Step\nSay so"),
    Rule(Reply("the day is planned"), task="Synthesize"),
    Rule(_verdict, task="Ensure the following task result complies"),
    Rule(call("Receipt", RECEIPT), when=lambda t: _offers(t, "Receipt")),
    Rule(
        lambda turn: Reply("a kind shop" if "be kinder" in turn.task else "a shop"),
        task="Praise the shop",
    ),
    Rule(
        call("charge", {"customer": "ada", "amount": 5}),
        Reply("ada paid five"),
        task="Describe the sale",
    ),
    # coworkers
    Rule(
        call(
            "ask_question_to_coworker", {"coworker": "Porter", "question": "Free?", "context": "c"}
        ),
        calls(
            [
                ("delegate_work_to_coworker", _work("Cashier", "Take the money")),
                ("delegate_work_to_coworker", _work("Cashier", "Take it back")),
            ]
        ),
        Reply("led"),
        task="Lead the shop",
    ),
    Rule(Reply("free"), agent="Porter", task="Free?"),
    Rule(
        use("charge", {"customer": "ada", "amount": -5}),
        answer("gave 5 back"),
        agent="Cashier",
        task="Take it back",
    ),
    Rule(use("ship", {"order": 7}), answer("closed"), agent="Porter", task="Close the shop"),
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
