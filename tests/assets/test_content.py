"""Whether bytes are what they claim to be."""

from __future__ import annotations

from io import BytesIO

import pytest

from assets.content import WrongContent, asset_type_of, check_content
from tests.assets.helpers import picture, with_header_of

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
SAMPLES = {
    "png": picture("PNG"),
    "jpeg": picture("JPEG"),
    "mpo": picture("MPO", save_all=True),
    "webp": picture("WEBP"),
    "gif": picture("GIF"),
    "tiff": picture("TIFF"),
    "bmp": picture("BMP"),
    "avif": picture("AVIF"),
    "pdf": b"%PDF-1.7\n",
    "late pdf": b"\n" * 1019 + b"%PDF-1.7\n",
    "mp4": b"\0\0\0\x20ftypisom\0\0\2\0",
    "webm": b"\x1a\x45\xdf\xa3\x01\0\0\0",
    "wav": b"RIFF\x24\0\0\0WAVEfmt ",
    "mp3": b"\xff\xfb\x90\x64\0",
    "mp3 with a tag": b"ID3\x04\0\0\0",
    "ogg": b"OggS\0\2",
    "heic": HEIC,
    "svg": SVG,
    "aac": b"\xff\xf1\x50\x80",
    "text": b"hello",
    "nothing": b"",
}


def fits(name: str, mime_type: str) -> bool:
    try:
        check_content(BytesIO(SAMPLES[name]), mime_type=mime_type)
    except WrongContent:
        return False
    return True


@pytest.mark.parametrize(
    ("mime_type", "those_that_fit"),
    [
        ("image/png", {"png"}),
        ("Image/PNG; x=y", {"png"}),
        ("image/apng", {"png"}),
        ("image/jpeg", {"jpeg", "mpo"}),
        ("image/jpg", {"jpeg", "mpo"}),
        ("image/webp", {"webp"}),
        ("image/gif", {"gif"}),
        ("image/tiff", {"tiff"}),
        ("image/bmp", {"bmp"}),
        ("image/avif", {"avif"}),
        ("application/pdf", {"pdf", "late pdf"}),
        ("video/mp4", {"mp4"}),
        ("audio/mp4", {"mp4"}),
        ("video/webm", {"webm"}),
        ("audio/webm", {"webm"}),
        ("audio/wav", {"wav"}),
        ("audio/x-wav", {"wav"}),
        ("audio/mpeg", {"mp3", "mp3 with a tag"}),
        ("audio/mp3", {"mp3", "mp3 with a tag"}),
        ("audio/ogg", {"ogg"}),
        ("video/ogg", {"ogg"}),
        # Pictures that cannot be told: anything but what is known to be something else.
        ("image/svg+xml", {"svg", "heic", "text", "nothing", "aac", "mp3", "mp3 with a tag"}),
        ("image/heic", {"svg", "heic", "text", "nothing", "aac", "mp3", "mp3 with a tag"}),
        # Types that cannot be told are taken at their word.
        ("application/octet-stream", set(SAMPLES)),
        ("text/plain", set(SAMPLES)),
        ("video/quicktime", set(SAMPLES)),
    ],
)
def test_bytes_fit_the_declared_type_or_not(mime_type: str, those_that_fit: set[str]) -> None:
    assert {name for name in SAMPLES if fits(name, mime_type)} == those_that_fit


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
def test_a_picture_tells_its_size(format: str) -> None:
    file = BytesIO(picture(format, size=(30, 20)))
    assert check_content(file, mime_type=f"image/{format.lower()}") == (30, 20)
    assert not file.closed


def test_other_files_have_no_size() -> None:
    assert check_content(BytesIO(SAMPLES["mp4"]), mime_type="video/mp4") is None
    assert check_content(BytesIO(SAMPLES["png"]), mime_type="application/octet-stream") is None


def test_a_header_is_enough_and_no_bomb_goes_off() -> None:
    assert check_content(BytesIO(with_header_of(9000, 9000)), mime_type="image/png") == (9000, 9000)
    # More than Pillow opens.
    assert check_content(BytesIO(with_header_of(30_000, 30_000)), mime_type="image/png") is None


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
def test_the_beginning_of_a_header_is_no_picture(format: str) -> None:
    with pytest.raises(WrongContent):
        check_content(BytesIO(picture(format)[:8]), mime_type=f"image/{format.lower()}")


@pytest.mark.parametrize(
    ("mime_type", "asset_type"),
    [
        ("image/PNG;x=y", "image"),
        ("image/svg+xml", "file"),
        ("video/x-anything", "video"),
        ("audio/mpeg", "audio"),
        ("text/html", "text"),
        ("application/pdf", "file"),
        ("imagery/png", "file"),
    ],
)
def test_the_kind_of_an_asset_follows_its_media_type(mime_type: str, asset_type: str) -> None:
    assert asset_type_of(mime_type) == asset_type
