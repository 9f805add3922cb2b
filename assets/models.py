"""Stored files: what runs put out."""

from __future__ import annotations

from django.db import models

from accounts.models import Organization
from runflow.lib.ids import uuid7


class AssetType(models.TextChoices):
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    TEXT = "text"
    FILE = "file"


class Asset(models.Model):
    """One file in the store, under `storage_key`. Width and height in pixels where they are known."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="assets")
    name = models.CharField(max_length=500)
    storage_key = models.CharField(max_length=500, unique=True)
    asset_type = models.CharField(max_length=20, choices=AssetType.choices)
    mime_type = models.CharField(max_length=255)
    size_bytes = models.BigIntegerField()
    width = models.PositiveIntegerField(null=True, blank=True)
    height = models.PositiveIntegerField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(name="asset_type_known", condition=models.Q(asset_type__in=AssetType.values)),
            models.CheckConstraint(name="asset_size_not_negative", condition=models.Q(size_bytes__gte=0)),
        ]

    def __str__(self) -> str:
        return self.name
