"""Authentication, before the view and before idempotency, both of which need the organisation."""

from __future__ import annotations

import uuid

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from accounts.services import Caller, find_caller
from runflow.lib import errors
from runflow.lib.middleware import ApiMiddleware


class ApiRequest(HttpRequest):
    """A request that ApiKeyMiddleware has seen.

    `caller` is None when no key was sent, or one that is refused: then `refusal` is why. Whoever needs a caller raises it
    (ApiKeyAuthentication); public routes answer all the same.
    """

    caller: Caller | None
    refusal: errors.DomainError | None


class ApiKeyMiddleware(ApiMiddleware):
    """Puts `request.caller`: the Caller behind `Authorization: Bearer …`, and `request.refusal`.

    A refusal is 401 for a header that is there but no valid key, 400 or 403 for X-Organization-Id (contract.md section 1).
    """

    def answer(self, request: ApiRequest) -> HttpResponseBase:  # type: ignore[override]
        request.caller, request.refusal = None, None
        try:
            request.caller = _find_caller(request)
        except errors.DomainError as refusal:
            request.refusal = refusal
        return self.get_response(request)


def _find_caller(request: HttpRequest) -> Caller | None:
    header = request.headers.get("Authorization")
    if header is None:
        return None
    scheme, _, key = header.partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise errors.Unauthorized
    caller = find_caller(key=key.strip())
    if caller is None:
        raise errors.Unauthorized("This API key is unknown, expired or revoked.")
    _check_organization(request.headers.get("X-Organization-Id"), caller)
    return caller


def _check_organization(header: str | None, caller: Caller) -> None:
    if header is None:
        return
    try:
        named = uuid.UUID(header)
    except ValueError:
        raise errors.BadRequest("X-Organization-Id is not a UUID.") from None
    if named != caller.organization.pk:
        raise errors.MembershipRequired
