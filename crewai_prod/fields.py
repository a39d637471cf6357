"""Every key and every event name that can stand in a log line, in one place.

Names that OpenTelemetry's GenAI conventions have are used as they are there; that registry is still
marked "development", and its cost attributes are only proposed, so a renaming touches this file and
`SCHEMA_VERSION` alone. All other names are ours. The SQL views use the same names with `_` for `.`.
"""

from __future__ import annotations

from typing import Final

SCHEMA_VERSION: Final = 1
"""Raised when a key or an event is renamed, removed or changes its meaning; additions leave it."""

# -- on every line --------------------------------------------------------------------------------

TS: Final = "ts"  # ours: time of writing, ISO 8601 in UTC with microseconds
LEVEL: Final = "level"  # ours: debug, info, warning or error
EVENT: Final = "event"  # OTel log EventName: one of the events below
SCHEMA: Final = "schema_version"  # ours: SCHEMA_VERSION of the writer
RUN_ID: Final = "run_id"  # ours: the run, as the user names it

# -- where in the run -----------------------------------------------------------------------------

TASK: Final = "task"  # ours: name of the task
TASK_POSITION: Final = "task.position"  # ours: position of the task in the crew, from 0
SCOPE: Final = "scope"  # ours: path of where in the run, such as tasks/0/Researcher
STEP_ID: Final = "step_id"  # ours: the step, as in the journal
STEP_KIND: Final = "step.kind"  # ours: model, tool, function or human
STEP_NAME: Final = "step.name"  # ours: name of a step that is neither a model's nor a tool's
ATTEMPT: Final = "attempt"  # ours: which try of the step, from 1
REPLAYED: Final = "replayed"  # ours: answered from the journal, nothing was sent or executed
EPOCH: Final = "epoch"  # ours: session of the run, from 1; each resume is a new one
STEPS: Final = "steps"  # ours: steps that the journal holds when a session begins
WORKFLOW_NAME: Final = "gen_ai.workflow.name"  # GenAI: name of the crew or flow
AGENT_NAME: Final = "gen_ai.agent.name"  # GenAI: the agent's role
OPERATION_NAME: Final = "gen_ai.operation.name"  # GenAI: one of the operations below

# -- how it went ----------------------------------------------------------------------------------

STATUS: Final = "status"  # ours: of the run or task, as in the journal
REASON: Final = "reason"  # ours: why a run is paused or degraded
MESSAGE: Final = "message"  # ours: a sentence for people, on warnings
DURATION_MS: Final = "duration_ms"  # ours: GenAI's operation duration, in milliseconds
ERROR_TYPE: Final = "error.type"  # OTel: class of the error, _OTHER if it is not known
ERROR_MESSAGE: Final = "error.message"  # ours: its text, with content only; it may quote arguments
ROUTED_FROM: Final = "route.from"  # ours: the model that was asked for
ROUTE_RULE: Final = "route.rule"  # ours: name of the rule that chose another one
ROUTE_REASON: Final = "route.reason"  # ours: why it held
FALLBACK_FROM: Final = "fallback.from"  # ours: the model that could not be had
REJECTED_WHY: Final = (
    "rejected.why"  # ours: claim (a tool was not called), output (its form) or guard
)
CALLBACK: Final = "callback"  # ours: which one it is: task, any task or step
RETRY_WAIT_MS: Final = "retry.wait_ms"  # ours: pause before the next try
DRIFT_RECORDED: Final = "drift.recorded"  # ours: digest of the request that history answers
DRIFT_ASKED: Final = "drift.asked"  # ours: digest of the request that was made now
DRIFT_PARTS: Final = "drift.parts"  # ours: what differs between the two
LOG_DROPPED: Final = "log.dropped"  # ours: lines of this run that could not be written

# -- model calls ----------------------------------------------------------------------------------

PROVIDER_NAME: Final = "gen_ai.provider.name"  # GenAI: see provider_name()
REQUEST_MODEL: Final = "gen_ai.request.model"  # GenAI: model that was asked for
RESPONSE_MODEL: Final = "gen_ai.response.model"  # GenAI: model that answered
RESPONSE_ID: Final = "gen_ai.response.id"  # GenAI: the provider's id of the answer
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"  # GenAI: list, one for each choice

# Usage stands on llm.call lines only, so that summing a key over a log gives the bill.
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"  # GenAI: includes the cached ones
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"  # GenAI: includes the reasoning ones
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"  # GenAI: read from a cache
CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_write.input_tokens"  # GenAI: written to a cache
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"  # GenAI: spent on reasoning

COST_AMOUNT: Final = "gen_ai.usage.cost.amount"  # GenAI, proposed: the call's price
COST_CURRENCY: Final = "gen_ai.usage.cost.currency"  # GenAI, proposed: ISO 4217
COST_SOURCE: Final = "gen_ai.usage.cost.source"  # GenAI, proposed: whose price it is
COST_STATUS: Final = "cost.status"  # ours: reported, priced, estimated or unpriced

# -- tool calls -----------------------------------------------------------------------------------

TOOL_NAME: Final = "gen_ai.tool.name"  # GenAI: name of the tool
TOOL_CALL_ID: Final = "gen_ai.tool.call.id"  # GenAI: the model's id of the call
TOOL_INVENTED_CHARS: Final = "tool.invented_chars"  # ours: length of what a model made up
TOOL_EFFECT: Final = "tool.effect"  # ours: read, write or nested

# -- content, on request only ---------------------------------------------------------------------

INPUT_MESSAGES: Final = "gen_ai.input.messages"  # GenAI: what the model was sent
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"  # GenAI: what the model answered
TOOL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"  # GenAI: arguments of a tool call
TOOL_RESULT: Final = "gen_ai.tool.call.result"  # GenAI: result of a tool call
RUN_INPUTS: Final = "run.inputs"  # ours: the inputs of the kickoff
TASK_OUTPUT: Final = "task.output"  # ours: the text of a finished task

# -- a task that took much more than it used to, on usage.alert -----------------------------------

ALERT_METRIC: Final = "alert.metric"  # ours: cost_usd, tokens or steps
ALERT_VALUE: Final = "alert.value"  # ours: what the task took in this run
ALERT_MEDIAN: Final = "alert.median"  # ours: what it took before, half of the runs less
ALERT_LIMIT: Final = "alert.limit"  # ours: from where on that is an outlier
ALERT_RUNS: Final = "alert.runs"  # ours: how many runs it is compared with

# -- a limit of which much is spent, on budget.warning --------------------------------------------

BUDGET_LIMIT: Final = "budget.limit"  # ours: its name, such as max_usd
BUDGET_MOST: Final = "budget.most"  # ours: its value
BUDGET_SPENT: Final = "budget.spent"  # ours: how much of it is spent
BUDGET_SCOPE: Final = "budget.scope"  # ours: on what it is: run, task, agent or label
APPROVAL_ID: Final = "approval.id"  # ours: of the question, as in the journal
APPROVAL_KIND: Final = "approval.kind"  # ours: what is asked about: tool, budget, guard ...
APPROVAL_WHY: Final = "approval.why"  # ours: what made it a question
APPROVAL_STATUS: Final = "approval.status"  # ours: answered or expired
APPROVAL_VERDICT: Final = "approval.verdict"  # ours: what was decided
APPROVAL_BY: Final = "approval.by"  # ours: who has answered
APPROVAL_EDITED: Final = "approval.edited"  # ours: whether they changed what was asked about

# -- calls that lead nowhere, on loop.detected ----------------------------------------------------

LOOP_KIND: Final = "loop.kind"  # ours: exact, ping_pong, no_progress or varied
LOOP_RUNG: Final = "loop.rung"  # ours: told, withheld or stopped
LOOP_CALLS: Final = "loop.calls"  # ours: how many calls of it were made, or rounds of two
# -- what a guard has said, on guard.verdict ------------------------------------------------------

GUARD_NAME: Final = "guard.name"  # ours: the guard
GUARD_VERSION: Final = "guard.version"  # ours: of its rules
GUARD_PLACE: Final = "guard.place"  # ours: where it judges, such as tool_call
GUARD_SAID: Final = "guard.said"  # ours: allow, modify, reject, escalate or unavailable
GUARD_REASON: Final = "guard.reason"  # ours: why, without secrets; with content only

# -- totals of a run, on run.finished -------------------------------------------------------------

TOTAL_LLM_CALLS: Final = "totals.llm_calls"  # ours: model calls that reported usage
TOTAL_TOOL_CALLS: Final = "totals.tool_calls"  # ours: tool calls executed
TOTAL_INPUT_TOKENS: Final = "totals.input_tokens"  # ours: sum over all sessions of the run
TOTAL_OUTPUT_TOKENS: Final = "totals.output_tokens"  # ours: sum over all sessions of the run
TOTAL_TOKENS: Final = "totals.tokens"  # ours: input plus output
TOTAL_COST: Final = "totals.cost_usd"  # ours: sum of the known costs over all sessions
TOTAL_UNPRICED: Final = "totals.unpriced_llm_calls"  # ours: calls whose price nobody knows
TOTAL_REPLAYED: Final = "totals.replayed_steps"  # ours: steps this session took from the journal
TOTAL_KEPT: Final = "totals.kept_tasks"  # ours: tasks that were not executed again
TOTAL_UNMETERED: Final = "totals.unmetered_llm_calls"  # ours: model calls whose cost is unknown

# -- events ---------------------------------------------------------------------------------------

RUN_STARTED: Final = "run.started"  # a run begins
RUN_RESUMED: Final = "run.resumed"  # a run goes on in a new session
RUN_FINISHED: Final = "run.finished"  # a session of the run ends, however it ends
TASK_STARTED: Final = "task.started"  # a task begins to execute
TASK_FINISHED: Final = "task.finished"  # a task was executed, well or not
TASK_KEPT: Final = "task.kept"  # a finished task's output is handed back unexecuted
LLM_CALL: Final = "llm.call"  # a model call was made
LLM_UNMETERED: Final = "llm.unmetered"  # a model call passed the run, and nobody said its cost
COST_UNPRICED: Final = "cost.unpriced"  # a model was called whose price nobody knows
USAGE_ALERT: Final = "usage.alert"  # a task took much more than it used to
TOOL_CALL: Final = "tool.call"  # a tool call was made
TOOL_INVENTED: Final = "tool.invented"  # what a model wrote in place of a tool's result was cut
ANSWER_REJECTED: Final = "answer.rejected"  # an answer went back to the model, with the reason
CALLBACK_FAILED: Final = "callback.failed"  # a callback that only observes raised; the run goes on
STEP_FINISHED: Final = "step.finished"  # another step (a function, a person) has answered
STEP_REPLAYED: Final = "step.replayed"  # a step was answered from the journal
STEP_DRIFT: Final = "step.drift"  # history answered a request that differs from the recorded one
LLM_ROUTED: Final = "llm.routed"  # a rule has chosen the model that is asked
LLM_FALLBACK: Final = "llm.fallback"  # another model is asked instead
RETRY: Final = "retry"  # a try failed and another one follows
WARNING: Final = "warning"  # something a person should know
BUDGET_WARNING: Final = "budget.warning"  # much of a limit is spent
LOOP_DETECTED: Final = "loop.detected"  # a call is not made because it is one of a loop
GUARD_VERDICT: Final = "guard.verdict"  # a guard has judged
APPROVAL_REQUESTED: Final = "approval.requested"  # a person is asked
APPROVAL_APPLIED: Final = "approval.applied"  # what a person has decided is done

# -- values ---------------------------------------------------------------------------------------

OPERATION_CHAT: Final = "chat"  # GenAI operation: a model call
OPERATION_TOOL: Final = "execute_tool"  # GenAI operation: a tool call
OPERATION_WORKFLOW: Final = "invoke_workflow"  # GenAI operation: a run
OPERATION_TASK: Final = "execute_task"  # crewai's own operation: a task
USD: Final = "USD"  # gen_ai.usage.cost.currency
ERROR_OTHER: Final = "_OTHER"  # OTel's error.type for an error without a known class

_PROVIDERS: Final = {
    "aws": "aws.bedrock",
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "azure_openai": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "claude": "anthropic",
    "gemini": "gcp.gemini",
    "google": "gcp.gemini",
    "mistral": "mistral_ai",
    "mistralai": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}


def provider_name(provider: str) -> str:
    """The GenAI name of a provider that CrewAI calls `provider`; one without is left as it is."""
    return _PROVIDERS.get(provider.lower(), provider)
