"""Moving deliveries, in sets: create, claim, record, give back, purge. Every move is a compare-and-set."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from callbacks import sql
from callbacks.models import CallbackAttempt, CallbackDelivery, SubjectType
from callbacks.retry import judge
from runflow.lib.doorbell import ring_after_commit
from runflow.lib.ids import uuid7
from runflow.lib.outbound import host_of

logger = logging.getLogger(__name__)

DELIVER_TASK = "callbacks.deliver"
# One sweep gives back at most this many expired leases in a transaction, so that it never holds many locks for long.
SWEEP_LIMIT = 500
_PURGE_SLICE = 500
_LOST = "The worker that sent this disappeared; whether it arrived is not known."


@dataclass(frozen=True, slots=True)
class Draft:
    """A callback to be made: `payload` is the body as it will be sent. `request_id` is that of the request behind it."""

    subject_type: SubjectType
    subject_id: UUID
    organization_id: UUID
    callback_url: str
    payload: bytes
    request_id: str


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A delivery that is ours for one attempt, until its lease runs out."""

    id: UUID
    attempt: int
    max_attempts: int
    organization_id: UUID
    callback_url: str
    payload: bytes
    request_id: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of sending a delivery once. `status` is HTTP's, None when no whole answer came; then `error` says why."""

    delivery_id: UUID
    attempt: int
    max_attempts: int
    started_at: datetime
    status: int | None = None
    body: str | None = None
    time_ms: int | None = None
    error: str | None = None
    retry_after: float | None = None
    secret_id: UUID | None = None


def create_deliveries(*, drafts: Sequence[Draft], is_automatic: bool) -> dict[UUID, UUID]:
    """Store deliveries, due at once, in one statement; ring once that is committed. Returns subject id: delivery id.

    What a unique index refuses is left out: a second automatic delivery of a subject, or a second one in flight.
    """
    if not drafts:
        return {}
    ids = {uuid7(): draft.subject_id for draft in drafts}
    with transaction.atomic(savepoint=False), connection.cursor() as cursor:
        cursor.execute(
            sql.INSERT_DELIVERIES,
            {
                "ids": list(ids),
                "organization_ids": [draft.organization_id for draft in drafts],
                "subject_types": [str(draft.subject_type) for draft in drafts],
                "subject_ids": [draft.subject_id for draft in drafts],
                "callback_urls": [draft.callback_url for draft in drafts],
                "hosts": [host_of(draft.callback_url) for draft in drafts],
                "payloads": [draft.payload for draft in drafts],
                "request_ids": [draft.request_id for draft in drafts],
                "is_automatic": is_automatic,
                "max_attempts": 1 + len(settings.CALLBACK_RETRY_DELAYS),
            },
        )
        created = {ids[row[0]]: row[0] for row in cursor.fetchall()}
        if created:
            ring_after_commit(DELIVER_TASK)
    return created


def claim_deliveries(*, limit: int) -> list[ClaimedDelivery]:
    """Take up to `limit` due deliveries, in turn between hosts, at most CALLBACK_HOST_CONCURRENCY of one host at a time."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql.LOCK_CLAIMS)
        cursor.execute(
            sql.CLAIM,
            {
                "limit": limit,
                "per_host": settings.CALLBACK_HOST_CONCURRENCY,
                "lease": settings.CALLBACK_LEASE.total_seconds(),
            },
        )
        claimed = [ClaimedDelivery(*row) for row in cursor.fetchall()]
    # RETURNING promises no order; UUIDv7 ids are in the order of the events.
    return sorted(claimed, key=lambda delivery: delivery.id)


def record(*, attempts: Sequence[Attempt]) -> dict[UUID, str]:
    """Write down what came of a set of attempts, in one transaction. Returns delivery id: status, of those still ours.

    delivered, pending again with a new due time, or failed, as `retry.judge` says; and a line in the log for each. An attempt
    that is no longer the current one (its lease ran out and the sweep gave it up) changes nothing.
    """
    if not attempts:
        return {}
    verdicts = [
        judge(
            each.status,
            attempt=each.attempt,
            max_attempts=each.max_attempts,
            delays=settings.CALLBACK_RETRY_DELAYS,
            jitter=random.random(),
            retry_after=each.retry_after,
        )
        for each in attempts
    ]
    fences: dict[str, Any] = {
        "ids": [each.delivery_id for each in attempts],
        "attempts": [each.attempt for each in attempts],
    }
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql.LOCK_SENT, fences)
        cursor.execute(
            sql.RECORD,
            {
                **fences,
                "attempt_ids": [uuid7() for _ in attempts],
                "status_codes": [str(verdict.status_code) for verdict in verdicts],
                "delays": [verdict.delay for verdict in verdicts],
                "reasons": [verdict.failure_reason_code for verdict in verdicts],
                "http_statuses": [each.status for each in attempts],
                "bodies": [each.body for each in attempts],
                "times": [each.time_ms for each in attempts],
                "errors": [each.error for each in attempts],
                "secret_ids": [each.secret_id for each in attempts],
                "started": [each.started_at for each in attempts],
            },
        )
        moved = dict(cursor.fetchall())
        used = list({each.secret_id for each in attempts if each.secret_id is not None})
        if used:
            cursor.execute(sql.SECRETS_USED, {"ids": used})
    return moved


def return_expired(*, limit: int = SWEEP_LIMIT) -> int:
    """Give back the deliveries whose lease ran out: nobody knows whether it arrived, so it is sent again. Returns how many."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql.EXPIRED, {"limit": limit})
        lost = [
            Attempt(
                delivery_id=delivery_id,
                attempt=attempt,
                max_attempts=max_attempts,
                started_at=lease_expires_at - settings.CALLBACK_LEASE,
                error=_LOST,
            )
            for delivery_id, attempt, max_attempts, lease_expires_at in cursor.fetchall()
        ]
        record(attempts=lost)
    if lost:
        logger.warning("Gave back %d callback deliveries whose lease had expired", len(lost))
    return len(lost)


def has_due() -> bool:
    """Whether a delivery waits to be sent now."""
    with connection.cursor() as cursor:
        cursor.execute(sql.HAS_DUE)
        return bool(cursor.fetchone()[0])


def _old() -> Any:
    return CallbackDelivery.objects.filter(completed_at__lte=timezone.now() - settings.CALLBACK_RETENTION)


def count_old() -> int:
    """How many deliveries are over for longer than CALLBACK_RETENTION."""
    return int(_old().count())


def purge_old() -> int:
    """Delete those with their payloads and attempts, a slice a transaction. Returns how many deliveries."""
    total = 0
    while True:
        with transaction.atomic():
            ids = list(
                _old().order_by("pk").select_for_update(skip_locked=True).values_list("pk", flat=True)[:_PURGE_SLICE]
            )
            CallbackAttempt.objects.filter(delivery__in=ids).delete()
            CallbackDelivery.objects.filter(pk__in=ids).delete()
        total += len(ids)
        if len(ids) < _PURGE_SLICE:
            return total
