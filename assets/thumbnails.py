"""Thumbnails of pictures: made when one is first asked for, kept in the store beside the files."""

from __future__ import annotations

import io
import threading
from typing import IO

from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from PIL import Image, ImageOps

from assets.content import PICTURE_FORMATS
from assets.models import Asset
from assets.services import AssetMissing, delete_files

LONG_SIDE = 256  # pixels
MIME_TYPE = "image/webp"
# Decoding and scaling take up to 20 bytes a pixel (WebP with alpha, measured), so half a gigabyte at most.
MAX_PIXELS = 25_000_000
# A JPEG is decoded at a fraction of its size: 3 bytes a pixel, 8 where it is CMYK. And cameras make large ones.
MAX_PIXELS_OF_JPEG = 64_000_000
# Several at once would multiply that in a web process with threads.
_one_at_a_time = threading.Lock()


class NotDrawable(Exception):
    """No thumbnail can be made of the file: it is no picture, damaged, or too large."""


def open_thumbnail(*, asset: Asset) -> IO[bytes]:
    """The thumbnail of an asset, made now if this is the first time. Raises AssetMissing if there can be none."""
    key = f"thumbnails/{asset.organization_id}/{asset.pk.hex}.webp"
    try:
        kept: IO[bytes] = default_storage.open(key)
    except FileNotFoundError:
        pass
    else:
        return kept
    try:
        with default_storage.open(asset.storage_key) as file:
            body = draw_thumbnail(file)
    except FileNotFoundError:
        raise AssetMissing("The file is gone.") from None
    except NotDrawable:
        raise AssetMissing("There is no thumbnail of this file.") from None
    stored = default_storage.save(key, ContentFile(body))
    if stored != key:  # another request was first, and its file is as good
        delete_files(keys=[stored])
    return io.BytesIO(body)


def draw_thumbnail(file: IO[bytes]) -> bytes:
    """A WebP of the first frame, upright, at most LONG_SIDE pixels a side, never enlarged, without any metadata.

    Raises NotDrawable.
    """
    try:
        with _one_at_a_time, Image.open(file, formats=PICTURE_FORMATS) as picture:
            most = MAX_PIXELS_OF_JPEG if picture.format in ("JPEG", "MPO") else MAX_PIXELS
            if picture.width * picture.height > most:  # the header is enough: nothing has been decoded yet
                raise NotDrawable
            buffer = io.BytesIO()
            _upright(_shrunk(picture)).save(buffer, "WEBP", quality=80)
            return buffer.getvalue()
    except (NotDrawable, MemoryError):
        raise
    except Exception as fault:  # hostile bytes raise OSError, SyntaxError, ValueError, struct.error, EOFError and more
        raise NotDrawable from fault


def _shrunk(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        # 16-bit values: Pillow's own conversion clips them at 255 instead of scaling.
        picture = picture.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    elif picture.has_transparency_data:
        picture = picture.convert("RGBA")
    elif picture.mode not in ("L", "RGB"):
        # First, because scaling a palette picks pixels instead of mixing them.
        picture = picture.convert("RGB")
    picture.thumbnail((LONG_SIDE, LONG_SIDE))  # decodes a JPEG at a fraction of its size
    return picture


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # noqa: BLE001
        # A broken EXIF block says nothing about the pixels, and browsers show such a picture as it lies.
        return picture
