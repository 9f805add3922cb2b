"""What is told of a key, and how to ask (see runflow.lib.schemas)."""

from __future__ import annotations

from accounts.models import Scope
from runflow.lib.schemas import (
    NULL,
    STRING,
    TIMESTAMP,
    UUID,
    Answer,
    Component,
    Operation,
    array,
    nullable,
    one_of,
    record,
    said,
)

TAG = "Account"

_KEY_ID = "01a20c33-2f51-750e-b241-2829d879b891"
_SCOPES = array(Component("Scope", one_of(*Scope.values)))
_SCOPES_EXAMPLE = ["models:read", "batches:create", "batches:read"]
ORGANIZATION = record("AuthMeOrganization", {"id": UUID, "name": STRING, "slug": STRING, "plan_code": NULL})
MEMBERSHIP = record("AuthMeMembership", {"org": ORGANIZATION, "role_code": NULL, "scopes": _SCOPES})
API_KEY = record(
    "AuthMeApiKey",
    {
        "id": UUID,
        "name": STRING,
        "key_prefix": said(STRING, "The first characters of the key."),
        "scopes": _SCOPES,
        "expires_at": nullable(TIMESTAMP),
        "created_at": TIMESTAMP,
    },
)
ME = record(
    "AuthMe",
    {
        "id": said(UUID, "The key's."),
        "email": said(STRING, "Empty: keys have none."),
        "first_name": said(STRING, "The key's name."),
        "last_name": NULL,
        "avatar_url": NULL,
        "timezone": STRING,
        "locale_code": NULL,
        "email_verified_at": NULL,
        "memberships": array(MEMBERSHIP, minItems=1, maxItems=1),
        "api_key": API_KEY,
    },
    example={
        "id": _KEY_ID,
        "email": "",
        "first_name": "nightly import",
        "last_name": None,
        "avatar_url": None,
        "timezone": "UTC",
        "locale_code": None,
        "email_verified_at": None,
        "memberships": [
            {
                "org": {
                    "id": "01a20c33-2f4e-732e-8fd3-607b145845a0",
                    "name": "Acme",
                    "slug": "acme",
                    "plan_code": None,
                },
                "role_code": None,
                "scopes": _SCOPES_EXAMPLE,
            }
        ],
        "api_key": {
            "id": _KEY_ID,
            "name": "nightly import",
            "key_prefix": "rf_live_Qx7p",
            "scopes": _SCOPES_EXAMPLE,
            "expires_at": None,
            "created_at": "2026-11-24T06:16:12.433190+00:00",
        },
    },
)
GET_ME = Operation(
    id="getMe",
    tag=TAG,
    summary="Whose key this is",
    description="The public API tells of a person here. This server knows none, so the key stands in.",
    answers={200: Answer(ME, "The key and its organisation.")},
)
