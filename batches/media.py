"""Turning a media input into bytes: from an asset, a `data:` URI, or somebody's server through the outbound guard."""

from __future__ import annotations

import base64
import binascii
import logging
import mimetypes
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import unquote_to_bytes
from uuid import UUID

from django.conf import settings
from django.db import connection

from assets.content import asset_type_of
from assets.models import Asset, AssetSource
from assets.services import ASSET_SCHEME, AssetMissing, asset_id_of_url, read_asset, store_file
from batches import lifecycle
from batches.lifecycle import ClaimedRun
from providers.base import FetchError, Media
from runflow.lib import outbound

logger = logging.getLogger(__name__)

# Characters. What is shorter costs less in its row than as a file with a row of its own.
SMALLEST_KEPT = 16 * 1024


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


def keep_data_uris(runs: Sequence[ClaimedRun], media_inputs: Mapping[UUID, Mapping[str, bool]]) -> list[ClaimedRun]:
    """Store the large `data:` URIs of runs just claimed as assets, and name those in their inputs (docs/adr/0009).

    Files first, outside any transaction, then their rows and the inputs in one; two statements whatever their number, and none
    without such inputs. What is in several places is stored once. As it is stays what cannot be decoded or stored, and what by
    its declaration may not name an asset: a replay checks it again.
    """
    kept: dict[tuple[UUID, str], Asset | None] = {}

    def name_of(run: ClaimedRun, value: Any) -> Any:
        if isinstance(value, list):
            return [name_of(run, each) for each in value]
        if not isinstance(value, str) or len(value) < SMALLEST_KEPT or not value.startswith("data:"):
            return value
        key = (run.organization_id, value)
        if key not in kept:
            kept[key] = _store_data_uri(run, value)
        asset = kept[key]
        return value if asset is None else f"{ASSET_SCHEME}{asset.pk}"

    named = [
        replace(
            run,
            input={
                name: name_of(run, value) if media_inputs[run.model_id].get(name) else value
                for name, value in run.input.items()
            },
        )
        for run in runs
    ]
    assets = [asset for asset in kept.values() if asset is not None]
    if assets:
        changed = [new for old, new in zip(runs, named, strict=True) if new.input != old.input]
        lifecycle.name_assets(runs=changed, assets=assets)
    return named


def _store_data_uri(run: ClaimedRun, url: str) -> Asset | None:
    try:
        media = _decode_data_uri(url)
    except FetchError:
        return None  # the run will say so
    extension = mimetypes.guess_extension(media.mime_type) or ".bin"
    try:
        return store_file(
            organization_id=run.organization_id,
            folder=f"inputs/{run.organization_id}",
            name=f"{run.id}{extension}",
            body=media.body,
            mime_type=media.mime_type,
            asset_type=asset_type_of(media.mime_type),
            source_type=AssetSource.INPUT,
        )
    except Exception:
        logger.warning("Could not store an input of run %s", run.id, exc_info=True)
        return None


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
