"""The seam in front of a person: what somebody answered is a step, and is not asked twice.

CrewAI hands an agent's answer to a human input provider, which asks a person and, for as long as
there is feedback, has the agent try again. Whatever the provider is, two things can be seen of it:
it adds messages to the conversation and has the agent go on, or it returns the answer that counts.
Each of these is recorded when it happens; a resumed run repeats what is recorded without asking.

CrewAI's own provider reads from the terminal. Unless that was asked for (`human="terminal"`), the
question is a row as any other, and the run waits: to approve is to be content, the reason of a
rejection is the feedback.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from crewai.agents.parser import AgentFinish
from crewai.core.providers.human_input import (
    HumanInputProvider,
    SyncHumanInputProvider,
    get_provider,
    reset_provider,
    set_provider,
)

from crewai_prod import codec
from crewai_prod._crewai.answers import as_text, decode_answer, encode_answer
from crewai_prod._crewai.places import scope_of
from crewai_prod._crewai.stop import Passing, StopRun, refusing
from crewai_prod.approval import HUMAN_INPUT
from crewai_prod.errors import CrewProdError, RunPaused
from crewai_prod.failures import describe
from crewai_prod.records import StepKind, StepRecord
from crewai_prod.run import Run
from crewai_prod.threads import in_thread
from crewai_prod.tooling import ToolOptions
from crewai_prod.walk import Ticket

_ASKED = ToolOptions(effect="read")


@contextmanager
def asking(run: Run) -> Iterator[None]:
    """What a person is asked in this block belongs to the run."""
    token = set_provider(RunProvider(run, _plain(get_provider())))
    try:
        yield
    finally:
        reset_provider(token)


@contextmanager
def provided(provider: Any) -> Iterator[None]:
    """Ask through `provider` in this block, unless another one was set for it.

    CrewAI keeps the provider in the context, which a plain thread does not inherit.
    """
    if provider is None or not is_default(get_provider()):
        yield
        return
    token = set_provider(provider)
    try:
        yield
    finally:
        reset_provider(token)


def provider_here() -> Any:
    """The provider that was set where this is called; None: CrewAI's own."""
    provider = _plain(get_provider())
    return None if is_default(provider) else provider


def is_default(provider: Any) -> bool:
    """Whether this is what CrewAI asks through if nothing is said."""
    return type(provider) is SyncHumanInputProvider


def is_unheard(agent: Any, run: Run) -> bool:
    """Whether feedback would be asked for that this release of CrewAI cannot give to an agent.

    The agent's executor lacks what CrewAI's own provider calls. A person is asked as about an
    output then: see `approved_outputs`.
    """
    waits = provider_here() is None and not run.approving.terminal
    return waits and not hasattr(getattr(agent, "executor_class", None), "_invoke_loop")


def _plain(provider: Any) -> Any:
    return provider.inner if isinstance(provider, RunProvider) else provider


class _Terminal(SyncHumanInputProvider):
    """CrewAI's own, which off a terminal takes the end of its input for approval."""

    async def _prompt_input_async(self, crew: Any) -> str:  # type: ignore[override]
        if sys.stdin is not None and sys.stdin.isatty():
            return await super()._prompt_input_async(crew)
        return await asyncio.to_thread(self._prompt_input, crew)


class RunProvider(HumanInputProvider):
    """In front of the provider that is in force.

    Attributes:
        inner: The provider.
    """

    def __init__(self, run: Run, inner: Any) -> None:
        self._run = run
        self.inner = inner

    def setup_messages(self, context: Any) -> bool:
        """As the provider does."""
        return bool(self.inner.setup_messages(context))

    def post_setup_messages(self, context: Any) -> None:
        """As the provider does."""
        self.inner.post_setup_messages(context)

    def handle_feedback(self, formatted_answer: Any, context: Any) -> Any:
        """Repeat what is recorded, then have the provider ask."""
        if context._is_training_mode():
            return self.inner.handle_feedback(formatted_answer, context)
        if is_unheard(context.agent, self._run):
            context.ask_for_human_input = False
            return formatted_answer
        rounds, answer = _Rounds(self._run, context), formatted_answer
        while not rounds.begin(answer):
            answer = context._invoke_loop()
        while rounds.accepted is None and self._waits:
            if not rounds.decided():
                rounds.begin(context._invoke_loop())
        if rounds.accepted is not None:
            return rounds.accepted
        with self._refusing(context, rounds):
            final = self._asks().handle_feedback(rounds.answer, _Listening(context, rounds))
            return rounds.accept(final)

    async def handle_feedback_async(self, formatted_answer: Any, context: Any) -> Any:
        """Repeat what is recorded, then have the provider ask."""
        if context._is_training_mode():
            return await self.inner.handle_feedback_async(formatted_answer, context)
        if is_unheard(context.agent, self._run):
            context.ask_for_human_input = False
            return formatted_answer
        rounds, answer = _Rounds(self._run, context), formatted_answer
        while not rounds.begin(answer):
            answer = await context._ainvoke_loop()
        while rounds.accepted is None and self._waits:
            if not await in_thread(rounds.decided):
                rounds.begin(await context._ainvoke_loop())
        if rounds.accepted is not None:
            return rounds.accepted
        with self._refusing(context, rounds):
            listening = _Listening(context, rounds)
            final = await self._asks().handle_feedback_async(rounds.answer, listening)
            return await in_thread(rounds.accept, final)

    @property
    def _waits(self) -> bool:
        """Whether the run waits for an answer, instead of asking on the terminal."""
        return is_default(self.inner) and not self._run.approving.terminal

    def _asks(self) -> Any:
        return _Terminal() if is_default(self.inner) else self.inner

    @contextmanager
    def _refusing(self, context: Any, rounds: _Rounds) -> Iterator[None]:
        """Nobody there to be asked pauses the run; nothing that was paid for is lost by it."""
        try:
            yield
        except EOFError as error:
            refusal = self._run.stop(
                RunPaused(
                    "A person's feedback is asked for, and there is no terminal to ask on.",
                    task=getattr(context.task, "name", None),
                    agent=getattr(context.agent, "role", None),
                    reason="approval",
                )
            )
            raise StopRun(refusal) from error
        except CrewProdError as refusal:
            raise StopRun(refusal) from refusal
        except Exception as error:
            rounds.fail(error)
            raise


@dataclass(slots=True)
class _Rounds:
    """The rounds of one answer and feedback: `ticket` is the question that is open, if one is."""

    run: Run
    context: Any
    answer: Any = None
    accepted: Any = None
    ticket: Ticket | None = None
    said: int = 0
    """Messages of the conversation when the question was asked."""

    def begin(self, answer: Any) -> bool:
        """An answer is shown. False if the agent is to go on with the feedback recorded of it.

        Raises:
            StopRun: The run was stopped.
        """
        self.answer, self.said = answer, len(self.context.messages)
        shown = {"answer": answer.output}
        try:
            self.ticket = self.run.begin_tool(
                scope_of(self.run, self.context.task), "feedback", shown, _ASKED, StepKind.HUMAN
            )
        except CrewProdError as refusal:
            raise StopRun(refusal) from refusal
        if self.ticket.recorded is None:
            return True
        return self._repeat(self.ticket.recorded)

    def _repeat(self, record: StepRecord) -> bool:
        said = orjson.loads(record.result or "{}")
        if "messages" in said:
            self.context.messages.extend(codec.from_tree(said["messages"]))
            return False
        self.context.ask_for_human_input = False
        self.accepted = self.answer
        if "output" in said:
            task = self.context.task
            kinds = [getattr(task, name, None) for name in _STRUCTURES]
            output = decode_answer(said["output"], kinds)
            self.accepted = AgentFinish(thought=said["thought"], output=output, text=said["text"])
        return True

    def decided(self) -> bool:
        """Do as a person has decided. False if the agent is to go on with their feedback.

        Raises:
            StopRun: Nobody has yet, and the run waits; or it was stopped.
        """
        ticket = self.ticket
        assert ticket is not None
        with refusing():
            decision = self.run.approving.ask(
                ticket.scope,
                kind=HUMAN_INPUT,
                why="declared",
                about=ticket.step_id,
                step_id=ticket.step_id,
                arguments=ticket.arguments,
            )
            if decision.approved:
                self.context.ask_for_human_input = False
                self.accepted = self.accept(self._edited(decision.edited))
                return True
            note = decision.note or "A person has rejected this answer."
            self.context.messages.append(self.context._format_feedback_message(note))
            self.feed_back()
            return False

    def _edited(self, edited: Any) -> Any:
        if edited is None:
            return self.answer
        text = as_text(edited)
        return AgentFinish(thought=self.answer.thought, output=text, text=text)

    def feed_back(self) -> None:
        """Commit what a person's feedback added to the conversation."""
        added = self.context.messages[self.said :]
        self._commit({"messages": codec.to_tree(list(added))})

    def fail(self, error: Exception) -> None:
        """Commit that the question failed, unless it was something else that did.

        Raises:
            StopRun: It could not be committed.
        """
        ticket, self.ticket = self.ticket, None
        if ticket is not None and not isinstance(error, Passing):
            try:
                self.run.fail_tool(ticket, describe(error))
            except CrewProdError as refusal:
                raise StopRun(refusal) from refusal

    def accept(self, final: Any) -> Any:
        """Commit the answer that counts."""
        if final is self.answer:
            self._commit({"accepted": True})
        else:
            output, _ = encode_answer(final.output)
            text = {"thought": final.thought, "text": final.text}
            self._commit({"output": output, **codec.to_tree(text)})
        return final

    def _commit(self, said: dict[str, Any]) -> None:
        ticket, self.ticket = self.ticket, None
        if ticket is not None and ticket.recorded is None:
            self.run.finish_tool(ticket, orjson.dumps(said).decode(), None)


_STRUCTURES = ("output_pydantic", "response_model", "output_json")


class _Listening:
    """An executor as a provider sees it; that it goes on is noticed first."""

    __slots__ = ("_context", "_rounds")

    def __init__(self, context: Any, rounds: _Rounds) -> None:
        object.__setattr__(self, "_context", context)
        object.__setattr__(self, "_rounds", rounds)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._context, name, value)

    def _invoke_loop(self) -> Any:
        self._rounds.feed_back()
        answer = self._context._invoke_loop()
        self._rounds.begin(answer)
        return answer

    async def _ainvoke_loop(self) -> Any:
        await in_thread(self._rounds.feed_back)
        answer = await self._context._ainvoke_loop()
        self._rounds.begin(answer)
        return answer
