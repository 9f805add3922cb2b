"""The statements that move work in sets. Each is one round trip whatever the number of rows (architecture.md, rule 2)."""

# --- Creating: the same columns for every row come as scalars, what differs as arrays. -------------------------------

# Only a replay's runs repeat another: an empty array of those gives every row NULL.
INSERT_RUNS = """
INSERT INTO batches_run (
    id, input, client_ref, replay_of_id,
    organization_id, batch_id, model_id, provider_id, resolved_template_id, dispatch_provider_link_id,
    status_code, source_code, price, attempt, max_attempts, due_at, request_id, created_by_id, created_at)
SELECT
    given.id, given.input::jsonb, given.client_ref, given.replay_of_id,
    %(organization_id)s, %(batch_id)s, %(model_id)s, %(provider_id)s, %(resolved_template_id)s,
    %(dispatch_provider_link_id)s, 'queued', %(source_code)s, %(price)s, 0, %(max_attempts)s, %(created_at)s,
    %(request_id)s, %(created_by_id)s, %(created_at)s
FROM unnest(%(ids)s::uuid[], %(inputs)s::text[], %(client_refs)s::text[], %(replay_of_ids)s::uuid[])
    AS given (id, input, client_ref, replay_of_id)
"""

INSERT_ITEMS = """
INSERT INTO batches_batchitem (id, run_id, client_ref, sequence_index, batch_id, created_at)
SELECT given.id, given.run_id, given.client_ref, given.position - 1, %(batch_id)s, %(created_at)s
FROM unnest(%(ids)s::uuid[], %(run_ids)s::uuid[], %(client_refs)s::text[])
    WITH ORDINALITY AS given (id, run_id, client_ref, position)
"""

# --- Claiming ---------------------------------------------------------------------------------------------------------

# Two workers that claim at once would see the same candidates and, worse, the same free places of an organisation, also
# when they claim for different providers. A claim takes milliseconds, so all take turns.
LOCK_CLAIMS = "SELECT pg_advisory_xact_lock(hashtextextended('batches.claim', 0))"

# Fair: the first run of every organisation, then the second of every one, and so on; oldest first within one.
# `waiting` finds the organisations by hopping through the index (a "loose index scan"), so the cost follows their number
# and the limit, not the length of the queue.
CLAIM = """
WITH RECURSIVE waiting AS (
    (SELECT organization_id FROM batches_run
      WHERE provider_id = %(provider_id)s AND status_code = 'queued'
      ORDER BY organization_id LIMIT 1)
    UNION ALL
    SELECT (SELECT organization_id FROM batches_run
             WHERE provider_id = %(provider_id)s AND status_code = 'queued' AND organization_id > waiting.organization_id
             ORDER BY organization_id LIMIT 1)
      FROM waiting WHERE waiting.organization_id IS NOT NULL
), candidates AS (
    SELECT due.id
      FROM waiting
      JOIN accounts_organization AS organization ON organization.id = waiting.organization_id
      CROSS JOIN LATERAL (
        SELECT run.id, run.due_at, row_number() OVER (ORDER BY run.due_at, run.id) AS turn FROM (
            SELECT id, due_at FROM batches_run
             WHERE provider_id = %(provider_id)s AND status_code = 'queued'
               AND organization_id = waiting.organization_id AND due_at <= statement_timestamp()
             ORDER BY due_at, id
             LIMIT CASE WHEN organization.max_in_flight IS NULL THEN %(limit)s
                   ELSE LEAST(%(limit)s, GREATEST(0, organization.max_in_flight - (
                        SELECT count(*) FROM batches_run AS live
                         WHERE live.organization_id = waiting.organization_id
                           AND live.status_code IN ('dispatching', 'running')))) END
        ) AS run
      ) AS due
     ORDER BY due.turn, due.due_at, due.id
     LIMIT %(limit)s
), taken AS (
    SELECT id FROM batches_run
     WHERE id IN (SELECT id FROM candidates) AND status_code = 'queued'
     ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE batches_run AS run
   SET status_code = 'dispatching', attempt = run.attempt + 1, dispatched_at = statement_timestamp(),
       -- At a server a driver keeps the lease on the server, and the run's own lasts as long as it may take.
       lease_expires_at = statement_timestamp() + interval '1 second' * (%(lease)s + CASE
           WHEN %(endpoint_id)s::uuid IS NULL THEN 0 ELSE (
               SELECT COALESCE(model.run_timeout, provider.run_timeout)
                 FROM models_registry_model AS model, models_registry_provider AS provider
                WHERE model.id = run.model_id AND provider.id = run.provider_id) END),
       endpoint_id = %(endpoint_id)s::uuid,
       -- Stored before anything is sent, so that after a crash the server can be asked what became of it.
       provider_job_id = CASE WHEN %(endpoint_id)s::uuid IS NOT NULL THEN gen_random_uuid()::text END
  FROM taken
 WHERE run.id = taken.id
RETURNING run.id, run.attempt, run.max_attempts, run.organization_id, run.batch_id, run.model_id, run.resolved_template_id,
          run.provider_job_id,
          -- Seconds that this attempt may take: the model's or the provider's limit, or what is left of the batch's.
          (SELECT LEAST(COALESCE(model.run_timeout, provider.run_timeout),
                        extract(epoch FROM batch.created_at - statement_timestamp()) + model.batch_timeout)
             FROM models_registry_model AS model
             JOIN models_registry_provider AS provider ON provider.id = run.provider_id
             LEFT JOIN batches_batch AS batch ON batch.id = run.batch_id
            WHERE model.id = run.model_id)::float,
          run.input
"""

# Batches are always locked in id order, after the runs, so that no two workers wait for each other.
START_BATCHES = """
WITH first AS (
    SELECT id FROM batches_batch WHERE id = ANY(%(batch_ids)s) AND status_code = 'queued'
     ORDER BY id FOR NO KEY UPDATE
)
UPDATE batches_batch AS batch SET status_code = 'running', started_at = statement_timestamp()
  FROM first WHERE batch.id = first.id
"""

# --- Holding ----------------------------------------------------------------------------------------------------------

BEGIN = """
UPDATE batches_run AS run
   SET status_code = 'running', started_at = statement_timestamp()
  FROM unnest(%(ids)s::uuid[], %(attempts)s::int[]) AS held (id, attempt)
 WHERE run.id = held.id AND run.attempt = held.attempt AND run.status_code = 'dispatching'
RETURNING run.id
"""

RENEW = """
UPDATE batches_run AS run
   SET lease_expires_at = statement_timestamp() + %(lease)s * interval '1 second'
  FROM unnest(%(ids)s::uuid[], %(attempts)s::int[]) AS held (id, attempt)
 WHERE run.id = held.id AND run.attempt = held.attempt AND run.status_code IN ('dispatching', 'running')
"""

# --- At an endpoint ---------------------------------------------------------------------------------------------------

# What the server calls it may differ from what we proposed.
ACCEPT = """
UPDATE batches_run AS run
   SET status_code = 'running', started_at = statement_timestamp(), provider_job_id = told.job_id,
       nodes_total = told.nodes_total
  FROM unnest(%(ids)s::uuid[], %(attempts)s::int[], %(job_ids)s::text[], %(nodes_totals)s::int[])
       AS told (id, attempt, job_id, nodes_total)
 WHERE run.id = told.id AND run.attempt = told.attempt AND run.status_code = 'dispatching'
RETURNING run.id
"""

# Oldest first: servers work in order.
AT_ENDPOINT = """
SELECT run.id, run.attempt, run.max_attempts, run.organization_id, run.provider_job_id,
       run.status_code = 'dispatching', run.cancel_requested_at IS NOT NULL,
       extract(epoch FROM statement_timestamp() - run.dispatched_at)::float,
       LEAST(COALESCE(model.run_timeout, provider.run_timeout)
                 - extract(epoch FROM statement_timestamp() - run.dispatched_at),
             model.batch_timeout - extract(epoch FROM statement_timestamp() - batch.created_at))::float
  FROM batches_run AS run
  JOIN models_registry_model AS model ON model.id = run.model_id
  JOIN models_registry_provider AS provider ON provider.id = run.provider_id
  LEFT JOIN batches_batch AS batch ON batch.id = run.batch_id
 WHERE run.endpoint_id = %(endpoint_id)s AND run.status_code IN ('dispatching', 'running')
 ORDER BY run.dispatched_at, run.id
"""

TO_CANCEL = """
SELECT id FROM batches_run
 WHERE endpoint_id = %(endpoint_id)s AND status_code IN ('dispatching', 'running') AND cancel_requested_at IS NOT NULL
"""

NAME_ASSETS = """
UPDATE batches_run AS run SET input = told.input::jsonb
  FROM unnest(%(ids)s::uuid[], %(attempts)s::int[], %(inputs)s::text[]) AS told (id, attempt, input)
 WHERE run.id = told.id AND run.attempt = told.attempt AND run.status_code IN ('dispatching', 'running')
"""

# Of whatever attempt: who holds an earlier one may stop all the more.
TO_CANCEL_HELD = "SELECT id FROM batches_run WHERE id = ANY(%(ids)s) AND cancel_requested_at IS NOT NULL"

PROGRESS = """
UPDATE batches_run AS run SET nodes_completed = told.nodes_completed
  FROM unnest(%(ids)s::uuid[], %(attempts)s::int[], %(nodes)s::int[]) AS told (id, attempt, nodes_completed)
 WHERE run.id = told.id AND run.attempt = told.attempt AND run.status_code = 'running'
"""

TAKE_ENDPOINT = """
UPDATE models_registry_endpoint
   SET driver_token = %(token)s, driver_lease_expires_at = statement_timestamp() + %(lease)s * interval '1 second'
 WHERE id = %(endpoint_id)s
   AND (driver_lease_expires_at IS NULL OR driver_lease_expires_at < statement_timestamp())
   AND (retry_at IS NULL OR retry_at <= statement_timestamp())
RETURNING id
"""

KEEP_ENDPOINT = """
UPDATE models_registry_endpoint
   SET driver_lease_expires_at = statement_timestamp() + %(lease)s * interval '1 second'
 WHERE id = %(endpoint_id)s AND driver_token = %(token)s
"""

RELEASE_ENDPOINT = """
UPDATE models_registry_endpoint SET driver_token = NULL, driver_lease_expires_at = NULL
 WHERE id = %(endpoint_id)s AND driver_token = %(token)s
"""

# Returns for how long it has been down, in seconds.
MARK_DOWN = """
UPDATE models_registry_endpoint
   SET down_since = COALESCE(down_since, statement_timestamp()), down_reason = %(reason)s,
       retry_at = statement_timestamp() + %(delay)s * interval '1 second'
 WHERE id = %(endpoint_id)s AND driver_token = %(token)s
RETURNING extract(epoch FROM statement_timestamp() - down_since)::float
"""

MARK_UP = """
UPDATE models_registry_endpoint SET down_since = NULL, retry_at = NULL, down_reason = ''
 WHERE id = %(endpoint_id)s AND driver_token = %(token)s AND down_since IS NOT NULL
"""

# How the servers of a provider are loaded, this one's first; and for how long its oldest due run has waited.
LOADS = """
SELECT endpoint.id = %(endpoint_id)s AS is_mine, endpoint.max_in_flight,
       (SELECT count(*) FROM batches_run
         WHERE endpoint_id = endpoint.id AND status_code IN ('dispatching', 'running'))
  FROM models_registry_endpoint AS endpoint
 WHERE endpoint.provider_id = %(provider_id)s
   AND (endpoint.id = %(endpoint_id)s OR endpoint.status_code = 'active' AND endpoint.down_since IS NULL)
 ORDER BY is_mine DESC, endpoint.id
"""

QUEUED = """
SELECT count(*), COALESCE(max(extract(epoch FROM statement_timestamp() - due_at)), 0)::float FROM (
    SELECT due_at FROM batches_run
     WHERE provider_id = %(provider_id)s AND status_code = 'queued' AND due_at <= statement_timestamp()
     LIMIT %(limit)s) AS due
"""

# Servers that want a driver: they hold runs, or may take some of their provider's; the least loaded first.
UNDRIVEN = """
SELECT endpoint.id FROM models_registry_endpoint AS endpoint
  JOIN models_registry_provider AS provider ON provider.id = endpoint.provider_id
  CROSS JOIN LATERAL (
    SELECT count(*) AS live FROM batches_run
     WHERE endpoint_id = endpoint.id AND status_code IN ('dispatching', 'running')) AS load
 WHERE (%(provider_id)s::uuid IS NULL OR endpoint.provider_id = %(provider_id)s::uuid)
   AND (endpoint.driver_lease_expires_at IS NULL OR endpoint.driver_lease_expires_at < statement_timestamp())
   AND (endpoint.retry_at IS NULL OR endpoint.retry_at <= statement_timestamp())
   AND (load.live > 0 OR endpoint.status_code = 'active' AND provider.status_code = 'active' AND (
        endpoint.down_since IS NOT NULL OR EXISTS (
            SELECT 1 FROM batches_run
             WHERE provider_id = provider.id AND status_code = 'queued' AND due_at <= statement_timestamp())))
 ORDER BY load.live::float / endpoint.max_in_flight, endpoint.id
"""

# --- Finishing --------------------------------------------------------------------------------------------------------

# Locked first, in id order: the sweep and a late worker may hold overlapping sets.
LOCK_HELD = """
SELECT run.id FROM batches_run AS run
  JOIN unnest(%(ids)s::uuid[], %(attempts)s::int[]) AS held (id, attempt)
    ON run.id = held.id AND run.attempt = held.attempt
 WHERE run.status_code IN ('dispatching', 'running')
 ORDER BY run.id FOR NO KEY UPDATE OF run
"""

# The fence (`attempt`) and "not terminal" stand in the WHERE; the returned rows are those that were still ours.
SETTLE_RUNS = """
UPDATE batches_run AS run
   SET status_code = told.status_code,
       output = told.output::jsonb,
       cost = CASE WHEN told.status_code = 'succeeded' THEN run.price END,
       failure_code = CASE WHEN told.status_code = 'failed' THEN told.failure_code END,
       failure_message = CASE WHEN told.status_code = 'failed' THEN told.failure_message END,
       failure_stage_code = CASE WHEN told.status_code = 'failed' THEN told.failure_stage_code END,
       -- What the row is about to forget of an attempt that is given back.
       past_attempts = CASE WHEN told.status_code = 'queued'
                       THEN COALESCE(run.past_attempts, '[]'::jsonb) || jsonb_build_object(
                            'attempt', run.attempt, 'dispatched_at', run.dispatched_at, 'started_at', run.started_at,
                            'ended_at', statement_timestamp(),
                            'due_at', statement_timestamp() + told.delay * interval '1 second',
                            'failure_code', told.failure_code, 'failure_message', told.failure_message,
                            'failure_stage_code', told.failure_stage_code)
                       ELSE run.past_attempts END,
       lease_expires_at = NULL,
       endpoint_id = CASE WHEN told.status_code <> 'queued' THEN run.endpoint_id END,
       provider_job_id = CASE WHEN told.status_code <> 'queued' THEN run.provider_job_id END,
       nodes_total = CASE WHEN told.status_code <> 'queued' THEN run.nodes_total END,
       nodes_completed = CASE WHEN told.status_code = 'succeeded' THEN run.nodes_total
                              WHEN told.status_code <> 'queued' THEN run.nodes_completed END,
       started_at = CASE WHEN told.status_code = 'queued' THEN NULL ELSE run.started_at END,
       due_at = CASE WHEN told.status_code = 'queued'
                THEN statement_timestamp() + told.delay * interval '1 second' ELSE run.due_at END,
       completed_at = CASE WHEN told.status_code <> 'queued' THEN statement_timestamp() END
  FROM (
    -- No other attempt of what somebody wants stopped.
    SELECT given.id, given.attempt, given.output, given.failure_code, given.failure_message, given.failure_stage_code,
           given.delay,
           CASE WHEN given.status_code = 'queued' AND held.cancel_requested_at IS NOT NULL THEN 'canceled'
                ELSE given.status_code END AS status_code
      FROM unnest(%(ids)s::uuid[], %(attempts)s::int[], %(status_codes)s::text[], %(outputs)s::text[],
                  %(failure_codes)s::text[], %(failure_messages)s::text[], %(failure_stage_codes)s::text[],
                  %(delays)s::float[])
           AS given (id, attempt, status_code, output, failure_code, failure_message, failure_stage_code, delay)
      JOIN batches_run AS held ON held.id = given.id
  ) AS told
 WHERE run.id = told.id AND run.attempt = told.attempt AND run.status_code IN ('dispatching', 'running')
RETURNING run.id, run.batch_id, run.status_code, run.cost, run.callback_url IS NOT NULL, run.has_hold
"""

LOCK_BATCHES = "SELECT id FROM batches_batch WHERE id = ANY(%(batch_ids)s) ORDER BY id FOR NO KEY UPDATE"

# The turnstile: counters move here only, under the batch's lock, and whoever makes them reach the total ends the batch.
SETTLE_BATCHES = """
WITH told AS (
    SELECT batch.id,
           batch.items_succeeded + given.succeeded AS succeeded,
           batch.items_failed + given.failed AS failed,
           batch.items_cancelled + given.cancelled AS cancelled,
           CASE WHEN given.succeeded > 0 THEN COALESCE(batch.cost, 0) + given.cost ELSE batch.cost END AS cost
      FROM batches_batch AS batch
      JOIN unnest(%(batch_ids)s::uuid[], %(succeeded)s::int[], %(failed)s::int[], %(cancelled)s::int[],
                  %(costs)s::numeric[]) AS given (id, succeeded, failed, cancelled, cost) ON given.id = batch.id
)
UPDATE batches_batch AS batch
   SET items_succeeded = told.succeeded, items_failed = told.failed, items_cancelled = told.cancelled,
       cost = told.cost,
       status_code = CASE
           WHEN told.succeeded + told.failed + told.cancelled < batch.items_total THEN batch.status_code
           WHEN told.succeeded = batch.items_total THEN 'succeeded'
           WHEN told.succeeded > 0 THEN 'partial_succeeded'
           WHEN told.cancelled = batch.items_total THEN 'canceled'
           ELSE 'failed' END,
       completed_at = CASE WHEN told.succeeded + told.failed + told.cancelled = batch.items_total
                      THEN statement_timestamp() END
  FROM told
 WHERE batch.id = told.id
RETURNING batch.id, batch.completed_at IS NOT NULL, batch.callback_url IS NOT NULL, batch.has_hold, batch.cost
"""

# --- Cancelling -------------------------------------------------------------------------------------------------------

# Locked first, in id order, like every set of runs.
LOCK_OPEN = """
SELECT id FROM batches_run
 WHERE (batch_id = ANY(%(batch_ids)s) OR id = ANY(%(run_ids)s)) AND status_code IN ('queued', 'dispatching', 'running')
 ORDER BY id FOR NO KEY UPDATE
"""

CANCEL_QUEUED = """
UPDATE batches_run
   SET status_code = 'canceled', completed_at = statement_timestamp(),
       cancel_requested_at = statement_timestamp(), cancel_reason = %(reason)s
 WHERE id = ANY(%(ids)s) AND status_code = 'queued'
RETURNING id, batch_id, status_code, cost, callback_url IS NOT NULL, has_hold
"""

# Who works on it sees this, and says what became of it.
ASK_TO_STOP = """
UPDATE batches_run SET cancel_requested_at = statement_timestamp(), cancel_reason = %(reason)s
 WHERE id = ANY(%(ids)s) AND status_code IN ('dispatching', 'running') AND cancel_requested_at IS NULL
RETURNING id, endpoint_id
"""

NOTE_CANCEL = """
UPDATE batches_batch SET cancel_requested_at = statement_timestamp(), cancel_reason = %(reason)s
 WHERE id = ANY(%(batch_ids)s) AND completed_at IS NULL AND cancel_requested_at IS NULL
"""

# --- Batches whose time is over -----------------------------------------------------------------------------------------

LOCK_OVERDUE = """
SELECT run.id FROM batches_batch AS batch
  JOIN models_registry_model AS model ON model.id = batch.model_id AND model.batch_timeout IS NOT NULL
  JOIN batches_run AS run ON run.batch_id = batch.id AND run.status_code = 'queued'
 WHERE batch.status_code IN ('queued', 'running')
   AND batch.created_at < statement_timestamp() - model.batch_timeout * interval '1 second'
 ORDER BY run.id LIMIT %(limit)s FOR NO KEY UPDATE OF run SKIP LOCKED
"""

# Those at work are stopped by who works on them.
FAIL_QUEUED = """
UPDATE batches_run
   SET status_code = 'failed', completed_at = statement_timestamp(), failure_code = 'PROVIDER_TIMEOUT',
       failure_message = %(message)s, failure_stage_code = 'dispatch'
 WHERE id = ANY(%(ids)s) AND status_code = 'queued'
RETURNING id, batch_id, status_code, cost, callback_url IS NOT NULL, has_hold
"""

# --- Sweeping ---------------------------------------------------------------------------------------------------------

EXPIRED = """
SELECT id, attempt, max_attempts FROM batches_run
 WHERE status_code IN ('dispatching', 'running') AND lease_expires_at < statement_timestamp()
 ORDER BY id LIMIT %(limit)s FOR NO KEY UPDATE SKIP LOCKED
"""

# Providers with something to claim.
WAITING_PROVIDERS = """
SELECT provider.id FROM models_registry_provider AS provider
 WHERE provider.status_code = 'active' AND EXISTS (
    SELECT 1 FROM batches_run
     WHERE provider_id = provider.id AND status_code = 'queued' AND due_at <= statement_timestamp())
"""
