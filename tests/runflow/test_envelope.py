"""What every answer under /v1/ carries, and the envelope of every error, whoever made it (contract.md sections 1 and 2)."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import InterfaceError, OperationalError
from django.test import Client, RequestFactory
from pytest_django import Settings

from runflow.lib import jsonlib
from runflow.wsgi import application
from tests.conftest import Api, Rung
from tests.contract.checks import assert_error, assert_matches, assert_nothing_happened, json_of
from tests.factories import make_batch, make_model

pytestmark = pytest.mark.django_db
SECRET = "secret detail: /srv/app/db.py password=hunter2"
ADDRESSES = [
    ("model-batches", "/v1/models/testing/none/batches", "POST"),
    ("batch", f"/v1/batches/{uuid.uuid4()}", "GET, HEAD"),
    ("batch-items", f"/v1/batches/{uuid.uuid4()}/items", "GET, HEAD"),
    ("batch-item", f"/v1/batches/{uuid.uuid4()}/items/{uuid.uuid4()}", "GET, HEAD"),
    ("run", f"/v1/runs/{uuid.uuid4()}", "GET, HEAD"),
    ("file", f"/v1/files/{uuid.uuid4()}", "GET, HEAD"),
    ("health", "/v1/health", "GET, HEAD"),
]


# --- The request id ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["a", "x" * 128, "!~", "req_1-2.3:4/5"])
def test_callers_request_id_is_kept(given: str) -> None:
    response = Client().get("/v1/health", headers={"X-Request-Id": given})
    assert (response.headers["X-Request-Id"], json_of(response)) == (given, {"status": "ok"})
    assert_matches("Health", response.json())


@pytest.mark.parametrize("given", [None, "", " ", "x" * 129, "two words", "tab\t", "Größe", "\x7f", "a\nb: c"])
def test_other_request_ids_are_replaced_by_a_uuid7_of_ours(given: str | None) -> None:
    response = Client().get("/v1/health", headers={} if given is None else {"X-Request-Id": given})
    assert uuid.UUID(response.headers["X-Request-Id"]).version == 7


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", f"/v1/runs/{uuid.uuid4()}", 401),
        ("DELETE", "/v1/health", 405),
        ("GET", "/nothing", 404),
    ],
)
def test_errors_carry_the_request_id_too(method: str, path: str, status: int) -> None:
    response = Client().generic(method, path, headers={"X-Request-Id": "mine"})
    assert (response.status_code, response.headers["X-Request-Id"]) == (status, "mine")


def test_request_id_of_one_request_does_not_reach_the_next() -> None:
    client = Client()
    client.get("/v1/health", headers={"X-Request-Id": "first"})
    assert client.get("/v1/health").headers["X-Request-Id"] != "first"


def test_the_run_remembers_the_request_that_made_it(api: Api, rung: Rung) -> None:
    created = api.post(f"/v1/models/{make_model()}/batches", {"input": [{}]}, X_Request_Id="order-7")
    run = api.get(f"/v1/runs/{created.json()['items'][0]['run_id']}").json()
    assert run["request_id"] == created.headers["X-Request-Id"] == "order-7"


# --- Addresses and methods --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/v1/",
        "/v1/nothing",
        "/v1/batches/",
        "/v1/batches/x/",
        "/v1/health/",
        "/v1/models/testing",
        "/v1/%00",
        "/v1/%FF",
        "/v1/files/no-uuid",
        "/v1//health",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_unknown_addresses_are_404(api: Api, method: str, path: str) -> None:
    assert assert_error(api.client.generic(method, path, headers=api.headers()), 404, "NOT_FOUND") is None
    assert_error(Client().generic(method, path), 404, "NOT_FOUND")


@pytest.mark.parametrize(("name", "path", "allowed"), ADDRESSES, ids=[name for name, *_ in ADDRESSES])
def test_wrong_methods_are_405_and_told_the_right_ones(api: Api, name: str, path: str, allowed: str) -> None:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"):
        if method in allowed.split(", "):
            continue
        response = api.client.generic(method, path, b"{}", content_type="application/json", headers=api.headers())
        assert assert_error(response, 405, "METHOD_NOT_ALLOWED") is None
        assert response.headers["Allow"] == allowed


def test_head_answers_as_get_without_the_body(api: Api) -> None:
    batch, _ = make_batch(organization=api.organization)
    response = api.client.head(f"/v1/batches/{batch.pk}", headers=api.headers())
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("accept", ["text/html", "application/xml", "*/*;q=0", "garbage", ""])
def test_answers_are_json_whatever_accept_says(api: Api, accept: str) -> None:
    batch, _ = make_batch(organization=api.organization)
    assert json_of(api.get(f"/v1/batches/{batch.pk}", Accept=accept))["id"] == str(batch.pk)
    assert_error(api.get("/v1/nothing", Accept=accept), 404, "NOT_FOUND")


def test_host_that_is_not_ours_is_400(api: Api) -> None:
    assert_error(api.client.get("/v1/health", headers={"Host": "evil.example"}), 400, "BAD_REQUEST")
    assert_error(api.client.get("/v1/health", headers={"Host": "a b"}), 400, "BAD_REQUEST")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("charset", ["utf-8", "latin-1", "idna", "no-such", '"'])
def test_charset_of_the_content_type_changes_nothing(api: Api, rung: Rung, charset: str) -> None:
    assert dry_run(api, charset) == ("200 OK", b'{"valid":true,"items_total":1,"estimated_cost":"0.01"}')


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("charset", ["base64", "zip", "rot13", "undefined", "utf-16"])
def test_charset_that_is_no_encoding_of_text_changes_nothing(api: Api, rung: Rung, charset: str) -> None:
    assert dry_run(api, charset) == ("200 OK", b'{"valid":true,"items_total":1,"estimated_cost":"0.01"}')


def dry_run(api: Api, charset: str) -> tuple[str, bytes]:
    """A dry run through the real WSGI application: Django's test client has a handler of its own."""
    model = make_model(inputs=[{"name": "text", "variable_type_code": "string"}])
    environ = RequestFactory(headers=api.headers()).generic(
        "POST", f"/v1/models/{model}/batches", b'{"input": [{"text": "\xc3\xbc"}]}', content_type="application/json"
    ).environ | {"CONTENT_TYPE": f"application/json; charset={charset}", "QUERY_STRING": "validate_only=true"}
    statuses: list[str] = []

    def start_response(
        status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        statuses.append(status)
        return lambda _: None

    body = b"".join(application(environ, start_response))
    return statuses[0], body


# --- When something breaks --------------------------------------------------------------------------------------------


def breaks(error: BaseException) -> Any:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise error

    return broken


@pytest.mark.parametrize("error", [RuntimeError(SECRET), KeyError(SECRET), RecursionError(SECRET), MemoryError(SECRET)])
@pytest.mark.parametrize(
    "place", ["batches.api.views.create_batch", "batches.api.views.batch_target", "accounts.middleware.find_caller"]
)
@pytest.mark.parametrize("headers", [{}, {"Idempotency_Key": "k"}], ids=["no key", "key"])
def test_unexpected_error_is_500_and_says_nothing_of_the_inside(
    api: Api,
    rung: Rung,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    place: str,
    error: Exception,
    headers: dict[str, str],
) -> None:
    model = make_model()
    monkeypatch.setattr(place, breaks(error))
    response = api.post(f"/v1/models/{model}/batches", {"input": [{}]}, X_Request_Id="find-me", **headers)
    assert assert_error(response, 500, "INTERNAL_ERROR") is None
    assert response.json()["message"] == "Something went wrong on our side. The request id finds the log."
    assert response.headers["X-Request-Id"] == "find-me"
    # The log has it all, once.
    told = [record for record in caplog.records if record.levelno == logging.ERROR and record.exc_info]
    assert [record.exc_info[1] for record in told if record.name.startswith("runflow")] == [error]  # type: ignore[index]
    assert_nothing_happened(rung)


@pytest.mark.parametrize("error", [OperationalError(SECRET), InterfaceError(SECRET)])
@pytest.mark.parametrize("place", ["batches.api.views.batch_target", "accounts.middleware.find_caller"])
def test_database_that_is_away_is_503_with_retry_after(
    api: Api, rung: Rung, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
) -> None:
    monkeypatch.setattr(place, breaks(error))
    response = api.post(f"/v1/models/{make_model()}/batches", {"input": [{}]})
    assert_error(response, 503, "SERVICE_UNAVAILABLE")
    assert (response.headers["Retry-After"], SECRET in response.json()["message"]) == ("5", False)
    assert_nothing_happened(rung)


def test_error_that_names_no_json_text_is_still_json(api: Api, rung: Rung) -> None:
    response = api.post(f"/v1/models/{make_model()}/batches", b'{"input": [{"\\ud800\\u0000": 1}], "\\udfff": 2}')
    errors = assert_error(response, 422, "VALIDATION_ERROR")
    assert [each["loc"] for each in errors] == [["body", "\\udfff"], ["body", "input", 0, "\\ud800\\x00"]]


@pytest.mark.parametrize("length", ["-1", "x", "", "99999999999999999999", "1e3"])
def test_content_length_that_lies_is_never_a_500(api: Api, rung: Rung, length: str) -> None:
    response = api.client.post(
        f"/v1/models/{make_model()}/batches",
        b'{"input": [{}]}',
        content_type="application/json",
        headers=api.headers(),
        CONTENT_LENGTH=length,
    )
    assert response.status_code in (201, 400, 413)
    if response.status_code != 201:
        assert_error(
            response, response.status_code, {400: "BAD_REQUEST", 413: "PAYLOAD_TOO_LARGE"}[response.status_code]
        )


def test_limit_of_the_body_is_a_setting(api: Api, rung: Rung, settings: Settings) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 20
    path = f"/v1/models/{make_model()}/batches"
    assert_error(api.post(path, b'{"input": [{}]}      '), 413, "PAYLOAD_TOO_LARGE")
    assert_nothing_happened(rung)
    assert api.post(path, b'{"input": [{}]}     ').status_code == 201


# --- jsonlib ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[NaN]", "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b"[1e999]", "number out of range: 1e999"),
        (b"[" + b"9" * 400 + b".0]", "number out of range: " + "9" * 40),
        (b"[" + b"9" * 5000 + b"]", "an integer has too many digits"),
        (b"[" * 100_000, "nested too deeply"),
        (b'["\xff"]', "not UTF-8 at byte 2"),
        (b"", "Expecting value: line 1 column 1 (char 0)"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_reasons_of_refused_json_are_written_for_customers(body: bytes, reason: str) -> None:
    with pytest.raises(jsonlib.NotJSON if "char" not in reason else ValueError) as refused:
        jsonlib.loads(body)
    assert str(refused.value) == reason


def test_integers_beyond_64_bits_stay_what_they_are() -> None:
    assert jsonlib.loads(b"[18446744073709551617]") == [2**64 + 1]


def test_what_orjson_cannot_write_is_written_all_the_same() -> None:
    stamp = "2026-01-02T03:04:05.000006+00:00"
    moment = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    some = uuid.uuid4()
    assert jsonlib.dumps({"at": moment, "id": some}) == f'{{"at":"{stamp}","id":"{some}"}}'.encode()
    assert jsonlib.dumps(["\ud800", moment, some, 2**70]) == f'["\\ud800", "{stamp}", "{some}", {2**70}]'.encode()
