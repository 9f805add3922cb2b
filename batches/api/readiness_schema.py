"""What readiness looks like, and how to ask (see runflow.lib.schemas)."""

from __future__ import annotations

from runflow.lib.schemas import (
    ERROR,
    NUMBER,
    STRING,
    Answer,
    Operation,
    array,
    nullable,
    one_of,
    record,
    said,
)

_AGE = nullable({**NUMBER, "minimum": 0})
_PROGRESS = record(
    "Progress",
    {
        f"{name}_seconds": _AGE
        for name in (
            "oldest_claimable_run",
            "last_claim",
            "last_sweep",
            "oldest_due_callback",
            "last_callback_attempt",
        )
    },
    description="Ages; null is never, or nothing waits.",
)
_READINESS = {
    "status": one_of("ok", "degraded", "unavailable"),
    "database": one_of("ok", "unavailable"),
    "broker": one_of("ok", "unavailable", "unknown"),
    "reasons": said(array(STRING), "What is wrong, for people."),
    "progress": nullable(_PROGRESS),
}
READINESS = record(
    "Readiness",
    _READINESS,
    example={
        "status": "ok",
        "database": "ok",
        "broker": "ok",
        "reasons": [],
        "progress": {
            "oldest_claimable_run_seconds": 0.412,
            "last_claim_seconds": 1.3,
            "last_sweep_seconds": 3.871,
            "oldest_due_callback_seconds": None,
            "last_callback_attempt_seconds": 12.044,
        },
    },
)
UNREADY = record("Unreadiness", {**ERROR.schema["properties"], **_READINESS}, description="Also an `ErrorResponse`.")
GET_READINESS = Operation(
    id="getReadiness",
    tag="Server",
    summary="Whether the server can take requests, and does what was asked of it",
    answers={
        200: Answer(READINESS, "`ok`, or `degraded`: requests are taken, but something stands still."),
        503: Answer(UNREADY, "The database does not answer."),
    },
)
