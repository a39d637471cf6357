"""A model that answers from a function of the conversation: offline, free, the same every time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from crewai.llms.base_llm import BaseLLM
from pydantic import PrivateAttr

Script = Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], Any]
"""(messages, tool schemas) -> text, or a list of tool calls `{"id", "function": {...}}`."""


class ScriptedLLM(BaseLLM):
    """A model for tests, demonstrations and `doctor`.

    Args:
        script: Called with the messages and the tools' schemas for every call; what it returns is
            the answer. A function of the conversation alone gives a resumed run the same answers.
        native: Whether it calls tools natively (True) or in the text of its replies (False).
        delay: Seconds each call takes.
    """

    llm_type: str = "scripted"
    model: str = "scripted"
    provider: str = "scripted"
    native: bool = False
    delay: float = 0.0
    _script: Script = PrivateAttr()

    def __init__(self, script: Script, **fields: Any) -> None:
        super().__init__(**{"model": "scripted", "provider": "scripted", **fields})
        self._script = script

    def call(
        self,
        messages: Any,
        tools: Any = None,
        callbacks: Any = None,
        available_functions: Any = None,
        from_task: Any = None,
        from_agent: Any = None,
        response_model: Any = None,
    ) -> Any:
        """The script's answer, with a usage of one token for every four characters."""
        if self.delay:
            time.sleep(self.delay)
        talk = _talk(messages)
        answer = self._say(talk, tools or [], response_model)
        self._track_token_usage_internal(usage_of(talk, answer))
        if response_model is not None and isinstance(answer, str):
            return response_model.model_validate_json(answer)
        return answer

    def _say(self, messages: Any, tools: Any, response_model: Any) -> Any:
        return self._script(messages, tools)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """As `call`; the delay does not block the event loop."""
        return await asyncio.to_thread(self.call, *args, **kwargs)

    def supports_function_calling(self) -> bool:
        """Whether CrewAI hands it tools natively."""
        return self.native

    def supports_stop_words(self) -> bool:
        """It never runs on, so it needs none."""
        return False

    def get_input_tokens_count(
        self, messages: Any, tools: Any = None, response_model: Any = None
    ) -> int:
        """What a call will be said to have read; CrewAI's own estimate warns on every kickoff."""
        return usage_of(_talk(messages), "")["prompt_tokens"]

    def get_context_window_size(self) -> int:
        """Large enough for any script."""
        return 1_000_000


def _talk(messages: Any) -> Sequence[Mapping[str, Any]]:
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else messages


def usage_of(messages: Sequence[Mapping[str, Any]], answer: Any) -> dict[str, int]:
    """What a scripted call is said to have cost: a token for every four characters."""
    asked = sum(len(str(message.get("content") or "")) for message in messages) // 4 + 1
    answered = len(str(answer)) // 4 + 1
    return {
        "prompt_tokens": asked,
        "completion_tokens": answered,
        "total_tokens": asked + answered,
    }
