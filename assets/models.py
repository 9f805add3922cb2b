"""Stored files: what runs put out and what customers upload."""

from __future__ import annotations

from typing import Self

from django.db import models

from accounts.models import ApiKey, Organization
from runflow.lib.ids import uuid7


class AssetType(models.TextChoices):
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    TEXT = "text"
    FILE = "file"


class AssetSource(models.TextChoices):
    RUN = "run"  # a run put it out
    UPLOAD = "upload"  # a customer sent it
    INPUT = "input"  # it came as a data: URI in a run's input


class AssetQuerySet(models.QuerySet["Asset"]):
    def visible_to(self, organization: Organization) -> Self:
        """The only way an API view with a key starts a query."""
        return self.filter(organization=organization)


class Asset(models.Model):
    """One file in the store, under `storage_key`. Width and height in pixels where they are known. It never changes."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="assets")
    name = models.CharField(max_length=500)
    storage_key = models.CharField(max_length=500, unique=True)
    asset_type = models.CharField(max_length=20, choices=AssetType.choices)
    mime_type = models.CharField(max_length=255)
    size_bytes = models.BigIntegerField()
    width = models.PositiveIntegerField(null=True, blank=True)
    height = models.PositiveIntegerField(null=True, blank=True)
    source_type = models.CharField(max_length=20, choices=AssetSource.choices, default=AssetSource.RUN)
    folder_id = models.UUIDField(null=True, blank=True, help_text="The client's own; there are no folders here.")
    created_by = models.ForeignKey(
        ApiKey, on_delete=models.SET_NULL, null=True, blank=True, related_name="+", db_index=False
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = AssetQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(name="asset_type_known", condition=models.Q(asset_type__in=AssetType.values)),
            models.CheckConstraint(name="asset_source_known", condition=models.Q(source_type__in=AssetSource.values)),
            models.CheckConstraint(name="asset_size_not_negative", condition=models.Q(size_bytes__gte=0)),
        ]
        indexes = [
            # quota: how many bytes has this organisation uploaded? Answered from the index, outputs left aside.
            models.Index(
                name="asset_uploaded_bytes",
                fields=["organization"],
                include=["size_bytes"],
                condition=models.Q(source_type=AssetSource.UPLOAD),
            ),
        ]

    def __str__(self) -> str:
        return self.name


class AssetUpload(models.Model):
    """An upload that is not confirmed yet; the confirmation turns it into the Asset with the same id.

    A table of its own, so that no question about assets can meet one by mistake. `storage_key` is null until bytes have
    come, and what it names has been checked: it has `size_bytes` and fits `mime_type`.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+")
    name = models.CharField(max_length=500)
    mime_type = models.CharField(max_length=255)
    size_bytes = models.BigIntegerField()
    storage_key = models.CharField(max_length=500, unique=True, null=True)
    width = models.PositiveIntegerField(null=True)
    height = models.PositiveIntegerField(null=True)
    created_by = models.ForeignKey(ApiKey, on_delete=models.SET_NULL, null=True, related_name="+", db_index=False)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(name="assetupload_size_positive", condition=models.Q(size_bytes__gt=0)),
        ]

    def __str__(self) -> str:
        return self.name
