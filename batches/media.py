"""Turning a media input into bytes: from an asset, a `data:` URI, or somebody's server through the outbound guard."""

from __future__ import annotations

import base64
import binascii
import logging
import threading
from collections.abc import Callable
from urllib.parse import unquote_to_bytes
from uuid import UUID

from django.conf import settings
from django.db import connection

from assets.services import ASSET_SCHEME, AssetMissing, asset_id_of_url, read_asset
from providers.base import FetchError, Media
from runflow.lib import outbound

logger = logging.getLogger(__name__)


def fetcher_for(organization_id: UUID) -> Callable[[str], Media]:
    """The `fetch` of this organisation's jobs. Adapters call it from threads of their own."""
    home = threading.get_ident()

    def fetch(url: str) -> Media:
        try:
            return fetch_media(url, organization_id=organization_id)
        finally:
            if threading.get_ident() != home:
                connection.close()  # that thread's own; nobody else would

    return fetch


def fetch_media(url: str, *, organization_id: UUID) -> Media:
    """Read a media input. Raises FetchError with a message for the customer."""
    if url.startswith("data:"):
        return _decode_data_uri(url)
    asset_id = asset_id_of_url(url)
    if asset_id is not None:
        try:
            return Media(*read_asset(asset_id=asset_id, organization_id=organization_id))
        except AssetMissing as exc:
            raise FetchError(str(exc)) from None
        except Exception as exc:
            logger.exception("Could not read asset %s", asset_id)  # every store has errors of its own
            raise FetchError("The asset cannot be read at the moment.", is_retryable=True) from exc
    if url.startswith(ASSET_SCHEME):
        raise FetchError("This is no asset address: runflow://assets/{uuid} is.")
    try:
        fetched = outbound.fetch(url, max_bytes=settings.MEDIA_INPUT_LIMIT_BYTES)
    except outbound.OutboundError as exc:
        raise FetchError(str(exc), is_retryable=exc.is_retryable) from None
    return Media(fetched.body, fetched.mime_type)


def _decode_data_uri(url: str) -> Media:
    """RFC 2397: data:[<mediatype>][;base64],<data>"""
    header, comma, data = url.removeprefix("data:").partition(",")
    if not comma:
        raise FetchError("The data: URI has no data.")
    mime_type, *parameters = (part.strip() for part in header.split(";"))
    raw = unquote_to_bytes(data)
    if "base64" in parameters:
        try:
            raw = base64.b64decode(raw, validate=True)
        except binascii.Error:
            raise FetchError("The data: URI is not valid base64.") from None
    return Media(raw, (mime_type or "text/plain").lower())
