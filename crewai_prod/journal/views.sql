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
