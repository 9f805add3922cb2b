"""What an outcome means for its run: data and a pure function, no clock, no database, no settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from batches.models import RunStatus
from providers.base import Canceled, Finished, Outcome, Rejected, Unavailable

# Spreads the retries of a set that failed together.
JITTER = 0.2
# A provider that asks for more than this gets this: the run should not look forgotten.
LONGEST_DELAY = 3600.0


@dataclass(frozen=True, slots=True)
class Settlement:
    """What becomes of one attempt of a run. `attempt` is the fence: it is written only while that attempt is current.

    A failure is the run's for FAILED, and the attempt's for QUEUED: then it goes into the run's `past_attempts`.
    """

    run_id: Any
    attempt: int
    status_code: RunStatus
    output: str | None = None  # JSON text
    failure_code: str | None = None
    failure_message: str | None = None
    failure_stage_code: str | None = None
    delay: float = 0.0  # seconds until it is due again, for QUEUED


def delay_before(
    next_attempt: int, *, delays: Sequence[float], jitter: float, retry_after: float | None = None
) -> float:
    """Seconds to wait before `next_attempt` (2 is the first retry): of `delays` the first, second, … and then the last.

    `jitter` in [0, 1) adds up to a fifth.
    """
    delay = (delays[min(next_attempt - 2, len(delays) - 1)] if delays else 0.0) * (1 + JITTER * jitter)
    return min(max(delay, retry_after or 0.0), LONGEST_DELAY)


def judge(
    outcome: Outcome,
    *,
    run_id: Any,
    attempt: int,
    max_attempts: int,
    delays: Sequence[float],
    jitter: float,
    output: dict[str, Any] | None = None,
) -> Settlement:
    """The settlement of an outcome. `output` is what a Finished left in the store.

    Finished     succeeded
    Canceled     canceled
    Rejected     failed at once: it would fail the same way again
    Unavailable  queued again after a delay; failed with ATTEMPTS_EXHAUSTED when no attempt is left
    """
    match outcome:
        case Canceled():
            return Settlement(run_id, attempt, RunStatus.CANCELED)
        case Finished():
            return Settlement(run_id, attempt, RunStatus.SUCCEEDED, output=json.dumps(output))
        case Rejected(code, message, stage_code):
            return Settlement(
                run_id,
                attempt,
                RunStatus.FAILED,
                failure_code=code,
                failure_message=message,
                failure_stage_code=stage_code,
            )
        case Unavailable(code, message, stage_code, retry_after):
            if attempt < max_attempts:
                delay = delay_before(attempt + 1, delays=delays, jitter=jitter, retry_after=retry_after)
                return Settlement(
                    run_id,
                    attempt,
                    RunStatus.QUEUED,
                    failure_code=code,
                    failure_message=message,
                    failure_stage_code=stage_code,
                    delay=delay,
                )
            return Settlement(
                run_id,
                attempt,
                RunStatus.FAILED,
                failure_code="ATTEMPTS_EXHAUSTED",
                failure_message=f"No success in {attempt} attempts; the last one: {code}: {message}",
                failure_stage_code=stage_code,
            )
