"""The guards before and after a model call.

What is recorded is what CrewAI asked and what the model said; the guards stand between the record
and both. An answer that is on record was asked for: only what is about to be sent is judged before.
An answer that is rejected goes back with the reason, in a conversation of its own that CrewAI does
not see: each further answer is a step like any other. After a bounded number the run stops, and
resuming it asks for the last answer anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import orjson
from pydantic import BaseModel

from crewai_prod import codec, complaints
from crewai_prod._crewai.stop import StopRun, refusing
from crewai_prod.guarding import MOST_REJECTIONS, At, Refusal
from crewai_prod.guards import Place

if TYPE_CHECKING:
    from crewai_prod._crewai.model_call import AsyncWork, ModelCall, Work
    from crewai_prod.walk import Ticket

PLACES: Final[tuple[Place, Place]] = ("model_input", "model_output")


@dataclass(frozen=True, slots=True)
class _Passed:
    """An answer that may be seen."""

    answer: Any


@dataclass(slots=True)
class GuardedCall:
    """One model call among guards, with what follows from it."""

    call: ModelCall
    attempts: int = 0

    def answer(self, work: Work, *, alone: bool = False) -> Any:
        """The answer that the guards let pass.

        Raises:
            StopRun: They do not, or the run was stopped.
        """
        while True:
            ticket = self.call.begin()
            answer = self.admitted(ticket).made(ticket, work, alone=alone)
            passed = self.judged(ticket, answer)
            if passed is not None:
                return passed.answer

    async def aanswer(self, work: AsyncWork) -> Any:
        """`answer` on an event loop."""
        guarding = self.call.run.guarding
        while True:
            ticket = self.call.begin()
            admitted = await guarding.in_thread(self.admitted, ticket)
            answer = await admitted.amade(ticket, work)
            passed = await guarding.in_thread(self.judged, ticket, answer)
            if passed is not None:
                return passed.answer

    def admitted(self, ticket: Ticket) -> ModelCall:
        """The call as it may be made."""
        if ticket.recorded is not None:
            return self.call
        asked = [dict(message) for message in self.call.messages]
        with refusing():
            passed = self.call.run.guarding.require("model_input", asked, self._at(ticket))
        return self.call if passed is asked else replace(self.call, messages=passed, sent=passed)

    def judged(self, ticket: Ticket, answer: Any) -> _Passed | None:
        """The answer as it may be seen; None: it was rejected, and the model is to be told."""
        guarding, at = self.call.run.guarding, self._at(ticket)
        said = told(answer)
        try:
            with refusing():
                passed = guarding.judge("model_output", said, at)
        except Refusal as refusal:
            self._send_back(refusal, said, at)
            return None
        if passed is said:
            return _Passed(answer)
        try:
            return _Passed(changed(answer, passed))
        except (ValueError, TypeError) as error:
            why = f"it does not fit the answer ({type(error).__name__})."
            raise StopRun(guarding.unusable("model_output", at, why)) from error

    def _at(self, ticket: Ticket) -> At:
        record = ticket.recorded  # a drifted request is answered by another step
        step = ticket.step_id if record is None else record.step_id
        return At(scope=ticket.scope, step_id=step, model=self.call.model)

    def _send_back(self, refusal: Refusal, said: Any, at: At) -> None:
        """Go on in the conversation.

        Raises:
            StopRun: The model was told often enough.
        """
        run, scope = self.call.run, self.call.scope
        self.attempts += 1
        run.setbacks.rejected(scope)
        if self.attempts > MOST_REJECTIONS:
            run.have_redone([at.step_id] if at.step_id else [])
            raise StopRun(run.guarding.rejected(refusal, at, self.attempts))
        run.log.answer_rejected(
            why="guard",
            attempt=self.attempts,
            message=f"Guard {refusal.guard} rejects it.",
            task=scope.task_name,
            agent=scope.agent,
        )
        text = said if isinstance(said, str) else "\n".join(map(_in_words, said))
        messages = [
            *self.call.messages,
            {"role": "assistant", "content": text},
            {"role": "user", "content": complaints.rejected(refusal.reason)},
        ]
        self.call = replace(self.call, messages=messages, sent=messages)


def told(answer: Any) -> Any:
    """An answer as guards are given it: text, or tool calls by name and arguments."""
    if isinstance(answer, str):
        return answer
    if isinstance(answer, BaseModel):
        return answer.model_dump_json()
    if isinstance(answer, list):
        return [_call_of(item) for item in answer]
    text = getattr(answer, "text", None)
    return text if isinstance(text, str) else codec.text_of(answer)


def changed(answer: Any, value: Any) -> Any:
    """The answer with what guards have made of it.

    Raises:
        ValueError: It cannot be put into an answer of this form.
        TypeError: As well.
    """
    if isinstance(answer, str) and isinstance(value, str):
        return value
    if isinstance(answer, BaseModel) and isinstance(value, str):
        return type(answer).model_validate_json(value)
    if isinstance(answer, list) and isinstance(value, list) and len(answer) == len(value):
        pairs = zip(answer, value, strict=True)
        return [item if _call_of(item) == new else _with_call(item, new) for item, new in pairs]
    if isinstance(getattr(answer, "text", None), str) and isinstance(value, str):
        return replace(answer, text=value)
    raise ValueError(f"an answer of class {type(answer).__name__} cannot be {type(value).__name__}")


def _call_of(item: Any) -> dict[str, Any]:
    """A tool call of any provider."""
    function = item.get("function") if isinstance(item, Mapping) else None
    if isinstance(function, Mapping):
        return {"name": function.get("name"), "arguments": _read(function.get("arguments"))}
    if isinstance(item, Mapping):
        return {"name": item.get("name"), "arguments": item.get("input", item.get("arguments"))}
    function = getattr(item, "function_call", None)
    if function is None:
        return {"name": type(item).__name__, "arguments": codec.text_of(item)}
    return {"name": function.name, "arguments": dict(function.args or {})}


def _with_call(item: Any, new: Mapping[str, Any]) -> Any:
    name, arguments = new["name"], new["arguments"]
    function = item.get("function") if isinstance(item, Mapping) else None
    if isinstance(function, Mapping):
        said = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
        return {**item, "function": {**function, "name": name, "arguments": said}}
    if isinstance(item, Mapping):
        key = "input" if "input" in item else "arguments"
        return {**item, "name": name, key: arguments}
    if getattr(item, "function_call", None) is None:
        raise ValueError(f"a {type(item).__name__} is no tool call")
    function = item.function_call.model_copy(update={"name": name, "args": arguments})
    return item.model_copy(update={"function_call": function})


def _read(arguments: Any) -> Any:
    """Arguments as a tree, or as the text that a model wrote if that is no JSON."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments


def _in_words(call: Mapping[str, Any]) -> str:
    arguments = codec.meaning(call["arguments"]).decode()
    return f"{call['name']}({arguments})"
