-- The journal of crewai-prod: runs of crews, and everything that came from outside while they ran.
--
-- Times are seconds since 1970 (UTC) as REAL, durations milliseconds. `run` is the internal number
-- of a run, `run_id` the name its user gave it. Columns said to hold JSON hold JSON text; where the
-- journal is encrypted they hold `enc1:` and base64 instead. `user_version` is the schema's version.
-- views.sql holds the questions people ask most. CHECKs are spelled with OR because SQLite builds a
-- table for each IN, a fifth of the time a step takes to commit.

CREATE TABLE journal_info (
  name TEXT PRIMARY KEY NOT NULL, -- `key_check`: proves that a given encryption key is the file's
  value TEXT NOT NULL
);

CREATE TABLE runs (
  run INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice: an old lease cannot fit a new run
  run_id TEXT NOT NULL UNIQUE, -- the name given to kickoff(run_id=...)
  epoch INTEGER NOT NULL, -- session number: 1 at first, one more with every resume; fences writes
  status TEXT NOT NULL CHECK (status = 'running' OR status = 'completed' OR status = 'failed'
    OR status = 'paused' OR status = 'cancelled' OR status = 'interrupted'),
  owner_id TEXT, -- who advances the run now; NULL when nobody does
  owner_host TEXT, -- name#boot-namespace of the machine: processes compare within one such host
  owner_pid INTEGER,
  owner_started REAL, -- start time of that process, tells a reused pid from the original
  lease_expires_at REAL, -- when the owner counts as gone unless it extends the lease
  kind TEXT NOT NULL, -- crew, flow, agent, function
  crew TEXT, -- name of the crew
  reason TEXT, -- why it is paused, or how it ended
  created_at REAL NOT NULL,
  updated_at REAL NOT NULL, -- the last transition; view run_summary counts steps in
  finished_at REAL,
  inputs_digest TEXT NOT NULL, -- identifies the inputs: a run id belongs to one set of them
  versions TEXT NOT NULL, -- JSON: versions of crewai, crewai-prod and Python
  error TEXT, -- JSON: type, message, retryable, actor of what ended the run
  inputs TEXT, -- JSON
  result TEXT -- JSON: what kickoff returned
);
CREATE INDEX runs_by_status ON runs (status, run);
CREATE INDEX runs_by_crew ON runs (crew, kind, run);

CREATE TABLE transitions (
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES runs (run) ON DELETE CASCADE,
  source TEXT, -- status before; NULL for the first
  target TEXT NOT NULL, -- status after
  reason TEXT,
  epoch INTEGER NOT NULL, -- session in which it happened
  at REAL NOT NULL
);
CREATE INDEX transitions_by_run ON transitions (run, id);

CREATE TABLE tasks (
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES runs (run) ON DELETE CASCADE,
  position INTEGER NOT NULL, -- of the task in the crew, from 0
  generation INTEGER NOT NULL, -- from 0; one more each time a changed task is executed again
  name TEXT NOT NULL,
  agent TEXT, -- role
  fingerprint TEXT NOT NULL, -- of the task's definition and all it depends on
  status TEXT NOT NULL CHECK (status = 'running' OR status = 'done'
    OR status = 'failed' OR status = 'superseded'),
  started_at REAL NOT NULL,
  finished_at REAL,
  messages TEXT, -- digest of the last message of the conversation it ended with
  parts TEXT NOT NULL, -- JSON: digest of each part of the definition, to name what changed
  error TEXT, -- JSON
  output TEXT, -- JSON: the TaskOutput
  UNIQUE (run, position, generation)
);

CREATE TABLE steps (
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES runs (run) ON DELETE CASCADE,
  epoch INTEGER NOT NULL, -- session that recorded the outcome; below the run's: replayed since
  seq INTEGER NOT NULL, -- order of starting within the run, from 1
  step_id TEXT NOT NULL, -- 16 hex digits made from scope, kind, digest and occurrence
  scope TEXT NOT NULL, -- where in the run, such as tasks/0/Researcher
  kind TEXT NOT NULL CHECK (kind = 'model' OR kind = 'tool' OR kind = 'function'
    OR kind = 'human'),
  name TEXT NOT NULL, -- model or tool
  digest TEXT NOT NULL, -- of what the request means
  occurrence INTEGER NOT NULL, -- how often this digest was asked for before in this scope
  agent TEXT, -- role
  task INTEGER, -- position of the task in the crew; NULL outside tasks
  status TEXT NOT NULL CHECK (status = 'started' OR status = 'done' OR status = 'failed'),
  effect TEXT, -- of a tool: read, write, nested (its own steps are journaled themselves), cached
  attempts INTEGER NOT NULL, -- tries so far; those that did not count are in table attempts
  request TEXT, -- digest of the last message sent to the model (see view transcripts)
  params TEXT, -- digest of the message row with role `request`: model, tools, sampling; NULL for a
    -- model call that code made past the run: billed as far as its provider told, never replayed
  model TEXT, -- as the provider named it
  provider TEXT,
  route TEXT, -- JSON: {"rule", "reason", "model", "instead_of"} where a rule chose who is asked
  response_id TEXT,
  finish_reason TEXT,
  started_at REAL NOT NULL,
  duration_ms REAL,
  output_size INTEGER, -- of a tool's result: characters, as a model reads it
  output_cut INTEGER, -- how many of these it was not shown; NULL: the tool has no max_output
  input_tokens INTEGER, -- all of the prompt, cached tokens included; NULL: no usage reported
  output_tokens INTEGER, -- reasoning tokens included
  cache_read_tokens INTEGER,
  cache_write_tokens INTEGER,
  reasoning_tokens INTEGER,
  calls INTEGER, -- requests that returned usage
  cost_picousd INTEGER, -- trillionths of a US dollar; NULL: unpriced, or no cost
  cost_status TEXT, -- reported (by the provider), priced, estimated or unpriced
  cost_source TEXT, -- provider, prices (the user's), genai-prices or on_unpriced
  error TEXT, -- JSON
  arguments TEXT, -- JSON: of a tool call
  result TEXT, -- JSON: the recorded answer
  UNIQUE (run, step_id)
);

CREATE TABLE attempts (
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES runs (run) ON DELETE CASCADE,
  epoch INTEGER NOT NULL,
  step_id TEXT NOT NULL, -- the step it was a try of
  attempt INTEGER NOT NULL, -- from 1
  status TEXT NOT NULL,
  started_at REAL NOT NULL,
  duration_ms REAL,
  input_tokens INTEGER, -- what the try cost, meanings as in steps
  output_tokens INTEGER,
  cache_read_tokens INTEGER,
  cache_write_tokens INTEGER,
  reasoning_tokens INTEGER,
  calls INTEGER,
  cost_picousd INTEGER,
  cost_status TEXT,
  cost_source TEXT,
  model TEXT, -- who was asked: another model may have stood in; NULL: as in steps
  provider TEXT,
  route TEXT, -- as in steps
  error TEXT -- JSON
);
CREATE INDEX attempts_by_step ON attempts (run, step_id);

-- What a run's steps took, in few rows: written when a session of the run ends, so that it holds for
-- every run that is not `running`. Nothing is here that steps and attempts do not say; it is there so
-- that a bill over many runs need not read them all. View run_spending adds the runs at work.
CREATE TABLE run_usage (
  run INTEGER NOT NULL REFERENCES runs (run) ON DELETE CASCADE,
  crew TEXT, -- as in runs, and so is kind
  kind TEXT NOT NULL,
  hour INTEGER NOT NULL, -- when the calls were made: full hours since 1970 (UTC)
  task INTEGER, -- position of the task in the crew; NULL outside tasks
  agent TEXT, -- role
  provider TEXT,
  model TEXT, -- NULL for what is no model call
  steps INTEGER NOT NULL,
  llm_calls INTEGER NOT NULL, -- failed tries that reached a provider included
  tool_calls INTEGER NOT NULL,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  cache_read_tokens INTEGER NOT NULL,
  cache_write_tokens INTEGER NOT NULL,
  reasoning_tokens INTEGER NOT NULL,
  cost_picousd INTEGER NOT NULL, -- of the calls whose cost is known
  priced INTEGER NOT NULL, -- how many these are
  unpriced INTEGER NOT NULL -- calls besides, whose cost nobody knows
);
CREATE INDEX run_usage_by_run ON run_usage (run);

-- The same over all runs. What deleted runs took stays here. View usage adds the runs at work.
CREATE TABLE day_usage (
  day TEXT NOT NULL, -- of the calls, in UTC: 2026-11-25
  crew TEXT NOT NULL, -- here and below '' (and task -1) where run_usage has NULL
  kind TEXT NOT NULL,
  task INTEGER NOT NULL,
  agent TEXT NOT NULL,
  provider TEXT NOT NULL,
  model TEXT NOT NULL,
  steps INTEGER NOT NULL,
  llm_calls INTEGER NOT NULL,
  tool_calls INTEGER NOT NULL,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  cache_read_tokens INTEGER NOT NULL,
  cache_write_tokens INTEGER NOT NULL,
  reasoning_tokens INTEGER NOT NULL,
  cost_picousd INTEGER NOT NULL,
  priced INTEGER NOT NULL,
  unpriced INTEGER NOT NULL,
  PRIMARY KEY (day, crew, kind, task, agent, provider, model)
) WITHOUT ROWID;

CREATE TABLE messages (
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES runs (run) ON DELETE CASCADE,
  digest TEXT NOT NULL, -- of the message and, through parent, of all that came before
  parent TEXT, -- digest of the message before; NULL for the first
  role TEXT NOT NULL,
  content_step TEXT, -- its content is the result of this step and is not in body
  body TEXT NOT NULL, -- JSON: the message
  UNIQUE (run, digest)
);

CREATE TABLE approvals (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  run INTEGER NOT NULL REFERENCES runs (run) ON DELETE CASCADE,
  step_id TEXT,
  kind TEXT NOT NULL, -- tool, task_output, budget, guard, human_input, feedback, question or
    -- unknown_outcome
  tool TEXT,
  status TEXT NOT NULL, -- open, answered, expired (its default counts) or closed (its run ended)
  asked_at REAL NOT NULL,
  expires_at REAL,
  answered_at REAL,
  scope TEXT, -- where in the run
  task TEXT, -- name
  agent TEXT, -- role
  why TEXT, -- what made it a question: declared, amount, taint, first_use, guard, budget ...
  about TEXT, -- digest of what is asked; with run, scope and kind the question's identity
  who TEXT, -- JSON: the names that may answer; NULL: anybody
  on_expiry TEXT, -- approved or rejected
  verdict TEXT, -- approved or rejected; of an unknown outcome done, rerun or fail
  answered_by TEXT,
  holds TEXT, -- what it covers besides this question: run, or tool until holds_until; NULL: nothing
  holds_until REAL,
  notified_at REAL, -- when somebody was told of it, or was about to be
  arguments TEXT, -- JSON: what is asked about, without secrets
  answer TEXT, -- JSON: {"decision", "edited", "note", "result"}
  form TEXT, -- JSON schema of the arguments
  remark TEXT -- what a person should know besides
);
CREATE INDEX approvals_by_run ON approvals (run, step_id, kind, status);
CREATE INDEX approvals_by_status ON approvals (status, id);
CREATE INDEX approvals_granted ON approvals (tool) WHERE holds IS NOT NULL;

-- A session that somebody has asked to stop before its next step.
CREATE TABLE cancellations (
  run INTEGER PRIMARY KEY REFERENCES runs (run) ON DELETE CASCADE,
  epoch INTEGER NOT NULL, -- the session; a later one is not meant
  asked_at REAL NOT NULL
);

-- What calls took of budgets that runs share, by the hour. What deleted runs took stays here.
CREATE TABLE shared_usage (
  label TEXT NOT NULL, -- of the budget; without one, kind/name of the crew: crew/writers
  hour INTEGER NOT NULL, -- when the calls were made: full hours since 1970 (UTC)
  cost_picousd INTEGER NOT NULL,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  llm_calls INTEGER NOT NULL,
  tool_calls INTEGER NOT NULL,
  PRIMARY KEY (label, hour)
) WITHOUT ROWID;

-- What calls under way may take of them at most. A row counts as long as its run is at work: its
-- session is the run's, and the lease holds. See calls_under_way for what counts from then on.
CREATE TABLE reservations (
  run INTEGER NOT NULL REFERENCES runs (run) ON DELETE CASCADE,
  step_id TEXT NOT NULL,
  label TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  cost_picousd INTEGER NOT NULL,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  llm_calls INTEGER NOT NULL,
  tool_calls INTEGER NOT NULL,
  PRIMARY KEY (run, step_id, label)
) WITHOUT ROWID;
CREATE INDEX reservations_by_label ON reservations (label);

-- Model calls under way in runs that have a budget, and those that were when their session ended,
-- mostly by a kill: they may have been made, and count in budgets as what they have likely taken.
CREATE TABLE calls_under_way (
  run INTEGER NOT NULL REFERENCES runs (run) ON DELETE CASCADE,
  epoch INTEGER NOT NULL, -- the session in which it was made
  step_id TEXT NOT NULL,
  scope TEXT NOT NULL, -- where in the run
  agent TEXT, -- role
  at REAL NOT NULL,
  cost_picousd INTEGER NOT NULL, -- this and what follows: likely
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  llm_calls INTEGER NOT NULL,
  tool_calls INTEGER NOT NULL,
  PRIMARY KEY (run, epoch, step_id)
) WITHOUT ROWID;

-- What guards have said of values, and which tools have read what strangers may have written.
CREATE TABLE verdicts (
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES runs (run) ON DELETE CASCADE,
  epoch INTEGER NOT NULL, -- session in which it was said
  scope TEXT NOT NULL, -- where in the run
  step_id TEXT, -- the step that the value belongs to; NULL: none
  place TEXT NOT NULL,
    -- kickoff_input, model_input, model_output, tool_call, tool_result, task_output, final_output
  tool TEXT,
  guard TEXT NOT NULL,
  version TEXT NOT NULL, -- of its rules: what another version has said is not followed
  verdict TEXT NOT NULL CHECK (verdict = 'allow' OR verdict = 'modify' OR verdict = 'reject'
    OR verdict = 'escalate' OR verdict = 'unavailable' OR verdict = 'taint'),
    -- unavailable: it failed; taint: said by no guard, the tool has read what strangers may write
  judged TEXT NOT NULL, -- digest of the value
  at REAL NOT NULL,
  duration_ms REAL,
  reason TEXT, -- without secrets
  value TEXT -- JSON: what takes the place of a modified value
);
CREATE INDEX verdicts_by_run ON verdicts (run, id);

-- The questions people ask most. Views are made anew by every migration and hold no data.
-- Money is exact in cost_picousd (trillionths of a US dollar, integers) and in sums of it; cost_usd
-- is the same for reading. Both are of the calls whose cost is known; unpriced counts the others.

-- One row per try that reached a provider or tool, the recorded outcome included.
CREATE VIEW tries AS
SELECT run, step_id, attempts AS attempt, 1 AS outcome, status, epoch, started_at, duration_ms,
  input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, calls,
  cost_picousd, cost_picousd / 1e12 AS cost_usd, cost_status, cost_source
FROM steps
UNION ALL
SELECT run, step_id, attempt, 0, status, epoch, started_at, duration_ms,
  input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, calls,
  cost_picousd, cost_picousd / 1e12, cost_status, cost_source
FROM attempts;

-- One row per step: what it cost, failed tries included.
CREATE VIEW step_usage AS
SELECT r.run_id, s.step_id, s.seq, s.scope, s.kind, s.name, s.agent, s.task, s.status, s.attempts,
  s.epoch < r.epoch AS replayed,
  s.model, s.provider, s.started_at, s.duration_ms,
  coalesce(s.input_tokens, 0) + coalesce(a.input_tokens, 0) AS input_tokens,
  coalesce(s.output_tokens, 0) + coalesce(a.output_tokens, 0) AS output_tokens,
  coalesce(s.cache_read_tokens, 0) + coalesce(a.cache_read_tokens, 0) AS cache_read_tokens,
  coalesce(s.cache_write_tokens, 0) + coalesce(a.cache_write_tokens, 0) AS cache_write_tokens,
  coalesce(s.reasoning_tokens, 0) + coalesce(a.reasoning_tokens, 0) AS reasoning_tokens,
  coalesce(s.calls, 0) + coalesce(a.calls, 0) AS calls,
  1 + coalesce(a.tries, 0) AS requests,
  CASE WHEN a.cost_picousd IS NULL THEN s.cost_picousd
    ELSE coalesce(s.cost_picousd, 0) + a.cost_picousd END AS cost_picousd,
  CASE WHEN a.cost_picousd IS NULL THEN s.cost_picousd
    ELSE coalesce(s.cost_picousd, 0) + a.cost_picousd END / 1e12 AS cost_usd,
  s.cost_status, s.cost_source,
  coalesce(s.cost_status = 'unpriced', 0) + coalesce(a.unpriced, 0) AS unpriced,
  s.route
FROM steps s
JOIN runs r ON r.run = s.run
LEFT JOIN (
  SELECT run, step_id, count(*) AS tries, sum(input_tokens) AS input_tokens,
    sum(output_tokens) AS output_tokens, sum(cache_read_tokens) AS cache_read_tokens,
    sum(cache_write_tokens) AS cache_write_tokens, sum(reasoning_tokens) AS reasoning_tokens,
    sum(calls) AS calls, sum(cost_picousd) AS cost_picousd,
    sum(cost_status = 'unpriced') AS unpriced
  FROM attempts GROUP BY run, step_id
) a ON a.run = s.run AND a.step_id = s.step_id;

-- One row per run and agent.
CREATE VIEW agent_usage AS
SELECT run_id, agent,
  sum(CASE kind WHEN 'model' THEN requests ELSE 0 END) AS llm_calls,
  sum(kind = 'tool') AS tool_calls,
  sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
  sum(input_tokens + output_tokens) AS total_tokens,
  sum(cost_picousd) AS cost_picousd, sum(cost_picousd) / 1e12 AS cost_usd,
  sum(unpriced) AS unpriced
FROM step_usage GROUP BY run_id, agent;

-- One row per run and task; task is NULL for what happened outside the tasks.
CREATE VIEW task_usage AS
SELECT run_id, task,
  sum(CASE kind WHEN 'model' THEN requests ELSE 0 END) AS llm_calls,
  sum(kind = 'tool') AS tool_calls,
  sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
  sum(input_tokens + output_tokens) AS total_tokens,
  sum(cost_picousd) AS cost_picousd, sum(cost_picousd) / 1e12 AS cost_usd,
  sum(unpriced) AS unpriced
FROM step_usage GROUP BY run_id, task;

-- One row per run. `running` here may be a run whose process is gone: see lease_expires_at.
CREATE VIEW run_summary AS
SELECT r.run_id, r.status, r.reason, r.kind, r.crew, r.epoch, r.lease_expires_at,
  r.created_at, max(r.updated_at, coalesce(u.last_at, 0)) AS updated_at, r.finished_at,
  coalesce(u.llm_calls, 0) AS llm_calls, coalesce(u.tool_calls, 0) AS tool_calls,
  coalesce(u.input_tokens, 0) AS input_tokens, coalesce(u.output_tokens, 0) AS output_tokens,
  coalesce(u.input_tokens + u.output_tokens, 0) AS total_tokens,
  coalesce(u.replayed_llm_calls, 0) AS replayed_llm_calls,
  coalesce(u.replayed_tool_calls, 0) AS replayed_tool_calls,
  u.cost_picousd, u.cost_picousd / 1e12 AS cost_usd, u.unpriced, r.error
FROM runs r
LEFT JOIN (
  SELECT run_id,
    sum(CASE kind WHEN 'model' THEN requests ELSE 0 END) AS llm_calls,
    sum(kind = 'tool') AS tool_calls,
    sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
    sum(kind = 'model' AND replayed) AS replayed_llm_calls,
    sum(kind = 'tool' AND replayed) AS replayed_tool_calls,
    sum(cost_picousd) AS cost_picousd, sum(unpriced) AS unpriced,
    max(started_at + coalesce(duration_ms, 0) / 1000) AS last_at
  FROM step_usage GROUP BY run_id
) u ON u.run_id = r.run_id;

-- One row per tool over all runs: how often, how slow, how often in vain.
CREATE VIEW tool_latency AS
SELECT s.name AS tool, count(*) AS tries, sum(t.status = 'failed') AS failed,
  avg(t.duration_ms) AS mean_ms, min(t.duration_ms) AS min_ms, max(t.duration_ms) AS max_ms
FROM tries t JOIN steps s ON s.run = t.run AND s.step_id = t.step_id
WHERE s.kind = 'tool' GROUP BY s.name;

-- One row per crew and tool: how long its results are, in characters as a model reads them, and how
-- often and how much of them was cut. What is read is paid for again with every later call.
CREATE VIEW tool_output AS
SELECT r.crew, s.name AS tool, count(*) AS results, sum(s.output_size) AS total_size,
  avg(s.output_size) AS mean_size, max(s.output_size) AS max_size,
  sum(coalesce(s.output_cut > 0, 0)) AS cut_results, sum(coalesce(s.output_cut, 0)) AS total_cut
FROM steps s JOIN runs r ON r.run = s.run
WHERE s.kind = 'tool' AND s.output_size IS NOT NULL
GROUP BY r.crew, s.name;

-- One row per try, in the columns of table run_usage, which holds the same summed up.
CREATE VIEW spending AS
SELECT s.run, r.crew, r.kind, CAST(s.started_at / 3600 AS INTEGER) AS hour, s.task, s.agent,
  s.provider, CASE s.kind WHEN 'model' THEN coalesce(s.model, s.name) END AS model,
  1 AS steps, s.kind = 'model' AS llm_calls, s.kind = 'tool' AS tool_calls,
  coalesce(s.input_tokens, 0) AS input_tokens, coalesce(s.output_tokens, 0) AS output_tokens,
  coalesce(s.cache_read_tokens, 0) AS cache_read_tokens,
  coalesce(s.cache_write_tokens, 0) AS cache_write_tokens,
  coalesce(s.reasoning_tokens, 0) AS reasoning_tokens,
  coalesce(s.cost_picousd, 0) AS cost_picousd, s.cost_picousd IS NOT NULL AS priced,
  coalesce(s.cost_status = 'unpriced', 0) AS unpriced
FROM runs r CROSS JOIN steps s ON s.run = r.run
UNION ALL
SELECT a.run, r.crew, r.kind, CAST(a.started_at / 3600 AS INTEGER), s.task, s.agent,
  CASE WHEN a.model IS NULL THEN s.provider ELSE a.provider END,
  CASE s.kind WHEN 'model' THEN coalesce(a.model, s.model, s.name) END,
  0, s.kind = 'model', 0,
  coalesce(a.input_tokens, 0), coalesce(a.output_tokens, 0), coalesce(a.cache_read_tokens, 0),
  coalesce(a.cache_write_tokens, 0), coalesce(a.reasoning_tokens, 0),
  coalesce(a.cost_picousd, 0), a.cost_picousd IS NOT NULL,
  coalesce(a.cost_status = 'unpriced', 0)
FROM runs r CROSS JOIN attempts a ON a.run = r.run
CROSS JOIN steps s ON s.run = a.run AND s.step_id = a.step_id;

-- What each run took, by hour, task, agent and model, summed up where the run is not at work.
CREATE VIEW run_spending AS
SELECT * FROM run_usage
WHERE run NOT IN (SELECT run FROM runs WHERE status = 'running')
UNION ALL
SELECT * FROM spending
WHERE run IN (SELECT run FROM runs WHERE status = 'running');

-- What all runs took, by day (UTC), crew, task, agent and model: for sums by what you like.
CREATE VIEW usage AS
SELECT day, nullif(crew, '') AS crew, kind, nullif(task, -1) AS task, nullif(agent, '') AS agent,
  nullif(provider, '') AS provider, nullif(model, '') AS model, steps, llm_calls, tool_calls,
  input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens,
  cost_picousd, priced, unpriced
FROM day_usage
UNION ALL
SELECT date(hour * 3600, 'unixepoch'), crew, kind, task, agent, provider, model, steps, llm_calls,
  tool_calls, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens,
  reasoning_tokens, cost_picousd, priced, unpriced
FROM spending WHERE run IN (SELECT run FROM runs WHERE status = 'running')
UNION ALL -- less what the earlier sessions of the runs at work have added above
SELECT date(hour * 3600, 'unixepoch'), crew, kind, task, agent, provider, model, -steps,
  -llm_calls, -tool_calls, -input_tokens, -output_tokens, -cache_read_tokens,
  -cache_write_tokens, -reasoning_tokens, -cost_picousd, -priced, -unpriced
FROM run_usage WHERE run IN (SELECT run FROM runs WHERE status = 'running');

-- One row per crew, flow or agent.
CREATE VIEW crew_usage AS
SELECT crew, kind, sum(llm_calls) AS llm_calls,
  sum(tool_calls) AS tool_calls, sum(input_tokens) AS input_tokens,
  sum(output_tokens) AS output_tokens, sum(input_tokens + output_tokens) AS total_tokens,
  CASE WHEN sum(priced) THEN sum(cost_picousd) END AS cost_picousd,
  CASE WHEN sum(priced) THEN sum(cost_picousd) END / 1e12 AS cost_usd, sum(unpriced) AS unpriced
FROM usage GROUP BY crew, kind;

-- One row per provider and model.
CREATE VIEW model_usage AS
SELECT provider, model, sum(llm_calls) AS llm_calls,
  sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
  sum(cache_read_tokens) AS cache_read_tokens, sum(cache_write_tokens) AS cache_write_tokens,
  sum(reasoning_tokens) AS reasoning_tokens,
  CASE WHEN sum(priced) THEN sum(cost_picousd) END AS cost_picousd,
  CASE WHEN sum(priced) THEN sum(cost_picousd) END / 1e12 AS cost_usd, sum(unpriced) AS unpriced
FROM usage WHERE model IS NOT NULL GROUP BY provider, model;

-- One row per day (UTC), provider and model.
CREATE VIEW daily_cost AS
SELECT day, provider, model, sum(llm_calls) AS llm_calls,
  sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
  CASE WHEN sum(priced) THEN sum(cost_picousd) END AS cost_picousd,
  CASE WHEN sum(priced) THEN sum(cost_picousd) END / 1e12 AS cost_usd, sum(unpriced) AS unpriced
FROM usage WHERE model IS NOT NULL GROUP BY day, provider, model;

-- One row per crew, guard and place: how often it has judged, and what it has said.
CREATE VIEW guard_verdicts AS
SELECT r.crew, r.kind, v.guard, v.version, v.place, count(*) AS judged,
  sum(v.verdict = 'allow') AS allowed, sum(v.verdict = 'modify') AS modified,
  sum(v.verdict = 'reject') AS rejected, sum(v.verdict = 'escalate') AS escalated,
  sum(v.verdict = 'unavailable') AS unavailable,
  count(DISTINCT CASE WHEN v.verdict <> 'allow' THEN v.run END) AS runs_concerned,
  avg(v.duration_ms) AS mean_ms, max(v.at) AS last_at
FROM verdicts v JOIN runs r ON r.run = v.run
WHERE v.verdict <> 'taint' GROUP BY r.crew, r.kind, v.guard, v.version, v.place;

-- What each model step was asked and answered: `asked` is a JSON list of messages, first one first.
CREATE VIEW transcripts AS
SELECT r.run_id, s.step_id, s.seq, s.scope, s.agent, s.name, (
    WITH RECURSIVE chain (depth, digest) AS (
      SELECT 0, s.request
      UNION ALL
      SELECT c.depth + 1, m.parent
      FROM chain c JOIN messages m ON m.run = s.run AND m.digest = c.digest
      WHERE m.parent IS NOT NULL
    )
    SELECT json_group_array(CASE WHEN json_valid(body) THEN json(body) ELSE json_quote(body) END)
    FROM (
      SELECT CASE WHEN json_valid(m.body) AND json_valid(said.result)
        THEN json_set(m.body, '$.content', json_extract(said.result, '$')) ELSE m.body END AS body
      FROM chain c
      JOIN messages m ON m.run = s.run AND m.digest = c.digest
      LEFT JOIN steps said ON said.run = m.run AND said.step_id = m.content_step
      ORDER BY c.depth DESC
    )
  ) AS asked, s.result AS answered
FROM steps s JOIN runs r ON r.run = s.run
WHERE s.kind = 'model';

-- One row per crew, task and reason for which people were asked. rate: the part of all runs of that
-- crew in which that was so, from 0 to 1.
CREATE VIEW escalations AS
WITH crews AS (SELECT kind, crew, count(*) AS runs FROM runs GROUP BY kind, crew)
SELECT r.kind, r.crew, a.task, coalesce(a.why, 'unknown') AS why,
  count(*) AS questions,
  count(DISTINCT a.run) AS runs,
  sum(a.status = 'open') AS open,
  count(CASE a.verdict WHEN 'approved' THEN 1 END) AS approved,
  count(CASE a.verdict WHEN 'rejected' THEN 1 END) AS rejected,
  sum(a.status = 'expired') AS expired,
  avg(a.answered_at - a.asked_at) AS seconds_to_answer,
  count(DISTINCT a.run) * 1.0 / c.runs AS rate
FROM approvals a
JOIN runs r ON r.run = a.run
JOIN crews c ON c.kind = r.kind AND c.crew IS r.crew
GROUP BY r.kind, r.crew, a.task, coalesce(a.why, 'unknown');
