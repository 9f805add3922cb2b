"""Secrets, made and disabled by the same verbs as over the API and shown to nobody twice; deliveries, to look at.

Sending one again is an action on batches and runs, whose present state the new body tells.
"""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from callbacks import services
from callbacks.models import CallbackAttempt, CallbackDelivery, CallbackSecret, DeliveryStatus, SubjectType
from runflow.lib import errors, jsonlib
from runflow.lib.admin import (
    NOTHING,
    ModelForm,
    NoDeletionAdmin,
    QuestionFilter,
    ReadOnlyAdmin,
    ReadOnlyInline,
    link_to,
    log_changes,
    moment_column,
    one_line,
    shortened,
    shown_json,
    shown_text,
)


class CallbackSecretForm(ModelForm[CallbackSecret]):
    class Meta:
        model = CallbackSecret
        fields = ["organization", "label"]

    def clean_organization(self) -> Any:
        organization = self.cleaned_data["organization"]
        try:
            services.check_room(organization=organization)
        except errors.ValidationFailed as refused:
            raise forms.ValidationError([fault["msg"] for fault in refused.errors or []]) from None
        return organization


class SecretState(QuestionFilter):
    title = "state"
    parameter_name = "state"
    questions = {
        "current": lambda _: Q(is_current=True),
        "active": lambda _: Q(disabled_at__isnull=True),
        "disabled": lambda _: Q(disabled_at__isnull=False),
    }


@admin.register(CallbackSecret)
class CallbackSecretAdmin(NoDeletionAdmin[CallbackSecret]):
    """`encrypted` is in no list of fields, and is not read either."""

    form = CallbackSecretForm
    list_display = ["key_prefix", "organization", "label", "is_current", "disabled", "last_used", "created"]
    list_filter = [SecretState]
    list_select_related = ["organization"]
    search_fields = ["key_prefix", "label", "=organization__slug"]
    search_help_text = "The first characters of a secret, its label, or an organization's slug."
    show_full_result_count = False
    autocomplete_fields = ["organization"]
    readonly_fields = ["key_prefix", "is_current", "disabled", "last_used", "created", "updated"]
    actions = ["make_current", "disable"]

    disabled = moment_column("disabled_at")
    last_used = moment_column("last_used_at")
    created = moment_column("created_at")
    updated = moment_column("updated_at")

    def get_queryset(self, request: HttpRequest) -> QuerySet[CallbackSecret]:
        return super().get_queryset(request).defer("encrypted")

    def get_fields(self, request: HttpRequest, obj: CallbackSecret | None = None) -> list[Any]:
        if obj is None:
            return ["organization", "label"]
        return ["organization", "label", *self.readonly_fields]

    def has_change_permission(self, request: HttpRequest, obj: CallbackSecret | None = None) -> bool:
        return False

    def has_switch_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("callbacks.change_callbacksecret")

    def save_model(self, request: HttpRequest, obj: CallbackSecret, form: Any, change: Any) -> None:
        """Make the secret and show it. The message travels in a cookie that the next page deletes; nothing here keeps it."""
        row, plain_secret = services.create_secret(organization=obj.organization, label=obj.label)
        # The page and the history go on with the row that was made.
        obj.pk = row.pk
        obj.refresh_from_db()
        self.message_user(request, f"The secret, shown this once: {plain_secret}", messages.WARNING)

    @admin.action(description="Make current", permissions=["switch"])
    def make_current(self, request: HttpRequest, queryset: QuerySet[CallbackSecret]) -> None:
        secrets = list(queryset.select_related("organization"))
        if len({secret.organization_id for secret in secrets}) < len(secrets):
            self.message_user(request, "Choose one secret for each organization.", messages.ERROR)
            return
        chosen = [secret for secret in secrets if secret.disabled_at is None and not secret.is_current]
        for secret in chosen:
            services.update_secret(secret_id=secret.pk, organization=secret.organization, is_current=True)
        log_changes(request, chosen, "Made current.")
        left = len(secrets) - len(chosen)
        self.message_user(request, f"Made {len(chosen)} current; {left} had been before, or were disabled.")

    @admin.action(description="Disable for good", permissions=["switch"])
    def disable(self, request: HttpRequest, queryset: QuerySet[CallbackSecret]) -> None:
        secrets = list(queryset.select_related("organization"))
        chosen = [secret for secret in secrets if secret.disabled_at is None]
        for secret in chosen:
            services.disable_secret(secret_id=secret.pk, organization=secret.organization)
        log_changes(request, chosen, "Disabled.")
        self.message_user(request, f"Disabled {len(chosen)}; {len(secrets) - len(chosen)} had been disabled before.")


class DeliveryTrouble(QuestionFilter):
    title = "trouble"
    parameter_name = "trouble"
    questions = {
        "waiting to retry": lambda _: Q(status_code=DeliveryStatus.PENDING, attempt_count__gt=0),
        # Rows that stay here mean that no sweep runs, or that no worker takes the queue `callbacks`.
        "overdue": lambda now: Q(status_code=DeliveryStatus.PENDING, next_attempt_at__lt=now, lease_expires_at=None),
        "lease expired": lambda now: Q(lease_expires_at__lt=now),
    }


class CallbackAttemptInline(ReadOnlyInline[CallbackAttempt, CallbackDelivery]):
    model = CallbackAttempt
    verbose_name_plural = "attempts"
    fields = ["attempt_number", "status", "time", "error_message", "answer", "created"]
    readonly_fields = ["status", "time", "answer", "created"]

    created = moment_column("created_at")

    @admin.display(description="HTTP status")
    def status(self, attempt: CallbackAttempt) -> str:
        return NOTHING if attempt.status_code is None else str(attempt.status_code)

    @admin.display(description="time")
    def time(self, attempt: CallbackAttempt) -> str:
        return NOTHING if attempt.response_time_ms is None else one_line(f"{attempt.response_time_ms} ms")

    @admin.display(description="answer")
    def answer(self, attempt: CallbackAttempt) -> str:
        return shown_text(attempt.response_body) if attempt.response_body else NOTHING


@admin.register(CallbackDelivery)
class CallbackDeliveryAdmin(ReadOnlyAdmin[CallbackDelivery]):
    list_display = ["short_id", "organization", "subject", "host", "status", "attempt_of", "next_attempt", "created"]
    list_filter = [DeliveryTrouble, "status_code", "is_automatic", "created_at"]
    list_select_related = ["organization"]
    list_defer = ("payload", "failure_detail", "callback_url")
    id_columns = ("pk", "subject_id")
    search_help_text = "The id of a delivery, or of the batch or run that it tells of."
    inlines = [CallbackAttemptInline]
    fieldsets = [
        (None, {"fields": [("status", "attempt_of", "is_automatic"), ("organization", "subject"), "callback_url"]}),
        ("Failure", {"fields": ["failure_reason_code", "failure_detail"]}),
        ("Time, UTC", {"fields": [("created", "next_attempt", "lease_expires", "completed")]}),
        # Long, and the attempts come after it.
        ("Body", {"fields": ["body", ("signing_secret", "request_id")], "classes": ["collapse"]}),
    ]
    readonly_fields = [
        *("status", "attempt_of", "subject", "created", "next_attempt", "lease_expires", "completed", "body"),
    ]

    created = moment_column("created_at")
    next_attempt = moment_column("next_attempt_at")
    lease_expires = moment_column("lease_expires_at")
    completed = moment_column("completed_at")

    @admin.display(description="status")
    def status(self, delivery: CallbackDelivery) -> str:
        return delivery.status_code

    @admin.display(description="attempt")
    def attempt_of(self, delivery: CallbackDelivery) -> str:
        return one_line(f"{delivery.attempt_count} of {delivery.max_attempts}")

    @admin.display(description="of")
    def subject(self, delivery: CallbackDelivery) -> SafeString:
        # By name: this app knows neither.
        row = {SubjectType.BATCH: "batches_batch", SubjectType.RUN: "batches_run"}[SubjectType(delivery.subject_type)]
        text = format_html("{} {}", delivery.subject_type, shortened(delivery.subject_id))
        return link_to(row, delivery.subject_id, text)

    @admin.display(description="body")
    def body(self, delivery: CallbackDelivery) -> SafeString:
        return shown_json(jsonlib.loads(bytes(delivery.payload)))


@admin.register(CallbackAttempt)
class CallbackAttemptAdmin(ReadOnlyAdmin[CallbackAttempt]):
    list_display = ["short_id", "delivery_link", "attempt_number", "status_code", "response_time_ms", "created"]
    list_defer = ("response_body", "error_message")
    ordering = ["-id"]
    id_columns = ("pk", "delivery")
    search_help_text = "The id of an attempt or of a delivery."
    fields = [
        *("id", "delivery_link", "attempt_number", "status_code", "response_time_ms", "error_message", "answer"),
        "created",
    ]
    readonly_fields = ["delivery_link", "answer", "created"]

    created = moment_column("created_at")

    @admin.display(description="delivery")
    def delivery_link(self, attempt: CallbackAttempt) -> SafeString:
        return link_to("callbacks_callbackdelivery", attempt.delivery_id, shortened(attempt.delivery_id))

    @admin.display(description="answer")
    def answer(self, attempt: CallbackAttempt) -> str:
        return shown_text(attempt.response_body) if attempt.response_body else NOTHING
