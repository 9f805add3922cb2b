"""Callback secrets over HTTP (contract.md section 7)."""

from __future__ import annotations

from uuid import UUID

from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.authentication import caller_of
from accounts.models import Scope
from callbacks import services
from callbacks.api import schema
from callbacks.api.lists import SECRETS
from callbacks.api.serializers import check_create, check_update, secret_body, secret_created_body
from runflow.lib.views import ApiView, json_object, parse_uuid


class CallbackSecretsView(ApiView):
    """`GET|POST /v1/callback-secrets`"""

    scopes = {"GET": Scope.CALLBACK_SECRETS_READ, "POST": Scope.CALLBACK_SECRETS_CREATE}
    documented = {"GET": schema.LIST_SECRETS, "POST": schema.CREATE_SECRET}
    listing = SECRETS

    def get(self, request: Request) -> Response:
        secrets = services.secrets_of(organization=caller_of(request).organization)
        page = self.listing.page(secrets, request.query_params.dict())
        return Response(page.body(secret_body(secret) for secret in page.rows))

    def post(self, request: Request) -> Response:
        label = check_create(json_object(request))
        secret, plain_secret = services.create_secret(organization=caller_of(request).organization, label=label)
        response = Response(secret_created_body(secret, plain_secret), status=201)
        response.is_secret = True  # type: ignore[attr-defined]
        return response


class CallbackSecretView(ApiView):
    """`GET|PATCH|DELETE /v1/callback-secrets/{id}`"""

    scopes = {
        "GET": Scope.CALLBACK_SECRETS_READ,
        "PATCH": Scope.CALLBACK_SECRETS_EDIT,
        "DELETE": Scope.CALLBACK_SECRETS_DELETE,
    }
    documented = {
        "GET": schema.GET_SECRET,
        "PATCH": schema.UPDATE_SECRET,
        "DELETE": schema.DELETE_SECRET,
    }

    def get(self, request: Request, secret_id: str) -> Response:
        secret = services.find_secret(secret_id=_parsed(secret_id), organization=caller_of(request).organization)
        return Response(secret_body(secret))

    def patch(self, request: Request, secret_id: str) -> Response:
        changes = check_update(json_object(request))
        secret = services.update_secret(
            secret_id=_parsed(secret_id),
            organization=caller_of(request).organization,
            label=changes.label,
            is_current=changes.is_current,
        )
        return Response(secret_body(secret))

    def delete(self, request: Request, secret_id: str) -> Response:
        services.disable_secret(secret_id=_parsed(secret_id), organization=caller_of(request).organization)
        return Response(status=204)


def _parsed(secret_id: str) -> UUID:
    parsed = parse_uuid(secret_id)
    if parsed is None:
        raise services.CallbackSecretNotFound
    return parsed
