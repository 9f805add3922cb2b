"""Batches, runs and items as the engine left them. Nothing here writes: their states have one author."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from assets.models import AssetType
from assets.services import sign_url
from batches.api.serializers import money
from batches.models import BATCH_TERMINAL, LIVE, Batch, BatchItem, BatchStatus, Run, RunStatus
from runflow.lib.admin import QuestionFilter, ReadOnlyAdmin, ReadOnlyInline, json_column, link_to


class BatchOpen(QuestionFilter):
    title = "progress"
    parameter_name = "progress"
    questions = {
        # Named one by one: an index can be asked for these, not for "none of those".
        "still open": lambda _: Q(status_code__in=[code for code in BatchStatus if code not in BATCH_TERMINAL]),
        "with failures": lambda _: Q(items_failed__gt=0),
    }


class RunTrouble(QuestionFilter):
    title = "trouble"
    parameter_name = "trouble"
    questions = {
        # Its worker died, and the sweep has not been by; rows that stay here mean that no sweep runs.
        "lease expired": lambda now: Q(status_code__in=LIVE, lease_expires_at__lt=now),
        "waiting to retry": lambda _: Q(status_code=RunStatus.QUEUED, attempt__gt=0),
    }


class BatchItemInline(ReadOnlyInline[BatchItem, Batch]):
    model = BatchItem
    verbose_name_plural = "items"
    fields = ["sequence_index", "run_link", "client_ref", "status", "attempt", "cost", "error"]
    readonly_fields = ["run_link", "status", "attempt", "cost", "error"]
    ordering = ["sequence_index"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[BatchItem]:
        # At most a hundred rows (contract.md section 3.1), in one statement, without the inputs and outputs.
        return (
            super()
            .get_queryset(request)
            .select_related("run")
            .only(
                *("batch", "sequence_index", "client_ref", "run__status_code", "run__attempt", "run__max_attempts"),
                *("run__cost", "run__failure_code", "run__failure_message"),
            )
        )

    @admin.display(description="run")
    def run_link(self, item: BatchItem) -> SafeString:
        return link_to("batches_run", item.run_id, item.run_id)

    @admin.display(description="status")
    def status(self, item: BatchItem) -> str:
        return item.run.status_code

    @admin.display(description="attempt")
    def attempt(self, item: BatchItem) -> str:
        return f"{item.run.attempt} of {item.run.max_attempts}"

    @admin.display(description="cost, USD")
    def cost(self, item: BatchItem) -> str | None:
        return money(item.run.cost)

    @admin.display(description="error")
    def error(self, item: BatchItem) -> str | None:
        if item.run.failure_code is None:
            return None
        return f"{item.run.failure_code}: {item.run.failure_message or ''}"[:200]


@admin.register(Batch)
class BatchAdmin(ReadOnlyAdmin[Batch]):
    list_display = ["id", "organization", "model", "status_code", "counters", "cost_usd", "created_at"]
    list_filter = [BatchOpen, "status_code", "source_code", "created_at"]
    list_select_related = ["organization", "model"]
    list_defer = ("metadata", "callback_url", "model__description")
    search_fields = ["=organization__slug"]
    search_help_text = "An id, or an organization's slug."
    inlines = [BatchItemInline]
    fieldsets = [
        (None, {"fields": ["id", "organization", "model", "status_code", "counters", "cost_usd", "duration"]}),
        ("Time", {"fields": ["created_at", "started_at", "completed_at"]}),
        ("Request", {"fields": ["source_code", "created_by", "request_id", "callback_url", "metadata_json"]}),
        ("Way", {"fields": ["resolved_template", "dispatch_provider_link"]}),
    ]
    readonly_fields = ["counters", "cost_usd", "duration", "metadata_json"]

    metadata_json = json_column("metadata")

    @admin.display(description="items")
    def counters(self, batch: Batch) -> str:
        parts = [f"{batch.items_succeeded}/{batch.items_total} ok"]
        parts += [f"{batch.items_failed} failed"] if batch.items_failed else []
        parts += [f"{batch.items_cancelled} canceled"] if batch.items_cancelled else []
        return ", ".join(parts)

    @admin.display(description="cost, USD")
    def cost_usd(self, batch: Batch) -> str | None:
        return money(batch.cost)

    @admin.display(description="duration")
    def duration(self, batch: Batch) -> str | None:
        return _seconds(batch.duration_ms)


@admin.register(Run)
class RunAdmin(ReadOnlyAdmin[Run]):
    list_display = [
        *("id", "organization", "model", "status_code", "attempt_of", "lease_expires_at", "due_at"),
        *("failure_code", "cost_usd", "created_at"),
    ]
    list_filter = [RunTrouble, "status_code", "source_code", "created_at"]
    list_select_related = ["organization", "model"]
    list_defer = ("input", "output", "metadata", "failure_message", "callback_url", "model__description")
    id_columns = ("pk", "batch")
    search_help_text = "The id of a run, or of a batch for all of its runs."
    fieldsets = [
        (None, {"fields": ["id", "organization", "batch", "model", "status_code", "pictures"]}),
        ("Failure", {"fields": ["failure_code", "failure_message", "failure_stage_code"]}),
        ("Engine", {"fields": ["provider", "attempt_of", "lease_expires_at", "due_at"]}),
        ("Money", {"fields": ["price_usd", "cost_usd"]}),
        ("Data", {"fields": ["input_json", "output_json", "client_ref", "metadata_json"]}),
        ("Time", {"fields": ["created_at", "started_at", "completed_at", "duration"]}),
        ("Request", {"fields": ["source_code", "created_by", "request_id", "callback_url"]}),
        ("Way", {"fields": ["resolved_template", "dispatch_provider_link"]}),
    ]
    readonly_fields = [
        *("attempt_of", "price_usd", "cost_usd", "duration", "pictures"),
        *("input_json", "output_json", "metadata_json"),
    ]

    input_json = json_column("input")
    output_json = json_column("output")
    metadata_json = json_column("metadata")

    @admin.display(description="attempt")
    def attempt_of(self, run: Run) -> str:
        return f"{run.attempt} of {run.max_attempts}"

    @admin.display(description="price, USD")
    def price_usd(self, run: Run) -> str | None:
        return money(run.price)

    @admin.display(description="cost, USD")
    def cost_usd(self, run: Run) -> str | None:
        return money(run.cost)

    @admin.display(description="duration")
    def duration(self, run: Run) -> str | None:
        return _seconds(run.duration_ms)

    @admin.display(description="pictures")
    def pictures(self, run: Run) -> SafeString | None:
        """What it made, to look at: the links are signed anew for each page."""
        outputs: list[dict[str, Any]] = (run.output or {}).get("outputs", [])
        urls = [sign_url(asset_id=UUID(each["asset_id"])) for each in outputs if each["type"] == AssetType.IMAGE]
        return format_html_join(" ", _PICTURE, ((url, url) for url in urls)) or None


_PICTURE = (
    '<a href="{}" target="_blank" rel="noopener"><img src="{}" alt="" style="max-width: 240px; max-height: 240px"></a>'
)


@admin.register(BatchItem)
class BatchItemAdmin(ReadOnlyAdmin[BatchItem]):
    list_display = ["id", "batch_link", "sequence_index", "run_link", "client_ref", "created_at"]
    ordering = ["-id"]
    id_columns = ("pk", "batch", "run")
    search_help_text = "The id of an item, a batch or a run."
    fields = ["id", "batch_link", "sequence_index", "run_link", "client_ref", "created_at"]
    readonly_fields = ["batch_link", "run_link"]

    @admin.display(description="batch")
    def batch_link(self, item: BatchItem) -> SafeString:
        return link_to("batches_batch", item.batch_id, item.batch_id)

    @admin.display(description="run")
    def run_link(self, item: BatchItem) -> SafeString:
        return link_to("batches_run", item.run_id, item.run_id)


def _seconds(milliseconds: int | None) -> SafeString | None:
    return None if milliseconds is None else format_html("{} s", f"{milliseconds / 1000:.3f}")
