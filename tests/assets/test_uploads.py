"""Uploads: session, PUT, confirmation (contract.md section 8)."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks

from assets.models import Asset, AssetUpload
from assets.services import AssetMissing, read_asset, save_assets, sign_url, store_file
from assets.uploads import MAX_BYTES, UploadRequest, confirm_upload, create_upload, purge_abandoned
from batches import engine
from batches.models import Run
from idempotency.models import IdempotencyRecord
from runflow.lib import errors
from tests.assets.helpers import TEXT, confirm, files_in, open_upload, picture, put, upload
from tests.conftest import Api
from tests.contract.checks import assert_error, assert_matches, faults_of, json_of
from tests.factories import make_model, make_organization
from tests.threads import InThread, lock_waiters, wait_until

pytestmark = pytest.mark.django_db

SESSION: dict[str, Any] = {"filename": "hello.txt", "mime_type": "text/plain", "size_bytes": 5}


# --- The session ------------------------------------------------------------------------------------------------------


def test_a_session_is_an_id_and_a_url_of_ours(api: Api) -> None:
    response = api.post("/v1/asset-uploads", SESSION)
    assert response.status_code == 201
    assert_matches("AssetUploadSession", json_of(response))
    row = AssetUpload.objects.get()
    session = response.json()
    assert set(session) == {"asset_id", "upload_url"}
    assert session["asset_id"] == str(row.pk)
    assert session["upload_url"].startswith(f"http://127.0.0.1:8000/v1/asset-uploads/{row.pk}?expires=")
    assert row.pk.version == 7
    assert (row.organization, row.created_by) == (api.organization, api.caller.api_key)
    assert (row.name, row.mime_type, row.size_bytes, row.storage_key) == ("hello.txt", "text/plain", 5, None)


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ({"filename": None}, [(["body", "filename"], "missing")]),
        ({"filename": 1}, [(["body", "filename"], "wrong_type")]),
        ({"filename": ""}, [(["body", "filename"], "too_short")]),
        ({"filename": "x" * 501}, [(["body", "filename"], "too_long")]),
        ({"filename": "a\0"}, [(["body", "filename"], "not_storable")]),
        ({"filename": "a\ud800"}, [(["body", "filename"], "not_storable")]),
        ({"mime_type": None}, [(["body", "mime_type"], "missing")]),
        ({"mime_type": ["image/png"]}, [(["body", "mime_type"], "wrong_type")]),
        ({"mime_type": ""}, [(["body", "mime_type"], "too_short")]),
        ({"mime_type": "x/" + "x" * 254}, [(["body", "mime_type"], "too_long")]),
        ({"mime_type": "text"}, [(["body", "mime_type"], "bad_pattern")]),
        ({"mime_type": "text/"}, [(["body", "mime_type"], "bad_pattern")]),
        ({"mime_type": " text/plain"}, [(["body", "mime_type"], "bad_pattern")]),
        ({"mime_type": "text/plain\r\nX-Evil: 1"}, [(["body", "mime_type"], "bad_pattern")]),
        ({"mime_type": "text/plain\n"}, [(["body", "mime_type"], "bad_pattern")]),
        ({"mime_type": "text/größe"}, [(["body", "mime_type"], "bad_pattern")]),
        ({"mime_type": "text/plain; charset"}, [(["body", "mime_type"], "bad_pattern")]),
        ({"size_bytes": None}, [(["body", "size_bytes"], "missing")]),
        ({"size_bytes": "5"}, [(["body", "size_bytes"], "wrong_type")]),
        ({"size_bytes": True}, [(["body", "size_bytes"], "wrong_type")]),
        ({"size_bytes": 5.5}, [(["body", "size_bytes"], "wrong_type")]),
        ({"size_bytes": 0}, [(["body", "size_bytes"], "out_of_range")]),
        ({"size_bytes": -1}, [(["body", "size_bytes"], "out_of_range")]),
        ({"size_bytes": MAX_BYTES + 1}, [(["body", "size_bytes"], "out_of_range")]),
        ({"size_bytes": 10**400}, [(["body", "size_bytes"], "out_of_range")]),
        ({"size_bytes": 1e300}, [(["body", "size_bytes"], "out_of_range")]),
        ({"folder_id": None}, [(["body", "folder_id"], "unknown_input")]),
        (
            {"filename": None, "mime_type": "x", "size_bytes": 0, "more": 1},
            [
                (["body", "filename"], "missing"),
                (["body", "mime_type"], "bad_pattern"),
                (["body", "size_bytes"], "out_of_range"),
                (["body", "more"], "unknown_input"),
            ],
        ),
    ],
)
def test_all_faults_of_a_session_come_at_once(api: Api, changes: dict[str, Any], faults: list[Any]) -> None:
    response = api.post("/v1/asset-uploads", SESSION | changes)
    assert faults_of(assert_error(response, 422, "VALIDATION_ERROR")) == faults
    assert AssetUpload.objects.count() == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"filename": "x" * 500},
        {"filename": "../../etc/passwd"},
        {"filename": "größe\r\n✓.txt"},
        {"mime_type": "x/" + "x" * 253},
        {"mime_type": "IMAGE/PNG"},
        {"mime_type": "application/vnd.openxmlformats-officedocument.wordprocessingml.document"},
        {"mime_type": 'text/plain; charset=utf-8;title="a b"'},
        {"size_bytes": 1},
        {"size_bytes": MAX_BYTES},
        {"size_bytes": 5.0},
    ],
)
def test_the_longest_the_largest_and_the_oddest_is_taken(api: Api, changes: dict[str, Any]) -> None:
    assert api.post("/v1/asset-uploads", SESSION | changes).status_code == 201


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'"x"', b"{"])
def test_a_session_without_an_object_is_400(api: Api, body: bytes) -> None:
    assert assert_error(api.post("/v1/asset-uploads", body), 400, "BAD_REQUEST") is None
    assert AssetUpload.objects.count() == 0


# --- The whole way ----------------------------------------------------------------------------------------------------


def test_a_picture_is_uploaded_confirmed_read_and_worked_on(api: Api, store: Path) -> None:
    body = picture(size=(80, 60), color="red")
    session = open_upload(api, body, filename="größe \r\n.png", mime_type="image/png")
    response = put(session["upload_url"], body, "image/png")
    assert (response.status_code, json_of(response)) == (
        200,
        {"asset_id": session["asset_id"], "size_bytes": len(body)},
    )
    folder_id = str(uuid.uuid4())
    confirmed = confirm(api, session["asset_id"], {"folder_id": folder_id})
    assert confirmed.status_code == 201
    asset = Asset.objects.get()
    created_at = asset.created_at.isoformat()
    expected = {
        "id": session["asset_id"],
        "org_id": str(api.organization.pk),
        "folder_id": folder_id,
        "name": "größe \r\n.png",
        "r2_key": None,
        "url": sign_url(asset_id=asset.pk),
        "thumbnail_url": sign_url(asset_id=asset.pk, route="thumbnail"),
        "mime_type": "image/png",
        "size_bytes": len(body),
        "asset_type": "image",
        "source_type": "upload",
        "source_id": None,
        "created_by": str(api.caller.api_key.pk),
        "created_at": created_at,
        "updated_at": created_at,
        "deleted_at": None,
        "deleted_by": None,
        "created_by_user": None,
    }
    answers = [confirmed, api.get(f"/v1/assets/{session['asset_id']}")]
    assert answers[1].status_code == 200
    for answer in answers:
        assert_matches("Asset", json_of(answer))
        assert unsigned(answer.json()) == unsigned(expected)
    assert (asset.width, asset.height, AssetUpload.objects.count()) == (80, 60, 0)
    assert [path.read_bytes() for path in files_in(store)] == [body]
    served = Client().get(answers[1].json()["url"])
    assert (b"".join(served), served.headers["Content-Type"]) == (body, "image/png")

    model = make_model(inputs=[{"name": "image", "variable_type_code": "image"}], function="smart_resize")
    item = {"image": f"runflow://assets/{asset.pk}"}
    created = api.post(f"/v1/models/{model}/batches", {"input": [item]})
    run_id = created.json()["items"][0]["run_id"]
    engine.execute(provider_id=Run.objects.get(pk=run_id).provider_id)
    run = api.get(f"/v1/runs/{run_id}").json()
    assert (run["status_code"], run["failure_message"], run["input"]) == ("succeeded", None, item)


def unsigned(asset: dict[str, Any]) -> dict[str, Any]:
    """An asset's body without what changes from second to second."""
    cut = {name: asset[name] and asset[name].partition("?")[0] for name in ("url", "thumbnail_url")}
    return asset | cut


@pytest.mark.parametrize(
    ("mime_type", "asset_type"),
    [
        ("text/csv; charset=utf-8", "text"),
        ("application/octet-stream", "file"),
        ("video/quicktime", "video"),
        ("audio/flac", "audio"),
        ("image/svg+xml", "file"),
        ("IMAGE/X-Whatever", "file"),
    ],
)
def test_other_files_have_their_type_and_no_thumbnail(api: Api, mime_type: str, asset_type: str) -> None:
    asset = upload(api, b"<svg/>", mime_type=mime_type)
    assert (asset["mime_type"], asset["asset_type"], asset["thumbnail_url"]) == (mime_type, asset_type, None)


def test_an_output_is_an_asset_too(api: Api) -> None:
    output = store_file(
        organization_id=api.organization.pk,
        folder="outputs",
        name="a.txt",
        body=TEXT,
        mime_type="text/plain",
        asset_type="text",
    )
    save_assets(assets=[output])
    body = api.get(f"/v1/assets/{output.pk}").json()
    assert_matches("Asset", body)
    assert (body["source_type"], body["created_by"], body["size_bytes"]) == ("run", None, 5)
    assert_error(confirm(api, str(output.pk)), 404, "NOT_FOUND")


@pytest.mark.parametrize("asset_id", ["x", "%00", "{}", str(uuid.UUID(int=7)), uuid.uuid4().hex])
def test_what_there_is_not_is_404(api: Api, asset_id: str) -> None:
    for response in (api.get(f"/v1/assets/{asset_id}"), confirm(api, asset_id)):
        assert assert_error(response, 404, "NOT_FOUND") is None
        assert response.json()["message"] == "There is no such asset."


# --- The bytes --------------------------------------------------------------------------------------------------------


class Stream:
    """A body of zeros that is never in memory as a whole. `during` is called once, before the second chunk."""

    def __init__(self, size: int, during: Callable[[], Any] | None = None) -> None:
        self.left, self.largest, self.chunks, self.during = size, 0, 0, during

    def read(self, size: int) -> bytes:
        self.largest = max(self.largest, size)
        self.chunks += 1
        if self.chunks == 2 and self.during is not None:
            self.during()
        given = min(size, self.left)
        self.left -= given
        return b"\0" * given

    def readline(self, size: int) -> bytes:
        raise NotImplementedError


def put_stream(url: str, stream: Any, length: int, content_type: str = "application/octet-stream") -> Any:
    return put(url, b"", content_type, CONTENT_LENGTH=str(length), **{"wsgi.input": stream})


def open_binary(api: Api, size: int) -> dict[str, str]:
    session = {"filename": "a.bin", "mime_type": "application/octet-stream", "size_bytes": size}
    answer: dict[str, str] = api.post("/v1/asset-uploads", session).json()
    return answer


def test_the_largest_body_is_stored_without_being_held_in_memory(api: Api, store: Path) -> None:
    session, stream = open_binary(api, MAX_BYTES), Stream(MAX_BYTES)
    assert put_stream(session["upload_url"], stream, MAX_BYTES).status_code == 200
    assert (stream.left, stream.largest) == (0, 64 * 1024)
    [path] = files_in(store)
    assert path.stat().st_size == MAX_BYTES


def test_a_larger_body_than_any_may_be_is_not_even_read(api: Api, store: Path) -> None:
    session, stream = open_binary(api, MAX_BYTES), Stream(MAX_BYTES + 1)
    assert_error(put_stream(session["upload_url"], stream, MAX_BYTES + 1), 413, "PAYLOAD_TOO_LARGE")
    assert (stream.chunks, files_in(store)) == (0, [])


def test_only_the_route_of_the_bytes_takes_more_than_others(api: Api) -> None:
    for path in ("/v1/asset-uploads", f"/v1/asset-uploads/{uuid.uuid4()}/confirmations", "/v1/nothing"):
        stream = Stream(11 * 1024 * 1024)
        length = {"CONTENT_LENGTH": str(stream.left), "CONTENT_TYPE": "application/json", "wsgi.input": stream}
        response = api.client.generic("POST", path, b"", headers=api.headers(), **length)  # type: ignore[arg-type]
        assert_error(response, 413, "PAYLOAD_TOO_LARGE")
        assert stream.chunks == 0


@pytest.mark.parametrize("content_type", ["text/plain", "TEXT/Plain; charset=utf-8", "text/plain;x=1"])
def test_the_type_is_compared_without_its_parameters(api: Api, content_type: str) -> None:
    session = open_upload(api, mime_type="Text/plain; charset=latin-1")
    assert put(session["upload_url"], TEXT, content_type).status_code == 200


@pytest.mark.parametrize("content_type", ["", "text/html", "application/json", "text", ", text/plain"])
def test_another_content_type_is_415(api: Api, store: Path, content_type: str) -> None:
    session = open_upload(api)
    response = put(session["upload_url"], TEXT, content_type)
    assert assert_error(response, 415, "UNSUPPORTED_MEDIA_TYPE") is None
    assert response.json()["message"] == "The Content-Type must be the declared one, text/plain."
    assert_untouched(session, store)


def assert_untouched(session: dict[str, str], store: Path) -> None:
    """The session is as before any PUT, and there is no file."""
    row = AssetUpload.objects.get(pk=session["asset_id"])
    assert (row.storage_key, files_in(store)) == (None, [])


@pytest.mark.parametrize("body", [b"", b"hell"])
def test_too_few_bytes_are_422(api: Api, store: Path, body: bytes) -> None:
    session = open_upload(api)
    [fault] = assert_error(put(session["upload_url"], body), 422, "VALIDATION_ERROR")
    msg = f"Must have the declared 5 bytes, not {len(body)}."
    assert fault == {"loc": ["body"], "msg": msg, "type": "wrong_size"}
    assert_untouched(session, store)


def test_too_many_bytes_are_413(api: Api, store: Path) -> None:
    session = open_upload(api)
    assert assert_error(put(session["upload_url"], b"hello!"), 413, "PAYLOAD_TOO_LARGE") is None
    assert_untouched(session, store)


def test_a_body_that_breaks_off_is_400(api: Api, store: Path) -> None:
    def gone() -> None:
        raise OSError("connection reset")

    size = 200_000
    session = open_binary(api, size)
    response = put_stream(session["upload_url"], Stream(size, gone), size)
    assert assert_error(response, 400, "BAD_REQUEST") is None
    assert_untouched(session, store)


def test_a_body_that_ends_before_its_announced_length_is_422(api: Api, store: Path) -> None:
    session = open_binary(api, 200_000)
    response = put_stream(session["upload_url"], Stream(100_000), 200_000)
    assert faults_of(assert_error(response, 422, "VALIDATION_ERROR")) == [(["body"], "wrong_size")]
    assert_untouched(session, store)


def test_bytes_of_another_type_are_422_and_those_before_stay(api: Api, store: Path) -> None:
    body, jpeg = picture(), picture("JPEG")
    body += b"\0" * (len(jpeg) - len(body))
    session = open_upload(api, body, mime_type="image/png")
    assert put(session["upload_url"], body, "image/png").status_code == 200
    [fault] = assert_error(put(session["upload_url"], jpeg, "image/png"), 422, "VALIDATION_ERROR")
    assert fault == {"loc": ["body"], "msg": "These bytes are not image/png.", "type": "wrong_content"}
    assert [path.read_bytes() for path in files_in(store)] == [body]
    assert confirm(api, session["asset_id"]).status_code == 201


def test_a_second_put_replaces_the_first(
    api: Api, store: Path, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    session = open_upload(api)
    for body in (b"first", b"later"):
        with django_capture_on_commit_callbacks(execute=True):
            assert put(session["upload_url"], body).status_code == 200
    assert [path.read_bytes() for path in files_in(store)] == [b"later"]
    confirm(api, session["asset_id"])
    asset_id = uuid.UUID(session["asset_id"])
    assert read_asset(asset_id=asset_id, organization_id=api.organization.pk) == (b"later", "text/plain")


def test_after_the_confirmation_a_put_is_409(api: Api, store: Path) -> None:
    session = open_upload(api)
    put(session["upload_url"])
    confirm(api, session["asset_id"])
    [fault] = assert_error(put(session["upload_url"], b"other"), 409, "CONFLICT")
    assert (fault["loc"], fault["type"]) == (["path", "asset_id"], "already_confirmed")
    assert [path.read_bytes() for path in files_in(store)] == [TEXT]


def test_without_a_session_a_put_is_404(api: Api, store: Path) -> None:
    session = open_upload(api)
    AssetUpload.objects.all().delete()
    assert_error(put(session["upload_url"]), 404, "NOT_FOUND")
    assert files_in(store) == []


def test_a_confirmation_while_the_bytes_come_wins_and_their_file_goes(api: Api, store: Path) -> None:
    size = 200_000
    session = open_binary(api, size)
    assert put_stream(session["upload_url"], Stream(size), size).status_code == 200
    during = Stream(size, lambda: confirm(api, session["asset_id"]))
    assert_error(put_stream(session["upload_url"], during, size), 409, "CONFLICT")
    asset = Asset.objects.get()
    assert [path.relative_to(store) for path in files_in(store)] == [Path(asset.storage_key)]


def test_a_purge_while_the_bytes_come_wins_and_their_file_goes(api: Api, store: Path) -> None:
    size = 200_000
    session = open_binary(api, size)
    AssetUpload.objects.update(created_at=timezone.now() - timedelta(days=2))
    during = Stream(size, purge_abandoned)
    assert_error(put_stream(session["upload_url"], during, size), 404, "NOT_FOUND")
    assert (files_in(store), AssetUpload.objects.count()) == ([], 0)


def test_of_two_puts_at_once_the_last_to_end_is_kept_whole(
    api: Api, store: Path, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    size = 200_000
    session = open_binary(api, size)
    url = session["upload_url"]
    with django_capture_on_commit_callbacks(execute=True):
        slow = Stream(size, lambda: put(url, b"\1" * size, "application/octet-stream"))
        assert put_stream(url, slow, size).status_code == 200
    assert [path.read_bytes() for path in files_in(store)] == [b"\0" * size]
    assert Path(AssetUpload.objects.get().storage_key or "") == files_in(store)[0].relative_to(store)


def test_the_url_of_a_put_opens_nothing_else_and_nothing_else_opens_a_put(api: Api, store: Path) -> None:
    session = open_upload(api)
    asset_id = uuid.UUID(session["asset_id"])
    query = session["upload_url"].partition("?")[2]
    other = open_upload(api)["upload_url"].partition("?")[0]
    put(session["upload_url"])
    for method, url in [
        ("GET", f"/v1/files/{asset_id}?{query}"),
        ("GET", f"/v1/files/{asset_id}/thumbnail?{query}"),
        ("PUT", sign_url(asset_id=asset_id).replace("/files/", "/asset-uploads/")),
        ("PUT", session["upload_url"].partition("?")[0]),
        ("PUT", f"{other}?{query}"),
        ("PUT", session["upload_url"][:-1]),
    ]:
        response = Client().generic(method, url, b"other", content_type="text/plain")
        assert assert_error(response, 403, "PERMISSION_DENIED") is None
        assert response.json()["message"].startswith("This link is not valid or has expired; ")
    assert [path.read_bytes() for path in files_in(store)] == [TEXT]


def test_the_url_of_a_put_expires(api: Api, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_upload(api)
    expires = int(session["upload_url"].split("expires=")[1].partition("&")[0])
    seen = []
    for moment in (expires, expires + 0.1):
        monkeypatch.setattr("assets.services.time", SimpleNamespace(time=lambda moment=moment: moment))
        seen.append(put(session["upload_url"]).status_code)
    assert seen == [200, 403]


def test_a_put_with_both_keys_happens_once_and_has_the_limit_of_other_requests(api: Api, store: Path) -> None:
    headers = api.headers(**{"Idempotency-Key": "k"})
    session = open_upload(api)
    answers = [put(session["upload_url"], headers=headers) for _ in range(2)]
    assert [(answer.status_code, answer.headers.get("Idempotent-Replayed")) for answer in answers] == [
        (200, None),
        (200, "true"),
    ]
    assert [path.read_bytes() for path in files_in(store)] == [TEXT]
    body = b"x" * (10 * 1024 * 1024 + 1)
    session = open_upload(api, body)
    response = put(session["upload_url"], body, headers=api.headers(**{"Idempotency-Key": "l"}))
    assert_error(response, 413, "PAYLOAD_TOO_LARGE")
    assert len(files_in(store)) == 1


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
def test_only_put_is_answered_there(api: Api, method: str) -> None:
    session = open_upload(api)
    response = Client().generic(method, session["upload_url"], TEXT, content_type="text/plain")
    assert_error(response, 405, "METHOD_NOT_ALLOWED")


# --- The confirmation -------------------------------------------------------------------------------------------------


def test_without_bytes_nothing_is_confirmed(api: Api) -> None:
    session = open_upload(api)
    [fault] = assert_error(confirm(api, session["asset_id"]), 422, "VALIDATION_ERROR")
    msg = "There are no bytes yet: PUT them to upload_url first."
    assert fault == {"loc": ["path", "asset_id"], "msg": msg, "type": "missing"}
    assert (AssetUpload.objects.count(), Asset.objects.count()) == (1, 0)


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ({"folder_id": 1}, [(["body", "folder_id"], "wrong_type")]),
        ({"folder_id": "x"}, [(["body", "folder_id"], "bad_pattern")]),
        ({"folder_id": "\ud800"}, [(["body", "folder_id"], "bad_pattern")]),
        ({"folder_id": "x", "more": 1}, [(["body", "folder_id"], "bad_pattern"), (["body", "more"], "unknown_input")]),
    ],
)
def test_all_faults_of_a_confirmation_come_at_once(api: Api, body: dict[str, Any], faults: list[Any]) -> None:
    session = open_upload(api)
    put(session["upload_url"])
    response = confirm(api, session["asset_id"], body)
    assert faults_of(assert_error(response, 422, "VALIDATION_ERROR")) == faults
    assert (AssetUpload.objects.count(), Asset.objects.count()) == (1, 0)


@pytest.mark.parametrize(("body", "status"), [(b"", 201), (b"{}", 201), (b'{"folder_id": null}', 201), (b"[]", 400)])
def test_a_confirmation_needs_no_body(api: Api, body: bytes, status: int) -> None:
    session = open_upload(api)
    put(session["upload_url"])
    assert confirm(api, session["asset_id"], body).status_code == status


def test_a_confirmation_may_be_repeated(api: Api) -> None:
    asset = upload(api)
    again = confirm(api, asset["id"], {"folder_id": str(uuid.uuid4())})
    assert (again.status_code, unsigned(again.json())) == (201, unsigned(asset))
    assert (Asset.objects.count(), AssetUpload.objects.count()) == (1, 0)


@pytest.mark.django_db(transaction=True)
def test_of_two_confirmations_at_once_both_answer_the_same_asset(api: Api) -> None:
    session = open_upload(api)
    put(session["upload_url"])
    asset_id = uuid.UUID(session["asset_id"])
    with transaction.atomic():
        first = confirm_upload(organization=api.organization, asset_id=asset_id, folder_id=None)
        twin = InThread(lambda: confirm(api, session["asset_id"])).start()
        wait_until(lambda: lock_waiters() == 1, what="the twin to wait")
        assert not twin.is_done
    assert (twin.result.status_code, twin.result.json()["id"]) == (201, str(first.pk))
    assert Asset.objects.count() == 1


def test_what_is_not_confirmed_is_no_asset_to_anybody(api: Api) -> None:
    session = open_upload(api)
    put(session["upload_url"])
    asset_id = uuid.UUID(session["asset_id"])
    assert_error(api.get(f"/v1/assets/{asset_id}"), 404, "NOT_FOUND")
    assert_error(Client().get(sign_url(asset_id=asset_id)), 404, "NOT_FOUND")
    with pytest.raises(AssetMissing, match=r"^There is no such asset\.$"):
        read_asset(asset_id=asset_id, organization_id=api.organization.pk)


def test_somebody_elses_upload_is_not_confirmed(api: Api) -> None:
    session = open_upload(api)
    put(session["upload_url"])
    assert assert_error(confirm(Api(), session["asset_id"]), 404, "NOT_FOUND") is None
    assert (AssetUpload.objects.count(), Asset.objects.count()) == (1, 0)


def test_session_and_confirmation_happen_once_with_an_idempotency_key(api: Api) -> None:
    sessions = [open_upload(api, Idempotency_Key="one") for _ in range(2)]
    assert sessions[0] == sessions[1]
    put(sessions[0]["upload_url"])
    answers = [confirm(api, sessions[0]["asset_id"], Idempotency_Key="two") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].content == answers[1].content
    assert "Idempotent-Replayed" in answers[1].headers
    assert (Asset.objects.count(), AssetUpload.objects.count(), IdempotencyRecord.objects.count()) == (1, 0, 2)


# --- The quota --------------------------------------------------------------------------------------------------------


def test_uploads_fill_the_quota_to_the_last_byte(api: Api) -> None:
    api.organization.asset_quota_bytes = 12
    api.organization.save()
    upload(api)
    open_upload(api)
    [fault] = assert_error(api.post("/v1/asset-uploads", SESSION | {"size_bytes": 3}), 422, "VALIDATION_ERROR")
    msg = "The organization's quota is 12 bytes, of which 2 are free."
    assert fault == {"loc": ["body", "size_bytes"], "msg": msg, "type": "quota_exceeded"}
    assert (Asset.objects.count(), AssetUpload.objects.count()) == (1, 1)
    assert api.post("/v1/asset-uploads", SESSION | {"size_bytes": 2}).status_code == 201


def test_outputs_and_other_organizations_take_nothing_from_the_quota(api: Api) -> None:
    api.organization.asset_quota_bytes = 5
    api.organization.save()
    upload(Api())
    open_upload(Api())
    Asset.objects.create(organization=api.organization, name="a", storage_key="a", asset_type="file", size_bytes=10**12)
    open_upload(api)


def test_a_purge_gives_the_bytes_back(api: Api) -> None:
    api.organization.asset_quota_bytes = 5
    api.organization.save()
    open_upload(api)
    AssetUpload.objects.update(created_at=timezone.now() - timedelta(days=2))
    assert_error(api.post("/v1/asset-uploads", SESSION), 422, "VALIDATION_ERROR")
    purge_abandoned()
    open_upload(api)


def test_a_quota_of_nothing_takes_nothing(api: Api) -> None:
    api.organization.asset_quota_bytes = 0
    api.organization.save()
    [fault] = assert_error(api.post("/v1/asset-uploads", SESSION | {"size_bytes": 1}), 422, "VALIDATION_ERROR")
    assert fault["msg"] == "The organization's quota is 0 bytes, of which 0 are free."


@pytest.mark.django_db(transaction=True)
def test_two_sessions_at_once_do_not_both_get_the_last_free_bytes() -> None:
    organization = make_organization(asset_quota_bytes=7)
    request = UploadRequest("a.txt", "text/plain", 5)
    with transaction.atomic():
        create_upload(organization=organization, request=request, created_by=None)
        twin = InThread(lambda: create_upload(organization=organization, request=request, created_by=None)).start()
        wait_until(lambda: lock_waiters() == 1 or twin.is_done, what="the twin to wait for the quota")
        assert not twin.is_done
    with pytest.raises(errors.ValidationFailed) as refused:
        _ = twin.result
    assert [fault["type"] for fault in refused.value.errors or []] == ["quota_exceeded"]
    assert AssetUpload.objects.count() == 1


# --- What it costs ----------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_statements_are_few_and_their_number_is_fixed(api: Api, count_queries: Callable[[], Any]) -> None:
    api.get("/v1/assets/x")  # the key's first use of the minute is written down
    with count_queries() as opening:  # key, BEGIN, insert, COMMIT
        session = open_upload(api)
    with count_queries() as putting:  # session, BEGIN, lock, update, COMMIT
        put(session["upload_url"])
    with count_queries() as confirming:  # key, BEGIN, lock, insert, delete, COMMIT
        confirm(api, session["asset_id"])
    with count_queries() as reading:  # key, asset
        api.get(f"/v1/assets/{session['asset_id']}")
    type(api.organization).objects.update(asset_quota_bytes=10)
    with count_queries() as opening_with_a_quota:  # and: lock, sum
        open_upload(api)
    counts = [len(log) for log in (opening, putting, confirming, reading, opening_with_a_quota)]
    assert counts == [4, 5, 6, 2, 6]
