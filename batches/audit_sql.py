"""The statements of the audit and of its repairs. Each is one pass over the rows, whatever their number.

Those of the audit give findings: check, subject, detail. `_FIRST` keeps of each check its count and the first few, so that
what is read does not grow with what is wrong. All of them look at the moment when their transaction began: `now()`.
"""
# ruff: noqa: S608 what is put together here are constants of this module

# One batch, or what was created since; everything where both are null.
_BATCHES = """
(%(batch_id)s::uuid IS NULL OR batch.id = %(batch_id)s)
AND (%(since)s::timestamptz IS NULL OR batch.created_at >= %(since)s)
"""
_RUNS = """
(%(batch_id)s::uuid IS NULL OR run.batch_id = %(batch_id)s)
AND (%(since)s::timestamptz IS NULL OR run.created_at >= %(since)s)
"""
_DELIVERIES = """
(%(batch_id)s::uuid IS NULL OR delivery.subject_id = %(batch_id)s
    OR delivery.subject_id IN (SELECT id FROM batches_run WHERE batch_id = %(batch_id)s))
AND (%(since)s::timestamptz IS NULL OR delivery.created_at >= %(since)s)
"""

SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"

COUNTS = f"""
SELECT (SELECT count(*) FROM batches_batch AS batch WHERE {_BATCHES}),
       (SELECT count(*) FROM batches_run AS run WHERE {_RUNS}),
       (SELECT count(*) FROM callbacks_callbackdelivery AS delivery WHERE {_DELIVERIES})
"""


def _first(findings: str) -> str:
    return f"""
SELECT name, found, subject, detail FROM (
    SELECT finding.*, count(*) OVER (PARTITION BY name) AS found,
           row_number() OVER (PARTITION BY name ORDER BY subject) AS position
      FROM ({findings}) AS finding) AS numbered
 WHERE position <= %(examples)s
 ORDER BY name, position
"""


# --- Batches ----------------------------------------------------------------------------------------------------------

# What a batch says, beside what its runs say. A run that was ever claimed has attempt > 0, and its claim started the batch.
_TALLY = """
SELECT batch.*, COALESCE(batch.cost::text, 'none') AS cost_text, COALESCE(total_cost::text, 'none') AS total_cost_text,
       CASE WHEN open > 0 THEN CASE WHEN is_started THEN 'running' ELSE 'queued' END
            WHEN succeeded = runs THEN 'succeeded'
            WHEN succeeded > 0 THEN 'partial_succeeded'
            WHEN cancelled = runs THEN 'canceled'
            ELSE 'failed' END AS derived_status
  FROM (
    SELECT batch.id, batch.status_code, batch.items_total, batch.items_succeeded, batch.items_failed,
           batch.items_cancelled, batch.cost, batch.started_at, batch.completed_at,
           count(run.id) AS runs,
           count(*) FILTER (WHERE run.status_code = 'succeeded') AS succeeded,
           count(*) FILTER (WHERE run.status_code = 'failed') AS failed,
           count(*) FILTER (WHERE run.status_code = 'canceled') AS cancelled,
           count(*) FILTER (WHERE run.status_code IN ('queued', 'dispatching', 'running')) AS open,
           sum(run.cost) AS total_cost,
           COALESCE(bool_or(run.attempt > 0), false) AS is_started,
           min(run.dispatched_at) AS first_dispatched,
           min(run.started_at) AS first_started,
           max(run.completed_at) AS last_completed
      FROM batches_batch AS batch LEFT JOIN batches_run AS run ON run.batch_id = batch.id
"""
_TALLIED = " GROUP BY batch.id) AS batch"
_ARE_COUNTERS_WRONG = "(items_succeeded, items_failed, items_cancelled) <> (succeeded, failed, cancelled)"
_IS_STATUS_WRONG = "status_code <> derived_status"
_IS_COST_WRONG = "cost IS DISTINCT FROM total_cost"
_IS_START_WRONG = "(started_at IS NOT NULL) <> is_started"

BATCHES = _first(f"""
SELECT finding.name, 'batch ' || batch.id AS subject, finding.detail
  FROM ({_TALLY} WHERE {_BATCHES} {_TALLIED}) AS batch
 CROSS JOIN LATERAL (VALUES
    ('batch_runs', runs <> items_total, concat(items_total, ' items, ', runs, ' runs')),
    ('batch_counters', {_ARE_COUNTERS_WRONG},
        concat('says ', items_succeeded, ' succeeded, ', items_failed, ' failed, ', items_cancelled, ' canceled; its runs say ',
               succeeded, ', ', failed, ', ', cancelled)),
    ('batch_status', runs > 0 AND {_IS_STATUS_WRONG}, concat('says ', status_code, '; its runs say ', derived_status)),
    ('batch_cost', {_IS_COST_WRONG}, concat('says ', cost_text, '; its runs say ', total_cost_text)),
    ('batch_times', {_IS_START_WRONG}
            OR started_at > LEAST(first_started, completed_at) + %(clock_step)s
            OR completed_at < last_completed - %(clock_step)s,
        CASE WHEN started_at IS NULL AND is_started THEN 'it has no start, but its runs began'
             WHEN started_at IS NOT NULL AND NOT is_started THEN 'it has a start, but no run began'
             WHEN completed_at < last_completed THEN 'it ended before its last run'
             ELSE 'it started after its first run, or after its end' END)
  ) AS finding (name, is_wrong, detail)
 WHERE finding.is_wrong
""")

# With `batch_runs` clean, this says that items and runs are one to one: an item names one run, and no two name the same.
ITEMS = _first(f"""
SELECT 'batch_items' AS name, 'batch ' || id AS subject,
       concat(items_total, ' items by its total, ', items, ' stored',
              CASE WHEN items > 0 THEN concat(', numbered ', first, ' to ', last) END,
              CASE WHEN astray > 0 THEN concat(', ', astray, ' with a run of another batch') END) AS detail
  FROM (
    SELECT batch.id, batch.items_total, count(item.id) AS items,
           min(item.sequence_index) AS first, max(item.sequence_index) AS last,
           count(item.id) FILTER (WHERE run.batch_id IS DISTINCT FROM batch.id) AS astray
      FROM batches_batch AS batch
      LEFT JOIN batches_batchitem AS item ON item.batch_id = batch.id
      LEFT JOIN batches_run AS run ON run.id = item.run_id
     WHERE {_BATCHES}
     GROUP BY batch.id) AS batch
 WHERE items <> items_total OR first <> 0 OR last <> items_total - 1 OR astray > 0
""")

# --- Runs and leases --------------------------------------------------------------------------------------------------

# A server whose driver died is of no interest unless runs are at it: the next driver takes an old lease over.
LEASES = _first(f"""
SELECT 'run_times' AS name, 'run ' || run.id AS subject, 'it ended before it started' AS detail
  FROM batches_run AS run
 WHERE run.completed_at < run.started_at - %(clock_step)s AND {_RUNS}
UNION ALL
SELECT 'run_lease', 'run ' || run.id, concat('expired ', date_trunc('second', now() - run.lease_expires_at), ' ago')
  FROM batches_run AS run
 WHERE run.status_code IN ('dispatching', 'running') AND run.lease_expires_at < now() - %(lease_slack)s AND {_RUNS}
UNION ALL
SELECT 'delivery_lease', 'delivery ' || delivery.id,
       concat('expired ', date_trunc('second', now() - delivery.lease_expires_at), ' ago')
  FROM callbacks_callbackdelivery AS delivery
 WHERE delivery.lease_expires_at < now() - %(lease_slack)s AND {_DELIVERIES}
UNION ALL
SELECT 'driver_lease', 'endpoint ' || endpoint.base_url,
       concat('expired ', date_trunc('second', now() - endpoint.driver_lease_expires_at), ' ago, and runs are at it')
  FROM models_registry_endpoint AS endpoint
 WHERE endpoint.driver_lease_expires_at < now() - %(lease_slack)s
   AND (endpoint.retry_at IS NULL OR endpoint.retry_at < now() - %(lease_slack)s)
   AND EXISTS (SELECT 1 FROM batches_run AS run
                WHERE run.endpoint_id = endpoint.id AND run.status_code IN ('dispatching', 'running') AND {_RUNS})
""")

# --- Callbacks --------------------------------------------------------------------------------------------------------

# More than one automatic delivery of a subject cannot be stored. Old ones are purged, so only what ended lately must have one.
_MISSING = f"""
SELECT 'batch' AS subject_type, batch.id FROM batches_batch AS batch
  LEFT JOIN callbacks_callbackdelivery AS delivery
    ON delivery.subject_type = 'batch' AND delivery.subject_id = batch.id AND delivery.is_automatic
 WHERE batch.callback_url IS NOT NULL AND batch.completed_at > now() - %(callback_retention)s
   AND delivery.id IS NULL AND {_BATCHES}
UNION ALL
SELECT 'run', run.id FROM batches_run AS run
  LEFT JOIN callbacks_callbackdelivery AS delivery
    ON delivery.subject_type = 'run' AND delivery.subject_id = run.id AND delivery.is_automatic
 WHERE run.callback_url IS NOT NULL AND run.completed_at > now() - %(callback_retention)s
   AND delivery.id IS NULL AND {_RUNS}
"""

# Overdue is what nobody is sending to its host: to a slow one only a few go at a time, and the rest waits by design.
CALLBACKS = _first(f"""
SELECT 'callback_missing' AS name, subject_type || ' ' || id AS subject, 'it ended and wants a callback' AS detail
  FROM ({_MISSING}) AS missing
UNION ALL
SELECT 'callback_unwanted', 'delivery ' || delivery.id,
       concat('its ', delivery.subject_type, ' ', delivery.subject_id,
              CASE WHEN COALESCE(batch.id, run.id) IS NULL THEN ' does not exist'
                   WHEN COALESCE(batch.completed_at, run.completed_at) IS NULL THEN ' has not ended'
                   ELSE ' wants no callback' END)
  FROM callbacks_callbackdelivery AS delivery
  LEFT JOIN batches_batch AS batch ON delivery.subject_type = 'batch' AND batch.id = delivery.subject_id
  LEFT JOIN batches_run AS run ON delivery.subject_type = 'run' AND run.id = delivery.subject_id
 WHERE (COALESCE(batch.completed_at, run.completed_at) IS NULL OR COALESCE(batch.callback_url, run.callback_url) IS NULL)
   AND {_DELIVERIES}
UNION ALL
SELECT 'delivery_overdue', 'delivery ' || delivery.id,
       concat('to ', delivery.host, ', due since ', date_trunc('second', now() - delivery.next_attempt_at),
              ', and nothing is sent there')
  FROM callbacks_callbackdelivery AS delivery
 WHERE delivery.status_code = 'pending' AND delivery.lease_expires_at IS NULL
   AND delivery.next_attempt_at < now() - %(overdue)s AND {_DELIVERIES}
   AND NOT EXISTS (SELECT 1 FROM callbacks_callbackdelivery AS sending
                    WHERE sending.host = delivery.host AND sending.lease_expires_at IS NOT NULL)
   AND NOT EXISTS (SELECT 1 FROM callbacks_callbackattempt AS attempt
                     JOIN callbacks_callbackdelivery AS sent ON sent.id = attempt.delivery_id
                    WHERE sent.host = delivery.host AND attempt.created_at > now() - %(overdue)s)
""")

# --- Credit -----------------------------------------------------------------------------------------------------------

# What credit is held for, beside what the ledger says of it. `most` is what it may cost.
_HELD = f"""
SELECT held.*, entry.* FROM (
    SELECT 'batch' AS subject_type, batch.id, batch.completed_at IS NOT NULL AS has_ended, COALESCE(batch.cost, 0) AS cost,
           (SELECT sum(price) FROM batches_run WHERE batch_id = batch.id) AS most
      FROM batches_batch AS batch WHERE batch.has_hold AND {_BATCHES}
    UNION ALL
    SELECT 'run', run.id, run.completed_at IS NOT NULL, COALESCE(run.cost, 0), run.price
      FROM batches_run AS run WHERE run.has_hold AND {_RUNS}
  ) AS held
 CROSS JOIN LATERAL (
    SELECT - sum(amount) FILTER (WHERE kind_code = 'hold') AS hold,
           sum(amount) FILTER (WHERE kind_code = 'release') AS release,
           COALESCE(- sum(amount) FILTER (WHERE kind_code = 'charge'), 0) AS charge
      FROM billing_ledgerentry WHERE subject_id = held.id) AS entry
"""

# The ledger is summed as a whole: what was created since some time says nothing about a balance.
CREDIT = _first(f"""
SELECT 'credit_balance' AS name, 'organization ' || organization.slug AS subject,
       concat('its balance is ', account.balance, ', its ledger sums to ', COALESCE(total, 0)) AS detail
  FROM billing_account AS account
  JOIN accounts_organization AS organization ON organization.id = account.organization_id
  LEFT JOIN (SELECT account_id, sum(amount) AS total FROM billing_ledgerentry GROUP BY account_id) AS ledger
    ON ledger.account_id = account.id
 WHERE account.balance <> COALESCE(total, 0)
   AND (%(batch_id)s::uuid IS NULL
        OR organization.id = (SELECT organization_id FROM batches_batch WHERE id = %(batch_id)s))
UNION ALL
SELECT finding.name, subject_type || ' ' || id, finding.detail
  FROM ({_HELD}) AS held
 CROSS JOIN LATERAL (VALUES
    ('credit_hold', hold IS DISTINCT FROM most OR release <> hold OR has_ended <> (release IS NOT NULL),
        CASE WHEN hold IS NULL THEN 'nothing is held for it'
             WHEN hold <> most THEN concat(hold, ' is held for it, and it may cost ', most)
             WHEN release <> hold THEN concat(hold, ' was held for it, and ', release, ' released')
             WHEN has_ended THEN concat('it has ended, and ', hold, ' is held for it')
             ELSE 'it has not ended, and nothing is held for it any more' END),
    ('credit_charge', charge <> CASE WHEN release IS NULL THEN 0 ELSE cost END,
        concat('it cost ', cost, ', and ', charge, ' was charged'))
  ) AS finding (name, is_wrong, detail)
 WHERE finding.is_wrong
UNION ALL
SELECT 'credit_hold', entry.subject_type || ' ' || entry.subject_id,
       concat(- entry.amount, ' is held for it, and it ',
              CASE WHEN COALESCE(batch.id, run.id) IS NULL THEN 'does not exist' ELSE 'knows of none' END)
  FROM billing_ledgerentry AS entry
  LEFT JOIN batches_batch AS batch ON entry.subject_type = 'batch' AND batch.id = entry.subject_id
  LEFT JOIN batches_run AS run ON entry.subject_type = 'run' AND run.id = entry.subject_id
 WHERE entry.kind_code = 'hold' AND COALESCE(batch.has_hold, run.has_hold, false) = false
   AND NOT EXISTS (SELECT 1 FROM billing_ledgerentry AS release
                    WHERE release.subject_id = entry.subject_id AND release.kind_code = 'release')
   AND (%(batch_id)s::uuid IS NULL OR entry.subject_id = %(batch_id)s)
   AND (%(since)s::timestamptz IS NULL OR entry.created_at >= %(since)s)
""")

# --- What waits -------------------------------------------------------------------------------------------------------

# Of each provider with queued runs: how many, how many of them by the will of their organisation's cap, for how long the
# oldest could have been claimed (seconds), and whether the provider is at work.
WAITING = f"""
WITH queued AS (
    SELECT run.provider_id, run.organization_id, count(*) AS runs, min(run.due_at) AS due_at
      FROM batches_run AS run WHERE run.status_code = 'queued' AND {_RUNS}
     GROUP BY run.provider_id, run.organization_id
), live AS (
    SELECT provider_id, organization_id, count(*) AS runs
      FROM batches_run WHERE status_code IN ('dispatching', 'running')
     GROUP BY provider_id, organization_id
)
SELECT provider.id, sum(queued.runs)::bigint,
       COALESCE(sum(queued.runs) FILTER (WHERE organization.max_in_flight = 0), 0)::bigint,
       (SELECT count(*) FROM models_registry_endpoint WHERE provider_id = provider.id),
       (SELECT count(*) FROM models_registry_endpoint WHERE provider_id = provider.id AND status_code = 'active'),
       COALESCE(max(extract(epoch FROM now() - queued.due_at)) FILTER (
           WHERE organization.max_in_flight IS NULL
              OR organization.max_in_flight > COALESCE((SELECT sum(runs) FROM live
                                                         WHERE organization_id = queued.organization_id), 0)), 0)::float,
       EXISTS (SELECT 1 FROM live WHERE provider_id = provider.id)
           OR EXISTS (SELECT 1 FROM batches_heartbeat
                       WHERE name = 'claim ' || provider.id AND beat_at > now() - %(overdue)s)
  FROM queued
  JOIN models_registry_provider AS provider ON provider.id = queued.provider_id
  JOIN accounts_organization AS organization ON organization.id = queued.organization_id
 GROUP BY provider.id
 ORDER BY provider.code
"""

# --- Repairs ----------------------------------------------------------------------------------------------------------

_IS_WRONG = f"""
runs = items_total AND runs > 0
AND ({_ARE_COUNTERS_WRONG} OR {_IS_STATUS_WRONG} OR {_IS_COST_WRONG} OR {_IS_START_WRONG})
"""

WRONG_BATCHES = f"""
SELECT id FROM ({_TALLY} WHERE batch.id > %(after)s AND {_BATCHES} {_TALLIED}) AS batch
 WHERE {_IS_WRONG} ORDER BY id LIMIT %(limit)s
"""

# Under their locks. Returns whether each has ended with this, and whether it then wants a callback.
DERIVE_BATCHES = f"""
UPDATE batches_batch AS batch
   SET items_succeeded = told.succeeded, items_failed = told.failed, items_cancelled = told.cancelled,
       cost = told.total_cost, status_code = told.derived_status,
       started_at = CASE WHEN told.is_started
                    THEN COALESCE(batch.started_at, told.first_dispatched, statement_timestamp()) END,
       completed_at = CASE WHEN told.open = 0 THEN COALESCE(batch.completed_at, statement_timestamp()) END
  FROM (SELECT * FROM ({_TALLY} WHERE batch.id = ANY(%(batch_ids)s) {_TALLIED}) AS batch WHERE {_IS_WRONG}) AS told
 WHERE batch.id = told.id
RETURNING batch.id, told.open = 0 AND told.completed_at IS NULL, batch.callback_url IS NOT NULL, batch.has_hold, batch.cost
"""

MISSING_CALLBACKS = f"""
SELECT subject_type, id FROM ({_MISSING}) AS missing WHERE id > %(after)s ORDER BY id LIMIT %(limit)s
"""

OPEN_HOLDS = f"""
SELECT subject_type, id FROM ({_HELD}) AS held
 WHERE has_ended AND hold IS NOT NULL AND release IS NULL AND id > %(after)s ORDER BY id LIMIT %(limit)s
"""

# Under their locks: what these cost, if they have ended. In the engine's order, runs before batches.
LOCK_ENDED_RUNS = """
SELECT id, COALESCE(cost, 0) FROM batches_run
 WHERE id = ANY(%(ids)s) AND has_hold AND completed_at IS NOT NULL ORDER BY id FOR NO KEY UPDATE
"""
LOCK_ENDED_BATCHES = """
SELECT id, COALESCE(cost, 0) FROM batches_batch
 WHERE id = ANY(%(ids)s) AND has_hold AND completed_at IS NOT NULL ORDER BY id FOR NO KEY UPDATE
"""
