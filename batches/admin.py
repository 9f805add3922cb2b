"""Batches, runs and items as the engine left them. Nothing here writes: their states have one author."""

from __future__ import annotations

from collections import Counter
from typing import Any, TypeVar
from uuid import UUID

from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from assets.models import AssetType
from assets.services import sign_url
from batches.cancellation import cancel
from batches.logs import log_of
from batches.models import BATCH_TERMINAL, LIVE, Batch, BatchItem, BatchStatus, Heartbeat, Run, RunStatus
from batches.replays import replay_failed
from batches.services import redeliver_callbacks
from runflow.lib.admin import (
    NOTHING,
    QuestionFilter,
    ReadOnlyAdmin,
    ReadOnlyInline,
    json_column,
    link_to,
    log_changes,
    moment_column,
    one_line,
    shortened,
    shown_text,
)
from runflow.lib.money import money

M = TypeVar("M", Batch, Run)


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


class CallsBack(ReadOnlyAdmin[M]):
    """Batches and runs: what both have to do with callbacks. The rows themselves are not touched."""

    actions = ["cancel", "replay", "send_callback_again"]

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("batches.change_batch")

    @admin.action(description="Cancel: what waits ends, what runs is asked to stop", permissions=["cancel"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        rows = list(queryset)
        ids = [row.pk for row in rows]
        cancelled = cancel(
            **{"batch_ids" if queryset.model is Batch else "run_ids": ids}, reason=f"By {request.user} in the admin."
        )
        log_changes(request, rows, "Canceled.")
        self.message_user(request, f"Canceled {len(cancelled.ended)} run(s), asked {len(cancelled.asked)} to stop.")

    def has_replay_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(f"batches.add_{self.opts.model_name}")

    @admin.action(description="Replay what failed", permissions=["replay"])
    def replay(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        # Whole rows: what the list leaves in the database would be read one by one.
        replayed, refused = replay_failed(queryset.defer(None).select_related("model", "organization"))
        log_changes(request, replayed, "Replayed.")
        self.message_user(request, f"Replaying {len(replayed)}; {len(refused)} left out.")
        for why, times in Counter(refused).items():
            self.message_user(request, f"Left out {times}: {why}", messages.WARNING)

    def has_send_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("callbacks.add_callbackdelivery")

    @admin.action(description="Send the callback again", permissions=["send"])
    def send_callback_again(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        rows = list(queryset)
        ids = [row.pk for row in rows]
        sent = redeliver_callbacks(**{"batch_ids" if queryset.model is Batch else "run_ids": ids})
        log_changes(request, [row for row in rows if row.pk in sent], "Callback sent again.")
        left = len(rows) - len(sent)
        self.message_user(
            request,
            f"Sending {len(sent)}; {left} left out: not over, without a callback_url, or with one in flight.",
        )

    @admin.display(description="callbacks")
    def callbacks(self, row: M) -> SafeString:
        return format_html(
            '<a href="{}?q={}">deliveries</a>', reverse("admin:callbacks_callbackdelivery_changelist"), row.pk
        )

    @admin.display(description="credit")
    def credit(self, row: M) -> str:
        if not row.has_hold:
            return NOTHING
        return format_html('<a href="{}?q={}">entries</a>', reverse("admin:billing_ledgerentry_changelist"), row.pk)


class BatchItemInline(ReadOnlyInline[BatchItem, Batch]):
    model = BatchItem
    verbose_name_plural = "items"
    fields = ["index", "run_link", "client_ref", "status", "attempt", "cost", "error"]
    readonly_fields = ["index", "run_link", "status", "attempt", "cost", "error"]
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

    @admin.display(description="index")
    def index(self, item: BatchItem) -> str:
        return str(item.sequence_index)

    @admin.display(description="run")
    def run_link(self, item: BatchItem) -> SafeString:
        return link_to("batches_run", item.run_id, shortened(item.run_id))

    @admin.display(description="status")
    def status(self, item: BatchItem) -> str:
        return item.run.status_code

    @admin.display(description="attempt")
    def attempt(self, item: BatchItem) -> str:
        return one_line(f"{item.run.attempt} of {item.run.max_attempts}")

    @admin.display(description="cost, USD")
    def cost(self, item: BatchItem) -> str:
        return money(item.run.cost) or NOTHING

    @admin.display(description="error")
    def error(self, item: BatchItem) -> str:
        if item.run.failure_code is None:
            return NOTHING
        return f"{item.run.failure_code}: {item.run.failure_message or ''}"[:200]


@admin.register(Batch)
class BatchAdmin(CallsBack[Batch]):
    list_display = ["short_id", "organization", "model", "status", "counters", "cost_usd", "created"]
    list_filter = [BatchOpen, "status_code", "source_code", "created_at"]
    list_select_related = ["organization", "model"]
    list_defer = ("metadata", "callback_url", "model__description")
    search_fields = ["=organization__slug"]
    search_help_text = "An id, or an organization's slug."
    inlines = [BatchItemInline]
    fieldsets = [
        (None, {"fields": [("status", "counters", "cost_usd", "credit"), ("organization", "model")]}),
        ("Time, UTC", {"fields": [("created", "started", "completed", "duration")]}),
        (
            "Request and template",
            {
                "fields": [
                    *(("source_code", "replay_of"), "created_by", "request_id"),
                    *(("callback_url", "callbacks"), "metadata_json"),
                    *("resolved_template", "way"),
                ],
                "classes": ["collapse"],
            },
        ),
    ]
    readonly_fields = [
        *("status", "counters", "cost_usd", "created", "started", "completed", "duration"),
        *("metadata_json", "way", "callbacks", "credit"),
    ]

    created = moment_column("created_at")
    started = moment_column("started_at")
    completed = moment_column("completed_at")
    metadata_json = json_column("metadata")

    @admin.display(description="items")
    def counters(self, batch: Batch) -> str:
        parts = [f"{batch.items_succeeded}/{batch.items_total} ok"]
        parts += [f"{batch.items_failed} failed"] if batch.items_failed else []
        parts += [f"{batch.items_cancelled} canceled"] if batch.items_cancelled else []
        return one_line(", ".join(parts))

    @admin.display(description="status")
    def status(self, batch: Batch) -> str:
        return batch.status_code

    @admin.display(description="cost, USD")
    def cost_usd(self, batch: Batch) -> str:
        return money(batch.cost) or NOTHING

    @admin.display(description="duration")
    def duration(self, batch: Batch) -> str:
        return _seconds(batch.duration_ms)

    @admin.display(description="provider link")
    def way(self, batch: Batch) -> str:
        return _way(batch)


@admin.register(Run)
class RunAdmin(CallsBack[Run]):
    list_display = [
        *("short_id", "organization", "model", "status", "attempt_of", "lease_expires", "due"),
        *("failure_code", "cost_usd"),
    ]
    list_filter = [RunTrouble, "status_code", "source_code", "created_at"]
    list_select_related = ["organization", "model"]
    list_defer = (
        *("input", "output", "metadata", "past_attempts", "failure_message", "callback_url"),
        "model__description",
    )
    id_columns = ("pk", "batch")
    search_help_text = "The id of a run, or of a batch for all of its runs."
    fieldsets = [
        (
            None,
            {"fields": [("status", "price_usd", "cost_usd", "credit"), ("organization", "model"), "batch", "pictures"]},
        ),
        ("Failure", {"fields": [("failure_code", "failure_stage_code"), "failure_message"]}),
        ("Engine", {"fields": [("provider", "attempt_of"), ("lease_expires", "due")]}),
        ("Time, UTC", {"fields": [("created", "started", "completed", "duration"), "log"]}),
        ("Data", {"fields": ["client_ref", "input_json", "output_json", "metadata_json"]}),
        (
            "Request and template",
            {
                "fields": [
                    *(("source_code", "replay_of"), "created_by", "request_id", ("callback_url", "callbacks")),
                    *("resolved_template", "way"),
                ],
                "classes": ["collapse"],
            },
        ),
    ]
    readonly_fields = [
        *("status", "price_usd", "cost_usd", "pictures", "attempt_of", "lease_expires", "due"),
        *("created", "started", "completed", "duration", "input_json", "output_json", "metadata_json", "way"),
        *("callbacks", "credit", "log"),
    ]

    lease_expires = moment_column("lease_expires_at")
    due = moment_column("due_at")
    created = moment_column("created_at")
    started = moment_column("started_at")
    completed = moment_column("completed_at")

    input_json = json_column("input")
    output_json = json_column("output")
    metadata_json = json_column("metadata")

    @admin.display(description="attempt")
    def attempt_of(self, run: Run) -> str:
        return one_line(f"{run.attempt} of {run.max_attempts}")

    @admin.display(description="status")
    def status(self, run: Run) -> str:
        return run.status_code

    @admin.display(description="price, USD")
    def price_usd(self, run: Run) -> str:
        return money(run.price) or NOTHING

    @admin.display(description="cost, USD")
    def cost_usd(self, run: Run) -> str:
        return money(run.cost) or NOTHING

    @admin.display(description="duration")
    def duration(self, run: Run) -> str:
        return _seconds(run.duration_ms)

    @admin.display(description="provider link")
    def way(self, run: Run) -> str:
        return _way(run)

    @admin.display(description="log")
    def log(self, run: Run) -> SafeString:
        """What its customer reads at `GET /v1/runs/{run_id}/logs`."""
        return shown_text("\n".join(f"{each.timestamp:%Y-%m-%d %H:%M:%S} {each.message}" for each in log_of(run)))

    @admin.display(description="pictures")
    def pictures(self, run: Run) -> str:
        """What it made, to look at: the links are signed anew for each page."""
        outputs: list[dict[str, Any]] = (run.output or {}).get("outputs", [])
        urls = [sign_url(asset_id=UUID(each["asset_id"])) for each in outputs if each["type"] == AssetType.IMAGE]
        return format_html_join(" ", _PICTURE, ((url, url) for url in urls)) or NOTHING


_PICTURE = (
    '<a href="{}" target="_blank" rel="noopener"><img src="{}" alt="" style="max-width: 240px; max-height: 240px"></a>'
)


@admin.register(BatchItem)
class BatchItemAdmin(ReadOnlyAdmin[BatchItem]):
    list_display = ["short_id", "batch_link", "sequence_index", "run_link", "client_ref", "created"]
    ordering = ["-id"]
    id_columns = ("pk", "batch", "run")
    search_help_text = "The id of an item, a batch or a run."
    fields = ["id", "batch_link", "sequence_index", "run_link", "client_ref", "created"]
    readonly_fields = ["batch_link", "run_link", "created"]

    created = moment_column("created_at")

    @admin.display(description="batch")
    def batch_link(self, item: BatchItem) -> SafeString:
        return link_to("batches_batch", item.batch_id, shortened(item.batch_id))

    @admin.display(description="run")
    def run_link(self, item: BatchItem) -> SafeString:
        return link_to("batches_run", item.run_id, shortened(item.run_id))


@admin.register(Heartbeat)
class HeartbeatAdmin(ReadOnlyAdmin[Heartbeat]):
    list_display = ["name", "beat"]
    search_fields = ["name"]
    search_help_text = "A name."
    fields = ["name", "beat"]
    readonly_fields = ["beat"]

    beat = moment_column("beat_at")


def _seconds(milliseconds: int | None) -> str:
    return NOTHING if milliseconds is None else f"{milliseconds / 1000:.3f} s"


def _way(row: Batch | Run) -> str:
    link = row.dispatch_provider_link
    if link is None:
        return NOTHING
    return link_to("models_registry_providerlink", link.pk, f"{row.model} on {link.provider}")
