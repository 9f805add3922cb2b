"""Whatever is sent to the routes of assets: no 5xx, every error in the envelope, and nothing left behind by a refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from assets.models import Asset, AssetUpload
from tests.assets.helpers import confirm, files_in, open_upload, picture, put
from tests.conftest import Api
from tests.contract.checks import assert_error, assert_matches, json_of

pytestmark = pytest.mark.django_db
# The fixtures are shared by all examples on purpose: every assertion is about what one request changed.
SHARED = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=150
)
CODES = {
    400: "BAD_REQUEST",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    422: "VALIDATION_ERROR",
}
texts = st.text(st.characters(), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
mime_types = st.sampled_from(
    [
        *(
            "image/png",
            "image/jpeg",
            "image/webp",
            "image/gif",
            "image/tiff",
            "image/bmp",
            "image/avif",
            "image/svg+xml",
        ),
        *("application/pdf", "video/mp4", "audio/mpeg", "text/html; charset=utf-16", "text/plain; charset=nonsense"),
        *('application/x; a="b c"', "x/y"),
    ]
)
# As a WSGI server hands them over: latin-1, without control characters.
header_values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_categories=["Cc"]), max_size=40)
PICTURES = [picture(format, size=(40, 30)) for format in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A picture with some bytes changed, and perhaps its end cut off."""
    body = bytearray(draw(st.sampled_from(PICTURES)))
    for index, value in draw(st.lists(st.tuples(st.integers(0, len(body) - 1), st.integers(0, 255)), max_size=6)):
        body[index] = value
    return bytes(body[: draw(st.integers(1, len(body)) | st.just(len(body)))])


def assert_in_contract(response: Any, success: int, schema: str | None = None) -> None:
    if response.status_code != success:
        assert response.status_code in CODES, response.content
        assert_error(response, response.status_code, CODES[response.status_code])
    elif schema is not None:
        assert_matches(schema, json_of(response))


@SHARED
@given(
    body=st.fixed_dictionaries(
        {},
        optional={
            "filename": texts | values,
            "mime_type": mime_types | texts | values,
            "size_bytes": st.integers(-2, 60_000_000) | values,
            "more": values,
        },
    ).map(lambda body: json.dumps(body).encode())
    | values.map(lambda value: json.dumps(value).encode())
    | st.binary()
)
@example(body=b'{"filename": "\xed\xa0\x80"}')
@example(body=json.dumps({f"key{number}": 1 for number in range(600)}).encode())
def test_whatever_session_is_asked_for_is_answered_in_the_contracts_words(api: Api, body: bytes) -> None:
    before = AssetUpload.objects.count()
    response = api.post("/v1/asset-uploads", body)
    assert_in_contract(response, 201, "AssetUploadSession")
    assert AssetUpload.objects.count() == before + (response.status_code == 201)


@SHARED
@given(body=values, raw=st.none() | st.binary())
def test_whatever_confirmation_is_sent_is_answered_in_the_contracts_words(
    api: Api, body: Any, raw: bytes | None
) -> None:
    session = open_upload(api)
    put(session["upload_url"])
    before = Asset.objects.count()
    response = confirm(api, session["asset_id"], json.dumps(body).encode() if raw is None else raw)
    assert_in_contract(response, 201, "Asset")
    assert Asset.objects.count() == before + (response.status_code == 201)


@SHARED
@given(
    body=damaged() | st.binary(min_size=1, max_size=200),
    filename=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20),
    mime_type=mime_types,
    content_type=st.none() | header_values,
    query=st.none() | header_values,
)
def test_whatever_bytes_come_are_stored_as_they_are_or_refused(
    api: Api,
    store: Path,
    body: bytes,
    filename: str,
    mime_type: str,
    content_type: str | None,
    query: str | None,
) -> None:
    for path in files_in(store):
        path.unlink()
    session = open_upload(api, body, filename=filename, mime_type=mime_type)
    url = session["upload_url"]
    if query is not None:
        url = f"{url.partition('?')[0]}?{quote(query, safe='=&')}"
    sent = mime_type if content_type is None or "charset" in content_type.lower() else content_type
    if "charset" in sent:
        sent = sent.partition(";")[0]  # an unknown one is for the WSGI server's request: tests/runflow/test_envelope.py
    response = put(url, body, sent)
    assert_in_contract(response, 200)
    if response.status_code != 200:
        assert files_in(store) == []
        return
    assert [path.read_bytes() for path in files_in(store)] == [body]
    asset = json_of(confirm(api, session["asset_id"]))
    assert_matches("Asset", asset)
    served = api.client.get(asset["url"])
    assert (b"".join(served), served.headers["Content-Type"]) == (body, mime_type)
    if asset["thumbnail_url"] is not None:
        thumbnail = api.client.get(asset["thumbnail_url"])
        assert_in_contract(thumbnail, 200)
        assert b"".join(thumbnail)


@SHARED
@given(text=texts.filter(lambda text: text not in ("", ".", "..")), query=header_values)
def test_whatever_is_asked_for_is_answered_in_the_contracts_words(api: Api, text: str, query: str) -> None:
    asset_id = quote(text.encode("utf-8", "surrogatepass"), safe="")
    asked = quote(query, safe="=&")
    for path in (f"assets/{asset_id}", f"files/{asset_id}", f"files/{asset_id}/thumbnail"):
        assert_in_contract(api.get(f"/v1/{path}?{asked}"), 200)
    assert_in_contract(put(f"/v1/asset-uploads/{asset_id}?{asked}"), 200)
    assert_in_contract(confirm(api, asset_id), 201)
