"""What the routes of batches and runs do (see runflow.lib.schemas); the shapes are in schema.py."""

from __future__ import annotations

from typing import Any

from batches.api import lists, run_schema, schema
from callbacks.api.schema import TAG as CALLBACKS
from callbacks.models import MOST_SHOWN
from runflow.lib.list_query import BAD_QUERY, list_query
from runflow.lib.schemas import (
    BOOLEAN,
    PAGING,
    STRING,
    UUID,
    Answer,
    Component,
    Header,
    Operation,
    Query,
    array,
)

BATCHES, RUNS = "Batches", "Runs"

# In one place, since every route that makes or changes a batch can be followed by the same requests.
_OF_BATCH = {"batch_id": "$response.body#/id"}
_BATCH_LINKS = dict.fromkeys(
    (
        *("getBatch", "listBatchItems", "streamBatchEvents", "getBatchResults"),
        *("cancelBatch", "replayBatch", "listBatchCallbacks", "redeliverBatchCallback"),
    ),
    _OF_BATCH,
)
_OF_FIRST_BATCH = {"batch_id": "$response.body#/items/0/id"}
_OF_FIRST_RUN = {"run_id": "$response.body#/items/0/id"}
_ITEM_LINKS = {
    "getBatchItem": _OF_BATCH | {"item_id": "$response.body#/items/0/id"},
    "getRun": {"run_id": "$response.body#/items/0/run_id"},
}
_OF_RUN = {"run_id": "$response.body#/id"}
_RUN_LINKS = dict.fromkeys(
    ("getRun", "listRunLogs", "cancelRun", "replayRun", "listRunCallbacks", "redeliverRunCallback"), _OF_RUN
)
# contract.md section 6: instead of the id of a parent, all of them.
_ANY_BATCH = {
    "batch_id": {"anyOf": [UUID, {"type": "string", "const": "any"}], "description": "`any`: of all batches."}
}
_VALIDATE_ONLY = Query("validate_only", BOOLEAN, "`true`: check, estimate the cost, make nothing.")
_NO_CREDIT = "The projected cost is above the organisation's balance. Nothing was made."
_NO_MODEL = {
    402: _NO_CREDIT,
    404: "There is no such model (`MODEL_NOT_FOUND`).",
    503: "The operator has switched the model off (`MODEL_UNAVAILABLE`), or the database is away.",
}
_NO_BATCH = {404: "There is no such batch (`BATCH_NOT_FOUND`)."}
# Of what is asked for again and again (docs/polling.md).
_IF_NONE_MATCH = Header("If-None-Match", STRING, "An `ETag` that you have, several, or `*`: 304 if it still holds.")
_POLLED = ("ETag", "Cache-Control", "Vary", "Retry-After")
_UNCHANGED = Answer(None, "Your `ETag` still holds; the body would be the one that you have.", headers=_POLLED)
_KEPT_BY_NOBODY = ("Cache-Control", "Vary")
_POLLING = (
    "For polling: send the `ETag` back in `If-None-Match`. `Retry-After`, until the end, is a hint when to ask next."
)
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
LIST_BATCHES = Operation(
    id="listBatches",
    tag=BATCHES,
    summary="List batches",
    description="Newest first.",
    query=list_query(lists.BATCHES),
    answers={
        200: Answer(
            schema.BATCH_PAGE,
            "A page of batches.",
            links=dict.fromkeys(("getBatch", "replayBatch"), _OF_FIRST_BATCH),
        )
    },
    errors={400: BAD_QUERY},
)
GET_BATCH = Operation(
    id="getBatch",
    tag=BATCHES,
    summary="Read a batch",
    description=f"Counters and item handles are live; `output` is null until the batch has ended. {_POLLING}",
    query=[Query("embed", STRING, "`input` fills `input`.")],
    headers=[_IF_NONE_MATCH],
    answers={200: Answer(schema.BATCH, "The batch as it is now.", headers=_POLLED), 304: _UNCHANGED},
    errors=_NO_BATCH,
)
LIST_BATCH_ITEMS = Operation(
    id="listBatchItems",
    tag=BATCHES,
    summary="List the items of a batch",
    description="In full, each with its run, in the order of the request. With `any` for the id those of all batches, newest "
    "first.",
    path=_ANY_BATCH,
    query=list_query(lists.ITEMS, of_any=lists.ITEMS_OF_ANY),
    answers={200: Answer(schema.ITEM_PAGE, "A page of items.")},
    errors=_NO_BATCH | {400: BAD_QUERY},
)
GET_BATCH_ITEM = Operation(
    id="getBatchItem",
    tag=BATCHES,
    summary="Read an item of a batch",
    path=_ANY_BATCH,
    answers={200: Answer(schema.ITEM, "The item, with its run.")},
    errors={404: "There is no such batch, or no such item in it (`BATCH_ITEM_NOT_FOUND`)."},
)
_SSE = """\
retry: 1000

event: snapshot
id: queued.0.0.0.q
data: {"id":"01a20c33-30d3-737b-a193-fcc95c0215a8","status_code":"queued","items_total":1,"items_succeeded":0,"items_failed":0,\
"items_cancelled":0,"cost":null,"items":[{"id":"01a20c33-30d3-737b-a193-fccac8ecf736","sequence_index":0,\
"run_id":"01a20c33-30d3-737b-a193-fccbeef01f96","status_code":"queued","client_ref":"mug-square"}]}

"""
STREAM_BATCH_EVENTS = Operation(
    id="streamBatchEvents",
    tag=BATCHES,
    summary="Follow a batch",
    description="Server-sent events: `snapshot`, then `item` and `counters` as they change, and `end`. Data is JSON: the "
    "batch's `id`, `status_code`, counters and `cost`, in `snapshot` its `items` too; of an `item` its handle. After a stream "
    "without `end` connect again with the last id, as any library for server-sent events does.",
    headers=[
        Header("Last-Event-ID", STRING, "The `id` of the last event that you have: only what has changed since comes."),
    ],
    answers={
        200: Answer(
            schema.EVENT_STREAM,
            "Until the batch or the stream ends.",
            example=_SSE,
            media_type="text/event-stream",
            headers=_KEPT_BY_NOBODY,
        ),
        204: Answer(None, "You have `end`: there is no more."),
    },
    errors=_NO_BATCH
    | {
        400: "A bad header, or `Last-Event-ID` is no id of an event of this batch.",
        429: "Too many requests, or no place for another stream. Reading the batch itself always works.",
    },
)
_LINE = """\
{"sequence_index":0,"client_ref":"mug-square","run_id":"01a20c33-30d3-737b-a193-fccbeef01f96","status_code":"failed","cost":null,\
"output":null,"error":{"code":"EXECUTION_FAILED","message":"…","stage_code":"execute"}}
"""
_CSV = """\
sequence_index,client_ref,run_id,status_code,cost,error_code,error_message,error_stage_code,output_url,output_urls\r
0,mug-square,01a20c33-30d3-737b-a193-fccbeef01f96,failed,,EXECUTION_FAILED,…,execute,,\r
"""
GET_BATCH_RESULTS = Operation(
    id="getBatchResults",
    tag=BATCHES,
    summary="Read the results of a batch as a file",
    description="A line for each item, in the order of the request, at any time: JSON objects with `sequence_index`, "
    "`client_ref`, `run_id`, `status_code`, `cost`, `output` and `error`, or CSV with a header line, in which no text is a "
    "formula.",
    query=[Query("format", {"type": "string", "enum": ["jsonl", "csv"], "default": "jsonl"}, "Of the file.")],
    answers={
        200: Answer(
            STRING,
            "The file.",
            example=_LINE,
            media_type="application/x-ndjson",
            also={"text/csv": (STRING, _CSV)},
            headers=("Content-Disposition", *_KEPT_BY_NOBODY),
        )
    },
    errors=_NO_BATCH | {400: "A bad header, or a `format` that is not there."},
)
CANCEL_BATCH = Operation(
    id="cancelBatch",
    tag=BATCHES,
    summary="Cancel a batch",
    description="Runs that wait are canceled at once; those at work are asked to stop, and end as they end.",
    body=run_schema.CANCEL_REQUEST,
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
    body=run_schema.RUN_REQUEST,
    answers={
        200: Answer(run_schema.RUN_ESTIMATE, "With `validate_only=true`: valid; nothing was made."),
        201: Answer(run_schema.RUN, "The run, queued.", links=_RUN_LINKS),
    },
    errors=_NO_MODEL,
    callbacks=_callback(run_schema.RUN_CALLBACK, key="runEnded"),
)
LIST_RUNS = Operation(
    id="listRuns",
    tag=RUNS,
    summary="List runs",
    description="Those of batches and single ones, newest first.",
    query=list_query(lists.RUNS),
    answers={
        200: Answer(
            run_schema.RUN_PAGE,
            "A page of runs.",
            links=dict.fromkeys(("getRun", "listRunLogs"), _OF_FIRST_RUN),
        )
    },
    errors={400: BAD_QUERY},
)
GET_RUN = Operation(
    id="getRun",
    tag=RUNS,
    summary="Read a run",
    description=_POLLING,
    headers=[_IF_NONE_MATCH],
    answers={200: Answer(run_schema.RUN, "The run as it is now.", headers=_POLLED), 304: _UNCHANGED},
    errors=_NO_RUN,
)
LIST_RUN_STATUSES = Operation(
    id="listRunStatuses",
    tag=RUNS,
    summary="List the statuses that a run can have",
    answers={
        200: Answer(array(run_schema.RUN_STATUS_INFO), "All of them.", example=[run_schema.RUN_STATUS_INFO.example])
    },
)
LIST_RUN_LOGS = Operation(
    id="listRunLogs",
    tag=RUNS,
    summary="Read the log of a run",
    description="Oldest first. What was shown once stays.",
    query=PAGING,
    answers={200: Answer(run_schema.RUN_LOG_PAGE, "A page of entries.")},
    errors=_NO_RUN,
)
CANCEL_RUN = Operation(
    id="cancelRun",
    tag=RUNS,
    summary="Cancel a run",
    body=run_schema.CANCEL_REQUEST,
    is_body_optional=True,
    answers={
        200: Answer(run_schema.RUN, "Unchanged: it has ended, or was asked before."),
        201: Answer(run_schema.RUN, "It was canceled, or asked to stop."),
    },
    errors=_NO_RUN,
)
REPLAY_RUN = Operation(
    id="replayRun",
    tag=RUNS,
    summary="Do a run again",
    description="Makes a new single run with the input of one that has ended, however it ended.",
    body=run_schema.RUN_REPLAY_REQUEST,
    is_body_optional=True,
    answers={201: Answer(run_schema.RUN, "The new run, queued.", links=_RUN_LINKS)},
    errors=_NO_MODEL
    | {
        404: "There is no such run (`RUN_NOT_FOUND`), or its model is gone (`MODEL_NOT_FOUND`).",
        422: "Not valid; the run has not ended (`conflict`); or its input no longer fits the model.",
    },
    callbacks=_callback(run_schema.RUN_CALLBACK, key="runEnded"),
)
LIST_RUN_CALLBACKS = Operation(
    id="listRunCallbacks",
    tag=CALLBACKS,
    summary="What was sent to a run's callback_url",
    description=f"Newest first, at most {MOST_SHOWN}, each with its attempts; kept for 30 days.",
    answers={200: Answer(array(run_schema.RUN_DELIVERY), "Deliveries.", example=[run_schema.RUN_DELIVERY.example])},
    errors=_NO_RUN,
)
REDELIVER_RUN_CALLBACK = Operation(
    id="redeliverRunCallback",
    tag=CALLBACKS,
    summary="Send a run's callback again",
    description="With a body made anew.",
    answers={201: Answer(run_schema.RUN_DELIVERY, "The delivery, pending.")},
    errors=_NO_RUN | {422: _NOT_REDELIVERED},
)
