"""What batches look like, by the names that schemas.json gives them (see runflow.lib.schemas). Runs are in run_schema.py."""

from __future__ import annotations

from batches.api.run_schema import (
    BATCH_ID,
    CALLBACK_URL_GIVEN,
    CLIENT_REF_GIVEN,
    COMPLETED,
    CREATED,
    EMBEDDED,
    ENDING,
    ENDING_EXAMPLE,
    INPUT_EXAMPLE,
    INPUTS,
    ITEM_ERROR,
    KEY_ID,
    METADATA,
    MODEL_ID,
    ORG_ID,
    RUN,
    RUN_ID,
    RUN_OUTPUT,
    RUN_ROW,
    RUN_STATUS,
    SOURCE,
    STARTED,
    TARGET_TYPE,
)
from batches.models import BATCH_TERMINAL, BatchStatus
from batches.replays import Only
from batches.services import MAX_ITEMS
from callbacks.api.schema import delivery
from runflow.lib.schemas import (
    COUNT,
    MONEY,
    NULL,
    STRING,
    TIMESTAMP,
    UUID,
    Component,
    array,
    given,
    listed,
    nullable,
    one_of,
    page,
    record,
    said,
)

BATCH_STATUS = Component("BatchStatusCode", one_of(*BatchStatus.values))

# --- Requests ---------------------------------------------------------------------------------------------------------

ITEM_INPUT = Component(
    "BatchItemInput",
    {
        "type": "object",
        "properties": {"client_ref": CLIENT_REF_GIVEN},
        "additionalProperties": True,
        "description": "The inputs that the model declares, flat, and beside them an optional `client_ref`. Media are http(s) "
        "URLs, `data:` URIs, `runflow://assets/{id}`, or the URL of an earlier output. "
        "`GET /v1/models/{owner}/{slug}/schema` gives the schema of each model's.",
    },
    {"client_ref": "mug-square", **INPUT_EXAMPLE},
)
BATCH_REQUEST = given(
    "BatchCreateRequest",
    required={"input": array(ITEM_INPUT, minItems=1, maxItems=MAX_ITEMS)},
    optional={"metadata": nullable(METADATA), "callback_url": CALLBACK_URL_GIVEN},
    example={
        "input": [
            {"client_ref": "mug-square", **INPUT_EXAMPLE},
            {"client_ref": "mug-story", **INPUT_EXAMPLE, "aspect_ratio": "9:16"},
        ],
        "metadata": {"order": 1001},
        "callback_url": None,
    },
)
BATCH_REPLAY_REQUEST = given(
    "BatchReplayRequest",
    optional={
        "only": said(nullable(one_of(*Only)), "`failed` (the default): what failed or was canceled."),
        "metadata": said(nullable(METADATA), "Not given: that of the old batch."),
        "callback_url": CALLBACK_URL_GIVEN | {"description": "Not given: that of the old batch."},
    },
    example={"only": "failed", "metadata": {"order": 1001, "try": 2}, "callback_url": "https://shop.example/done"},
)

# --- Answers ----------------------------------------------------------------------------------------------------------

HANDLE = record(
    "BatchItemHandle",
    {
        "id": UUID,
        "sequence_index": said(COUNT, "From 0, in the order of `input`."),
        "run_id": UUID,
        "status_code": RUN_STATUS,
        "client_ref": nullable(STRING),
    },
)
_COUNTERS = {
    "items_total": COUNT,
    "items_succeeded": COUNT,
    "items_failed": COUNT,
    "items_cancelled": COUNT,
}
_HANDLE_EXAMPLE = {
    "id": "01a20c33-30d3-737b-a193-fccac8ecf736",
    "sequence_index": 0,
    "run_id": RUN_ID,
    "status_code": "succeeded",
    "client_ref": "mug-square",
}
BATCH_CREATED = record(
    "BatchCreateResponse",
    {
        "id": UUID,
        "target_type": TARGET_TYPE,
        "target_id": said(UUID, "The model's id."),
        "status_code": BATCH_STATUS,
        **_COUNTERS,
        "items": array(HANDLE),
        "output": NULL,
        "cost": nullable(MONEY),
        "metadata": nullable(METADATA),
        "callback_url": nullable(STRING),
        "replay_of": said(nullable(UUID), "The batch that this one does again."),
        "created_at": TIMESTAMP,
        "started_at": nullable(TIMESTAMP),
        "completed_at": nullable(TIMESTAMP),
    },
    example={
        "id": BATCH_ID,
        "target_type": "model",
        "target_id": MODEL_ID,
        "status_code": "queued",
        "items_total": 1,
        "items_succeeded": 0,
        "items_failed": 0,
        "items_cancelled": 0,
        "items": [_HANDLE_EXAMPLE | {"status_code": "queued"}],
        "output": None,
        "cost": None,
        "metadata": {"order": 1001},
        "callback_url": None,
        "replay_of": None,
        "created_at": CREATED,
        "started_at": None,
        "completed_at": None,
    },
)
OUTPUT_ITEM = record(
    "BatchOutputItem",
    {
        "sequence_index": COUNT,
        "client_ref": nullable(STRING),
        "run_id": UUID,
        "status_code": RUN_STATUS,
        "output": nullable(RUN_OUTPUT),
        "error": nullable(ITEM_ERROR),
    },
)
BATCH_OUTPUT = record(
    "BatchOutputEnvelope",
    {"items": array(OUTPUT_ITEM), "succeeded": COUNT, "failed": COUNT, "cancelled": COUNT, "total": COUNT},
    example={
        "items": [
            {
                "sequence_index": 0,
                "client_ref": "mug-square",
                "run_id": RUN_ID,
                "status_code": "succeeded",
                "output": RUN_OUTPUT.example,
                "error": None,
            }
        ],
        "succeeded": 1,
        "failed": 0,
        "cancelled": 0,
        "total": 1,
    },
)
BATCH = record(
    "BatchDetail",
    {
        "id": UUID,
        "org_id": UUID,
        "target_type_code": TARGET_TYPE,
        "target_type": TARGET_TYPE,
        "target_id": said(UUID, "The model's id."),
        "status_code": BATCH_STATUS,
        "source_code": SOURCE,
        **_COUNTERS,
        "input": said(nullable(array(ITEM_INPUT)), "With `embed=input` only."),
        "resolved_template_id": nullable(UUID),
        "dispatch_provider_link_id": nullable(UUID),
        "cost": said(nullable(MONEY), "USD, of the items that succeeded so far; null while there is none."),
        "output": said(nullable(BATCH_OUTPUT), "Null until the batch has ended."),
        "metadata": nullable(METADATA),
        "callback_url": nullable(STRING),
        "duration_ms": nullable(COUNT),
        "failure_code": NULL,
        "failure_message": NULL,
        "failure_stage_code": NULL,
        "replay_of": said(nullable(UUID), "The batch that this one does again."),
        "created_by": said(nullable(UUID), "The API key's id."),
        "created_at": TIMESTAMP,
        "started_at": nullable(TIMESTAMP),
        "completed_at": nullable(TIMESTAMP),
        "links": {
            "type": "object",
            "properties": {"self": STRING, "items": STRING},
            "required": ["self", "items"],
        },
        "items": array(HANDLE),
    },
    example={
        "id": BATCH_ID,
        "org_id": ORG_ID,
        "target_type_code": "model",
        "target_type": "model",
        "target_id": MODEL_ID,
        "status_code": "succeeded",
        "source_code": "api",
        "items_total": 1,
        "items_succeeded": 1,
        "items_failed": 0,
        "items_cancelled": 0,
        "input": None,
        "resolved_template_id": "01a20c32-19b0-7676-94c1-486403b0aaa3",
        "dispatch_provider_link_id": "01a20c32-19b1-7177-92cf-bf1d940407b2",
        "cost": "0.55",
        "output": BATCH_OUTPUT.example,
        "metadata": {"order": 1001},
        "callback_url": None,
        "duration_ms": 189,
        "failure_code": None,
        "failure_message": None,
        "failure_stage_code": None,
        "replay_of": None,
        "created_by": KEY_ID,
        "created_at": CREATED,
        "started_at": STARTED,
        "completed_at": COMPLETED,
        "links": {"self": f"/v1/batches/{BATCH_ID}", "items": f"/v1/batches/{BATCH_ID}/items"},
        "items": [_HANDLE_EXAMPLE],
    },
)
BATCH_ROW = listed(
    BATCH,
    "BatchRow",
    items=said(nullable(array(HANDLE)), EMBEDDED),
    input=said(nullable(array(ITEM_INPUT)), EMBEDDED),
    output=said(nullable(BATCH_OUTPUT), EMBEDDED),
    example=BATCH.example | {"items": None, "output": None},
)
ITEM = record(
    "BatchItem",
    {
        "id": UUID,
        "batch_id": UUID,
        "sequence_index": COUNT,
        "run_id": UUID,
        "created_at": TIMESTAMP,
        "client_ref": nullable(STRING),
        "status_code": RUN_STATUS,
        "input": INPUTS,
        "cost": nullable(MONEY),
        "output": nullable(RUN_OUTPUT),
        "error": nullable(ITEM_ERROR),
        "started_at": nullable(TIMESTAMP),
        "completed_at": nullable(TIMESTAMP),
        "run": RUN,
    },
    example={
        "id": _HANDLE_EXAMPLE["id"],
        "batch_id": BATCH_ID,
        "sequence_index": 0,
        "run_id": RUN_ID,
        "created_at": CREATED,
        "client_ref": "mug-square",
        "status_code": "succeeded",
        "input": INPUT_EXAMPLE,
        "cost": "0.55",
        "output": RUN_OUTPUT.example,
        "error": None,
        "started_at": STARTED,
        "completed_at": COMPLETED,
        "run": RUN.example,
    },
)
ITEM_ROW = listed(
    ITEM,
    "BatchItemRow",
    input=said(nullable(INPUTS), "Null in the list of all batches, unless `embed` or `fields` names it."),
    run=RUN_ROW,
)
# No type: readers of server-sent events take it apart into objects, others have it as one text.
EVENT_STREAM = Component("EventStream", {"description": "Server-sent events, as the HTML standard has them."})
BATCH_PAGE = page(BATCH_ROW, "BatchPage")
ITEM_PAGE = page(ITEM_ROW, "BatchItemPage")
BATCH_ESTIMATE = record(
    "BatchEstimate",
    {"valid": {"type": "boolean", "const": True}, "items_total": COUNT, "estimated_cost": MONEY},
    example={"valid": True, "items_total": 2, "estimated_cost": "1.10"},
)

# --- Callbacks --------------------------------------------------------------------------------------------------------

BATCH_CALLBACK = record(
    "BatchCallbackPayload",
    {
        "event": one_of("batch.succeeded", "batch.partial_succeeded", "batch.failed", "batch.cancelled"),
        "batch_id": UUID,
        "status": one_of(*BATCH_TERMINAL),
        "output": BATCH_OUTPUT,
        **ENDING,
    },
    example={
        "event": "batch.succeeded",
        "batch_id": BATCH_ID,
        "status": "succeeded",
        "output": BATCH_OUTPUT.example,
        **ENDING_EXAMPLE,
    },
)
BATCH_DELIVERY = delivery("BatchCallbackDelivery", subject="batch_id", payload=BATCH_CALLBACK)
