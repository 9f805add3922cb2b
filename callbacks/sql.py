"""The statements that move deliveries in sets. Each is one round trip whatever the number of rows (architecture.md, rule 2)."""

# Both unique indexes may say no: a second automatic delivery, or a second one in flight. What they let in is returned.
INSERT_DELIVERIES = """
INSERT INTO callbacks_callbackdelivery (
    id, organization_id, subject_type, subject_id, callback_url, host, payload, request_id, is_automatic,
    status_code, attempt_count, max_attempts, next_attempt_at, created_at, updated_at)
SELECT
    given.id, given.organization_id, given.subject_type, given.subject_id, given.callback_url, given.host, given.payload,
    given.request_id, %(is_automatic)s, 'pending', 0, %(max_attempts)s, statement_timestamp(), statement_timestamp(),
    statement_timestamp()
FROM unnest(%(ids)s::uuid[], %(organization_ids)s::uuid[], %(subject_types)s::text[], %(subject_ids)s::uuid[],
            %(callback_urls)s::text[], %(hosts)s::text[], %(payloads)s::bytea[], %(request_ids)s::text[])
     AS given (id, organization_id, subject_type, subject_id, callback_url, host, payload, request_id)
ON CONFLICT DO NOTHING
RETURNING id
"""

# Two workers that claim at once would see the same free places of a host. A claim takes milliseconds, so all take turns.
LOCK_CLAIMS = "SELECT pg_advisory_xact_lock(hashtextextended('callbacks.claim', 0))"

# In turn between hosts, so that ten thousand deliveries to one that is dead hold up no other; oldest first within one.
# `waiting` finds the hosts by hopping through the index, so the cost follows their number and not that of the deliveries.
CLAIM = """
WITH RECURSIVE waiting AS (
    (SELECT host FROM callbacks_callbackdelivery
      WHERE status_code = 'pending' AND lease_expires_at IS NULL
      ORDER BY host LIMIT 1)
    UNION ALL
    SELECT (SELECT host FROM callbacks_callbackdelivery
             WHERE status_code = 'pending' AND lease_expires_at IS NULL AND host > waiting.host
             ORDER BY host LIMIT 1)
      FROM waiting WHERE waiting.host IS NOT NULL
), candidates AS (
    SELECT due.id
      FROM waiting
      CROSS JOIN LATERAL (
        SELECT delivery.id, delivery.next_attempt_at,
               row_number() OVER (ORDER BY delivery.next_attempt_at, delivery.id) AS turn
          FROM (
            SELECT id, next_attempt_at FROM callbacks_callbackdelivery
             WHERE host = waiting.host AND status_code = 'pending' AND lease_expires_at IS NULL
               AND next_attempt_at <= statement_timestamp()
             ORDER BY next_attempt_at, id
             LIMIT LEAST(%(limit)s, GREATEST(0, %(per_host)s - (
                SELECT count(*) FROM callbacks_callbackdelivery AS sending
                 WHERE sending.host = waiting.host AND sending.lease_expires_at IS NOT NULL)))
          ) AS delivery
      ) AS due
     ORDER BY due.turn, due.next_attempt_at, due.id
     LIMIT %(limit)s
), taken AS (
    SELECT id FROM callbacks_callbackdelivery
     WHERE id IN (SELECT id FROM candidates) AND status_code = 'pending' AND lease_expires_at IS NULL
     ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE callbacks_callbackdelivery AS delivery
   SET attempt_count = delivery.attempt_count + 1, updated_at = statement_timestamp(),
       lease_expires_at = statement_timestamp() + %(lease)s * interval '1 second'
  FROM taken
 WHERE delivery.id = taken.id
RETURNING delivery.id, delivery.attempt_count, delivery.max_attempts, delivery.organization_id, delivery.callback_url,
          delivery.payload, delivery.request_id
"""

# Locked first, in id order: the sweep and a late worker may hold overlapping sets.
LOCK_SENT = """
SELECT delivery.id FROM callbacks_callbackdelivery AS delivery
  JOIN unnest(%(ids)s::uuid[], %(attempts)s::int[]) AS sent (id, attempt)
    ON delivery.id = sent.id AND delivery.attempt_count = sent.attempt
 WHERE delivery.lease_expires_at IS NOT NULL
 ORDER BY delivery.id FOR NO KEY UPDATE OF delivery
"""

# The fence (`attempt_count`) and "still being sent" stand in the WHERE; only what moved gets its line in the log.
RECORD = """
WITH told AS (
    SELECT * FROM unnest(
        %(ids)s::uuid[], %(attempts)s::int[], %(attempt_ids)s::uuid[], %(status_codes)s::text[], %(delays)s::float[],
        %(reasons)s::text[], %(http_statuses)s::int[], %(bodies)s::text[], %(times)s::int[], %(errors)s::text[],
        %(secret_ids)s::uuid[], %(started)s::timestamptz[])
    AS told (id, attempt, attempt_id, status_code, delay, reason, http_status, body, time_ms, error, secret_id, started_at)
), moved AS (
    UPDATE callbacks_callbackdelivery AS delivery
       SET status_code = told.status_code,
           lease_expires_at = NULL,
           next_attempt_at = CASE WHEN told.status_code = 'pending'
                             THEN statement_timestamp() + told.delay * interval '1 second' END,
           completed_at = CASE WHEN told.status_code <> 'pending' THEN statement_timestamp() END,
           failure_reason_code = told.reason,
           failure_detail = CASE WHEN told.status_code = 'failed'
                            THEN COALESCE(told.error, 'The last answer had status ' || told.http_status || '.') END,
           signing_secret_id = told.secret_id,
           updated_at = statement_timestamp()
      FROM told
     WHERE delivery.id = told.id AND delivery.attempt_count = told.attempt AND delivery.lease_expires_at IS NOT NULL
    RETURNING delivery.id, delivery.status_code
), logged AS (
    INSERT INTO callbacks_callbackattempt (
        id, delivery_id, attempt_number, status_code, response_body, response_time_ms, error_message, created_at)
    SELECT told.attempt_id, told.id, told.attempt, told.http_status, told.body, told.time_ms, told.error, told.started_at
      FROM told JOIN moved ON moved.id = told.id
)
SELECT id, status_code FROM moved
"""

EXPIRED = """
SELECT id, attempt_count, max_attempts, lease_expires_at FROM callbacks_callbackdelivery
 WHERE lease_expires_at < statement_timestamp()
 ORDER BY id LIMIT %(limit)s FOR NO KEY UPDATE SKIP LOCKED
"""

HAS_DUE = """
SELECT EXISTS (
    SELECT 1 FROM callbacks_callbackdelivery
     WHERE status_code = 'pending' AND lease_expires_at IS NULL AND next_attempt_at <= statement_timestamp())
"""

# Written at most once a minute, like an API key's.
SECRETS_USED = """
UPDATE callbacks_callbacksecret SET last_used_at = statement_timestamp()
 WHERE id = ANY(%(ids)s) AND (last_used_at IS NULL OR last_used_at < statement_timestamp() - interval '1 minute')
"""
