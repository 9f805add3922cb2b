"""Thumbnails: made when first asked for, kept, and harmless whatever the picture is."""

from __future__ import annotations

import uuid
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.files.storage import default_storage
from django.test import Client
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from assets import thumbnails
from assets.models import Asset
from assets.services import THUMBNAIL_ROUTE, save_assets, sign_url, store_file
from assets.thumbnails import NotDrawable, draw_thumbnail
from tests.assets.helpers import files_in, picture, upload, with_header_of
from tests.conftest import Api
from tests.contract.checks import assert_error
from tests.factories import make_organization

pytestmark = pytest.mark.django_db


def drawn(body: bytes) -> Image.Image:
    with Image.open(BytesIO(draw_thumbnail(BytesIO(body))), formats=["WEBP"]) as image:
        image.load()
        return image


def make_asset(body: bytes, **overrides: Any) -> Asset:
    values = {"folder": "outputs", "name": "a.png", "mime_type": "image/png", "asset_type": "image"} | overrides
    asset = store_file(organization_id=make_organization().pk, body=body, **values)
    save_assets(assets=[asset])
    return asset


def get(asset_id: uuid.UUID, **headers: str) -> Any:
    return Client().get(sign_url(asset_id=asset_id, route=THUMBNAIL_ROUTE), headers=headers)


def is_close(pixel: Any, wanted: tuple[int, ...]) -> bool:
    return all(abs(value - other) < 12 for value, other in zip(pixel, wanted, strict=True))


# --- The route --------------------------------------------------------------------------------------------------------


def test_the_thumbnail_of_an_upload_is_served_under_its_signed_url(api: Api, store: Path) -> None:
    body = picture(size=(512, 256), color="red")
    asset = upload(api, body, filename="red.png", mime_type="image/png")
    assert len(files_in(store)) == 1
    for _ in range(2):
        response = Client().get(asset["thumbnail_url"])
        content = b"".join(response)
        assert (response.status_code, response.headers["Content-Type"]) == (200, "image/webp")
        assert int(response.headers["Content-Length"]) == len(content)
        assert response.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
        with Image.open(BytesIO(content)) as image:
            assert (image.format, image.size) == ("WEBP", (256, 128))
            assert is_close(image.convert("RGB").getpixel((100, 50)), (255, 0, 0))
        assert len(files_in(store)) == 2


def test_a_thumbnail_is_drawn_once(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = make_asset(picture())
    first = b"".join(get(asset.pk))
    monkeypatch.setattr(thumbnails, "draw_thumbnail", None)
    assert b"".join(get(asset.pk)) == first


def test_a_thumbnail_that_is_gone_is_drawn_again(store: Path) -> None:
    asset = make_asset(picture())
    first = b"".join(get(asset.pk))
    [kept] = [path for path in files_in(store) if path.suffix == ".webp"]
    kept.unlink()
    assert b"".join(get(asset.pk)) == first
    assert kept.read_bytes() == first


def test_of_two_first_requests_at_once_one_file_stays(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = make_asset(picture())
    real = draw_thumbnail

    def drawn_by_another_meanwhile(file: Any) -> bytes:
        monkeypatch.setattr(thumbnails, "draw_thumbnail", real)
        assert get(asset.pk).status_code == 200
        return real(file)

    monkeypatch.setattr(thumbnails, "draw_thumbnail", drawn_by_another_meanwhile)
    response = get(asset.pk)
    assert (response.status_code, b"".join(response)[:4]) == (200, b"RIFF")
    assert [path.name for path in files_in(store) if path.suffix == ".webp"] == [f"{asset.pk.hex}.webp"]


@pytest.mark.parametrize("body", [b"", b"hello", picture()[:40], picture("JPEG", size=(3000, 2000))[:300]])
def test_a_damaged_picture_has_none(body: bytes, store: Path) -> None:
    response = get(make_asset(body).pk)
    assert assert_error(response, 404, "NOT_FOUND") is None
    assert response.json()["message"] == "There is no thumbnail of this file."
    assert len(files_in(store)) == 1


def test_a_missing_row_and_a_missing_file_are_404() -> None:
    assert_error(get(uuid.uuid4()), 404, "NOT_FOUND")
    asset = make_asset(picture())
    default_storage.delete(asset.storage_key)
    response = get(asset.pk)
    assert assert_error(response, 404, "NOT_FOUND") is None
    assert response.json()["message"] == "The file is gone."


def test_the_url_of_the_file_does_not_open_the_thumbnail_nor_the_other_way_round() -> None:
    asset = make_asset(picture())
    file, thumbnail = sign_url(asset_id=asset.pk), sign_url(asset_id=asset.pk, route=THUMBNAIL_ROUTE)
    for path, query in ((file, thumbnail), (thumbnail, file)):
        response = Client().get(f"{path.partition('?')[0]}?{query.partition('?')[2]}")
        assert_error(response, 403, "PERMISSION_DENIED")


def test_the_url_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    asset = make_asset(picture())
    url = sign_url(asset_id=asset.pk, route=THUMBNAIL_ROUTE, now=1000)
    seen = []
    for moment in (1000 + 3600, 1000 + 3601):
        monkeypatch.setattr("assets.services.time", SimpleNamespace(time=lambda moment=moment: moment))
        seen.append(Client().get(url).status_code)
    assert seen == [200, 403]


# --- The drawing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "thumbnail"),
    [
        ((256, 256), (256, 256)),
        ((8, 6), (8, 6)),
        ((1024, 512), (256, 128)),
        ((512, 1024), (128, 256)),
        ((5000, 3), (256, 1)),
    ],
)
def test_it_fits_into_256_pixels_and_is_never_enlarged(size: tuple[int, int], thumbnail: tuple[int, int]) -> None:
    assert drawn(picture(size=size)).size == thumbnail


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
def test_every_format_of_an_asset_has_one(format: str) -> None:
    image = drawn(picture(format, size=(400, 300), color="red"))
    assert image.size == (256, 192)
    assert is_close(image.convert("RGB").getpixel((128, 96)), (255, 0, 0))


@pytest.mark.parametrize(
    ("mode", "color", "seen"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 100, (100, 100, 100)),
        ("P", 0, (0, 0, 0)),
        ("LA", (100, 255), (100, 100, 100)),
        ("I;16", 65_535, (255, 255, 255)),
        ("I;16", 32_768, (127, 127, 127)),
    ],
)
def test_every_mode_of_a_png_is_seen_as_it_is(mode: str, color: Any, seen: tuple[int, int, int]) -> None:
    image = drawn(picture(mode=mode, color=color, size=(300, 300)))
    assert is_close(image.convert("RGB").getpixel((128, 128)), seen)


def test_a_cmyk_jpeg_is_drawn_in_its_colours() -> None:
    image = drawn(picture("JPEG", mode="CMYK", color=(0, 255, 255, 0), size=(300, 300)))
    assert is_close(image.convert("RGB").getpixel((128, 128)), (255, 0, 0))


@pytest.mark.parametrize(
    "body",
    [
        picture(mode="RGBA", color=(255, 0, 0, 0)),
        picture(mode="RGB", color=(1, 2, 3), transparency=(1, 2, 3)),
        picture(mode="L", color=7, transparency=7),
        picture("GIF", mode="P", color=3, transparency=3),
    ],
    ids=["RGBA", "RGB", "L", "P"],
)
def test_what_shows_through_still_does(body: bytes) -> None:
    image = drawn(body)
    assert image.mode == "RGBA"
    assert image.getchannel("A").getextrema() == (0, 0)


def test_it_is_upright_and_says_nothing_of_the_camera() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the top is on the right
    exif[0x010F] = "Camera"
    body = picture("JPEG", size=(400, 200), exif=exif)
    thumbnail = draw_thumbnail(BytesIO(body))
    with Image.open(BytesIO(thumbnail)) as image:
        assert image.size == (128, 256)
    assert b"Camera" not in thumbnail
    assert b"EXIF" not in thumbnail


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("block", [b"MM\0*\xff\xff\xff\xff", b"no exif at all"])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_broken_exif_block_costs_only_the_turn(format: str, block: bytes) -> None:
    assert drawn(picture(format, size=(400, 200), exif=b"Exif\0\0" + block)).size == (256, 128)


def test_of_an_animation_the_first_frame_is_drawn() -> None:
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    with BytesIO() as file:
        frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
        assert is_close(drawn(file.getvalue()).convert("RGB").getpixel((10, 10)), (255, 0, 0))


@pytest.mark.parametrize(
    ("format", "size", "is_drawn"),
    [
        *(("PNG", (10, 10), True), ("PNG", (101, 1), False)),
        *(("JPEG", (20, 10), True), ("MPO", (20, 10), True), ("JPEG", (201, 1), False)),
    ],
)
def test_a_jpeg_may_be_larger_than_the_others(
    format: str, size: tuple[int, int], is_drawn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thumbnails, "MAX_PIXELS", 100)
    monkeypatch.setattr(thumbnails, "MAX_PIXELS_OF_JPEG", 200)
    try:
        draw_thumbnail(BytesIO(picture(format, size=size)))
    except NotDrawable:
        assert not is_drawn
    else:
        assert is_drawn


@pytest.mark.parametrize("size", [(5001, 5000), (30_000, 30_000)])
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = with_header_of(*size)
    monkeypatch.setattr(thumbnails, "_shrunk", lambda picture: pytest.fail("it was about to be decoded"))
    with pytest.raises(NotDrawable):
        draw_thumbnail(BytesIO(bomb))


def test_a_text_bomb_is_refused() -> None:
    info = PngInfo()
    for number in range(80):
        info.add_text(f"key{number}", "x" * 1_000_000, zip=True)
    with pytest.raises(NotDrawable):
        draw_thumbnail(BytesIO(picture(pnginfo=info)))
