"""Signed, expiring URLs of stored files: who may read, what is served, and reading our own URLs without HTTP."""

from __future__ import annotations

import base64
import uuid
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.files.storage import default_storage
from django.test import Client
from PIL import Image
from pytest_django import Settings

from accounts.models import Organization
from assets.models import Asset
from assets.services import asset_id_of_url, discard_files, is_signed, save_assets, sign_url, store_file
from batches import engine
from batches.media import fetch_media
from batches.models import Run
from models_registry.models import Model
from providers.base import FetchError, Media
from runflow.lib import outbound
from tests.conftest import Api
from tests.contract.checks import assert_error
from tests.factories import make_model, make_organization

pytestmark = pytest.mark.django_db
NOW = 1_800_000_000.5
EXPIRED = "This link is not valid or has expired; read the run or the asset again for a new one."


@pytest.fixture
def no_http(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No address is called; returns those that would have been."""
    called: list[str] = []

    def fetch(url: str, **options: Any) -> None:
        called.append(url)
        raise outbound.OutboundError("Not in this test.")

    monkeypatch.setattr(outbound, "fetch", fetch)
    return called


def make_asset(organization: Organization | None = None, **overrides: Any) -> Asset:
    values = {"name": "hello.txt", "body": b"hello", "mime_type": "text/plain", "asset_type": "text"} | overrides
    organization = organization or make_organization()
    asset = store_file(organization_id=organization.pk, folder=f"outputs/{organization.pk}", **values)
    save_assets(assets=[asset])
    return asset


def get(url: str, **headers: str) -> Any:
    return Client(raise_request_exception=False).get(url, headers=headers)


def read(response: Any) -> bytes:
    """The whole body. Reading to its end closes the file; `close()` would close the test's database connection too."""
    return b"".join(response)


# --- Serving ----------------------------------------------------------------------------------------------------------


def test_a_signed_url_serves_the_bytes_to_whoever_has_it() -> None:
    asset = make_asset(name="hello wörld.png", body=b"\x89PNG\0\xff", mime_type="image/png", asset_type="image")
    response = get(sign_url(asset_id=asset.pk), **{"X-Request-Id": "mine"})
    assert (response.status_code, read(response)) == (200, b"\x89PNG\0\xff")
    expected = {
        "Content-Type": "image/png",
        "Content-Length": "6",
        "Content-Disposition": "inline; filename*=utf-8''hello%20w%C3%B6rld.png",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cache-Control": "private, max-age=300",
        "X-Request-Id": "mine",
    }
    assert {name: response.headers[name] for name in expected} == expected
    assert "Set-Cookie" not in response.headers


def test_a_page_of_a_customer_is_served_but_cannot_act() -> None:
    asset = make_asset(
        name='"evil\r\n.html', body=b"<script>alert(1)</script>", mime_type="text/html", asset_type="file"
    )
    response = get(sign_url(asset_id=asset.pk))
    read(response)
    assert response.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "\n" not in response.headers["Content-Disposition"]


def test_head_tells_the_size() -> None:
    asset = make_asset()
    response = Client().head(sign_url(asset_id=asset.pk))
    assert (response.status_code, response.headers["Content-Length"], read(response)) == (200, "5", b"")


def test_url_is_absolute_and_lives_as_long_as_the_setting_says(settings: Settings) -> None:
    settings.PUBLIC_BASE_URL = "https://runflow.example"
    asset_id = uuid.uuid4()
    url = sign_url(asset_id=asset_id, now=NOW)
    start, _, signature = url.partition("&signature=")
    assert start == f"https://runflow.example/v1/files/{asset_id}?expires=1800003600"
    assert len(signature) == 64


def test_url_reads_until_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    asset = make_asset()
    url = sign_url(asset_id=asset.pk, now=NOW)
    seen = []
    for moment in (NOW, NOW + 3599, NOW + 3600, NOW + 10**6):
        monkeypatch.setattr("assets.services.time", SimpleNamespace(time=lambda moment=moment: moment))
        response = get(url)
        seen.append(response.status_code)
        read(response)
    assert seen == [200, 200, 403, 403]


def forged(asset: Asset, url: str) -> dict[str, str]:
    base, _, query = url.partition("?")
    expires, signature = (part.partition("=")[2] for part in query.split("&"))
    other = str(make_asset().pk)
    return {
        "no query": base,
        "no signature": f"{base}?expires={expires}",
        "no expires": f"{base}?signature={signature}",
        "empty": f"{base}?expires=&signature=",
        "later": f"{base}?expires={int(expires) + 1}&signature={signature}",
        "forever": f"{base}?expires=999999999999&signature={signature}",
        "beyond": f"{base}?expires={'9' * 5000}&signature={signature}",
        "negative": f"{base}?expires=-1&signature={signature}",
        "spelt otherwise": f"{base}?expires=0{expires}&signature={signature[::-1]}",
        "digits of another script": f"{base}?expires=%D9%A3&signature={signature}",
        "shortened": f"{base}?expires={expires}&signature={signature[:-1]}",
        "upper case": f"{base}?expires={expires}&signature={signature.upper()}",
        "flipped": f"{base}?expires={expires}&signature={signature[:-1]}{'0' if signature[-1] != '0' else '1'}",
        "no text": f"{base}?expires={expires}&signature=%FF%00%ED%A0%80",
        "other asset": url.replace(str(asset.pk), other),
        "no asset": url.replace(str(asset.pk), str(uuid.uuid4())),
        "other key": url.replace(signature, "0" * 64),
    }


def test_forged_urls_are_403_whether_the_asset_exists_or_not() -> None:
    asset = make_asset()
    for name, url in forged(asset, sign_url(asset_id=asset.pk)).items():
        response = get(url)
        assert response.status_code == 403, name
        assert assert_error(response, 403, "PERMISSION_DENIED") is None
        assert response.json()["message"] == EXPIRED


def test_a_change_of_the_servers_secret_ends_all_urls(settings: Settings) -> None:
    url = sign_url(asset_id=make_asset().pk)
    settings.SECRET_KEY = "y" * 50
    assert_error(get(url), 403, "PERMISSION_DENIED")


def test_a_key_is_no_substitute_for_a_signature(api: Api) -> None:
    asset = make_asset(api.organization)
    assert_error(api.get(f"/v1/files/{asset.pk}"), 403, "PERMISSION_DENIED")


def test_missing_row_and_missing_file_are_404() -> None:
    assert_error(get(sign_url(asset_id=uuid.uuid4())), 404, "NOT_FOUND")
    asset = make_asset()
    default_storage.delete(asset.storage_key)
    response = get(sign_url(asset_id=asset.pk))
    assert assert_error(response, 404, "NOT_FOUND") is None
    assert response.json()["message"] == "The file is gone."


# --- The store --------------------------------------------------------------------------------------------------------


def test_a_file_is_stored_under_its_organization_and_never_over_another(store: Path) -> None:
    organization = make_organization()
    one, two = make_asset(organization), make_asset(organization, body=b"other")
    assert one.storage_key != two.storage_key
    assert {one.storage_key.split("/")[1], two.storage_key.split("/")[1]} == {str(organization.pk)}
    assert [(store / asset.storage_key).read_bytes() for asset in (one, two)] == [b"hello", b"other"]
    assert (one.size_bytes, one.mime_type, one.asset_type, one.width) == (5, "text/plain", "text", None)


def test_discarding_removes_files_and_may_be_done_twice(store: Path) -> None:
    asset = make_asset()
    discard_files(assets=[asset])
    discard_files(assets=[asset])
    assert not (store / asset.storage_key).exists()


# --- Our URLs as inputs -----------------------------------------------------------------------------------------------


def test_own_asset_is_read_without_http_by_its_address_and_by_its_signed_url(api: Api, no_http: list[str]) -> None:
    asset = make_asset(api.organization)
    for url in (f"runflow://assets/{asset.pk}", sign_url(asset_id=asset.pk)):
        assert fetch_media(url, organization_id=api.organization.pk) == Media(b"hello", "text/plain")
    assert no_http == []


def test_another_organizations_asset_is_missing_and_is_not_fetched_either(api: Api, no_http: list[str]) -> None:
    theirs = make_asset()
    for url in (f"runflow://assets/{theirs.pk}", sign_url(asset_id=theirs.pk)):
        with pytest.raises(FetchError, match=r"^There is no such asset\.$") as refused:
            fetch_media(url, organization_id=api.organization.pk)
        assert not refused.value.is_retryable
    assert no_http == []


def test_an_asset_whose_file_is_gone_is_missing(api: Api, no_http: list[str]) -> None:
    asset = make_asset(api.organization)
    default_storage.delete(asset.storage_key)
    with pytest.raises(FetchError, match=r"^The file of this asset is gone\.$"):
        fetch_media(f"runflow://assets/{asset.pk}", organization_id=api.organization.pk)
    assert no_http == []


def test_an_asset_address_that_is_none_is_refused_without_http(api: Api, no_http: list[str]) -> None:
    for url in ("runflow://assets/", "runflow://assets/x", "runflow://assets/../x"):
        with pytest.raises(FetchError, match="This is no asset address"):
            fetch_media(url, organization_id=api.organization.pk)
    assert no_http == []


def test_urls_that_are_not_ours_or_not_good_any_more_name_no_asset(settings: Settings) -> None:
    asset = make_asset()
    good = sign_url(asset_id=asset.pk)
    assert asset_id_of_url(good) == asset.pk
    bad = forged(asset, good)
    # What the signature covers for no row is still a signed URL of ours.
    assert {name: asset_id_of_url(url) for name, url in bad.items()} == dict.fromkeys(bad)
    others = [
        good.replace("/v1/files/", "/v1/runs/"),
        good.replace(settings.PUBLIC_BASE_URL, "https://evil.example"),
        good.replace(settings.PUBLIC_BASE_URL, settings.PUBLIC_BASE_URL + ".evil.example"),
        sign_url(asset_id=asset.pk, now=0),
        "",
        "x",
        "http://[",
    ]
    assert [asset_id_of_url(url) for url in others] == [None] * len(others)


def test_a_signature_is_of_one_asset_and_one_time() -> None:
    one, other = uuid.uuid4(), uuid.uuid4()
    query = dict(part.split("=") for part in sign_url(asset_id=one).partition("?")[2].split("&"))
    assert is_signed(asset_id=one, **query)
    assert not is_signed(asset_id=other, **query)
    assert not is_signed(asset_id=one, **query | {"expires": str(int(query["expires"]) + 1)})


def png(color: str) -> bytes:
    with BytesIO() as file:
        Image.new("RGB", (8, 8), color).save(file, "PNG")
        return file.getvalue()


def make_resize() -> Model:
    return make_model(
        inputs=[
            {"name": "image", "variable_type_code": "image"},
            {"name": "aspect_ratio", "variable_type_code": "string"},
            {"name": "resolution", "variable_type_code": "string"},
        ],
        function="smart_resize",
    )


def resize(api: Api, model: Model, image: str) -> dict[str, Any]:
    """The run of a batch with this one image."""
    item = {"image": image, "aspect_ratio": "1:1", "resolution": "1K"}
    created = api.post(f"/v1/models/{model}/batches", {"input": [item]})
    assert created.status_code == 201, created.content
    run_id = created.json()["items"][0]["run_id"]
    engine.execute(provider_id=Run.objects.get(pk=run_id).provider_id)
    run: dict[str, Any] = api.get(f"/v1/runs/{run_id}").json()
    return run


def test_the_output_of_one_batch_is_the_input_of_the_next(api: Api, no_http: list[str]) -> None:
    model = make_resize()
    first = resize(api, model, "data:image/png;base64," + base64.b64encode(png("red")).decode())
    assert first["status_code"] == "succeeded"
    second = resize(api, model, first["output"]["outputs"][0]["url"])
    assert (second["status_code"], second["output"]["outputs"][0]["width"]) == ("succeeded", 1024)
    assert no_http == []


def test_the_output_of_somebody_else_is_not(api: Api, no_http: list[str]) -> None:
    theirs = make_asset(body=png("red"), name="red.png", mime_type="image/png", asset_type="image")
    run = resize(api, make_resize(), sign_url(asset_id=theirs.pk))
    assert (run["status_code"], run["failure_code"], run["failure_stage_code"], run["failure_message"]) == (
        "failed",
        "INPUT_FETCH_FAILED",
        "preprocess",
        "There is no such asset.",
    )
    assert no_http == []
    assert Asset.objects.count() == 1
