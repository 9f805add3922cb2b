"""Stored files, with a link that opens them, and the uploads that are not confirmed yet."""

from __future__ import annotations

from typing import TypeVar

from django.contrib import admin
from django.db.models import Q
from django.template.defaultfilters import filesizeformat
from django.utils.html import format_html
from django.utils.safestring import SafeString

from assets.models import Asset, AssetType, AssetUpload
from assets.services import sign_url
from runflow.lib.admin import NOTHING, QuestionFilter, ReadOnlyAdmin, moment_column, one_line, shortened

F = TypeVar("F", Asset, AssetUpload)


class StoredFileAdmin(ReadOnlyAdmin[F]):
    """Columns of whatever has a file."""

    list_select_related = ["organization"]

    created = moment_column("created_at")

    @admin.display(description="name")
    def short_name(self, row: F) -> str:
        return shortened(row.name)

    @admin.display(description="size")
    def size(self, row: F) -> str:
        return one_line(filesizeformat(row.size_bytes))

    @admin.display(description="pixels")
    def pixels(self, row: F) -> str:
        return one_line(f"{row.width} × {row.height}") if row.width and row.height else NOTHING


@admin.register(Asset)
class AssetAdmin(StoredFileAdmin[Asset]):
    list_display = [
        *("short_name", "organization", "asset_type", "source_type", "mime_type", "size", "pixels", "created", "link"),
    ]
    list_filter = ["asset_type", "source_type", "created_at"]
    fields = [
        *("preview", "link", "id", "organization", "name", "storage_key"),
        *("asset_type", "mime_type", "size", "pixels", "source_type", "folder_id", "created_by", "created"),
    ]
    readonly_fields = ["preview", "link", "size", "pixels", "created"]

    @admin.display(description="file")
    def link(self, asset: Asset) -> SafeString:
        return format_html('<a href="{}" target="_blank" rel="noopener">open</a>', sign_url(asset_id=asset.pk))

    @admin.display(description="preview")
    def preview(self, asset: Asset) -> str:
        if asset.asset_type != AssetType.IMAGE:
            return NOTHING
        return format_html(
            '<img src="{}" alt="" style="max-width: 320px; max-height: 320px">', sign_url(asset_id=asset.pk)
        )


class Bytes(QuestionFilter):
    title = "bytes"
    parameter_name = "bytes"
    questions = {
        "not here yet": lambda _: Q(storage_key__isnull=True),
        "here, not confirmed": lambda _: Q(storage_key__isnull=False),
    }


@admin.register(AssetUpload)
class AssetUploadAdmin(StoredFileAdmin[AssetUpload]):
    list_display = ["short_name", "organization", "mime_type", "size", "pixels", "created"]
    list_filter = [Bytes]
    fields = [
        *("id", "organization", "name", "storage_key", "mime_type", "size", "pixels", "created_by", "created"),
    ]
    readonly_fields = ["size", "pixels", "created"]
