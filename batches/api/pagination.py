"""Keyset pages of a batch's items: a page costs the same at the end as at the start (contract.md section 6)."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet

from batches.models import BatchItem
from runflow.lib import errors

DEFAULT_LIMIT = 50
MAX_LIMIT = 500


@dataclass(frozen=True, slots=True)
class Page:
    rows: list[BatchItem]
    first: str | None
    next: str | None
    previous: str | None

    def body(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        return {"items": items, "first": self.first, "next": self.next, "previous": self.previous}


def page_of_items(queryset: QuerySet[BatchItem], query: dict[str, str]) -> Page:
    """The page that `limit`, `pq` and `from_prev` ask for, in order of sequence_index.

    A cursor names the row beside which the page lies: after it, or before it with `from_prev=true`. Raises BadRequest.
    """
    limit = _limit(query.get("limit"))
    cursor = query.get("pq") or None
    beside = _decode(cursor) if cursor is not None else -1
    is_backwards = query.get("from_prev", "").lower() in ("true", "1") and cursor is not None
    if is_backwards:
        rows = list(queryset.filter(sequence_index__lt=beside).order_by("-sequence_index")[: limit + 1])
        has_before, rows = len(rows) > limit, rows[:limit][::-1]
        has_after = True
    else:
        rows = list(queryset.filter(sequence_index__gt=beside).order_by("sequence_index")[: limit + 1])
        has_after, rows = len(rows) > limit, rows[:limit]
        has_before = beside >= 0
    return Page(
        rows=rows,
        first=_encode(-1) if has_before else None,
        next=_encode(rows[-1].sequence_index) if rows and has_after else None,
        previous=_encode(rows[0].sequence_index) if rows and has_before else None,
    )


def _limit(text: str | None) -> int:
    if not text:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MAX_LIMIT):
        raise errors.BadRequest(f"limit must be a number from 1 to {MAX_LIMIT}.")
    return int(text)


def _encode(sequence_index: int) -> str:
    return base64.urlsafe_b64encode(f"i{sequence_index}".encode()).decode().rstrip("=")


def _decode(cursor: str) -> int:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        if not text.startswith("i") or len(text) > 6:
            raise ValueError(text)
        return int(text[1:])
    except (binascii.Error, ValueError):
        raise errors.BadRequest("pq is not a cursor of this list.") from None
