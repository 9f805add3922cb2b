"""One table: which key of which organisation was answered with what."""

from __future__ import annotations

from django.db import models

from accounts.models import Organization
from runflow.lib.ids import uuid7


class IdempotencyRecord(models.Model):
    """The stored answer to a request. Committed together with what the request made, so `response_status` is null only to
    the transaction that is still writing it.

    Not a composite primary key, though (organization, key) is one: the admin cannot show such models.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+", db_index=False)
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64)
    response_status = models.PositiveSmallIntegerField(null=True)
    response_headers = models.JSONField(default=dict)
    response_body = models.BinaryField(default=bytes)
    is_encrypted = models.BooleanField(default=False, help_text="The body is, by ENCRYPTION_KEYS: it holds a secret.")
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            # The lock: a twin's insert waits here until the first request commits or rolls back.
            models.UniqueConstraint(name="idempotency_organization_key_unique", fields=["organization", "key"]),
        ]

    def __str__(self) -> str:
        return self.key
