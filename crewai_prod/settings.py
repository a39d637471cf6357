"""Settings: arguments first, then `CREWAI_PROD_*` environment variables, nothing else."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from crewai_prod.heart import LEASE_SECONDS


class Settings(BaseSettings):
    """What applies to every run of a hardened crew unless `harden` is told otherwise.

    Attributes:
        journal: Path of the SQLite file. Default `.crewai_prod/journal.db` below the working
        directory. durability: `power` survives a power cut (every commit is synced), `process`
            survives the end of the process.
        on_change: What to do when the crew is not the one the run was started with.
        unknown: What to do about a tool call whose outcome a crash left open.
        log: Path of the log, `stderr`, or `none`. Default: a file beside the journal.
        log_content: Whether prompts, arguments and results are logged too (redacted).
        lease_seconds: How long a silent owner on another host keeps a run.
        prices: US dollars per million tokens, by model: `{"my-model": {"input": 0.15, "output":
            0.6}}`; as JSON in the environment.
        on_unpriced: What to do about a model whose price nobody knows: `warn`, `fail` (it is not
            called), or the US dollars per million tokens to count it with.
        notify: An http(s) address that is sent JSON when a run waits for a person.
        human: Where people are asked what CrewAI asks them (`human_input`, `@human_feedback`,
            `Flow.ask`): `pause`: the run waits for an answer as for any approval; `terminal`.
        loops: Whether calls that lead nowhere are looked for; see `Loops`.
        sigterm: Whether SIGTERM first stops the runs of a process, after their current step, if a
            kickoff was made on its main thread and nobody else has set a handler.
        quiet: Silence CrewAI's own console output during hardened runs, and the progress of a
            batch.
    """

    model_config = SettingsConfigDict(env_prefix="CREWAI_PROD_", extra="forbid", frozen=True)

    journal: str | None = None
    durability: Literal["power", "process"] = "power"
    on_change: Literal["stop", "rerun", "keep"] = "stop"
    unknown: Literal["pause", "rerun", "fail"] = "pause"
    log: str | None = None
    log_content: bool = False
    lease_seconds: float = Field(default=LEASE_SECONDS, gt=0)
    prices: dict[str, dict[str, Decimal] | Decimal] | None = None
    on_unpriced: str | Decimal | None = None
    notify: str | None = None
    human: Literal["pause", "terminal"] = "pause"
    loops: bool = True
    sigterm: bool = True
    quiet: bool = False
