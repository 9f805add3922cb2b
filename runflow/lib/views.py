"""What API views share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView


class ApiView(APIView):
    """Base of the views: a subclass names the scope of each of its methods in `scopes`."""

    http_method_names = ["get", "head", "post", "put", "patch", "delete"]
    scopes: Mapping[str, str] = {}


class HealthView(ApiView):
    """`GET /v1/health`: this process answers. Says nothing of the database or the broker."""

    authentication_classes: Sequence[type] = []
    permission_classes: Sequence[type] = []

    def get(self, request: Request) -> Response:
        return Response({"status": "ok"})


def is_true(text: str | None) -> bool:
    """A boolean query parameter."""
    return text is not None and text.lower() in ("true", "1")


def parse_uuid(text: str) -> UUID | None:
    """The UUID that a path segment spells, or None. One spelling only: UUID() also takes braces, `urn:uuid:` and bare hex."""
    try:
        parsed = UUID(text)
    except ValueError:
        return None
    return parsed if str(parsed) == text.lower() else None
