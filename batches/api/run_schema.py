"""What runs look like, by the names of schemas.json (see runflow.lib.schemas), and what batches share with them."""

from __future__ import annotations

from assets.models import AssetType
from batches.logs import Level
from batches.models import TERMINAL, RunStatus, Source, Stage
from batches.services import MAX_CALLBACK_URL
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

# Of the examples.
BATCH_ID = "01a20c33-30d3-737b-a193-fcc95c0215a8"
RUN_ID = "01a20c33-30d3-737b-a193-fccbeef01f96"
ORG_ID = "01a20c33-2f4e-732e-8fd3-607b145845a0"
MODEL_ID = "01a20c32-19b0-7676-94c1-486340fc8234"
KEY_ID = "01a20c33-2f51-750e-b241-2829d879b891"
CREATED = "2026-11-24T06:16:51.155072+00:00"
STARTED = "2026-11-24T06:16:51.535837+00:00"
COMPLETED = "2026-11-24T06:16:51.725303+00:00"

RUN_STATUS = Component("RunStatusCode", one_of(*RunStatus.values))
TARGET_TYPE = {"type": "string", "const": "model"}
SOURCE = Component("SourceCode", one_of(*Source.values))
STAGE = Component("StageCode", one_of(*Stage.values))
METADATA = Component(
    "Metadata", {"type": "object", "description": "Your own; comes back as it is. At most 16 KiB as JSON."}
)

# --- Requests ---------------------------------------------------------------------------------------------------------

CALLBACK_URL_GIVEN = {
    "type": ["string", "null"],
    "maxLength": MAX_CALLBACK_URL,
    "description": "An http(s) URL that is told once when all has ended.",
}
CLIENT_REF_GIVEN = {"type": ["string", "null"], "maxLength": 255, "description": "Comes back with the item."}

INPUT_EXAMPLE = {"image_url": "https://shop.example/mug.jpg", "aspect_ratio": "1:1", "resolution": "1K"}

INPUTS = Component(
    "Inputs",
    {
        "type": "object",
        "description": "What the model declares as its inputs; `GET /v1/models/{owner}/{slug}/schema` gives the schema of "
        "each.",
    },
)
RUN_REQUEST = given(
    "RunCreateRequest",
    required={"input": INPUTS},
    optional={
        "client_ref": CLIENT_REF_GIVEN,
        "metadata": nullable(METADATA),
        "callback_url": CALLBACK_URL_GIVEN,
    },
    example={"input": INPUT_EXAMPLE, "client_ref": "mug-square"},
)
CANCEL_REQUEST = given(
    "CancelRequest",
    optional={"reason": {"type": ["string", "null"], "minLength": 3, "maxLength": 500}},
    example={"reason": "the customer changed the order"},
)
RUN_REPLAY_REQUEST = given(
    "RunReplayRequest",
    optional={
        "metadata": said(nullable(METADATA), "Not given: that of the old run."),
        "callback_url": CALLBACK_URL_GIVEN | {"description": "Not given: that of the old run."},
    },
    example={"metadata": {"try": 2}},
)

# --- Answers ----------------------------------------------------------------------------------------------------------

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
        "target_type": TARGET_TYPE,
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
        "id": RUN_ID,
        "model_id": MODEL_ID,
        "target_type": "model",
        "org_id": ORG_ID,
        "status_code": "succeeded",
        "source_code": "api",
        "input": INPUT_EXAMPLE,
        "output": RUN_OUTPUT.example,
        "duration_ms": 189,
        "cost": "0.55",
        "cost_breakdown": None,
        "nodes_total": None,
        "nodes_completed": None,
        "resolved_template_id": "01a20c32-19b0-7676-94c1-486403b0aaa3",
        "batch_id": BATCH_ID,
        "client_ref": "mug-square",
        "replay_of": None,
        "request_id": "01a20c33-30d1-7c44-8a5e-3d1f2f6d1a77",
        "created_by": KEY_ID,
        "created_at": CREATED,
        "started_at": STARTED,
        "completed_at": COMPLETED,
        "callback_url": None,
        "metadata": None,
        "links": {"self": f"/v1/runs/{RUN_ID}", "batch": f"/v1/batches/{BATCH_ID}"},
        "failure_code": None,
        "failure_message": None,
        "failure_stage_code": None,
    },
)
EMBEDDED = "Null unless `embed` or `fields` names it."
RUN_ROW = listed(RUN, "RunRow", input=said(nullable(INPUTS), EMBEDDED), example=RUN.example | {"input": None})
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
        "run_id": RUN_ID,
        "level_code": "warning",
        "message": "Attempt 1 failed: PROVIDER_UNAVAILABLE: The provider does not answer. It is tried again.",
        "timestamp": COMPLETED,
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
RUN_ESTIMATE = record(
    "RunEstimate",
    {"valid": {"type": "boolean", "const": True}, "estimated_cost": MONEY},
    example={"valid": True, "estimated_cost": "0.55"},
)

# --- Callbacks --------------------------------------------------------------------------------------------------------

ENDING = {
    "duration_ms": nullable(COUNT),
    "created_at": TIMESTAMP,
    "completed_at": nullable(TIMESTAMP),
    "metadata": nullable(METADATA),
}
ENDING_EXAMPLE = {"duration_ms": 189, "created_at": CREATED, "completed_at": COMPLETED, "metadata": {"order": 1001}}
RUN_CALLBACK = record(
    "RunCallbackPayload",
    {
        "event": one_of("run.completed", "run.failed", "run.cancelled"),
        "run_id": UUID,
        "status": one_of(*TERMINAL),
        "output": nullable(RUN_OUTPUT),
        **ENDING,
    },
    example={
        "event": "run.completed",
        "run_id": RUN_ID,
        "status": "succeeded",
        "output": RUN_OUTPUT.example,
        **ENDING_EXAMPLE,
    },
)
RUN_DELIVERY = delivery("RunCallbackDelivery", subject="run_id", payload=RUN_CALLBACK)
