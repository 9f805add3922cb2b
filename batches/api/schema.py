"""What batches and runs look like, by the names that schemas.json gives them (see runflow.lib.schemas)."""

from __future__ import annotations

from assets.models import AssetType
from batches.logs import Level
from batches.models import BATCH_TERMINAL, TERMINAL, BatchStatus, RunStatus, Source, Stage
from batches.replays import Only
from batches.services import MAX_CALLBACK_URL, MAX_ITEMS
from callbacks.api.schema import delivery
from runflow.lib.schemas import (
    BOOLEAN,
    COUNT,
    INTEGER,
    MONEY,
    NULL,
    NUMBER,
    STRING,
    TIMESTAMP,
    URL,
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

_BATCH_ID = "01a20c33-30d3-737b-a193-fcc95c0215a8"
_RUN_ID = "01a20c33-30d3-737b-a193-fccbeef01f96"
_ORG_ID = "01a20c33-2f4e-732e-8fd3-607b145845a0"
_MODEL_ID = "01a20c32-19b0-7676-94c1-486340fc8234"
_KEY_ID = "01a20c33-2f51-750e-b241-2829d879b891"
_CREATED = "2026-11-24T06:16:51.155072+00:00"
_STARTED = "2026-11-24T06:16:51.535837+00:00"
_COMPLETED = "2026-11-24T06:16:51.725303+00:00"

RUN_STATUS = Component("RunStatusCode", one_of(*RunStatus.values))
BATCH_STATUS = Component("BatchStatusCode", one_of(*BatchStatus.values))
_TARGET = {"type": "string", "const": "model"}
SOURCE = Component("SourceCode", one_of(*Source.values))
STAGE = Component("StageCode", one_of(*Stage.values))
METADATA = Component(
    "Metadata", {"type": "object", "description": "Your own; comes back as it is. At most 16 KiB as JSON."}
)

# --- Requests ---------------------------------------------------------------------------------------------------------

_CALLBACK_URL_GIVEN = {
    "type": ["string", "null"],
    "maxLength": MAX_CALLBACK_URL,
    "description": "An http(s) URL that is told once when all has ended.",
}
_CLIENT_REF_GIVEN = {"type": ["string", "null"], "maxLength": 255, "description": "Comes back with the item."}

_INPUT_EXAMPLE = {"image_url": "https://shop.example/mug.jpg", "aspect_ratio": "1:1", "resolution": "1K"}

INPUTS = Component(
    "Inputs",
    {"type": "object", "description": "What the model declares as its inputs."},
)
ITEM_INPUT = Component(
    "BatchItemInput",
    {
        "type": "object",
        "properties": {"client_ref": _CLIENT_REF_GIVEN},
        "additionalProperties": True,
        "description": "The inputs that the model declares, flat, and beside them an optional `client_ref`. Media are http(s) "
        "URLs, `data:` URIs, `runflow://assets/{id}`, or the URL of an earlier output.",
    },
    {"client_ref": "mug-square", **_INPUT_EXAMPLE},
)
BATCH_REQUEST = given(
    "BatchCreateRequest",
    required={"input": array(ITEM_INPUT, minItems=1, maxItems=MAX_ITEMS)},
    optional={"metadata": nullable(METADATA), "callback_url": _CALLBACK_URL_GIVEN},
    example={
        "input": [
            {"client_ref": "mug-square", **_INPUT_EXAMPLE},
            {"client_ref": "mug-story", **_INPUT_EXAMPLE, "aspect_ratio": "9:16"},
        ],
        "metadata": {"order": 1001},
        "callback_url": None,
    },
)
RUN_REQUEST = given(
    "RunCreateRequest",
    required={"input": INPUTS},
    optional={
        "client_ref": _CLIENT_REF_GIVEN,
        "metadata": nullable(METADATA),
        "callback_url": _CALLBACK_URL_GIVEN,
    },
    example={"input": _INPUT_EXAMPLE, "client_ref": "mug-square"},
)
CANCEL_REQUEST = given(
    "CancelRequest",
    optional={"reason": {"type": ["string", "null"], "minLength": 3, "maxLength": 500}},
    example={"reason": "the customer changed the order"},
)
BATCH_REPLAY_REQUEST = given(
    "BatchReplayRequest",
    optional={
        "only": said(nullable(one_of(*Only)), "`failed` (the default): what failed or was canceled."),
        "metadata": said(nullable(METADATA), "Not given: that of the old batch."),
        "callback_url": _CALLBACK_URL_GIVEN | {"description": "Not given: that of the old batch."},
    },
    example={"only": "failed", "metadata": {"order": 1001, "try": 2}, "callback_url": "https://shop.example/done"},
)
RUN_REPLAY_REQUEST = given(
    "RunReplayRequest",
    optional={
        "metadata": said(nullable(METADATA), "Not given: that of the old run."),
        "callback_url": _CALLBACK_URL_GIVEN | {"description": "Not given: that of the old run."},
    },
    example={"metadata": {"try": 2}},
)

# --- Runs -------------------------------------------------------------------------------------------------------------

MEDIA_OUTPUT = Component(
    "MediaOutput",
    {
        "type": "object",
        "properties": {
            "url": said(URL, "Signed, expires; a later read signs anew."),
            "type": one_of(*AssetType.values),
            "width": said(nullable(COUNT), "Pixels."),
            "height": said(nullable(COUNT), "Pixels."),
            "mime_type": nullable(STRING),
        },
        "required": ["url", "type"],
    },
)
RUN_OUTPUT = record(
    "RunOutput",
    {
        "outputs": array(MEDIA_OUTPUT),
        "seed": nullable(INTEGER),
        "timing": said(nullable({"type": "object", "additionalProperties": NUMBER}), "Seconds by stage."),
        "nsfw_detected": nullable(BOOLEAN),
    },
    example={
        "outputs": [
            {
                "url": "http://127.0.0.1:8000/v1/files/01a20c33-32ef-7c52-8a33-0f5f2f6d1a01?expires=1795504642&signature=48ce4f8c",
                "type": "image",
                "mime_type": "image/jpeg",
                "width": 1024,
                "height": 1024,
            }
        ],
        "seed": None,
        "timing": {"execute": 0.107234},
        "nsfw_detected": None,
    },
)
ITEM_ERROR = record("ItemError", {"code": nullable(STRING), "message": nullable(STRING), "stage_code": nullable(STAGE)})
_RUN_LINKS = {"type": "object", "properties": {"self": STRING, "batch": STRING}, "required": ["self"]}
RUN = record(
    "Run",
    {
        "id": UUID,
        "model_id": UUID,
        "target_type": _TARGET,
        "org_id": UUID,
        "status_code": RUN_STATUS,
        "source_code": SOURCE,
        "input": INPUTS,
        "output": said(nullable(RUN_OUTPUT), "Of a success."),
        "duration_ms": nullable(COUNT),
        "cost": said(nullable(MONEY), "USD; null until it succeeded."),
        "cost_breakdown": NULL,
        "nodes_total": nullable(COUNT),
        "nodes_completed": nullable(COUNT),
        "resolved_template_id": nullable(UUID),
        "batch_id": said(nullable(UUID), "Null for a single run."),
        "client_ref": nullable(STRING),
        "replay_of": said(nullable(UUID), "The run that this one does again."),
        "request_id": said(nullable(STRING), "The `X-Request-Id` of the request that made it."),
        "created_by": said(nullable(UUID), "The API key's id."),
        "created_at": TIMESTAMP,
        "started_at": nullable(TIMESTAMP),
        "completed_at": nullable(TIMESTAMP),
        "callback_url": nullable(STRING),
        "metadata": nullable(METADATA),
        "links": _RUN_LINKS,
        "failure_code": nullable(STRING),
        "failure_message": nullable(STRING),
        "failure_stage_code": nullable(STAGE),
    },
    example={
        "id": _RUN_ID,
        "model_id": _MODEL_ID,
        "target_type": "model",
        "org_id": _ORG_ID,
        "status_code": "succeeded",
        "source_code": "api",
        "input": _INPUT_EXAMPLE,
        "output": RUN_OUTPUT.example,
        "duration_ms": 189,
        "cost": "0.55",
        "cost_breakdown": None,
        "nodes_total": None,
        "nodes_completed": None,
        "resolved_template_id": "01a20c32-19b0-7676-94c1-486403b0aaa3",
        "batch_id": _BATCH_ID,
        "client_ref": "mug-square",
        "replay_of": None,
        "request_id": "01a20c33-30d1-7c44-8a5e-3d1f2f6d1a77",
        "created_by": _KEY_ID,
        "created_at": _CREATED,
        "started_at": _STARTED,
        "completed_at": _COMPLETED,
        "callback_url": None,
        "metadata": None,
        "links": {"self": f"/v1/runs/{_RUN_ID}", "batch": f"/v1/batches/{_BATCH_ID}"},
        "failure_code": None,
        "failure_message": None,
        "failure_stage_code": None,
    },
)
_EMBEDDED = "Null unless `embed` or `fields` names it."
RUN_ROW = listed(RUN, "RunRow", input=said(nullable(INPUTS), _EMBEDDED), example=RUN.example | {"input": None})

# --- Batches ----------------------------------------------------------------------------------------------------------

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
    "run_id": _RUN_ID,
    "status_code": "succeeded",
    "client_ref": "mug-square",
}
BATCH_CREATED = record(
    "BatchCreateResponse",
    {
        "id": UUID,
        "target_type": _TARGET,
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
        "id": _BATCH_ID,
        "target_type": "model",
        "target_id": _MODEL_ID,
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
        "created_at": _CREATED,
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
                "run_id": _RUN_ID,
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
        "target_type_code": _TARGET,
        "target_type": _TARGET,
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
        "id": _BATCH_ID,
        "org_id": _ORG_ID,
        "target_type_code": "model",
        "target_type": "model",
        "target_id": _MODEL_ID,
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
        "created_by": _KEY_ID,
        "created_at": _CREATED,
        "started_at": _STARTED,
        "completed_at": _COMPLETED,
        "links": {"self": f"/v1/batches/{_BATCH_ID}", "items": f"/v1/batches/{_BATCH_ID}/items"},
        "items": [_HANDLE_EXAMPLE],
    },
)
BATCH_ROW = listed(
    BATCH,
    "BatchRow",
    items=said(nullable(array(HANDLE)), _EMBEDDED),
    input=said(nullable(array(ITEM_INPUT)), _EMBEDDED),
    output=said(nullable(BATCH_OUTPUT), _EMBEDDED),
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
        "batch_id": _BATCH_ID,
        "sequence_index": 0,
        "run_id": _RUN_ID,
        "created_at": _CREATED,
        "client_ref": "mug-square",
        "status_code": "succeeded",
        "input": _INPUT_EXAMPLE,
        "cost": "0.55",
        "output": RUN_OUTPUT.example,
        "error": None,
        "started_at": _STARTED,
        "completed_at": _COMPLETED,
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
RUN_PAGE = page(RUN_ROW, "RunPage")
RUN_LOG = record(
    "RunLog",
    {
        "id": UUID,
        "run_id": UUID,
        "level_code": said(
            one_of(*Level.values), "`warning`: an attempt failed, the run goes on. `error`: the run failed."
        ),
        "message": said(STRING, "For people."),
        "timestamp": TIMESTAMP,
        "meta": {"type": "object", "description": "For programs: `attempt`, `failure_code`, `next_attempt_at`, …"},
        "run": NULL,
    },
    example={
        "id": "0b8d1c7e-61d4-5f8a-8a53-0c9f5d7e2a44",
        "run_id": _RUN_ID,
        "level_code": "warning",
        "message": "Attempt 1 failed: PROVIDER_UNAVAILABLE: The provider does not answer. It is tried again.",
        "timestamp": _COMPLETED,
        "meta": {
            "attempt": 1,
            "failure_code": "PROVIDER_UNAVAILABLE",
            "failure_stage_code": "dispatch",
            "next_attempt_at": "2026-11-24T06:16:53.925303+00:00",
        },
        "run": None,
    },
)
RUN_LOG_PAGE = page(RUN_LOG)
RUN_STATUS_INFO = record(
    "RunStatus",
    {"status_code": RUN_STATUS, "description": said(STRING, "For people."), "is_terminal": BOOLEAN},
    example={
        "status_code": "queued",
        "description": "It waits for its turn, or for another attempt.",
        "is_terminal": False,
    },
)
BATCH_ESTIMATE = record(
    "BatchEstimate",
    {"valid": {"type": "boolean", "const": True}, "items_total": COUNT, "estimated_cost": MONEY},
    example={"valid": True, "items_total": 2, "estimated_cost": "1.10"},
)
RUN_ESTIMATE = record(
    "RunEstimate",
    {"valid": {"type": "boolean", "const": True}, "estimated_cost": MONEY},
    example={"valid": True, "estimated_cost": "0.55"},
)

# --- Callbacks --------------------------------------------------------------------------------------------------------

_ENDING = {
    "duration_ms": nullable(COUNT),
    "created_at": TIMESTAMP,
    "completed_at": nullable(TIMESTAMP),
    "metadata": nullable(METADATA),
}
_ENDING_EXAMPLE = {"duration_ms": 189, "created_at": _CREATED, "completed_at": _COMPLETED, "metadata": {"order": 1001}}
BATCH_CALLBACK = record(
    "BatchCallbackPayload",
    {
        "event": one_of("batch.succeeded", "batch.partial_succeeded", "batch.failed", "batch.cancelled"),
        "batch_id": UUID,
        "status": one_of(*BATCH_TERMINAL),
        "output": BATCH_OUTPUT,
        **_ENDING,
    },
    example={
        "event": "batch.succeeded",
        "batch_id": _BATCH_ID,
        "status": "succeeded",
        "output": BATCH_OUTPUT.example,
        **_ENDING_EXAMPLE,
    },
)
RUN_CALLBACK = record(
    "RunCallbackPayload",
    {
        "event": one_of("run.completed", "run.failed", "run.cancelled"),
        "run_id": UUID,
        "status": one_of(*TERMINAL),
        "output": nullable(RUN_OUTPUT),
        **_ENDING,
    },
    example={
        "event": "run.completed",
        "run_id": _RUN_ID,
        "status": "succeeded",
        "output": RUN_OUTPUT.example,
        **_ENDING_EXAMPLE,
    },
)
BATCH_DELIVERY = delivery("BatchCallbackDelivery", subject="batch_id", payload=BATCH_CALLBACK)
RUN_DELIVERY = delivery("RunCallbackDelivery", subject="run_id", payload=RUN_CALLBACK)
