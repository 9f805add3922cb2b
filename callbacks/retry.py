"""What an attempt means for its delivery (contract.md section 7): a pure function, no clock, no database, no settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from callbacks.models import DeliveryStatus, FailureReason

# Spreads what failed together, like all callbacks to a host that was away: up to a fifth is added.
JITTER = 0.2
# Seconds. A receiver that asks for a longer pause gets this one: a day is what it may be down for.
LONGEST_RETRY_AFTER = 24 * 3600.0
OK = range(200, 300)
GONE = 410


@dataclass(frozen=True, slots=True)
class Verdict:
    """The next status of a delivery; `delay` is in seconds, for PENDING."""

    status_code: DeliveryStatus
    delay: float = 0.0
    failure_reason_code: FailureReason | None = None


def judge(
    status: int | None,
    *,
    attempt: int,
    max_attempts: int,
    delays: Sequence[float],
    jitter: float,
    retry_after: float | None = None,
) -> Verdict:
    """What follows from the answer to attempt number `attempt` (1 is the first).

    status 2xx                    delivered
    status 410                    failed: the receiver wants no more
    any other, 3xx too, or None   sent again after delays[attempt - 1] seconds; failed when no attempt is left

    `status` is None when no whole answer came. `jitter` in [0, 1). `retry_after` (seconds) can only make the pause longer.
    """
    if status in OK:
        return Verdict(DeliveryStatus.DELIVERED)
    if status == GONE:
        return Verdict(DeliveryStatus.FAILED, failure_reason_code=FailureReason.GONE)
    if attempt >= max_attempts:
        return Verdict(DeliveryStatus.FAILED, failure_reason_code=FailureReason.ATTEMPTS_EXHAUSTED)
    delay = delays[min(attempt, len(delays)) - 1] if delays else 0.0
    pause = min(retry_after or 0.0, LONGEST_RETRY_AFTER)
    return Verdict(DeliveryStatus.PENDING, delay=max(delay * (1 + JITTER * jitter), pause))
