"""The order of lists: `sort_by`, and cursors that name a place in it (contract.md section 6).

Ties are broken by id, so every row has a place of its own. Null counts as later than every time: last when a list grows, first
when it falls, which is PostgreSQL's own order and so that of its indexes.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import BooleanField, DateTimeField, F, Func, Model, Q, UUIDField, Value
from django.db.models.lookups import GreaterThan, GreaterThanOrEqual, LessThan, LessThanOrEqual

from runflow.lib import errors
from runflow.lib.faults import is_storable, shown
from runflow.lib.views import parse_uuid

Key = tuple[Any, ...]  # of a row: its values in the sorted columns, and its id

MAX_TERMS = 4


def _time(value: object) -> datetime:
    parsed = datetime.fromisoformat(value) if isinstance(value, str) else None
    if parsed is None or parsed.tzinfo is None:
        raise ValueError(value)
    return parsed


def _whole(value: object) -> int:
    if type(value) is not int or not -(2**31) <= value < 2**31:
        raise ValueError(value)
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not is_storable(value):
        raise ValueError(value)
    return value


@dataclass(frozen=True, slots=True)
class Sortable:
    """A member that a list may be sorted by. `column` "": as the member. `parse`: a value from a cursor, or ValueError.

    `leaves_out_null`: sorted by it, the list holds only the rows that have it, and so does the index.
    """

    parse: Callable[[object], Any]
    column: str = ""
    is_nullable: bool = False
    leaves_out_null: bool = False


TIME = Sortable(_time)
NULLABLE_TIME = Sortable(_time, is_nullable=True)
TIME_THAT_IS_THERE = Sortable(_time, leaves_out_null=True)
WHOLE = Sortable(_whole)
TEXT = Sortable(_text)


@dataclass(frozen=True, slots=True)
class Term:
    member: str
    column: str
    is_descending: bool
    is_nullable: bool
    leaves_out_null: bool
    parse: Callable[[object], Any]


class _Row(Func):
    """(a, b): a pair that PostgreSQL compares as a whole, and an index of both finds."""

    template = "(%(expressions)s)"
    output_field = BooleanField()  # never read; comparing wants to know one


class _Opaque(Func):
    """The same value, in a form that no index has. With LIMIT the planner likes to walk along an index in order and hope
    for rows that match; sorting by this, it has to look for them first."""

    function = "GREATEST"


class Ordering:
    """What `sort_by` asks for. `mark` begins the list's cursors, so that another list's are refused."""

    def __init__(self, mark: str, terms: Sequence[Term]) -> None:
        self.mark = mark
        self.terms = tuple(terms)
        self.text = ",".join(f"{term.member}:{'desc' if term.is_descending else 'asc'}" for term in terms)
        # Ties follow the last member, so that one index serves both.
        self._columns = (
            *((term.column, term.is_descending, term.is_nullable) for term in terms),
            ("pk", self.terms[-1].is_descending, False),
        )

    @property
    def leading(self) -> str:
        """The column that counts most."""
        return self.terms[0].column

    @property
    def is_simple(self) -> bool:
        """One column that is never null: any stretch of the list is one range of an index."""
        return len(self.terms) == 1 and not self.terms[0].is_nullable

    @property
    def condition(self) -> Q:
        """Which rows the list holds in this order."""
        return Q(**{f"{term.column}__isnull": False for term in self.terms if term.leaves_out_null})

    def order_by(self, *, is_backwards: bool = False, is_opaque: bool = False) -> list[Any]:
        """Arguments for a queryset's order_by()."""
        ordered = []
        for column, is_descending, _ in self._columns:
            expression: Any = _Opaque(F(column)) if is_opaque else F(column)
            ordered.append(expression.desc() if is_descending != is_backwards else expression.asc())
        return ordered

    def key(self, row: Model) -> Key:
        return tuple(getattr(row, column) for column, _, _ in self._columns)

    def columns(self) -> list[str]:
        return [column for column, _, _ in self._columns]

    def beyond(self, key: Key, *, is_backwards: bool = False) -> list[Q]:
        """What comes after this key, as alternatives without overlap, each one range of an index of these columns."""
        found = []
        same = Q()
        for position, ((column, is_descending, is_nullable), value) in enumerate(zip(self._columns, key, strict=True)):
            is_falling = is_descending != is_backwards
            last = position == len(self._columns) - 2
            if last and value is not None and self._columns[-1][1] == is_descending:
                found.append(same & Q(self._pair(key, GreaterThan if not is_falling else LessThan)))
            elif value is not None:
                found.append(same & Q(**{f"{column}__{'lt' if is_falling else 'gt'}": value}))
            elif is_falling:
                found.append(same & Q(**{f"{column}__isnull": False}))
            if is_nullable and value is not None and not is_falling:
                found.append(same & Q(**{f"{column}__isnull": True}))
            if last and value is not None and self._columns[-1][1] == is_descending:
                break
            same &= Q(**{f"{column}__isnull": True}) if value is None else Q(**{column: value})
        return found

    def up_to(self, key: Key, *, is_backwards: bool) -> Q:
        """This key and what comes before it; of a simple order."""
        is_falling = self.terms[0].is_descending != is_backwards
        return Q(self._pair(key, GreaterThanOrEqual if is_falling else LessThanOrEqual))

    def _pair(self, key: Key, compare: Callable[[Any, Any], Any]) -> Any:
        value = Value(key[-2], output_field=DateTimeField()) if isinstance(key[-2], datetime) else Value(key[-2])
        return compare(_Row(F(self._columns[-2][0]), F("pk")), _Row(value, Value(key[-1], output_field=UUIDField())))

    def encode(self, key: Key | None) -> str:
        """A cursor: opaque to clients. Of no key: the start."""
        values = (
            None if key is None else [each if each is None or type(each) is int else _spelled(each) for each in key]
        )
        text = json.dumps([self.mark, self.text, values], separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    def decode(self, cursor: str) -> Key | None:
        """Raises BadRequest for what is not a cursor of this list in this order."""
        try:
            padded = cursor + "=" * (-len(cursor) % 4)
            mark, text, values = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
            if mark != self.mark or not isinstance(text, str):
                raise ValueError(mark)
            if text != self.text:
                raise errors.BadRequest(f"pq is a cursor of sort_by={shown(text)}, not of {self.text}.")
            return None if values is None else self._key(values)
        except (binascii.Error, ValueError, TypeError, RecursionError):
            raise errors.BadRequest("pq is not a cursor of this list.") from None

    def _key(self, values: Any) -> Key:
        *given, last = values
        pk = parse_uuid(last)
        if pk is None:
            raise ValueError(last)
        key: list[Any] = []
        for term, value in zip(self.terms, given, strict=True):
            if value is None and not term.is_nullable:
                raise ValueError(value)
            key.append(None if value is None else term.parse(value))
        return (*key, pk)


def _spelled(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def parse(text: str, sortable: Mapping[str, Sortable], mark: str) -> Ordering:
    """The order that `sort_by` asks for: `created_at:desc`, or several with commas. Raises BadRequest."""
    terms: list[Term] = []
    for part in text.split(","):
        member, _, direction = part.strip().partition(":")
        if member not in sortable or direction.lower() not in ("", "asc", "desc"):
            possible = ", ".join(sorted(sortable))
            raise _bad_sort(f"“{shown(part.strip())}” is none of {possible}, with :asc or :desc.", "unknown_member")
        if any(term.member == member for term in terms):
            raise _bad_sort(f"{member} is there twice.", "not_allowed")
        if len(terms) == MAX_TERMS:
            raise _bad_sort(f"Sort by at most {MAX_TERMS} members.", "too_long")
        found = sortable[member]
        terms.append(
            Term(
                member=member,
                column=found.column or member,
                is_descending=direction.lower() == "desc",
                is_nullable=found.is_nullable,
                leaves_out_null=found.leaves_out_null,
                parse=found.parse,
            )
        )
    return Ordering(mark, terms)


def _bad_sort(msg: str, error_type: str) -> errors.BadRequest:
    return errors.BadRequest(f"sort_by: {msg}", errors=[{"loc": ["query", "sort_by"], "msg": msg, "type": error_type}])
