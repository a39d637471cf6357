"""Every error of the package, in one tree: one class for each thing someone can act on.

The first sentence of a class's docstring is its default message; the rest says what to do next.
Facts travel in fields (`error.run_id`, `error.fields`), the original exception in `__cause__`.
`retryable` says whether the same call may succeed if it is simply made again; `actor` says who can
make it succeed.

    CrewProdError
      UsageError                 wrong configuration, or a value that cannot be stored
      RunError
        RunInUse                 another process or thread owns the run
        RunMismatch              the run id belongs to other inputs or another kind of run
        RunNotFound              no run of this id in the journal
        DefinitionChanged        the crew is not the one the run was started with
        RunCancelled             somebody cancelled the run
        RunInterrupted           the process was asked to end
        RunPaused                the run waits for a person
          ApprovalRequired       it waits for a person's word on something it is about to do
        ApprovalNotFound         no question of this number is in the journal
        ApprovalClosed           a question that was answered, or is not open any more
        AnswerNotAllowed         somebody who may not answer this question has answered it
        EscalationRejected       a person was asked whether it is to go on, and said no
        ReplayOnly               a finished run was asked for something it does not hold
        RouteFailed              a rule that chooses the model of a call could not
      JournalError
        JournalUnavailable       it cannot be opened, read or written now
        SchemaTooNew             it was written by a newer version of this package
        StaleOwner               this process lost the run to another one
        Corrupt                  the file is not a journal, or is damaged
      ToolError
        ToolInputInvalid         the arguments are not what the tool takes
        ToolOutputInvalid        the result is not what the tool says it returns
        ToolTimeout              a tool did not return in time
        ToolUnavailable          what a tool needs is not there now
        ToolRejected             a call that is not allowed (any more)
          ApprovalRejected       a call that a person has rejected
        ToolCrashed              a tool raised something it does not document
        ToolFailed               a tool that had to succeed failed, and nothing made it good
        ToolOutcomeUnknown       a tool may or may not have acted (a `RunPaused`)
        UnverifiedToolClaim      an answer tells of a tool call that was never made
      ModelError                 a model call failed
        RateLimited              the provider asks to wait
        ModelTimeout             no answer came in time
        ModelUnavailable         the provider failed, was not reached, or sent garbage
        ContextOverflow          the conversation is longer than the model can read
        EmptyResponse            the model answered nothing
        ModelRejected            the provider refuses: key, quota, policy or a wrong request
      LimitError
        BudgetExceeded           the next call would pass a limit that the run was given
        BudgetPaused             the same, and the run waits for a person (a `RunPaused`)
        DeadlineExceeded         an agent's `max_execution_time` is over
        LoopDetected             an agent makes calls that lead nowhere, and does not stop
        ModelUnpriced            nobody knows what a model costs, and such models are not called
      GuardError
        GuardRejected            a value was checked, and may not pass
        GuardUnavailable         a value could not be checked; that does not make it bad
      OutputInvalid              the answer is not in the form that the task asks for
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Literal

Actor = Literal["model", "developer", "operator"]


class CrewProdError(Exception):
    """Something went wrong in crewai-prod.

    Args:
        message: What happened, for a person. Default: the first sentence of the class's docstring.
        run_id: The run it happened in, if there was one.
        task: Name or position of the task.
        agent: Role of the agent.
        step_id: The step.
        outputs: Outputs of the tasks that had finished, in order.
        resume: The command or call that continues the run.
        **fields: Facts that belong to this class of error, readable as attributes of `fields`.
    """

    retryable: ClassVar[bool] = False
    actor: ClassVar[Actor] = "developer"

    def __init__(
        self,
        message: str | None = None,
        *,
        run_id: str | None = None,
        task: str | None = None,
        agent: str | None = None,
        step_id: str | None = None,
        outputs: tuple[Any, ...] = (),
        resume: str | None = None,
        **fields: Any,
    ) -> None:
        self.message = message or default_message(type(self))
        self.run_id = run_id
        self.task = task
        self.agent = agent
        self.step_id = step_id
        self.outputs = outputs
        self.resume = resume
        self.fields = fields
        super().__init__(self.message)

    def __str__(self) -> str:
        """The message, then where it happened, then the way out."""
        where = ", ".join(
            f"{name} {value!r}"
            for name, value in (
                ("run", self.run_id),
                ("task", self.task),
                ("agent", self.agent),
                ("step", self.step_id),
            )
            if value is not None
        )
        lines = [f"{self.message} ({where})" if where else self.message]
        if "approve" in self.fields:
            lines.append(f"Answer with: {self.fields['approve']}")
            lines.append(f"         or: {self.fields['reject']}")
        if self.resume:
            lines.append(f"Continue with: {self.resume}")
        return "\n".join(lines)

    def facts(self) -> dict[str, Any]:
        """The error as plain values for logs, the journal and `--json`."""
        return {
            "type": type(self).__name__,
            "message": self.message,
            "retryable": self.retryable,
            "actor": self.actor,
            "task": self.task,
            "agent": self.agent,
            "step_id": self.step_id,
        }


def default_message(kind: type[BaseException]) -> str:
    """The first sentence of the class's docstring, on one line."""
    text = " ".join((inspect.getdoc(kind) or kind.__name__).split())
    return text.split(". ")[0].rstrip(".") + "."


class UsageError(CrewProdError):
    """The configuration or a value given to crewai-prod is wrong."""


class RunError(CrewProdError):
    """The run cannot be started or continued like this."""


class RunInUse(RunError):
    """Another process or thread is advancing this run right now.

    Wait until it ends, or use another run id. A dead owner on the same host is taken over at once,
    one on another host when its lease has run out.
    """

    retryable: ClassVar[bool] = True
    actor: ClassVar[Actor] = "operator"


class RunMismatch(RunError):
    """This run id already belongs to a run with other inputs. Use a new run id for new inputs."""


class RunNotFound(RunError):
    """The journal holds no run of this id. `crewai-prod runs` lists those it holds."""

    actor: ClassVar[Actor] = "operator"


class DefinitionChanged(RunError):
    """The crew's definition has changed since this run was started.

    Choose: `on_change="rerun"` executes the changed tasks and those that read them again,
    `on_change="keep"` accepts the stored outputs. `fields["changed"]` names tasks and parts.
    """


class RunCancelled(RunError):
    """The run was cancelled before its next step. It can be resumed."""

    actor: ClassVar[Actor] = "operator"


class RunInterrupted(RunError):
    """The process was asked to end; the run stopped after its current step. It can be resumed."""

    actor: ClassVar[Actor] = "operator"


class ReplayOnly(RunError):
    """The run is finished, and this step is not among those it holds.

    The code in the `open_run` block has changed since, or it asks for something else each time. Use
    a new run id to do it.
    """


class RunPaused(RunError):
    """The run is paused and waits for an answer. `fields["reason"]` says for what."""

    actor: ClassVar[Actor] = "operator"


class EscalationRejected(RunError):
    """A person was asked whether the run is to go on, and said no. It ended before its next call.

    Resumed with another `escalation`, or with none, it goes on at that call. Fields: `id` (of the
    question), `why`, `note` and `by`.
    """

    actor: ClassVar[Actor] = "operator"


class RouteFailed(RunError):
    """A rule that chooses the model of a call raised, or named no model. Nobody was asked.

    Mend the rule (`fields["rule"]`), then resume the run: it goes on at that call.
    """


class ApprovalRequired(RunPaused):
    """A person has to say whether this may be done. Nothing of it has happened yet.

    Answer with the command `fields["approve"]` or `fields["reject"]`, with `crewai_prod.approve` or
    `crewai_prod.reject`, then resume the run: it goes on at that step. Fields: `id` (of the
    question), `kind`, `why`, `tool`, `arguments` (JSON, without secrets), `who` and `expires_at`.
    """


class ApprovalNotFound(RunError):
    """The journal holds no question of this number. `crewai-prod approvals` lists those it does."""

    actor: ClassVar[Actor] = "operator"


class ApprovalClosed(RunError):
    """The question is not open any more. This answer changes nothing.

    Somebody has answered it (`fields["verdict"]`, `fields["by"]`), nobody did in time and its
    default counts, or its run has ended.
    """

    actor: ClassVar[Actor] = "operator"


class AnswerNotAllowed(RunError):
    """Whoever answered is not among those who may. The question is still open."""

    actor: ClassVar[Actor] = "operator"


class JournalError(CrewProdError):
    """The journal cannot do what was asked."""

    actor: ClassVar[Actor] = "operator"


class JournalUnavailable(JournalError):
    """The journal cannot be opened, read or written; the run was stopped before its next effect.

    Free disk space, mend the permissions or end whoever holds the lock, then resume the run.
    """

    retryable: ClassVar[bool] = True


class SchemaTooNew(JournalError):
    """The journal was written by a newer crewai-prod. Upgrade crewai-prod, or use another file."""


class StaleOwner(JournalError):
    """This process no longer owns the run: another one took it over. Nothing was written."""


class Corrupt(JournalError):
    """The file is damaged or is no journal. Restore it from a backup, or use another file."""


class ToolError(CrewProdError):
    """A tool call failed."""

    actor: ClassVar[Actor] = "model"


class ToolInputInvalid(ToolError):
    """The arguments of a call are not what the tool takes. Nothing was done.

    The model is told which field, what is expected and what it gave, and may correct itself.
    """


class ToolOutputInvalid(ToolError):
    """What a tool returned is not what it says it returns. Whatever it does has been done.

    Mend the tool, or its return annotation or `result_schema`.
    """

    actor: ClassVar[Actor] = "developer"


class ToolTimeout(ToolError):
    """A tool did not return in time. It may still be at work."""

    retryable: ClassVar[bool] = True
    actor: ClassVar[Actor] = "operator"


class ToolUnavailable(ToolError):
    """What a tool needs is not there now. Raise it in a tool to say: nothing was done, try again.

    It is retried also for a tool that writes: whoever raises it says that nothing happened.
    """

    retryable: ClassVar[bool] = True
    actor: ClassVar[Actor] = "operator"


class ToolRejected(ToolError):
    """This call is not allowed: the tool may be called so often and no more, or not at all now."""


class ApprovalRejected(ToolRejected):
    """A person has rejected this call. Nothing was done. Go on without it, or do as they say."""


class ToolCrashed(ToolError):
    """A tool raised an exception. The original is chained."""


class ToolFailed(ToolError):
    """A tool that had to succeed failed in a task, and the task was finished without it.

    The answer of that task is not handed over as a success. Look at the cause, then resume the run:
    the task is taken up again at the call that failed.
    """

    actor: ClassVar[Actor] = "operator"


class ToolOutcomeUnknown(RunPaused):
    """A tool that acts on the world was started, and whether it acted is not known.

    Look whether the effect happened, then resume with `--unknown RESULT` (it did, with this
    result), `--unknown rerun` (it did not) or `--unknown fail` (tell the model that it failed).
    """


class UnverifiedToolClaim(ToolError):
    """An answer tells of a tool call that was never made, and the model would not take it back.

    `fields["tools"]` names the tools that the task requires and that were not called.
    """

    actor: ClassVar[Actor] = "operator"


class ModelError(CrewProdError):
    """A model call failed.

    `fields["attempts"]` says how often it was tried.
    """

    retryable: ClassVar[bool] = True
    actor: ClassVar[Actor] = "operator"


class RateLimited(ModelError):
    """The provider asks to wait. `fields["retry_after"]` says how many seconds, if it does.

    Ask for a higher limit, or let fewer runs go side by side.
    """


class ModelTimeout(ModelError):
    """The model did not answer in time. It may have worked, and billed, all the same."""


class ModelUnavailable(ModelError):
    """The provider failed, could not be reached, or sent something that is no answer.

    Resume the run when it is there again, or name a fallback model.
    """


class ContextOverflow(ModelError):
    """The conversation is longer than the model can read.

    Use a model with a larger context window, set `respect_context_window=True` on the agent so that
    CrewAI summarizes, or have the tools return less.
    """

    retryable: ClassVar[bool] = False
    actor: ClassVar[Actor] = "developer"


class EmptyResponse(ModelError):
    """The model answered nothing."""


class ModelRejected(ModelError):
    """The provider refuses the call. `fields["kind"]` is `auth`, `quota`, `policy` or `request`.

    Making the same call again changes nothing: renew the key, pay the bill, change the prompt, or
    mend the model's name and parameters; then resume the run.
    """

    retryable: ClassVar[bool] = False


class LimitError(CrewProdError):
    """The run has reached a limit that it was given."""

    actor: ClassVar[Actor] = "operator"


class BudgetExceeded(LimitError):
    """The next call would pass a limit that was set. It was not made.

    Raise the limit and resume the run: it goes on at that call, and what is finished stays so.
    Fields: `limit` (`max_usd`, ...), `most`, `spent`, `left` and `scope` (whose budget it is).
    """


class BudgetPaused(RunPaused, BudgetExceeded):
    """The next call would pass a limit that was set, and the run waits for a person to raise it."""


class DeadlineExceeded(LimitError, TimeoutError):
    """The time that an agent may take for a task (`max_execution_time`, in seconds) is over.

    What was done until then is recorded. A resumed run goes on from there with the whole time.
    """


class LoopDetected(LimitError):
    """An agent calls a tool in a loop, and went on after it was told and the tool was withheld.

    Look at its last steps, mend the task or the tool, and start a new run; or resume this one with
    the tool declared `polling`, or with other `loops`, if the calls do make sense. Fields: `kind`
    (`exact`, `ping_pong`, `no_progress` or `varied`), `tool`, `calls`.
    """


class ModelUnpriced(LimitError):
    """No price is known for the model, and `on_unpriced` is `fail`: it was not called.

    Give its rates with `prices={"the model": {"input": 0.15, "output": 0.60}}` (US dollars per
    million tokens; 0 if it is your own). Without a budget in money `on_unpriced="warn"` allows it.
    Fields: `provider`, `model`.
    """


class GuardError(CrewProdError):
    """A check said no, or could not be made."""

    actor: ClassVar[Actor] = "operator"


class GuardRejected(GuardError, ValueError):
    """A value was checked and may not pass; an answer not after all the tries that it was allowed.

    `fields["attempts"]` says how many answers were checked: resuming asks for the last one anew. If
    a guard (`fields["guard"]`, at `fields["place"]`) rejects what is no model's answer, it has
    spoken: resume with a new version of it. It is a `ValueError` because that is what CrewAI raises
    for an agent that is kicked off by itself.
    """


class GuardUnavailable(GuardError):
    """A value could not be checked. That does not make it bad: resume to check it again.

    `fields["guard"]` names the guard, if it is one that `harden` was given.
    """

    retryable: ClassVar[bool] = True


class OutputInvalid(CrewProdError):
    """The answer is not in the form that the task asks for, after all tries to have it mended.

    `fields["attempts"]` says how many there were, `fields["text"]` what the model said last.
    """

    actor: ClassVar[Actor] = "operator"
