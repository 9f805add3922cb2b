"""Who calls: organisations and their API keys."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MinValueValidator
from django.db import models

from runflow.lib.ids import uuid7


class Scope(models.TextChoices):
    """What a key may do (contract.md section 1)."""

    MODELS_READ = "models:read"
    BATCHES_CREATE = "batches:create"
    BATCHES_READ = "batches:read"
    RUNS_CREATE = "runs:create"
    RUNS_READ = "runs:read"
    RUNS_EXECUTE = "runs:execute"
    CALLBACK_SECRETS_READ = "callback_secrets:read"
    CALLBACK_SECRETS_CREATE = "callback_secrets:create"
    CALLBACK_SECRETS_EDIT = "callback_secrets:edit"
    CALLBACK_SECRETS_DELETE = "callback_secrets:delete"
    ASSETS_CREATE = "assets:create"
    ASSETS_READ = "assets:read"


class Organization(models.Model):
    """A customer. Everything that is created belongs to one."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=255)
    slug = models.SlugField(max_length=100, unique=True)
    max_in_flight = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="Runs of this organisation that may be worked on at once; empty: no cap.",
    )
    asset_quota_bytes = models.PositiveBigIntegerField(
        null=True,
        blank=True,
        help_text="Bytes that its uploads may take, open ones included; empty: no quota. Outputs of runs do not count.",
    )
    is_prepaid = models.BooleanField(
        default=False, help_text="Creates only what its credit covers; see its account (docs/credit.md)."
    )
    rate_limit = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="API requests a minute; empty: as RATE_LIMIT_PER_MINUTE says; 0: no limit.",
    )
    rate_limit_burst = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="API requests that may come at once; empty: as RATE_LIMIT_BURST says, or else a minute's.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["slug"]

    def __str__(self) -> str:
        return self.slug


class ApiKey(models.Model):
    """A bearer key. Only its SHA-256 is kept: 256 random bits need no slow hash."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=255)
    prefix = models.CharField(max_length=20, help_text="The first characters of the key, to recognise it by.")
    secret_hash = models.CharField(max_length=64, unique=True, editable=False)
    scopes = ArrayField(models.CharField(max_length=40, choices=Scope.choices))
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, help_text="Written at most once a minute.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"
