"""The check checks: one that finds nothing would make every test's answer right."""

from __future__ import annotations

from typing import Any

import pytest
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.test import Client, RequestFactory

from batches.api.schema import BATCH
from tests.openapi.conformance import fault_of

ID = "01a20c33-30d3-737b-a193-fcc95c0215a8"
PATH = f"/v1/batches/{ID}"
HEADERS = {"X-Request-Id": "a", "ETag": 'W/"a"', "Cache-Control": "private, no-cache", "Vary": "Authorization"}
WHERE = "GET /v1/batches/{batch_id} -> "


def fault(response: HttpResponse, path: str = PATH, method: str = "get") -> str | None:
    return fault_of(RequestFactory().generic(method.upper(), path), response)


def answer(status: int = 200, *, request_id: str | None = "a", **changes: Any) -> HttpResponse:
    headers = {name: value for name, value in HEADERS.items() if name != "X-Request-Id"}
    headers |= {"X-Request-Id": request_id} if request_id is not None else {}
    return JsonResponse(BATCH.example | changes, status=status, headers=headers)


def test_an_answer_as_it_is_declared_has_no_fault() -> None:
    assert fault(answer()) is None


def test_a_member_that_the_document_does_not_name_is_a_fault() -> None:
    assert fault(answer(news=1)) == f"{WHERE}200: $: Additional properties are not allowed ('news' was unexpected)"


def test_a_member_that_is_missing_is_a_fault() -> None:
    body = {name: value for name, value in BATCH.example.items() if name != "cost"}
    assert fault(JsonResponse(body, headers=HEADERS)) == f"{WHERE}200: $: 'cost' is a required property"


def test_a_wrong_value_deep_inside_is_a_fault() -> None:
    items = [BATCH.example["items"][0] | {"status_code": "cancelled"}]
    found = fault(answer(items=items))
    assert found is not None
    assert found.startswith(f"{WHERE}200: $.items[0].status_code: 'cancelled' is not one of")


def test_a_timestamp_that_ends_in_z_is_a_fault() -> None:
    found = fault(answer(created_at="2026-01-02T03:04:05Z"))
    assert found == f"{WHERE}200: $.created_at: '2026-01-02T03:04:05Z' is not a 'date-time'"


def test_a_status_that_is_not_declared_is_a_fault() -> None:
    assert fault(answer(202)) == f"{WHERE}202: the document has no such status"


def test_an_answer_without_its_request_id_is_a_fault() -> None:
    assert fault(answer(request_id=None)) == f"{WHERE}200: without X-Request-Id"


def test_an_answer_of_another_media_type_is_a_fault() -> None:
    response = HttpResponse(b"{}", content_type="text/html; charset=utf-8", headers=HEADERS)
    assert fault(response) == f"{WHERE}200: text/html, not application/json"


def test_an_answer_without_a_header_that_is_promised_is_a_fault() -> None:
    response = answer()
    del response.headers["ETag"]
    assert fault(response) == f"{WHERE}200: without ETag"


def test_a_stream_of_another_media_type_is_a_fault() -> None:
    headers = {"X-Request-Id": "a", "Cache-Control": "private", "Vary": "Authorization"}
    stream = StreamingHttpResponse([b"a"], content_type="application/json", headers=headers)
    found = fault_of(RequestFactory().get(f"{PATH}/events"), stream)
    assert found == "GET /v1/batches/{batch_id}/events -> 200: application/json, not text/event-stream"


def test_a_body_where_there_is_none_is_a_fault() -> None:
    path = f"/v1/callback-secrets/{ID}"
    response = HttpResponse(b"{}", status=204, headers={"X-Request-Id": "a"})
    assert fault(response, path, "delete") == "DELETE /v1/callback-secrets/{secret_id} -> 204: it has a body"


def test_what_only_the_contract_forbids_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if the document said nothing of this shape.
    monkeypatch.setattr("tests.openapi.conformance._validator", lambda *where: None)
    assert fault(answer(cost=0.55)) == f"{WHERE}200: $.cost: 0.55 is not valid under any of the given schemas"


def test_every_test_asks_of_every_answer(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.get("/v1/health").status_code == 200
    monkeypatch.setattr("runflow.lib.views.HealthView.get", lambda self, request: HttpResponse(status=202))
    with pytest.raises(AssertionError, match="GET /v1/health -> 202: the document has no such status"):
        client.get("/v1/health")
