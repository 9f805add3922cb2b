"""Whether the engine makes progress: not whether processes are there, but whether what could be done is being done."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.db import connection, transaction

# Milliseconds. It takes a few; a database that needs longer is as good as away.
_STATEMENT_TIMEOUT = 1000

# Providers and organisations with something queued are found by hopping through the index `run_queued`, as a claim does, and
# of each the oldest run: the cost follows their number, not the length of the queue or of the history.
#
# What was done after the statement began, and is seen by it, was done just now: no age is below 0.
#
# claimable  due, at a provider that takes runs, of an organisation below its cap
# unattended claimable, where neither a claim was made within the limit nor a run is in flight: places may all be taken
_PROGRESS = """
WITH RECURSIVE waiting AS (
    (SELECT provider_id, organization_id FROM batches_run
      WHERE status_code = 'queued' ORDER BY provider_id, organization_id LIMIT 1)
    UNION ALL
    SELECT following.provider_id, following.organization_id
      FROM waiting CROSS JOIN LATERAL (
        SELECT provider_id, organization_id FROM batches_run
         WHERE status_code = 'queued' AND (provider_id, organization_id) > (waiting.provider_id, waiting.organization_id)
         ORDER BY provider_id, organization_id LIMIT 1) AS following
), claimable AS (
    SELECT waiting.provider_id, max(extract(epoch FROM statement_timestamp() - oldest.due_at))::float AS age
      FROM waiting
      JOIN models_registry_provider AS provider ON provider.id = waiting.provider_id AND provider.status_code = 'active'
      JOIN accounts_organization AS organization ON organization.id = waiting.organization_id
      CROSS JOIN LATERAL (
        SELECT due_at FROM batches_run
         WHERE provider_id = waiting.provider_id AND organization_id = waiting.organization_id AND status_code = 'queued'
         ORDER BY due_at LIMIT 1) AS oldest
     WHERE oldest.due_at <= statement_timestamp()
       AND (organization.max_in_flight IS NULL OR organization.max_in_flight > (
            SELECT count(*) FROM batches_run
             WHERE organization_id = waiting.organization_id AND status_code IN ('dispatching', 'running')))
       AND (NOT EXISTS (SELECT 1 FROM models_registry_endpoint WHERE provider_id = waiting.provider_id)
            OR EXISTS (SELECT 1 FROM models_registry_endpoint
                        WHERE provider_id = waiting.provider_id AND status_code = 'active'))
     GROUP BY waiting.provider_id
), age AS (
    SELECT name, greatest(extract(epoch FROM statement_timestamp() - beat_at)::float, 0) AS age FROM batches_heartbeat
)
SELECT (SELECT max(age) FROM claimable),
       (SELECT max(age) FROM claimable
         WHERE age > %(limit)s
           AND NOT EXISTS (SELECT 1 FROM age WHERE name = 'claim ' || claimable.provider_id AND age.age <= %(limit)s)
           AND NOT EXISTS (SELECT 1 FROM batches_run WHERE provider_id = claimable.provider_id
                                                       AND status_code IN ('dispatching', 'running'))),
       (SELECT min(age) FROM age WHERE name LIKE 'claim %%'),
       (SELECT age FROM age WHERE name = 'sweep'),
       (SELECT extract(epoch FROM statement_timestamp() - min(next_attempt_at))::float FROM callbacks_callbackdelivery
         WHERE status_code = 'pending' AND lease_expires_at IS NULL AND next_attempt_at <= statement_timestamp()),
       (SELECT greatest(extract(epoch FROM statement_timestamp() - created_at)::float, 0) FROM callbacks_callbackattempt
         ORDER BY id DESC LIMIT 1),
       EXISTS (SELECT 1 FROM callbacks_callbackdelivery WHERE lease_expires_at > statement_timestamp())
"""


@dataclass(frozen=True, slots=True)
class Progress:
    """How long ago things happened, or have been waiting, in seconds. None: never, or nothing waits."""

    oldest_claimable_run: float | None
    oldest_unattended_run: float | None  # of those, where for as long as the limit nobody was at work
    last_claim: float | None
    last_sweep: float | None
    oldest_due_callback: float | None
    last_callback_attempt: float | None
    is_sending: bool  # callbacks are on their way now

    def stalls(self, *, limit: timedelta) -> tuple[str, ...]:
        """What stands still although there is something to do, each a sentence; none when all goes on. A pure function."""
        seconds = limit.total_seconds()
        found = []
        if self.oldest_unattended_run is not None:
            found.append(
                f"A run has waited for {self.oldest_unattended_run:.0f} s at a provider where nothing is claimed."
            )
        if self.last_sweep is None:
            found.append("No sweep has ever come to its end.")
        elif self.last_sweep > seconds:
            found.append(f"No sweep has come to its end for {self.last_sweep:.0f} s.")
        is_due = self.oldest_due_callback is not None and self.oldest_due_callback > seconds
        is_quiet = self.last_callback_attempt is None or self.last_callback_attempt > seconds
        if is_due and is_quiet and not self.is_sending:
            found.append(f"A callback has been due for {self.oldest_due_callback:.0f} s and none is sent.")
        return tuple(found)


def read_progress(*, limit: timedelta) -> Progress:
    """Read it from the rows, in one statement. Raises OperationalError when that takes longer than a second."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT set_config('statement_timeout', %s, true)", [str(_STATEMENT_TIMEOUT)])
        cursor.execute(_PROGRESS, {"limit": limit.total_seconds()})
        return Progress(*cursor.fetchone())
