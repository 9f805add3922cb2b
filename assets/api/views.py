"""Assets by key, and their files by signed, expiring URL: whoever has the URL may, as with any object store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Any
from uuid import UUID

from django.core.files.storage import default_storage
from django.http import FileResponse
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.authentication import caller_of
from accounts.models import Scope
from assets.api import schema
from assets.api.serializers import asset_body, upload_body
from assets.models import Asset
from assets.services import FILE_ROUTE, THUMBNAIL_ROUTE, UPLOAD_ROUTE, AssetMissing, is_signed
from assets.thumbnails import MIME_TYPE, open_thumbnail
from assets.uploads import (
    MAX_BYTES,
    AssetNotFound,
    check_confirmation,
    check_upload_request,
    confirm_upload,
    create_upload,
    receive_upload,
)
from runflow.lib import errors
from runflow.lib.views import ApiView, json_object, parse_uuid


class AssetUploadsView(ApiView):
    """`POST /v1/asset-uploads`"""

    scopes = {"POST": Scope.ASSETS_CREATE}
    documented = {"POST": schema.CREATE_UPLOAD}

    def post(self, request: Request) -> Response:
        caller = caller_of(request)
        checked = check_upload_request(json_object(request))
        upload = create_upload(organization=caller.organization, request=checked, created_by=caller.api_key)
        return Response(upload_body(upload), status=201)


class AssetConfirmationsView(ApiView):
    """`POST /v1/asset-uploads/{asset_id}/confirmations`"""

    scopes = {"POST": Scope.ASSETS_CREATE}
    documented = {"POST": schema.CONFIRM_UPLOAD}

    def post(self, request: Request, asset_id: str) -> Response:
        # Every member is optional, and so is the body.
        folder_id = None if request.stream is None else check_confirmation(json_object(request))
        asset = confirm_upload(
            organization=caller_of(request).organization, asset_id=_id(asset_id), folder_id=folder_id
        )
        return Response(asset_body(asset), status=201)


class AssetView(ApiView):
    """`GET /v1/assets/{asset_id}`"""

    scopes = {"GET": Scope.ASSETS_READ}
    documented = {"GET": schema.GET_ASSET}

    def get(self, request: Request, asset_id: str) -> Response:
        asset = Asset.objects.visible_to(caller_of(request).organization).filter(pk=_id(asset_id)).first()
        if asset is None:
            raise AssetNotFound
        return Response(asset_body(asset))


def _id(text: str) -> UUID:
    parsed = parse_uuid(text)
    if parsed is None:
        raise AssetNotFound
    return parsed


# --- By signed URL ----------------------------------------------------------------------------------------------------


class SignedView(ApiView):
    """Base of the views that a signature opens instead of a key: `?expires=…&signature=…`, made for `route`."""

    authentication_classes: Sequence[type] = []
    permission_classes: Sequence[type] = []
    route: str
    refusal = "This link is not valid or has expired; read the run or the asset again for a new one."

    def check_signature(self, request: Request, asset_id: UUID) -> None:
        query = request.query_params
        expires, signature = query.get("expires", ""), query.get("signature", "")
        if not is_signed(asset_id=asset_id, expires=expires, signature=signature, route=self.route):
            raise errors.PermissionDenied(self.refusal)


class AssetUploadView(SignedView):
    """`PUT /v1/asset-uploads/{asset_id}?expires=…&signature=…`"""

    route = UPLOAD_ROUTE
    refusal = "This link is not valid or has expired; open another upload for a new one."
    body_limit = MAX_BYTES
    documented = {"PUT": schema.PUT_UPLOAD}

    def put(self, request: Request, asset_id: UUID) -> Response:
        self.check_signature(request, asset_id)
        upload = receive_upload(asset_id=asset_id, content_type=request.content_type or "", stream=request._request)
        return Response({"asset_id": upload.pk, "size_bytes": upload.size_bytes})


class FileView(SignedView):
    """`GET /v1/files/{asset_id}?expires=…&signature=…`"""

    route = FILE_ROUTE
    documented = {"GET": schema.GET_FILE}

    def get(self, request: Request, asset_id: UUID) -> FileResponse:
        self.check_signature(request, asset_id)
        asset = _asset_or_404(asset_id)
        try:
            file = default_storage.open(asset.storage_key)
        except FileNotFoundError:
            raise errors.NotFound("The file is gone.") from None
        return _file_response(file, filename=asset.name, content_type=asset.mime_type)


class ThumbnailView(SignedView):
    """`GET /v1/files/{asset_id}/thumbnail?expires=…&signature=…`"""

    route = THUMBNAIL_ROUTE
    documented = {"GET": schema.GET_THUMBNAIL}

    def get(self, request: Request, asset_id: UUID) -> FileResponse:
        self.check_signature(request, asset_id)
        try:
            file = open_thumbnail(asset=_asset_or_404(asset_id))
        except AssetMissing as missing:
            raise errors.NotFound(str(missing)) from None
        return _file_response(file, filename="thumbnail.webp", content_type=MIME_TYPE)


def _asset_or_404(asset_id: UUID) -> Asset:
    asset = Asset.objects.filter(pk=asset_id).first()
    if asset is None:
        raise errors.NotFound
    return asset


def _file_response(file: IO[bytes] | Any, *, filename: str, content_type: str) -> FileResponse:
    response = FileResponse(file, filename=filename, content_type=content_type)
    # A customer's file must never act as a page of this site.
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    response.headers["Cache-Control"] = "private, max-age=300"
    return response
