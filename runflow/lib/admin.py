"""What the admin of every app shares: looking without touching, filters that are questions, JSON that a person can read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from django import forms
from django.contrib import admin
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from runflow.lib.views import parse_uuid

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin as ModelAdmin
    from django.contrib.admin import StackedInline as StackedInline
    from django.contrib.admin import TabularInline as TabularInline
    from django.forms import BaseInlineFormSet as BaseInlineFormSet
    from django.forms import ModelForm as ModelForm
else:

    class _Subscriptable:
        """Django's stubs make these classes generic, Django does not: at run time the parameters fall away."""

        def __class_getitem__(cls, _: object) -> type:
            return cls

    class ModelAdmin(_Subscriptable, admin.ModelAdmin):
        pass

    class StackedInline(_Subscriptable, admin.StackedInline):
        pass

    class TabularInline(_Subscriptable, admin.TabularInline):
        pass

    class ModelForm(_Subscriptable, forms.ModelForm):
        pass

    class BaseInlineFormSet(_Subscriptable, forms.BaseInlineFormSet):
        pass


M = TypeVar("M", bound=Model)
C = TypeVar("C", bound=Model)
P = TypeVar("P", bound=Model)

MOST_SHOWN = 2000
# A picture as a data: URI would hide the values after it.
LONGEST_VALUE = 200
# What columns that are computed show for null; the other ones do so by themselves.
NOTHING = "-"
# Counting millions of rows takes seconds, and nobody turns to page 101.
MOST_COUNTED = 10_000
# What is shown once must not turn up again in a stored body: an API key, a callback secret.
_SECRET = re.compile(r"\b(rf_live_|whsec_)[A-Za-z0-9+/_=-]{20,}")

# An inline prints str(row) above each row. Ours are ids, which say nothing and take a line.
NO_ROW_TITLES = mark_safe(
    "<style>.tabular td.original p {display: none} .inline-group .tabular tr.has_original td {padding-top: 8px}</style>"
)

admin.site.site_header = admin.site.site_title = "Runflow"
admin.site.index_title = "Operations"
admin.site.site_url = None  # there is no site to view
admin.site.enable_nav_sidebar = False  # lists of runs need its place


# --- Showing ----------------------------------------------------------------------------------------------------------


def shown_text(text: str) -> SafeString:
    """Text as it stands, escaped, without the secrets that are shown once, cut at 2,000 characters."""
    text = _SECRET.sub(r"\1… (not shown)", text)
    rest = f"\n… {len(text):,} characters in all" if len(text) > MOST_SHOWN else ""
    return format_html(
        '<pre style="margin: 0; white-space: pre-wrap; overflow-wrap: anywhere">{}{}</pre>', text[:MOST_SHOWN], rest
    )


def shown_json(value: Any) -> SafeString:
    """A JSON value over several lines, its long texts cut."""
    return shown_text(json.dumps(_with_short_texts(value), indent=2, ensure_ascii=False))


def _with_short_texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_short_texts(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_short_texts(inner) for inner in value]
    if isinstance(value, str) and len(value) > LONGEST_VALUE:
        return f"{value[:LONGEST_VALUE]}… ({len(value):,} characters)"
    return value


def json_column(name: str) -> Callable[[Any, Any], str]:
    """A method for `readonly_fields` that shows a JSON column pretty."""

    @admin.display(description=name.replace("_", " "))
    def show(_: Any, row: Any) -> str:
        value = getattr(row, name)
        return NOTHING if value is None else shown_json(value)

    return show


def moment_column(name: str) -> Callable[[Any, Any], str]:
    """A method that shows a point in time to the second, in UTC, on one line: what logs are compared with."""

    @admin.display(description=name.removesuffix("_at").replace("_", " "))
    def show(_: Any, row: Any) -> str:
        moment: datetime | None = getattr(row, name)
        return NOTHING if moment is None else one_line(f"{moment:%Y-%m-%d %H:%M:%S}")

    return show


def one_line(text: object) -> SafeString:
    return format_html('<span style="white-space: nowrap">{}</span>', text)


def shortened(text: object) -> SafeString:
    """The end of an id or of a name that holds one (ids begin with the time), the whole of it under the mouse."""
    whole = str(text)
    short = whole if len(whole) <= 24 else f"…{whole[-12:]}"
    return format_html('<span style="white-space: nowrap" title="{}">{}</span>', whole, short)


def link_to(row: str, pk: object, text: object) -> SafeString:
    """A link to a row's page: `link_to("batches_run", run.pk, "open")`. Costs no statement."""
    return format_html('<a href="{}">{}</a>', reverse(f"admin:{row}_change", args=[pk]), text)


def log_changes(request: HttpRequest, rows: Sequence[Model], what: str) -> None:
    """Say in the rows' history what an action did to them."""
    if rows and request.user.pk is not None:
        LogEntry.objects.log_actions(request.user.pk, rows, CHANGE, change_message=what)


# --- Filters ----------------------------------------------------------------------------------------------------------


class QuestionFilter(admin.SimpleListFilter):
    """A filter whose choices are questions, each with the condition that answers it at a moment."""

    questions: Mapping[str, Callable[[datetime], Q]]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(question, question) for question in self.questions]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        condition = self.questions.get(self.value() or "")
        return queryset.filter(condition(timezone.now())) if condition else queryset


# --- Looking without touching -----------------------------------------------------------------------------------------


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts no further than anybody turns pages."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows.order_by()[:MOST_COUNTED].count())


class LeanChangeList(ChangeList):
    """Leaves the columns that the list does not show in the database: its admin's `list_defer`."""

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        queryset = super().get_queryset(request, exclude_parameters)
        return queryset.defer(*getattr(self.model_admin, "list_defer", ()))


class ReadOnlyAdmin(ModelAdmin[M]):
    """Rows that only the engine writes: they can be looked at, found and filtered, and that is all."""

    list_defer: tuple[str, ...] = ()
    # Which columns an id in the search box may be in: exact, so that an index finds it.
    id_columns: tuple[str, ...] = ("pk",)
    search_fields = ["=id"]
    search_help_text = "An id."
    show_full_result_count = False
    # Counting behind every filter reads the table as often.
    show_facets = admin.ShowFacets.NEVER
    paginator = BoundedPaginator
    # Newest first, by the primary key. Another order would sort millions of rows.
    sortable_by = ()

    @admin.display(description="id")
    def short_id(self, row: M) -> str:
        return shortened(row.pk)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return False

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return LeanChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[M], bool]:
        found = parse_uuid(search_term.strip())
        if found is not None and self.id_columns:
            condition = Q()
            for column in self.id_columns:
                condition |= Q((column, found))
            return queryset.filter(condition), False
        if search_term and "=id" in self.search_fields:
            return queryset.none(), False
        return super().get_search_results(request, queryset, search_term)


class ReadOnlyInline(TabularInline[C, P]):
    """The rows that belong to the one that is looked at."""

    extra = 0
    can_delete = False

    class Media:
        js = [NO_ROW_TITLES]

    def has_add_permission(self, request: HttpRequest, obj: P | None) -> bool:  # type: ignore[override]
        return False

    def has_change_permission(self, request: HttpRequest, obj: P | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: P | None = None) -> bool:
        return False


class NoDeletionAdmin(ModelAdmin[M]):
    """Rows that history names: they can be switched off, not removed.

    Django's confirmation page would load every row that refers to them, and those are millions.
    """

    def has_delete_permission(self, request: HttpRequest, obj: M | None = None) -> bool:
        return False
