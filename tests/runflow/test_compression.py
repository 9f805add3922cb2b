"""Large answers are compressed for whoever can read it; everything else is as it was."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.http import HttpResponse
from django.test import Client

from assets.models import Asset
from assets.services import sign_url
from batches.models import Batch
from idempotency.models import IdempotencyRecord
from models_registry.models import Model
from runflow.lib import compression
from tests.conftest import Api
from tests.factories import make_batch, make_model

pytestmark = pytest.mark.django_db
GZIP = {"Accept-Encoding": "br, gzip;q=0.8"}


@pytest.fixture
def model() -> Model:
    return make_model()


def is_compressed(response: Any) -> bool:
    return bool(response.headers.get("Content-Encoding") == "gzip")


def detail(api: Api, items: int) -> str:
    batch, _ = make_batch(organization=api.organization, items=[{}] * items)
    return f"/v1/batches/{batch.pk}"


def test_a_large_answer_is_compressed_and_says_what_it_depends_on(api: Api) -> None:
    path = detail(api, 100)
    plain, small = api.get(path), api.get(path, **GZIP)
    assert (is_compressed(plain), is_compressed(small)) == (False, True)
    assert gzip.decompress(small.content) == plain.content
    assert len(small.content) < len(plain.content) / 3
    assert int(small.headers["Content-Length"]) == len(small.content)
    for response in (plain, small):
        assert response.headers["Vary"] == "Authorization, Accept-Encoding"
        assert response.headers["Content-Type"] == "application/json"


def test_the_etag_is_the_same_however_the_body_was_sent(api: Api) -> None:
    path = detail(api, 100)
    plain, small = api.get(path), api.get(path, **GZIP)
    assert plain.headers["ETag"] == small.headers["ETag"]
    known = api.get(path, **GZIP, **{"If-None-Match": plain.headers["ETag"]})
    assert (known.status_code, known.content, is_compressed(known)) == (304, b"", False)
    assert known.headers["Vary"] == small.headers["Vary"]


def test_a_small_answer_stays_as_it_is(api: Api) -> None:
    response = api.get(detail(api, 1), **GZIP)
    assert len(response.content) < compression._LEAST
    assert not is_compressed(response)


@pytest.mark.parametrize(
    ("accepts", "is_sent"),
    [
        ("gzip", True),
        ("deflate, gzip;q=1.0, *;q=0.5", True),
        ("gzip;q=0.001", True),
        ("gzip;q=0", False),
        ("br, gzip ; q=0.000, identity", False),
        ("identity", False),
        ("", False),
    ],
)
def test_only_who_accepts_it_gets_it(api: Api, accepts: str, is_sent: bool) -> None:
    response = api.get(detail(api, 100), **{"Accept-Encoding": accepts})
    assert is_compressed(response) == is_sent
    assert response.headers["Vary"] == "Authorization, Accept-Encoding"


def test_errors_are_compressed_too(api: Api, model: Model) -> None:
    response = api.post(f"/v1/models/{model}/batches", {"input": [{"wrong": 1}] * 100}, **GZIP)
    assert (response.status_code, is_compressed(response)) == (422, True)
    body = json.loads(gzip.decompress(response.content))
    assert (body["code"], len(body["errors"])) == ("VALIDATION_ERROR", 100)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("first_accepts", [True, False])
def test_a_stored_answer_is_kept_plain_and_sent_as_the_client_can_read_it(
    api: Api, model: Model, first_accepts: bool
) -> None:
    def post(*, accepts: bool) -> Any:
        body = {"input": [{"text": "a"}] * 100}
        return api.post(f"/v1/models/{model}/batches", body, Idempotency_Key="k", **(GZIP if accepts else {}))

    first, *replays = post(accepts=first_accepts), post(accepts=True), post(accepts=False)
    stored = IdempotencyRecord.objects.get()
    assert "Content-Encoding" not in stored.response_headers
    assert bytes(stored.response_body).startswith(b'{"id":')
    assert [is_compressed(each) for each in (first, *replays)] == [first_accepts, True, False]
    for each in (first, *replays):
        sent = gzip.decompress(each.content) if is_compressed(each) else each.content
        assert sent == bytes(stored.response_body)
    assert Batch.objects.count() == 1


def test_customers_files_are_sent_as_they_are(api: Api) -> None:
    key = default_storage.save("outputs/a.json", ContentFile(b"[" + b"1," * 5000 + b"1]"))
    asset = Asset.objects.create(
        organization=api.organization,
        name="a.json",
        storage_key=key,
        asset_type="file",
        mime_type="application/json",
        size_bytes=10003,
        source_type="run",
    )
    response = Client().get(sign_url(asset_id=asset.pk), headers=GZIP)
    assert (is_compressed(response), response.headers["Content-Length"]) == (False, "10003")
    assert len(response.getvalue()) == 10003
    default_storage.delete(key)


def test_secrets_are_never_compressed(api: Api) -> None:
    """Whoever makes a server compress a secret beside their own words can guess it from the length (BREACH)."""
    response = api.post("/v1/callback-secrets", {"label": "a"}, **GZIP)
    assert (response.status_code, response.is_secret) == (201, True)
    body = HttpResponse(b"a" * 10_000, content_type="application/json")
    assert compression._is_worth_it(body)
    body.is_secret = True  # type: ignore[attr-defined]
    assert not compression._is_worth_it(body)


def test_pages_for_people_are_left_alone(client: Client) -> None:
    response = client.get("/admin/login/", headers=GZIP)
    assert response.status_code == 200
    assert len(response.content) > compression._LEAST
    assert not is_compressed(response)
