"""Serving files by signed, expiring URL: whoever has the URL may read, as with any object store."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from django.core.files.storage import default_storage
from django.http import FileResponse
from rest_framework.request import Request

from assets.models import Asset
from assets.services import is_signed
from runflow.lib import errors
from runflow.lib.views import ApiView


class FileView(ApiView):
    """`GET /v1/files/{asset_id}?expires=…&signature=…`"""

    authentication_classes: Sequence[type] = []
    permission_classes: Sequence[type] = []

    def get(self, request: Request, asset_id: UUID) -> FileResponse:
        query = request.query_params
        if not is_signed(asset_id=asset_id, expires=query.get("expires", ""), signature=query.get("signature", "")):
            raise errors.PermissionDenied("This link is not valid or has expired; read the run again for a new one.")
        asset = Asset.objects.filter(pk=asset_id).first()
        if asset is None:
            raise errors.NotFound
        try:
            file = default_storage.open(asset.storage_key)
        except FileNotFoundError:
            raise errors.NotFound("The file is gone.") from None
        response = FileResponse(file, filename=asset.name, content_type=asset.mime_type)
        # A customer's file must never act as a page of this site.
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
        response.headers["Cache-Control"] = "private, max-age=300"
        return response
