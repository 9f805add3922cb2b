"""Storing files, signing their URLs, reading them again."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from django.conf import settings
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.urls import reverse
from django.utils.crypto import constant_time_compare, salted_hmac

from assets.models import Asset, AssetSource
from runflow.lib.ids import uuid7

logger = logging.getLogger(__name__)

ASSET_SCHEME = "runflow://assets/"
# The routes that a signature can open, by their names in assets/api/urls.py; one for a route opens no other.
FILE_ROUTE = "file"
THUMBNAIL_ROUTE = "thumbnail"
UPLOAD_ROUTE = "asset-upload"


class AssetMissing(Exception):
    """There is no such asset for this organisation, or its file is gone. `str()` is written for the customer."""


def store_file(
    *,
    organization_id: UUID,
    folder: str,
    name: str,
    body: bytes,
    mime_type: str,
    asset_type: str,
    width: int | None = None,
    height: int | None = None,
    source_type: str = AssetSource.RUN,
) -> Asset:
    """Write a file to the store and return its row, not saved yet.

    Two steps, because a file is written outside any transaction and the row inside the one that tells of it
    (`save_assets`). A crash between leaves a file that no row names, which is harmless.
    """
    asset_id = uuid7()
    key = default_storage.save(f"{folder}/{asset_id.hex}/{name}", ContentFile(body))
    return Asset(
        id=asset_id,
        organization_id=organization_id,
        name=name,
        storage_key=key,
        asset_type=asset_type,
        mime_type=mime_type,
        size_bytes=len(body),
        width=width,
        height=height,
        source_type=source_type,
    )


def save_assets(*, assets: Sequence[Asset]) -> None:
    """Insert the rows of stored files, one statement however many."""
    Asset.objects.bulk_create(assets)


def discard_files(*, assets: Iterable[Asset]) -> None:
    """Remove files whose rows were never saved: the attempt that made them was no longer the current one."""
    delete_files(keys=[asset.storage_key for asset in assets])


def delete_files(*, keys: Iterable[str]) -> None:
    """Remove files that no row names any more. One that the store does not remove stays, which is harmless."""
    for key in keys:
        try:
            default_storage.delete(key)
        except Exception:  # every store has errors of its own
            logger.warning("Could not delete the file %s", key, exc_info=True)


def read_asset(*, asset_id: UUID, organization_id: UUID) -> tuple[bytes, str]:
    """The bytes and the mime type of an asset. Raises AssetMissing, also for another organisation's."""
    asset = Asset.objects.filter(pk=asset_id, organization_id=organization_id).first()
    if asset is None:
        raise AssetMissing("There is no such asset.")
    try:
        with default_storage.open(asset.storage_key) as file:
            return file.read(), asset.mime_type
    except FileNotFoundError:
        raise AssetMissing("The file of this asset is gone.") from None


def _signature(route: str, asset_id: UUID, expires: int) -> str:
    return salted_hmac(f"assets.{route}", f"{asset_id}:{expires}", algorithm="sha256").hexdigest()


def sign_url(
    *, asset_id: UUID, lifetime: timedelta | None = None, now: float | None = None, route: str = FILE_ROUTE
) -> str:
    """An absolute URL that opens the route for `lifetime` (ASSET_URL_LIFETIME), whoever has it."""
    seconds = (lifetime or settings.ASSET_URL_LIFETIME).total_seconds()
    expires = int((now if now is not None else time.time()) + seconds)
    path = reverse(route, kwargs={"asset_id": asset_id})
    return f"{settings.PUBLIC_BASE_URL}{path}?expires={expires}&signature={_signature(route, asset_id, expires)}"


def is_signed(*, asset_id: UUID, expires: str, signature: str, route: str = FILE_ROUTE) -> bool:
    """Whether these are the query members of a URL that `sign_url` made and whose time is not over."""
    if not (expires.isascii() and expires.isdigit() and len(expires) <= 12):
        return False
    signed = _signature(route, asset_id, int(expires))
    return constant_time_compare(signature, signed) and int(expires) >= time.time()


def asset_id_of_url(url: str) -> UUID | None:
    """The asset behind `runflow://assets/{id}` or behind a signed URL of ours that is still good; None for other URLs.

    So the output of one batch can be the input of the next without a request to ourselves.
    """
    if url.startswith(ASSET_SCHEME):
        return _uuid(url.removeprefix(ASSET_SCHEME))
    nobody = UUID(int=0)
    prefix = settings.PUBLIC_BASE_URL + reverse(FILE_ROUTE, kwargs={"asset_id": nobody}).removesuffix(str(nobody))
    if not url.startswith(prefix):
        return None
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    asset_id = _uuid(parts.path.rsplit("/", 1)[-1])
    if asset_id is not None and is_signed(
        asset_id=asset_id, expires=query.get("expires", [""])[0], signature=query.get("signature", [""])[0]
    ):
        return asset_id
    return None


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
