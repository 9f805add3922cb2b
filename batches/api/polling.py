"""Answers that are asked for again and again: `ETag` and 304, and when to ask next (RFC 9110)."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from django.conf import settings
from django.db.models import JSONField, QuerySet
from django.utils import timezone
from django.utils.crypto import salted_hmac
from django.utils.http import parse_etags
from rest_framework.request import Request
from rest_framework.response import Response

from batches.models import Batch, Run, version_of

Polled = TypeVar("Polled", Batch, Run)
# Renewed every 20 s, and shown to nobody.
_NOT_SHOWN = frozenset({"lease_expires_at"})
# A tenth of the age: what is found that much later took ten times as long. Seconds.
_SHARE_OF_AGE, _SOONEST, _LATEST = 10, 1, 30


def answer_unless_known(
    request: Request,
    *,
    small: Callable[[], QuerySet[Polled]],
    whole: Callable[[], QuerySet[Polled]],
    body: Callable[[Polled], dict[str, Any]],
    variant: str = "",
) -> Response | None:
    """200 with the row's `body`, or 304 if the request names its ETag in `If-None-Match`. None: there is no such row.

    Both find one row at most; they are functions because a query that is not used costs something too. `small` is read for a
    304, `whole` for a body, whose ETag is of that very statement: never older or newer than it. `variant` is what the request
    chose to see.
    """
    given = request.headers.get("If-None-Match")
    if given is not None:
        rows = small()
        row = rows.defer(*_json_columns(rows.model)).first()
        if row is None:
            return None
        if _names(given, etag := etag_of(row, variant=variant)):
            return Response(status=304, headers=_headers(row, etag))
    row = whole().first()
    if row is None:
        return None
    return Response(body(row), headers=_headers(row, etag_of(row, variant=variant)))


def etag_of(row: Batch | Run, *, variant: str = "", now: float | None = None) -> str:
    """The weak validator of a detail: of every column but JSON, so that a new column counts by itself, and of `version`.

    JSON columns are set once, change with the status (a run's output), or are in `version` (a run's input).

    The URLs in a terminal body expire, although nothing else in it changes. So its ETag changes twice in their lifetime:
    whoever is told 304 holds URLs that are good for another half of it at least. Keyed with SECRET_KEY, which signs URLs: a
    new key, or another PUBLIC_BASE_URL, makes another ETag.
    """
    parts = [
        getattr(row, field.attname)
        for field in row._meta.concrete_fields
        if field.attname not in _json_columns(type(row)) and field.attname not in _NOT_SHOWN
    ]
    if row.completed_at is not None:
        half = max(1.0, settings.ASSET_URL_LIFETIME.total_seconds() / 2)
        parts += [int((time.time() if now is None else now) // half)]
    parts += [_version(row), variant, settings.PUBLIC_BASE_URL]
    return f'W/"{salted_hmac("batches.etag", repr(parts), algorithm="sha256").hexdigest()[:32]}"'


def retry_after(age: timedelta) -> int:
    """Seconds to wait before asking again for what is this old and not terminal yet."""
    return int(min(_LATEST, max(_SOONEST, age.total_seconds() // _SHARE_OF_AGE)))


def _headers(row: Batch | Run, etag: str) -> dict[str, str]:
    """Of a 200 and of its 304 alike. Nobody but the client may keep it, and it asks each time whether it still holds."""
    headers = {"ETag": etag, "Cache-Control": "private, no-cache", "Vary": "Authorization, Accept-Encoding"}
    if row.completed_at is None:
        headers["Retry-After"] = str(retry_after(timezone.now() - row.created_at))
    return headers


def _version(row: Batch | Run) -> str | list[str]:
    # A batch that was read with its items need not read their runs a second time.
    return version_of(row.item_rows) if isinstance(row, Batch) and "item_rows" in vars(row) else row.version


def _names(given: str, etag: str) -> bool:
    """Whether an If-None-Match names the ETag: compared weakly, `*` is any (RFC 9110, section 13.1.2)."""
    tags = parse_etags(given)
    return tags == ["*"] or etag.removeprefix("W/") in {tag.removeprefix("W/") for tag in tags}


def _json_columns(model: type[Batch | Run]) -> frozenset[str]:
    return frozenset(field.attname for field in model._meta.concrete_fields if isinstance(field, JSONField))
