"""A hardened agent: every `Agent.kickoff` is a run of one task, or a part of the run around it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from crewai import Agent
from crewai.lite_agent_output import LiteAgentOutput

from crewai_prod import codec
from crewai_prod._crewai.adoption import listen
from crewai_prod._crewai.agents import in_kickoff
from crewai_prod._crewai.asked import Asked
from crewai_prod._crewai.build import Workshop, give_back_agent
from crewai_prod._crewai.cancellable import Cancellable
from crewai_prod._crewai.definition import define_agent
from crewai_prod._crewai.guarded_ends import admitted, released
from crewai_prod._crewai.outputs import dump_model
from crewai_prod._crewai.side_by_side import undisturbed
from crewai_prod._crewai.stop import unwrapped
from crewai_prod._crewai.takeover import seam_of, take_over
from crewai_prod._crewai.usage import read_metrics
from crewai_prod.errors import ToolFailed
from crewai_prod.kickoff import Kickoff, place_around, whatever_happens, with_cause
from crewai_prod.options import Options
from crewai_prod.outcomes import UnknownPolicy
from crewai_prod.owing import demand
from crewai_prod.records import Usage
from crewai_prod.replay import Verdict
from crewai_prod.run import Run
from crewai_prod.run_core import recorded_usage
from crewai_prod.session import inputs_digest
from crewai_prod.steps import Scope, digest
from crewai_prod.terminating import SIGTERM
from crewai_prod.threads import in_thread

_THE_TASK = 0
"""An agent's run has one task: what it was asked."""


@dataclass(slots=True)
class FacadeSeam:
    """What a hardened agent knows."""

    options: Options
    original: Agent
    last_run: str | None = None


class HardenedAgent(Cancellable):
    """An agent whose every kickoff is a durable run.

    `kickoff`, `kickoff_async` and `akickoff` take `run_id`, `on_change` and `unknown`, as those of
    a hardened crew do, and raise the same errors. Within a crew it works as it did before.
    """

    def kickoff(
        self,
        messages: Any,
        *args: Any,
        run_id: str | None = None,
        on_change: str | None = None,
        unknown: UnknownPolicy | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run, resume, or return what the finished run returned.

        On an event loop it returns a coroutine, as CrewAI's own does: flows await it.
        """
        asked = _Asked(run_id, on_change, unknown, messages, args, kwargs)
        if _on_a_loop():
            return _AgentWork.of(self, asked).run_async()
        return _AgentWork.of(self, asked).run_sync()

    async def kickoff_async(
        self,
        messages: Any,
        *args: Any,
        run_id: str | None = None,
        on_change: str | None = None,
        unknown: UnknownPolicy | None = None,
        **kwargs: Any,
    ) -> Any:
        """`kickoff` on the event loop; commits are made on worker threads."""
        asked = _Asked(run_id, on_change, unknown, messages, args, kwargs)
        SIGTERM.heed(seam_of(self).options.settings)
        work = await in_thread(_AgentWork.of, self, asked)
        return await work.run_async()

    async def akickoff(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        """The same as `kickoff_async`."""
        return await self.kickoff_async(messages, *args, **kwargs)

    @property
    def last_run(self) -> str | None:
        """Id of the run that finished last on this object."""
        seam: FacadeSeam = seam_of(self)
        return seam.last_run


def harden_agent(agent: Agent, options: Options) -> Agent:
    """A hardened agent that shares its model and tools with the one given."""
    return take_over(agent, HardenedAgent, FacadeSeam(options, agent))


@dataclass(frozen=True, slots=True)
class _Asked(Asked):
    """What a kickoff of an agent was asked for: `inputs` are its messages."""

    checkpoint_at = 2

    @property
    def response_format(self) -> Any:
        return self.argument("response_format", 0)

    @property
    def files(self) -> dict[str, Any]:
        """The files that came with it, by name."""
        given = self.inputs if isinstance(self.inputs, list) else []
        listed = [one for one in given if isinstance(one, dict)]
        found: dict[str, Any] = {}
        for files in (*(one.get("files") for one in listed), self.argument("input_files", 1)):
            found |= files or {}
        return found

    @property
    def meant(self) -> dict[str, Any]:
        files = self.argument("input_files", 1)
        return {"messages": self.inputs, **({"input_files": files} if files else {})}


@dataclass(slots=True, kw_only=True)
class _AgentWork:
    """One kickoff of a hardened agent."""

    facade: Any
    seam: FacadeSeam
    asked: _Asked
    agent: Any
    run: Run
    scope: Scope
    kickoff: Kickoff | None
    """None: the kickoff belongs to the run around it."""
    run_id: str | None = None

    @classmethod
    def of(cls, facade: Any, asked: _Asked) -> _AgentWork:
        listen()
        seam: FacadeSeam = seam_of(facade)
        around = place_around()
        if around is not None and asked.run_id is None:
            run, place = around
            meant = digest(codec.meaning([_fingerprint(facade, asked), asked.meant]))
            scope, kickoff = run.nest(place, facade.role, meant), None
            run.braking.brakes.join(
                seam.options.budgets, of=f"agent/{facade.role}", path=scope.path
            )
            run.routing.join(seam.options.routes, scope.path)
            run.escalating.join(seam.options.escalation, scope.path)
            run.guarding.join(seam.options.guards, name=facade.role, path=scope.path)
        else:
            options = seam.options.for_kickoff(asked.on_change, asked.unknown)
            run, scope = Run(options.open_journal(), options.tools, options.retry), Scope()
            kickoff = Kickoff(
                run=run, options=options, kind="agent", name=facade.role, run_id=asked.run_id
            )
        with undisturbed():
            agent = Workshop(run, seam.options.tools, scope).agent(facade)
        return cls(
            facade=facade,
            seam=seam,
            asked=asked,
            agent=agent,
            run=run,
            scope=scope,
            kickoff=kickoff,
        )

    def run_sync(self) -> Any:
        failure: BaseException
        try:
            stored = self._open()
            if stored is not None:
                return stored
            asked = self._admitted()
            with in_kickoff(self.run, self._scope()):
                result = self.agent.kickoff(asked, *self.asked.args, **self.asked.kwargs)
        except BaseException as error:  # noqa: BLE001 - whatever ends a run is recorded, then raised
            failure = unwrapped(error)
        else:
            return self._finish(result)
        raise with_cause(self._ended(failure), failure)

    async def run_async(self) -> Any:
        failure: BaseException
        try:
            stored = await in_thread(self._open)
            if stored is not None:
                return stored
            asked = self.asked.inputs
            if self.run.guarding.on:
                asked = await self.run.guarding.in_thread(self._admitted)
            with in_kickoff(self.run, self._scope()):
                work: Callable[..., Awaitable[Any]] = self.agent.kickoff_async
                result = await work(asked, *self.asked.args, **self.asked.kwargs)
        except BaseException as error:  # noqa: BLE001 - as in `run_sync`
            failure = unwrapped(error)
        else:
            return await self.run.guarding.in_thread(self._finish, result)
        raise with_cause(await whatever_happens(_AgentWork._ended, self, failure), failure)

    @property
    def _path(self) -> str | None:
        """Whose guards judge what goes in and comes out; None: the run's own."""
        return self.scope.path if self.kickoff is None else None

    def _admitted(self) -> Any:
        """The messages as guards let them pass; they are given as the input `messages`."""
        asked = self.asked.inputs
        passed = admitted(self.run, self.scope, self._path, {"messages": asked})
        return (passed or {}).get("messages", asked)

    def _scope(self) -> Scope:
        place = self.scope if self.kickoff is None else self.run.scope_of_task(_THE_TASK)
        return place.of_agent(self.agent.role)

    def _open(self) -> Any:
        """Open the run; the stored output of a finished one, else None."""
        if self.kickoff is None:
            self.run.check()
            return None
        definition = define_agent(
            self.facade, inputs_digest(self.asked.meant), self.asked.response_format
        )
        opened = self.kickoff.open(self.asked.meant, [definition])
        self.run_id = opened.run.run_id
        if opened.lease is None:
            journal, run_id = self.run.journal, opened.run.run_id
            usage = recorded_usage(journal.steps(run_id), journal.attempts(run_id))
            self.seam.last_run = run_id
            return decode_agent_output(opened.run.result or "{}", self.asked, usage)
        if self.run.plans[_THE_TASK].verdict is Verdict.KEEP:
            record = self.run.keep_task(_THE_TASK)
            return self._finish_stored(record.output or "{}")
        self.run.begin_task(_THE_TASK, self.facade.role)
        return None

    def _finish_stored(self, output: str) -> Any:
        assert self.kickoff is not None
        self.kickoff.complete(output)
        self._show()
        return decode_agent_output(output, self.asked, self.run.usage)

    def _finish(self, result: LiteAgentOutput) -> LiteAgentOutput:
        """Commit the output; only then is it handed over, as guards let it pass."""
        self._show()
        if self.run.stopped is None:
            bench, role = seam_of(self.agent).bench, self.agent.role
            with suppress(ToolFailed):  # it is stored on the run, and raised below
                demand(self.run, self._scope(), role, bench.declared, bench.declared)
        try:
            self.run.check()
            result = released(self.run, self.scope, self._path, result)
        except BaseException as error:
            if self.kickoff is None:
                raise
            seen = with_cause(self._fail(error), error)
            raise seen from seen.__cause__
        usage = self.run.usage if self.kickoff is not None else self.run.usage_within(self.scope)
        result.usage_metrics = read_metrics(usage).model_dump()
        if self.kickoff is None:
            return result
        output = encode_agent_output(result)
        self.run.finish_task(_THE_TASK, self.agent.role, output)
        self.kickoff.complete(output)
        return result

    def _ended(self, error: BaseException) -> BaseException:
        return self._fail(error) if self.run.opened else error

    def _fail(self, error: BaseException) -> BaseException:
        self._show()
        if self.kickoff is None:
            if not isinstance(error, Exception):
                return error
            if self.run.stopped is None:  # no fault of the answer
                self.run.distrust_last_answer(self.scope)
            return self.run.stopped or error
        if isinstance(error, Exception) and self.run.stopped is None:
            self.run.fail_task(_THE_TASK, self.agent.role, error, of_last_answer=True)
        return self.kickoff.fail(error)

    def _show(self) -> None:
        with undisturbed():
            self.seam.last_run = self.run_id or self.seam.last_run
            for held in (self.facade, self.seam.original):
                give_back_agent(self.agent, held)


def _fingerprint(agent: Any, asked: _Asked) -> str:
    definition = define_agent(agent, inputs_digest(asked.meant), asked.response_format)
    return definition.fingerprint


def encode_agent_output(output: LiteAgentOutput) -> str:
    """An agent's output as JSON.

    Its structured form stands apart, to become the caller's class again. Of the files in its
    messages only the names are kept: whoever asks for the run again brings the files.
    """
    apart = {"pydantic", "usage_metrics", "messages"}
    data = output.model_dump(mode="json", exclude=apart)
    data["messages"] = [
        {**message, "files": list(message["files"])} if message.get("files") else message
        for message in output.messages
    ]
    structured = None if output.pydantic is None else dump_model(output.pydantic)
    return codec.encode({"output": data, "pydantic": structured})


def decode_agent_output(text: str, asked: _Asked, usage: Usage) -> LiteAgentOutput:
    """The output as the kickoff returned it."""
    stored: Mapping[str, Any] = codec.decode(text)
    data, files = stored["output"], asked.files
    for message in data["messages"]:
        if message.get("files"):
            message["files"] = {name: files[name] for name in message["files"] if name in files}
    output = LiteAgentOutput.model_validate(data)
    output.usage_metrics = read_metrics(usage).model_dump()
    if stored["pydantic"] is not None and asked.response_format is not None:
        output.pydantic = asked.response_format.model_validate(stored["pydantic"])
    return output


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
