"""Whether bytes are what they are said to be: pictures by their header, other files by how they begin.

Nothing is decoded here, so no picture is too large for it. A media type that is in neither table is taken at its word.
"""

from __future__ import annotations

import re
from typing import IO

from PIL import Image

from assets.models import AssetType

# Media types of pictures, with Pillow's name of the format. It knows forty; these are what models read and browsers show.
PICTURES = {
    "image/apng": "PNG",
    "image/avif": "AVIF",
    "image/bmp": "BMP",
    "image/gif": "GIF",
    "image/jpeg": "JPEG",
    "image/jpg": "JPEG",
    "image/png": "PNG",
    "image/tiff": "TIFF",
    "image/webp": "WEBP",
}
PICTURE_FORMATS = tuple(sorted(set(PICTURES.values())))

_PDF = re.compile(rb".{0,1019}%PDF-", re.DOTALL)  # readers accept it anywhere within the first 1024 bytes
# AVIF and HEIC are the same container with brands of their own.
_MP4 = re.compile(rb".{4}ftyp(?!avi|he[ivx]|mif1|msf1)", re.DOTALL)
_WEBM = re.compile(rb"\x1a\x45\xdf\xa3")  # EBML, which Matroska is too
_WAV = re.compile(rb"(?:RIFF|RF64).{4}WAVE", re.DOTALL)
_OGG = re.compile(rb"OggS")
# An ID3 tag, or the header of a frame: eleven bits set, then neither the reserved version nor the reserved layer.
_MP3 = re.compile(rb"ID3|\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]")
# Media types of other files, with how they begin. WebM, MP4 and Ogg hold sound, pictures or both.
BEGINNINGS = {
    "application/ogg": _OGG,
    "application/pdf": _PDF,
    "audio/mp3": _MP3,
    "audio/mp4": _MP4,
    "audio/mpeg": _MP3,
    "audio/ogg": _OGG,
    "audio/wav": _WAV,
    "audio/wave": _WAV,
    "audio/webm": _WEBM,
    "audio/x-wav": _WAV,
    "video/mp4": _MP4,
    "video/ogg": _OGG,
    "video/webm": _WEBM,
}
# What a file that claims to be another kind of picture must not be. MP3 is left out: its two bytes prove too little.
_NO_PICTURES = (_PDF, _MP4, _WEBM, _WAV, _OGG)
_HEAD_BYTES = 1024


class WrongContent(Exception):
    """The bytes are not of the declared type."""


def essence(mime_type: str) -> str:
    """`type/subtype` of a media type, lower case, without its parameters."""
    return mime_type.partition(";")[0].strip().lower()


def asset_type_of(mime_type: str) -> AssetType:
    """Pictures that cannot be read here (SVG, HEIC) are plain files: nothing could be shown of them."""
    name = essence(mime_type)
    if name in PICTURES:
        return AssetType.IMAGE
    families = {"video": AssetType.VIDEO, "audio": AssetType.AUDIO, "text": AssetType.TEXT}
    return families.get(name.partition("/")[0], AssetType.FILE)


def check_content(file: IO[bytes], *, mime_type: str) -> tuple[int, int] | None:
    """Look whether a file is what `mime_type` says. Returns width and height in pixels if that is a picture of known size.

    Raises WrongContent.
    """
    name = essence(mime_type)
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    if name in PICTURES:
        return _size_of_picture(file, formats=(PICTURES[name],))
    if name in BEGINNINGS:
        if BEGINNINGS[name].match(head) is None:
            raise WrongContent
    elif name.startswith("image/") and (any(each.match(head) for each in _NO_PICTURES) or _is_picture(file)):
        raise WrongContent
    return None


def _is_picture(file: IO[bytes]) -> bool:
    try:
        _size_of_picture(file, formats=PICTURE_FORMATS)
    except WrongContent:
        return False
    return True


def _size_of_picture(file: IO[bytes], *, formats: tuple[str, ...]) -> tuple[int, int] | None:
    file.seek(0)
    try:
        with Image.open(file, formats=formats) as picture:
            return picture.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None  # a picture all right, of more pixels than Pillow likes to talk about
    except MemoryError:
        raise
    except Exception as fault:  # hostile headers raise OSError, SyntaxError, ValueError, struct.error and more
        raise WrongContent from fault
