"""What the routes of batches and runs do (see runflow.lib.schemas); the shapes are in schema.py."""

from __future__ import annotations

from typing import Any

from batches.api import schema
from callbacks.api.schema import TAG as CALLBACKS
from callbacks.models import MOST_SHOWN
from runflow.lib.schemas import (
    BOOLEAN,
    ERROR,
    NUMBER,
    PAGING,
    STRING,
    Answer,
    Component,
    Operation,
    Query,
    array,
    nullable,
    one_of,
    record,
    said,
)

BATCHES, RUNS = "Batches", "Runs"

# In one place, since every route that makes or changes a batch can be followed by the same requests.
_OF_BATCH = {"batch_id": "$response.body#/id"}
_BATCH_LINKS = dict.fromkeys(
    ("getBatch", "listBatchItems", "cancelBatch", "replayBatch", "listBatchCallbacks", "redeliverBatchCallback"),
    _OF_BATCH,
)
_ITEM_LINKS = {
    "getBatchItem": _OF_BATCH | {"item_id": "$response.body#/items/0/id"},
    "getRun": {"run_id": "$response.body#/items/0/run_id"},
}
_OF_RUN = {"run_id": "$response.body#/id"}
_RUN_LINKS = dict.fromkeys(("getRun", "cancelRun", "replayRun", "listRunCallbacks", "redeliverRunCallback"), _OF_RUN)
_VALIDATE_ONLY = Query("validate_only", BOOLEAN, "`true`: check, estimate the cost, make nothing.")
_NO_CREDIT = "The projected cost is above the organisation's balance. Nothing was made."
_NO_MODEL = {
    402: _NO_CREDIT,
    404: "There is no such model (`MODEL_NOT_FOUND`).",
    503: "The operator has switched the model off (`MODEL_UNAVAILABLE`), or the database is away.",
}
_NO_BATCH = {404: "There is no such batch (`BATCH_NOT_FOUND`)."}
_NO_RUN = {404: "There is no such run (`RUN_NOT_FOUND`)."}


def _callback(payload: Component, *, key: str) -> dict[str, Any]:
    """The request that the client's server gets, as OpenAPI describes callbacks."""
    headers = {
        "Runflow-Signature": "HMAC-SHA256 of the body with the whole current secret, in hex; only if there is a secret.",
        "Runflow-Request-Id": "The `X-Request-Id` of the request that made this.",
        "webhook-id": "The delivery's id, the same over retries.",
        "webhook-timestamp": "Unix time of this attempt.",
        "webhook-signature": "`v1,` and base64 of the HMAC-SHA256 of `id.timestamp.body`, for each active secret.",
    }
    return {
        key: {
            "{$request.body#/callback_url}": {
                "post": {
                    "summary": "Told once when all has ended",
                    "description": "2xx is success, 410 stops; anything else is sent again, up to ten times over three days.",
                    "parameters": [
                        {"name": name, "in": "header", "description": text, "schema": STRING}
                        for name, text in headers.items()
                    ],
                    "requestBody": {
                        "required": True,
                        "content": {"application/json": {"schema": payload, "example": payload.example}},
                    },
                    "responses": {"2XX": {"description": "Taken."}},
                }
            }
        }
    }


# --- Batches ----------------------------------------------------------------------------------------------------------

CREATE_BATCH = Operation(
    id="createBatch",
    tag=BATCHES,
    summary="Make a batch",
    description="1 to 100 inputs for one model. One invalid item refuses the whole request: nothing is made, and all faults "
    "of all items come in one 422.",
    query=[_VALIDATE_ONLY],
    body=schema.BATCH_REQUEST,
    answers={
        200: Answer(schema.BATCH_ESTIMATE, "With `validate_only=true`: valid; nothing was made."),
        201: Answer(schema.BATCH_CREATED, "The batch, queued.", links=_BATCH_LINKS | _ITEM_LINKS),
    },
    errors=_NO_MODEL
    | {422: "Not valid; `errors` says all that is wrong. `model_not_template_backed`: the model takes no batches."},
    callbacks=_callback(schema.BATCH_CALLBACK, key="batchEnded"),
)
GET_BATCH = Operation(
    id="getBatch",
    tag=BATCHES,
    summary="Read a batch",
    description="For polling: counters and item handles are live. `output` is null until the batch has ended.",
    query=[Query("embed", STRING, "`input` fills `input`.")],
    answers={200: Answer(schema.BATCH, "The batch as it is now.")},
    errors=_NO_BATCH,
)
LIST_BATCH_ITEMS = Operation(
    id="listBatchItems",
    tag=BATCHES,
    summary="List the items of a batch",
    description="In full, each with its run, in the order of the request.",
    query=PAGING,
    answers={200: Answer(schema.ITEM_PAGE, "A page of items.")},
    errors=_NO_BATCH,
)
GET_BATCH_ITEM = Operation(
    id="getBatchItem",
    tag=BATCHES,
    summary="Read an item of a batch",
    answers={200: Answer(schema.ITEM, "The item, with its run.")},
    errors={404: "There is no such batch, or no such item in it (`BATCH_ITEM_NOT_FOUND`)."},
)
CANCEL_BATCH = Operation(
    id="cancelBatch",
    tag=BATCHES,
    summary="Cancel a batch",
    description="Runs that wait are canceled at once; those at work are asked to stop, and end as they end.",
    body=schema.CANCEL_REQUEST,
    is_body_optional=True,
    answers={
        200: Answer(schema.BATCH, "Unchanged: it has ended, or everything was asked before."),
        201: Answer(schema.BATCH, "Something was canceled, or asked to stop."),
    },
    errors=_NO_BATCH,
)
REPLAY_BATCH = Operation(
    id="replayBatch",
    tag=BATCHES,
    summary="Do again what failed in a batch",
    description="Makes a new batch of the items that failed or were canceled in one that has ended. The old one never changes.",
    body=schema.BATCH_REPLAY_REQUEST,
    is_body_optional=True,
    answers={201: Answer(schema.BATCH_CREATED, "The new batch, queued.", links=_BATCH_LINKS | _ITEM_LINKS)},
    errors=_NO_MODEL
    | {
        404: "There is no such batch (`BATCH_NOT_FOUND`), or its model is gone (`MODEL_NOT_FOUND`).",
        422: "Not valid; the batch has not ended or has nothing to do again (`conflict`); or inputs no longer fit the model.",
    },
    callbacks=_callback(schema.BATCH_CALLBACK, key="batchEnded"),
)
LIST_BATCH_CALLBACKS = Operation(
    id="listBatchCallbacks",
    tag=CALLBACKS,
    summary="What was sent to a batch's callback_url",
    description=f"Newest first, at most {MOST_SHOWN}, each with its attempts; kept for 30 days.",
    answers={200: Answer(array(schema.BATCH_DELIVERY), "Deliveries.", example=[schema.BATCH_DELIVERY.example])},
    errors=_NO_BATCH,
)
_NOT_REDELIVERED = "It has not ended, has no `callback_url`, or a delivery of it is pending (`conflict`)."
REDELIVER_BATCH_CALLBACK = Operation(
    id="redeliverBatchCallback",
    tag=CALLBACKS,
    summary="Send a batch's callback again",
    description="With a body made anew.",
    answers={201: Answer(schema.BATCH_DELIVERY, "The delivery, pending.")},
    errors=_NO_BATCH | {422: _NOT_REDELIVERED},
)

# --- Runs -------------------------------------------------------------------------------------------------------------

CREATE_RUN = Operation(
    id="createRun",
    tag=RUNS,
    summary="Make a single run",
    description="One input, without a batch. Works for models that take no batches, too.",
    query=[_VALIDATE_ONLY],
    body=schema.RUN_REQUEST,
    answers={
        200: Answer(schema.RUN_ESTIMATE, "With `validate_only=true`: valid; nothing was made."),
        201: Answer(schema.RUN, "The run, queued.", links=_RUN_LINKS),
    },
    errors=_NO_MODEL,
    callbacks=_callback(schema.RUN_CALLBACK, key="runEnded"),
)
GET_RUN = Operation(
    id="getRun",
    tag=RUNS,
    summary="Read a run",
    answers={200: Answer(schema.RUN, "The run as it is now.")},
    errors=_NO_RUN,
)
CANCEL_RUN = Operation(
    id="cancelRun",
    tag=RUNS,
    summary="Cancel a run",
    body=schema.CANCEL_REQUEST,
    is_body_optional=True,
    answers={
        200: Answer(schema.RUN, "Unchanged: it has ended, or was asked before."),
        201: Answer(schema.RUN, "It was canceled, or asked to stop."),
    },
    errors=_NO_RUN,
)
REPLAY_RUN = Operation(
    id="replayRun",
    tag=RUNS,
    summary="Do a run again",
    description="Makes a new single run with the input of one that has ended, however it ended.",
    body=schema.RUN_REPLAY_REQUEST,
    is_body_optional=True,
    answers={201: Answer(schema.RUN, "The new run, queued.", links=_RUN_LINKS)},
    errors=_NO_MODEL
    | {
        404: "There is no such run (`RUN_NOT_FOUND`), or its model is gone (`MODEL_NOT_FOUND`).",
        422: "Not valid; the run has not ended (`conflict`); or its input no longer fits the model.",
    },
    callbacks=_callback(schema.RUN_CALLBACK, key="runEnded"),
)
LIST_RUN_CALLBACKS = Operation(
    id="listRunCallbacks",
    tag=CALLBACKS,
    summary="What was sent to a run's callback_url",
    description=f"Newest first, at most {MOST_SHOWN}, each with its attempts; kept for 30 days.",
    answers={200: Answer(array(schema.RUN_DELIVERY), "Deliveries.", example=[schema.RUN_DELIVERY.example])},
    errors=_NO_RUN,
)
REDELIVER_RUN_CALLBACK = Operation(
    id="redeliverRunCallback",
    tag=CALLBACKS,
    summary="Send a run's callback again",
    description="With a body made anew.",
    answers={201: Answer(schema.RUN_DELIVERY, "The delivery, pending.")},
    errors=_NO_RUN | {422: _NOT_REDELIVERED},
)

# --- The server -------------------------------------------------------------------------------------------------------

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
