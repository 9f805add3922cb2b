"""Middleware that every request passes: a request id, and the contract's error envelope for whatever went wrong."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from django.conf import settings
from django.core.exceptions import DisallowedHost, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import Resolver404, resolve

from runflow.lib import errors
from runflow.lib.api import as_domain_error, error_response
from runflow.lib.ids import uuid7
from runflow.lib.request_id import request_id_var

logger = logging.getLogger(__name__)

GetResponse = Callable[[HttpRequest], HttpResponseBase]

API_PREFIX = "/v1/"
# contract.md section 1: the caller's own id is kept if it is 1-128 visible ASCII characters.
_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]{1,128}")


class RequestIdMiddleware:
    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        given = request.headers.get("X-Request-Id", "")
        request_id = given if _VISIBLE_ASCII.fullmatch(given) else str(uuid7())
        # Not reset afterwards: Django logs a refused request when this middleware has already returned.
        request_id_var.set(request_id)
        response = self.get_response(request)
        response.headers["X-Request-Id"] = request_id
        return response


def answer_for(exception: Exception) -> HttpResponse:
    """The answer to an exception that nothing else answered. The message says nothing of the inside; the log says all."""
    error = as_domain_error(exception)
    if error is None and isinstance(exception, SuspiciousOperation | DisallowedHost):
        error = errors.BadRequest()
    if error is None and isinstance(exception, OperationalError | InterfaceError):
        logger.exception("The database did not answer", exc_info=exception)
        error = errors.ServiceUnavailable(headers={"Retry-After": "5"})
    if error is None:
        logger.exception("Unexpected error", exc_info=exception)
        error = errors.InternalError()
    return error_response(error)


class ApiMiddleware:
    """Base of middleware that concerns /v1/ only and may raise: Django would answer an exception here with HTML."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not request.path_info.startswith(API_PREFIX):
            return self.get_response(request)
        try:
            return self.answer(request)
        except Exception as exc:  # noqa: BLE001 the boundary: logged and answered
            return answer_for(exc)

    def answer(self, request: HttpRequest) -> HttpResponseBase:
        raise NotImplementedError


class ErrorEnvelopeMiddleware(ApiMiddleware):
    """Every error under /v1/ is JSON in the contract's envelope: also those that no view raised."""

    def answer(self, request: HttpRequest) -> HttpResponseBase:
        length = _content_length(request)
        if length > (settings.DATA_UPLOAD_MAX_MEMORY_SIZE or 0) and length > _own_body_limit(request):
            # Before anything reads it, so that no middleware meets half a body.
            raise errors.PayloadTooLarge
        response = self.get_response(request)
        if response.status_code >= 400 and response.headers.get("Content-Type") != "application/json":
            return error_response(_BY_STATUS.get(response.status_code, errors.InternalError)())
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """What a view let through."""
        return answer_for(exception) if request.path_info.startswith(API_PREFIX) else None


_BY_STATUS: dict[int, type[errors.DomainError]] = {
    400: errors.BadRequest,
    403: errors.PermissionDenied,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    413: errors.PayloadTooLarge,
    503: errors.ServiceUnavailable,
}


def _own_body_limit(request: HttpRequest) -> int:
    """The `body_limit` of the view that will answer, 0 if it has none. See ApiView."""
    return getattr(view_class_of(request), "body_limit", None) or 0


def view_class_of(request: HttpRequest) -> object:
    """The class of the view that will answer; None if no route matches, or it is a function."""
    try:
        return getattr(resolve(request.path_info).func, "view_class", None)
    except Resolver404:
        return None


def _content_length(request: HttpRequest) -> int:
    try:
        return int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:
        return 0
