"""Secrets that sign callbacks, deliveries that carry them, and a log of every attempt."""

from __future__ import annotations

from typing import Self
from uuid import UUID

from django.db import models
from django.db.models import F, Q

from accounts.models import Organization
from runflow.lib.ids import uuid7


class CallbackSecret(models.Model):
    """A key that signs callbacks (contract.md section 7). Shown once, then kept encrypted; a disabled one is wiped."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="callback_secrets")
    label = models.CharField(max_length=255)
    key_prefix = models.CharField(max_length=20, help_text="The first characters of the secret, to recognise it by.")
    encrypted = models.TextField(editable=False, help_text="By ENCRYPTION_KEYS; empty once disabled.")
    is_current = models.BooleanField(default=False, help_text="The one that makes Runflow-Signature.")
    disabled_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, help_text="Written at most once a minute.")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                name="callbacksecret_one_current", fields=["organization"], condition=Q(is_current=True)
            ),
            models.CheckConstraint(
                name="callbacksecret_wiped_iff_disabled",
                condition=Q(disabled_at__isnull=True) & ~Q(encrypted="")
                | Q(disabled_at__isnull=False, encrypted="", is_current=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.label} ({self.key_prefix}…)"


class SubjectType(models.TextChoices):
    """What a callback tells of."""

    BATCH = "batch"
    RUN = "run"


class DeliveryStatus(models.TextChoices):
    PENDING = "pending"  # due at next_attempt_at, or being sent while a lease is on it
    DELIVERED = "delivered"
    FAILED = "failed"


class FailureReason(models.TextChoices):
    """Why nothing more is sent."""

    GONE = "gone"  # the receiver answered 410
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"


# A subject has one delivery and its redeliveries; whoever makes more than these sees the newest.
MOST_SHOWN = 50


class CallbackDeliveryQuerySet(models.QuerySet["CallbackDelivery"]):
    def of_subject(self, subject_type: SubjectType, subject_id: UUID) -> Self:
        """Newest first, at most 50, with their attempts: two statements whatever their number."""
        return self.filter(subject_type=subject_type, subject_id=subject_id).prefetch_related("attempts")[:MOST_SHOWN]


class CallbackDelivery(models.Model):
    """One body that is on its way to one URL, frozen when the event happened. Written by `lifecycle` alone.

    Names its subject by type and id, without a foreign key: this app does not know what batches and runs are.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+", db_index=False)
    subject_type = models.CharField(max_length=10, choices=SubjectType.choices)
    subject_id = models.UUIDField()
    callback_url = models.CharField(max_length=2048)
    host = models.CharField(max_length=255, help_text="Of the URL: only a few are sent to one host at a time.")
    payload = models.BinaryField(help_text="The body, byte for byte as it is sent and signed.")
    request_id = models.CharField(max_length=128, default="", help_text="Of the request that made the subject.")
    signing_secret = models.ForeignKey(
        CallbackSecret, on_delete=models.SET_NULL, null=True, related_name="+", db_index=False
    )
    is_automatic = models.BooleanField(help_text="Made by the end of its subject, not by a redelivery.")
    status_code = models.CharField(max_length=20, choices=DeliveryStatus.choices, default=DeliveryStatus.PENDING)
    failure_reason_code = models.CharField(max_length=30, choices=FailureReason.choices, null=True)
    failure_detail = models.TextField(null=True)
    # The fencing token: whoever holds an older attempt can no longer write.
    attempt_count = models.PositiveIntegerField(default=0)
    max_attempts = models.PositiveIntegerField()
    next_attempt_at = models.DateTimeField(null=True)
    lease_expires_at = models.DateTimeField(null=True, help_text="A worker is sending it.")
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()
    completed_at = models.DateTimeField(null=True)

    objects = CallbackDeliveryQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "callback deliveries"
        constraints = [
            models.UniqueConstraint(
                name="delivery_one_automatic", fields=["subject_id", "subject_type"], condition=Q(is_automatic=True)
            ),
            models.UniqueConstraint(
                name="delivery_one_in_flight",
                fields=["subject_id", "subject_type"],
                condition=Q(status_code=DeliveryStatus.PENDING),
            ),
            models.CheckConstraint(name="delivery_status_known", condition=Q(status_code__in=DeliveryStatus.values)),
            models.CheckConstraint(name="delivery_subject_known", condition=Q(subject_type__in=SubjectType.values)),
            models.CheckConstraint(
                name="delivery_next_attempt_iff_pending",
                condition=Q(
                    status_code=DeliveryStatus.PENDING, next_attempt_at__isnull=False, completed_at__isnull=True
                )
                | (
                    ~Q(status_code=DeliveryStatus.PENDING)
                    & Q(next_attempt_at__isnull=True, completed_at__isnull=False, lease_expires_at__isnull=True)
                ),
            ),
            models.CheckConstraint(
                name="delivery_reason_iff_failed",
                condition=Q(status_code=DeliveryStatus.FAILED, failure_reason_code__isnull=False)
                | (~Q(status_code=DeliveryStatus.FAILED) & Q(failure_reason_code__isnull=True)),
            ),
            models.CheckConstraint(
                name="delivery_attempts_within_max", condition=Q(attempt_count__lte=F("max_attempts"))
            ),
        ]
        indexes = [
            # the history of a subject
            models.Index(name="delivery_of_subject", fields=["subject_id"]),
            # claim: which hosts have something due, and what is their oldest?
            models.Index(
                name="delivery_waiting",
                fields=["host", "next_attempt_at", "id"],
                condition=Q(status_code=DeliveryStatus.PENDING, lease_expires_at__isnull=True),
            ),
            # sweep: is anything due?
            models.Index(
                name="delivery_due",
                fields=["next_attempt_at"],
                condition=Q(status_code=DeliveryStatus.PENDING, lease_expires_at__isnull=True),
            ),
            # claim: how many are being sent to this host?
            models.Index(name="delivery_sending_to_host", fields=["host"], condition=Q(lease_expires_at__isnull=False)),
            # sweep: whose worker died?
            models.Index(
                name="delivery_lease", fields=["lease_expires_at"], condition=Q(lease_expires_at__isnull=False)
            ),
            # purge
            models.Index(name="delivery_completed", fields=["completed_at"], condition=Q(completed_at__isnull=False)),
        ]

    def __str__(self) -> str:
        return str(self.id)


class CallbackAttempt(models.Model):
    """What came of sending a delivery once. Rows are added, never changed."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    delivery = models.ForeignKey(CallbackDelivery, on_delete=models.CASCADE, related_name="attempts", db_index=False)
    attempt_number = models.PositiveIntegerField()
    status_code = models.PositiveIntegerField(null=True, help_text="Of HTTP; empty if no whole answer came.")
    response_body = models.TextField(null=True, help_text="Its first 8 KiB.")
    response_time_ms = models.PositiveIntegerField(null=True)
    error_message = models.TextField(null=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["delivery_id", "attempt_number"]
        constraints = [
            models.UniqueConstraint(name="attempt_of_delivery_unique", fields=["delivery", "attempt_number"]),
        ]

    def __str__(self) -> str:
        return f"{self.delivery_id} #{self.attempt_number}"
