"""What of a model's reply in ReAct text is its own to say: pure text in, text out.

A model that is asked to name a tool and then wait may go on writing: an `Observation:` that nobody
made, and an answer built on it. CrewAI takes a reply with an answer in it for finished, however
many tools it also names, and hands the rest of the reply to the tool as its input. The rule here: a
reply that names a tool ends with that tool's input. What comes after was written before the tool
had run, so it cannot be true, and it is cut; the tool then really runs.

What is not touched: a reply that gives its final answer first, whatever the answer mentions; words
within the JSON of a tool's input; an example that the model quotes in a code block; a reply that
names no tool (`Action: None`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

_MARKS: Final = r"[ \t>*_#`\-]*"
"""What models put around a label: bold, quotes, headings, list marks."""


def _label(name: str, *, anywhere: bool = False) -> re.Pattern[str]:
    start = r"(?<!\w)" if anywhere else rf"(?:(?<=\n)|(?<=\r)|\A){_MARKS}"
    return re.compile(rf"{start}{name}[ \t]*[*_`]*[ \t]*:[*_`]*", re.IGNORECASE)


_ACTION: Final = _label(r"Action[ \t]*\d*")
_INPUT: Final = _label(r"Action[ \t]*\d*[ \t]*Input[ \t]*\d*", anywhere=True)
_INVENTED: Final = _label(r"(?:Observation[ \t]*\d*|Final[ \t]+Answer|Action[ \t]*\d*)")
_INVENTED_INLINE: Final = _label(r"(?:Observation[ \t]*\d*|Final[ \t]+Answer)", anywhere=True)
_THOUGHT: Final = _label(r"Thought")
_ANSWER: Final = _label(r"Final[ \t]+Answer", anywhere=True)
_FENCE: Final = re.compile(r"^[ \t]*```[^\n`]*$", re.MULTILINE)
_ANSWER_WORDS: Final = "Final Answer:"
_NO_TOOL: Final = frozenset(
    {"", "none", "n/a", "na", "no", "nothing", "no action", "no tool", "not needed", "null"}
)
_DECODER: Final = json.JSONDecoder(strict=False)


@dataclass(frozen=True, slots=True)
class _Action:
    """A tool that a reply names: where its labels and its input stand."""

    start: int
    name: str
    input_label: int
    input_start: int


def uninvented(reply: str) -> str:
    """The reply up to the end of the first tool input in it; the reply itself if nothing follows.

    Only a reply that goes on after that input with an observation, an answer or another action is
    changed. Its labels are then written as CrewAI reads them.
    """
    if "action" not in reply.lower():
        return reply  # and no more is asked of a long answer
    action = _first_action(reply)
    if action is None:
        return reply
    end, is_json = _end_of_input(reply, action.input_start)
    found = _INVENTED.search(reply, end)
    if is_json:
        inline = _INVENTED_INLINE.search(reply, end)
        found = min((one for one in (found, inline) if one), key=lambda m: m.start(), default=None)
    if found is None:
        return _with_words_kept(reply, action.input_start, end) if is_json else reply
    thought = _THOUGHT.search(reply, end, found.start())
    cut = min(found.start(), thought.start() if thought else found.start())
    given = reply[action.input_start : cut].strip()
    head = _unquoted(reply, action.start)
    said = f"Action: {action.name}\nAction Input: {_masked(given) if is_json else given}"
    return f"{head}\n{said}" if head else said


def asks_in_text(instructions: str) -> bool:
    """Whether the instructions of a conversation have the model call its tools in ReAct text."""
    return "Action Input:" in instructions


def _first_action(reply: str) -> _Action | None:
    """The first tool that is named before any final answer, and not only quoted."""
    quoted = _quoted(reply)
    answer = _outside(_ANSWER, reply, quoted)
    limit = len(reply) if answer is None else answer
    for label in _ACTION.finditer(reply):
        if label.start() >= limit:
            return None
        if any(start <= label.start() < end for start, end in quoted):
            continue
        given = _INPUT.search(reply, label.end())
        if given is None:
            return None
        name = reply[label.end() : given.start()].strip().strip("*_`\"'").strip()
        if "\n" in name or name.rstrip(".").casefold() in _NO_TOOL:
            continue
        return _Action(label.start(), name, given.start(), given.end())
    return None


def _outside(label: re.Pattern[str], reply: str, quoted: list[tuple[int, int]]) -> int | None:
    for found in label.finditer(reply):
        if not any(start <= found.start() < end for start, end in quoted):
            return found.start()
    return None


def _quoted(reply: str) -> list[tuple[int, int]]:
    """Closed code blocks in the middle of the prose: what stands there is shown, not done.

    CrewAI's instructions show the format itself in a block, so many models write a block around
    what they do: one that opens the reply or begins with a thought is such a one.
    """
    if "```" not in reply:
        return []
    fences = list(_FENCE.finditer(reply))
    blocks = zip(fences[::2], fences[1::2], strict=False)
    return [
        (opened.start(), closed.end())
        for opened, closed in blocks
        if reply[: opened.start()].strip()
        and not _INPUT.search(reply, 0, opened.start())
        and not _THOUGHT.match(reply[opened.end() : closed.start()].lstrip())
    ]


def _unquoted(reply: str, end: int) -> str:
    """What stands before `end` and is not quoted: CrewAI would read a quoted action first."""
    at, parts = 0, []
    for start, after in _quoted(reply):
        if after <= end:
            parts.append(reply[at:start].rstrip())
            at = after
    return "\n".join([*parts, reply[at:end].strip() if parts else reply[:end].rstrip()]).rstrip()


def _end_of_input(reply: str, start: int) -> tuple[int, bool]:
    """Where a tool's input ends at the earliest, and whether it is JSON, which says so itself."""
    given = re.compile(r"\s*(?:```[^\n`]*\n\s*)?").match(reply, start)
    begin = given.end() if given else start
    if reply[begin : begin + 1] not in {"{", "[", '"'}:
        return start, False
    try:
        return _DECODER.raw_decode(reply, begin)[1], True
    except (ValueError, RecursionError):  # no JSON, or more digits or levels than Python reads
        return start, False


def _with_words_kept(reply: str, start: int, end: int) -> str:
    """A reply whose JSON input holds the words by which CrewAI takes any reply for an answer."""
    if _ANSWER_WORDS not in reply[start:end] or _ANSWER_WORDS in reply[end:]:
        return reply
    return reply[:start] + _masked(reply[start:end]) + reply[end:]


def _masked(given: str) -> str:
    """The same JSON value, without the words that would make an answer of it."""
    return given.replace(_ANSWER_WORDS, "Final Answer\\u003a")
