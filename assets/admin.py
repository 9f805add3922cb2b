"""Stored files, with a link that opens them."""

from __future__ import annotations

from django.contrib import admin
from django.template.defaultfilters import filesizeformat
from django.utils.html import format_html
from django.utils.safestring import SafeString

from assets.models import Asset, AssetType
from assets.services import sign_url
from runflow.lib.admin import NOTHING, ReadOnlyAdmin, moment_column, one_line, shortened


@admin.register(Asset)
class AssetAdmin(ReadOnlyAdmin[Asset]):
    list_display = ["short_name", "organization", "asset_type", "mime_type", "size", "pixels", "created", "link"]
    list_filter = ["asset_type", "created_at"]
    list_select_related = ["organization"]
    fields = [
        *("preview", "link", "id", "organization", "name", "storage_key"),
        *("asset_type", "mime_type", "size", "pixels", "created"),
    ]
    readonly_fields = ["preview", "link", "size", "pixels", "created"]

    created = moment_column("created_at")

    @admin.display(description="name")
    def short_name(self, asset: Asset) -> str:
        return shortened(asset.name)

    @admin.display(description="size")
    def size(self, asset: Asset) -> str:
        return one_line(filesizeformat(asset.size_bytes))

    @admin.display(description="pixels")
    def pixels(self, asset: Asset) -> str:
        return one_line(f"{asset.width} × {asset.height}") if asset.width and asset.height else NOTHING

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
