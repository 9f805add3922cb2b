"""Idempotency-Key on every unsafe method (contract.md section 3.2): one table, one transaction, no lock service.

The cases; docs/idempotency.md names the test of each:
1. no header: every request is its own write
2. first request: the record and the work commit together
3. same key, same body: the stored answer, byte for byte
4. same key, other body: 409 idempotency_mismatch
5. first request still running: the twin waits and replays
6. still running after the wait: 409 idempotency_in_flight
7. first request fails: nothing is kept, the waiting twin does the work
8. crash anywhere: both or neither
"""

from __future__ import annotations

import logging
from uuid import UUID

from django.conf import settings
from django.db import OperationalError, transaction
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from psycopg.errors import LockNotAvailable

from accounts.middleware import ApiRequest
from idempotency import services
from idempotency.models import IdempotencyRecord
from runflow.lib import errors
from runflow.lib.encryption import CannotDecrypt
from runflow.lib.middleware import ApiMiddleware

logger = logging.getLogger(__name__)

_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


class IdempotencyMiddleware(ApiMiddleware):
    """Opens the transaction of a request that carries a key, and keeps its answer if it is a 2xx.

    A view marks its response: `is_dry_run`, and nothing is kept; `is_secret`, and it is kept encrypted.
    """

    def answer(self, request: ApiRequest) -> HttpResponseBase:  # type: ignore[override]
        header = request.headers.get("Idempotency-Key")
        if header is None or request.method in _SAFE or request.caller is None:
            return self.get_response(request)
        key = services.parse_key(header)
        organization_id = request.caller.organization.pk
        fingerprint = services.fingerprint(method=request.method or "", path=request.path, body=request.body)
        # A retry is usually a replay: answered with one read, without a transaction.
        record = services.find_record(organization_id=organization_id, key=key)
        if record is not None:
            return _replay(record, fingerprint)
        try:
            with transaction.atomic():
                record_id = _reserve(organization_id, key, fingerprint)
                if record_id is not None:
                    return self._work(request, record_id)
        except _InFlight:
            raise _conflict(
                "idempotency_in_flight",
                "The first request with this Idempotency-Key is still running.",
                retry_after=1,
            ) from None
        record = services.find_record(organization_id=organization_id, key=key)
        if record is None:  # expired and purged within the last millisecond
            raise _conflict("idempotency_in_flight", "Please send the request again.", retry_after=1)
        return _replay(record, fingerprint)

    def _work(self, request: ApiRequest, record_id: UUID) -> HttpResponseBase:
        response = self.get_response(request)
        # A dry run makes nothing, so there is nothing to make once; its key stays free for the real request.
        is_kept = 200 <= response.status_code < 300 and not getattr(response, "is_dry_run", False)
        if is_kept and isinstance(response, HttpResponse):
            services.keep(
                record_id=record_id,
                status=response.status_code,
                headers=dict(response.headers.items()),
                body=response.content,
                is_secret=getattr(response, "is_secret", False),
            )
        else:
            transaction.set_rollback(True)
        return response


class _InFlight(Exception):
    pass


def _reserve(organization_id: UUID, key: str, fingerprint: str) -> UUID | None:
    try:
        return services.reserve(
            organization_id=organization_id,
            key=key,
            fingerprint=fingerprint,
            retention=settings.IDEMPOTENCY_RETENTION,
            wait=settings.IDEMPOTENCY_WAIT,
        )
    except OperationalError as exc:
        if isinstance(exc.__cause__, LockNotAvailable):
            raise _InFlight from exc
        raise


def _replay(record: IdempotencyRecord, fingerprint: str) -> HttpResponse:
    if record.fingerprint != fingerprint:
        raise _conflict("idempotency_mismatch", "This Idempotency-Key was used for a different request.")
    try:
        body = services.kept_body(record)
    except CannotDecrypt:
        # Doing the work again would make a second secret beside the one that the client may have.
        logger.exception("The stored answer of Idempotency-Key %s cannot be read", record.key)
        raise _conflict(
            "idempotency_unreadable",
            "The request was answered, but its answer held a secret and can no longer be read. Send a new one with a new key.",
        ) from None
    response = HttpResponse(body, status=record.response_status)
    del response.headers["Content-Type"]  # Django's default, which an answer without a body (204) does not have
    for name, value in record.response_headers.items():
        response.headers[name] = value
    response.headers["Idempotent-Replayed"] = "true"
    return response


def _conflict(error_type: str, message: str, *, retry_after: int | None = None) -> errors.Conflict:
    return errors.Conflict(
        message,
        errors=[{"loc": ["header", "Idempotency-Key"], "msg": message, "type": error_type}],
        headers={"Retry-After": str(retry_after)} if retry_after is not None else None,
    )
