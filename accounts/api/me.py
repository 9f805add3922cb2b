"""`GET /v1/auth/me`: whose key this is."""

from __future__ import annotations

from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api import schema
from accounts.api.authentication import caller_of
from accounts.api.permissions import HasKey
from accounts.services import Caller
from runflow.lib.views import ApiView


class AuthMeView(ApiView):
    """Any key may ask, whatever its scopes: a client learns them here."""

    permission_classes = [HasKey]
    documented = {"GET": schema.GET_ME}

    def get(self, request: Request) -> Response:
        return Response(me_body(caller_of(request)))


def me_body(caller: Caller) -> dict[str, Any]:
    """AuthMe. There are no people here: the key stands in for one, its name for theirs, and it has no address."""
    key, organization = caller.api_key, caller.organization
    return {
        "id": key.pk,
        "email": "",
        "first_name": key.name,
        "last_name": None,
        "avatar_url": None,
        "timezone": "UTC",
        "locale_code": None,
        "email_verified_at": None,
        "memberships": [
            {
                "org": {
                    "id": organization.pk,
                    "name": organization.name,
                    "slug": organization.slug,
                    "plan_code": None,
                },
                "role_code": None,
                "scopes": key.scopes,
            }
        ],
        "api_key": {
            "id": key.pk,
            "name": key.name,
            "key_prefix": key.prefix,
            "scopes": key.scopes,
            "expires_at": key.expires_at,
            "created_at": key.created_at,
        },
    }
