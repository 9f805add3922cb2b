"""What callback secrets and deliveries look like, and what their routes do (see runflow.lib.schemas)."""

from __future__ import annotations

from callbacks.api.lists import SECRETS
from callbacks.api.serializers import MAX_LABEL
from callbacks.models import DeliveryStatus, FailureReason
from runflow.lib.list_query import BAD_QUERY, list_query
from runflow.lib.schemas import (
    BOOLEAN,
    COUNT,
    INTEGER,
    STRING,
    TIMESTAMP,
    UUID,
    Answer,
    Component,
    Operation,
    array,
    given,
    listed,
    nullable,
    one_of,
    page,
    record,
    said,
)

TAG = "Callbacks"

_SECRET = {
    "id": UUID,
    "org_id": UUID,
    "key_prefix": said(STRING, "The first characters of the secret."),
    "is_current": said(BOOLEAN, "Whether it makes `Runflow-Signature`. Every active one signs in `webhook-signature`."),
    "label": STRING,
    "disabled_at": nullable(TIMESTAMP),
    "last_used_at": nullable(TIMESTAMP),
    "created_at": TIMESTAMP,
    "updated_at": TIMESTAMP,
}
_SECRET_EXAMPLE = {
    "id": "01a20c40-5d0e-7c11-9d2b-6a1f0e3b7a55",
    "org_id": "01a20c33-2f4e-732e-8fd3-607b145845a0",
    "key_prefix": "whsec_Oa1a",
    "is_current": True,
    "label": "shop",
    "disabled_at": None,
    "last_used_at": None,
    "created_at": "2026-11-24T06:31:07.214520+00:00",
    "updated_at": "2026-11-24T06:31:07.214520+00:00",
}
SECRET = record("CallbackSecret", _SECRET, example=_SECRET_EXAMPLE)
SECRET_ROW = listed(SECRET, "CallbackSecretRow")
SECRET_CREATED = record(
    "CallbackSecretCreated",
    _SECRET | {"plain_secret": said(STRING, "The whole secret, in this answer only.")},
    example=_SECRET_EXAMPLE | {"plain_secret": "whsec_Oa1aSlcFfvcCQW/5ZTELqu0TVrUo7l8D0KoTHWdaUVk="},
)
_LABEL = {"type": "string", "maxLength": MAX_LABEL, "pattern": r"\S"}
CREATE_REQUEST = given("CallbackSecretCreateRequest", required={"label": _LABEL}, example={"label": "shop"})
UPDATE_REQUEST = given(
    "CallbackSecretUpdateRequest",
    optional={"label": nullable(_LABEL), "is_current": nullable(BOOLEAN)},
    example={"label": "shop, from December", "is_current": True},
)
ATTEMPT = record(
    "DeliveryAttempt",
    {
        "id": UUID,
        "delivery_id": UUID,
        "attempt_number": {"type": "integer", "minimum": 1},
        "status_code": said(nullable(INTEGER), "What the receiver answered; null if nothing."),
        "response_body": said(nullable(STRING), "At most 8 KiB of it."),
        "response_time_ms": nullable(COUNT),
        "error_message": nullable(STRING),
        "created_at": TIMESTAMP,
    },
)


def delivery(name: str, *, subject: str, payload: Component) -> Component:
    """What is known of one callback. `subject`: the member that names what it tells of."""
    subject_id = "01a20c33-30d3-737b-a193-fcc95c0215a8"
    return record(
        name,
        {
            "id": UUID,
            subject: UUID,
            "callback_url": STRING,
            "payload_bytes": said(STRING, "The body as it is sent and signed."),
            "payload": payload,
            "signing_secret_id": nullable(UUID),
            "is_automatic": said(BOOLEAN, "Not a redelivery."),
            "status_code": one_of(*DeliveryStatus.values),
            "failure_reason_code": nullable(one_of(*FailureReason.values)),
            "failure_detail": nullable(STRING),
            "attempt_count": COUNT,
            "max_attempts": COUNT,
            "next_attempt_at": nullable(TIMESTAMP),
            "created_at": TIMESTAMP,
            "updated_at": TIMESTAMP,
            "completed_at": nullable(TIMESTAMP),
            "attempts": array(ATTEMPT),
        },
        example={
            "id": "01a20c41-7c52-7d0f-8a33-0f5f2f6d1a01",
            subject: subject_id,
            "callback_url": "https://shop.example/done",
            "payload_bytes": '{"event":"…"}',
            "payload": payload.example,
            "signing_secret_id": "01a20c40-5d0e-7c11-9d2b-6a1f0e3b7a55",
            "is_automatic": True,
            "status_code": "pending",
            "failure_reason_code": None,
            "failure_detail": None,
            "attempt_count": 1,
            "max_attempts": 10,
            "next_attempt_at": "2026-11-24T06:16:57.121544+00:00",
            "created_at": "2026-11-24T06:16:51.725303+00:00",
            "updated_at": "2026-11-24T06:16:51.990123+00:00",
            "completed_at": None,
            "attempts": [
                {
                    "id": "01a20c41-7d11-7b02-b1d5-5b1f4a8c9e02",
                    "delivery_id": "01a20c41-7c52-7d0f-8a33-0f5f2f6d1a01",
                    "attempt_number": 1,
                    "status_code": 503,
                    "response_body": "busy",
                    "response_time_ms": 41,
                    "error_message": None,
                    "created_at": "2026-11-24T06:16:51.948210+00:00",
                }
            ],
        },
    )


LIST_SECRETS = Operation(
    id="listCallbackSecrets",
    tag=TAG,
    summary="List the secrets",
    description="Newest first, disabled ones too, without `plain_secret`.",
    query=list_query(SECRETS),
    answers={200: Answer(page(SECRET_ROW, "CallbackSecretPage"), "A page of secrets.")},
    errors={400: BAD_QUERY},
)
CREATE_SECRET = Operation(
    id="createCallbackSecret",
    tag=TAG,
    summary="Make a secret that signs callbacks",
    description="At most ten may be active. The first active one is the current one.",
    body=CREATE_REQUEST,
    answers={
        201: Answer(
            SECRET_CREATED,
            "The secret, the only answer that holds `plain_secret`.",
            links={
                "getCallbackSecret": {"secret_id": "$response.body#/id"},
                "updateCallbackSecret": {"secret_id": "$response.body#/id"},
                "deleteCallbackSecret": {"secret_id": "$response.body#/id"},
            },
        )
    },
)
GET_SECRET = Operation(
    id="getCallbackSecret",
    tag=TAG,
    summary="Read a secret",
    description="Without `plain_secret`.",
    answers={200: Answer(SECRET, "The secret.")},
)
UPDATE_SECRET = Operation(
    id="updateCallbackSecret",
    tag=TAG,
    summary="Rename a secret, or make it the current one",
    description="Changes what is given and not null.",
    body=UPDATE_REQUEST,
    answers={200: Answer(SECRET, "The secret as it is now.")},
    errors={422: "Not valid, or not allowed: the mark of the current one is taken by making another one current."},
)
DELETE_SECRET = Operation(
    id="deleteCallbackSecret",
    tag=TAG,
    summary="Disable a secret for good",
    description="It is wiped and signs no more; the object stays, with `disabled_at`. Doing it again changes nothing.",
    answers={204: Answer(None, "Disabled.")},
)
