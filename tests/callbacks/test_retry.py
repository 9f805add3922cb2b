"""What follows from an answer: the whole policy as a table (contract.md section 7)."""

from __future__ import annotations

from typing import Any

import pytest

from callbacks.models import DeliveryStatus, FailureReason
from callbacks.retry import Verdict, judge

DELAYS = (5.0, 300.0, 1800.0)
DAY = 24 * 3600.0
DELIVERED = Verdict(DeliveryStatus.DELIVERED)
GONE = Verdict(DeliveryStatus.FAILED, failure_reason_code=FailureReason.GONE)
EXHAUSTED = Verdict(DeliveryStatus.FAILED, failure_reason_code=FailureReason.ATTEMPTS_EXHAUSTED)


def again(delay: float) -> Verdict:
    return Verdict(DeliveryStatus.PENDING, delay=delay)


@pytest.mark.parametrize(
    ("status", "more", "verdict"),
    [
        (200, {}, DELIVERED),
        (204, {}, DELIVERED),
        (299, {}, DELIVERED),
        (200, {"attempt": 4}, DELIVERED),
        (200, {"retry_after": 60.0}, DELIVERED),
        (410, {}, GONE),
        (410, {"attempt": 4}, GONE),
        (410, {"retry_after": 60.0}, GONE),
        # everything else is sent again, redirects and refusals too
        (100, {}, again(5)),
        (301, {}, again(5)),
        (308, {}, again(5)),
        (400, {}, again(5)),
        (401, {}, again(5)),
        (404, {}, again(5)),
        (429, {}, again(5)),
        (500, {}, again(5)),
        (503, {}, again(5)),
        (None, {}, again(5)),
        # the schedule, and its end
        (500, {"attempt": 2}, again(300)),
        (500, {"attempt": 3}, again(1800)),
        (500, {"attempt": 4}, EXHAUSTED),
        (None, {"attempt": 4}, EXHAUSTED),
        (301, {"attempt": 4, "retry_after": 60.0}, EXHAUSTED),
        # a delivery keeps the number of attempts it was made with, also when the schedule has become shorter or longer
        (500, {"attempt": 4, "max_attempts": 10}, again(1800)),
        (500, {"attempt": 2, "max_attempts": 2}, EXHAUSTED),
        (500, {"delays": ()}, again(0)),
        # jitter adds up to a fifth
        (500, {"jitter": 0.5}, again(5.5)),
        (500, {"attempt": 3, "jitter": 0.999}, again(1800 * 1.1998)),
        # Retry-After makes the pause longer, never shorter, and not longer than a day
        (503, {"retry_after": 60.0}, again(60)),
        (429, {"retry_after": 1.0}, again(5)),
        (301, {"retry_after": 60.0}, again(60)),
        (503, {"retry_after": 0.0}, again(5)),
        (503, {"retry_after": DAY}, again(DAY)),
        (503, {"retry_after": DAY + 1}, again(DAY)),
        (503, {"retry_after": 60.0, "jitter": 0.5}, again(60)),
    ],
)
def test_what_follows_from_an_answer(status: int | None, more: dict[str, Any], verdict: Verdict) -> None:
    given: dict[str, Any] = {"attempt": 1, "max_attempts": 4, "delays": DELAYS, "jitter": 0.0, "retry_after": None}
    assert judge(status, **given | more) == verdict


def test_the_schedule_is_the_contracts(settings: Any) -> None:
    hour = 3600
    assert (
        *(5, 5 * 60, 30 * 60, 2 * hour, 5 * hour, 10 * hour, 14 * hour, 20 * hour, 24 * hour),
    ) == settings.CALLBACK_RETRY_DELAYS
