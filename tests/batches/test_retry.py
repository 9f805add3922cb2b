"""The retry policy is a pure function; its test is a table."""

from __future__ import annotations

import pytest

from batches.models import RunStatus
from batches.retry import LONGEST_DELAY, Settlement, delay_before, judge
from providers.base import Finished, Outcome, Rejected, Unavailable

DELAYS = (2.0, 10.0, 60.0, 300.0)
LOST = Unavailable("PROVIDER_LOST", "Gone.", "execute")


@pytest.mark.parametrize(
    ("next_attempt", "jitter", "retry_after", "seconds"),
    [
        (2, 0.0, None, 2.0),
        (3, 0.0, None, 10.0),
        (4, 0.0, None, 60.0),
        (5, 0.0, None, 300.0),
        (99, 0.0, None, 300.0),
        (2, 0.5, None, 2.2),
        (2, 0.0, 30.0, 30.0),
        (2, 0.0, 1.0, 2.0),
        (2, 0.0, 1e9, LONGEST_DELAY),
    ],
)
def test_the_delay_before_an_attempt(
    next_attempt: int, jitter: float, retry_after: float | None, seconds: float
) -> None:
    assert delay_before(next_attempt, delays=DELAYS, jitter=jitter, retry_after=retry_after) == pytest.approx(seconds)


def test_without_delays_another_attempt_comes_at_once() -> None:
    assert delay_before(2, delays=(), jitter=0.9) == 0.0


@pytest.mark.parametrize(
    ("outcome", "attempt", "settlement"),
    [
        (Finished(()), 1, Settlement("r", 1, RunStatus.SUCCEEDED, output='{"outputs": []}')),
        (
            Rejected("PROVIDER_REJECTED", "No.", "dispatch"),
            1,
            Settlement(
                "r",
                1,
                RunStatus.FAILED,
                failure_code="PROVIDER_REJECTED",
                failure_message="No.",
                failure_stage_code="dispatch",
            ),
        ),
        (LOST, 1, Settlement("r", 1, RunStatus.QUEUED, None, "PROVIDER_LOST", "Gone.", "execute", DELAYS[0])),
        (LOST, 4, Settlement("r", 4, RunStatus.QUEUED, None, "PROVIDER_LOST", "Gone.", "execute", DELAYS[3])),
        (
            LOST,
            5,
            Settlement(
                "r",
                5,
                RunStatus.FAILED,
                failure_code="ATTEMPTS_EXHAUSTED",
                failure_message="No success in 5 attempts; the last one: PROVIDER_LOST: Gone.",
                failure_stage_code="execute",
            ),
        ),
    ],
    ids=["finished", "rejected", "first of five", "fourth of five", "fifth of five"],
)
def test_what_an_outcome_means(outcome: Outcome, attempt: int, settlement: Settlement) -> None:
    judged = judge(
        outcome, run_id="r", attempt=attempt, max_attempts=5, delays=DELAYS, jitter=0.0, output={"outputs": []}
    )
    assert judged == settlement
