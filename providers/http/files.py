"""What a file is: media type, kind, ending, and the size of a picture."""

from __future__ import annotations

import io
import re

from PIL import Image

from providers.base import Artifact, OutputType

UNTYPED = "application/octet-stream"

_MIME_TYPE = re.compile(r"[a-z]+/[a-z0-9.+_-]{1,80}")
_EXTENSION = re.compile(r"[a-z0-9]{1,10}")
# Where the ending is not the subtype.
_EXTENSIONS = {
    "image/jpeg": "jpg",
    "image/svg+xml": "svg",
    "video/quicktime": "mov",
    "video/x-matroska": "mkv",
    "audio/mpeg": "mp3",
    "audio/mp4": "m4a",
    "audio/x-wav": "wav",
    "text/plain": "txt",
    "text/markdown": "md",
    "application/gzip": "gz",
    "model/gltf-binary": "glb",
}
_TYPES: dict[str, OutputType] = {"image": "image", "video": "video", "audio": "audio", "text": "text"}
# Not all that Pillow knows: forty formats, some of which nobody has fuzzed.
_PICTURES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "TIFF": "image/tiff",
    "BMP": "image/bmp",
    "AVIF": "image/avif",
}


def make_artifact(
    body: bytes,
    mime_type: str,
    *,
    type: OutputType | None = None,
    width: int | None = None,
    height: int | None = None,
) -> Artifact:
    """An artifact of these bytes. If they are a picture they say themselves what they are; providers get it wrong."""
    picture = _picture(body)
    if picture is not None:
        mime_type, width, height = picture
    elif not _MIME_TYPE.fullmatch(mime_type):
        mime_type = UNTYPED
    kind = type or _TYPES.get(mime_type.partition("/")[0], "file")
    return Artifact(body, mime_type, kind, extension_of(mime_type), width, height)


def extension_of(mime_type: str) -> str:
    """A file name's ending for a media type, without the dot; "bin" when there is none."""
    subtype = mime_type.partition("/")[2]
    return _EXTENSIONS.get(mime_type) or (subtype if _EXTENSION.fullmatch(subtype) else "bin")


def _picture(body: bytes) -> tuple[str, int, int] | None:
    """Media type, width and height in pixels, from the header alone; None for what is no picture."""
    try:
        with Image.open(io.BytesIO(body), formats=tuple(_PICTURES)) as picture:
            width, height = picture.size
            return _PICTURES[str(picture.format)], width, height
    except Exception:  # noqa: BLE001 decoders answer strange bytes with errors of a dozen kinds
        return None
