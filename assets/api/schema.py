"""What assets look like, and what their routes do (see runflow.lib.schemas)."""

from __future__ import annotations

from assets.models import AssetSource, AssetType
from assets.thumbnails import MIME_TYPE
from assets.uploads import MAX_BYTES, MAX_FILENAME, MAX_MIME_TYPE
from runflow.lib.schemas import (
    COUNT,
    NULL,
    STRING,
    TIMESTAMP,
    URL,
    UUID,
    Answer,
    Component,
    Operation,
    Query,
    given,
    nullable,
    one_of,
    record,
    said,
)

TAG = "Assets"

ASSET = record(
    "Asset",
    {
        "id": UUID,
        "org_id": UUID,
        "folder_id": said(nullable(UUID), "Yours, from the confirmation."),
        "name": STRING,
        "r2_key": NULL,
        "url": said(URL, "The file; signed, expires, signed anew with each read."),
        "thumbnail_url": said(nullable(URL), "The same for a small WebP; null for what is no image."),
        "mime_type": STRING,
        "size_bytes": COUNT,
        "asset_type": one_of(*AssetType.values),
        "source_type": one_of(*AssetSource.values),
        "source_id": NULL,
        "created_by": said(nullable(UUID), "The API key's id; null for outputs."),
        "created_at": TIMESTAMP,
        "updated_at": TIMESTAMP,
        "deleted_at": NULL,
        "deleted_by": NULL,
        "created_by_user": NULL,
    },
    example={
        "id": "01a20ca8-8093-76b1-ad9b-c1890c5a81d5",
        "org_id": "01a20c33-2f4e-732e-8fd3-607b145845a0",
        "folder_id": None,
        "name": "mug.png",
        "r2_key": None,
        "url": "http://127.0.0.1:8000/v1/files/01a20ca8-8093-76b1-ad9b-c1890c5a81d5?expires=1795504642&signature=b0e1d4c2",
        "thumbnail_url": "http://127.0.0.1:8000/v1/files/01a20ca8-8093-76b1-ad9b-c1890c5a81d5/thumbnail"
        "?expires=1795504642&signature=77a0c6de",
        "mime_type": "image/png",
        "size_bytes": 48213,
        "asset_type": "image",
        "source_type": "upload",
        "source_id": None,
        "created_by": "01a20c33-2f51-750e-b241-2829d879b891",
        "created_at": "2026-11-24T08:24:59.155072+00:00",
        "updated_at": "2026-11-24T08:24:59.155072+00:00",
        "deleted_at": None,
        "deleted_by": None,
        "created_by_user": None,
    },
)
UPLOAD_REQUEST = given(
    "AssetUploadRequest",
    required={
        "filename": {"type": "string", "minLength": 1, "maxLength": MAX_FILENAME},
        "mime_type": {"type": "string", "minLength": 1, "maxLength": MAX_MIME_TYPE},
        "size_bytes": {"type": "integer", "minimum": 1, "maximum": MAX_BYTES},
    },
    example={"filename": "mug.png", "mime_type": "image/png", "size_bytes": 48213},
)
UPLOAD = record(
    "AssetUploadSession",
    {"asset_id": UUID, "upload_url": said(URL, "Where to `PUT` the bytes; signed, expires.")},
    example={
        "asset_id": "01a20ca8-8093-76b1-ad9b-c1890c5a81d5",
        "upload_url": "http://127.0.0.1:8000/v1/asset-uploads/01a20ca8-8093-76b1-ad9b-c1890c5a81d5"
        "?expires=1795504642&signature=48ce4f8c",
    },
)
CONFIRM_REQUEST = given(
    "AssetConfirmRequest",
    optional={"folder_id": said(nullable(UUID), "Your own; kept and given back.")},
    example={"folder_id": None},
)
UPLOADED = record(
    "AssetUploaded",
    {"asset_id": UUID, "size_bytes": COUNT},
    example={"asset_id": "01a20ca8-8093-76b1-ad9b-c1890c5a81d5", "size_bytes": 48213},
)
# Bytes of any type; in OpenAPI 3.1 that is a media type without a schema of its own.
FILE = Component("File", {"description": "The bytes."})

_SIGNED = (
    Query("expires", STRING, "From the signed URL."),
    Query("signature", STRING, "From the signed URL."),
)
_REFUSED = {403: "The URL is wrong or has expired.", 503: "The database is away."}

CREATE_UPLOAD = Operation(
    id="createAssetUpload",
    tag=TAG,
    summary="Open an upload",
    description="Three steps: this, the `PUT` of the bytes to `upload_url`, the confirmation.",
    body=UPLOAD_REQUEST,
    answers={
        201: Answer(
            UPLOAD, "Where to put the bytes.", links={"confirmAssetUpload": {"asset_id": "$response.body#/asset_id"}}
        )
    },
    errors={422: "Not valid, or more bytes than the organisation's quota has left (`quota_exceeded`)."},
)
PUT_UPLOAD = Operation(
    id="putAssetUpload",
    tag=TAG,
    summary="Send the bytes of an upload",
    description="By `upload_url`, with the declared `Content-Type`. A second `PUT` replaces what the first brought.",
    query=_SIGNED,
    body=FILE,
    body_media_type="*/*",
    answers={200: Answer(UPLOADED, "The bytes are there.")},
    errors=_REFUSED
    | {
        400: "The body ended before its announced length.",
        404: "The upload has been deleted.",
        409: "The upload has been confirmed (`already_confirmed`): an asset does not change.",
        413: "More bytes than declared.",
        415: "Another `Content-Type` than declared.",
        422: "Fewer bytes than declared (`wrong_size`), or bytes of another type (`wrong_content`).",
    },
)
CONFIRM_UPLOAD = Operation(
    id="confirmAssetUpload",
    tag=TAG,
    summary="Make an upload an asset",
    description="With the same id. Again: the same answer, with URLs signed anew.",
    body=CONFIRM_REQUEST,
    is_body_optional=True,
    answers={201: Answer(ASSET, "The asset.", links={"getAsset": {"asset_id": "$response.body#/id"}})},
    errors={422: "Not valid, or no bytes have come (`missing`)."},
)
GET_ASSET = Operation(
    id="getAsset",
    tag=TAG,
    summary="Read an asset",
    description="An upload that was confirmed, or an output of a run. Inputs name it `runflow://assets/{id}`.",
    answers={200: Answer(ASSET, "The asset.")},
)
GET_FILE = Operation(
    id="getFile",
    tag=TAG,
    summary="Read a file",
    description="By the `url` of an asset or an output.",
    query=_SIGNED,
    answers={200: Answer(FILE, "The file, with its own `Content-Type`.", media_type="*/*")},
    errors=_REFUSED | {404: "The file is gone."},
)
GET_THUMBNAIL = Operation(
    id="getThumbnail",
    tag=TAG,
    summary="Read a thumbnail",
    description="By the `thumbnail_url` of an asset: at most 256 pixels a side.",
    query=_SIGNED,
    answers={200: Answer(FILE, "A WebP.", media_type=MIME_TYPE)},
    errors=_REFUSED | {404: "The file is gone, or is too large or too damaged for a thumbnail."},
)
