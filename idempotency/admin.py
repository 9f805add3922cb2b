"""Which key was answered with what."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import Q
from django.utils.safestring import SafeString

from idempotency.models import IdempotencyRecord
from runflow.lib.admin import QuestionFilter, ReadOnlyAdmin, json_column, moment_column, shown_text


class Expired(QuestionFilter):
    title = "time"
    parameter_name = "time"
    questions = {"expired": lambda now: Q(expires_at__lte=now), "kept": lambda now: Q(expires_at__gt=now)}


@admin.register(IdempotencyRecord)
class IdempotencyRecordAdmin(ReadOnlyAdmin[IdempotencyRecord]):
    list_display = ["key", "organization", "response_status", "created", "expires"]
    list_filter = [Expired, "response_status"]
    list_select_related = ["organization"]
    list_defer = ("response_headers", "response_body", "fingerprint")
    # Most keys are UUIDs themselves, so both columns are asked. No index helps, but the table holds a day.
    search_fields = ["key__exact", "id__exact"]
    id_columns = ()
    search_help_text = "An Idempotency-Key, or a record's id."
    fields = [
        *("id", "organization", "key", "fingerprint", "created", "expires"),
        *("response_status", "headers_json", "body_text"),
    ]
    readonly_fields = ["created", "expires", "headers_json", "body_text"]

    created = moment_column("created_at")
    expires = moment_column("expires_at")
    headers_json = json_column("response_headers")

    @admin.display(description="response body")
    def body_text(self, record: IdempotencyRecord) -> SafeString:
        if record.is_encrypted:
            return shown_text("encrypted")
        return shown_text(bytes(record.response_body).decode(errors="replace"))
