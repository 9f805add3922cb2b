"""Lists as routes declare them: what may be filtered by, sorted by, embedded; and the page that a query asks for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.db.models import Model, Q, QuerySet

from runflow.lib import errors, filtering, ordering
from runflow.lib.faults import shown
from runflow.lib.filtering import Node
from runflow.lib.ordering import Key, Ordering
from runflow.lib.pagination import parse_limit
from runflow.lib.search import Search, Searchable
from runflow.lib.views import is_true

M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class Page(Generic[M]):
    """`embeds`: the large members that the query asked for; the others are null."""

    rows: list[M]
    first: str | None
    next: str | None
    previous: str | None
    embeds: frozenset[str]
    fields: tuple[str, ...] | None

    def body(self, items: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """The answer. `items`: the rows as they are shown, in order."""
        if self.fields is not None:
            items = ({name: item[name] for name in self.fields} for item in items)
        return {"items": list(items), "first": self.first, "next": self.next, "previous": self.previous}


@dataclass(frozen=True, kw_only=True)
class Listing(Searchable, Generic[M]):
    """What a list offers. `name` begins its cursors.

    `members`: of an item, for `fields`. `embeddable`: of those, the large ones; null unless `embed` or `fields` names them, and
    then in pages of at most `embed_limit`. `prepare`: what the queryset reads for these.
    """

    name: str
    default_sort: str
    members: tuple[str, ...]
    embeddable: tuple[str, ...] = ()
    embed_limit: int = 100
    prepare: Callable[[QuerySet[M], Collection[str]], QuerySet[M]] = lambda queryset, _: queryset

    def page(
        self, queryset: QuerySet[M], query: Mapping[str, str], *, tied_to: Any = None, only: Q | None = None
    ) -> Page[M]:
        """The page that `q`, `limit`, `sort_by`, `fields`, `embed`, `pq` and `from_prev` ask for, in one statement.

        One more where a condition may be met by few rows, and one more where the list has to be walked along. `queryset`:
        the rows that the caller may see, without an order. `only`: of these, those that belong into the list, if its indexes
        hold others too; so it is walked along. Raises BadRequest.
        """
        limit = parse_limit(query.get("limit"))
        fields = self._fields(query.get("fields"))
        embeds = self._embeds(query.get("embed"), fields)
        if embeds and limit > self.embed_limit:
            raise errors.BadRequest(
                f"With {', '.join(sorted(embeds))} a page holds at most {self.embed_limit}: set limit."
            )
        text = query.get("q") or ""
        node = (
            filtering.parse(text, {name: each.kind for name, each in self.filterable.items()}) if text.strip() else None
        )
        order = ordering.parse(query.get("sort_by") or self._natural_sort(node), self.sortable, self.name)
        cursor = query.get("pq") or None
        key = order.decode(cursor) if cursor is not None else None
        is_backwards = is_true(query.get("from_prev")) and cursor is not None
        search = Search(self, queryset, order, tied_to=tied_to, only=only)
        rows, stopped_at = search.rows(node, key, limit + 1, is_backwards=is_backwards, prepare=self._prepare(embeds))
        return _page(order, rows, limit, key, stopped_at, is_backwards=is_backwards, embeds=embeds, fields=fields)

    def _prepare(self, embeds: frozenset[str]) -> Callable[[QuerySet[M]], QuerySet[M]]:
        return lambda queryset: self.prepare(queryset, embeds)

    def _natural_sort(self, node: Node | None) -> str:
        """Newest first; by the member whose range is asked for, if it is one."""
        default = self.default_sort.partition(":")[0]
        compared = {
            each.member
            for each in (filtering.conditions(node) if node is not None else ())
            if each.operator in ("GT", "GTE", "LT", "LTE") and each.member in self.sortable
        }
        return f"{compared.pop()}:desc" if len(compared) == 1 and default not in compared else self.default_sort

    def _fields(self, text: str | None) -> tuple[str, ...] | None:
        if not text:
            return None
        named = {name.strip(): None for name in text.split(",") if name.strip()}
        if unknown := [name for name in named if name not in self.members]:
            msg = f"There is no “{shown(unknown[0])}”; there are {', '.join(self.members)}."
            raise errors.BadRequest(
                f"fields: {msg}", errors=[{"loc": ["query", "fields"], "msg": msg, "type": "unknown_member"}]
            )
        return tuple(named)

    def _embeds(self, text: str | None, fields: tuple[str, ...] | None) -> frozenset[str]:
        """Other names are ignored: clients send what other servers embed (contract.md section 1)."""
        named = {name.strip() for name in (text or "").split(",")} | set(fields or ())
        return frozenset(name for name in self.embeddable if name in named and (fields is None or name in fields))


def _page(
    order: Ordering,
    rows: list[M],
    limit: int,
    key: Key | None,
    stopped_at: Key | None,
    *,
    is_backwards: bool,
    embeds: frozenset[str],
    fields: tuple[str, ...] | None,
) -> Page[M]:
    """`rows`: one more than `limit` if there are more. `stopped_at`: where the walk ended before it found so many."""
    has_more, rows = len(rows) > limit, rows[:limit]
    far = order.key(rows[-1]) if has_more else stopped_at
    if is_backwards:
        rows.reverse()
        before, after = far, order.key(rows[-1]) if rows else stopped_at
    else:
        before, after = order.key(rows[0]) if rows else stopped_at, far
        before = before if key is not None else None
    return Page(
        rows=rows,
        first=order.encode(None) if before is not None or (key is not None and not is_backwards) else None,
        next=order.encode(after) if after is not None else None,
        previous=order.encode(before) if before is not None else None,
        embeds=embeds,
        fields=fields,
    )
