"""The shapes of contract.md section 8, written from rows."""

from __future__ import annotations

from typing import Any

from assets.models import Asset, AssetType, AssetUpload
from assets.services import THUMBNAIL_ROUTE, UPLOAD_ROUTE, sign_url


def upload_body(upload: AssetUpload) -> dict[str, Any]:
    """AssetUploadSession."""
    return {"asset_id": upload.pk, "upload_url": sign_url(asset_id=upload.pk, route=UPLOAD_ROUTE)}


def asset_body(asset: Asset) -> dict[str, Any]:
    """Asset, its URLs signed anew. Where it lies in the store (`r2_key`) concerns nobody outside."""
    is_picture = asset.asset_type == AssetType.IMAGE
    return {
        "id": asset.pk,
        "org_id": asset.organization_id,
        "folder_id": asset.folder_id,
        "name": asset.name,
        "r2_key": None,
        "url": sign_url(asset_id=asset.pk),
        "thumbnail_url": sign_url(asset_id=asset.pk, route=THUMBNAIL_ROUTE) if is_picture else None,
        "mime_type": asset.mime_type,
        "size_bytes": asset.size_bytes,
        "asset_type": asset.asset_type,
        "source_type": asset.source_type,
        "source_id": None,
        "created_by": asset.created_by_id,
        "created_at": asset.created_at,
        "updated_at": asset.created_at,
        "deleted_at": None,
        "deleted_by": None,
        "created_by_user": None,
    }
