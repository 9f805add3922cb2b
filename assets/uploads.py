"""Uploads: a session promises bytes, a PUT brings them, a confirmation makes them an asset (contract.md section 8).

Everything about the bytes happens in the PUT, outside any transaction: they are counted, checked and stored before the
row learns of them. The other two touch rows only, so they may run inside the transaction of an Idempotency-Key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol
from uuid import UUID

from django.conf import settings
from django.core.files.storage import default_storage
from django.core.files.uploadedfile import TemporaryUploadedFile
from django.db import connection, transaction
from django.db.models import QuerySet
from django.http import UnreadablePostError
from django.utils import timezone

from accounts.models import ApiKey, Organization
from assets.content import WrongContent, asset_type_of, check_content, essence
from assets.models import Asset, AssetSource, AssetUpload
from assets.services import delete_files
from runflow.lib import errors
from runflow.lib.errors import ErrorItem
from runflow.lib.faults import NOT_STORABLE, body_fault, cap_errors, is_storable, unknown_members
from runflow.lib.ids import uuid7
from runflow.lib.views import parse_uuid

# contract.md section 8.
MAX_FILENAME = 500
MAX_MIME_TYPE = 255
MAX_BYTES = 50 * 1024 * 1024
# type/subtype and parameters (RFC 9110 section 8.3.1), without what could end a header line.
_MIME_TYPE = re.compile(
    r"""[\w!#$%&'*+.^`|~-]+/[\w!#$%&'*+.^`|~-]+(?:[ ]*;[ ]*[\w!#$%&'*+.^`|~-]+=(?:[\w!#$%&'*+.^`|~-]+|"[ !#-\[\]-~]*"))*""",
    re.ASCII,
)
_CHUNK = 64 * 1024
_PURGE_SLICE = 500


class AssetNotFound(errors.NotFound):
    message = "There is no such asset."


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class UploadRequest:
    """A request for an upload session that has passed every check but the quota."""

    filename: str
    mime_type: str
    size_bytes: int


# --- The session ------------------------------------------------------------------------------------------------------


def check_upload_request(body: Mapping[str, Any]) -> UploadRequest:
    """Check the body of an upload session. Raises ValidationFailed with all faults at once."""
    filename: Any = body.get("filename")
    mime_type: Any = body.get("mime_type")
    size_bytes: Any = body.get("size_bytes")
    if isinstance(size_bytes, float) and size_bytes.is_integer():
        size_bytes = int(size_bytes)  # 5.0 is an integer in JSON Schema, and in contract.md section 5
    own = _text_faults(filename, "filename", longest=MAX_FILENAME)
    own += _mime_type_faults(mime_type) + _size_faults(size_bytes)
    unknown = unknown_members(body, known=("filename", "mime_type", "size_bytes"))
    if own or unknown:
        raise errors.ValidationFailed(errors=cap_errors(own, unknown))
    return UploadRequest(filename=filename, mime_type=mime_type, size_bytes=size_bytes)


def _text_faults(value: Any, name: str, *, longest: int) -> list[ErrorItem]:
    if value is None:
        return [body_fault("missing", "This member is required.", name)]
    if not isinstance(value, str):
        return [body_fault("wrong_type", "Must be a string.", name)]
    if not value:
        return [body_fault("too_short", "Must not be empty.", name)]
    if len(value) > longest:
        return [body_fault("too_long", f"Must have at most {longest} characters.", name)]
    if not is_storable(value):
        return [body_fault("not_storable", NOT_STORABLE, name)]
    return []


def _mime_type_faults(value: Any) -> list[ErrorItem]:
    faults = _text_faults(value, "mime_type", longest=MAX_MIME_TYPE)
    if not faults and _MIME_TYPE.fullmatch(value) is None:
        return [body_fault("bad_pattern", "Must be a media type, like image/png.", "mime_type")]
    return faults


def _size_faults(value: Any) -> list[ErrorItem]:
    if value is None:
        return [body_fault("missing", "This member is required.", "size_bytes")]
    if not isinstance(value, int) or isinstance(value, bool):
        return [body_fault("wrong_type", "Must be an integer.", "size_bytes")]
    if not 1 <= value <= MAX_BYTES:
        return [body_fault("out_of_range", f"Must be from 1 to {MAX_BYTES}.", "size_bytes")]
    return []


def create_upload(*, organization: Organization, request: UploadRequest, created_by: ApiKey | None) -> AssetUpload:
    """Open an upload session. From now on its bytes count against the organisation's quota, also once it is an asset.

    Raises ValidationFailed when the quota does not have them.
    """
    upload = AssetUpload(
        organization=organization,
        name=request.filename,
        mime_type=request.mime_type,
        size_bytes=request.size_bytes,
        created_by=created_by,
    )
    with transaction.atomic():
        if organization.asset_quota_bytes is not None:
            _check_quota(organization_id=organization.pk, size_bytes=request.size_bytes)
        upload.save(force_insert=True)
    return upload


# One statement, so one moment: a confirmation that moves bytes from one table to the other is seen before or after.
_UPLOADED_BYTES = """
SELECT (SELECT COALESCE(sum(size_bytes), 0) FROM assets_asset
         WHERE organization_id = %(organization_id)s AND source_type = 'upload')
     + (SELECT COALESCE(sum(size_bytes), 0) FROM assets_assetupload WHERE organization_id = %(organization_id)s)
"""


def _check_quota(*, organization_id: UUID, size_bytes: int) -> None:
    # Locked, so that of two sessions at once the second counts the first one's bytes. And a statement of its own: one that
    # has waited for a lock still reads as of its beginning.
    locked = Organization.objects.select_for_update(no_key=True).filter(pk=organization_id)
    quota = locked.values_list("asset_quota_bytes", flat=True).get()
    with connection.cursor() as cursor:
        cursor.execute(_UPLOADED_BYTES, {"organization_id": organization_id})
        used = int(cursor.fetchone()[0])
    if quota is not None and used + size_bytes > quota:
        msg = f"The organization's quota is {quota} bytes, of which {max(0, quota - used)} are free."
        raise errors.ValidationFailed(errors=[body_fault("quota_exceeded", msg, "size_bytes")])


# --- The bytes --------------------------------------------------------------------------------------------------------


def receive_upload(*, asset_id: UUID, content_type: str, stream: Readable) -> AssetUpload:
    """Store the bytes of an open session; those of an earlier PUT are replaced. Holds no more than a chunk in memory.

    Raises AssetNotFound, Conflict (confirmed already), UnsupportedMediaType (not the declared type), PayloadTooLarge, and
    ValidationFailed (too few bytes, or bytes of another type). After any of these what was there before still is.
    """
    upload = AssetUpload.objects.filter(pk=asset_id).first()
    if upload is None:
        raise _not_open(asset_id)
    if essence(content_type) != essence(upload.mime_type):
        raise errors.UnsupportedMediaType(f"The Content-Type must be the declared one, {upload.mime_type}.")
    # A file that has a path: the store moves it into place where it can.
    with TemporaryUploadedFile("upload", upload.mime_type, upload.size_bytes, None) as file:
        _copy(stream, file, size_bytes=upload.size_bytes)
        try:
            size = check_content(file, mime_type=upload.mime_type)
        except WrongContent:
            raise _bad_body("wrong_content", f"These bytes are not {upload.mime_type}.") from None
        file.seek(0)
        # A new key for each PUT: two at once cannot mix, and the last to tell the row wins.
        key = default_storage.save(f"uploads/{upload.organization_id}/{asset_id.hex}/{uuid7().hex}", file)
    # If the database fails here the file stays, since nobody can say whether the row names it: harmless.
    kept = _keep_bytes(asset_id=asset_id, key=key, size=size)
    if kept is None:
        delete_files(keys=[key])
        raise _not_open(asset_id)
    return kept


def _copy(stream: Readable, file: TemporaryUploadedFile, *, size_bytes: int) -> None:
    left = size_bytes
    try:
        while left and (chunk := stream.read(min(_CHUNK, left))):
            file.write(chunk)
            left -= len(chunk)
        is_longer = not left and bool(stream.read(1))
    except UnreadablePostError:
        raise errors.BadRequest("The body ended before its announced length.") from None
    if left:
        raise _bad_body("wrong_size", f"Must have the declared {size_bytes} bytes, not {size_bytes - left}.")
    if is_longer:
        raise errors.PayloadTooLarge(f"The body is larger than the declared {size_bytes} bytes.")


def _keep_bytes(*, asset_id: UUID, key: str, size: tuple[int, int] | None) -> AssetUpload | None:
    """Let the row name the new file. None: it has been confirmed or purged while the bytes came."""
    with transaction.atomic():
        upload = AssetUpload.objects.select_for_update(no_key=True).filter(pk=asset_id).first()
        if upload is None:
            return None
        if upload.storage_key is not None:
            transaction.on_commit(partial(delete_files, keys=[upload.storage_key]))
        upload.storage_key = key
        upload.width, upload.height = size or (None, None)
        upload.save(update_fields=["storage_key", "width", "height"])
    return upload


def _not_open(asset_id: UUID) -> errors.DomainError:
    if not Asset.objects.filter(pk=asset_id).exists():
        return AssetNotFound()
    msg = "This upload has been confirmed; its file does not change any more."
    return errors.Conflict(msg, errors=[{"loc": ["path", "asset_id"], "msg": msg, "type": "already_confirmed"}])


def _bad_body(error_type: str, msg: str) -> errors.ValidationFailed:
    return errors.ValidationFailed(errors=[body_fault(error_type, msg)])


# --- The confirmation -------------------------------------------------------------------------------------------------


def check_confirmation(body: Mapping[str, Any]) -> UUID | None:
    """Check the body of a confirmation. Returns its folder_id. Raises ValidationFailed with all faults at once."""
    folder_id = body.get("folder_id")
    own: list[ErrorItem] = []
    parsed = None
    if folder_id is not None:
        if not isinstance(folder_id, str):
            own.append(body_fault("wrong_type", "Must be a string or null.", "folder_id"))
        else:
            parsed = parse_uuid(folder_id)
            if parsed is None:
                own.append(body_fault("bad_pattern", "Must be a UUID.", "folder_id"))
    unknown = unknown_members(body, known=("folder_id",))
    if own or unknown:
        raise errors.ValidationFailed(errors=cap_errors(own, unknown))
    return parsed


def confirm_upload(*, organization: Organization, asset_id: UUID, folder_id: UUID | None) -> Asset:
    """Make an upload an asset. One that is an asset already is returned as it is, so a confirmation may be repeated.

    Raises AssetNotFound, also for another organisation's, and ValidationFailed while there are no bytes.
    """
    with transaction.atomic():
        # A twin waits here, then finds no upload but the asset.
        upload = AssetUpload.objects.select_for_update().filter(pk=asset_id, organization=organization).first()
        if upload is None:
            uploaded = Asset.objects.visible_to(organization).filter(source_type=AssetSource.UPLOAD)
            asset = uploaded.filter(pk=asset_id).first()
            if asset is None:
                raise AssetNotFound
            return asset
        if upload.storage_key is None:
            msg = "There are no bytes yet: PUT them to upload_url first."
            raise errors.ValidationFailed(errors=[{"loc": ["path", "asset_id"], "msg": msg, "type": "missing"}])
        asset = Asset(
            id=upload.pk,
            organization=organization,
            name=upload.name,
            storage_key=upload.storage_key,
            asset_type=asset_type_of(upload.mime_type),
            mime_type=upload.mime_type,
            size_bytes=upload.size_bytes,
            width=upload.width,
            height=upload.height,
            source_type=AssetSource.UPLOAD,
            folder_id=folder_id,
            created_by_id=upload.created_by_id,
        )
        asset.save(force_insert=True)
        upload.delete()
    return asset


# --- The purge --------------------------------------------------------------------------------------------------------


def _abandoned() -> QuerySet[AssetUpload]:
    return AssetUpload.objects.filter(created_at__lt=timezone.now() - settings.ASSET_UPLOAD_RETENTION)


def count_abandoned() -> tuple[int, int]:
    """How many uploads nobody confirmed in time, and how many of them have a file."""
    return _abandoned().count(), _abandoned().filter(storage_key__isnull=False).count()


def purge_abandoned() -> int:
    """Delete the uploads that nobody confirmed in time, then their files, a slice a transaction. Returns how many.

    In this order, so that no row ever promises a file that is gone. A crash between leaves files that no row names.
    """
    total = 0
    while True:
        with transaction.atomic():
            # One that is being confirmed at this moment is left alone.
            uploads = list(_abandoned().select_for_update(skip_locked=True).order_by("pk")[:_PURGE_SLICE])
            AssetUpload.objects.filter(pk__in=[upload.pk for upload in uploads]).delete()
        delete_files(keys=[upload.storage_key for upload in uploads if upload.storage_key is not None])
        total += len(uploads)
        if len(uploads) < _PURGE_SLICE:
            return total
