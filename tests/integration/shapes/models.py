"""Models of every kind: streaming, of the user's own classes, behind LiteLLM; and dated prompts."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
from crewai import LLM, Crew, Task
from crewai.llms.base_llm import BaseLLM
from pydantic import PrivateAttr

from tests.integration.parts import Mode
from tests.integration.shape_trials import Scene, shape
from tests.openai_server import Conversation, Rule, answer, use

_PAY = Rule(use("charge", {"amount": 7}), answer("charged seven"), task="Pay")
_TELL = Rule(answer("all is told"), task="Tell")


def two_tasks(scene: Scene, llm: Any, **options: Any) -> Crew:
    """One that charges and one that tells, by agents of one model."""
    scene.script(Conversation(_PAY, _TELL))
    cashier = scene.agent("Cashier", scene.charge, llm=llm)
    teller = scene.agent("Teller", llm=llm)
    pay = Task(description="Pay", expected_output="o", agent=cashier)
    tell = Task(description="Tell", expected_output="o", agent=teller)
    return Crew(agents=[cashier, teller], tasks=[pay, tell], **options)


def consume(crew: Any, mode: Mode, given: dict[str, Any]) -> Any:
    """Read a crew's stream to its end; the result is there then, and not before."""
    if mode == "kickoff":
        output = crew.kickoff(**given)
        for _ in output:
            pass
        return output.result

    async def read() -> Any:
        output = await getattr(crew, mode)(**given)
        async for _ in output:
            pass
        return output.result

    return asyncio.run(read())


@shape(few=True)
def streaming_model(scene: Scene) -> Crew:
    """The model streams, the crew does not."""
    return two_tasks(scene, scene.llm(stream=True))


@shape(kickoff=consume)
def streaming_crew(scene: Scene) -> Crew:
    """The crew streams: what it says is read as it is said."""
    return two_tasks(scene, scene.llm(), stream=True)


@shape(few=True)
def dated(scene: Scene) -> Crew:
    """Prompts that hold the day's date."""
    scene.script(Conversation(_PAY))
    one = scene.agent("Cashier", scene.charge, inject_date=True, date_format="%Y")
    task = Task(description="Pay", expected_output="o", agent=one)
    return Crew(agents=[one], tasks=[task])


class OwnLLM(BaseLLM):
    """A user's own model: no events, constructor arguments and private state of its own."""

    url: str = ""
    reports: bool = True
    native: bool = True
    _asked: int = PrivateAttr(default=0)

    def __init__(self, where: str, *, reports: bool = True, native: bool = True) -> None:
        super().__init__(model="own")
        self.url = where
        self.reports, self.native = reports, native
        self._client = httpx.Client()

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
        """Ask, count, and answer as CrewAI reads it."""
        self._asked += 1
        return self._read(self._client.post(self.url, json=self._body(messages, tools)))

    def _body(self, messages: Any, tools: Any) -> dict[str, Any]:
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        body: dict[str, Any] = {"model": self.model, "messages": json.loads(json.dumps(messages))}
        return {**body, "tools": tools} if tools else body

    def _read(self, response: httpx.Response) -> Any:
        response.raise_for_status()
        said = response.json()
        if self.reports:
            self._track_token_usage_internal(said["usage"])
        message = said["choices"][0]["message"]
        return message.get("tool_calls") or message["content"]

    def supports_function_calling(self) -> bool:
        """As it was built."""
        return self.native


class OwnAsyncLLM(OwnLLM):
    """The same, asynchronous too."""

    async def acall(self, messages: Any, tools: Any = None, *_: Any, **__: Any) -> Any:
        """As `call`."""
        self._asked += 1
        async with httpx.AsyncClient() as client:
            return self._read(await client.post(self.url, json=self._body(messages, tools)))


def _own(scene: Scene, kind: type[OwnLLM], **options: Any) -> OwnLLM:
    where = f"{scene.server.url}/v1/chat/completions"
    return kind(where, native=scene.path == "native", **options)


@shape()
def own_model(scene: Scene) -> Crew:
    """A model of the user's own class that reports its usage."""
    return two_tasks(scene, _own(scene, OwnLLM))


@shape(few=True)
def own_async_model(scene: Scene) -> Crew:
    """One that can be awaited, too."""
    return two_tasks(scene, _own(scene, OwnAsyncLLM))


@shape(few=True, unmetered=True)
def own_silent_model(scene: Scene) -> Crew:
    """One that reports nothing: its calls are counted, their tokens cannot be known."""
    return two_tasks(scene, _own(scene, OwnLLM, reports=False))


class TextLiteLLM(LLM):
    """A model behind LiteLLM that is asked for tools in ReAct text."""

    def supports_function_calling(self) -> bool:
        """Return `False`."""
        return False


def _litellm(scene: Scene, **options: Any) -> LLM:
    kind = LLM if scene.path == "native" else TextLiteLLM
    return kind(
        model="openai/gpt-4o-mini",
        is_litellm=True,
        base_url=f"{scene.server.url}/v1",
        api_key="sk-test",
        max_retries=0,
        **options,
    )


@shape(few=True)
def litellm_model(scene: Scene) -> Crew:
    """A model behind LiteLLM."""
    return two_tasks(scene, _litellm(scene))


@shape(few=True, cannot={"native": "bare CrewAI loses the ids of tool calls LiteLLM streams"})
def litellm_streaming_model(scene: Scene) -> Crew:
    """A model behind LiteLLM that streams."""
    return two_tasks(scene, _litellm(scene, stream=True))
