"""Every statement of the journal, and the columns they share with the records.

Writes are fenced by themselves: they insert `SELECT ... FROM runs WHERE run = ? AND epoch = ?`, so
a stale owner's write changes no row, in one statement and without a round trip.
"""

from __future__ import annotations

from collections.abc import Sequence

USAGE = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "calls",
)
COST = ("cost_picousd", "cost_status", "cost_source")
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
STEP_OUTCOME = (
    "agent",
    "task",
    "status",
    "effect",
    "attempts",
    "started_at",
    "duration_ms",
    "output_size",
    "output_cut",
)
STEP_MODEL = (
    "request",
    "params",
    "model",
    "provider",
    "route",
    "response_id",
    "finish_reason",
)
STEP_SEALED = ("error", "arguments", "result")
ATTEMPT_PLAIN = (
    "epoch",
    "step_id",
    "attempt",
    "status",
    "started_at",
    "duration_ms",
    "model",
    "provider",
    "route",
)
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
    "scope",
    "task",
    "agent",
    "why",
    "about",
    "who",
    "on_expiry",
    "verdict",
    "answered_by",
    "holds",
    "holds_until",
    "notified_at",
)
APPROVAL_SEALED = ("arguments", "answer", "form", "remark")
APPROVAL_ASKED = (
    "step_id",
    "kind",
    "scope",
    "about",
    "tool",
    "asked_at",
    "expires_at",
    "task",
    "agent",
    "why",
    "who",
    "on_expiry",
)
"""What is known of a question when it is asked, its identity first."""

VERDICT_PLAIN = (
    "scope",
    "step_id",
    "place",
    "tool",
    "guard",
    "version",
    "verdict",
    "judged",
    "at",
    "duration_ms",
)
VERDICT_SEALED = ("reason", "value")

RUN = (*RUN_PLAIN, *OWNER, *RUN_SEALED)
TASK = (*TASK_PLAIN, *TASK_SEALED)
STEP_BRIEF = (*STEP_IDENTITY, *STEP_OUTCOME, *STEP_SEALED)
STEP = (*STEP_BRIEF, *STEP_MODEL, *USAGE, *COST)
ATTEMPT = (*ATTEMPT_PLAIN, *USAGE, *COST, *ATTEMPT_SEALED)
APPROVAL = (*APPROVAL_PLAIN, *APPROVAL_SEALED)
VERDICT = (*VERDICT_PLAIN, *VERDICT_SEALED)


def _list(columns: tuple[str, ...], prefix: str = "") -> str:
    return ", ".join(prefix + column for column in columns)


AMOUNTS = ("cost_picousd", "input_tokens", "output_tokens", "llm_calls", "tool_calls")


def _fenced(table: str, columns: tuple[str, ...], first: str = "run, epoch") -> str:
    marks = ", ".join("?" * len(columns))
    return (
        f"INSERT INTO {table} ({first}, {_list(columns)}) "
        f"SELECT {first}, {marks} FROM runs WHERE run = ? AND epoch = ?"
    )


def _updates(columns: tuple[str, ...]) -> str:
    return ", ".join(f"{column} = excluded.{column}" for column in columns)


# -- writing -------------------------------------------------------------------------------------


_NOT_CANCELLED = """AND NOT EXISTS (
  SELECT 1 FROM cancellations c WHERE c.run = runs.run AND c.epoch = runs.epoch
)"""


def _put_step(columns: tuple[str, ...], condition: str = "") -> str:
    updates = _updates(STEP[len(STEP_IDENTITY) :])
    return (
        f"{_fenced('steps', columns)} {condition} ON CONFLICT (run, step_id) DO UPDATE SET "
        f"epoch = excluded.epoch, {updates} "
        # An outcome stays, unless a later try replaces it (an answer nobody could use, asked anew).
        "WHERE steps.status <> 'done' OR excluded.attempts > steps.attempts"
    )


PUT_STEP = _put_step(STEP)
PUT_BRIEF_STEP = _put_step(STEP_BRIEF)
"""For a step that no model answered: a third of the time of `PUT_STEP` is its 16 more columns."""
START_STEP = _put_step(STEP_BRIEF, _NOT_CANCELLED)
"""The intent of a call that acts: none is recorded in a session that is to stop."""
ADD_ATTEMPT = f"""
INSERT INTO attempts (run, {_list(ATTEMPT)}) VALUES (?, {", ".join("?" * len(ATTEMPT))})"""
ADD_VERDICT = _fenced("verdicts", VERDICT)
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
SPENT_ON = ("crew", "kind", "hour", "task", "agent", "provider", "model")
SPENT = (
    "steps",
    "llm_calls",
    "tool_calls",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "cost_picousd",
    "priced",
    "unpriced",
)


def _enter_usage(sign: str) -> str:
    """Add what a run took to the days it was at work, or take it away again."""
    sums = ", ".join(f"{sign}sum({one})" for one in SPENT)
    return f"""
INSERT INTO day_usage (day, {_list(SPENT_ON[:2])}, {_list(SPENT_ON[3:])}, {_list(SPENT)})
SELECT date(hour * 3600, 'unixepoch'), coalesce(crew, ''), kind, coalesce(task, -1),
  coalesce(agent, ''), coalesce(provider, ''), coalesce(model, ''), {sums}
FROM run_usage WHERE run = ? GROUP BY 1, 2, 3, 4, 5, 6, 7
ON CONFLICT (day, crew, kind, task, agent, provider, model) DO UPDATE SET
  {", ".join(f"{one} = {one} + excluded.{one}" for one in SPENT)}"""


SUM_UP_USAGE = (
    _enter_usage("-"),
    "DELETE FROM run_usage WHERE run = ?",
    f"""
INSERT INTO run_usage (run, {_list(SPENT_ON)}, {_list(SPENT)})
SELECT run, {_list(SPENT_ON)}, {", ".join(f"sum({one})" for one in SPENT)}
FROM spending WHERE run = ? GROUP BY run, {_list(SPENT_ON)}""",
    _enter_usage("+"),
)
"""When a session of a run ends: its sums are made anew, and those of its days with them."""
ADD_TRANSITION = """
INSERT INTO transitions (run, source, target, reason, epoch, at) VALUES (?, ?, ?, ?, ?, ?)"""
ASK_TO_STOP = """
INSERT INTO cancellations (run, epoch, asked_at) VALUES (?, ?, ?)
ON CONFLICT (run) DO UPDATE SET epoch = excluded.epoch, asked_at = excluded.asked_at"""
FORGET_CANCELLATION = "DELETE FROM cancellations WHERE run = ?"
RESERVE = f"""
INSERT OR REPLACE INTO reservations (run, step_id, label, epoch, {_list(AMOUNTS)})
VALUES (?, ?, ?, ?, {", ".join("?" * len(AMOUNTS))})"""
NOTE_CALL = f"""
INSERT OR REPLACE INTO calls_under_way (run, epoch, step_id, scope, agent, at, {_list(AMOUNTS)})
VALUES (?, ?, ?, ?, ?, ?, {", ".join("?" * len(AMOUNTS))})"""
RELEASE = (
    "DELETE FROM reservations WHERE run = :run AND step_id = :step_id",
    "DELETE FROM calls_under_way WHERE run = :run AND epoch = :epoch AND step_id = :step_id",
)
_HOUR = "CAST(c.at / 3600 AS INTEGER)"
_CUT_OFF = f"""
SELECT v.label, {_HOUR} AS hour, {", ".join(f"c.{one}" for one in AMOUNTS)}
FROM reservations v JOIN calls_under_way c
ON c.run = v.run AND c.epoch = v.epoch AND c.step_id = v.step_id JOIN runs r ON r.run = v.run"""
SPEND_CUT_OFF = f"""
INSERT INTO shared_usage (label, hour, {_list(AMOUNTS)})
SELECT label, hour, {", ".join(f"sum({one})" for one in AMOUNTS)} FROM ({_CUT_OFF} WHERE v.run = ?)
WHERE TRUE GROUP BY label, hour ON CONFLICT (label, hour) DO UPDATE SET
{", ".join(f"{one} = {one} + excluded.{one}" for one in AMOUNTS)}"""
FORGET_RESERVED = "DELETE FROM reservations WHERE run = ?"
"""Both when a session has ended, by itself or because it was killed."""
CUT_OFF = f"""
SELECT epoch, step_id, scope, agent, at, {_list(AMOUNTS)} FROM calls_under_way WHERE run = ?
ORDER BY at"""
SPEND = f"""
INSERT INTO shared_usage (label, hour, {_list(AMOUNTS)})
VALUES (?, ?, {", ".join("?" * len(AMOUNTS))}) ON CONFLICT (label, hour) DO UPDATE SET
{", ".join(f"{one} = {one} + excluded.{one}" for one in AMOUNTS)}"""
EXTEND_LEASE = """
UPDATE runs SET lease_expires_at = ? WHERE run = ? AND epoch = ? AND owner_id = ?"""
ADD_APPROVAL = f"""
INSERT INTO approvals (run, status, {_list(APPROVAL_ASKED)}, arguments, form, remark)
VALUES (?, 'open', {", ".join("?" * (len(APPROVAL_ASKED) + 3))})"""
ANSWER_APPROVAL = """
UPDATE approvals SET status = ?, verdict = ?, answer = ?, answered_by = ?, holds = ?,
  holds_until = ?, answered_at = ?
WHERE id = ? AND status = 'open'"""
CLOSE_APPROVALS = """
UPDATE approvals SET status = 'closed', answered_at = ? WHERE run = ? AND status = 'open'"""
CLAIM_NOTICE = """
UPDATE approvals SET notified_at = ? WHERE id = ? AND status = 'open' AND notified_at IS NULL"""

# -- looking, inside a write ---------------------------------------------------------------------

RUN_STATE = "SELECT epoch, status FROM runs WHERE run = ?"
CANCELLED = "SELECT 1 FROM cancellations WHERE run = ? AND epoch = ?"
_SUMS_OF_AMOUNTS = ", ".join(f"coalesce(sum({one}), 0)" for one in AMOUNTS)
SPENT_OF = f"SELECT {_SUMS_OF_AMOUNTS} FROM shared_usage WHERE label = :label AND hour >= :since"
_AT_WORK = "(r.epoch = v.epoch AND r.status = 'running' AND r.lease_expires_at > :now)"
RESERVED_OF = f"""
SELECT {_SUMS_OF_AMOUNTS} FROM reservations v JOIN runs r ON r.run = v.run
WHERE v.label = :label AND {_AT_WORK} AND NOT (v.run = :run AND v.step_id = :step_id)"""
CUT_OFF_OF = f"""
SELECT {_SUMS_OF_AMOUNTS} FROM ({_CUT_OFF} WHERE v.label = :label AND NOT {_AT_WORK})
WHERE hour >= :since"""
OPEN_APPROVAL = """
SELECT id FROM approvals WHERE run = ? AND step_id IS ? AND kind = ? AND scope IS ? AND about IS ?
AND status = 'open'"""
APPROVAL_BY_ID = f"""
SELECT {_list(APPROVAL, "a.")}, r.run_id, r.status FROM approvals a JOIN runs r ON r.run = a.run
WHERE a.id = ?"""

# -- reading -------------------------------------------------------------------------------------

RUN_BY_ID = f"SELECT {_list(RUN)} FROM runs WHERE run_id = ?"
SESSIONS_TO_STOP = "SELECT run, epoch FROM cancellations"
RUN_NUMBER = "SELECT run FROM runs WHERE run_id = ?"
LAST_STEP_AT = """
SELECT max(started_at + coalesce(duration_ms, 0) / 1000) FROM steps WHERE run = ?"""
TRANSITIONS = """
SELECT source, target, reason, epoch, at FROM transitions WHERE run = ? ORDER BY id"""
TASKS = f"SELECT {_list(TASK)} FROM tasks WHERE run = ? ORDER BY position, generation"
STEPS = f"SELECT {_list(STEP)}, epoch FROM steps WHERE run = ? ORDER BY seq, id"
ATTEMPTS = f"SELECT {_list(ATTEMPT)} FROM attempts WHERE run = ? ORDER BY id"
VERDICTS = f"SELECT {_list(VERDICT)}, epoch FROM verdicts WHERE run = ? ORDER BY id"
STEPS_TO_REPLAY = f"""
WITH finished (position) AS (
  SELECT position FROM tasks t WHERE run = ?1 AND status = 'done' AND generation =
    (SELECT max(generation) FROM tasks n WHERE n.run = ?1 AND n.position = t.position)
)
SELECT {_list((*STEP_IDENTITY, *STEP_OUTCOME))}, error,
  CASE WHEN task IN finished THEN NULL ELSE arguments END,
  CASE WHEN task IN finished THEN NULL ELSE result END,
  {_list((*STEP_MODEL, *USAGE, *COST))}, epoch
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
GRANT = f"""
SELECT {_list(APPROVAL, "a.")}, r.run_id FROM approvals a JOIN runs r ON r.run = a.run
JOIN runs mine ON mine.run = ?1
WHERE a.tool = ?2 AND a.holds IS NOT NULL AND a.kind = 'tool' AND a.verdict = 'approved'
AND (a.run = ?1 AND a.holds = 'run' OR a.holds = 'tool' AND a.holds_until > ?3
  AND r.crew IS mine.crew AND r.kind = mine.kind)
ORDER BY a.id DESC LIMIT 1"""
"""An approval of a tool that covers more than the call that it was asked for."""


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
    sum(a.input_tokens) + sum(a.output_tokens) AS tokens, sum(a.cost_picousd) AS cost,
    sum(a.cost_status = 'unpriced') AS unpriced
  FROM page CROSS JOIN attempts a ON a.run = page.run
  JOIN steps s ON s.run = a.run AND s.step_id = a.step_id GROUP BY a.run
)
SELECT {columns}, r.error,
  count(*) FILTER (WHERE s.kind = 'model') + coalesce(max(t.models), 0),
  count(*) FILTER (WHERE s.kind = 'tool'),
  coalesce(sum(s.input_tokens), 0) + coalesce(sum(s.output_tokens), 0) + coalesce(max(t.tokens), 0),
  max(s.started_at + coalesce(s.duration_ms, 0) / 1000),
  CASE WHEN coalesce(max(t.cost), sum(s.cost_picousd)) IS NOT NULL
    THEN coalesce(max(t.cost), 0) + coalesce(sum(s.cost_picousd), 0) END,
  coalesce(max(t.unpriced), 0) + coalesce(sum(s.cost_status = 'unpriced'), 0)
FROM page JOIN runs r ON r.run = page.run
LEFT JOIN steps s ON s.run = page.run
LEFT JOIN tries t ON t.run = page.run
GROUP BY page.run ORDER BY page.run DESC"""


# -- what runs took ------------------------------------------------------------------------------

_SUMS = SPENT[1:]
_KEYS = {
    "run": ("run",),
    "crew": ("crew", "kind"),
    "task": ("crew", "kind", "task"),
    "agent": ("agent",),
    "model": ("provider", "model"),
    "day": ("day",),
}
GROUPS = tuple(_KEYS)
"""What `usage` can be asked by."""


def keys_of(by: Sequence[str]) -> tuple[str, ...]:
    """The columns that say which group a row is of."""
    return tuple(dict.fromkeys(column for one in by for column in _KEYS[one]))


def usage_page(by: Sequence[str], filters: Sequence[str]) -> str:
    """Sums by group, newest first by day or run, else the dearest first.

    Args:
        by: What to sum up by.
        filters: Columns whose values are given, after the number of rows to give at most: `run`,
            `crew`, and `day` for the first day.
    """
    keys = keys_of(by)
    of_runs = "run" in keys or "run" in filters
    day = "date(hour * 3600, 'unixepoch')" if of_runs else "day"
    columns = [f"{day} AS day" if key == "day" else key for key in keys]
    conditions = [
        f"{day if one == 'day' else one} {'>=' if one == 'day' else '='} ?{number}"
        for number, one in enumerate(filters, 2)
    ]
    if "model" in by:
        conditions.append("model IS NOT NULL")
    if "run" in keys and not filters:
        conditions.append(_NEWEST_WITH_STEPS)
    where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
    newest = [f"{key} DESC" for key in ("day", "run") if key in keys]
    order = [*newest, *([] if newest else ["sum(cost_picousd) DESC", "sum(llm_calls) DESC"]), *keys]
    group = f"GROUP BY {', '.join(keys)} ORDER BY {', '.join(order)} " if keys else ""
    sums = ", ".join(f"sum({one})" for one in _SUMS)
    return (
        f"SELECT {', '.join([*columns, sums])} "
        f"FROM {'run_spending' if of_runs else 'usage'} {where}{group}LIMIT ?1"
    )


_NEWEST_WITH_STEPS = """run IN (
  SELECT run FROM runs r WHERE EXISTS (SELECT 1 FROM steps s WHERE s.run = r.run)
  ORDER BY run DESC LIMIT ?1
)"""
"""Where every run has a row, at most so many runs are asked for as there may be rows."""


RUN_NAME = "SELECT run_id FROM runs WHERE run = ?"
TASK_NAME = """
SELECT t.name FROM runs r CROSS JOIN tasks t ON t.run = r.run AND t.position = ?3
WHERE r.crew IS ?1 AND r.kind = ?2 ORDER BY r.run DESC, t.generation DESC LIMIT 1"""
RUNS_SINCE = """
SELECT run_id FROM runs WHERE created_at >= ?1 AND (?2 IS NULL OR crew = ?2)
AND status <> 'running' ORDER BY run"""
NEWEST_RUNS = """
SELECT run_id FROM runs WHERE run IN (
  SELECT max(run) FROM runs WHERE (?1 IS NULL OR crew = ?1)
  AND run NOT IN (SELECT run FROM runs WHERE status = 'running') GROUP BY crew, kind
) ORDER BY run"""
TASK_SPENDING = """
WITH picked (run) AS (
  SELECT ?3 UNION ALL SELECT run FROM (
    SELECT run FROM runs WHERE crew IS ?1 AND kind = ?2 AND run < ?3 AND status = 'completed'
    ORDER BY run DESC LIMIT ?4
  )
)
SELECT u.run, r.run_id, r.crew, r.kind, u.task, (
    SELECT name FROM tasks t WHERE t.run = u.run AND t.position = u.task
    ORDER BY t.generation DESC LIMIT 1
  ), r.created_at, sum(u.steps), sum(u.input_tokens + u.output_tokens),
  CASE WHEN sum(u.priced) THEN sum(u.cost_picousd) END, sum(u.unpriced)
FROM picked p CROSS JOIN run_usage u ON u.run = p.run CROSS JOIN runs r ON r.run = u.run
GROUP BY u.run, u.task ORDER BY u.run DESC, u.task"""
"""What each task of a run took, and of so many completed runs of the same crew before it."""
