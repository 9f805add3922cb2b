"""Authentication and rate limits, before the view and before idempotency: both need the organisation."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from accounts.services import Caller, find_caller, rate_limit_of
from runflow.lib import errors
from runflow.lib.middleware import ApiMiddleware, view_class_of
from runflow.lib.token_bucket import Limit, Taken, buckets_at


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


class RateLimitMiddleware(ApiMiddleware):
    """429 `RATE_LIMITED` for an organisation that sends more than it may (contract.md section 8); says to others what is left.

    Before idempotency: a refusal leaves no record, and a replay costs a token too. Requests of which nobody knows an
    organisation, and routes that ask for none, are not limited. Nor is anybody while Redis does not answer.
    """

    def answer(self, request: ApiRequest) -> HttpResponseBase:  # type: ignore[override]
        limit = rate_limit_of(request.caller.organization) if request.caller is not None else None
        if request.caller is None or limit is None or _is_public(request):
            return self.get_response(request)
        taken = buckets_at(settings.REDIS_URL).take(f"organization:{request.caller.organization.pk}", limit)
        if taken is None:
            return self.get_response(request)
        headers = _rate_limit_headers(limit, taken)
        if not taken.is_allowed:
            raise errors.RateLimited(retry_after=taken.next_in, headers=headers)
        response = self.get_response(request)
        for name, value in headers.items():
            response.headers[name] = value
        return response


def _is_public(request: HttpRequest) -> bool:
    """Whether the route takes requests without a key. A route that does not exist is nobody's."""
    return not getattr(view_class_of(request), "permission_classes", True)


def _rate_limit_headers(limit: Limit, taken: Taken) -> dict[str, str]:
    """Requests a minute; how many would pass now; and when the bucket is full again, in Unix seconds."""
    return {
        "X-RateLimit-Limit": str(limit.per_minute),
        "X-RateLimit-Remaining": str(taken.remaining),
        "X-RateLimit-Reset": str(taken.full_at),
    }


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
