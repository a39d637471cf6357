"""Every statement of the journal, and the columns they share with the records.

Writes are fenced by themselves: they insert `SELECT ... FROM runs WHERE run = ? AND epoch = ?`, so
a stale owner's write changes no row, in one statement and without a round trip.
"""

from __future__ import annotations

USAGE = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "calls",
)
OWNER = ("owner_id", "owner_host", "owner_pid", "owner_started")
RUN_PLAIN = (
    "run",
    "run_id",
    "kind",
    "crew",
    "status",
    "reason",
    "inputs_digest",
    "versions",
    "epoch",
    "lease_expires_at",
    "created_at",
    "updated_at",
    "finished_at",
)
RUN_SEALED = ("inputs", "result", "error")
TASK_PLAIN = (
    "position",
    "generation",
    "name",
    "agent",
    "fingerprint",
    "status",
    "started_at",
    "finished_at",
    "messages",
)
TASK_SEALED = ("parts", "error", "output")
STEP_IDENTITY = ("seq", "step_id", "scope", "kind", "name", "digest", "occurrence")
STEP_OUTCOME = ("agent", "task", "status", "effect", "attempts", "started_at", "duration_ms")
STEP_MODEL = ("request", "params", "model", "provider", "response_id", "finish_reason")
STEP_SEALED = ("error", "arguments", "result")
ATTEMPT_PLAIN = ("epoch", "step_id", "attempt", "status", "started_at", "duration_ms")
ATTEMPT_SEALED = ("error",)
APPROVAL_PLAIN = (
    "id",
    "step_id",
    "kind",
    "tool",
    "status",
    "asked_at",
    "expires_at",
    "answered_at",
)
APPROVAL_SEALED = ("arguments", "answer")

RUN = (*RUN_PLAIN, *OWNER, *RUN_SEALED)
TASK = (*TASK_PLAIN, *TASK_SEALED)
STEP_BRIEF = (*STEP_IDENTITY, *STEP_OUTCOME, *STEP_SEALED)
STEP = (*STEP_BRIEF, *STEP_MODEL, *USAGE)
ATTEMPT = (*ATTEMPT_PLAIN, *USAGE, *ATTEMPT_SEALED)
APPROVAL = (*APPROVAL_PLAIN, *APPROVAL_SEALED)


def _list(columns: tuple[str, ...], prefix: str = "") -> str:
    return ", ".join(prefix + column for column in columns)


def _fenced(table: str, columns: tuple[str, ...], first: str = "run, epoch") -> str:
    marks = ", ".join("?" * len(columns))
    return (
        f"INSERT INTO {table} ({first}, {_list(columns)}) "
        f"SELECT {first}, {marks} FROM runs WHERE run = ? AND epoch = ?"
    )


def _updates(columns: tuple[str, ...]) -> str:
    return ", ".join(f"{column} = excluded.{column}" for column in columns)


# -- writing -------------------------------------------------------------------------------------


def _put_step(columns: tuple[str, ...]) -> str:
    updates = _updates(STEP[len(STEP_IDENTITY) :])
    return (
        f"{_fenced('steps', columns)} ON CONFLICT (run, step_id) DO UPDATE SET "
        f"epoch = excluded.epoch, {updates} "
        # An outcome stays, unless a later try replaces it (an answer nobody could use, asked anew).
        "WHERE steps.status <> 'done' OR excluded.attempts > steps.attempts"
    )


PUT_STEP = _put_step(STEP)
PUT_BRIEF_STEP = _put_step(STEP_BRIEF)
"""For a step that no model answered: a third of the time of `PUT_STEP` is its 12 more columns."""
ADD_ATTEMPT = f"""
INSERT INTO attempts (run, {_list(ATTEMPT)}) VALUES (?, {", ".join("?" * len(ATTEMPT))})"""
ADD_MESSAGE = """
INSERT INTO messages (run, digest, parent, role, content_step, body) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (run, digest) DO NOTHING"""
PUT_TASK = (
    f"{_fenced('tasks', TASK, first='run')} ON CONFLICT (run, position, generation) DO UPDATE SET "
    f"{_updates((*TASK_PLAIN[2:], *TASK_SEALED))}"
)
ADD_RUN = """
INSERT INTO runs (run_id, epoch, status, owner_id, owner_host, owner_pid, owner_started,
  lease_expires_at, kind, crew, created_at, updated_at, inputs_digest, versions, inputs)
VALUES (?, 1, 'running', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
TAKE_RUN = """
UPDATE runs SET epoch = ?, status = 'running', owner_id = ?, owner_host = ?, owner_pid = ?,
  owner_started = ?, lease_expires_at = ?, updated_at = ?, versions = ?, finished_at = NULL,
  reason = NULL, error = NULL
WHERE run = ?"""
END_RUN = """
UPDATE runs SET status = ?, reason = ?, result = ?, error = ?, updated_at = ?, finished_at = ?,
  owner_id = NULL, owner_host = NULL, owner_pid = NULL, owner_started = NULL,
  lease_expires_at = NULL
WHERE run = ?"""
ADD_TRANSITION = """
INSERT INTO transitions (run, source, target, reason, epoch, at) VALUES (?, ?, ?, ?, ?, ?)"""
EXTEND_LEASE = """
UPDATE runs SET lease_expires_at = ? WHERE run = ? AND epoch = ? AND owner_id = ?"""
ADD_APPROVAL = """
INSERT INTO approvals (run, step_id, kind, tool, status, asked_at, expires_at, arguments)
VALUES (?, ?, ?, ?, 'open', ?, ?, ?)"""
ANSWER_APPROVAL = """
UPDATE approvals SET status = 'answered', answer = ?, answered_at = ?
WHERE id = ? AND status = 'open'"""

# -- looking, inside a write ---------------------------------------------------------------------

RUN_STATE = "SELECT epoch, status FROM runs WHERE run = ?"
OPEN_APPROVAL = """
SELECT id FROM approvals WHERE run = ? AND step_id IS ? AND kind = ? AND status = 'open'"""
APPROVAL_STATE = """
SELECT a.status, r.run_id FROM approvals a JOIN runs r ON r.run = a.run WHERE a.id = ?"""

# -- reading -------------------------------------------------------------------------------------

RUN_BY_ID = f"SELECT {_list(RUN)} FROM runs WHERE run_id = ?"
RUN_NUMBER = "SELECT run FROM runs WHERE run_id = ?"
LAST_STEP_AT = """
SELECT max(started_at + coalesce(duration_ms, 0) / 1000) FROM steps WHERE run = ?"""
TRANSITIONS = """
SELECT source, target, reason, epoch, at FROM transitions WHERE run = ? ORDER BY id"""
TASKS = f"SELECT {_list(TASK)} FROM tasks WHERE run = ? ORDER BY position, generation"
STEPS = f"SELECT {_list(STEP)}, epoch FROM steps WHERE run = ? ORDER BY seq, id"
ATTEMPTS = f"SELECT {_list(ATTEMPT)} FROM attempts WHERE run = ? ORDER BY id"
STEPS_TO_REPLAY = f"""
WITH finished (position) AS (
  SELECT position FROM tasks t WHERE run = ?1 AND status = 'done' AND generation =
    (SELECT max(generation) FROM tasks n WHERE n.run = ?1 AND n.position = t.position)
)
SELECT {_list((*STEP_IDENTITY, *STEP_OUTCOME))}, error,
  CASE WHEN task IN finished THEN NULL ELSE arguments END,
  CASE WHEN task IN finished THEN NULL ELSE result END,
  {_list((*STEP_MODEL, *USAGE))}, epoch
FROM steps WHERE run = ?1 ORDER BY seq, id"""
"""What a finished task's steps answered is not asked again; that they were made, and cost, is."""
MESSAGE_DIGESTS = "SELECT digest FROM messages WHERE run = ?"
CONVERSATION = """
WITH RECURSIVE chain (depth, digest) AS (
  SELECT 0, ?2
  UNION ALL
  SELECT c.depth + 1, m.parent FROM chain c JOIN messages m ON m.run = ?1 AND m.digest = c.digest
  WHERE m.parent IS NOT NULL
)
SELECT m.body, m.content_step, s.result
FROM chain c
JOIN messages m ON m.run = ?1 AND m.digest = c.digest
LEFT JOIN steps s ON s.run = ?1 AND s.step_id = m.content_step
ORDER BY c.depth DESC"""
APPROVALS = f"""
SELECT {_list(APPROVAL, "a.")}, r.run_id FROM approvals a JOIN runs r ON r.run = a.run
WHERE (?1 IS NULL OR a.run = ?1) AND (?2 IS NULL OR a.status = ?2) ORDER BY a.id"""


def run_page(statuses: int) -> str:
    """Runs before a given one, newest first, with their counts; for so many statuses (0: any).

    CROSS JOIN keeps SQLite from going through all attempts to look for those of the page.
    """
    marks = ", ".join("?" * statuses)
    wanted = f"AND status IN ({marks})" if statuses else ""
    columns = _list((*RUN_PLAIN, *OWNER), "r.")
    return f"""
WITH page AS (SELECT run FROM runs WHERE run < ? {wanted} ORDER BY run DESC LIMIT ?),
tries AS (
  SELECT a.run, count(*) FILTER (WHERE s.kind = 'model') AS models,
    sum(a.input_tokens) + sum(a.output_tokens) AS tokens, sum(a.cost_usd) AS cost
  FROM page CROSS JOIN attempts a ON a.run = page.run
  JOIN steps s ON s.run = a.run AND s.step_id = a.step_id GROUP BY a.run
)
SELECT {columns}, r.error,
  count(*) FILTER (WHERE s.kind = 'model') + coalesce(max(t.models), 0),
  count(*) FILTER (WHERE s.kind = 'tool'),
  coalesce(sum(s.input_tokens), 0) + coalesce(sum(s.output_tokens), 0) + coalesce(max(t.tokens), 0),
  max(s.started_at + coalesce(s.duration_ms, 0) / 1000),
  CASE WHEN coalesce(max(t.cost), sum(s.cost_usd)) IS NOT NULL
    THEN coalesce(max(t.cost), 0) + coalesce(sum(s.cost_usd), 0) END
FROM page JOIN runs r ON r.run = page.run
LEFT JOIN steps s ON s.run = page.run
LEFT JOIN tries t ON t.run = page.run
GROUP BY page.run ORDER BY page.run DESC"""
