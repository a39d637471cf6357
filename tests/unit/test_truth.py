"""Where a reply in ReAct text goes on inventing, it is cut; nothing else is touched."""

from __future__ import annotations

import json
from typing import Any

import pytest
from crewai.agents.parser import AgentAction, AgentFinish, parse
from hypothesis import example, given
from hypothesis import strategies as st

from crewai_prod.truth import uninvented

ACTED = 'Thought: I pay.\nAction: pay\nAction Input: {"amount": 7}'
INVENTIONS = {
    "an observation": "\nObservation: paid 7",
    "an observation and an answer": "\nObservation: paid 7\nThought: good\nFinal Answer: paid",
    "an answer without any": "\nFinal Answer: paid",
    "a thought and an answer": "\n\nThought: it is paid\nFinal Answer: paid",
    "another action": '\nAction: send\nAction Input: {"to": "ann"}',
    "a whole story": (
        '\nObservation: paid\nThought: now I send\nAction: send\nAction Input: {"to": "ann"}'
        "\nObservation: sent\nFinal Answer: paid and sent"
    ),
    "an observation on the same line": " Observation: paid 7",
    "an observation in bold": "\n**Observation:** paid\n**Final Answer:** paid",
    "an observation in lower case": "\nobservation: paid\nfinal answer: paid",
    "a numbered observation": "\nObservation 1: paid\nFinal Answer: paid",
}
TOUCHED_NOT = {
    "no action": "Thought: I know.\nFinal Answer: 42",
    "an action alone": ACTED,
    "an action with prose after it": ACTED + "\n\nI wait for the result.",
    "an answer that mentions the words": (
        "Thought: I know.\nFinal Answer: They wrote\nAction: pay\nAction Input: {}\n"
        "Observation: paid\nand that was all."
    ),
    "an answer on the line of the thought": (
        "Thought: done. Final Answer: the steps were\nAction: pay\nAction Input: {}\n"
        "Observation: paid"
    ),
    "no tool": "Thought: none needed\nAction: None\nAction Input: None\nFinal Answer: 42",
    "an example in a block": (
        "Thought: the log says\n```\nAction: pay\nAction Input: {}\nObservation: paid\n```\n"
        "Final Answer: it was paid"
    ),
    "an input that holds the words": (
        'Thought: t\nAction: note\nAction Input: {"text": "so:\\nObservation: it rains"}'
    ),
    "words in an input over several lines": (
        'Thought: t\nAction: note\nAction Input: {"text": "so:\nObservation: it rains"}'
    ),
    "no input": "Thought: t\nAction: pay\nObservation: paid\nFinal Answer: paid",
    "prose": "Observation: it rains. Final Answer: take a coat.",
    "nothing": "",
}


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["unix", "windows"])
@pytest.mark.parametrize("invented", INVENTIONS.values(), ids=list(INVENTIONS))
def test_an_invention_is_cut(invented: str, newline: str) -> None:
    """What follows a tool's input goes, and CrewAI reads the tool and the input it was given."""
    cut = uninvented((ACTED + invented).replace("\n", newline))
    assert cut.replace("\r\n", "\n") == ACTED
    _assert_acts(cut, "pay", {"amount": 7})


@pytest.mark.parametrize("reply", TOUCHED_NOT.values(), ids=list(TOUCHED_NOT))
def test_what_is_no_invention_stays(reply: str) -> None:
    """A reply in which nothing was made up is handed over as it is."""
    assert uninvented(reply) == reply


@pytest.mark.parametrize(
    "reply",
    [
        ACTED.replace("Action:", "**Action:**").replace("Action Input:", "**Action Input:**"),
        ACTED.replace("Action:", "**Action**:").replace("Action Input:", "**Action Input**:"),
        ACTED.replace("Action", "action"),
        ACTED.replace("Action:", "Action 1:").replace("Action Input:", "Action 1 Input:"),
        ACTED.replace('{"amount": 7}', '\n```json\n{"amount": 7}\n```'),
        "```\n" + ACTED,
        "Thought: as in\n```\nAction: spy\nAction Input: {}\n```\n" + ACTED,
    ],
    ids=["bold", "bold name", "lower case", "numbered", "fenced input", "fenced", "after example"],
)
def test_labels_as_models_write_them(reply: str) -> None:
    """However the labels are dressed up, the tool is called with its input."""
    cut = uninvented(reply + "\nObservation: paid\nFinal Answer: paid")
    _assert_acts(cut, "pay", {"amount": 7})


def test_a_format_in_blocks_is_meant() -> None:
    """CrewAI shows the format in a code block; a model that writes in blocks means it."""
    block = f"```\n{ACTED}\nObservation: paid\n```\n```\nThought: t\nFinal Answer: paid\n```"
    _assert_acts(uninvented(block), "pay", {"amount": 7})


def test_an_input_that_holds_an_answers_words_is_no_answer() -> None:
    """CrewAI takes any reply with these words for finished; in a JSON input they are a value."""
    reply = 'Thought: t\nAction: note\nAction Input: {"text": "Final Answer: 42"}'
    assert isinstance(parse(reply), AgentFinish)
    _assert_acts(uninvented(reply), "note", {"text": "Final Answer: 42"})


_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40)
_SAID = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)
_ARGUMENTS = st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), _SAID, max_size=4)
_NAMES = st.from_regex(r"[a-z]+_[a-z]+", fullmatch=True)
_AFTER = st.sampled_from(list(INVENTIONS.values()))


@given(name=_NAMES, arguments=_ARGUMENTS, after=_AFTER, indent=st.sampled_from([None, 2]))
@example(name="a_b", arguments={"a": "\nObservation: x\nFinal Answer: y"}, after="", indent=None)
def test_input_survives(name: str, arguments: Any, after: str, indent: int | None) -> None:
    """Whatever the arguments hold, they are what the tool is given, and nothing of what follows."""
    given_json = json.dumps(arguments, ensure_ascii=False, indent=indent)
    cut = uninvented(f"Thought: t\nAction: {name}\nAction Input: {given_json}{after}")
    head, _, said = cut.partition("\nAction Input: ")
    assert head == f"Thought: t\nAction: {name}"
    assert json.loads(said) == arguments
    assert isinstance(parse(cut), AgentAction)


_PIECES = st.sampled_from(
    [
        *("Thought: ", "Action: ", "Action Input: ", "Observation: ", "Final Answer: ", "**"),
        *("\n", "\r\n", "```", "```json\n", "{", "}", "[", '"', "\\", "pay", '{"a": 1}', " ", ":"),
    ]
)


@given(st.lists(_PIECES | st.text(max_size=3), max_size=25).map("".join))
def test_any_text(reply: str) -> None:
    """Any text goes through; nothing is cut twice; nothing is added but the labels' own form."""
    cut = uninvented(reply)
    assert uninvented(cut) == cut
    assert len(cut) <= len(reply) + len("\nAction: \nAction Input: ") + 5 * reply.count("Answer:")


def _assert_acts(reply: str, tool: str, arguments: Any) -> None:
    action = parse(reply)
    assert isinstance(action, AgentAction)
    assert (action.tool, json.loads(action.tool_input)) == (tool, arguments)
