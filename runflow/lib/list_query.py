"""The query parameters of lists as the OpenAPI document describes them: read off what the lists offer (runflow.lib.lists)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from runflow.lib import filtering
from runflow.lib.lists import Listing
from runflow.lib.schemas import PAGING, STRING, Query

BAD_QUERY = (
    "A bad header, cursor or query parameter. What is wrong with `q`, `sort_by` or `fields` is in `errors[0]`; of `q`, `loc` "
    'is `["query", "q", 12]`, with the index of the character that is wrong, from 0.'
)

_FILTER = f"""\
A filter. A condition is a member, an operator, a value; `NOT`, `AND`, `OR` and brackets put them together. `:` or `=` is equal,
`>` `>=` `<` `<=` compare. A word does the same, as in `client_ref.EQ:'sku-1'`, and `.IN:` takes a list: `(a,b)`. A value with
spaces, commas, quotes or brackets is quoted.
At most {filtering.MAX_LENGTH} characters, and {filtering.MAX_CONDITIONS} conditions. Members:"""
# By member; what a list cannot be filtered by is left out.
_EXAMPLES = {
    "status_code": "status_code.IN:(failed,canceled)",
    "created_at": "created_at>2026-04-01",
    "metadata": "metadata.order:1001",
    "client_ref": "client_ref:'sku-1'",
    "label": "label:shop",
}


def list_query(listing: Listing[Any], *, of_any: Listing[Any] | None = None) -> tuple[Query, ...]:
    """The parameters that a list takes. `of_any`: the list that is there when the parent's id is `any`, if that is another."""
    both = [listing] if of_any is None else [listing, of_any]
    limit, cursor, backwards = PAGING
    fields = Query(
        "fields", STRING, f"With commas: items have these members only. There are {_words(listing.members)}."
    )
    return (
        limit,
        Query("q", STRING, _said(_FILTER, _conditions, both)),
        Query("sort_by", STRING, _said("A member, with `:asc` or `:desc`; several with commas.", _order, both)),
        fields,
        *(
            [Query("embed", STRING, _said("With commas.", _embeds, both))]
            if any(each.embeddable for each in both)
            else []
        ),
        cursor,
        backwards,
    )


def _said(first: str, say: Callable[[Listing[Any]], str], both: list[Listing[Any]]) -> str:
    own, *of_any = (say(listing) for listing in both)
    return "\n\n".join([first, own, *(f"With `any` instead of an id:\n\n{text}" for text in of_any)])


def _conditions(listing: Listing[Any]) -> str:
    rows = []
    for name, each in listing.filterable.items():
        note = _words(each.kind.codes) or each.note
        rows.append(f"- `{name}` ({' '.join(each.operators)}){': ' if note else ''}{note}")
    examples = [text for name, text in _EXAMPLES.items() if name in listing.filterable]
    together = f"{examples[0]} AND NOT {examples[-1]}"
    return "\n".join(rows) + f"\n\nFor example {_words([*examples, together])}."


def _order(listing: Listing[Any]) -> str:
    return f"By {_words(listing.sortable)}. Not given: `{listing.default_sort}`."


def _embeds(listing: Listing[Any]) -> str:
    if not listing.embeddable:
        return "Nothing: items are whole."
    most = f"With them a page holds at most {listing.embed_limit}."
    return f"{_words(listing.embeddable)}, which are null unless they are named here or in `fields`. {most}"


def _words(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
