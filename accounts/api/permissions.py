"""Scopes: a view names the one it needs, HasScope checks it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from accounts.api.authentication import caller_of
from runflow.lib import errors

if TYPE_CHECKING:
    from rest_framework.views import APIView  # importing it loads this module, by DRF's settings


class HasScope(BasePermission):
    """Lets in callers whose key has the scope that the view declares for the method: `scopes = {"GET": Scope.…}`.

    A method without a declared scope is refused for everybody: forgetting one closes a door, it does not open one.
    """

    def has_permission(self, request: Request, view: APIView) -> bool:
        if request.method not in view.allowed_methods:
            return True  # the dispatcher answers 405, whoever asks
        caller = caller_of(request)
        needed = getattr(view, "scopes", {}).get("GET" if request.method == "HEAD" else request.method)
        if needed is None or needed not in caller.scopes:
            raise errors.PermissionDenied(f"This API key lacks the scope {needed}." if needed else None)
        return True


class HasKey(BasePermission):
    """Lets in every caller, whatever the scopes of its key: for what the contract names no scope for."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        return request.method not in view.allowed_methods or bool(caller_of(request))
