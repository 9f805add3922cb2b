"""Finding the rows of a page: along indexes, by looking up, by walking.

A page costs the same in a table of a million rows as in a small one, whatever is asked. Three ways lead to its rows:

- along an index: equalities that an index begins with, then the order. An OR of such is as many short walks.
- looking up: a condition that few rows meet (FEW, asked first) and that an index finds. They are read and sorted.
- walking: along the list, LOOKED_AT rows for one page, leaving out what does not match. Such a page may hold fewer rows than
  asked for, or none, and still have a next one.

So no statement reads more than about LOOKED_AT rows, and none scans a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Generic, TypeVar

from django.db import connection
from django.db.models import Model, Q, QuerySet

from runflow.lib import filtering
from runflow.lib.filtering import Condition, Kind, Node
from runflow.lib.ordering import Key, Ordering, Sortable

M = TypeVar("M", bound=Model)

# Reading and sorting so many rows takes some 20 ms.
FEW = 5000
# Reading so many takes some 30 ms.
LOOKED_AT = 20_000
# Each is a subquery of its own; planning a hundred takes longer than running them.
MAX_WALKS = 48


def _by_column(filterable: Filterable, condition: Condition) -> Q:
    lookup = {"EQ": "exact", "IN": "in"}.get(condition.operator, condition.operator.lower())
    return Q(**{f"{filterable.column}__{lookup}": condition.value})


@dataclass(frozen=True, slots=True, kw_only=True)
class Filterable:
    """A member that a list may be filtered by.

    `to_q` makes the condition, without its negation, which is the complement: a row whose value is null meets it.
    `look_up`, if an index finds the rows that have a value: the condition in the form that the index knows, given what the
    list is tied to, or None if it knows not this one. `most`: no more rows than this have one value, so nobody has to ask.
    """

    kind: Kind
    column: str = ""
    to_q: Callable[[Filterable, Condition], Q] = _by_column
    look_up: Callable[[Filterable, Condition, Any], Q | None] | None = None
    most: int | None = None
    note: str = ""

    @property
    def operators(self) -> tuple[str, ...]:
        return self.kind.operators

    def q(self, condition: Condition) -> Q:
        made = self.to_q(self, condition)
        return ~made if condition.is_negated else made


def look_up_by_column(filterable: Filterable, condition: Condition, _: Any) -> Q:
    return _by_column(filterable, condition)


@dataclass(frozen=True, slots=True)
class Index:
    """An index of the column that ties a list to its owner, then of these, then of one to sort by, then of the id.

    `holds`: if it is a partial one, the codes of its first column that it has the rows of.
    """

    columns: tuple[str, ...] = ()
    holds: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Searchable:
    """What a list may be filtered and sorted by.

    `indexes`: those that there are for a column to sort by. `is_short`: a list of some thousand rows at most, which needs
    none to be filtered: read whole and sorted.
    """

    filterable: Mapping[str, Filterable] = field(default_factory=dict)
    sortable: Mapping[str, Sortable]
    indexes: Mapping[str, Sequence[Index]] = field(default_factory=dict)
    is_short: bool = False


@dataclass(frozen=True, slots=True)
class _Way:
    """Rows that one subquery finds: along an index, or (`is_sorted`) by reading and sorting them all."""

    condition: Q
    is_sorted: bool


class Search(Generic[M]):
    """Finds the rows of one page."""

    def __init__(
        self, listing: Searchable, queryset: QuerySet[M], order: Ordering, *, tied_to: Any, only: Q | None
    ) -> None:
        self.listing = listing
        self.queryset = queryset.filter(order.condition)
        self.only = only
        self.order = order
        self.tied_to = tied_to
        self.indexes = listing.indexes.get(order.leading, ())
        self.is_walkable = _is_walkable(self.indexes)

    def rows(
        self,
        node: Node | None,
        key: Key | None,
        count: int,
        *,
        is_backwards: bool,
        prepare: Callable[[QuerySet[M]], QuerySet[M]],
    ) -> tuple[list[M], Key | None]:
        """So many rows beyond the key, and where a walk along the list stopped short of them."""
        beyond = self.order.beyond(key, is_backwards=is_backwards) if key is not None else [Q()]
        branches = self._branches(node) if node is not None else [[]]
        ways = self._ways(branches, node) if branches is not None else None
        queryset, stopped_at = self.queryset.filter(self.only or Q()), None
        if ways is None or len(ways) * len(beyond) > MAX_WALKS:
            condition, stopped_at = self._walk(node, branches, beyond, is_backwards=is_backwards)
            ways = [_Way(condition, is_sorted=False)]
        if not ways:
            return [], None
        parts = [
            _Way(way.condition & alternative, way.is_sorted)
            for way in ways
            for alternative in ([_any(beyond)] if way.is_sorted else beyond)
        ]
        if len(parts) == 1:
            found = queryset.filter(parts[0].condition)
            is_sorted = parts[0].is_sorted
        else:
            each = [
                queryset.filter(part.condition)
                .order_by(*self.order.order_by(is_backwards=is_backwards, is_opaque=part.is_sorted))
                .values("pk")[:count]
                for part in parts
            ]
            found = queryset.filter(pk__in=each[0].union(*each[1:], all=True))
            is_sorted = True
        found = found.order_by(*self.order.order_by(is_backwards=is_backwards, is_opaque=is_sorted))
        rows = list(prepare(found)[:count])
        return rows, stopped_at if len(rows) < count else None

    # --- Which ways lead to the rows of a filter ----------------------------------------------------------------------

    def _ways(self, branches: list[list[Condition]], node: Node | None) -> list[_Way] | None:
        """One or several for each branch of an OR; None if one of them has to walk."""
        if self.listing.is_short and (node is not None or not self.is_walkable):
            return [_Way(self._q(node) if node is not None else Q(), is_sorted=True)]
        found: list[_Way] = []
        few = self._few(branches)
        for branch in branches:
            if looked_up := next((each for each in branch if each in few), None):
                rest = [self._q(each) for each in branch if each is not looked_up]
                found.append(_Way(_all([self._look_up(looked_up) or Q(), *rest]), is_sorted=True))
                continue
            conditions = self._along_an_index(branch) if self.only is None else None
            if conditions is None:
                return None
            found += [_Way(each, is_sorted=False) for each in conditions]
            if len(found) > MAX_WALKS:
                return None
        return found

    def _few(self, branches: list[list[Condition]]) -> set[Condition]:
        """The conditions that few rows meet and that an index finds. One statement asks about all that may be."""
        known, asked = set(), {}
        for condition in (each for branch in branches for each in branch):
            look_up = self._look_up(condition)
            if look_up is None:
                continue
            most = self.listing.filterable[condition.member].most
            if most is not None and most * len(condition.one_by_one()) <= FEW:
                known.add(condition)
            else:
                asked[condition] = self.queryset.filter(look_up).order_by().values("pk")[: FEW + 1]
        # Who has found the rows of every branch need not ask.
        if not asked or all(known.intersection(branch) for branch in branches):
            return known
        counts = _counts(list(asked.values()))
        return known | {each for each, number in zip(asked, counts, strict=True) if number <= FEW}

    def _along_an_index(self, branch: Sequence[Condition]) -> list[Q] | None:
        """The branch as stretches of one index in the list's order; None if no index has it."""
        fixed, ranges, rest = self._sorted_out(branch)
        if rest:
            return None
        for index in sorted(self.indexes, key=lambda each: len(each.columns)):
            values = [fixed[each] if each in fixed else self._codes(each) for each in index.columns]
            if set(fixed) <= set(index.columns) and all(each is not None for each in values) and _holds(index, values):
                choices = product(*((each or {}).values() for each in values))
                return [_all([*ranges, *choice]) for choice in choices]
        return None

    def _sorted_out(self, branch: Sequence[Condition]) -> tuple[dict[str, dict[str, Q]], list[Q], list[Condition]]:
        """Of a branch: by column the values that an index may begin with, the range in the order, and what is neither."""
        indexed = {column for index in self.indexes for column in index.columns}
        fixed: dict[str, dict[str, Q]] = {}
        ranges, rest = [], []
        for each in branch:
            filterable = self.listing.filterable[each.member]
            column = filterable.column
            if column in indexed and filterable.kind.codes:
                given = {code: Q(**{column: code}) for code in self._meant(each)}
                fixed[column] = {code: q for code, q in given.items() if code in fixed.get(column, given)}
            elif column in indexed and not each.is_negated and column not in fixed:
                fixed[column] = {str(one.value): filterable.q(one) for one in each.one_by_one()}
            elif column == self.order.leading and not each.is_negated and each.operator != "IN":
                ranges.append(filterable.q(each))
            elif column == self.order.leading and self.order.is_simple and each.has_opposite:
                ranges.append(filterable.q(each.opposite()))
            else:
                rest.append(each)
        return fixed, ranges, rest

    def _codes(self, column: str) -> dict[str, Q] | None:
        """All values that a column may have, if they are few."""
        codes = next((each.kind.codes for each in self.listing.filterable.values() if each.column == column), ())
        return {code: Q(**{column: code}) for code in codes} or None

    def _meant(self, condition: Condition) -> list[str]:
        """The codes that meet a condition on one."""
        given = {each.value for each in condition.one_by_one()}
        return [
            code
            for code in self.listing.filterable[condition.member].kind.codes
            if (code in given) != condition.is_negated
        ]

    def _branches(self, node: Node) -> list[list[Condition]] | None:
        """The filter as an OR of ANDs, code by code; None if that has too many parts."""
        if isinstance(node, Condition):
            filterable = self.listing.filterable[node.member]
            # Each may have a way of its own. Where none has, there would be as many walks.
            if not filterable.kind.codes or not any(filterable.column in index.columns for index in self.indexes):
                return [[node]]
            return [[replace(node, operator="EQ", value=code, is_negated=False)] for code in self._meant(node)]
        parts = [self._branches(part) for part in node.parts]
        if any(part is None for part in parts):
            return None
        known = [part for part in parts if part is not None]
        if isinstance(node, filtering.Either):
            branches = [branch for part in known for branch in part]
        else:
            branches = [[]]
            for part in known:
                branches = [[*one, *other] for one in branches for other in part]
                if len(branches) > MAX_WALKS:
                    return None
        return branches if len(branches) <= MAX_WALKS else None

    # --- Walking ------------------------------------------------------------------------------------------------------

    def _walk(
        self, node: Node | None, branches: list[list[Condition]] | None, beyond: list[Q], *, is_backwards: bool
    ) -> tuple[Q, Key | None]:
        """The whole filter, for the next LOOKED_AT rows; and the last of those, if there are more."""
        if not self.order.is_simple or not self.is_walkable:
            assert node is not None  # noqa: S101 without a filter a list can be walked along in every order it offers
            rest = [
                each
                for branch in branches or [list(filtering.conditions(node))]
                for each in self._sorted_out(branch)[2]
            ]
            culprit = min(rest or filtering.conditions(node), key=lambda each: each.at)
            simple = [
                name
                for name, each in self.listing.sortable.items()
                if not each.is_nullable and _is_walkable(self.listing.indexes.get(each.column or name, ()))
            ]
            raise filtering.bad_filter(
                "not_allowed",
                f"{culprit.member} cannot be asked for here with sort_by={self.order.text}; it can with"
                f" {' or '.join(simple)} alone.",
                culprit.at,
            )
        narrow = self._narrowed(branches)
        stretch = self.queryset.filter(narrow, *beyond)
        ordered = stretch.order_by(*self.order.order_by(is_backwards=is_backwards))
        last = ordered.values_list(*self.order.columns())[LOOKED_AT - 1 : LOOKED_AT].first()
        condition = narrow & self._q(node) if node is not None else narrow
        if last is None:
            return condition, None
        return condition & self.order.up_to(last, is_backwards=is_backwards), last

    def _narrowed(self, branches: list[list[Condition]] | None) -> Q:
        """What all branches share of what an index can find: the walk goes along that."""
        if not branches:
            return Q()
        shared = [each for each in branches[0] if all(each in branch for branch in branches)]
        fixed, ranges, _ = self._sorted_out(shared)
        best: list[Q] = []
        for index in self.indexes:
            values = [fixed.get(column, {}) for column in index.columns]
            if all(len(each) == 1 for each in values) and _holds(index, values) and len(values) > len(best):
                best = [q for each in values for q in each.values()]
        return _all([*ranges, *best])

    # --- Conditions ---------------------------------------------------------------------------------------------------

    def _q(self, node: Node) -> Q:
        if isinstance(node, Condition):
            return self.listing.filterable[node.member].q(node)
        parts = [self._q(part) for part in node.parts]
        return _all(parts) if isinstance(node, filtering.All) else _any(parts)

    def _look_up(self, condition: Condition) -> Q | None:
        """The condition as an index finds it; None if none does."""
        filterable = self.listing.filterable[condition.member]
        if condition.is_negated or filterable.look_up is None or condition.operator not in ("EQ", "IN"):
            return None
        return filterable.look_up(filterable, condition, self.tied_to)


def _is_walkable(indexes: Sequence[Index]) -> bool:
    return any(not index.columns for index in indexes)


def _holds(index: Index, values: Sequence[Mapping[str, Q] | None]) -> bool:
    return index.holds is None or set(values[0] or ()) <= set(index.holds)


def _counts(querysets: Sequence[QuerySet[Any, Any]]) -> tuple[int, ...]:
    """How many rows each of them has, in one statement."""
    texts: list[str] = []
    params: list[Any] = []
    for queryset in querysets:
        sql, given = queryset.query.sql_with_params()
        texts.append(f"(SELECT count(*) FROM ({sql}) AS counted)")  # noqa: S608 Django's own
        params += given
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(texts)}", params)
        counts: tuple[int, ...] = cursor.fetchone()
    return counts


def _all(parts: Iterable[Q]) -> Q:
    whole = Q()
    for part in parts:
        whole &= part
    return whole


def _any(parts: Iterable[Q]) -> Q:
    whole = Q()
    for part in parts:
        whole |= part
    return whole
