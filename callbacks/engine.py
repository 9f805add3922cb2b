"""Sending deliveries: claim a few, send them side by side, record what came of them, until nothing is due."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from uuid import UUID

from django.conf import settings
from django.utils import timezone

from callbacks.lifecycle import (
    DELIVER_TASK,
    SWEEP_LIMIT,
    Attempt,
    ClaimedDelivery,
    claim_deliveries,
    has_due,
    record,
    return_expired,
)
from callbacks.services import signing_keys
from callbacks.signing import SigningKeys, callback_headers
from runflow.lib import outbound
from runflow.lib.doorbell import ring

logger = logging.getLogger(__name__)

# contract.md section 7: of the answer this much is read and kept.
MOST_KEPT = 8 * 1024
# Seconds. While answers are awaited, how often it looks for what became due meanwhile: a slow receiver holds no other up.
LOOK_INTERVAL = 0.2
_UNREADABLE = "The secrets that sign this callback cannot be read at the moment."


def deliver() -> int:
    """Send what is due, for one time slice. Returns how many attempts were recorded.

    No transaction is open while a receiver thinks. Safe to run any number of times at once: claims never overlap. It rings
    again when the slice is over and more may be due, and then waits for what it has sent.
    """
    until = time.monotonic() + settings.CALLBACK_SLICE.total_seconds()
    recorded = 0
    sending: dict[Future[Attempt], ClaimedDelivery] = {}
    with ThreadPoolExecutor(settings.CALLBACK_CONCURRENCY, thread_name_prefix="callback") as pool:
        is_over = False
        while True:
            if not is_over:
                free = settings.CALLBACK_CONCURRENCY - len(sending)
                claimed = claim_deliveries(limit=free) if free else []
                sending |= _send_all(pool, claimed)
                is_over = time.monotonic() >= until
                if is_over and sending:
                    ring(DELIVER_TASK)
            if not sending:
                return recorded
            done, _ = wait(sending, timeout=None if is_over else LOOK_INTERVAL, return_when=FIRST_COMPLETED)
            for future in done:
                del sending[future]
            recorded += len(record(attempts=[future.result() for future in done]))


def _send_all(
    pool: ThreadPoolExecutor, deliveries: Sequence[ClaimedDelivery]
) -> dict[Future[Attempt], ClaimedDelivery]:
    if not deliveries:
        return {}
    keys = signing_keys(organization_ids={delivery.organization_id for delivery in deliveries})
    return {pool.submit(send, delivery, keys[delivery.organization_id]): delivery for delivery in deliveries}


def send(delivery: ClaimedDelivery, keys: SigningKeys | None) -> Attempt:
    """Send it once and say what came of it. Touches no database; raises nothing that a receiver can cause.

    Without keys that can be read (None) nothing is sent: an unsigned callback would look forged.
    """
    started_at, start = timezone.now(), time.monotonic()
    status, body, error, retry_after = None, None, None, None
    secret_id: UUID | None = None
    if keys is None:
        error = _UNREADABLE
    else:
        secret_id = keys.current_id
        headers = callback_headers(
            keys=keys,
            message_id=str(delivery.id),
            timestamp=int(started_at.timestamp()),
            body=delivery.payload,
            request_id=delivery.request_id or str(delivery.id),
        )
        try:
            answer = outbound.post(
                delivery.callback_url,
                body=delivery.payload,
                headers=headers,
                total_timeout=settings.CALLBACK_TIMEOUT.total_seconds(),
                max_answer_bytes=MOST_KEPT,
            )
        except outbound.OutboundError as exc:
            error = str(exc)
        except Exception:
            # A fault of ours must not leave the delivery to its lease, and those beside it with it.
            logger.exception("Callback delivery %s could not be sent", delivery.id)
            error = "Something went wrong on our side."
        else:
            # PostgreSQL has no place for U+0000.
            body = answer.body.decode(errors="replace").replace("\0", "\ufffd")
            status, retry_after = answer.status, answer.retry_after
    return Attempt(
        delivery_id=delivery.id,
        attempt=delivery.attempt,
        max_attempts=delivery.max_attempts,
        started_at=started_at,
        status=status,
        body=body,
        time_ms=round((time.monotonic() - start) * 1000),
        error=error,
        retry_after=retry_after,
        secret_id=secret_id,
    )


def sweep() -> None:
    """What beat calls every few seconds, safe to run twice at once: give back expired leases, ring when something is due."""
    while return_expired() == SWEEP_LIMIT:
        pass
    if has_due():
        ring(DELIVER_TASK)
