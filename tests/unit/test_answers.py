"""Every form of answer survives the journal."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic.types import ToolUseBlock
from crewai.llms.providers.openai.completion import ResponsesAPIResult
from crewai.utilities.agent_utils import extract_tool_call_info
from google.genai import types as genai
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessageFunctionToolCall
from openai.types.chat.chat_completion_message_function_tool_call import Function
from pydantic import BaseModel

from crewai_prod._crewai.answers import decode_answer, encode_answer


class Fact(BaseModel):
    """A structured answer."""

    name: str
    parts: list[int] = []


class Other(BaseModel):
    """Another one."""

    name: str


def there_and_back(answer: Any, *types: Any) -> Any:
    """The answer as a resumed run would see it."""
    return decode_answer(encode_answer(answer)[0], types)


OPENAI = ChatCompletionMessageFunctionToolCall(
    id="call_1", type="function", function=Function(name="pay", arguments='{"amount": 5}')
)
ANTHROPIC = ToolUseBlock(id="toolu_1", name="pay", input={"amount": 5}, type="tool_use")
BEDROCK = {"toolUseId": "tooluse_1", "name": "pay", "input": {"amount": 5}}
RESPONSES = {"id": "fc_1", "call_id": "call_1", "name": "pay", "arguments": '{"amount": 5}'}


@given(st.text(alphabet=st.characters(codec=None)))
def test_text(text: str) -> None:
    """Any text, lone surrogates included."""
    assert there_and_back(text) == text


@pytest.mark.parametrize(
    "call", [OPENAI, ANTHROPIC, BEDROCK, RESPONSES], ids=lambda c: str(type(c))
)
def test_tool_calls_read_the_same(call: Any) -> None:
    """CrewAI reads a recorded call's id, name and arguments as it reads the SDK object's."""
    (back,) = there_and_back([call])
    assert extract_tool_call_info(back) == extract_tool_call_info(call)
    assert isinstance(back, dict)


def test_googles_parts_come_back_as_parts() -> None:
    """A part keeps its class and its signature, which must return to the provider unchanged."""
    part = genai.Part(
        function_call=genai.FunctionCall(name="pay", args={"amount": 5}),
        thought_signature=b"\x00\xffsig",
    )
    (back,) = there_and_back([part])
    assert type(back) is genai.Part
    assert back == part
    assert type(back).__qualname__ == "Part"


def test_structured_answer_is_the_callers_class() -> None:
    """Among several classes the one of that name is taken."""
    fact = Fact(name="tide", parts=[1])
    back = there_and_back(fact, None, Other, Fact)
    assert back == fact
    assert type(back) is Fact


def test_structured_answer_without_its_class_is_an_error() -> None:
    """No class is loaded by a stored name."""
    with pytest.raises(ValueError, match="Fact"):
        there_and_back(Fact(name="tide"))


def test_responses_api_result() -> None:
    """The Responses API's object comes back whole."""
    result = ResponsesAPIResult(text="hi", response_id="r", function_calls=[RESPONSES])
    assert there_and_back(result) == result


@pytest.mark.parametrize("value", [None, 5, {"answer": "x"}, {"$": "y"}, ("a", 1), [["a"], None]])
def test_whatever_an_executed_tool_returned(value: Any) -> None:
    """With `available_functions` a model call returns a tool's result."""
    assert there_and_back(value) == value
