"""What the demonstration's model says: a function of the conversation and of nothing else.

Because of that a resumed run could not tell, from the answers, that it was resumed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

CONFIRMATION = (
    "Your order A-1001 is on its way: a tide clock (receipt R1) and a brass barometer (receipt "
    "R2). Your card was charged 120 USD in all."
)
_FOUND = re.compile(r"(tide clock|brass barometer): (\d+) USD")
_RECEIPT = re.compile(r"receipt (R\d+) for (tide clock|brass barometer)")


def answer(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> Any:
    """The model's next words: a tool call, native or in text, or a final answer."""
    talk = "\n".join(str(message.get("content") or "") for message in messages)
    task = _current_task(messages)
    if "Look up order" in task:
        if not _FOUND.search(talk):
            return _call("look_up_order", {"order": "A-1001"}, messages, tools)
        return _final("tide clock: 42 USD\nbrass barometer: 78 USD", tools)
    if "Charge card" in task:
        receipts = dict.fromkeys(item for _, item in _RECEIPT.findall(talk))
        missing = [(item, usd) for item, usd in _FOUND.findall(talk) if item not in receipts]
        if missing:
            item, usd = missing[0]
            charge = {"card": "visa-4242", "item": item, "amount_usd": float(usd)}
            return _call("charge_card", charge, messages, tools)
        return _final("receipt R1 for tide clock\nreceipt R2 for brass barometer", tools)
    return _final(CONFIRMATION, tools)


def _current_task(messages: Sequence[Mapping[str, Any]]) -> str:
    """The first message of the person: it names the task."""
    said = (str(m.get("content")) for m in messages if m.get("role") == "user")
    return next(said, "")


def _call(
    name: str,
    arguments: Mapping[str, Any],
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
) -> Any:
    if not tools:
        return f"Thought: I need {name}.\nAction: {name}\nAction Input: {json.dumps(arguments)}"
    function = {"name": name, "arguments": json.dumps(arguments)}
    return [{"id": f"call_{len(messages)}", "type": "function", "function": function}]


def _final(text: str, tools: Sequence[Mapping[str, Any]]) -> str:
    return text if tools else f"Thought: I know the final answer.\nFinal Answer: {text}"
