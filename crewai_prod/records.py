"""The values that all layers share: what a run, a task and a step are, as plain records.

They hold JSON text where the journal holds JSON, so that reading a journal needs neither crewai nor
the user's classes. Times are seconds since the epoch, durations are milliseconds, both as floats.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple


class RunStatus(StrEnum):
    """Where a run stands. `LEGAL` says which steps from one to the next exist."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """Its owner is gone (dead process on this host, or lease run out) and nobody took over yet."""


_ENDS = frozenset(RunStatus) - {RunStatus.RUNNING}
LEGAL: dict[RunStatus, frozenset[RunStatus]] = {
    RunStatus.RUNNING: _ENDS,
    RunStatus.COMPLETED: frozenset(),
    RunStatus.FAILED: frozenset({RunStatus.RUNNING}),
    RunStatus.PAUSED: frozenset({RunStatus.RUNNING}),
    RunStatus.INTERRUPTED: frozenset({RunStatus.RUNNING}),
    RunStatus.CANCELLED: frozenset({RunStatus.RUNNING}),
}


class StepKind(StrEnum):
    """What a step talks to."""

    MODEL = "model"
    TOOL = "tool"
    FUNCTION = "function"
    HUMAN = "human"


class StepStatus(StrEnum):
    """`started` without an end, seen on resume, means that the outcome is unknown."""

    STARTED = "started"
    DONE = "done"
    FAILED = "failed"


class TaskStatus(StrEnum):
    """A `superseded` task was executed again because its definition changed."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one or many model calls.

    `input_tokens` includes the cached ones, `output_tokens` the reasoning ones (the meaning
    OpenTelemetry GenAI and genai-prices give them). `calls` counts requests that returned usage.
    `reported_usd` is what the provider itself says all of it cost; None if it does not say.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    calls: int = 0
    reported_usd: Decimal | None = None

    @property
    def total_tokens(self) -> int:
        """Input plus output."""
        return self.input_tokens + self.output_tokens

    @property
    def says_anything(self) -> bool:
        """Whether it is a report at all: no call takes nothing, but some providers say so."""
        return self.total_tokens > 0 or self.reported_usd is not None

    def __add__(self, other: Usage) -> Usage:
        """Field by field. A cost is said of the sum only if it is said of both."""
        if self == _NOTHING:
            return other
        if other == _NOTHING:
            return self
        said = self.reported_usd, other.reported_usd
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            calls=self.calls + other.calls,
            reported_usd=None if said[0] is None or said[1] is None else said[0] + said[1],
        )


_NOTHING = Usage()
PICO = 10**12
"""Money is counted in whole trillionths of a US dollar: a list price per million tokens with up to
six decimals is exact, and so are sums of it, in Python and in SQL, up to nine million dollars."""


class CostStatus(StrEnum):
    """How well it is known what a model call cost."""

    REPORTED = "reported"
    """The provider said so."""
    PRICED = "priced"
    """From its tokens and a list price."""
    ESTIMATED = "estimated"
    """From a price that is not the model's own, or from tokens that do not add up."""
    UNPRICED = "unpriced"
    """Nobody knows: never the same as free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one model call, or one try of it, cost when it was made.

    Attributes:
        status: How well it is known.
        picousd: Trillionths of a US dollar; None if unpriced.
        source: Whose price it is: `provider`, `prices` (the user's), `genai-prices` or
            `on_unpriced`.
    """

    status: CostStatus
    picousd: int | None = None
    source: str | None = None

    @property
    def usd(self) -> Decimal | None:
        """The amount, exact."""
        return dollars(self.picousd)


def dollars(picousd: int | None) -> Decimal | None:
    """An amount in US dollars, exact."""
    return None if picousd is None else Decimal(picousd).scaleb(-12)


def shown_dollars(usd: Decimal) -> str:
    """An amount for people: four places, or more where a smaller one would look like none."""
    places = 4 if not usd or usd >= Decimal("0.001") else 1 - usd.adjusted()
    return f"${usd:,.{places}f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What many calls cost together.

    Attributes:
        picousd: Of those whose cost is known; None if that is none of them.
        unpriced: How many calls there are besides whose cost nobody knows.
    """

    picousd: int | None = None
    unpriced: int = 0

    @property
    def known_usd(self) -> Decimal | None:
        """The known part, exact."""
        return dollars(self.picousd)

    @property
    def usd(self) -> Decimal | None:
        """All of it, exact; None if it is not known of every call."""
        return None if self.unpriced else dollars(self.picousd)

    def __add__(self, other: Spending | Cost | None) -> Spending:
        """With another sum, or with one call (None: one that cost nothing to speak of)."""
        if other is None:
            return self
        known = [one for one in (self.picousd, other.picousd) if one is not None]
        more = other.unpriced if isinstance(other, Spending) else other.picousd is None
        return Spending(picousd=sum(known) if known else None, unpriced=self.unpriced + more)


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """What calls took, or may take, of what budgets count."""

    cost_picousd: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    llm_calls: int = 0
    tool_calls: int = 0

    @property
    def tokens(self) -> int:
        """Input plus output."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(
            cost_picousd=self.cost_picousd + other.cost_picousd,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            llm_calls=self.llm_calls + other.llm_calls,
            tool_calls=self.tool_calls + other.tool_calls,
        )

    def __sub__(self, other: Amounts) -> Amounts:
        return Amounts(
            cost_picousd=self.cost_picousd - other.cost_picousd,
            input_tokens=self.input_tokens - other.input_tokens,
            output_tokens=self.output_tokens - other.output_tokens,
            llm_calls=self.llm_calls - other.llm_calls,
            tool_calls=self.tool_calls - other.tool_calls,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pot:
    """What runs share a budget of.

    Attributes:
        label: Whose it is.
        since: The first full hour since 1970 (UTC) that counts.
    """

    label: str
    since: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a call is made: its step, the path of its scope, and the agent at work there."""

    step_id: str
    scope: str
    agent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CutOff:
    """A model call that was under way when its session ended, by a kill or otherwise.

    Attributes:
        place: Where it was made.
        epoch: The session.
        at: When it began.
        amounts: What it has likely taken; nobody knows whether it took anything.
    """

    place: Place
    epoch: int
    at: float
    amounts: Amounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What has been spent, and what calls under way may spend besides."""

    spent: Amounts = Amounts()
    reserved: Amounts = Amounts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What a call that is recorded took of the budgets that runs share.

    Attributes:
        labels: Whose they are.
        hour: When it was made, in full hours since 1970 (UTC).
        took: How much; what was reserved for its step is released.
    """

    labels: tuple[str, ...]
    hour: int
    took: Amounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who advances a run: one kickoff in one process of one host."""

    id: str
    host: str
    pid: int
    process_started: float
    """Start time of the process, which tells a reused pid from the original. 0.0 if unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to write to a run. Every write names its epoch; a stale one is refused."""

    run: int
    run_id: str
    epoch: int
    owner: Owner


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """What a run is started with. `inputs` is JSON text, `inputs_digest` identifies it."""

    run_id: str
    kind: str
    crew: str | None
    inputs: str | None
    inputs_digest: str
    versions: str
    """JSON: versions of crewai, crewai-prod and Python."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run as stored. `status` already says `interrupted` when the owner is gone."""

    run: int
    run_id: str
    kind: str
    crew: str | None
    status: RunStatus
    reason: str | None
    inputs: str | None
    inputs_digest: str
    result: str | None
    error: str | None
    """JSON of `CrewProdError.facts()`, or of any other exception's type and message."""
    versions: str
    epoch: int
    owner: Owner | None
    lease_expires_at: float | None
    created_at: float
    updated_at: float
    finished_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionRecord:
    """One change of a run's status. `source` is None for the first."""

    source: RunStatus | None
    target: RunStatus
    reason: str | None
    epoch: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """One execution of one task of the crew, or a `superseded` earlier one.

    `parts` is JSON `{"description": digest, ...}`: what the fingerprint is made of, so that a
    refusal can name the part that changed. `output` is JSON, `messages` the digest of the last
    message of the conversation the task ended with.
    """

    position: int
    generation: int = 0
    name: str
    agent: str | None
    fingerprint: str
    parts: str
    status: TaskStatus
    output: str | None = None
    messages: str | None = None
    error: str | None = None
    started_at: float
    finished_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRecord:
    """One message of a conversation, stored once per run and addressed by its content.

    `digest` covers the message and, through `parent`, all that came before it. `body` is JSON of
    the message; where its `content` is word for word the result text of a step, the content is left
    out and `content_step` names that step's id.
    """

    digest: str
    parent: str | None
    role: str
    body: str
    content_step: str | None = None


class StepRecord(NamedTuple):
    """One step: a model call, a tool call, a user's function or a person's answer.

    Give its values by name. A tuple, because one is made in every step: a frozen dataclass of so
    many takes three times as long.

    Attributes:
        seq: Position in the run's order of starting, from 1.
        step_id: 16 hex digits, derived from the identity (scope, kind, digest, occurrence).
        scope: Path of where in the run, such as `tasks/0/Researcher`.
        name: Model or tool name.
        digest: Of the request's meaning.
        occurrence: The n-th time (from 0) this digest was asked for in this scope.
        task: Position of the task in the crew, None outside tasks.
        effect: `read`, `write` or `nested` for a tool (its inner steps are journaled themselves).
        attempts: Tries so far, this outcome's included.
        arguments: JSON of a tool's arguments.
        request: Digest of the last message of a model's conversation.
        params: Digest of the message row (role `request`) that holds model, tools and sampling;
            None for a model call that was made past the seams (see `direct`).
        result: JSON, tagged as `codec` writes it; None until done.
        route: JSON of why a model call went to the model that it went to, if a rule has chosen:
            `rule`, `reason`, `model` and `instead_of`.
        error: JSON of the failure.
        output_size: Characters of what a tool returned, as a model reads it.
        output_cut: How many of them a model was not shown; None for a tool without `max_output`.
        cost: What a model call that was billed cost; None if nothing was billed.
        epoch: The session of the run in which the outcome was recorded.
    """

    seq: int
    step_id: str
    scope: str
    kind: StepKind
    name: str
    digest: str
    occurrence: int
    status: StepStatus
    started_at: float
    agent: str | None = None
    task: int | None = None
    effect: str | None = None
    attempts: int = 1
    arguments: str | None = None
    request: str | None = None
    params: str | None = None
    result: str | None = None
    error: str | None = None
    usage: Usage | None = None
    cost: Cost | None = None
    model: str | None = None
    provider: str | None = None
    route: str | None = None
    response_id: str | None = None
    finish_reason: str | None = None
    duration_ms: float | None = None
    output_size: int | None = None
    output_cut: int | None = None
    epoch: int = 0

    @property
    def direct(self) -> bool:
        """Whether it is a model call that code made past the seams: billed, but never replayed."""
        return self.kind is StepKind.MODEL and self.params is None

    @property
    def unmetered(self) -> bool:
        """Whether it is one of which nobody said what it cost."""
        return self.direct and self.status is StepStatus.DONE and self.usage is None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """A try of a step that did not become its recorded outcome, with what it cost.

    `model` and `provider` say who was asked, if it was a model; that may be another one each time.
    `route` says why, as in `StepRecord`.
    """

    step_id: str
    attempt: int
    status: StepStatus
    error: str | None = None
    usage: Usage | None = None
    cost: Cost | None = None
    model: str | None = None
    provider: str | None = None
    route: str | None = None
    started_at: float
    duration_ms: float | None = None
    epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRecord:
    """A question to a person, as a durable row.

    Attributes:
        kind: `tool`, `task_output`, `budget`, `guard`, `human_input`, `feedback`, `question` or
            `unknown_outcome`.
        status: `open`, `answered`, `expired` (its default was taken) or `closed` (its run ended).
        arguments: JSON of what is asked about, without secrets.
        answer: JSON: `{"decision", "edited", "note", "result"}`, what was not said left out.
        scope: Path of where in the run it came up.
        why: What made it a question, such as `declared`, `amount` or `guard`.
        about: Digest of what is asked; with run, scope and kind it is the question's identity.
        who: JSON list of the names that may answer; None: anybody.
        on_expiry: `approved` or `rejected`: what counts when nobody has answered in time.
        verdict: `approved` or `rejected`; of an unknown outcome `done`, `rerun` or `fail`.
        holds: What an approval covers besides this question: `run` or `tool`, until `holds_until`.
        notified_at: When somebody was told of it, or was about to be.
        form: JSON schema of the arguments, for those who change them.
        remark: What a person should know besides.
    """

    id: int
    run_id: str
    step_id: str | None
    kind: str
    tool: str | None
    arguments: str | None
    status: str
    asked_at: float
    expires_at: float | None = None
    answer: str | None = None
    answered_at: float | None = None
    scope: str | None = None
    task: str | None = None
    agent: str | None = None
    why: str | None = None
    about: str | None = None
    who: str | None = None
    on_expiry: str | None = None
    verdict: str | None = None
    answered_by: str | None = None
    holds: str | None = None
    holds_until: float | None = None
    notified_at: float | None = None
    form: str | None = None
    remark: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What becomes of an open question."""

    status: str
    verdict: str
    answer: str
    by: str | None = None
    holds: str | None = None
    holds_until: float | None = None


class VerdictKind(StrEnum):
    """What a guard has said of a value; `GuardRecord` says it."""

    ALLOW = "allow"
    MODIFY = "modify"
    REJECT = "reject"
    ESCALATE = "escalate"
    UNAVAILABLE = "unavailable"
    """It could not say: nobody has judged the value."""
    TAINT = "taint"
    """Said by no guard: the tool that is named has brought in what strangers may have written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardRecord:
    """What a guard has said of one value at one place of a run.

    Attributes:
        scope: Where in the run.
        step_id: The step that the value belongs to, if it belongs to one.
        place: Such as `tool_call`; see `guards.Place`.
        tool: The tool that was called or has answered.
        guard: Its name.
        version: Of its rules.
        judged: Digest of the value that it was given.
        reason: Why, without secrets.
        value: JSON of what takes the value's place, if it was modified.
        epoch: The session of the run.
    """

    scope: str
    step_id: str | None = None
    place: str
    tool: str | None = None
    guard: str
    version: str
    verdict: VerdictKind
    judged: str
    reason: str | None = None
    value: str | None = None
    at: float
    duration_ms: float | None = None
    epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What opening a run gives: the lease to write with and everything recorded so far.

    `lease` is None when the run is already completed. `messages` are the digests that are stored.
    """

    lease: Lease | None
    run: RunRecord
    created: bool
    tasks: tuple[TaskRecord, ...] = ()
    steps: tuple[StepRecord, ...] = ()
    attempts: tuple[AttemptRecord, ...] = ()
    messages: frozenset[str] = field(default_factory=frozenset)
    verdicts: tuple[GuardRecord, ...] = ()
    cut_off: tuple[CutOff, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """A line of `crewai-prod runs`."""

    run_id: str
    status: RunStatus
    reason: str | None
    crew: str | None
    created_at: float
    updated_at: float
    llm_calls: int
    tool_calls: int
    total_tokens: int
    spent: Spending
    error: str | None

    @property
    def cost_usd(self) -> Decimal | None:
        """What the run cost, exact; None if that is not known of every call."""
        return self.spent.usd


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """What a group of calls took: a line of `crewai-prod usage`.

    Attributes:
        key: What they have in common, by the names that were asked for.
    """

    key: dict[str, Any]
    llm_calls: int
    tool_calls: int
    usage: Usage
    spent: Spending


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpending:
    """What one task of one run took, all its sessions and executions together.

    Attributes:
        task: Position in the crew; None for what happened outside of its tasks.
        name: Of the task.
        at: When the run began.
    """

    run: int
    run_id: str
    crew: str | None
    kind: str
    task: int | None
    name: str | None
    at: float
    steps: int
    tokens: int
    spent: Spending
