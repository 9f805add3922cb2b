"""Authentication, before the view and before idempotency, both of which need the organisation."""

from __future__ import annotations

import uuid

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from accounts.services import Caller, find_caller
from runflow.lib import errors
from runflow.lib.middleware import ApiMiddleware


class ApiRequest(HttpRequest):
    """A request that ApiKeyMiddleware has seen. `caller` is None when no key was sent."""

    caller: Caller | None


class ApiKeyMiddleware(ApiMiddleware):
    """Puts `request.caller`: the Caller behind `Authorization: Bearer …`, or None where the header is absent.

    401 for a header that is there but no valid key; 400 / 403 for X-Organization-Id (contract.md section 1).
    """

    def answer(self, request: HttpRequest) -> HttpResponseBase:
        caller = None
        header = request.headers.get("Authorization")
        if header is not None:
            scheme, _, key = header.partition(" ")
            if scheme.lower() != "bearer" or not key.strip():
                raise errors.Unauthorized
            caller = find_caller(key=key.strip())
            if caller is None:
                raise errors.Unauthorized("This API key is unknown, expired or revoked.")
            _check_organization(request.headers.get("X-Organization-Id"), caller)
        request.caller = caller  # type: ignore[attr-defined]
        return self.get_response(request)


def _check_organization(header: str | None, caller: Caller) -> None:
    if header is None:
        return
    try:
        named = uuid.UUID(header)
    except ValueError:
        raise errors.BadRequest("X-Organization-Id is not a UUID.") from None
    if named != caller.organization.pk:
        raise errors.MembershipRequired
