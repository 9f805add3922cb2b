"""What API views share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from runflow.lib import errors
from runflow.lib.faults import shown
from runflow.lib.schemas import STRING, Answer, Operation, record


class ApiView(APIView):
    """Base of the views: a subclass names the scope of each of its methods in `scopes`, and describes it in `documented`."""

    http_method_names = ["get", "head", "post", "put", "patch", "delete"]
    scopes: Mapping[str, str] = {}
    documented: Mapping[str, Operation] = {}
    # Bytes, where it is not REQUEST_BODY_LIMIT_BYTES. Such a view reads the body from its stream, never as a whole.
    body_limit: int | None = None


class HealthView(ApiView):
    """`GET /v1/health`: this process answers. Says nothing of the database or the broker."""

    authentication_classes: Sequence[type] = []
    permission_classes: Sequence[type] = []
    documented = {
        "GET": Operation(
            id="getHealth",
            tag="Server",
            summary="Whether this process answers",
            answers={200: Answer(record("Health", {"status": STRING}, example={"status": "ok"}), "It does.")},
        )
    }

    def get(self, request: Request) -> Response:
        return Response({"status": "ok"})


def json_object(request: Request) -> dict[str, Any]:
    """The body, which must be a JSON object. Raises BadRequest."""
    # No stream: no body at all, which DRF would take for an empty object.
    if request.stream is None or not isinstance(request.data, dict):
        raise errors.BadRequest("The body must be a JSON object.")
    return request.data


def is_true(text: str | None) -> bool:
    """A boolean query parameter; absent is false.

    Raises BadRequest for what is neither: `?validate_only=yes`, or the bare word, must not become a real batch.
    """
    if text is None:
        return False
    spelt = text.lower()
    if spelt not in ("true", "1", "false", "0"):
        raise errors.BadRequest(f'A boolean query parameter must be true or false, not "{shown(spelt)}".')
    return spelt in ("true", "1")


def parse_uuid(text: str) -> UUID | None:
    """The UUID that a path segment spells, or None. One spelling only: UUID() also takes braces, `urn:uuid:` and bare hex."""
    try:
        parsed = UUID(text)
    except ValueError:
        return None
    return parsed if str(parsed) == text.lower() else None
