"""How every answer under /v1/ is read and written: parsing, rendering, errors.

Imports no views: DRF loads what its settings name while `rest_framework.views` itself is being imported.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import IO, Any

from django.core.exceptions import RequestDataTooBig
from django.http import Http404, HttpRequest, HttpResponse
from rest_framework import exceptions
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.mediatypes import media_type_matches

from runflow.lib import errors, jsonlib

logger = logging.getLogger(__name__)


class JSONParser(BaseParser):
    """Strict JSON (see jsonlib.loads)."""

    media_type = "application/json"

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        try:
            return jsonlib.loads(stream.read())
        except ValueError as exc:
            raise errors.BadRequest(f"The body is not valid JSON: {exc}") from None


class JSONRenderer(BaseRenderer):
    media_type = "application/json"
    format = "json"
    charset = None

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,
        renderer_context: Mapping[str, Any] | None = None,
    ) -> bytes:
        return b"" if data is None else jsonlib.dumps(data)


class AlwaysJSON(BaseContentNegotiation):
    """Answers are JSON whatever Accept says: an error in another shape than the contract's helps nobody."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser | None:
        return next((each for each in parsers if media_type_matches(each.media_type, request.content_type)), None)

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        renderer = next(iter(renderers))
        return renderer, renderer.media_type


def error_response(error: errors.DomainError) -> HttpResponse:
    """The answer for an error that happened outside any view."""
    return HttpResponse(
        jsonlib.dumps(error.body()),
        status=error.status,
        headers=error.headers,
        content_type="application/json",
    )


def as_domain_error(exc: Exception) -> errors.DomainError | None:
    """What DRF and Django raise, in the contract's words. None: not a client's fault."""
    match exc:
        case errors.DomainError():
            return exc
        case exceptions.NotAuthenticated() | exceptions.AuthenticationFailed():
            return errors.Unauthorized()
        case exceptions.PermissionDenied():
            return errors.PermissionDenied()
        case exceptions.NotFound() | Http404():
            return errors.NotFound()
        case exceptions.MethodNotAllowed():
            return errors.MethodNotAllowed()
        case exceptions.UnsupportedMediaType():
            return errors.UnsupportedMediaType()
        case exceptions.ParseError():
            return errors.BadRequest("The request cannot be parsed.")
        case RequestDataTooBig():
            return errors.PayloadTooLarge()
    return None


def exception_handler(exc: Exception, context: Mapping[str, Any]) -> Response | None:  # noqa: ARG001 DRF names it
    """DRF's EXCEPTION_HANDLER. None lets the exception go on to ErrorEnvelopeMiddleware, which answers 500."""
    error = as_domain_error(exc)
    if error is None:
        return None
    return Response(error.body(), status=error.status, headers=error.headers)


def not_found_view(_request: HttpRequest, exception: Exception) -> HttpResponse:  # noqa: ARG001 called by name
    """Django's handler404, for addresses that no route matches."""
    return error_response(errors.NotFound())
