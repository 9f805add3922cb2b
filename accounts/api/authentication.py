"""How DRF learns who the middleware found."""

from __future__ import annotations

from typing import cast

from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from accounts.middleware import ApiRequest
from accounts.services import Caller
from runflow.lib import errors


class ApiKeyAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[Caller, None] | None:
        seen = cast(ApiRequest, request._request)
        if seen.refusal is not None:
            raise seen.refusal
        caller = seen.caller
        return (caller, None) if caller is not None else None

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


def caller_of(request: Request) -> Caller:
    """The caller of a request that HasScope let in. Raises Unauthorized where a view forgot to ask for one."""
    caller: object = request.user  # the stubs know only Django's own users
    if not isinstance(caller, Caller):
        raise errors.Unauthorized
    return caller
