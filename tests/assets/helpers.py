"""Pictures, sessions and PUTs for the tests of uploads."""

from __future__ import annotations

import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

from django.test import Client
from PIL import Image

from tests.conftest import Api

TEXT = b"hello"


def picture(format: str = "PNG", size: tuple[int, int] = (8, 6), mode: str = "RGB", **options: Any) -> bytes:
    with BytesIO() as file:
        Image.new(mode, size, options.pop("color", 0)).save(file, format, **options)
        return file.getvalue()


def with_header_of(width: int, height: int) -> bytes:
    """A PNG that says it is that large; its pixels are those of a small one."""
    body = picture()
    header = b"IHDR" + width.to_bytes(4) + height.to_bytes(4) + body[24:29]
    return body[:12] + header + zlib.crc32(header).to_bytes(4) + body[33:]


def open_upload(
    api: Api, body: bytes = TEXT, *, filename: str = "hello.txt", mime_type: str = "text/plain", **headers: str
) -> dict[str, str]:
    """A session for these bytes: asset_id and upload_url."""
    session = {"filename": filename, "mime_type": mime_type, "size_bytes": len(body)}
    response = api.post("/v1/asset-uploads", session, **headers)
    assert response.status_code == 201, response.content
    answer: dict[str, str] = response.json()
    return answer


def put(url: str, body: bytes = TEXT, content_type: str = "text/plain", **extra: Any) -> Any:
    """PUT without a key, as the contract says."""
    # Said here as well: Django's client leaves the header out where the body is empty.
    header = {"CONTENT_TYPE": content_type}
    return Client(raise_request_exception=False).generic("PUT", url, body, **header | extra)


def confirm(api: Api, asset_id: str, body: Any = None, **headers: str) -> Any:
    return api.post(f"/v1/asset-uploads/{asset_id}/confirmations", {} if body is None else body, **headers)


def upload(
    api: Api, body: bytes = TEXT, *, filename: str = "hello.txt", mime_type: str = "text/plain"
) -> dict[str, Any]:
    """The asset, uploaded and confirmed."""
    session = open_upload(api, body, filename=filename, mime_type=mime_type)
    assert put(session["upload_url"], body, mime_type).status_code == 200
    response = confirm(api, session["asset_id"])
    assert response.status_code == 201, response.content
    asset: dict[str, Any] = response.json()
    return asset


def files_in(store: Path) -> list[Path]:
    return sorted(path for path in store.rglob("*") if path.is_file())
