"""Domain errors that know their HTTP answer (contract.md section 2). Views contain no `try`; one handler renders these."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypedDict


class ErrorItem(TypedDict):
    """One fault of a request: where (a path from the request), what, and a stable word for programs."""

    loc: list[str | int]
    msg: str
    type: str


class DomainError(Exception):
    """Base of what a service refuses. Subclasses set the HTTP status and the contract's code."""

    status = 400
    code = "BAD_REQUEST"
    message = "The request cannot be understood."

    def __init__(
        self,
        message: str | None = None,
        *,
        errors: Sequence[ErrorItem] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.message = message or self.message
        self.errors = list(errors) if errors is not None else None
        self.headers = headers or {}
        super().__init__(self.message)

    def body(self) -> dict[str, object]:
        """The contract's envelope."""
        return envelope(self.code, self.message, self.errors)


class BadRequest(DomainError):
    pass


class Unauthorized(DomainError):
    status, code, message = (
        401,
        "UNAUTHORIZED",
        "A valid API key is required: Authorization: Bearer rf_live_…",
    )

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message, headers={"WWW-Authenticate": "Bearer"})


class PermissionDenied(DomainError):
    status, code, message = 403, "PERMISSION_DENIED", "This API key may not do that."


class MembershipRequired(DomainError):
    status, code = 403, "ORGANIZATION_MEMBERSHIP_REQUIRED"
    message = "This API key does not belong to the organization named in X-Organization-Id."


class NotFound(DomainError):
    status, code, message = 404, "NOT_FOUND", "There is nothing at this address."


class MethodNotAllowed(DomainError):
    status, code, message = 405, "METHOD_NOT_ALLOWED", "This address does not answer to that method."


class Conflict(DomainError):
    status, code, message = 409, "CONFLICT", "The request conflicts with an earlier one."


class PayloadTooLarge(DomainError):
    status, code, message = 413, "PAYLOAD_TOO_LARGE", "The request body is too large."


class UnsupportedMediaType(DomainError):
    status, code, message = 415, "UNSUPPORTED_MEDIA_TYPE", "The body must be application/json."


class ValidationFailed(DomainError):
    status, code, message = 422, "VALIDATION_ERROR", "The request is not valid; see errors."


class RateLimited(DomainError):
    """Always with Retry-After: `retry_after` in seconds, rounded up. `headers`: further ones."""

    status, code, message = 429, "RATE_LIMITED", "Too many requests; Retry-After says in how many seconds to try again."

    def __init__(
        self, message: str | None = None, *, retry_after: float, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, headers={"Retry-After": str(max(1, math.ceil(retry_after))), **(headers or {})})


class InternalError(DomainError):
    status, code, message = (
        500,
        "INTERNAL_ERROR",
        "Something went wrong on our side. The request id finds the log.",
    )


class ServiceUnavailable(DomainError):
    status, code, message = 503, "SERVICE_UNAVAILABLE", "The service cannot answer at the moment."


def envelope(code: str, message: str, errors: Sequence[ErrorItem] | None = None) -> dict[str, object]:
    """The error envelope of contract.md section 2."""
    return {"code": code, "message": message, "errors": errors}
