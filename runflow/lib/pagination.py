"""Pages of short lists that are in memory, and the limit of every page (contract.md section 6). Of tables: `lists`."""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from runflow.lib import errors
from runflow.lib.views import is_true

DEFAULT_LIMIT = 50
MAX_LIMIT = 500

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Order:
    """The order of a list: it grows along one attribute, whose values are unique within it.

    `mark` begins the list's cursors, so that another list's are refused. `parse` reads a value of `column` and raises
    ValueError. `start` is a value before all others.
    """

    column: str
    mark: str
    parse: Callable[[str], Any]
    start: Any


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    rows: list[R]
    first: str | None
    next: str | None
    previous: str | None

    def body(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        return {"items": items, "first": self.first, "next": self.next, "previous": self.previous}


def page_of_list(rows: Sequence[R], query: Mapping[str, str], *, order: Order) -> Page[R]:
    """The page that `limit`, `pq` and `from_prev` ask for, of rows that are in this order.

    A cursor names the row beside which the page lies: after it, or before it with `from_prev=true`. Raises BadRequest.
    """
    limit = parse_limit(query.get("limit"))
    cursor = query.get("pq") or None
    beside = _decode(cursor, order) if cursor is not None else order.start
    values = [getattr(row, order.column) for row in rows]
    if is_true(query.get("from_prev")) and cursor is not None:
        end = bisect_left(values, beside)
        start = max(0, end - limit)
    else:
        start = bisect_right(values, beside)
        end = min(start + limit, len(rows))
    has_before, has_after = start > 0, end < len(rows)
    return Page(
        rows=list(rows[start:end]),
        first=_encode(order.start, order) if has_before else None,
        next=_encode(values[end - 1], order) if start < end and has_after else None,
        previous=_encode(values[start], order) if start < end and has_before else None,
    )


def parse_limit(text: str | None) -> int:
    """Raises BadRequest."""
    if not text:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MAX_LIMIT):
        raise errors.BadRequest(f"limit must be a number from 1 to {MAX_LIMIT}.")
    return int(text)


def _encode(value: object, order: Order) -> str:
    return base64.urlsafe_b64encode(f"{order.mark}{value}".encode()).decode().rstrip("=")


def _decode(cursor: str, order: Order) -> Any:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        if not text.startswith(order.mark):
            raise ValueError(text)
        return order.parse(text.removeprefix(order.mark))
    except (binascii.Error, ValueError):
        raise errors.BadRequest("pq is not a cursor of this list.") from None
