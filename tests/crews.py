"""CrewAI objects for the tests: models that talk to `tests.openai_server`.

Apart from the server, because importing crewai takes seconds and the server must start at once.
"""

from __future__ import annotations

from typing import Any, Literal

from crewai import LLM
from crewai.llms.base_llm import BaseLLM
from crewai.llms.providers.openai.completion import OpenAICompletion

Path = Literal["native", "text"]
MODEL = "gpt-4o-mini"


class TextOpenAI(OpenAICompletion):
    """CrewAI's OpenAI provider for a model without function calling, which it asks in ReAct text.

    Of OpenAI's own models only o1 takes that path, but for o1 CrewAI also rewrites system
    messages and drops stop words; use `make_llm(model="openai/o1")` to test those too.
    """

    def supports_function_calling(self) -> bool:
        """Return `False`, so that tools are described in the prompt."""
        return False


def make_llm(base_url: str, path: Path = "native", stream: bool = False, **options: Any) -> BaseLLM:
    """Return an OpenAI model of CrewAI that talks to a test server.

    Args:
        base_url: The server's `url`, without `/v1`.
        path: How tools are called: by native tool calls or in ReAct text.
        stream: Whether answers are streamed.
        options: Any other options of `LLM`; `max_retries=0` turns the SDK's own retries off.
    """
    settings = {"base_url": f"{base_url}/v1", "api_key": "sk-test", "stream": stream, **options}
    if path == "text":
        return TextOpenAI(**{"model": MODEL, "provider": "openai", **settings})
    return LLM(**{"model": f"openai/{MODEL}", **settings})
